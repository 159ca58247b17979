"""Figures of a rank validation (section 3.1), from arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy import stats

from fade_study.analysis import style
from fade_study.statistics.ranks import Curve, Estimate

Array = NDArray[np.float64]
SMALLEST_COST = 0.01
"""Seconds shown for a predictor without cost, because the axis is logarithmic."""


class Entry(NamedTuple):
    """A predictor in the comparison."""

    estimate: Estimate
    seconds: float
    """Total core-seconds of its trainings."""


def draw_marginals(alpha: Array, cells: Sequence[Sequence[str]]) -> Figure:
    """Alphas ``(R, d, w)`` of R trainings: means with 95 % intervals, single trainings as points (Fig. 2a).

    ``cells`` are the keys of the cells, ``(d, w)``.
    """
    repetitions, depth, width = alpha.shape
    ends, means = style.accuracy_interval(alpha), alpha.mean(axis=0)
    spread = "" if ends is None else ", 95 % intervals of the means"
    title = f"alphas of {repetitions} trainings of one hyper-architecture{spread}"
    figure = style.new_figure(max(1.2 * width + 1, 4.2), 1.9 * depth + 0.9, title)
    axes = figure.subplots(depth, 1, sharey=True, squeeze=False)[:, 0]
    for row, ax in enumerate(axes):
        ax.bar(range(width), means[row], 0.7, color=style.BLUE, label=f"mean of {repetitions}")
        ax.plot(alpha[:, row].T, "o", color=style.RED, markersize=3, alpha=0.7, label="one training")
        ax.axhline(1 / width, color=style.GREY, linewidth=0.8, linestyle="dashed", label=f"1 / {width}")
        if ends is not None:
            errors = np.abs(ends[:, row] - means[row])
            ax.errorbar(range(width), means[row], errors, fmt="none", color=style.BLACK, capsize=3, lw=1)
        ax.set_xticks(range(width), [style.wrapped_key(key, 16) for key in cells[row]], fontsize=6)
        ax.set(ylabel=f"alpha, row {row}")
    axes[-1].set_xlabel("cell (number of vertices: edges)")
    style.legend_below(figure, handles=[axes[0].containers[0], axes[0].lines[0], axes[0].lines[repetitions]], ncols=3)
    return figure


def draw_ranks(cases: Mapping[str, tuple[Array, Array, Estimate]]) -> Figure:
    """Evaluated against predicted ranks, a panel for each hyper-architecture, with the regression line (Fig. 2b).

    ``cases`` holds scores ``(n,)``, mean accuracies ``(n,)`` and their coefficient by name of the hyper-architecture.
    """
    figure = style.new_figure(max(3.4 * len(cases) + 0.6, 4.6), 4.6, "FaDE-ranks against accuracy from scratch")
    axes = figure.subplots(1, len(cases), squeeze=False)[0]
    for ax, (name, (scores, accuracies, spearman)) in zip(axes, cases.items(), strict=True):
        predicted, evaluated = stats.rankdata(-scores), stats.rankdata(-accuracies)
        fit: Any = stats.linregress(predicted, evaluated)
        ends = np.array([1, len(scores)])
        size = 3 if len(scores) > 50 else 6
        ax.plot(predicted, evaluated, "o", color=style.BLUE, ms=size, mew=0, alpha=0.6, label="one architecture")
        ax.plot(ends, fit.intercept + fit.slope * ends, color=style.RED, label="least-squares line")
        said = f"{name}, n = {len(scores)}\nSpearman {spearman.value:.2f} [{spearman.low:.2f}, {spearman.high:.2f}]"
        ax.set_title(said, fontsize=9)
        ax.set_xlabel("predicted rank (1 is best)")
        ax.xaxis.set_major_locator(style.integers())
        ax.yaxis.set_major_locator(style.integers())
    axes[0].set_ylabel("evaluated rank (from scratch, 1 is best)")
    style.legend_below(figure, handles=axes[0].lines, ncols=2)
    return figure


def draw_predictors(entries: Mapping[str, Entry], ceiling: float | None, truth_seconds: float) -> Figure:
    """Coefficients of predictors with their signs and intervals, next to their costs.

    The noise ceiling is None if it is unknown; ``truth_seconds`` are the core-seconds of the ground truth.
    """
    ordered = sorted(entries.items(), key=lambda item: item[1].estimate.value)
    title = "predictors of accuracy from scratch: Spearman coefficients with 95 % intervals, and costs"
    figure = style.new_figure(8, 0.27 * len(ordered) + 1.7, title)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[2, 1])
    for y, (name, (estimate, seconds)) in enumerate(ordered):
        color = style.RED if name == "fade" else style.BLUE
        left.plot([estimate.low, estimate.high], [y, y], color=color, linewidth=1.5)
        left.plot(estimate.value, y, "o", color=color)
        right.plot(max(seconds, SMALLEST_COST), y, "s", color=color)
    left.axvline(0, color=style.GREY, linewidth=0.6)
    left.plot([], [], "o-", color=style.RED, label="FaDE-rank")
    left.plot([], [], "o-", color=style.BLUE, label="other predictor")
    if ceiling is not None:
        for sign, label in ((1, f"noise ceiling ±{ceiling:.2f}"), (-1, None)):
            left.axvline(sign * ceiling, color=style.BLACK, linewidth=1, linestyle="dotted", label=label)
    right.axvline(truth_seconds, color=style.BLACK, linewidth=1, linestyle="dashed", label="cost of the ground truth")
    left.set_yticks(range(len(ordered)), [name for name, _ in ordered], fontsize=style.SMALL)
    left.set(xlabel="Spearman coefficient", ylabel="predictor", xlim=(-1.05, 1.05))
    right.set(xscale="log", xlabel="total cost (core-seconds)")
    for ax in (left, right):
        ax.grid(axis="y", linewidth=0.3, alpha=0.5)
    style.legend_below(figure, ncols=4)
    return figure


def draw_repetitions(curves: Mapping[str, Curve]) -> Figure:
    """Coefficients against the number of supernets, a line for each hyper-architecture."""
    figure = style.new_figure(5.2, 3.9, "FaDE-ranks from the alphas of several supernets, medians over their choice")
    ax = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        color = style.COLORS[number % len(style.COLORS)]
        ax.plot(curve.x, curve.median, ".-", color=color, label=name)
        if len(curve.x) >= style.FEWEST:
            ax.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.15, linewidth=0)
    ax.axhline(0, color=style.GREY, linewidth=0.6)
    ax.xaxis.set_major_locator(style.integers())
    ax.set(xlabel="number of supernets", ylabel="Spearman coefficient of FaDE")
    handles: list[Any] = list(ax.lines[: len(curves)])
    if ax.collections:
        handles.append(Patch(color=style.GREY, alpha=0.3, label="range of 95 % of the choices"))
    style.legend_below(figure, handles=handles, ncols=2)
    return figure
