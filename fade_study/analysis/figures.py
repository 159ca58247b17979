"""Figures of alphas and of costs, from arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fade_study.analysis import style

SIZES = {"w =": "width w (columns)", "d =": "depth d (rows)", "batch size": "batch size (images)"}
"""Names of axes for the sizes that a benchmark varies."""


def draw_alpha(alpha: NDArray[np.float64], cells: Sequence[Sequence[str]], title: str = "Alphas") -> Figure:
    """Alphas ``(d, w)`` as shades, with the keys ``(d, w)`` of their cells."""
    depth, width = alpha.shape
    figure = style.new_figure(max(1.05 * width + 1.2, 4), 0.8 * depth + 1.1, title)
    ax = figure.subplots()
    image = ax.imshow(alpha, cmap="Blues", vmin=0, aspect="auto")
    for i, row in enumerate(cells):
        for j, key in enumerate(row):
            shade = "white" if alpha[i, j] > 0.6 * alpha.max() else "black"
            text = f"{alpha[i, j]:.2f}\n{style.wrapped_key(key, 16)}"
            ax.text(j, i, text, ha="center", va="center", fontsize=6, color=shade)
    ax.set(xlabel="column (0: the anchor's cell)", ylabel="row (0: shallow)", xticks=range(width), yticks=range(depth))
    figure.colorbar(image, label="alpha (sum of a row: 1)")
    return figure


def draw_alpha_history(history: NDArray[np.float64]) -> Figure:
    """Alphas ``(E, d, w)`` over the epochs of a training, one panel per row."""
    _, depth, width = history.shape
    # Fixed margins: the automatic layout draws everything twice, and a search draws this figure in each generation.
    inches = max(2 * depth, 4) + 0.8
    margins = {"left": 0.85 / inches, "right": 1 - 0.1 / inches, "bottom": 0.17, "top": 0.8, "wspace": 0.05}
    figure = Figure(figsize=(inches, 2.9), dpi=style.DPI)
    style.set_title(figure, "alphas over the epochs of a training")
    axes = figure.subplots(1, depth, sharex=True, sharey=True, squeeze=False, gridspec_kw=margins)[0]
    for i, ax in enumerate(axes):
        ax.plot(history[:, i, 1:], ".-", color=style.BLUE, lw=1, ms=3, alpha=0.6, label="other columns")
        ax.plot(history[:, i, 0], ".-", color=style.RED, ms=4, label="column 0 (anchor)")
        ax.axhline(1 / width, color=style.GREY, linewidth=0.8, linestyle="dashed", label=f"1 / {width}")
        ax.set_title(f"row {i}", fontsize=9)
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(style.integers())
    axes[0].set_ylabel("alpha (sum of a row: 1)")
    axes[0].legend(handles=list({line.get_label(): line for line in axes[0].lines}.values()), fontsize=style.SMALL)
    return figure


def draw_costs(costs: Mapping[str, tuple[Sequence[int], Mapping[str, NDArray[np.float64]]]]) -> Figure:
    """Durations of training steps against sizes, as medians with quartiles, and straight lines fitted to the medians.

    ``costs`` holds by name of a size its k values, and seconds ``(repetitions, k)`` by kind of step.
    """
    repetitions = min(len(seconds) for _, steps in costs.values() for seconds in steps.values())
    measured = "medians with quartiles" if repetitions >= style.FEWEST else "medians"
    title = f"cost of a training step: {measured} of {repetitions} measurements, lines fitted to the medians"
    figure = style.new_figure(3.2 * len(costs) + 0.4, 3.4, title)
    axes = figure.subplots(1, len(costs), squeeze=False)[0]
    for ax, (name, (sizes, steps)) in zip(axes, costs.items(), strict=True):
        for color, (step, seconds) in zip(style.COLORS, steps.items(), strict=False):
            low, median, high = 1000 * np.quantile(seconds, [0.25, 0.5, 0.75], axis=0)
            errors = [median - low, high - median] if len(seconds) >= style.FEWEST else None
            ax.errorbar(sizes, median, errors, fmt=".", color=color, label=step, capsize=2)
            ax.plot(sizes, np.polyval(np.polyfit(sizes, median, 1), sizes), color=color, linewidth=0.8)
        ax.set(xlabel=SIZES.get(name, name), ylim=(0, None))
        ax.xaxis.set_major_locator(style.integers())
    axes[0].set_ylabel("time per step (ms)")
    style.legend_below(figure, handles=axes[0].get_legend_handles_labels()[0], ncols=3)
    return figure
