"""Bootstrap intervals and permutation tests for correlations of scores and accuracies, and Student's intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fade_study.exceptions import InvalidInputError
from fade_study.seeding import BOOTSTRAP, NULL, PERMUTED

LEVEL = 0.95
"""Confidence level of all intervals."""
PERMUTATIONS = 9999
"""Number of permutations behind a p-value, unless all of them are tried."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A correlation coefficient with its 95 % interval; positive where higher scores go with higher accuracies."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided p-value under the hypothesis of no relation, by permutation."""
    null: Array | None = field(default=None, repr=False, compare=False)
    """Coefficients under K permutations, ``(K,)``."""

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}], {p_text(self.p)}"


def p_text(p: float | None) -> str:
    """A p-value as text, such as ``p = 0.03``."""
    if p is None:
        return "no p"
    return f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"


def mean_estimate(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of a predictor's coefficients over hyper-architectures.

    Its interval is Student's, from the differences between the coefficients, so that it covers the choice of the
    hyper-architectures. The p-value is about these hyper-architectures alone.

    Args:
        estimates: Estimates for H hyper-architectures, all with the same number of permutations.
    """
    if len(estimates) == 1:
        return estimates[0]
    values = np.array([estimate.value for estimate in estimates])
    value, (low, high) = float(values.mean()), np.clip(interval(values), -1, 1)
    null = np.array([estimate.null for estimate in estimates]).mean(axis=0)  # (K,)
    return Estimate(value, float(low), float(high), _p_of_permutations(value, null), null)


class Resamples:
    """Bootstrap resamples of architectures and of a predictor's repetitions, shared by all coefficients.

    Args:
        scores: Scores of the architectures, ``(n,)``.
        accuracies: Mean accuracies of the architectures, ``(n,)``.
        replicates: Scores from resampled repetitions of the predictor, ``(B, n)``; None if it has no repetitions.
        resamples: Number of resamples.
        seed: Seed for resamples and permutations.
    """

    def __init__(
        self, scores: Array, accuracies: Array, replicates: ArrayLike | None, resamples: int, seed: int
    ) -> None:
        n = len(scores)
        sources = scores[None] if replicates is None else np.asarray(replicates, dtype=float)
        if sources.ndim != 2 or sources.shape[1] != n or len(sources) < 1 or not np.isfinite(sources).all():
            raise InvalidInputError(f"expected finite replicates of shape (B, {n}), got {sources.shape}")
        self.index = BOOTSTRAP.rng(seed).integers(n, size=(resamples, n))
        """Indices of the architectures in each resample, ``(resamples, n)``."""
        self.scores: Array = sources[np.arange(resamples)[:, None] % len(sources), self.index]
        """``(resamples, n)``."""
        self.accuracies: Array = accuracies[self.index]
        """``(resamples, n)``."""
        self._recenters = replicates is not None
        self._seed = seed

    def estimate(
        self,
        value: float,
        drawn: Array,
        a: Array,
        b: Array,
        null: Array | None = None,
    ) -> Estimate:
        """An estimate from the coefficients of the resamples, with a permutation test.

        Args:
            value: Coefficient of the original data.
            drawn: Coefficients of the resamples, ``(resamples,)``.
            a: Ranks or residuals of the scores, ``(n,)``.
            b: Ranks or residuals of the accuracies, ``(n,)``.
            null: Coefficients under the caller's own permutations, ``(K,)``; by default, ``a`` is permuted.
        """
        if null is not None:
            p = _p_of_permutations(value, null)
        else:
            p = _permutation_p(a, b, self._seed)
            permuted = NULL.rng(self._seed).permuted(np.broadcast_to(a, self.scores.shape), axis=1)
            null = correlation(permuted, b)
        return Estimate(value, *self.interval(value, drawn), p, null)

    def interval(self, value: float, drawn: Array) -> tuple[float, float]:
        """Percentile interval of a coefficient, from the coefficients of the resamples, ``(resamples,)``."""
        return _percentiles(self._recentered(value, drawn))

    def _recentered(self, value: float, drawn: Array) -> Array:
        """Coefficients, shifted on Fisher's z scale until their median is the value, if scores were resampled, too.

        Resampled repetitions add noise to the scores, which biases the coefficients toward 0.
        """
        if not self._recenters:
            return drawn
        z = np.arctanh(np.clip([value, *drawn], -0.999999, 0.999999))
        return np.tanh(z[1:] - np.median(z[1:]) + z[0])


def correlation(a: Any, b: Any) -> Any:
    """Pearson's coefficient along the last axis; 0, not NaN, where one side is constant, as in some resamples."""
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    return (a * b).sum(axis=-1) / np.where(scale > 0, scale, 1.0)


def interval(values: ArrayLike) -> tuple[Array, Array]:
    """Student's 95 % interval of means over the first axis; NaN where any value is NaN.

    Bootstrap intervals of few values are too narrow: with 10 normal values, a BCa interval contains the true mean in
    90 % of cases only.

    Args:
        values: Values ``(S, ...)``.

    Returns:
        Lower and upper ends, ``(...)`` each.
    """
    matrix = np.asarray(values, dtype=float)
    half = stats.t.ppf(0.5 + LEVEL / 2, len(matrix) - 1) * stats.sem(matrix, axis=0)
    return matrix.mean(axis=0) - half, matrix.mean(axis=0) + half


def _percentiles(drawn: Array) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _permutation_p(a: Array, b: Array, seed: int) -> float:
    """P-value of the correlation of a and b, ``(n,)`` each; exact if n is so small that all permutations are tried."""
    centered = b - b.mean()

    def statistic(permuted: Array, axis: int) -> Array:
        return (permuted * centered).sum(axis=axis)

    result = stats.permutation_test(
        (a,),
        statistic,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        batch=1000,
        rng=PERMUTED.rng(seed),
    )
    return float(result.pvalue)


def _p_of_permutations(value: float, null: Array) -> float:
    """Share of the coefficients under permutations that are at least as large; the value itself counts as one."""
    return float((1 + np.sum(np.abs(null) >= abs(value) - 1e-12)) / (1 + len(null)))
