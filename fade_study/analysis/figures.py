"""Figures of a search, from arrays."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fade_study import Architecture, Dag
from fade_study.analysis.style import DPI, FEWEST, SMALL, integers, new_figure

__all__ = ["draw_alpha", "draw_alpha_history", "draw_cells", "draw_costs"]

SIZES = {"w =": "width w (columns)", "d =": "depth d (rows)", "batch size": "batch size (images)"}
"""Names of axes for the sizes that a benchmark varies."""


def draw_alpha(alpha: NDArray[np.float64], cells: Sequence[Sequence[str]]) -> Figure:
    """Alphas as shades, with the keys of their cells.

    Args:
        alpha: Alphas ``(d, w)``.
        cells: Keys of the cells, ``(d, w)``.
    """
    depth, width = alpha.shape
    figure = new_figure(1.5 * width + 1, 0.8 * depth + 1)
    ax = figure.subplots()
    image = ax.imshow(alpha, cmap="Blues", vmin=0, aspect="auto")
    for i, row in enumerate(cells):
        for j, key in enumerate(row):
            shade = "white" if alpha[i, j] > 0.6 * alpha.max() else "black"
            text = f"{alpha[i, j]:.2f}\n{textwrap.fill(key.replace('.', ' '), 14)}"
            ax.text(j, i, text, ha="center", va="center", fontsize=6, color=shade)
    ax.set(xlabel="column (0: anchor)", ylabel="row", xticks=range(width), yticks=range(depth))
    figure.colorbar(image, label="alpha")
    return figure


def draw_alpha_history(history: NDArray[np.float64]) -> Figure:
    """Alphas over the epochs of a training, one panel per row.

    Args:
        history: Alphas ``(E, d, w)``.
    """
    _, depth, width = history.shape
    # Fixed margins: the automatic layout draws everything twice, and a search draws this figure in each generation.
    margins = {"left": 0.75 / (3 * depth), "right": 1 - 0.1 / (3 * depth), "bottom": 0.18, "top": 0.9, "wspace": 0.05}
    figure = Figure(figsize=(3 * depth, 2.8), dpi=DPI)
    axes = figure.subplots(1, depth, sharex=True, sharey=True, squeeze=False, gridspec_kw=margins)[0]
    for i, ax in enumerate(axes):
        ax.plot(history[:, i, 1:], color="C0", alpha=0.6, label="neighbors")
        ax.plot(history[:, i, 0], color="C1", label="anchor")
        ax.axhline(1 / width, color="C7", linewidth=0.6, label=f"1 / {width}")
        ax.set(title=f"row {i}", xlabel="epoch")
    axes[0].set_ylabel("alpha")
    axes[0].xaxis.set_major_locator(integers())
    axes[0].legend(handles=list({line.get_label(): line for line in axes[0].lines}.values()), fontsize=SMALL)
    return figure


def draw_costs(costs: Mapping[str, tuple[Sequence[int], Mapping[str, NDArray[np.float64]]]]) -> Figure:
    """Durations of training steps against sizes, as medians with quartiles, and straight lines fitted to the medians.

    Args:
        costs: By name of a size: its k values, and seconds ``(repetitions, k)`` by kind of step.
    """
    figure = new_figure(3.6 * len(costs), 3)
    axes = figure.subplots(1, len(costs), squeeze=False)[0]
    for ax, (name, (sizes, steps)) in zip(axes, costs.items(), strict=True):
        for number, (step, seconds) in enumerate(steps.items()):
            low, median, high = 1000 * np.quantile(seconds, [0.25, 0.5, 0.75], axis=0)
            errors = [median - low, high - median] if len(seconds) >= FEWEST else None
            ax.errorbar(sizes, median, errors, fmt=".", color=f"C{number}", label=step)
            ax.plot(sizes, np.polyval(np.polyfit(sizes, median, 1), sizes), color=f"C{number}", linewidth=0.8)
        ax.set(xlabel=SIZES.get(name, name), ylim=(0, None))
        ax.xaxis.set_major_locator(integers())
    axes[0].set_ylabel("ms per step (median, quartiles)")
    axes[0].legend()
    return figure


def draw_cells(architecture: Architecture) -> Figure:
    """The cells of an architecture, shallow to deep: a square is an input vertex, a diamond an output vertex."""
    figure = new_figure(2.8 * architecture.depth, 3.2)
    axes = figure.subplots(1, architecture.depth, squeeze=False)[0]
    for row, (cell, ax) in enumerate(zip(architecture, axes, strict=True)):
        ax.set_title(f"row {row}", fontsize=10)
        ax.set_axis_off()
        if isinstance(cell, Dag):
            _draw_dag(cell, ax)
        else:
            ax.text(0.5, 0.5, cell.key, ha="center", wrap=True)
    return figure


def _draw_dag(dag: Dag, ax: Axes) -> None:
    graph = dag.to_networkx(augmented=True)
    for level, vertices in enumerate(nx.topological_generations(graph)):
        for vertex in vertices:
            graph.nodes[vertex]["level"] = level
    layout = nx.multipartite_layout(graph, subset_key="level", align="horizontal", scale=1)
    # Data flow downwards; levels zigzag, so that edges which skip a level do not hide behind others.
    positions = {vertex: (x + 0.3 * (-1) ** graph.nodes[vertex]["level"], -y) for vertex, (x, y) in layout.items()}
    shapes = {"s": [dag.vertices], "D": [dag.vertices + 1], "o": list(range(dag.vertices))}
    for shape, vertices in shapes.items():
        nx.draw_networkx_nodes(
            graph, positions, nodelist=vertices, node_shape=shape, node_size=160, node_color="C0", ax=ax
        )
    inputs = [(u, v) for u, v in graph.edges if u == dag.vertices]
    operations = [(u, v) for u, v in graph.edges if u != dag.vertices]
    arc = "arc3,rad=0.2"
    nx.draw_networkx_edges(graph, positions, edgelist=inputs, style="dashed", edge_color="C7", ax=ax, node_size=160)
    nx.draw_networkx_edges(graph, positions, edgelist=operations, connectionstyle=arc, ax=ax, node_size=160)
    ax.set(xlim=(-1.5, 1.5), ylim=(-1.3, 1.2))
    ax.text(0.5, -0.02, f"{dag.vertices} vertices, {dag.operations} convolutions", transform=ax.transAxes,
            ha="center", fontsize=SMALL)  # fmt: skip
