import io
import itertools

import numpy as np
import pytest
from scipy import stats

from analysis import trajectory as figures
from fade_study import InvalidInputError
from fade_study.statistics import trend as tr

T = np.arange(12)
CELLS = [["a", "p"], ["b", "p"], ["b", "q"], ["a", "q"], ["a", "q"]]
"""Row 0 leaves a, stays, and returns to it; row 1 moves once."""


def drawn(figure):
    """The figure, rendered: many mistakes show only then."""
    figure.savefig(io.BytesIO(), format="png")
    return figure


def noise_searches(rng, slope=0.0, searches=10):
    return [(T, slope * T + rng.normal(size=len(T))) for _ in range(searches)]


# trend of one search


def test_trend_of_a_line_is_the_line():
    found = tr.trend(T, 0.5 + 0.02 * T)
    assert found.n == 12
    assert [found.pearson, found.mann_kendall] == pytest.approx([1, 1])
    assert [found.slope, found.slope_low, found.slope_high] == pytest.approx([0.02] * 3)
    assert found.mann_kendall_p == pytest.approx(2 / 479001600), "of 12! orders two are as extreme"


def test_slope_is_the_median_of_the_slopes_of_pairs(rng):
    x, y = np.repeat(T, 2), rng.normal(size=24)
    slopes = [(y[j] - y[i]) / (x[j] - x[i]) for i, j in itertools.combinations(range(24), 2) if x[i] != x[j]]
    assert tr.trend(x, y).slope == pytest.approx(np.median(slopes))


def test_one_outlier_moves_pearson_but_not_the_slope():
    y = 0.5 + 0.01 * T
    y[-1] = 0
    found = tr.trend(T, y)
    assert found.pearson < 0
    assert found.slope == pytest.approx(0.01)


def test_interval_of_a_slope_holds_the_true_one(rng):
    found = [tr.trend(T, 0.3 * T + rng.normal(size=12)) for _ in range(300)]
    held = np.mean([one.slope_low <= 0.3 <= one.slope_high for one in found])
    assert 0.91 < held < 0.99


def test_what_equal_accuracies_do_not_define_is_none():
    found = tr.trend(T, np.full(12, 0.9))
    undefined = (found.pearson, found.pearson_p, found.slope_low, found.slope_high, found.mann_kendall)
    assert undefined == (None,) * 5
    assert found.slope == 0
    assert str(found) == "12 evaluations, all of the same accuracy"


def test_intervals_that_do_not_exist_are_none():
    assert tr.trend([0, 1, 2, 3], [1, 2, 4, 3]).slope_low is None, "the range of all slopes holds 92 % only"
    assert tr.trend([0, 1, 2, 3, 4], [1, 2, 4, 3, 5]).slope_low is not None
    tied = tr.trend(np.repeat([0, 1, 2], 10), [1.0] * 29 + [2.0])
    assert (tied.slope, tied.slope_low) == (0, None)


@pytest.mark.filterwarnings("error")
def test_trend_fits_a_line_of_the_terminal():
    text = str(tr.trend([0, 2, 4, 6, 8], [0.2, 0.5, 0.8, 0.7, 0.9]))
    assert text == "5 evaluations: r = 0.91, p = 0.031; slope 0.085 [-0.05, 0.15] per generation; tau = 0.80, p = 0.083"


@pytest.mark.parametrize(
    ("generations", "accuracies", "said"),
    [
        ([0, 1, 2], [0.1, 0.2], r"got \(3,\) and \(2,\)"),
        ([[0, 1, 2]], [[0.1, 0.2, 0.3]], r"got \(1, 3\)"),
        ([0, 1, 2], [0.1, np.nan, 0.3], r"got 1.0, nan at 1; leave"),
        ([0, 1, 1, 0], [0.1, 0.2, 0.3, 0.4], "expected 3 different generations or more.*, got 2"),
        ([], [], "got 0"),
    ],
)
def test_trend_refuses(generations, accuracies, said):
    with pytest.raises(InvalidInputError, match=said):
        tr.trend(generations, accuracies)


