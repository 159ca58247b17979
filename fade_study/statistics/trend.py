"""How a search moved and whether it got better (section 3.2, Figs. 3b and 4), from arrays.

Searches are the independent units. Evaluations of one search are not independent: they share its path, and a search
that returns to an architecture repeats its accuracy. Tests that ignore this find trends in mere drift. Over several
searches, the test therefore flips the signs of whole searches: if accuracies are random walks, its p-value is below
0.05 in 4 % of simulated cases (10 searches of 12 generations).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fade_study.exceptions import InvalidInputError
from fade_study.seeding import SIGNS
from fade_study.statistics.resampling import LEVEL, interval, p_text

__all__ = [
    "Mean",
    "PooledTrend",
    "Trend",
    "checked_points",
    "checked_search",
    "coverage",
    "moved",
    "movement",
    "p_text",
    "pooled_trend",
    "revisited",
    "snap_distance",
    "straightness",
    "trend",
]

Array: TypeAlias = NDArray[np.float64]
Cells: TypeAlias = ArrayLike
"""Keys of cells ``(T, d)`` or ``(T, d, w)``, as nested sequences or an array."""
Search: TypeAlias = tuple[ArrayLike, ArrayLike]
"""Generations ``(n,)`` of evaluations and their accuracies ``(n,)``."""

FEWEST = 3
"""Smallest number of generations for a trend, and of searches for an interval."""
FEWEST_OF_SLOPE = 5
"""Smallest number of evaluations of one search for which its slope has an interval."""


@dataclass(frozen=True, slots=True)
class Trend:
    """Whether accuracies of one search rise with its generations; p-values assume independent evaluations."""

    n: int
    """Number of evaluations."""
    pearson: float | None
    """Pearson's coefficient, the paper's measure; None, like its p-value, if all accuracies are equal."""
    pearson_p: float | None
    slope: float
    """Theil–Sen slope in accuracy per generation."""
    slope_low: float | None
    """Lower end of the slope's 95 % interval; None for fewer than 5 evaluations, or if nearly all are tied."""
    slope_high: float | None
    """Upper end of the interval; None like the lower one."""
    mann_kendall: float | None
    """Kendall's tau-b of accuracies and generations; None, like its p-value, if all accuracies are equal."""
    mann_kendall_p: float | None
    """Two-sided p-value: exact without ties for up to 33 evaluations, else asymptotic."""

    def __str__(self) -> str:
        if self.pearson is None:
            return f"Test accuracy against generation: the same in all n = {self.n} evaluations"
        return (
            f"Test accuracy against generation: r = {self.pearson:.2f}, {p_text(self.pearson_p)}, n = {self.n}\n"
            f"In ranks, test accuracy against generation: Kendall's tau = {self.mann_kendall:.2f}, "
            f"{p_text(self.mann_kendall_p)}, n = {self.n}\n"
            f"Change of test accuracy with each generation: {Mean(self.slope, self.slope_low, self.slope_high)}"
        )


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over searches with its 95 % interval, which is None for fewer than 3 searches and for equal ones."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        return f"{self.value:.2g}" + ("" if self.low is None else f" [{self.low:.2g}, {self.high:.2g}]")


@dataclass(frozen=True, slots=True)
class PooledTrend:
    """Whether accuracies rise with generations, over several searches."""

    searches: int
    evaluations: int
    pearson: Mean | None
    """Mean Pearson coefficient of the searches whose accuracies differ; None if there are none."""
    slope: Mean
    """Mean Theil–Sen slope, in accuracy per generation."""
    gain: Mean
    """Mean accuracy of the last third of a search's evaluations minus that of its first third."""
    signs_p: float
    """Two-sided p-value of the sum of the searches' Kendall statistics if each search might as well have gone the other
    way. It assumes independent searches only; its smallest value for S searches is 2 / 2^S."""

    def __str__(self) -> str:
        pearson = "undefined, since no accuracies differ" if self.pearson is None else f"mean r = {self.pearson}"
        return (
            f"Test accuracy against generation: {pearson}, n = {self.evaluations} in {self.searches} searches\n"
            f"Rise of test accuracy in all searches together: {p_text(self.signs_p)}, by the signs of whole searches\n"
            f"Change of test accuracy with each generation: {self.slope}\n"
            f"Gain from the first third of the evaluations to the last: {self.gain}"
        )


