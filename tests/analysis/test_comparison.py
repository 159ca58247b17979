import io
import itertools

import numpy as np
import pytest
from matplotlib.text import Text

from analysis.comparison import draw_anytime, draw_finals
from fade_study import InvalidInputError
from fade_study.statistics.arena import anytime, standings

NAMES = ["random", "fade pseudo-gradient", "tpe", *(f"another searcher {k}" for k in range(10))]


@pytest.fixture
def finals(rng):
    """13 searchers of different strength, 10 seeds of different luck."""
    luck = 0.01 * rng.normal(size=10)
    return {name: 0.9 + 0.002 * k + luck + 0.004 * rng.normal(size=10) for k, name in enumerate(NAMES)}


def bold(figure):
    return [text.get_text() for text in figure.axes[0].texts if text.get_fontweight() == "bold"]


def test_finals_are_drawn_best_on_top(finals):
    rows = standings(finals)
    figure = draw_finals(rows[::-1], controls=["tpe"])
    figure.savefig(io.BytesIO(), format="png")
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == [row.searcher for row in rows[::-1]]
    points = [line for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_allclose([line.get_xdata()[0] for line in points], [row.final for row in rows[::-1]])
    spans = [line.get_xdata() for line in ax.lines if line.get_marker() != "o" and line.get_linestyle() == "-"]
    np.testing.assert_allclose(spans, [[row.low, row.high] for row in rows[::-1]])
    colors = {row.searcher: line.get_color() for row, line in zip(rows[::-1], points, strict=True)}
    assert (colors["random"], colors["tpe"], colors["fade pseudo-gradient"]) == ("C1", "C7", "C0")
    dashed = next(line for line in ax.lines if line.get_linestyle() == "--")
    assert dashed.get_xdata()[0] == next(row.final for row in rows if row.searcher == "random")
    with pytest.raises(InvalidInputError, match="'nobody'"):
        draw_finals(rows, baseline="nobody")


def test_anytime_curves_are_drawn_from_where_all_have_begun(finals):
    grid = np.linspace(0, 40_000, 41)
    curves = {}
    for name, values in finals.items():
        runs = [(grid[1 + s % 3 :], value - 0.5 * np.exp(-grid[1 + s % 3 :] / 4000)) for s, value in enumerate(values)]
        curves[name] = grid, anytime(runs, grid)
    figure = draw_anytime(curves, ["tpe", "random"], ylabel="of the anchor")
    figure.savefig(io.BytesIO(), format="png")
    ax = figure.axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("training steps (thousands)", "of the anchor")
    lines = {line.get_label(): line for line in ax.lines}
    assert set(lines) == set(NAMES)
    for name, line in lines.items():
        np.testing.assert_allclose(line.get_xdata(), grid[3:] / 1000)
        np.testing.assert_allclose(line.get_ydata(), curves[name][1].mean(axis=0)[3:])
    assert sorted(bold(figure)) == ["random", "tpe"]
    assert len(ax.collections) == 2, "bands of the highlighted"
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == 13


@pytest.mark.parametrize("spread", [0, 1e-4, 0.3])
def test_labels_neither_overlap_nor_change_the_order_of_ends(rng, spread):
    ends = 0.5 + spread * rng.random(13)
    curves = {name: ([0, 1000], np.full((2, 2), end)) for name, end in zip(NAMES, ends, strict=True)}
    figure = draw_anytime(curves)
    figure.savefig(io.BytesIO(), format="png")
    texts = figure.axes[0].texts
    boxes = sorted((box.y0, box.y1) for box in map(text_box, texts))
    assert all(below[1] <= above[0] for below, above in itertools.pairwise(boxes))
    assert 0 <= boxes[0][0] < boxes[-1][1] <= figure.bbox.height
    if spread:
        heights = {text.get_text(): text.get_position()[1] for text in texts}
        assert sorted(NAMES, key=heights.get) == sorted(NAMES, key=dict(zip(NAMES, ends, strict=True)).get)


def text_box(text):
    """Of the text alone, without the line that leads to it."""
    return Text.get_window_extent(text)


def test_curves_that_cannot_be_drawn_are_refused():
    with pytest.raises(InvalidInputError, match="of late have a value"):
        draw_anytime({"late": ([0, 1], np.array([[np.nan, np.nan], [0.1, 0.2]]))})
    with pytest.raises(InvalidInputError, match="values \\(S, G\\) of flat"):
        draw_anytime({"flat": ([0, 1], np.array([0.1, 0.2]))})
