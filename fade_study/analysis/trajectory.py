"""Figures of how a search moved and whether it got better (section 3.2, Figs. 3b and 4), from arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from fade_study import InvalidInputError
from fade_study.analysis.style import FEWEST, SMALL, integers, new_figure
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
    """Accuracies over generations with their means and the Theil–Sen line, of one search or several (Fig. 3b).

    The mean of a generation is taken over searches, after the mean over the evaluations of each search. The line has
    the mean slope and the mean intercept of the searches' lines.

    Args:
        searches: Generations ``(n,)`` and accuracies ``(n,)`` of each search.
        seed: Seed for :func:`pooled_trend`, which also raises the errors.
    """
    pooled = pooled_trend(searches, seed)
    pairs = [checked_search(*search) for search in searches]
    figure = new_figure(6, 4)
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
    ax.xaxis.set_major_locator(integers())
    ax.set_title(_title(pooled, pairs), fontsize=10)
    ax.legend(fontsize=SMALL)
    return figure


def draw_trajectories(trajectories: Sequence[ArrayLike], features: Sequence[str]) -> Figure:
    """Anchors of searches, a panel per row and feature, with their mean; below, the means of all rows (Fig. 4).

    A search counts in the means until its last generation, so that a mean may jump where one ends.

    Args:
        trajectories: Anchors ``(T, d, f)`` of each search; T may differ.
        features: Names of the f features.
    """
    values = _padded([checked_points("trajectory", trajectory) for trajectory in trajectories])
    means = np.nanmean(values, axis=0)
    total, depth, width = means.shape
    figure = new_figure(3.2 * width, 1.4 * (depth + 1))
    axes = figure.subplots(depth + 1, width, sharex=True, sharey=True, squeeze=False)
    for j, feature in enumerate(features):
        axes[0, j].set_title(feature.replace("_", " "))
        for i in range(depth):
            axes[i, j].plot(values[:, :, i, j].T, color="C0", linewidth=0.6, alpha=0.6, label="search")
            axes[i, j].plot(means[:, i, j], color="C1", linewidth=2)
        axes[depth, j].plot(means[:, :, j], color="C7", linewidth=0.8, label="mean of a row")
        axes[depth, j].plot(means[:, :, j].mean(axis=1), color="C1", linewidth=2, label="mean of the panel")
        axes[depth, j].set(xlabel="generation", ylim=(-0.05, 1.05), xlim=(-0.2, max(total - 0.8, 1)))
    axes[0, 0].xaxis.set_major_locator(integers())
    for i in range(depth):
        axes[i, 0].set_ylabel(f"row {i}")
    axes[depth, 0].set_ylabel("all rows")
    figure.supylabel("anchor (feature, scaled to [0, 1])", fontsize=10)
    handles = [axes[0, 0].lines[0], axes[depth, 0].lines[0], axes[depth, 0].lines[-1]]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=SMALL)
    return figure


def draw_movement(trajectories: Sequence[ArrayLike]) -> Figure:
    """Length of the step into each generation, a panel per row: median and quartiles over searches ``(T, d, f)``.

    A search counts until its last generation, so that a median may jump where one ends.
    """
    return _draw_rows([movement(one) for one in trajectories], 1, "length of step (scaled features)")


def draw_coverage(coverages: Sequence[Array]) -> Figure:
    """Share of cells held so far, a panel per row: median and quartiles over searches ``(T, d)``."""
    return _draw_rows(coverages, 0, "share of cells held so far")


def _draw_rows(series: Sequence[Array], start: int, label: str) -> Figure:
    """Median and quartiles over series ``(T, d)``, whose first entry belongs to generation ``start``."""
    values = _padded(series)
    low, median, high = np.nanquantile(values, [0.25, 0.5, 0.75], axis=0)
    depth = values.shape[2]
    figure = new_figure(2.6 * depth + 0.6, 2.6)
    axes = figure.subplots(1, depth, sharex=True, sharey=True, squeeze=False)[0]
    x = np.arange(start, start + values.shape[1])
    for i, ax in enumerate(axes):
        if len(series) >= FEWEST:
            ax.fill_between(x, low[:, i], high[:, i], color="C0", alpha=0.25, linewidth=0, label="quartiles")
        ax.plot(x, median[:, i], ".-", color="C0", label="median" if len(series) > 1 else None)
        ax.set(title=f"row {i}", xlabel="generation")
    axes[0].xaxis.set_major_locator(integers())
    axes[0].set(ylabel=label, ylim=(0, None))  # last, because it stops the automatic scaling of the shared axis
    if len(series) > 1:
        axes[-1].legend(fontsize=SMALL)
    return figure


def _title(pooled: PooledTrend, pairs: Sequence[tuple[Array, Array]]) -> str:
    if len(pairs) > 1:
        counts = f"{pooled.evaluations} evaluations of {pooled.searches} searches"
        return f"{counts}, mean r = {pooled.pearson or 'undefined'}\n{p_text(pooled.signs_p)} (signs of searches)"
    one = trend(*pairs[0])
    said = "all of the same accuracy" if one.pearson is None else f"r = {one.pearson:.2f}, {p_text(one.pearson_p)}"
    return f"{one.n} evaluations of 1 search\n{said}"


def _padded(series: Sequence[Array]) -> Array:
    """Series ``(T, ...)`` of different T as one array ``(S, longest T, ...)``, NaN where one has ended."""
    if not len(series) or max(len(one) for one in series) == 0 or len({one.shape[1:] for one in series}) > 1:
        shapes = [one.shape for one in series]
        raise InvalidInputError(
            f"expected searches that differ only in their number of generations, got {shapes}; draw others separately"
        )
    padded = np.full((len(series), max(len(one) for one in series), *series[0].shape[1:]), np.nan)
    for filled, one in zip(padded, series, strict=True):
        filled[: len(one)] = one
    return padded
