"""Figures of an arena of outer searches, which all have the same seeds and the same budget."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from fade_study.analysis import style
from fade_study.statistics.arena import Standing

Array = NDArray[np.float64]


def draw_finals(rows: Sequence[Standing], baseline: str = "random", controls: Collection[str] = ()) -> Figure:
    """Final accuracies with their intervals, best on top; a dashed line marks the baseline.

    Intervals are those of single searchers. Two of them may overlap although the paired difference is significant, as
    the table shows.
    """
    seeds = "–".join(map(str, sorted({row.seeds for row in rows})))
    spread = ", 95 % intervals" if min(row.seeds for row in rows) >= style.FEWEST else ""
    figure = style.new_figure(6, 0.27 * len(rows) + 1.7, f"final architectures, means of {seeds} seeds{spread}")
    ax = figure.subplots()
    ordered = sorted(rows, key=lambda row: row.final)
    groups = {
        "searcher": (style.BLUE, [row for row in ordered if row.searcher not in {baseline, *controls}]),
        "baseline": (style.RED, [row for row in ordered if row.searcher == baseline]),
        "control": (style.GREY, [row for row in ordered if row.searcher in controls and row.searcher != baseline]),
    }
    for label, (color, members) in groups.items():
        if members:
            heights = [ordered.index(row) for row in members]
            finals = np.array([row.final for row in members])
            ends = np.clip([[row.low, row.high] for row in members], 0, 1).T
            errors = np.abs(ends - finals) if min(row.seeds for row in members) >= style.FEWEST else None
            ax.errorbar(finals, heights, xerr=errors, fmt="o", color=color, markersize=5, capsize=2, label=label)
    ax.axvline(next(row.final for row in rows if row.searcher == baseline), color=style.RED, ls="--", lw=1, zorder=0)
    ax.set_yticks(range(len(ordered)), [row.searcher for row in ordered], fontsize=style.SMALL)
    ax.set(xlabel="test accuracy of the final architecture", ylabel="searcher")
    ax.grid(axis="x", linewidth=0.4, alpha=0.5)
    style.legend_below(figure, ncols=3)
    return figure


def draw_anytime(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    highlight: Collection[str] = (),
    ylabel: str = "best test accuracy so far",
) -> Figure:
    """Mean accuracy over seeds against the budget, from where all seeds have a value.

    The y axis begins at the lowest value after a fifth of the budget, because the steep start of a search would leave
    no room for the differences that matter.

    ``curves`` holds budgets ``(G,)`` in training steps and accuracies ``(S, G)`` by searcher; those to highlight are
    drawn bold, with the 95 % interval at each budget.
    """
    drawn = {}
    for name, (grid, values) in curves.items():
        begun = np.isfinite(values).all(axis=0)
        drawn[name] = np.asarray(grid)[begun] / 1000, np.asarray(values)[:, begun]
    counts = sorted({len(values) for _, values in drawn.values()})
    bands = ", 95 % intervals of bold curves" if counts[0] >= style.FEWEST else ""
    figure = style.new_figure(7.5, 4.5, f"{ylabel}, mean of {'–'.join(map(str, counts))} seeds{bands}")
    ax = figure.subplots()
    start, end = min(x[0] for x, _ in drawn.values()), max(x[-1] for x, _ in drawn.values())
    lowest, highest = [], []
    # Highlighted curves come first, for they get solid lines and the colors that are easiest to tell apart.
    for number, name in enumerate(sorted(drawn, key=lambda name: name not in highlight)):
        (x, values), bold, color = drawn[name], name in highlight, style.COLORS[number % len(style.COLORS)]
        mean, dashes = values.mean(axis=0), ("-", "--", ":", "-.")[number // len(style.COLORS) % 4]
        low, high = mean, mean
        ax.plot(
            x, mean, dashes, drawstyle="steps-post", color=color, label=name, lw=2.2 if bold else 1, zorder=2 + bold
        )
        if bold and (ends := style.accuracy_interval(values)) is not None:
            low, high = ends
            ax.fill_between(x, low, high, step="post", color=color, alpha=0.18, linewidth=0)
        lowest.append(low[x >= min(end / 5, x[-1])].min())
        highest.append(high.max())
    margin = 0.04 * (max(highest) - min(lowest)) or 0.01  # flat curves need one, too
    ax.set(xlabel="training steps (thousands)", ylabel=ylabel, xlim=(start, end))
    ax.set_ylim(min(lowest) - margin, max(highest) + margin)
    ax.grid(linewidth=0.4, alpha=0.5)
    best_first = sorted(ax.get_lines(), key=lambda line: -drawn[str(line.get_label())][1][:, -1].mean())
    place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "borderaxespad": 0.0}
    legend = ax.legend(handles=best_first, fontsize=style.SMALL, title="best at the end first", **place)
    legend.get_title().set_fontsize(style.SMALL)
    for text in legend.get_texts():
        text.set_fontweight("bold" if text.get_text() in highlight else "normal")
    return figure
