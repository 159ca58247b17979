import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fade_study.statistics import resampling
from fade_study.statistics.ranks import (
    coefficient,
    independence_audit,
    mean_estimate,
    noise_ceiling,
    partial_spearman,
    rank_report,
    reliability,
    repetition_curve,
    spearman,
)

QUICK = {"resamples": 100, "seed": 0}


def simulated(n, seeds, noise, error, rng):
    """Scores and accuracies of n architectures whose quality is normally distributed."""
    quality = rng.normal(size=n)
    return quality + error * rng.normal(size=n), quality[:, None] + noise * rng.normal(size=(n, seeds))


def test_coefficients_are_those_of_scipy(rng):
    x, y = simulated(40, 3, 1.0, 1.0, rng)
    x = x.round()  # with ties
    report = rank_report(x, y, **QUICK)
    assert report.spearman.value == pytest.approx(stats.spearmanr(x, y.mean(axis=1)).statistic)
    assert report.kendall.value == pytest.approx(stats.kendalltau(x, y.mean(axis=1)).statistic)
    assert report.spearman.p == pytest.approx(stats.spearmanr(x, y.mean(axis=1)).pvalue, abs=0.03)
    assert report.spearman.low < report.spearman.value < report.spearman.high
    assert rank_report(-x, y, **QUICK).spearman.value == pytest.approx(-report.spearman.value)
    assert report == rank_report(x, y, **QUICK)


def test_a_permutation_p_of_few_architectures_is_exact():
    # Only 2 of the 24 orders of four are as extreme: this one and its reverse.
    assert spearman([1, 2, 3, 4], [1, 2, 3, 4], **QUICK).p == pytest.approx(2 / 24)


def test_a_perfect_predictor_and_its_opposite():
    y = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    report = rank_report(y, y, top=(1, 2), **QUICK)
    assert report.precision == {1: 1, 2: 1}
    assert report.best_rank == {1: 1, 2: 1}
    assert report.regret == {1: 0, 2: 0}
    report = rank_report(-y, y, top=(1, 2), **QUICK)
    assert report.precision == {1: 0, 2: 0}
    assert report.best_rank == {1: 6, 2: 5}
    assert report.regret[1] == pytest.approx((0.6 - 0.1) / (0.6 - 0.35))
    assert report.regret[2] == pytest.approx((0.6 - 0.2) / (0.6 - 0.35))


@settings(deadline=None, max_examples=40)
@given(
    scores=st.lists(st.integers(0, 2), min_size=4, max_size=6),
    accuracies=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    k=st.integers(1, 4),
)
def test_top_k_of_tied_scores_is_the_mean_over_all_ways_to_break_ties(scores, accuracies, k):
    accuracies = accuracies[: len(scores)]
    if len(set(scores)) == 1 or len(set(accuracies)) == 1:
        return
    report = rank_report(scores, accuracies, top=(k,), resamples=4)
    n, values = len(scores), np.array(accuracies, dtype=float)
    ranks = stats.rankdata(-values, method="min")

    def tops(of):
        """Sets of the indices of the k best, one for each way to break ties."""
        orders = itertools.permutations(range(n))
        return [set(order[:k]) for order in orders if all(of[a] >= of[b] for a, b in itertools.pairwise(order))]

    predicted, true = tops(scores), tops(accuracies)
    precision = np.mean([len(a & b) / k for a in predicted for b in true])
    best_rank = np.mean([min(ranks[i] for i in top) for top in predicted])
    best = np.mean([max(values[i] for i in top) for top in predicted])
    assert report.precision[k] == pytest.approx(precision)
    assert report.best_rank[k] == pytest.approx(best_rank)
    assert report.regret[k] == pytest.approx((values.max() - best) / (values.max() - values.mean()))


@pytest.mark.parametrize(("n", "seeds", "noise"), [(2000, 2, 1.0), (2000, 5, 0.5)])
def test_the_ceiling_is_what_the_true_order_reaches(n, seeds, noise, rng):
    quality, y = simulated(n, seeds, noise, 0.0, rng)
    reached = stats.spearmanr(quality, y.mean(axis=1)).statistic
    assert noise_ceiling(y) == pytest.approx(reached, abs=0.02)
    other = quality[:, None] + noise * rng.normal(size=(n, seeds))
    assert reliability(y) == pytest.approx(stats.spearmanr(y.mean(axis=1), other.mean(axis=1)).statistic, abs=0.05)
    report = rank_report(quality, y, **QUICK)
    assert report.relative == pytest.approx(1, abs=0.03)


def test_intervals_hold_the_coefficient_of_many_architectures_as_often_as_they_say(rng, monkeypatch):
    monkeypatch.setattr(resampling, "PERMUTATIONS", 1)  # p-values are not looked at
    x, y = simulated(100_000, 2, 1.0, 0.5, rng)
    true = stats.spearmanr(x, y.mean(axis=1)).statistic
    draws = [simulated(40, 2, 1.0, 0.5, rng) for _ in range(200)]
    intervals = [spearman(x, y, resamples=200) for x, y in draws]
    assert np.mean([interval.low <= true <= interval.high for interval in intervals]) == pytest.approx(0.95, abs=0.05)


