"""Figures of how a search moved and whether it got better (section 3.2, Figs. 3b and 4), from arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from fade_study import InvalidInputError
from fade_study.statistics.trend import (
    PooledTrend,
    Search,
    checked_points,
    checked_search,
    generation_means,
    movement,
    p_text,
    pooled_trend,
    trend,
)

__all__ = [
    "draw_coverage",
    "draw_movement",
    "draw_trajectories",
    "draw_trend",
]

Array: TypeAlias = NDArray[np.float64]


def draw_trend(searches: Sequence[Search], seed: int = 0) -> Figure:
    """Accuracies over generations with their means and Theil and Sen's line, of one search or many (Fig. 3b).

    Means are over searches, after those of evaluations that one search has in a generation; the line has the mean slope
    and intercept of those of the searches.

    Args:
        searches: generations ``(n,)`` and accuracies ``(n,)`` of each.
        seed: as in :func:`pooled_trend`, which also says what is raised.
    """
    pooled = pooled_trend(searches, seed)
    pairs = [checked_search(*search) for search in searches]
    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.subplots()
    x, y = np.concatenate([np.stack(pair) for pair in pairs], axis=1)
    generations, means = generation_means(pairs)
    many = len(generations) < len(x)
    ax.plot(x, y, "o", color="C0", ms=4, markeredgewidth=0, alpha=0.35 if many else 1, label="one evaluation")
    if many:
        ax.plot(generations, means, ".-", color="C0", label="mean")
    ends = np.array([x.min(), x.max()])
    intercept = np.mean([np.median(y) - trend(x, y).slope * np.median(x) for x, y in pairs])
    ax.plot(ends, intercept + pooled.slope.value * ends, color="C1", label="Theil–Sen line", linewidth=2)
    ax.set(xlabel="generation", ylabel="from-scratch accuracy")
    ax.set_title(_title(pooled, pairs), fontsize=10)
    ax.legend(fontsize=8)
    return figure


def draw_trajectories(trajectories: Sequence[ArrayLike], features: Sequence[str]) -> Figure:
    """Anchors of searches, a panel per row and feature, with their mean; below, the means of all rows (Fig. 4).

    Means are over the searches that are still there: they may jump where one ends.

    Args:
        trajectories: ``(T, d, f)`` of each search; T may differ.
        features: names of the f features.
    """
    values = _padded([checked_points("trajectory", trajectory) for trajectory in trajectories])
    means = np.nanmean(values, axis=0)
    total, depth, width = means.shape
    figure = Figure(figsize=(3.2 * width, 1.4 * (depth + 1)), layout="constrained")
    axes = figure.subplots(depth + 1, width, sharex=True, sharey=True, squeeze=False)
    for j, feature in enumerate(features):
        axes[0, j].set_title(feature.replace("_", " "))
        for i in range(depth):
            axes[i, j].plot(values[:, :, i, j].T, color="C0", linewidth=0.6, alpha=0.6)
            axes[i, j].plot(means[:, i, j], color="C1", linewidth=2)
        axes[depth, j].plot(means[:, :, j], color="C7", linewidth=0.8)
        axes[depth, j].plot(means[:, :, j].mean(axis=1), color="C1", linewidth=2)
        axes[depth, j].set(xlabel="generation", ylim=(-0.05, 1.05), xlim=(-0.2, max(total - 0.8, 1)))
    for i in range(depth):
        axes[i, 0].set_ylabel(f"row {i}")
    axes[depth, 0].set_ylabel("rows, mean")
    return figure


def draw_movement(trajectories: Sequence[ArrayLike]) -> Figure:
    """Lengths of steps into each generation, a panel per row: median and quartiles over searches ``(T, d, f)``.

    As in all figures over searches, those that have ended are left out, which may make a median jump.
    """
    return _draw_rows([movement(trajectory) for trajectory in trajectories], 1, "length of step")


def draw_coverage(coverages: Sequence[Array]) -> Figure:
    """Share of cells held so far, a panel per row: median and quartiles over searches, ``(T, d)`` of each."""
    return _draw_rows(coverages, 0, "share of cells held")


def _draw_rows(series: Sequence[Array], start: int, label: str) -> Figure:
    """Median and quartiles over series ``(T, d)``, whose first entry is that of generation ``start``."""
    values = _padded(series)
    low, median, high = np.nanquantile(values, [0.25, 0.5, 0.75], axis=0)
    depth = values.shape[2]
    figure = Figure(figsize=(2.6 * depth + 0.6, 2.6), layout="constrained")
    axes = figure.subplots(1, depth, sharex=True, sharey=True, squeeze=False)[0]
    x = np.arange(start, start + values.shape[1])
    for i, ax in enumerate(axes):
        ax.fill_between(x, low[:, i], high[:, i], color="C0", alpha=0.25, linewidth=0, label="quartiles")
        ax.plot(x, median[:, i], ".-", color="C0", label="median")
        ax.set(title=f"row {i}", xlabel="generation")
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set(ylabel=label, ylim=(0, None))  # once all are drawn: it ends the scaling of the shared axis
    axes[-1].legend(fontsize=8)
    return figure


def _title(pooled: PooledTrend, pairs: Sequence[tuple[Array, Array]]) -> str:
    if len(pairs) > 1:
        counts = f"{pooled.evaluations} evaluations of {pooled.searches} searches"
        ps = f"{p_text(pooled.signs_p)} (signs of searches), {p_text(pooled.kendall_p)} (regional Kendall)"
        return f"{counts}, mean r = {pooled.pearson or 'undefined'}\n{ps}"
    one = trend(*pairs[0])
    said = "all of the same accuracy" if one.pearson is None else f"r = {one.pearson:.2f}, {p_text(one.pearson_p)}"
    return f"{one.n} evaluations of 1 search\n{said}"


def _padded(series: Sequence[Array]) -> Array:
    """Series ``(T, ...)`` of different T as ``(S, longest T, ...)``, NaN where one has ended."""
    if not len(series) or max(len(one) for one in series) == 0 or len({one.shape[1:] for one in series}) > 1:
        shapes = [one.shape for one in series]
        raise InvalidInputError(
            f"expected searches that differ in their generations only, got {shapes}; draw others apart"
        )
    padded = np.full((len(series), max(len(one) for one in series), *series[0].shape[1:]), np.nan)
    for filled, one in zip(padded, series, strict=True):
        filled[: len(one)] = one
    return padded