def trend(generations: ArrayLike, accuracies: ArrayLike) -> Trend:
    """Trend of one search: Pearson's coefficient (section 3.2), and measures more robust to outliers and curvature.

    Args:
        generations: Generations of the evaluations ``(n,)``; one that was evaluated several times is repeated.
        accuracies: Accuracies ``(n,)``.

    Raises:
        InvalidInputError: for lengths that differ, NaN or infinities, and fewer than 3 different generations.
    """
    x, y = checked_search(generations, accuracies)
    if np.ptp(y) == 0:
        return Trend(len(x), None, None, 0.0, None, None, None, None)
    pearson: Any = stats.pearsonr(x, y)
    tau: Any = stats.kendalltau(x, y)
    with np.errstate(invalid="ignore"):  # SciPy's variance of the slope can be negative if nearly all are tied
        sen: Any = stats.theilslopes(y, x, alpha=LEVEL)
    # Each order of 4 evaluations has a probability of 1/24, so that even the range of all slopes is no 95 % interval.
    known = len(x) >= FEWEST_OF_SLOPE and np.isfinite(sen.low_slope)
    return Trend(
        n=len(x),
        pearson=float(pearson.statistic),
        pearson_p=float(pearson.pvalue),
        slope=float(sen.slope),
        slope_low=float(sen.low_slope) if known else None,
        slope_high=float(sen.high_slope) if known else None,
        mann_kendall=float(tau.statistic),
        mann_kendall_p=float(tau.pvalue),
    )


def pooled_trend(searches: Sequence[Search], seed: int = 0) -> PooledTrend:
    """Trend over independent searches, with Student's intervals over searches.

    Args:
        searches: Generations ``(n,)`` and accuracies ``(n,)`` of each search; n may differ.
        seed: Seed for random signs, which are drawn for more than 13 searches.

    Raises:
        InvalidInputError: for no searches, and for any search that :func:`trend` refuses.
    """
    if not len(searches):
        raise InvalidInputError("expected 1 search or more, got none; give (generations, accuracies) of each")
    names = [f" of search {k}" for k in range(len(searches))] if len(searches) > 1 else [""]
    pairs = [checked_search(*search, name) for search, name in zip(searches, names, strict=True)]
    trends = [trend(x, y) for x, y in pairs]
    pearson = [t.pearson for t in trends if t.pearson is not None]
    return PooledTrend(
        searches=len(pairs),
        evaluations=sum(t.n for t in trends),
        pearson=_mean(pearson) if pearson else None,
        slope=_mean([t.slope for t in trends]),
        gain=_mean([_gain(x, y) for x, y in pairs]),
        signs_p=_signs_p(np.array([_kendall(x, y) for x, y in pairs]), seed),
    )


def movement(trajectory: ArrayLike) -> Array:
    """Euclidean lengths of the steps of anchors, ``(T, d, f) -> (T - 1, d)``, in units of the scaled features."""
    return np.linalg.norm(np.diff(checked_points("trajectory", trajectory), axis=0), axis=-1)


def snap_distance(anchors: ArrayLike, embedded: ArrayLike) -> Array:
    """Distances ``(T, d)`` between anchors ``(T, d, f)`` and the points of their cells ``(T, d, f)``.

    They measure how far the nearest cell is from the position of the search: the sparsity that section 3.2 suspects.
    """
    a, b = checked_points("anchors", anchors), checked_points("embedded cells", embedded)
    if a.shape != b.shape:
        raise InvalidInputError(f"expected anchors and cells of one shape, got {a.shape} and {b.shape}; embed each")
    return np.linalg.norm(a - b, axis=-1)


def straightness(trajectory: ArrayLike) -> Array:
    """Distance from the first to the last anchor, divided by the length of the path, ``(d,)``.

    A straight line has 1. The "chainsaw pattern" of section 3.2 has little, and so have a random walk and a loop. Rows
    that never moved have NaN.

    Args:
        trajectory: Anchors ``(T, d, f)``.
    """
    points = checked_points("trajectory", trajectory)
    way = movement(points).sum(axis=0)
    net = np.linalg.norm(points[-1] - points[0], axis=-1)
    return np.divide(net, way, out=np.full(len(way), np.nan), where=way > 0)


def moved(cells: Cells) -> NDArray[np.bool_]:
    """Whether a row's anchor cell differs from that of the previous generation, ``(T, d) -> (T - 1, d)``."""
    keys = _keys(cells, "(T, d)")
    return np.not_equal(keys[1:], keys[:-1], dtype=bool)