def test_replicates_widen_the_interval_and_leave_the_coefficient(rng):
    x, y = simulated(300, 4, 0.5, 0.3, rng)
    plain = spearman(x, y)
    repetitions = x + rng.normal(size=(8, 300))
    drawn = np.stack([repetitions[rng.integers(8, size=8)].mean(axis=0) for _ in range(500)])
    noisy = spearman(x, y, replicates=drawn)
    assert noisy.value == plain.value
    assert noisy.high - noisy.low > plain.high - plain.low
    assert noisy.low < noisy.value < noisy.high


def test_scores_that_factorise_are_tested_by_permuting_cells(rng, monkeypatch):
    """5 % of random alphas are significant. Permuting architectures, which share cells, would find far more."""
    monkeypatch.setattr(resampling, "PERMUTATIONS", 99)
    paths = np.array(list(itertools.product(range(4), repeat=3)))
    truth = rng.normal(size=(3, 4))[np.arange(3), paths].sum(axis=1) + 0.1 * rng.normal(size=64)
    significant = {"permuted": 0, "free": 0}
    for _ in range(100):
        alpha = rng.normal(size=(3, 4))
        orders = rng.permuted(np.broadcast_to(np.arange(4), (99, 3, 4)), axis=2)
        permuted = np.stack([np.take_along_axis(alpha, o, axis=1)[np.arange(3), paths].sum(axis=1) for o in orders])
        scores = alpha[np.arange(3), paths].sum(axis=1)
        significant["permuted"] += spearman(scores, truth, permuted=permuted, resamples=2).p <= 0.05
        significant["free"] += spearman(scores, truth, resamples=2).p <= 0.05
    assert significant["permuted"] <= 12
    assert significant["free"] >= 30


def test_one_seed_gives_no_ceiling_and_says_so(rng):
    x, y = simulated(20, 1, 0.5, 0.5, rng)
    report = rank_report(x, y, **QUICK)
    assert report.ceiling is report.relative is report.reliability is None
    assert "One seed" in str(report)
    with pytest.raises(ValueError, match="2 seeds or more"):
        reliability(y)


def test_seeds_that_do_not_agree_give_no_ceiling():
    y = np.array([[1.0, 4], [2, 3], [3, 2], [4, 1.5]])
    report = rank_report([1, 2, 3, 4], y, **QUICK)
    assert report.ceiling is None
    assert "do not agree" in str(report)


def test_more_seeds_raise_the_ceiling(rng):
    """The ceiling rises to the value that the Spearman–Brown formula predicts from two seeds."""
    quality, y = simulated(3000, 2, 1.0, 0.0, rng)
    single = reliability(y) / (2 - reliability(y))
    more = quality[:, None] + rng.normal(size=(3000, 10))
    assert noise_ceiling(more) == pytest.approx(math.sqrt(10 * single / (1 + 9 * single)), abs=0.01)


def test_the_mean_over_hyper_architectures_holds_their_choice(rng):
    """The interval is Student's: narrow if the coefficients are alike, and wide if they are not."""

    def estimate(rho, seed):
        x = rng.normal(size=200)
        y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=200)
        return spearman(x, y, resamples=500, seed=seed)

    alike = [estimate(0.6, seed) for seed in range(4)]
    mean = mean_estimate(alike)
    values = [one.value for one in alike]
    assert mean.value == pytest.approx(np.mean(values))
    half = stats.t.ppf(0.975, 3) * np.std(values, ddof=1) / 2
    assert (mean.low, mean.high) == pytest.approx((mean.value - half, mean.value + half))
    assert mean.p == pytest.approx(1 / 501)
    different = mean_estimate([estimate(0.9, 1), estimate(-0.1, 2)])
    assert (different.low, different.high) == (-1, 1)
    assert mean_estimate(alike[:1]) is alike[0]
    nothing = mean_estimate([estimate(0.0, seed) for seed in range(5)])
    assert nothing.p > 0.01


def test_what_covariates_explain_is_taken_out(rng):
    size = rng.integers(5, size=400)
    y = size + 0.3 * rng.normal(size=400)
    x = size + 0.3 * rng.normal(size=400)
    assert spearman(x, y, **QUICK).value > 0.9
    estimate = partial_spearman(x, y, np.column_stack([size, np.ones(400)]), **QUICK)
    assert abs(estimate.value) < 0.15
    assert estimate.low < 0 < estimate.high
    unrelated = partial_spearman(x, y, np.ones((400, 1)), **QUICK)
    assert unrelated.value == pytest.approx(spearman(x, y, **QUICK).value)
    assert partial_spearman(size, y, size, **QUICK) is None


