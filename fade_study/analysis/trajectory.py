"""Figures of how a search moved and whether it got better (section 3.2, Figs. 3b and 4), from arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from fade_study import InvalidInputError
from fade_study.analysis import style
from fade_study.statistics import trend as trends

Array: TypeAlias = NDArray[np.float64]


def draw_trend(
    searches: Sequence[trends.Search], tests: Mapping[int, Sequence[float]] = MappingProxyType({})
) -> Figure:
    """Accuracies over generations with their means and the Theil–Sen line, of one search or several (Fig. 3b).

    The mean of a generation is taken over searches, after the mean over the evaluations of each search. The line has
    the mean slope and the mean intercept of the searches' lines.

    A search is given by generations ``(n,)`` and accuracies ``(n,)``. ``tests`` are accuracies of a single search, one
    per seed of the training, by generation, for intervals of the means.
    """
    pooled = trends.pooled_trend(searches)
    pairs = [trends.checked_search(*search) for search in searches]
    figure = style.new_figure(6, 4.3, _title(pooled, pairs))
    ax = figure.subplots()
    x, y = np.concatenate([np.stack(pair) for pair in pairs], axis=1)
    found = _by_generation(pairs)
    many = len(found) < len(x)
    ax.plot(x, y, "o", color=style.BLUE, ms=4, mew=0, alpha=0.35 if many else 1, label="evaluation, mean of its seeds")
    if many:
        ax.plot(list(found), [np.mean(values) for values in found.values()], ".-", color=style.BLUE, label="mean")
    ends = np.array([x.min(), x.max()])
    intercept = np.mean([np.median(y) - trends.trend(x, y).slope * np.median(x) for x, y in pairs])
    ax.plot(ends, intercept + pooled.slope.value * ends, color=style.RED, label="Theil–Sen line", linewidth=2)
    _add_intervals(ax, tests if len(pairs) == 1 else found)
    ax.set(xlabel="generation", ylabel="test accuracy from scratch")
    ax.xaxis.set_major_locator(style.integers())
    style.legend_below(figure, ncols=2)
    return figure


def _add_intervals(ax: Axes, values: Mapping[int, Sequence[float]]) -> None:
    """Add the 95 % intervals of means of accuracies, by generation."""
    label = "95 % interval of the mean"
    for generation, accuracies in values.items():
        ends = style.accuracy_interval(accuracies)
        if ends is not None:
            mean = np.mean(accuracies)
            errors = np.abs(ends - mean)[:, None]
            ax.errorbar(generation, mean, errors, fmt="none", color=style.GREY, capsize=2, lw=1, zorder=1, label=label)
            label = None


def _by_generation(pairs: Sequence[tuple[Array, Array]]) -> dict[int, list[float]]:
    """Mean accuracies of the searches that were evaluated in a generation, by generation."""
    found = sorted({int(one) for x, _ in pairs for one in x})
    return {one: [float(y[x == one].mean()) for x, y in pairs if one in x] for one in found}


def draw_trajectories(trajectories: Sequence[ArrayLike], features: Sequence[str]) -> Figure:
    """Anchors of searches, a panel per row and feature, with their mean; below, the means of all rows (Fig. 4).

    A search counts in the means until its last generation, so that a mean may jump where one ends.
    Trajectories are anchors ``(T, d, f)``, where T may differ; ``features`` are the names of the f features.
    """
    values = _padded([trends.checked_points("trajectory", trajectory) for trajectory in trajectories])
    means = np.nanmean(values, axis=0)
    total, depth, width = means.shape
    count = f"{len(values)} searches" if len(values) > 1 else "one search"
    figure = style.new_figure(
        max(2.7 * width + 0.5, 4.5), 1.25 * (depth + 1) + 0.9, f"anchors of {count} by generation"
    )
    axes = figure.subplots(depth + 1, width, sharex=True, sharey=True, squeeze=False)
    for j, feature in enumerate(features):
        axes[0, j].set_title(feature.replace("_", " "), fontsize=9)
        for i in range(depth):
            axes[i, j].plot(
                values[:, :, i, j].T, ".-", ms=2, color=style.BLUE, linewidth=0.6, alpha=0.6, label="one search"
            )
            axes[i, j].plot(means[:, i, j], ".-", ms=4, color=style.RED, linewidth=1.5)
        axes[depth, j].plot(means[:, :, j], color=style.GREY, linewidth=0.8, label="a row's mean")
        axes[depth, j].plot(
            means[:, :, j].mean(axis=1), ".-", ms=4, color=style.RED, linewidth=1.5, label="mean of the panel"
        )
        axes[depth, j].set(xlabel="generation", ylim=(-0.05, 1.05), xlim=(-0.2, total - 0.8))
    axes[0, 0].xaxis.set_major_locator(style.integers())
    for i in range(depth):
        axes[i, 0].set_ylabel(f"row {i}")
    axes[depth, 0].set_ylabel("all rows")
    figure.supylabel("anchor's coordinate (feature, scaled to [0, 1])", fontsize=10)
    handles = [axes[0, 0].lines[0], axes[depth, 0].lines[0], axes[depth, 0].lines[-1]]
    style.legend_below(figure, handles=handles[1:] if len(values) == 1 else handles, ncols=3)
    return figure


def draw_rows(series: Sequence[Array], start: int, title: str, label: str) -> Figure:
    """A panel per row: median and quartiles over series ``(T, d)``, whose first entry belongs to generation ``start``.

    A series counts until its last entry, so that a median may jump where one ends.
    """
    values = _padded(series)
    low, median, high = np.nanquantile(values, [0.25, 0.5, 0.75], axis=0)
    depth = values.shape[2]
    if len(series) > 1:
        title += f", medians{' and quartiles' if len(series) >= style.FEWEST else ''} of {len(series)} searches"
    figure = style.new_figure(max(2 * depth + 0.6, 4.5), 2.9, title)
    axes = figure.subplots(1, depth, sharex=True, sharey=True, squeeze=False)[0]
    x = np.arange(start, start + values.shape[1])
    for i, ax in enumerate(axes):
        if len(series) >= style.FEWEST:
            ax.fill_between(x, low[:, i], high[:, i], color=style.BLUE, alpha=0.25, linewidth=0, label="quartiles")
        ax.plot(x, median[:, i], ".-", color=style.BLUE, label="median")
        ax.set_title(f"row {i}", fontsize=9)
        ax.set_xlabel("generation")
        ax.xaxis.set_major_locator(style.integers())
    axes[0].set(ylabel=label, ylim=(0, None))  # last, because it stops the automatic scaling of the shared axis
    if len(series) > 1:
        style.legend_below(figure, handles=axes[0].get_legend_handles_labels()[0], ncols=2)
    return figure


def _title(pooled: trends.PooledTrend, pairs: Sequence[tuple[Array, Array]]) -> str:
    if len(pairs) > 1:
        counts = f"{pooled.evaluations} evaluations of {pooled.searches} searches"
        return (
            f"{counts}, mean r = {pooled.pearson or 'undefined'}, {trends.p_text(pooled.signs_p)} (signs of searches)"
        )
    one = trends.trend(*pairs[0])
    said = (
        "all of the same accuracy" if one.pearson is None else f"r = {one.pearson:.2f}, {trends.p_text(one.pearson_p)}"
    )
    return f"accuracy of {one.n} generations, {said}"


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
