"""How a search moved and whether it got better (section 3.2, Figs. 3b and 4), from arrays.

Searches are the independent units. Evaluations of one search share its path, and a search that returns to an
architecture repeats its accuracy, so tests that take evaluations for independent find trends in mere drift: without any
preferred direction, over 10 searches whose accuracies are random walks of 12 generations, the regional Kendall test
comes out below 0.05 in 41 % of cases, and the test by signs of whole searches in 4 % (simulated).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fade_study.exceptions import InvalidInputError
from fade_study.seeding import SIGNS
from fade_study.statistics.arena import LEVEL, interval

__all__ = [
    "Mean",
    "PooledTrend",
    "Trend",
    "checked_points",
    "checked_search",
    "coverage",
    "generation_means",
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
"""Keys ``(T, d)`` or ``(T, d, w)``, as nested sequences or an array."""
Search: TypeAlias = tuple[ArrayLike, ArrayLike]
"""Generations ``(n,)`` of evaluations and their accuracies ``(n,)``."""

FEWEST = 3
"""Generations of a trend, and searches of an interval."""
FEWEST_OF_SLOPE = 5
"""Evaluations of one search that give its slope an interval."""


@dataclass(frozen=True, slots=True)
class Trend:
    """Whether accuracies of one search rise with its generations; p-values take its evaluations for independent."""

    n: int
    """Evaluations."""
    pearson: float | None
    """The paper's measure; None, with its p, where all accuracies are the same."""
    pearson_p: float | None
    slope: float
    """Theil and Sen's, accuracy per generation."""
    slope_low: float | None
    """With ``slope_high`` a 95 % interval; None for fewer than 5 evaluations, or if (nearly) all are tied."""
    slope_high: float | None
    mann_kendall: float | None
    """Kendall's tau-b against generations; None, with its p, where all accuracies are the same."""
    mann_kendall_p: float | None
    """Two-sided; exact without ties and up to 33 evaluations, asymptotic else."""

    def __str__(self) -> str:
        slope = Mean(self.slope, self.slope_low, self.slope_high)
        if self.pearson is None:
            return f"{self.n} evaluations, all of the same accuracy"
        return (
            f"{self.n} evaluations: r = {self.pearson:.2f}, {p_text(self.pearson_p)}; slope {slope} per generation; "
            f"tau = {self.mann_kendall:.2f}, {p_text(self.mann_kendall_p)}"
        )


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over searches with its 95 % interval, None where fewer than 3 or equal searches leave none."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        return f"{self.value:.2g}" + ("" if self.low is None else f" [{self.low:.2g}, {self.high:.2g}]")


@dataclass(frozen=True, slots=True)
class PooledTrend:
    """Whether accuracies rise with generations, over searches."""

    searches: int
    evaluations: int
    pearson: Mean | None
    """Over searches whose accuracies differ; None where there are none."""
    slope: Mean
    """Theil and Sen's, accuracy per generation."""
    gain: Mean
    """Mean accuracy of the last third of a search's evaluations less that of its first third."""
    kendall_p: float
    """Regional Kendall test, two-sided: takes evaluations for independent."""
    signs_p: float
    """The same sum of statistics, two-sided, if each search might as well have gone the other way: takes only searches
    for independent, so at best it is 2 / 2^S."""

    def __str__(self) -> str:
        return (
            f"{self.searches} searches, {self.evaluations} evaluations: mean r = {self.pearson or 'undefined'}; "
            f"slope {self.slope} per generation; gain {self.gain}; {p_text(self.signs_p)} (signs of searches), "
            f"{p_text(self.kendall_p)} (regional Kendall)"
        )


