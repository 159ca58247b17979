import itertools

import numpy as np
import pytest
from scipy import stats

from fade_study import InvalidInputError
from fade_study.statistics import trend as tr

T = np.arange(12)
CELLS = [["a", "p"], ["b", "p"], ["b", "q"], ["a", "q"], ["a", "q"]]
"""Row 0 leaves a, stays, and returns to it; row 1 moves once."""


def noise_searches(rng, slope=0.0, searches=10):
    return [(T, slope * T + rng.normal(size=len(T))) for _ in range(searches)]


# trend of one search


def test_trend_of_a_line_is_the_line():
    found = tr.trend(T, 0.5 + 0.02 * T)
    assert found.n == 12
    assert [found.pearson, found.mann_kendall] == pytest.approx([1, 1])
    assert [found.slope, found.slope_low, found.slope_high] == pytest.approx([0.02] * 3)
    assert found.mann_kendall_p == pytest.approx(2 / 479001600), "2 of the 12! orders are as extreme"


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
    assert str(found) == "Test accuracy against generation: the same in all n = 12 evaluations"


def test_intervals_that_do_not_exist_are_none():
    assert tr.trend([0, 1, 2, 3], [1, 2, 4, 3]).slope_low is None, "the range of all slopes is a 92 % interval only"
    assert tr.trend([0, 1, 2, 3, 4], [1, 2, 4, 3, 5]).slope_low is not None
    tied = tr.trend(np.repeat([0, 1, 2], 10), [1.0] * 29 + [2.0])
    assert (tied.slope, tied.slope_low) == (0, None)


@pytest.mark.filterwarnings("error")
def test_trends_are_told_in_words_one_fact_a_line():
    accuracies = [0.2, 0.5, 0.8, 0.7, 0.9]
    assert str(tr.trend([0, 2, 4, 6, 8], accuracies)).splitlines() == [
        "Test accuracy against generation: r = 0.91, p = 0.031, n = 5",
        "In ranks, test accuracy against generation: Kendall's tau = 0.80, p = 0.083, n = 5",
        "Change of test accuracy with each generation: 0.085 [-0.05, 0.15]",
    ]
    assert str(tr.pooled_trend([([0, 2, 4, 6, 8], accuracies), ([0, 1, 2], [0.5] * 3)])).splitlines() == [
        "Test accuracy against generation: mean r = 0.91, n = 8 in 2 searches",
        "Rise of test accuracy in all searches together: p = 1, by the signs of whole searches",
        "Change of test accuracy with each generation: 0.043",
        "Gain from the first third of the evaluations to the last: 0.35",
    ]


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
def test_kendall_statistic_counts_pairs(x, y):
    expected = sum(np.sign(x[j] - x[i]) * np.sign(y[j] - y[i]) for i, j in itertools.combinations(range(6), 2))
    assert tr._kendall(np.array(x), np.array(y)) == expected


def test_p_values_are_about_uniform_without_a_trend(rng):
    p = [tr._signs_p(np.array([tr._kendall(*pair) for pair in noise_searches(rng)]), 0) for _ in range(400)]
    # Kolmogorov's distance exceeds 0.08 in 1 % of cases; a discrete statistic needs a bit more.
    assert stats.kstest(p, "uniform").statistic < 0.1
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.08


def test_drift_is_no_trend(rng):
    walks = [[tr._kendall(T, np.cumsum(rng.normal(size=12))) for _ in range(10)] for _ in range(300)]
    assert np.mean([tr._signs_p(np.array(walk), 0) < 0.05 for walk in walks]) < 0.09


def test_signs_try_all_of_them():
    # 2 of 2^4 sign patterns give as large a sum; 4, if the smallest statistic has the other sign.
    assert tr._signs_p(np.array([5.0, 6.0, 7.0, 8.0]), 0) == pytest.approx(2 / 16)
    assert tr._signs_p(np.array([-1.0, 6.0, 7.0, 8.0]), 0) == pytest.approx(4 / 16)
    assert tr._signs_p(np.array([9.0]), 0) == 1


def test_a_trend_is_found_and_its_interval_holds_it(rng):
    pooled = [tr.pooled_trend(noise_searches(rng, slope=0.1), seed) for seed in range(200)]
    held = np.mean([p.slope.low <= 0.1 <= p.slope.high for p in pooled])
    assert held == pytest.approx(0.95, abs=0.04)
    assert np.mean([p.slope.value for p in pooled]) == pytest.approx(0.1, abs=0.01)
    assert np.mean([p.signs_p < 0.05 for p in pooled]) > 0.8
    # The last and the first third are 8 generations apart.
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
    assert (constant.pearson, constant.slope.value, constant.signs_p) == (None, 0, 1)
    assert "undefined, since no accuracies differ, n = 36 in 3 searches" in str(constant)
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
    ],
)
def test_shapes_are_checked(call, said):
    with pytest.raises(InvalidInputError, match=said):
        call()
