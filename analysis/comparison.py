"""Figures of an arena of outer searches: what each reaches with paired seeds and equal budgets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

from fade_study import InvalidInputError
from fade_study.statistics.arena import Standing, check_baseline, interval

__all__ = [
    "draw_anytime",
    "draw_finals",
]

Array = NDArray[np.float64]
LABEL_SIZE = 8
"""Points."""


def draw_finals(rows: Sequence[Standing], baseline: str = "random", controls: Collection[str] = ()) -> Figure:
    """Final accuracies with their intervals, best on top; the baseline orange, with a dashed line, and controls grey.

    Intervals are of single searchers, so that two may overlap though the paired difference is clear: see the table.

    Raises:
        InvalidInputError: where the baseline isn't among the rows.
    """
    check_baseline(baseline, [row.searcher for row in rows])
    figure = Figure(figsize=(6, 0.27 * len(rows) + 1), layout="constrained")
    ax = figure.subplots()
    ordered = sorted(rows, key=lambda row: row.final)
    for y, row in enumerate(ordered):
        color = "C1" if row.searcher == baseline else "C7" if row.searcher in controls else "C0"
        ax.plot([row.low, row.high], [y, y], color=color, linewidth=1.5)
        ax.plot(row.final, y, "o", color=color, markersize=5)
        if row.searcher == baseline:
            ax.axvline(row.final, color=color, linestyle="dashed", linewidth=1, zorder=0)
    ax.set_yticks(range(len(ordered)), [row.searcher for row in ordered], fontsize=LABEL_SIZE)
    seeds = "–".join(map(str, sorted({row.seeds for row in rows})))
    ax.set_xlabel(f"final test accuracy, mean of {seeds} seeds, 95 %")
    ax.grid(axis="x", linewidth=0.4, alpha=0.5)
    return figure


def draw_anytime(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    highlight: Collection[str] = (),
    ylabel: str = "best test accuracy so far",
    bottom: float | None = None,
) -> Figure:
    """Mean over seeds against budget, where all seeds have begun, each labelled at its end.

    Args:
        curves: by searcher, budgets ``(G,)`` in training steps and values ``(S, G)``, such as :func:`anytime` gives.
        highlight: searchers drawn bold, with the 95 % interval at each budget.
        ylabel: what the values are, such as "test accuracy of the current anchor".
        bottom: of the y axis; by default the lowest value drawn after a fifth of the budget, since the steep beginning
            of a search would leave no room for what is to be compared.

    Raises:
        InvalidInputError: for shapes that don't fit, or a curve with no budget at which all seeds have begun.
    """
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    ax = figure.subplots()
    drawn = {name: _checked_curve(name, *curve) for name, curve in curves.items()}
    start, end = min(x[0] for x, _ in drawn.values()), max(x[-1] for x, _ in drawn.values())
    lowest, highest = [], []
    # the highlighted first: theirs are solid lines, and the colors that are told apart best
    for number, name in enumerate(sorted(drawn, key=lambda name: name not in highlight)):
        (x, values), bold, color = drawn[name], name in highlight, f"C{number % 10}"
        mean, style = values.mean(axis=0), ("-", "--", ":")[number // 10 % 3]
        ax.plot(x, mean, style, drawstyle="steps-post", color=color, label=name, lw=2.2 if bold else 1, zorder=2 + bold)
        low, high = interval(values) if bold else (mean, mean)
        if bold:
            ax.fill_between(x, low, high, step="post", color=color, alpha=0.18, linewidth=0)
        lowest.append(low[x >= min(end / 5, x[-1])].min())
        highest.append(high.max())
    floor = min(lowest) if bottom is None else bottom
    room = 0.04 * (max(highest) - floor) or 0.01  # flat curves need some, too
    ax.set(xlabel="training steps (thousands)", ylabel=ylabel, xlim=(start, end))
    ax.set_ylim(floor - room * (bottom is None), max(highest) + room)
    ax.grid(linewidth=0.4, alpha=0.5)
    _label_ends(ax, 0.8 * figure.get_figheight(), highlight)
    return figure


def _label_ends(ax: Any, height: float, highlight: Collection[str]) -> None:
    """Names beside axes of some height (inches), as near to the ends of their curves as they can be without overlap."""
    lines = sorted(ax.lines, key=lambda line: line.get_xydata()[-1, 1])
    bottom, top = ax.get_ylim()
    ends = np.array([line.get_xydata()[-1] for line in lines])
    # least squares with y[k + 1] - y[k] >= gap is isotonic regression of y[k] - k gap; clipped to stay beside the axes
    shift = 1.35 * LABEL_SIZE / 72 / height * np.arange(len(lines))
    free = optimize.isotonic_regression((ends[:, 1] - bottom) / (top - bottom) - shift).x
    for line, end, place in zip(lines, ends, np.clip(free, 0, max(0, 1 - shift[-1])) + shift, strict=True):
        name, look = str(line.get_label()), {"color": line.get_color(), "linestyle": line.get_linestyle()}
        arrow = {"arrowstyle": "-", "linewidth": 0.8, "patchA": None, "shrinkA": 2, "shrinkB": 0, "relpos": (0, 0.5)}
        ax.annotate(
            name, (end[0], end[1]), (1.06, place), textcoords="axes fraction", va="center", fontsize=LABEL_SIZE,
            fontweight="bold" if name in highlight else "normal", arrowprops=arrow | look,
        )  # fmt: skip


def _checked_curve(name: str, grid: ArrayLike, values: ArrayLike) -> tuple[Array, Array]:
    """Budgets in thousands and values ``(S, .)``, from where all seeds have begun on."""
    x, y = np.asarray(grid, dtype=float) / 1000, np.asarray(values, dtype=float)
    if x.ndim != 1 or y.ndim != 2 or y.shape[1] != len(x):
        raise InvalidInputError(f"expected budgets (G,) and values (S, G) of {name}, got {x.shape} and {y.shape}")
    begun = np.isfinite(y).all(axis=0)
    if not begun.any():
        raise InvalidInputError(
            f"expected a budget at which all seeds of {name} have a value, got none; widen the grid or leave it out"
        )
    return x[begun], y[:, begun]