def trend(generations: ArrayLike, accuracies: ArrayLike) -> Trend:
    """Trend of one search: Pearson (section 3.2), and what outliers and curvature harm less.

    Args:
        generations: of evaluations ``(n,)``, repeated where a generation was evaluated more than once.
        accuracies: ``(n,)``.

    Raises:
        InvalidInputError: for lengths that differ, NaN or infinities, fewer than 3 different generations.
    """
    x, y = checked_search(generations, accuracies)
    if np.ptp(y) == 0:
        return Trend(len(x), None, None, 0.0, None, None, None, None)
    pearson: Any = stats.pearsonr(x, y)
    tau: Any = stats.kendalltau(x, y)
    with np.errstate(invalid="ignore"):  # SciPy's variance of the slope can be negative where nearly all are tied
        sen: Any = stats.theilslopes(y, x, alpha=LEVEL)
    # of 4 evaluations all orders have a probability of 1/24: even the range of all slopes is no 95 % interval
    known = len(x) >= FEWEST_OF_SLOPE and np.isfinite(sen.low_slope)
    bounds = (float(sen.low_slope), float(sen.high_slope)) if known else (None, None)
    return Trend(
        len(x), float(pearson.statistic), float(pearson.pvalue), float(sen.slope), *bounds,
        float(tau.statistic), float(tau.pvalue),
    )  # fmt: skip


def pooled_trend(searches: Sequence[Search], seed: int = 0) -> PooledTrend:
    """Trend over independent searches.

    Intervals are Student's, over searches. The regional Kendall test (Hirsch, Slack & Smith,
    1982) adds up Kendall's statistics and their variances, corrected for ties in both, with a continuity correction.

    Args:
        searches: generations ``(n,)`` and accuracies ``(n,)`` of each; n may differ.
        seed: of the signs where there are more than 13 searches.

    Raises:
        InvalidInputError: for no searches, and as :func:`trend` for any of them.
    """
    if not len(searches):
        raise InvalidInputError("expected 1 search or more, got none; give (generations, accuracies) of each")
    pairs = [checked_search(*search, name=f" of search {k}") for k, search in enumerate(searches)]
    trends = [trend(x, y) for x, y in pairs]
    pearson = [t.pearson for t in trends if t.pearson is not None]
    statistics, variances = np.array([_kendall(x, y) for x, y in pairs]).T
    return PooledTrend(
        searches=len(pairs),
        evaluations=sum(t.n for t in trends),
        pearson=_mean(pearson) if pearson else None,
        slope=_mean([t.slope for t in trends]),
        gain=_mean([_gain(x, y) for x, y in pairs]),
        kendall_p=_normal_p(statistics.sum(), variances.sum()),
        signs_p=_signs_p(statistics, seed),
    )


def movement(trajectory: ArrayLike) -> Array:
    """Euclidean lengths of steps, ``(T - 1, d)``, of anchors ``(T, d, f)`` in the units of the embedding."""
    return np.linalg.norm(np.diff(checked_points("trajectory", trajectory), axis=0), axis=-1)


def snap_distance(anchors: ArrayLike, embedded: ArrayLike) -> Array:
    """Distances ``(T, d)`` between anchors ``(T, d, f)`` and the points of their cells ``(T, d, f)``.

    How far the nearest cell is from where the search believes to be: the sparsity that section 3.2 suspects.
    """
    a, b = checked_points("anchors", anchors), checked_points("embedded cells", embedded)
    if a.shape != b.shape:
        raise InvalidInputError(f"expected anchors and cells of one shape, got {a.shape} and {b.shape}; embed each")
    return np.linalg.norm(a - b, axis=-1)


def straightness(trajectory: ArrayLike) -> Array:
    """Distance from first to last anchor as a share of the way there, ``(d,)``; NaN for rows that never moved.

    1 is a straight line; little is the "chainsaw pattern" of section 3.2, but also a random walk or a loop.

    Args:
        trajectory: anchors ``(T, d, f)``.
    """
    points = checked_points("trajectory", trajectory)
    way = movement(points).sum(axis=0)
    net = np.linalg.norm(points[-1] - points[0], axis=-1)
    return np.divide(net, way, out=np.full(len(way), np.nan), where=way > 0)


def moved(cells: Cells) -> NDArray[np.bool_]:
    """Whether a row's anchor cell differs from that of the preceding generation, ``(T - 1, d)``; cells ``(T, d)``."""
    keys = _keys(cells, "(T, d)")
    return np.not_equal(keys[1:], keys[:-1], dtype=bool)


