"""Figures of cells: one architecture, and the architectures of a search, generation by generation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.path import Path

from fade_study import Architecture, Dag
from fade_study.analysis import style
from fade_study.cells import Cell
from fade_study.cells.drawing import RADIUS, Layout, control_point, layout

INCHES = 0.36
"""Distance of two levels of a cell."""
TEXT = 4.6
"""Smallest distance of two cells with texts below, in levels."""
WIDEST = 11.0
"""Inches of the widest figure of generations, with which its cells get smaller."""
PALE = 0.3
"""Share of its color that a cell keeps which is the same as in the column before."""
MARKERS = {
    "input vertex": ("s", style.ORANGE),
    "vertex: sum, ReLU": ("o", style.BLUE),
    "output vertex": ("D", style.GREEN),
}
LINES = {"operation (a convolution by default)": ("-", style.BLACK), "the input, unchanged": ((0, (3, 2)), style.GREY)}
"""Line style and color of the edges."""


def draw_architecture(architecture: Architecture, title: str = "") -> Figure:
    """The cells of an architecture side by side, shallow to deep, with their sizes and keys.

    Of cells that are no Dags, only the keys are shown.
    """
    cells = list(architecture)
    wide, high = _size(cells)
    wide = max(wide, TEXT)
    keys = [style.wrapped_key(cell.key, 24) for cell in cells]
    lines = max(key.count("\n") for key in keys) + 2
    below = 0.42 * lines + 0.4
    size = max(INCHES * wide * len(cells), 4.2), INCHES * (high + below + 1) + 0.9
    figure = style.new_figure(*size, title or f"Architecture of {len(cells)} cells")
    ax = figure.subplots()
    ax.set(xlim=(0, wide * len(cells)), ylim=(high + below, -1), aspect="equal")
    ax.set_axis_off()
    _draw(ax, [(cell, wide * (i + 0.5), 0, False) for i, cell in enumerate(cells)])
    for i, (cell, key) in enumerate(zip(cells, keys, strict=True)):
        size = f"vertices: {cell.vertices}, operations: {cell.operations}\n" if isinstance(cell, Dag) else ""
        x = wide * (i + 0.5)
        ax.text(x, -0.55, f"row {i}", ha="center", va="bottom", fontsize=9)
        ax.text(x, high + 0.45, f"{size}{key}", ha="center", va="top", fontsize=style.SMALL - 1, linespacing=1.3)
    style.legend_below(figure, handles=_symbols(), ncols=3 if figure.get_figwidth() > 6 else 2)
    return figure


def draw_generations(
    generations: Mapping[int, Architecture],
    accuracies: Mapping[int, Sequence[float]],
    winner: int | None = None,
    title: str = "Architectures by generation",
) -> Figure:
    """The architectures of a search, a column for each generation, with the winner framed.

    A cell that is the same as in the column before is pale, except in the winner. ``accuracies`` are test accuracies
    by generation, one per seed; some generations may have none. The winner is one of the generations.
    """
    columns = [one.cells for one in generations.values()]
    wide, high = _size([cell for column in columns for cell in column])
    wide, high, depth = max(wide, 2.2), high + 0.9, len(columns[0])
    scale = min(INCHES, WIDEST / (wide * len(columns)))
    rows = high * depth
    figure = style.new_figure(max(scale * wide * len(columns) + 1, 5), scale * (rows + 1) + 1.5, title)
    ax = figure.subplots()
    ax.set(xlim=(0, wide * len(columns)), ylim=(rows, 0), aspect="equal")
    placed = []
    for j, (number, column) in enumerate(zip(generations, columns, strict=True)):
        for i, cell in enumerate(column):
            pale = j > 0 and number != winner and cell.key == columns[j - 1][i].key
            placed.append((cell, wide * (j + 0.5), high * i + 0.45, pale))
    _draw(ax, placed)
    labels = [f"{number}\n{_mean(accuracies.get(number, ()))}" for number in generations]
    ax.set_xticks(wide * (np.arange(len(columns)) + 0.5), labels, fontsize=style.SMALL)
    ax.set_yticks(high * (np.arange(depth) + 0.5), [f"{i}" for i in range(depth)], fontsize=style.SMALL)
    ax.tick_params(length=0)
    ax.set_xlabel(
        "generation" + (", test accuracy where it was trained from scratch" if accuracies else ""), fontsize=9
    )
    ax.set_ylabel("row, shallow to deep", fontsize=9)
    for y in range(1, depth):
        ax.axhline(high * y, color=style.GREY, linewidth=0.4)
    for side in ax.spines.values():
        side.set_color(style.GREY)
    handles = [*_symbols(), Patch(color=_pale(style.BLUE), label="pale: the cell of the column before")]
    if winner is not None:
        x = wide * list(generations).index(winner)
        ax.add_patch(
            Rectangle((x, 0), wide, rows, fill=False, edgecolor=style.RED, linewidth=2.5, clip_on=False, zorder=4)
        )
        handles.append(Patch(fill=False, edgecolor=style.RED, linewidth=2, label="best validation accuracy"))
    style.legend_below(figure, handles=handles, ncols=4 if figure.get_figwidth() > 8 else 2)
    figure.draw_without_rendering()  # with a fixed aspect, the automatic layout needs two passes
    return figure


def _size(cells: Sequence[Cell]) -> tuple[float, float]:
    """Width and height that hold any of the cells, in levels."""
    found = [layout(cell) for cell in cells if isinstance(cell, Dag)]
    return max([2 * one.half_width for one in found] + [1.0]) + 0.6, max([one.height for one in found] + [2.0])


def _draw(ax: Axes, placed: Sequence[tuple[Cell, float, float, bool]]) -> None:
    """Draw cells whose input vertices lie at (x, y); the last value says whether a cell is pale."""
    shapes: defaultdict[tuple[str, bool], list[Path]] = defaultdict(list)
    for cell, x, y, pale in placed:
        if not isinstance(cell, Dag):
            ax.text(x, y + 0.6, style.wrapped_key(cell.key, 14), ha="center", va="center", fontsize=style.SMALL - 1,
                    color=_pale(style.BLACK) if pale else style.BLACK)  # fmt: skip
            continue
        for name, paths in _shapes(layout(cell), x, y).items():
            shapes[name, pale] += paths
    for (name, pale), paths in shapes.items():
        if name in LINES:
            dashes, color = LINES[name]
            kind = {"facecolors": "none", "linestyles": [dashes], "linewidths": 0.9, "zorder": 2}
            color_of = "edgecolors"
        else:
            color = MARKERS[name][1]
            kind = {"edgecolors": "white", "linewidths": 0.4, "zorder": 3}
            color_of = "facecolors"
        kind[color_of] = _pale(color) if pale else color
        ax.add_collection(PathCollection(paths, **kind), autolim=False)


def _shapes(found: Layout, x: float, y: float) -> dict[str, list[Path]]:
    """Outlines by their names in the legend."""
    points = np.add(found.points, (x, y))
    source = len(points) - 2
    square = Path(np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]) * 0.9 * RADIUS, closed=True)
    diamond = Path(np.array([(0, -1), (1, 0), (0, 1), (-1, 0), (0, -1)]) * 1.2 * RADIUS, closed=True)
    circle = Path.circle(radius=RADIUS)
    operation, unchanged = LINES
    into, inner, out = MARKERS
    shapes: dict[str, list[Path]] = {operation: [], unchanged: []}
    for u, v, bend in found.edges:
        middle = control_point(tuple(points[u]), tuple(points[v]), bend)
        curve = Path([points[u], middle, points[v]], [Path.MOVETO, Path.CURVE3, Path.CURVE3])
        shapes[unchanged if u == source else operation].append(curve)
    shapes[into] = [_moved(square, points[source])]
    shapes[inner] = [_moved(circle, point) for point in points[:source]]
    shapes[out] = [_moved(diamond, points[source + 1])]
    return shapes


def _pale(color: str) -> str:
    """The color mixed with white; unlike a transparent one, it hides what lies behind."""
    red, green, blue = (1 - PALE * (1 - part) for part in to_rgb(color))
    return to_hex((red, green, blue))


def _moved(path: Path, by: np.ndarray) -> Path:
    return Path(path.vertices + by, path.codes)


def _symbols() -> list[Line2D]:
    """What each symbol and each dash means, for the legend."""
    markers = [
        Line2D([], [], ls="", marker=marker, color=color, markersize=6, label=label)
        for label, (marker, color) in MARKERS.items()
    ]
    lines = [Line2D([], [], ls=dashes, color=color, lw=1, label=label) for label, (dashes, color) in LINES.items()]
    return [*markers, *lines, Line2D([], [], ls="", label="data flow downwards")]


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f}" if len(values) else ""
