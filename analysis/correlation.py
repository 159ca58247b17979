"""Curves and figures of a rank validation (section 3.1), from arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from fade_study.correlation import Estimate
from fade_study.ranking import fade_rank

__all__ = [
    "Curve",
    "Entry",
    "draw_curves",
    "draw_marginals",
    "draw_predictors",
    "draw_ranks",
    "epoch_curve",
    "repetition_curve",
    "sample_curves",
]

Array = NDArray[np.float64]
SMALLEST_COST = 0.01
"""Seconds, of what costs nothing, on a logarithmic axis."""
DRAWS = 200
"""Of repetitions, architectures or seeds, for each point of a curve."""


class Curve(NamedTuple):
    """Spearman's coefficient against something, with the range of 95 % of the draws."""

    x: NDArray[np.int64]
    median: Array
    low: Array
    high: Array


class Entry(NamedTuple):
    """A predictor in the comparison."""

    estimate: Estimate
    seconds: float


def epoch_curve(history: Array, paths: NDArray[np.int64], accuracies: Array) -> Curve:
    """Coefficient of FaDE-ranks after each epoch; the range is that of single trainings.

    Args:
        history: alphas ``(R, E, d, w)``.
        paths: ``(n, d)``.
        accuracies: means ``(n,)``.
    """
    epochs = range(history.shape[1])
    all_of_them = [_spearman(fade_rank(history[:, e], paths), accuracies) for e in epochs]
    single = np.array([[_spearman(fade_rank(one[e], paths), accuracies) for e in epochs] for one in history])
    low, high = np.quantile(single, [0.025, 0.975], axis=0)
    return Curve(np.arange(1, len(epochs) + 1), np.array(all_of_them), low, high)


def repetition_curve(alpha: Array, paths: NDArray[np.int64], accuracies: Array, seed: int = 0) -> Curve:
    """Coefficient of FaDE-ranks averaged over 1 .. R trainings, over draws of as many without replacement.

    Args:
        alpha: ``(R, d, w)``.
        paths: ``(n, d)``.
        accuracies: means ``(n,)``.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    counts = np.arange(1, len(alpha) + 1)
    drawn = [
        [_spearman(fade_rank(alpha[rng.permutation(len(alpha))[:k]], paths), accuracies) for _ in range(DRAWS)]
        for k in counts
    ]
    return _curve(counts, drawn)


def sample_curves(scores: Array, accuracies: Array, seed: int = 0) -> dict[int, Curve]:
    """Coefficient from ever more architectures, by the number of seeds of each: what a small validation may find.

    Args:
        scores: ``(n,)``.
        accuracies: ``(n, S)``.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    n, seeds = accuracies.shape
    counts = np.unique([k for k in (8, 16, 32, 64, 128, 256, 512) if k <= n] + [n])
    curves = {}
    for use in sorted({1, seeds}):
        drawn = []
        for k in counts:
            draws = [(rng.choice(n, k, replace=False), rng.choice(seeds, use, replace=False)) for _ in range(DRAWS)]
            drawn.append([_spearman(scores[a], accuracies[np.ix_(a, s)].mean(axis=1)) for a, s in draws])
        curves[use] = _curve(counts, drawn)
    return curves


def draw_marginals(alpha: Array, cells: Sequence[str]) -> Figure:
    """Alphas by cell and row, mean over repetitions with single repetitions as points, dark = deep (Fig. 2a).

    Args:
        alpha: ``(R, d, w)``.
        cells: keys of the w cells, the same in every row.
    """
    _, depth, width = alpha.shape
    figure = Figure(figsize=(1.6 * width + 1, 3.6), layout="constrained")
    ax = figure.subplots()
    for row in range(depth):
        shade = str(0.8 * (1 - row / max(1, depth - 1)))
        x = np.arange(width) + 0.8 * (row - (depth - 1) / 2) / depth
        ax.bar(x, alpha[:, row].mean(axis=0), 0.8 / depth, color=shade, edgecolor="black", linewidth=0.5,
               label=f"row {row}")  # fmt: skip
        ax.plot(np.broadcast_to(x, alpha[:, row].shape).T, alpha[:, row].T, "o", color="C1", markersize=2.5, alpha=0.6)
    ax.axhline(1 / width, color="C7", linewidth=0.6)
    ax.set_xticks(range(width), [key.replace(":", ":\n", 1) for key in cells], fontsize=8)
    ax.set(ylabel=f"alpha (points: {len(alpha)} single trainings)", xlabel="cell")
    ax.legend(fontsize=8)
    return figure


def draw_ranks(scores: Array, accuracies: Array, spearman: Estimate, seeds: int) -> Figure:
    """Evaluated against predicted ranks, 1 is best, with the regression line (Fig. 2b).

    Args:
        scores: ``(n,)``.
        accuracies: means over seeds ``(n,)``.
        spearman: their coefficient.
        seeds: over which accuracies are means.
    """
    figure = Figure(figsize=(4.8, 4.6), layout="constrained")
    ax = figure.subplots()
    predicted, evaluated = stats.rankdata(-scores), stats.rankdata(-accuracies)
    fit: Any = stats.linregress(predicted, evaluated)
    ends = np.array([1, len(scores)])
    ax.plot(predicted, evaluated, "o", color="C0", markersize=3 if len(scores) > 50 else 6, alpha=0.6)
    ax.plot(ends, fit.intercept + fit.slope * ends, color="C1")
    ax.set(
        xlabel="predicted rank (FaDE)",
        ylabel="evaluated rank (from scratch)",
        title=f"Spearman {spearman.value:.2f} [{spearman.low:.2f}, {spearman.high:.2f}], "
        f"n = {len(scores)} × {seeds} seed{'s' if seeds > 1 else ''}",
    )
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


def draw_curves(epochs: Curve, repetitions: Curve, samples: Mapping[int, Curve]) -> Figure:
    """The three curves of a validation side by side."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    _draw(axes[0], epochs, "C0", "all trainings (range: single ones)")
    _draw(axes[1], repetitions, "C0", "draws of trainings")
    for number, (seeds, curve) in enumerate(samples.items()):
        _draw(axes[2], curve, f"C{number}", f"{seeds} seed{'s' if seeds > 1 else ''} each")
    axes[2].set_xscale("log", base=2)
    for ax, label in zip(axes, ("epoch of the supernet", "trainings averaged", "architectures"), strict=True):
        ax.axhline(0, color="C7", linewidth=0.6)
        ax.set_xlabel(label)
        ax.legend(fontsize=8)
    axes[0].set_ylabel("Spearman coefficient of FaDE")
    return figure


def _draw(ax: Any, curve: Curve, color: str, label: str) -> None:
    ax.plot(curve.x, curve.median, ".-", color=color, label=label)
    ax.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.2)


def _curve(x: NDArray[np.int64], drawn: Sequence[Sequence[float]]) -> Curve:
    low, median, high = np.nanquantile(np.array(drawn), [0.025, 0.5, 0.975], axis=1)
    return Curve(x, median, low, high)


def _spearman(scores: Array, accuracies: Array) -> float:
    if min(np.ptp(scores), np.ptp(accuracies)) == 0:
        return float("nan")
    result: Any = stats.spearmanr(scores, accuracies)
    return float(result.statistic)