def revisited(cells: Cells) -> NDArray[np.bool_]:
    """Whether a row returned: its anchor cell is not the preceding one, but was its anchor cell before that.

    Args:
        cells: keys of anchor cells ``(T, d)``.

    Returns:
        ``(T, d)``; a row that stays where it returned to is counted once.
    """
    keys = _keys(cells, "(T, d)")
    seen = [(keys[:t] == keys[t]).any(axis=0) for t in range(len(keys))]
    return np.array(seen) & np.concatenate([np.zeros_like(keys[:1], dtype=bool), moved(keys)])


def coverage(cells: Cells, size: int) -> Array:
    """Share of the space's cells that each row has held so far, in any column.

    Args:
        cells: keys ``(T, d, w)``.
        size: cells in the space.

    Returns:
        ``(T, d)``, never falling.
    """
    keys = _keys(cells, "(T, d, w)")
    total, depth, width = keys.shape
    first = [np.unique(keys[:, i], return_index=True)[1] // width for i in range(depth)]
    counts = np.array([np.bincount(generations, minlength=total).cumsum() for generations in first]).T
    if counts.max() > size:
        raise InvalidInputError(f"expected a size of {counts.max()} or more, got {size}; give len(space)")
    return counts / size


def p_text(value: float | None) -> str:
    """A p for people."""
    if value is None:
        return "no p"
    return f"p = {value:.2g}" if value >= 0.001 else "p < 0.001"


def generation_means(pairs: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Generations evaluated ``(g,)``, and the means over searches of each search's mean in them."""
    generations = np.unique(np.concatenate([x for x, _ in pairs]))
    means = [np.mean([y[x == one].mean() for x, y in pairs if one in x]) for one in generations]
    return generations, np.array(means, dtype=float)


def _kendall(x: Array, y: Array) -> tuple[float, float]:
    """Concordant less discordant pairs, and its variance without a trend, given the ties (Kendall, 1970)."""
    n = len(x)
    statistic = (np.sign(np.subtract.outer(x, x)) * np.sign(np.subtract.outer(y, y))).sum() / 2
    t, u = (np.unique(values, return_counts=True)[1].astype(float) for values in (x, y))

    def third(c: Any) -> Any:
        return np.sum(c * (c - 1) * (2 * c + 5))

    pairs = np.sum(t * (t - 1)) * np.sum(u * (u - 1)) / (2 * n * (n - 1))
    triples = np.sum(t * (t - 1) * (t - 2)) * np.sum(u * (u - 1) * (u - 2)) / (9 * n * (n - 1) * (n - 2))
    return statistic, max(0.0, (third(n) - third(t) - third(u)) / 18 + pairs + triples)


def _normal_p(statistic: float, variance: float) -> float:
    """Two-sided, with continuity correction; 1 where there is no variance, as of constants."""
    z = max(0.0, abs(statistic) - 1) / math.sqrt(variance) if variance > 0 else 0.0
    return float(2 * stats.norm.sf(z))


def _signs_p(statistics: Array, seed: int) -> float:
    """Two-sided, of a sum as large under random signs; all signs are tried for up to 13 searches."""
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
    """With Student's interval, since bootstrap intervals of so few searches are too narrow."""
    value = float(np.mean(values))
    # values that differ by rounding only have no noise to draw an interval from
    if len(values) < FEWEST or np.ptp(values) < 1e-12:
        return Mean(value, None, None)
    low, high = interval(values)
    return Mean(value, float(low), float(high))


def checked_search(generations: ArrayLike, accuracies: ArrayLike, name: str = "") -> tuple[Array, Array]:
    """Generations and accuracies ``(n,)``, if they can have a trend."""
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
    """Finite points of generations ``(T, d, f)``, or an ``InvalidInputError``."""
    points = np.asarray(values, dtype=float)
    if points.ndim != 3 or not len(points) or not np.isfinite(points).all():
        raise InvalidInputError(f"expected finite {name} (T, d, f), got shape {points.shape}; see FadeStudy.trajectory")
    return points


def _keys(cells: Cells, shape: str) -> NDArray[np.object_]:
    keys = np.array(cells, dtype=object)
    if keys.ndim != shape.count(",") + 1 or not keys.size:
        raise InvalidInputError(f"expected keys of cells {shape}, got {keys.shape}; the same rows in each generation")
    return keys
