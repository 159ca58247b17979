import io

import numpy as np

from fade_study.analysis.comparison import draw_anytime, draw_finals
from fade_study.analysis.style import BLUE, GREY, RED
from fade_study.statistics.arena import anytime, standings
from tests.conftest import SEARCHERS


def bold(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts() if text.get_fontweight() == "bold"]


def test_finals_are_drawn_best_on_top(finals):
    rows = standings(finals)
    figure = draw_finals(rows[::-1], controls=["tpe"])
    figure.savefig(io.BytesIO(), format="png")
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == [row.searcher for row in rows[::-1]]
    colors = {}
    for points, _, (spans,) in ax.containers:
        for x, y, span in zip(points.get_xdata(), points.get_ydata(), spans.get_segments(), strict=True):
            row = rows[::-1][y]
            assert x == row.final
            np.testing.assert_allclose(span, [[row.low, y], [row.high, y]])
            colors[row.searcher] = points.get_color()
    assert len(colors) == 13
    assert (colors["random"], colors["tpe"], colors["fade pseudo-gradient"]) == (RED, GREY, BLUE)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["searcher", "baseline", "control"]
    dashed = next(line for line in ax.lines if line.get_linestyle() == "--")
    assert dashed.get_xdata()[0] == next(row.final for row in rows if row.searcher == "random")


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
    assert set(lines) == set(SEARCHERS)
    for name, line in lines.items():
        np.testing.assert_allclose(line.get_xdata(), grid[3:] / 1000)
        np.testing.assert_allclose(line.get_ydata(), curves[name][1].mean(axis=0)[3:])
    assert sorted(bold(figure)) == ["random", "tpe"]
    assert len(ax.collections) == 2, "highlighted curves have bands"
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == 13


def test_the_legend_lists_searchers_from_best_to_worst(rng):
    ends = dict(zip(SEARCHERS, 0.5 + 0.3 * rng.random(13), strict=True))
    figure = draw_anytime({name: ([0, 1000], np.full((2, 2), end)) for name, end in ends.items()})
    figure.savefig(io.BytesIO(), format="png")
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == sorted(SEARCHERS, key=lambda name: -ends[name])


def test_intervals_are_accuracies_of_three_seeds_or_more():
    finals = {"random": [0.95, 1.0, 1.0], "tpe": [0.0, 0.1, 0.0]}
    for _, _, (spans,) in draw_finals(standings(finals)).axes[0].containers:
        ends = np.array(spans.get_segments())[..., 0]
        assert ((ends >= 0) & (ends <= 1)).all()
    curves = {name: ([0, 1000], np.array([values, values]).T) for name, values in finals.items()}
    bands = draw_anytime(curves, list(finals)).axes[0].collections
    assert len(bands) == 2
    for band in bands:
        assert ((band.get_paths()[0].vertices[:, 1] >= 0) & (band.get_paths()[0].vertices[:, 1] <= 1)).all()
    two = {name: values[:2] for name, values in finals.items()}
    assert not draw_finals(standings(two)).axes[0].collections
    assert not draw_anytime({name: (x, y[:2]) for name, (x, y) in curves.items()}, list(finals)).axes[0].collections