def test_partial_spearman_of_three_variables_is_the_textbook_formula(rng):
    x, y, z = rng.normal(size=(3, 50)) + rng.normal(size=50)
    a, b, c = (stats.spearmanr(p, q).statistic for p, q in ((x, y), (x, z), (y, z)))
    expected = (a - b * c) / math.sqrt((1 - b**2) * (1 - c**2))
    assert partial_spearman(x, y, z, **QUICK).value == pytest.approx(expected)


def test_the_audit_tells_sums_from_interactions(rng):
    paths = np.array(list(itertools.product(range(3), repeat=3)))
    effects = rng.normal(size=(3, 3))
    sums = effects[np.arange(3), paths].sum(axis=1)
    audit = independence_audit(sums, paths)
    assert audit.additive_r2 == pytest.approx(1)
    assert audit.additive_spearman == pytest.approx(1)
    products = sums + 3 * (paths[:, 0] == paths[:, 1])
    audit = independence_audit(products, paths)
    assert audit.additive_r2 < 0.9
    assert audit.additive_spearman < 1
    noise = independence_audit(rng.normal(size=(27, 2)), paths)
    assert abs(noise.additive_r2) < 0.5


def test_leave_one_out_predictions_are_those_of_models_fitted_without(rng):
    paths = rng.integers(3, size=(20, 2))
    y = rng.normal(size=20)
    basis = np.column_stack([np.ones(20), *[(paths[:, [i]] == [1, 2]).astype(float) for i in range(2)]])
    left = [basis[i] @ np.linalg.lstsq(np.delete(basis, i, 0), np.delete(y, i), rcond=None)[0] for i in range(20)]
    assert independence_audit(y, paths).additive_spearman == pytest.approx(stats.spearmanr(left, y).statistic)


def test_too_few_architectures_for_an_audit(rng):
    paths = np.array(list(itertools.product(range(3), repeat=3)))
    with pytest.raises(ValueError, match="architectures or more to fit"):
        independence_audit(rng.normal(size=5), paths[[0, 4, 9, 13, 26]])


@pytest.mark.parametrize(
    ("scores", "accuracies", "message"),
    [
        ([1, 2, 3], [1, 2, 3], "4 architectures or more"),
        ([1, 2, 3, 4], [1, 2, 3], "same architectures, in the same order"),
        ([[1, 2, 3, 4]], [1, 2, 3, 4], "same architectures, in the same order"),
        ([1, 1, 1, 1], [1, 2, 3, 4], "scores that differ"),
        ([1, 2, 3, 4], [1, 1, 1, 1], "mean accuracies that differ"),
        ([1, 2, math.nan, 4], [1, 2, 3, 4], r"finite scores, got nan at \[2\]"),
        ([1, 2, 3, 4], [[1, 2], [3, math.inf], [5, 6], [7, 8]], r"finite accuracies, got inf at \[1, 1\]"),
    ],
)
def test_what_cannot_be_compared_is_refused(scores, accuracies, message):
    for function in (rank_report, spearman):
        with pytest.raises(ValueError, match=message):
            function(scores, accuracies)


def test_a_seed_with_which_all_are_equal_gives_no_ceiling():
    report = rank_report([1, 2, 3, 4], [[1, 0], [2, 0], [4, 0], [3, 0]], **QUICK)
    assert (report.reliability, report.ceiling) == (0, None)


def test_what_an_audit_or_a_reliability_cannot_use_is_refused(rng):
    paths = np.array(list(itertools.product(range(2), repeat=4)))
    with pytest.raises(ValueError, match=r"paths \(16, d\)"):
        independence_audit(rng.normal(size=16), paths[:8])
    with pytest.raises(ValueError, match="accuracies that differ"):
        independence_audit(np.ones(16), paths)
    with pytest.raises(ValueError, match=r"accuracies \(n, S\)"):
        reliability(np.ones((2, 2, 2)))
    with pytest.raises(ValueError, match=r"covariates \(5, c\)"):
        partial_spearman([1, 2, 3, 4, 5], [2, 1, 3, 4, 5], np.ones((2, 5)))


def test_a_constant_has_no_coefficient():
    assert np.isnan(coefficient(np.ones(3), np.arange(3.0)))


def test_more_repetitions_rank_better(rng):
    quality = rng.normal(size=60)
    scores = quality + rng.normal(size=(5, 60))
    curve = repetition_curve(lambda draw: coefficient(scores[list(draw)].mean(axis=0), quality), len(scores))
    assert curve.x.tolist() == [1, 2, 3, 4, 5]
    assert curve.median[-1] > curve.median[0]
    assert curve.low[-1] == curve.high[-1], "there is only one way to draw all of them"
    assert curve.low[0] < curve.median[0] < curve.high[0]


def test_replicates_of_other_architectures_are_refused():
    with pytest.raises(ValueError, match=r"shape \(B, 4\)"):
        spearman([1, 2, 3, 4], [1, 2, 3, 4], replicates=np.ones((3, 5)))
