"""How well scores predict from-scratch accuracies (section 3.1), and how sure that is.

Ground truth is noisy: an architecture's accuracy depends on the seed it was trained with. Accuracies are therefore
given per seed, ``(n, S)``; the coefficients compare scores with their means, the intervals hold the choice of
architectures with the noise of their seeds, and the predictor's own noise where its repetitions are given, and the
*noise ceiling* says what a perfect predictor would have reached.

All of this is about architectures of one hyper-architecture, which share their cells: with other cells everything may
differ. And scores that factorise over rows have few degrees of freedom, however many architectures are scored: to ask
whether such scores know anything, permute the cells within rows (``permuted``), not the architectures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from fade_study.arrays import to_array
from fade_study.exceptions import InvalidInputError
from fade_study.seeding import BOOTSTRAP, HYPER_ARCHITECTURES, NULL, PERMUTED, REPETITION_CURVE

__all__ = [
    "FEWEST",
    "Audit",
    "Curve",
    "Estimate",
    "RankReport",
    "architectures_needed",
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
"""Architectures. Of three, all orders have a probability of 1/6 or more: nothing can be shown."""
LEVEL = 0.95
PERMUTATIONS = 9999
CURVE_DRAWS = 50
"""Of repetitions, for each point of a curve."""
HALF_WIDTH = 0.1
"""Of the interval that the advice on more architectures aims at."""
GOOD_CEILING = 0.95
"""That the advice on more seeds aims at."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A coefficient with its 95 % interval; higher scores for higher accuracies make it positive."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided, of no relation: by permuting scores, of architectures or as ``permuted`` says."""
    drawn: Array | None = field(default=None, repr=False, compare=False)
    """The coefficient in each of B bootstrap draws, ``(B,)``."""
    null: Array | None = field(default=None, repr=False, compare=False)
    """The coefficient under each of K permutations, ``(K,)``."""

    def __str__(self) -> str:
        p = f"p = {self.p:.2g}" if self.p >= 0.001 else "p < 0.001"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}], {p}"


@dataclass(frozen=True, slots=True)
class RankReport:
    """What scores say about accuracies. What could not be computed is None, and ``notes`` say why."""

    architectures: int
    seeds: int
    spearman: Estimate
    kendall: Estimate
    """tau-b; p is SciPy's, for exchangeable architectures: exact for few without ties, asymptotic else."""
    sparse_kendall: Estimate | None
    """tau-b after rounding mean accuracies to multiples of their standard error: what noise alone orders is tied."""
    precision: Mapping[int, float]
    """Share of the best k among the k of the highest scores."""
    best_rank: Mapping[int, float]
    """True rank, from 1, of the best among the k of the highest scores."""
    regret: Mapping[int, float]
    """Accuracy lost by training only the k of the highest scores: 0 where they hold the best, 1 for a mean
    architecture."""
    reliability: float | None
    """Correlation to be expected between these mean accuracies and those of as many other seeds."""
    ceiling: float | None
    """Spearman coefficient that a perfect predictor would reach."""
    relative: float | None
    """Spearman coefficient as a share of the ceiling."""
    more_architectures: int
    """That an interval of ± 0.1 would need in addition, were it not for the predictor's own noise."""
    more_seeds: int | None
    """Per architecture, that a ceiling of 0.95 would need in addition."""
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.architectures} architectures × {self.seeds} seeds",
            f"Spearman   {self.spearman}",
            f"Kendall    {self.kendall}",
        ]
        if self.sparse_kendall is not None:
            lines.append(f"sparse     {self.sparse_kendall}")
        if self.ceiling is not None:
            trust = f"(reliability {self.reliability:.2f}), of which {self.relative:.0%} are reached"
            lines.append(f"ceiling    {self.ceiling:.2f} {trust}")
        for k, precision in self.precision.items():
            rank, regret = self.best_rank[k], self.regret[k]
            lines.append(f"top {k:<6} precision {precision:.2f}, best true rank {rank:.1f}, regret {regret:.2f}")
        if self.more_architectures:
            lines.append(f"for an interval of ± {HALF_WIDTH}: {self.more_architectures} more architectures")
        if self.more_seeds:
            lines.append(f"for a ceiling of {GOOD_CEILING}: {self.more_seeds} more seeds of each")
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
        scores: ``(n,)``, higher is better; only their order matters.
        accuracies: ``(n, S)`` of S seeds, or ``(n,)`` of one.
        top: the k of precision, best rank and regret; those over n are left out. Ties among scores are broken at
            random, and the expectation is reported.
        replicates: ``(B, n)``, the scores that resampled repetitions of the predictor give, so that intervals hold its
            own noise, too; as many as ``resamples``, or they are used in turn.
        permuted: ``(K, n)``, the scores under permutations that would make no difference if the predictor knew nothing;
            architectures are permuted by default.
        resamples: of the bootstrap.
        seed: of bootstrap and permutations.

    Raises:
        InvalidInputError: (a ``ValueError``) for fewer than 4 architectures, lengths that differ, NaN or infinities,
            constant scores or accuracies.
    """
    x, y = _checked(scores, accuracies)
    mean = y.mean(axis=1)
    n, seeds = y.shape
    notes: list[str] = []
    draws = _Draws(x, mean, replicates, resamples, seed)
    rho = _spearman(x, mean, draws, permuted, PERMUTATIONS)
    kendall = _kendall(x, mean, draws, draws.means)

    sparse = trust = ceiling = relative = more_seeds = None
    if seeds == 1:
        notes.append("One seed per architecture: its noise is not known, so there is no ceiling and no sparse tau.")
    else:
        error = math.sqrt(y.var(axis=1, ddof=1).mean() / seeds)
        rounded = np.round(mean / error) if error > 0 else mean
        if np.ptp(rounded) == 0:
            notes.append("All accuracies are within one standard error of each other: there is no sparse tau.")
        else:
            sparse = _kendall(x, rounded, draws, np.round(draws.means / error) if error > 0 else draws.means)
        trust = reliability(y)
        ceiling = noise_ceiling(y)
        if ceiling is None:
            notes.append("Accuracies of different seeds do not agree: there is no ceiling, and nothing to predict.")
        else:
            relative = rho.value / ceiling
            more_seeds = max(0, _seeds_needed(trust, seeds) - seeds)
    needed = architectures_needed(rho.value)
    if needed <= n and rho.high - rho.low > 2 * HALF_WIDTH:
        notes.append("The interval is wide by the predictor's own noise: repeat it, rather than add architectures.")
    ks = [k for k in top if 1 <= k <= n]
    ranks = stats.rankdata(-mean, method="min").astype(float)
    best, average = float(mean.max()), float(mean.mean())
    return RankReport(
        architectures=n,
        seeds=seeds,
        spearman=rho,
        kendall=kendall,
        sparse_kendall=sparse,
        precision={k: float((_membership(x, k) * _membership(mean, k)).sum() / k) for k in ks},
        best_rank={k: -_expected_best(x, -ranks, k) for k in ks},
        regret={k: (best - _expected_best(x, mean, k)) / (best - average) for k in ks},
        reliability=trust,
        ceiling=ceiling,
        relative=relative,
        more_architectures=max(0, needed - n),
        more_seeds=more_seeds,
        notes=tuple(notes),
    )


def spearman(
    scores: ArrayLike,
    accuracies: ArrayLike,
    *,
    replicates: ArrayLike | None = None,
    permuted: ArrayLike | None = None,
    resamples: int = 1000,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Estimate:
    """Spearman's coefficient of scores and mean accuracies, with a bootstrap interval.

    Architectures are drawn anew, each with all its seeds, whose noise comes with it: to draw the seeds again as well
    would count that noise twice, pull the coefficients down and, however that is corrected, make no better interval.
    Repetitions of a predictor are common to all architectures, so they are drawn again, and the percentiles shifted
    back until their median is the coefficient.

    Args:
        scores: ``(n,)``.
        accuracies: ``(n, S)`` or ``(n,)``.
        replicates: as in :func:`rank_report`.
        permuted: as in :func:`rank_report`.
        resamples: of the bootstrap.
        permutations: of the p-value.
        seed: of both.
    """
    x, y = _checked(scores, accuracies)
    mean = y.mean(axis=1)
    return _spearman(x, mean, _Draws(x, mean, replicates, resamples, seed), permuted, permutations)


def mean_estimate(estimates: Sequence[Estimate], seed: int = 0) -> Estimate:
    """Mean of one predictor's coefficients over hyper-architectures.

    The interval holds the choice of the hyper-architectures as well: these are drawn anew, then their architectures.
    Few of them make it too narrow, by a factor of about (H - 1) / H in its square.

    Args:
        estimates: of H hyper-architectures, by :func:`spearman` or :func:`partial_spearman` with as many resamples and
            permutations each.
        seed: of the draws.
    """
    if len(estimates) == 1:
        return estimates[0]
    value = float(np.mean([estimate.value for estimate in estimates]))
    drawn = np.array([estimate.drawn for estimate in estimates])  # (H, B)
    null = np.array([estimate.null for estimate in estimates])  # (H, K)
    chosen = HYPER_ARCHITECTURES.rng(seed).integers(len(drawn), size=drawn.T.shape)  # (B, H)
    means = drawn.T[np.arange(len(chosen))[:, None], chosen].mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high), _given_p(value, null.mean(axis=0)), means, null.mean(axis=0))


def partial_spearman(
    scores: ArrayLike,
    accuracies: ArrayLike,
    covariates: ArrayLike,
    *,
    replicates: ArrayLike | None = None,
    permuted: ArrayLike | None = None,
    resamples: int = 1000,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Estimate | None:
    """Spearman's coefficient of what is left of scores and mean accuracies once covariates are taken out of both.

    The correlation of the residuals of ranks, regressed on the covariates' ranks.

    Args:
        scores: ``(n,)``.
        accuracies: ``(n, S)`` or ``(n,)``.
        covariates: ``(n, c)``, such as the number of operations; constant ones take nothing out.
        replicates: as in :func:`rank_report`.
        resamples: of the bootstrap, as in :func:`spearman`.
        permuted: as in :func:`rank_report`; by default the scores' residuals are permuted (Kennedy, 1995).
        permutations: of the p-value by default.
        seed: of both.

    Returns:
        None where the covariates explain all scores or all accuracies.
    """
    x, y = _checked(scores, accuracies)
    z = np.asarray(covariates, dtype=float)
    z = z[:, None] if z.ndim == 1 else z
    if z.ndim != 2 or len(z) != len(x) or not np.isfinite(z).all():
        raise InvalidInputError(
            f"expected finite covariates ({len(x)}, c), got {np.shape(covariates)}; one row for each"
        )
    draws = _Draws(x, y.mean(axis=1), replicates, resamples, seed)

    def residuals(values: Array, z: Array) -> Array:
        """Of the ranks of values ``(..., n)``."""
        basis = np.column_stack([np.ones(len(z)), stats.rankdata(z, axis=0)])
        ranks = stats.rankdata(values, axis=-1).T
        return (ranks - basis @ np.linalg.lstsq(basis, ranks, rcond=None)[0]).T

    left, right = residuals(x, z), residuals(y.mean(axis=1), z)
    if min(np.ptp(left), np.ptp(right)) < 1e-9 * len(x):
        return None
    value = float(_correlation(left, right))
    drawn = [
        _correlation(residuals(scores, z[index]), residuals(mean, z[index]))
        for scores, mean, index in zip(draws.scores, draws.means, draws.index, strict=True)
    ]
    null = None if permuted is None else _correlation(residuals(np.asarray(permuted, dtype=float), z), right)
    return draws.estimate(value, np.array(drawn), left, right, null, permutations)


def reliability(accuracies: ArrayLike) -> float:
    """Of mean accuracies ``(n, S)``: the rank correlation to be expected with the means of S other seeds.

    Spearman and Brown's formula on the mean Spearman coefficient between single seeds; that mean itself where it is not
    positive.
    """
    y = _matrix(accuracies)
    seeds = y.shape[1]
    if seeds < 2:
        raise InvalidInputError("expected accuracies of 2 seeds or more, got 1; one alone does not show its noise")
    if (np.ptp(y, axis=0) == 0).any():
        return 0.0  # a seed with which all architectures are equal agrees with none
    matrix = np.corrcoef(stats.rankdata(y, axis=0), rowvar=False)
    single = matrix[np.triu_indices(seeds, k=1)].mean()
    return float(seeds * single / (1 + (seeds - 1) * single) if single > 0 else single)


def noise_ceiling(accuracies: ArrayLike) -> float | None:
    """Spearman coefficient that the true order would reach against mean accuracies ``(n, S)``.

    The root of the reliability (the correction for attenuation, Spearman 1904); None where seeds do not agree.
    """
    trust = reliability(accuracies)
    return math.sqrt(trust) if trust > 0 else None


def architectures_needed(rho: float, half_width: float = HALF_WIDTH) -> int:
    """How many architectures give a Spearman coefficient of rho a 95 % interval of ± half_width.

    By Fisher's z with the standard error of Bonett and Wright (2000), root of (1 + rho²/2) / (n − 3).
    """
    z = math.atanh(min(abs(rho), 0.999))

    def excess(n: float) -> float:
        error = stats.norm.ppf((1 + LEVEL) / 2) * math.sqrt((1 + rho**2 / 2) / (n - 3))
        return (math.tanh(z + error) - math.tanh(z - error)) / 2 - half_width

    return FEWEST if excess(FEWEST) <= 0 else math.ceil(optimize.root_scalar(excess, bracket=(FEWEST, 1e7)).root)


@dataclass(frozen=True, slots=True)
class Audit:
    """Whether accuracies are a sum over rows: what any rank that factorises over rows takes for granted."""

    additive_r2: float
    """Adjusted, of row main effects."""
    pairwise_r2: float | None
    """Adjusted, with the interactions of all pairs of rows; None where there are too few architectures."""
    additive_spearman: float
    """Spearman coefficient of mean accuracies and what the additive model predicts of each from all others: with many
    more architectures than effects, about the best that a rank which factorises over rows can reach."""


def independence_audit(accuracies: ArrayLike, paths: ArrayLike) -> Audit:
    """How much of the accuracies the rows explain one by one, and in pairs.

    Args:
        accuracies: ``(n, S)`` or ``(n,)``.
        paths: columns, ``(n, d)``.

    Raises:
        InvalidInputError: where there are too few architectures for the row effects alone.
    """
    mean = _matrix(accuracies).mean(axis=1)
    columns = np.asarray(paths)
    if columns.ndim != 2 or len(columns) != len(mean):
        raise InvalidInputError(f"expected paths ({len(mean)}, d), got {columns.shape}; one for each architecture")
    if np.ptp(mean) == 0:
        raise InvalidInputError(f"expected accuracies that differ, got {mean[0]} for all; there is nothing to explain")
    # indicator of each column but the first, row by row
    single = [(columns[:, [i]] == np.unique(columns[:, i])[1:]).astype(float) for i in range(columns.shape[1])]
    additive = np.column_stack([np.ones(len(mean)), *single])
    pairs = [a[:, :, None] * b[:, None, :] for i, a in enumerate(single) for b in single[i + 1 :]]
    pairwise = np.column_stack([additive, *(pair.reshape(len(mean), -1) for pair in pairs)])
    if len(mean) < additive.shape[1] + 2:
        raise InvalidInputError(
            f"expected {additive.shape[1] + 2} architectures or more to fit {additive.shape[1]} effects of rows, got "
            f"{len(mean)}; evaluate more"
        )
    r2, predicted = _least_squares(additive, mean)
    enough = len(mean) >= pairwise.shape[1] + 2
    return Audit(
        additive_r2=r2,
        pairwise_r2=_least_squares(pairwise, mean)[0] if enough else None,
        additive_spearman=float(_correlation(stats.rankdata(predicted), stats.rankdata(mean))),
    )


def _least_squares(basis: Array, y: Array) -> tuple[float, Array]:
    """Adjusted R², and leave-one-out predictions ``(n,)``, which the hat matrix gives without fitting again."""
    u, s, _ = np.linalg.svd(basis, full_matrices=False)
    u = u[:, s > s[0] * 1e-9]
    hat = (u**2).sum(axis=1)
    rest = y - u @ (u.T @ y)
    n, p = u.shape
    r2 = 1 - (rest @ rest / (n - p)) / y.var(ddof=1)
    # an architecture that alone has some column determines its own fit: what is left out then predicts the mean
    loo = np.where(hat < 1 - 1e-9, y - rest / np.maximum(1 - hat, 1e-9), y.mean())
    return float(r2), loo


class _Draws:
    """Bootstrap draws of architectures, and of the predictor's repetitions; the same for all coefficients."""

    def __init__(self, x: Array, mean: Array, replicates: ArrayLike | None, resamples: int, seed: int) -> None:
        n = len(x)
        sources = x[None] if replicates is None else np.asarray(replicates, dtype=float)
        if sources.ndim != 2 or sources.shape[1] != n or len(sources) < 1 or not np.isfinite(sources).all():
            raise InvalidInputError(f"expected finite replicates of shape (B, {n}), got {sources.shape}")
        self.index = BOOTSTRAP.rng(seed).integers(n, size=(resamples, n))
        self.scores: Array = np.stack([sources[b % len(sources)][i] for b, i in enumerate(self.index)])
        """``(resamples, n)``"""
        self.means: Array = mean[self.index]
        """``(resamples, n)``"""
        self._shifted = replicates is not None
        self._seed = seed

    def shifted(self, value: float, drawn: Array) -> Array:
        """Coefficients of the draws ``(resamples,)``, with the coefficient as their median where scores vary, too."""
        if not self._shifted:
            return drawn
        z = np.arctanh(np.clip([value, *drawn], -0.999999, 0.999999))
        return np.tanh(z[1:] - np.median(z[1:]) + z[0])

    def interval(self, value: float, drawn: Array) -> tuple[float, float]:
        """Percentile interval of a coefficient from those of the draws, ``(resamples,)``."""
        low, high = np.quantile(self.shifted(value, drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)

    def estimate(
        self, value: float, drawn: Array, a: Array, b: Array, null: Array | None, permutations: int
    ) -> Estimate:
        """A coefficient of a and b, ``(n,)``, from those of the draws, and under given permutations or all of a."""
        if null is None:
            p = _permutation_p(a, b, permutations, self._seed)
            rng = NULL.rng(self._seed)
            null = _correlation(rng.permuted(np.broadcast_to(a, (len(drawn), len(a))), axis=1), b)
        else:
            p = _given_p(value, null)
        return Estimate(value, *self.interval(value, drawn), p, self.shifted(value, drawn), null)


def _checked(scores: ArrayLike, accuracies: ArrayLike) -> tuple[Array, Array]:
    """Scores ``(n,)`` and accuracies ``(n, S)``, if they can be compared."""
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
    """Accuracies ``(n, S)``, if they are."""
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


def _correlation(a: Any, b: Any) -> Any:
    """Pearson's coefficient along the last axis, NaN-free: 0 for constants, which resampling may give."""
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    return (a * b).sum(axis=-1) / np.where(scale > 0, scale, 1.0)


def _permutation_p(a: Array, b: Array, permutations: int, seed: int) -> float:
    centered = b - b.mean()

    def statistic(permuted: Array, axis: int) -> Array:
        return (permuted * centered).sum(axis=axis)

    result = stats.permutation_test(
        (a,),
        statistic,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=permutations,
        batch=1000,
        rng=PERMUTED.rng(seed),
    )
    return float(result.pvalue)


def _given_p(value: float, others: Array) -> float:
    """Share of coefficients under given permutations that are as large, the value itself among them."""
    return float((1 + np.sum(np.abs(others) >= abs(value) - 1e-12)) / (1 + len(others)))


def _spearman(x: Array, mean: Array, draws: _Draws, permuted: ArrayLike | None, permutations: int) -> Estimate:
    a, b = stats.rankdata(x), stats.rankdata(mean)
    value = float(_correlation(a, b))
    drawn = _correlation(stats.rankdata(draws.scores, axis=1), stats.rankdata(draws.means, axis=1))
    null = None if permuted is None else _correlation(stats.rankdata(permuted, axis=1), b)
    return draws.estimate(value, drawn, a, b, null, permutations)


def _kendall(x: Array, y: Array, draws: _Draws, means: Array) -> Estimate:
    def tau(a: Array, b: Array) -> Any:
        return stats.kendalltau(a, b)

    result = tau(x, y)
    # NaN where a resample holds one architecture only
    drawn = np.nan_to_num([tau(a, b).statistic for a, b in zip(draws.scores, means, strict=True)])
    return Estimate(float(result.statistic), *draws.interval(float(result.statistic), drawn), float(result.pvalue))


def _seeds_needed(trust: float, seeds: int) -> int:
    """Seeds of each architecture for a ceiling of ``GOOD_CEILING``, from the reliability of ``seeds``."""
    single = trust / (seeds - (seeds - 1) * trust)
    goal = GOOD_CEILING**2
    return math.ceil(goal * (1 - single) / (single * (1 - goal)) - 1e-9)


def _membership(values: Array, k: int) -> Array:
    """Probability of each to be among the k largest, where ties are broken at random."""
    bound = np.partition(values, -k)[-k]
    above, tied = values > bound, values == bound
    return above + tied * (k - above.sum()) / tied.sum()


def _expected_best(scores: Array, values: Array, k: int) -> float:
    """Expected largest value among the k highest scores, where ties are broken at random."""
    bound = np.partition(scores, -k)[-k]
    sure, tied = values[scores > bound], np.sort(values[scores == bound])[::-1]
    draws = k - len(sure)
    # the j-th best of the tied is the best drawn: it is drawn, and the others are among those after it
    chance = np.array([math.comb(len(tied) - 1 - j, draws - 1) for j in range(len(tied))], dtype=object)
    share = (chance / math.comb(len(tied), draws)).astype(float)
    return float(share @ np.maximum(tied, sure.max(initial=-np.inf)))


class Curve(NamedTuple):
    """Spearman's coefficient against something, with the range of 95 % of the draws."""

    x: NDArray[np.int64]
    median: Array
    low: Array
    high: Array


def coefficient(scores: Array, accuracies: Array) -> float:
    """Spearman's coefficient of ``(n,)`` and ``(n,)``; NaN where one of them is constant."""
    if min(np.ptp(scores), np.ptp(accuracies)) == 0:
        return float("nan")
    result: Any = stats.spearmanr(scores, accuracies)
    return float(result.statistic)


def repetition_curve(value: Callable[[Sequence[int]], float], repetitions: int, seed: int = 0) -> Curve:
    """A coefficient from 1 .. R trainings, over draws of as many without replacement.

    Args:
        value: of the trainings that are named by their numbers.
        repetitions: R.
        seed: of the draws.
    """
    rng = REPETITION_CURVE.rng(seed)
    drawn = []
    for k in range(1, repetitions + 1):
        draws = {tuple(sorted(rng.permutation(repetitions)[:k].tolist())) for _ in range(CURVE_DRAWS)}
        drawn.append([value(draw) for draw in sorted(draws)])
    low, median, high = np.array([np.nanquantile(values, [0.025, 0.5, 0.975]) for values in drawn]).T
    return Curve(np.arange(1, repetitions + 1), median, low, high)
