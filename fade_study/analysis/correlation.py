"""Figures of a rank validation (section 3.1), from arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from fade_study.analysis.style import FEWEST, SMALL, integers, new_figure
from fade_study.statistics.ranks import Curve, Estimate

__all__ = [
    "Entry",
    "draw_marginals",
    "draw_predictors",
    "draw_ranks",
    "draw_repetitions",
]

Array = NDArray[np.float64]
SMALLEST_COST = 0.01
"""Seconds shown for a predictor without cost, because the axis is logarithmic."""


class Entry(NamedTuple):
    """A predictor in the comparison."""

    estimate: Estimate
    seconds: float
    """Total core-seconds of its trainings."""


def draw_marginals(alpha: Array, cells: Sequence[Sequence[str]]) -> Figure:
    """Alphas by row and column: means over trainings, with single trainings as points (Fig. 2a).

    Args:
        alpha: Alphas ``(R, d, w)`` of R trainings.
        cells: Keys of the cells, ``(d, w)``.
    """
    repetitions, depth, width = alpha.shape
    figure = new_figure(1.2 * width + 1, 1.9 * depth + 0.4)
    axes = figure.subplots(depth, 1, sharey=True, squeeze=False)[:, 0]
    for row, ax in enumerate(axes):
        ax.bar(range(width), alpha[:, row].mean(axis=0), 0.7, color="C0", label=f"mean of {repetitions}")
        ax.plot(alpha[:, row].T, "o", color="C1", markersize=3, alpha=0.7, label="one training")
        ax.axhline(1 / width, color="C7", linewidth=0.6, label=f"1 / {width}")
        ax.set_xticks(range(width), [key.replace(":", ":\n", 1) for key in cells[row]], fontsize=6)
        ax.set(ylabel=f"alpha, row {row}")
    axes[-1].set_xlabel("cell (number of vertices: edges)")
    handles = [*axes[0].containers, axes[0].lines[0], axes[0].lines[-1]]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=SMALL)
    return figure


def draw_ranks(cases: Mapping[str, tuple[Array, Array, Estimate]]) -> Figure:
    """Evaluated against predicted ranks, a panel for each hyper-architecture, with the regression line (Fig. 2b).

    Args:
        cases: Scores ``(n,)``, mean accuracies ``(n,)`` and their coefficient by name of the hyper-architecture.
    """
    figure = new_figure(3.9 * len(cases) + 0.6, 4.2)
    axes = figure.subplots(1, len(cases), squeeze=False)[0]
    for ax, (name, (scores, accuracies, spearman)) in zip(axes, cases.items(), strict=True):
        predicted, evaluated = stats.rankdata(-scores), stats.rankdata(-accuracies)
        fit: Any = stats.linregress(predicted, evaluated)
        ends = np.array([1, len(scores)])
        ax.plot(predicted, evaluated, "o", color="C0", markersize=3 if len(scores) > 50 else 6, alpha=0.6)
        ax.plot(ends, fit.intercept + fit.slope * ends, color="C1")
        ax.set(
            xlabel="predicted rank (FaDE, 1 is best)",
            title=f"{name}: {spearman.value:.2f} [{spearman.low:.2f}, {spearman.high:.2f}], n = {len(scores)}",
        )
        ax.xaxis.set_major_locator(integers())
        ax.yaxis.set_major_locator(integers())
    axes[0].set_ylabel("evaluated rank (from scratch, 1 is best)")
    return figure


def draw_predictors(entries: Mapping[str, Entry], ceiling: float | None, truth_seconds: float) -> Figure:
    """Absolute coefficients of predictors with their intervals, next to their costs.

    Args:
        entries: Predictors by name; "fade" is drawn in another color.
        ceiling: Noise ceiling of the coefficients; None if it is unknown.
        truth_seconds: Total core-seconds of the ground truth.
    """
    ordered = sorted(entries.items(), key=lambda item: abs(item[1].estimate.value))
    figure = new_figure(8, 0.27 * len(ordered) + 1.4)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[2, 1])
    for y, (name, (estimate, seconds)) in enumerate(ordered):
        sign = 1 if estimate.value >= 0 else -1
        low, high = sorted((sign * estimate.low, sign * estimate.high))
        color = "C1" if name == "fade" else "C0"
        left.plot([low, high], [y, y], color=color, linewidth=1.5)
        left.plot(abs(estimate.value), y, "o", color=color, mfc=color if sign > 0 else "white")
        right.plot(max(seconds, SMALLEST_COST), y, "s", color=color)
    left.axvline(0, color="C7", linewidth=0.6)
    if ceiling is not None:
        left.axvline(ceiling, color="C3", linewidth=1, label=f"noise ceiling {ceiling:.2f}")
    if any(entry.estimate.value < 0 for entry in entries.values()):
        left.plot([], [], "o", color="C0", mfc="white", label="negative coefficient")
    right.axvline(truth_seconds, color="C3", linewidth=1, linestyle="dashed", label="cost of the ground truth")
    left.set_yticks(range(len(ordered)), [name for name, _ in ordered], fontsize=SMALL)
    left.set(xlabel="|Spearman coefficient|, 95 % interval", ylabel="predictor")
    right.set(xscale="log", xlabel="total cost (core-seconds)")
    figure.legend(loc="outside upper center", ncols=3, fontsize=SMALL)
    return figure


def draw_repetitions(curves: Mapping[str, Curve]) -> Figure:
    """Coefficients against the number of supernets, a line for each hyper-architecture."""
    figure = new_figure(5.2, 3.6)
    ax = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        ax.plot(curve.x, curve.median, ".-", color=f"C{number}", label=name)
        if len(curve.x) >= FEWEST:
            ax.fill_between(curve.x, curve.low, curve.high, color=f"C{number}", alpha=0.15)
    ax.axhline(0, color="C7", linewidth=0.6)
    ax.xaxis.set_major_locator(integers())
    ax.set(xlabel="number of supernets", ylabel="Spearman coefficient of FaDE")
    ax.legend(fontsize=SMALL, title_fontsize=SMALL, title="median, with the range of 95 % of draws")
    return figure
