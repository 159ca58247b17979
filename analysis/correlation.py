"""Curves and figures of a rank validation (section 3.1), from arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy import stats

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
"""Seconds, of what costs nothing, on a logarithmic axis."""


class Entry(NamedTuple):
    """A predictor in the comparison."""

    estimate: Estimate
    seconds: float


def draw_marginals(alpha: Array, cells: Sequence[Sequence[str]]) -> Figure:
    """Alphas by row and column, mean over repetitions with single repetitions as points (Fig. 2a).

    Args:
        alpha: ``(R, d, w)``.
        cells: keys of the cells, ``(d, w)``.
    """
    repetitions, depth, width = alpha.shape
    figure = Figure(figsize=(1.2 * width + 1, 1.9 * depth), layout="constrained")
    axes = figure.subplots(depth, 1, sharey=True, squeeze=False)[:, 0]
    for row, ax in enumerate(axes):
        ax.bar(range(width), alpha[:, row].mean(axis=0), 0.7, color="C0")
        ax.plot(alpha[:, row].T, "o", color="C1", markersize=3, alpha=0.7)
        ax.axhline(1 / width, color="C7", linewidth=0.6)
        ax.set_xticks(range(width), [key.replace(":", ":\n", 1) for key in cells[row]], fontsize=6)
        ax.set(ylabel=f"alpha, row {row}")
    figure.suptitle(f"Mean (bars) of {repetitions} trainings (points); the line is 1 / {width}", fontsize=9)
    return figure


def draw_ranks(cases: Mapping[str, tuple[Array, Array, Estimate]]) -> Figure:
    """Evaluated against predicted ranks of each hyper-architecture, 1 is best, with the regression line (Fig. 2b).

    Args:
        cases: by name, scores ``(n,)``, mean accuracies ``(n,)`` and their coefficient.
    """
    figure = Figure(figsize=(3.9 * len(cases) + 0.6, 4.2), layout="constrained")
    axes = figure.subplots(1, len(cases), squeeze=False)[0]
    for ax, (name, (scores, accuracies, spearman)) in zip(axes, cases.items(), strict=True):
        predicted, evaluated = stats.rankdata(-scores), stats.rankdata(-accuracies)
        fit: Any = stats.linregress(predicted, evaluated)
        ends = np.array([1, len(scores)])
        ax.plot(predicted, evaluated, "o", color="C0", markersize=3 if len(scores) > 50 else 6, alpha=0.6)
        ax.plot(ends, fit.intercept + fit.slope * ends, color="C1")
        ax.set(
            xlabel="predicted rank (FaDE)",
            title=f"{name}: {spearman.value:.2f} [{spearman.low:.2f}, {spearman.high:.2f}], n = {len(scores)}",
        )
    axes[0].set_ylabel("evaluated rank (from scratch)")
    return figure


def draw_predictors(entries: Mapping[str, Entry], ceiling: float | None, truth_seconds: float) -> Figure:
    """Coefficients of predictors with intervals, beside what they cost; hollow points are negative coefficients.

    Args:
        entries: by name.
        ceiling: that noise of the ground truth sets.
        truth_seconds: what the ground truth cost.
    """
    ordered = sorted(entries.items(), key=lambda item: abs(item[1].estimate.value))
    figure = Figure(figsize=(8, 0.27 * len(ordered) + 1.2), layout="constrained")
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
        left.legend(fontsize=8, loc="lower right")
    right.axvline(truth_seconds, color="C3", linewidth=1, linestyle="dashed", label="ground truth")
    right.legend(fontsize=8, loc="lower left")
    left.set_yticks(range(len(ordered)), [name for name, _ in ordered], fontsize=8)
    left.set_xlabel("|Spearman coefficient|, 95 %")
    right.set(xscale="log", xlabel="core-seconds, all of them")
    return figure


def draw_repetitions(curves: Mapping[str, Curve]) -> Figure:
    """Coefficients against the number of supernets, one line for each hyper-architecture."""
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    ax = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        ax.plot(curve.x, curve.median, ".-", color=f"C{number}", label=name)
        ax.fill_between(curve.x, curve.low, curve.high, color=f"C{number}", alpha=0.15)
    ax.axhline(0, color="C7", linewidth=0.6)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="supernets (band: 95 % of the draws)", ylabel="Spearman coefficient of FaDE")
    ax.legend(fontsize=8)
    return figure
