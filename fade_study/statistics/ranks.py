"""How well scores predict from-scratch accuracies (section 3.1), and how certain that is.

The ground truth is noisy, because the accuracy of an architecture depends on the seed of its training. Accuracies are
therefore given for each seed, ``(n, S)``. Coefficients compare scores with mean accuracies. Intervals cover the choice
of architectures together with the noise of their seeds, and also the predictor's own noise if its repetitions are
given. The *noise ceiling* is the coefficient that a perfect predictor would reach.

All of this holds for architectures of one hyper-architecture, which share their cells; other cells may give other
results. Scores that factorize over rows have few degrees of freedom, however many architectures are scored. To test
whether such scores know anything, permute the cells within rows (``permuted``), not the architectures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fade_study.arrays import to_array
from fade_study.exceptions import InvalidInputError
from fade_study.seeding import REPETITION_CURVE
from fade_study.statistics.resampling import Estimate, Resamples, correlation, mean_estimate

__all__ = [
    "FEWEST",
    "Audit",
    "Curve",
    "Estimate",
    "RankReport",
    "coefficient",
    "independence_audit",
    "mean_estimate",
    "noise_ceiling",
    "partial_spearman",
    "rank_report",
    "reliability",
    "repetition_curve",
    "spearman",
]

FEWEST = 4
"""Smallest number of architectures; fewer give no interval that means anything."""
CURVE_DRAWS = 50
"""Number of draws of repetitions for each point of a curve."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RankReport:
    """How well scores predict accuracies. Values that cannot be computed are None, and ``notes`` give the reason."""

    architectures: int
    seeds: int
    spearman: Estimate
    kendall: Estimate
    """Kendall's tau-b. Its p-value is SciPy's, which permutes architectures: exact for few without ties, else
    asymptotic."""
    precision: Mapping[int, float]
    """By k: share of the k best architectures that are among the k with the highest scores."""
    best_rank: Mapping[int, float]
    """By k: true rank, from 1, of the best architecture among the k with the highest scores."""
    regret: Mapping[int, float]
    """By k: accuracy lost by training only the k architectures with the highest scores, as a share of the difference
    between the best and the mean accuracy: 0 if the best is among them, 1 if they are no better than the mean."""
    reliability: float | None
    """Expected rank correlation between these mean accuracies and those from as many other seeds."""
    ceiling: float | None
    """Spearman coefficient that a perfect predictor would reach."""
    relative: float | None
    """Spearman coefficient as a share of the ceiling."""
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.architectures} architectures × {self.seeds} seeds",
            f"Spearman   {self.spearman}",
            f"Kendall    {self.kendall}",
        ]
        if self.ceiling is not None:
            trust = f"(reliability {self.reliability:.2f}), of which {self.relative:.0%} are reached"
            lines.append(f"ceiling    {self.ceiling:.2f} {trust}")
        for k, precision in self.precision.items():
            rank, regret = self.best_rank[k], self.regret[k]
            lines.append(f"top {k:<6} precision {precision:.2f}, best true rank {rank:.1f}, regret {regret:.2f}")
        return "\n".join([*lines, *self.notes])


