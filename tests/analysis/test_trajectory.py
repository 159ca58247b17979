import io

import numpy as np
import pytest
from scipy import stats

from fade_study import InvalidInputError
from fade_study.analysis import trajectory as figures
from fade_study.statistics import trend as tr

T = np.arange(12)


def drawn(figure):
    """The figure after rendering, which reveals many mistakes."""
    figure.savefig(io.BytesIO(), format="png")
    return figure


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: figures.draw_trajectories([], ["a"]), "got \\[\\]"),
        (lambda: figures.draw_rows([np.zeros((2, 2)), np.zeros((2, 1))], 1, "", ""), r"got \[\(2, 2\), \(2, 1\)\]"),
        (lambda: figures.draw_rows([np.zeros((0, 2))], 1, "", ""), r"got \[\(0, 2\)\]"),
    ],
)
def test_shapes_are_checked(call, said):
    with pytest.raises(InvalidInputError, match=said):
        call()


def test_trend_figure_shows_points_means_and_the_line():
    searches = [([0, 0, 1, 2], [0.1, 0.3, 0.3, 0.4]), ([0, 1, 2, 3], [0.4, 0.5, 0.6, 0.7])]
    figure = drawn(figures.draw_trend(searches))
    points, means, line = figure.axes[0].lines
    assert len(points.get_xdata()) == 8
    np.testing.assert_allclose(means.get_ydata(), [(0.2 + 0.4) / 2, 0.4, 0.5, 0.7], err_msg="by search, then over them")
    slopes = [tr.trend(*search).slope for search in searches]
    assert np.ptp(line.get_ydata()) / 3 == pytest.approx(np.mean(slopes))
    title = figure.get_suptitle().replace("\n", " ")
    assert title.startswith("8 evaluations of 2 searches, mean r = ")
    assert "signs of searches" in title


def test_trend_figure_of_one_search(rng):
    y = rng.normal(size=12)
    figure = drawn(figures.draw_trend([(T, y)]))
    ax = figure.axes[0]
    r, p = stats.pearsonr(T, y)
    assert figure.get_suptitle() == f"accuracy of 12 generations, r = {r:.2f}, p = {p:.2g}"
    sen = stats.theilslopes(y, T)
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), [sen.intercept, sen.intercept + 11 * sen.slope])
    assert "same accuracy" in drawn(figures.draw_trend([(T, np.ones(12))])).get_suptitle()


def test_trajectories_have_a_panel_per_row_and_feature_and_the_mean_of_those_still_there(rng):
    long, short, other = rng.random((5, 3, 2)), rng.random((2, 3, 2)), rng.random((2, 3, 2))
    panels = np.array(drawn(figures.draw_trajectories([long, short, other], ["a_b", "c"])).axes).reshape(4, 2)
    assert [panel.get_title() for panel in panels[0]] == ["a b", "c"]
    lines = panels[1, 0].lines
    np.testing.assert_array_equal(lines[0].get_ydata(), long[:, 1, 0])
    expected = [*((long[:2] + short + other) / 3)[:, 1, 0], *long[2:, 1, 0]]
    np.testing.assert_allclose(lines[-1].get_ydata(), expected)
    np.testing.assert_allclose(panels[3, 1].lines[-1].get_ydata()[2:], long[2:, :, 1].mean(axis=1))


def test_movement_and_coverage_show_the_median_within_view(rng):
    trajectories = [np.cumsum(k * rng.random((6, 2, 3)), axis=0) for k in (1, 2, 9)]
    moves = [tr.movement(one) for one in trajectories]
    axes = drawn(figures.draw_rows(moves, 1, "steps", "distance")).axes
    middle = np.median(moves, axis=0)
    for i, ax in enumerate(axes):
        np.testing.assert_allclose(ax.lines[0].get_ydata(), middle[:, i])
        np.testing.assert_array_equal(ax.lines[0].get_xdata(), [1, 2, 3, 4, 5])
        quartiles = ax.collections[0].get_paths()[0].vertices[:, 1]
        assert quartiles.max() < ax.get_ylim()[1], "the range of the y axis must not be that of the first panel"
    assert not figures.draw_rows(moves[:2], 1, "steps", "distance").axes[0].collections, "no quartiles of two searches"
    shares = [np.linspace(0, 0.1 * k, 4)[:, None] * [1, 5] for k in (1, 2, 3)]
    axes = drawn(figures.draw_rows(shares, 0, "cells", "share")).axes
    np.testing.assert_allclose(axes[1].lines[0].get_ydata(), np.linspace(0, 1, 4))
    assert axes[1].get_ylim()[1] > 1


@pytest.mark.parametrize("seeds", [2, 3])
def test_trend_figure_has_intervals_of_three_seeds_or_more(seeds):
    tests = {0: [0.9, 1.0, 1.0][:seeds], 1: [0.4, 0.5, 0.6][:seeds], 2: [0.0, 0.0, 0.1][:seeds]}
    search = list(tests), [np.mean(values) for values in tests.values()]
    ax = drawn(figures.draw_trend([search], tests=tests)).axes[0]
    spans = [span for bars in ax.collections for span in bars.get_segments()]
    assert len(spans) == (3 if seeds == 3 else 0)
    assert all(((span[:, 1] >= 0) & (span[:, 1] <= 1)).all() for span in spans)
    assert set(ax.get_xticks()) <= set(range(-1, 5)), "generations are integers"


def test_trend_figure_of_three_searches_has_intervals_over_them():
    searches = [([0, 1, 2], [0.1 * k, 0.2 * k, 0.3]) for k in (1, 2, 3)]
    spans = [bars.get_segments()[0] for bars in drawn(figures.draw_trend(searches)).axes[0].collections]
    half = stats.t.ppf(0.975, 2) * 0.2 / 3**0.5
    np.testing.assert_allclose(spans[1][:, 1], [max(0, 0.4 - half), min(1, 0.4 + half)])