def test_pooled_trend_names_the_search_it_refuses():
    with pytest.raises(InvalidInputError, match="of search 1"):
        tr.pooled_trend([(T, T), ([0, 1], [0.1, 0.2])])
    with pytest.raises(InvalidInputError, match="got none"):
        tr.pooled_trend([])


# trend over searches


@pytest.mark.parametrize("x", [[0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 1, 2]])
@pytest.mark.parametrize("y", [[3, 1, 2, 6, 5, 4], [1, 1, 2, 2, 2, 3], [1, 1, 1, 1, 1, 2], [1, 1, 1, 1, 1, 1]])
def test_kendall_statistic_and_its_variance_equal_those_of_all_orders(x, y):
    def statistic(y):
        return sum(np.sign(x[j] - x[i]) * np.sign(y[j] - y[i]) for i, j in itertools.combinations(range(6), 2))

    orders = np.array([statistic(order) for order in itertools.permutations(y)], dtype=float)
    found, variance = tr._kendall(np.array(x, dtype=float), np.array(y, dtype=float))
    assert found == statistic(y)
    assert variance == pytest.approx((orders**2).mean(), abs=1e-12)


def test_pooled_kendall_of_one_search_is_the_asymptotic_test(rng):
    y = T + 8 * rng.normal(size=12)
    statistic, variance = tr._kendall(T.astype(float), y)
    assert variance == 12 * 11 * 29 / 18
    z = (abs(statistic) - 1) / np.sqrt(variance)
    assert tr.pooled_trend([(T, y)]).kendall_p == pytest.approx(2 * stats.norm.sf(z))


def test_ps_are_about_uniform_without_a_trend(rng):
    statistics = [np.array([tr._kendall(*pair) for pair in noise_searches(rng)]).T for _ in range(400)]
    kendall = [tr._normal_p(s.sum(), v.sum()) for s, v in statistics]
    signs = [tr._signs_p(s, 0) for s, _ in statistics]
    for p in (kendall, signs):
        # 0.08: what Kolmogorov's distance exceeds in 1 % of cases; a bit more for the steps of a discrete statistic
        assert stats.kstest(p, "uniform").statistic < 0.1
        assert 0.02 < np.mean(np.array(p) < 0.05) < 0.08


def test_drift_deceives_the_regional_test_but_not_the_signs(rng):
    walks = [[tr._kendall(T, np.cumsum(rng.normal(size=12))) for _ in range(10)] for _ in range(300)]
    sums = [np.array(walk).T for walk in walks]
    assert np.mean([tr._normal_p(s.sum(), v.sum()) < 0.05 for s, v in sums]) > 0.3
    assert np.mean([tr._signs_p(s, 0) < 0.05 for s, _ in sums]) < 0.09


def test_signs_try_all_of_them():
    # the sum is as large for 2 of 2^4 signs; one search of the other sign, the smallest, gives 4
    assert tr._signs_p(np.array([5.0, 6.0, 7.0, 8.0]), 0) == pytest.approx(2 / 16)
    assert tr._signs_p(np.array([-1.0, 6.0, 7.0, 8.0]), 0) == pytest.approx(4 / 16)
    assert tr._signs_p(np.array([9.0]), 0) == 1


def test_a_trend_is_found_and_its_interval_holds_it(rng):
    pooled = [tr.pooled_trend(noise_searches(rng, slope=0.1), seed) for seed in range(200)]
    held = np.mean([p.slope.low <= 0.1 <= p.slope.high for p in pooled])
    assert held == pytest.approx(0.95, abs=0.04)
    assert np.mean([p.slope.value for p in pooled]) == pytest.approx(0.1, abs=0.01)
    assert np.mean([p.kendall_p < 0.05 for p in pooled]) > 0.8
    # last and first third are 8 generations apart
    assert np.mean([p.gain.value for p in pooled]) == pytest.approx(0.8, abs=0.08)