def rank_report(
    scores: ArrayLike,
    accuracies: ArrayLike,
    *,
    top: Sequence[int] = (1, 5, 10),
    replicates: ArrayLike | None = None,
    permuted: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> RankReport:
    """Compare scores with from-scratch accuracies.

    Args:
        scores: Scores ``(n,)``, higher is better; only their order matters.
        accuracies: Accuracies ``(n, S)`` for S seeds, or ``(n,)`` for one.
        top: Values of k for precision, best rank and regret; those above n are skipped. The report gives expectations
            over all ways to break ties among scores.
        replicates: Scores ``(B, n)`` from resampled repetitions of the predictor, so that intervals cover its own
            noise, too. If B is less than ``resamples``, they are used in turn.
        permuted: Scores ``(K, n)`` under permutations that would make no difference if the predictor knew nothing. By
            default, architectures are permuted.
        resamples: Number of bootstrap resamples.
        seed: Seed for bootstrap and permutations.

    Raises:
        InvalidInputError: (a ``ValueError``) for fewer than 4 architectures, lengths that differ, NaN or infinities,
            and constant scores or accuracies.
    """
    x, y = _checked(scores, accuracies)
    mean = y.mean(axis=1)
    n, seeds = y.shape
    drawn = Resamples(x, mean, replicates, resamples, seed)
    rho = _spearman(x, mean, drawn, permuted)
    trust = ceiling = None
    notes: list[str] = []
    if seeds == 1:
        notes.append("One seed per architecture: its noise is unknown, so there is no ceiling.")
    else:
        trust, ceiling = reliability(y), noise_ceiling(y)
        if ceiling is None:
            notes.append("Accuracies of different seeds do not agree: there is no ceiling, and nothing to predict.")
    ks = [k for k in top if 1 <= k <= n]
    ranks = stats.rankdata(-mean, method="min").astype(float)
    best, average = float(mean.max()), float(mean.mean())
    return RankReport(
        architectures=n,
        seeds=seeds,
        spearman=rho,
        kendall=_kendall(x, mean, drawn),
        precision={k: float((_membership(x, k) * _membership(mean, k)).sum() / k) for k in ks},
        best_rank={k: -_expected_best(x, -ranks, k) for k in ks},
        regret={k: (best - _expected_best(x, mean, k)) / (best - average) for k in ks},
        reliability=trust,
        ceiling=ceiling,
        relative=None if ceiling is None else rho.value / ceiling,
        notes=tuple(notes),
    )


def spearman(
    scores: ArrayLike,
    accuracies: ArrayLike,
    *,
    replicates: ArrayLike | None = None,
    permuted: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Spearman's coefficient of scores and mean accuracies, with a bootstrap interval.

    Architectures are resampled with all their seeds, so that the noise of the seeds comes with them. Resampling seeds,
    too, would count their noise twice and bias coefficients down; correcting for it did not improve the intervals.
    Repetitions of a predictor are common to all architectures, so they are resampled as well, and the percentiles are
    shifted until their median is the coefficient.

    Args:
        scores: Scores ``(n,)``.
        accuracies: Accuracies ``(n, S)`` or ``(n,)``.
        replicates: As in :func:`rank_report`.
        permuted: As in :func:`rank_report`.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap and the permutations.
    """
    x, y = _checked(scores, accuracies)
    mean = y.mean(axis=1)
    return _spearman(x, mean, Resamples(x, mean, replicates, resamples, seed), permuted)


def partial_spearman(
    scores: ArrayLike,
    accuracies: ArrayLike,
    covariates: ArrayLike,
    *,
    replicates: ArrayLike | None = None,
    permuted: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate | None:
    """Partial Spearman coefficient of scores and mean accuracies, given covariates.

    It is the correlation of the residuals of the ranks after a regression on the ranks of the covariates.

    Args:
        scores: Scores ``(n,)``.
        accuracies: Accuracies ``(n, S)`` or ``(n,)``.
        covariates: Covariates ``(n, c)``, such as the number of operations; constant ones have no effect.
        replicates: As in :func:`rank_report`.
        permuted: As in :func:`rank_report`; by default, the residuals of the scores are permuted (Kennedy, 1995).
        resamples: Number of bootstrap resamples, as in :func:`spearman`.
        seed: Seed of the bootstrap and the permutations.

    Returns:
        The estimate, or None if the covariates explain all scores or all accuracies.
    """
    x, y = _checked(scores, accuracies)
    mean = y.mean(axis=1)
    z = np.asarray(covariates, dtype=float)
    z = z[:, None] if z.ndim == 1 else z
    if z.ndim != 2 or len(z) != len(x) or not np.isfinite(z).all():
        raise InvalidInputError(
            f"expected finite covariates ({len(x)}, c), got {np.shape(covariates)}; one row for each architecture"
        )

    def residuals(values: Array, z: Array) -> Array:
        """Residuals of the ranks of values ``(..., n)``."""
        basis = np.column_stack([np.ones(len(z)), stats.rankdata(z, axis=0)])
        ranks = stats.rankdata(values, axis=-1).T
        return (ranks - basis @ np.linalg.lstsq(basis, ranks, rcond=None)[0]).T

    left, right = residuals(x, z), residuals(mean, z)
    if min(np.ptp(left), np.ptp(right)) < 1e-9 * len(x):
        return None
    resampled = Resamples(x, mean, replicates, resamples, seed)
    drawn = [
        correlation(residuals(a, z[index]), residuals(b, z[index]))
        for a, b, index in zip(resampled.scores, resampled.accuracies, resampled.index, strict=True)
    ]
    null = None if permuted is None else correlation(residuals(np.asarray(permuted, dtype=float), z), right)
    return resampled.estimate(float(correlation(left, right)), np.array(drawn), left, right, null)


def coefficient(scores: ArrayLike, accuracies: ArrayLike) -> float:
    """Spearman's coefficient of ``(n,)`` and ``(n,)``, without an interval; NaN if one of them is constant."""
    if min(np.ptp(scores), np.ptp(accuracies)) == 0:
        return float("nan")
    return float(_rank_correlation(scores, accuracies))


def reliability(accuracies: ArrayLike) -> float:
    """Expected rank correlation between mean accuracies ``(n, S)`` and those from S other seeds.

    The Spearman–Brown formula, applied to the mean Spearman coefficient between single seeds; that mean itself if it is
    not positive.
    """
    y = _matrix(accuracies)
    seeds = y.shape[1]
    if seeds < 2:
        raise InvalidInputError("expected accuracies of 2 seeds or more, got 1; one alone does not show its noise")
    if (np.ptp(y, axis=0) == 0).any():
        return 0.0  # all architectures are equal with some seed, which therefore agrees with no other
    single = _rank_correlation(y.T[:, None], y.T)[np.triu_indices(seeds, k=1)].mean()
    return float(seeds * single / (1 + (seeds - 1) * single) if single > 0 else single)


def noise_ceiling(accuracies: ArrayLike) -> float | None:
    """Spearman coefficient that the true order would reach against mean accuracies ``(n, S)``.

    The square root of the reliability (the correction for attenuation, Spearman 1904); None if seeds do not agree.
    """
    trust = reliability(accuracies)
    return math.sqrt(trust) if trust > 0 else None


class Curve(NamedTuple):
    """Spearman's coefficient against the number of trainings, with the range of 95 % of the draws."""

    x: NDArray[np.int64]
    median: Array
    low: Array
    high: Array


def repetition_curve(value: Callable[[Sequence[int]], float], repetitions: int, seed: int = 0) -> Curve:
    """A coefficient from 1 to R trainings, over draws without replacement.

    Args:
        value: Function from the numbers of the chosen trainings to the coefficient.
        repetitions: Number of trainings R.
        seed: Seed for the draws.
    """
    rng = REPETITION_CURVE.rng(seed)
    drawn = []
    for k in range(1, repetitions + 1):
        draws = {tuple(sorted(rng.permutation(repetitions)[:k].tolist())) for _ in range(CURVE_DRAWS)}
        drawn.append([value(draw) for draw in sorted(draws)])
    low, median, high = np.array([np.nanquantile(values, [0.025, 0.5, 0.975]) for values in drawn]).T
    return Curve(np.arange(1, repetitions + 1), median, low, high)


@dataclass(frozen=True, slots=True)
class Audit:
    """Whether accuracies are sums over rows, as every rank that factorizes over rows assumes."""

    additive_r2: float
    """Adjusted R² of the main effects of rows."""
    additive_spearman: float
    """Spearman coefficient of mean accuracies and the additive model's leave-one-out predictions. With many more
    architectures than effects, this is about the best that a rank which factorizes over rows can reach."""


def independence_audit(accuracies: ArrayLike, paths: ArrayLike) -> Audit:
    """How much of the accuracies single rows explain.

    Args:
        accuracies: Accuracies ``(n, S)`` or ``(n,)``.
        paths: Columns ``(n, d)``.

    Raises:
        InvalidInputError: if there are too few architectures even for the main effects of rows.
    """
    mean = _matrix(accuracies).mean(axis=1)
    columns = np.asarray(paths)
    if columns.ndim != 2 or len(columns) != len(mean):
        raise InvalidInputError(f"expected paths ({len(mean)}, d), got {columns.shape}; one for each architecture")
    if np.ptp(mean) == 0:
        raise InvalidInputError(f"expected accuracies that differ, got {mean[0]} for all; there is nothing to explain")
    # For each row, the indicators of all columns but the first.
    single = [(columns[:, [i]] == np.unique(columns[:, i])[1:]).astype(float) for i in range(columns.shape[1])]
    additive = np.column_stack([np.ones(len(mean)), *single])
    if len(mean) < additive.shape[1] + 2:
        raise InvalidInputError(
            f"expected {additive.shape[1] + 2} architectures or more to fit {additive.shape[1]} effects of rows, got "
            f"{len(mean)}; evaluate more"
        )
    r2, predicted = _least_squares(additive, mean)
    return Audit(additive_r2=r2, additive_spearman=float(_rank_correlation(predicted, mean)))


def _least_squares(basis: Array, y: Array) -> tuple[float, Array]:
    """Adjusted R², and leave-one-out predictions ``(n,)`` from the hat matrix, which saves n further fits."""
    u, s, _ = np.linalg.svd(basis, full_matrices=False)
    u = u[:, s > s[0] * 1e-9]
    hat = (u**2).sum(axis=1)
    rest = y - u @ (u.T @ y)
    n, p = u.shape
    r2 = 1 - (rest @ rest / (n - p)) / y.var(ddof=1)
    # An architecture that is the only one with some column determines its own fit; without it, predict the mean.
    loo = np.where(hat < 1 - 1e-9, y - rest / np.maximum(1 - hat, 1e-9), y.mean())
    return float(r2), loo


def _checked(scores: ArrayLike, accuracies: ArrayLike) -> tuple[Array, Array]:
    """Scores ``(n,)`` and accuracies ``(n, S)``, or an error if they cannot be compared."""
    x, y = to_array(scores), _matrix(accuracies)
    if x.ndim != 1 or len(x) != len(y):
        raise InvalidInputError(
            f"expected scores (n,) and accuracies (n, S) or (n,), got {np.shape(scores)} and {np.shape(accuracies)}; "
            "give both for the same architectures, in the same order"
        )
    if len(x) < FEWEST:
        raise InvalidInputError(f"expected {FEWEST} architectures or more, got {len(x)}; fewer show nothing")
    _check_finite("scores", x)
    for name, values in (("scores", x), ("mean accuracies", y.mean(axis=1))):
        if np.ptp(values) == 0:
            raise InvalidInputError(f"expected {name} that differ, got {values[0]} for all; they have no order")
    return x, y


def _matrix(accuracies: ArrayLike) -> Array:
    """Finite accuracies ``(n, S)``, or an error."""
    y = to_array(accuracies)
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim != 2 or y.shape[1] < 1:
        raise InvalidInputError(f"expected accuracies (n, S) or (n,), got {y.shape}; one row for each architecture")
    _check_finite("accuracies", y)
    return y


def _check_finite(name: str, values: Array) -> None:
    if not np.isfinite(values).all():
        where = np.argwhere(~np.isfinite(values))[0].tolist()
        raise InvalidInputError(
            f"expected finite {name}, got {values[tuple(where)]} at {where}; leave that architecture out"
        )


def _rank_correlation(a: ArrayLike, b: ArrayLike) -> Any:
    """Spearman's coefficient along the last axis; 0 where one side is constant."""
    return correlation(stats.rankdata(a, axis=-1), stats.rankdata(b, axis=-1))


def _spearman(x: Array, mean: Array, drawn: Resamples, permuted: ArrayLike | None) -> Estimate:
    return drawn.estimate(
        float(_rank_correlation(x, mean)),
        _rank_correlation(drawn.scores, drawn.accuracies),
        stats.rankdata(x),
        stats.rankdata(mean),
        None if permuted is None else _rank_correlation(permuted, mean),
    )


def _kendall(x: Array, mean: Array, drawn: Resamples) -> Estimate:
    result: Any = stats.kendalltau(x, mean)
    taus: list[Any] = [stats.kendalltau(a, b) for a, b in zip(drawn.scores, drawn.accuracies, strict=True)]
    # The coefficient is NaN if a resample consists of one architecture only.
    statistics = np.nan_to_num([tau.statistic for tau in taus])
    value = float(result.statistic)
    return Estimate(value, *drawn.interval(value, statistics), float(result.pvalue))


def _membership(values: Array, k: int) -> Array:
    """Probability of each value to be among the k largest if ties are broken at random."""
    bound = np.partition(values, -k)[-k]
    above, tied = values > bound, values == bound
    return above + tied * (k - above.sum()) / tied.sum()


def _expected_best(scores: Array, values: Array, k: int) -> float:
    """Expected largest value among the k highest scores if ties are broken at random."""
    bound = np.partition(scores, -k)[-k]
    sure, tied = values[scores > bound], np.sort(values[scores == bound])[::-1]
    draws = k - len(sure)
    # The j-th best of the tied is the best drawn if it is drawn and all others come from those after it.
    chance = np.array([math.comb(len(tied) - 1 - j, draws - 1) for j in range(len(tied))], dtype=object)
    share = (chance / math.comb(len(tied), draws)).astype(float)
    return float(share @ np.maximum(tied, sure.max(initial=-np.inf)))