def revisited(cells: Cells) -> NDArray[np.bool_]:
    """Whether a row has just returned to an earlier anchor cell, which differs from the previous one.

    Args:
        cells: Keys of anchor cells ``(T, d)``.

    Returns:
        Flags ``(T, d)``; a row that stays where it returned to is counted once.
    """
    keys = _keys(cells, "(T, d)")
    seen = [(keys[:t] == keys[t]).any(axis=0) for t in range(len(keys))]
    return np.array(seen) & np.concatenate([np.zeros_like(keys[:1], dtype=bool), moved(keys)])


def coverage(cells: Cells, size: int) -> Array:
    """Share of the space's cells that each row has held so far, in any column.

    Args:
        cells: Keys of cells ``(T, d, w)``.
        size: Number of cells in the space.

    Returns:
        Shares ``(T, d)``, which never fall.
    """
    keys = _keys(cells, "(T, d, w)")
    total, depth, width = keys.shape
    first = [np.unique(keys[:, i], return_index=True)[1] // width for i in range(depth)]
    counts = np.array([np.bincount(generations, minlength=total).cumsum() for generations in first]).T
    if counts.max() > size:
        raise InvalidInputError(f"expected a size of {counts.max()} or more, got {size}; give len(space)")
    return counts / size


def _kendall(x: Array, y: Array) -> float:
    """Kendall's statistic: the number of concordant minus that of discordant pairs."""
    return float((np.sign(np.subtract.outer(x, x)) * np.sign(np.subtract.outer(y, y))).sum() / 2)


def _signs_p(statistics: Array, seed: int) -> float:
    """Two-sided p-value of the sum of statistics ``(S,)`` under random signs; up to 13 searches, all are tried."""
    if len(statistics) == 1:
        return 1.0
    result = stats.permutation_test(
        (statistics,), np.sum, permutation_type="samples", vectorized=True, rng=SIGNS.rng(seed)
    )
    return float(result.pvalue)


def _gain(x: Array, y: Array) -> float:
    ordered = y[np.argsort(x, kind="stable")]
    third = len(y) // 3
    return float(ordered[-third:].mean() - ordered[:third].mean())


def _mean(values: Sequence[float]) -> Mean:
    """Mean with Student's interval; bootstrap intervals of so few searches are too narrow."""
    value = float(np.mean(values))
    # Values that differ by rounding errors only say nothing about noise.
    if len(values) < FEWEST or np.ptp(values) < 1e-12:
        return Mean(value, None, None)
    low, high = interval(values)
    return Mean(value, float(low), float(high))


def checked_search(generations: ArrayLike, accuracies: ArrayLike, name: str = "") -> tuple[Array, Array]:
    """Generations and accuracies ``(n,)``, or an error if they cannot have a trend."""
    x, y = np.asarray(generations, dtype=float), np.asarray(accuracies, dtype=float)
    if x.ndim != 1 or x.shape != y.shape:
        raise InvalidInputError(
            f"expected generations and accuracies{name} (n,), got {x.shape} and {y.shape}; one accuracy for each "
            "evaluation, such as the mean of its seeds"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        at = np.flatnonzero(~(np.isfinite(x) & np.isfinite(y)))[0]
        raise InvalidInputError(
            f"expected finite numbers{name}, got {x[at]}, {y[at]} at {at}; leave that evaluation out"
        )
    if len(np.unique(x)) < FEWEST:
        raise InvalidInputError(
            f"expected {FEWEST} different generations or more{name}, got {len(np.unique(x))}; fewer show no trend"
        )
    return x, y


def checked_points(name: str, values: ArrayLike) -> Array:
    """Finite points ``(T, d, f)``, or an error."""
    points = np.asarray(values, dtype=float)
    if points.ndim != 3 or not len(points) or not np.isfinite(points).all():
        raise InvalidInputError(f"expected finite {name} (T, d, f), got shape {points.shape}; see FadeStudy.trajectory")
    return points


def _keys(cells: Cells, shape: str) -> NDArray[np.object_]:
    keys = np.array(cells, dtype=object)
    if keys.ndim != shape.count(",") + 1 or not keys.size:
        raise InvalidInputError(f"expected keys of cells {shape}, got {keys.shape}; the same rows in each generation")
    return keys