def test_pooled_numbers_are_means_over_searches(rng):
    searches = [*noise_searches(rng, 0.1, 4), ([5, 0, 1, 2, 3, 4], [9.0, 1.0, 2.0, 4.0, 3.0, 5.0])]
    pooled, single = tr.pooled_trend(searches), [tr.trend(*search) for search in searches]
    assert (pooled.searches, pooled.evaluations) == (5, 54)
    assert pooled.pearson.value == pytest.approx(np.mean([one.pearson for one in single]))
    assert pooled.slope.value == pytest.approx(np.mean([one.slope for one in single]))
    gains = [y[-4:].mean() - y[:4].mean() for _, y in searches[:4]] + [(5 + 9) / 2 - (1 + 2) / 2]
    assert pooled.gain.value == pytest.approx(np.mean(gains)), "generations are sorted first"
    assert pooled.gain.low < pooled.gain.value < pooled.gain.high
    assert tr.pooled_trend(searches) == pooled


@pytest.mark.filterwarnings("error")
def test_few_or_equal_searches_have_no_interval(rng):
    two = tr.pooled_trend(noise_searches(rng, searches=2))
    equal = tr.pooled_trend([(T, 0.1 * T)] * 4)
    for pooled in (two, equal):
        assert [mean.low for mean in (pooled.pearson, pooled.slope, pooled.gain)] == [None] * 3
    constant = tr.pooled_trend([(T, np.full(12, 0.9))] * 3)
    assert (constant.pearson, constant.slope.value, constant.kendall_p, constant.signs_p) == (None, 0, 1, 1)
    assert "mean r = undefined" in str(constant)
    mixed = tr.pooled_trend([(T, np.full(12, 0.9)), (T, 0.1 * T)])
    assert [mixed.pearson.value, mixed.slope.value] == pytest.approx([1, 0.05])


# movement


def test_movement_and_snap_distance_by_hand():
    anchors = np.array([[[0, 0], [1, 1]], [[3, 4], [1, 1]], [[3, 3], [1, 0]]], dtype=float)
    np.testing.assert_allclose(tr.movement(anchors), [[5, 0], [1, 1]])
    np.testing.assert_allclose(tr.snap_distance(anchors, anchors + np.array([0.3, 0.4])), np.full((3, 2), 0.5))
    assert tr.movement(anchors[:1]).shape == (0, 2)


def test_straightness_of_line_chainsaw_circle_and_rest():
    t = np.linspace(0, 1, 9)
    still = np.zeros_like(t)
    rows = [(t, 2 * t), (t % 0.25, still), (np.cos(2 * np.pi * t), np.sin(2 * np.pi * t)), (still, still)]
    found = tr.straightness(np.array(rows).transpose(2, 0, 1))
    np.testing.assert_allclose(found, [1, 0, 0, np.nan], atol=1e-12)
    corner = np.array([[[0, 0]], [[1, 0]], [[1, 1]]])
    np.testing.assert_allclose(tr.straightness(corner), [np.sqrt(2) / 2])


def test_moves_and_returns():
    assert tr.moved(CELLS).tolist() == [[True, False], [False, True], [True, False], [False, False]]
    assert np.argwhere(tr.revisited(CELLS)).tolist() == [[3, 0]]


def test_moves_and_returns_equal_brute_force(rng):
    cells = rng.integers(4, size=(30, 3)).astype(str)
    column = [cells[:, i].tolist() for i in range(3)]
    expected = [[t > 0 and c[t] != c[t - 1] and c[t] in c[:t] for c in column] for t in range(30)]
    assert tr.revisited(cells).tolist() == expected
    assert tr.moved(cells.tolist()).tolist() == [[c[t] != c[t - 1] for c in column] for t in range(1, 30)]


def test_coverage_equals_sets(rng):
    cells = rng.integers(40, size=(15, 3, 5)).astype(str)
    expected = [[len(set(cells[: t + 1, i].ravel())) / 40 for i in range(3)] for t in range(15)]
    np.testing.assert_allclose(tr.coverage(cells, 40), expected)
    with pytest.raises(InvalidInputError, match=r"got 10; give len\(space\)"):
        tr.coverage(cells, 10)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: tr.movement(np.zeros((3, 2))), r"\(T, d, f\), got shape \(3, 2\)"),
        (lambda: tr.movement(np.full((3, 2, 1), np.nan)), "finite"),
        (lambda: tr.snap_distance(np.zeros((3, 2, 1)), np.zeros((3, 2, 2))), "one shape"),
        (lambda: tr.moved([["a", "b"], ["a"]]), r"keys of cells \(T, d\), got \(2,\)"),
        (lambda: tr.coverage([["a", "b"]], 3), r"keys of cells \(T, d, w\), got \(1, 2\)"),
        (lambda: figures.draw_trajectories([], ["a"]), "got \\[\\]"),
        (lambda: figures.draw_movement([np.zeros((3, 2, 1)), np.zeros((3, 1, 1))]), r"got \[\(2, 2\), \(2, 1\)\]"),
        (lambda: figures.draw_movement([np.zeros((1, 2, 1))]), r"got \[\(0, 2\)\]"),
    ],
)
def test_shapes_are_checked(call, said):
    with pytest.raises(InvalidInputError, match=said):
        call()


# figures


def test_trend_figure_shows_points_means_and_the_line():
    searches = [([0, 0, 1, 2], [0.1, 0.3, 0.3, 0.4]), ([0, 1, 2, 3], [0.4, 0.5, 0.6, 0.7])]
    ax = drawn(figures.draw_trend(searches)).axes[0]
    points, means, line = ax.lines
    assert len(points.get_xdata()) == 8
    np.testing.assert_allclose(means.get_ydata(), [(0.2 + 0.4) / 2, 0.4, 0.5, 0.7], err_msg="by search, then over them")
    slopes = [tr.trend(*search).slope for search in searches]
    assert np.ptp(line.get_ydata()) / 3 == pytest.approx(np.mean(slopes))
    assert ax.get_title().startswith("8 evaluations of 2 searches, mean r = ")
    assert "signs of searches" in ax.get_title()


def test_trend_figure_of_one_search(rng):
    y = rng.normal(size=12)
    ax = drawn(figures.draw_trend([(T, y)])).axes[0]
    r, p = stats.pearsonr(T, y)
    assert ax.get_title() == f"12 evaluations of 1 search\nr = {r:.2f}, p = {p:.2g}"
    sen = stats.theilslopes(y, T)
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), [sen.intercept, sen.intercept + 11 * sen.slope])
    assert "same accuracy" in drawn(figures.draw_trend([(T, np.ones(12))])).axes[0].get_title()


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
    axes = drawn(figures.draw_movement(trajectories)).axes
    middle = np.median([tr.movement(one) for one in trajectories], axis=0)
    for i, ax in enumerate(axes):
        np.testing.assert_allclose(ax.lines[0].get_ydata(), middle[:, i])
        np.testing.assert_array_equal(ax.lines[0].get_xdata(), [1, 2, 3, 4, 5])
        quartiles = ax.collections[0].get_paths()[0].vertices[:, 1]
        assert quartiles.max() < ax.get_ylim()[1], "a panel must not be cut to the range of the first"
    shares = [np.linspace(0, 0.1 * k, 4)[:, None] * [1, 5] for k in (1, 2, 3)]
    axes = drawn(figures.draw_coverage(shares)).axes
    np.testing.assert_allclose(axes[1].lines[0].get_ydata(), np.linspace(0, 1, 4))
    assert axes[1].get_ylim()[1] > 1
