"""Drawings of cells: where vertices and edges lie, and SVG for notebooks, without any dependency.

Data flow downwards in all drawings, so that edges need no arrows.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fade_study.cells.dag import Dag
    from fade_study.cells.space import Cell

RADIUS = 0.17
"""Radius of a vertex; the distance of two levels is 1."""
BENDS = (0.0, 0.4, -0.4, 0.7, -0.7, 1.0, -1.0)
"""Bends of an edge from which the first is taken that keeps it clear of other vertices."""
UNIT = 26
"""Pixels between two levels of an SVG."""

Point = tuple[float, float]


class Layout(NamedTuple):
    """Where the vertices of a Dag lie, and how its edges run."""

    points: tuple[Point, ...]
    """Positions (x, y) of the vertices, of the input vertex and of the output vertex. The input is at (0, 0), and y
    grows downwards: it is the number of edges of the longest path from the input."""
    edges: tuple[tuple[int, int, float], ...]
    """Edges (u, v, bend): quadratic Bézier curves, whose control points are :func:`control_point`."""

    @property
    def height(self) -> float:
        """Distance from the input vertex to the output vertex."""
        return self.points[-1][1]

    @property
    def half_width(self) -> float:
        """Largest distance of vertices and curves from the vertical line through the input, radius included."""
        curves = [
            x for u, v, bend in self.edges for x, _ in _curve(self.points[u], self.points[v], bend)
        ]  # vertices are the ends of curves
        return max(abs(x) for x in curves) + RADIUS


def layout(dag: Dag) -> Layout:
    """The layout of a Dag with its input and output vertex, the same each time.

    A level holds the vertices with the same longest path from the input, from left to right in the order of their
    parents' positions. Edges that would run through other vertices are bent around them.
    """
    edges = dag.augmented_edges
    source, target = dag.vertices, dag.vertices + 1
    level = {source: 0}
    for vertex in (*range(dag.vertices), target):  # in topological order
        level[vertex] = 1 + max(level[u] for u, v in edges if v == vertex)
    points: dict[int, Point] = {}
    for y, group in itertools.groupby(sorted(level, key=lambda vertex: (level[vertex], vertex)), level.__getitem__):
        middle = {v: _mean([points[u][0] for u, w in edges if w == v]) for v in group}
        ordered = sorted(middle, key=lambda vertex: (middle[vertex], vertex))
        points |= {vertex: (i - (len(ordered) - 1) / 2, float(y)) for i, vertex in enumerate(ordered)}
    bent = tuple((u, v, _bend(u, v, points)) for u, v in edges)
    return Layout(tuple(points[vertex] for vertex in range(dag.vertices + 2)), bent)


def control_point(begin: Point, end: Point, bend: float) -> Point:
    """Control point of an edge: beside the middle, by ``bend`` times the number of levels that the edge spans."""
    (x0, y0), (x1, y1) = begin, end
    return (x0 + x1) / 2 + bend * (y1 - y0), (y0 + y1) / 2


def svg(cells: Sequence[Cell], title: str) -> str:
    """SVG of cells side by side, shallow to deep.

    A square is the input vertex, a circle a vertex, a diamond the output vertex; dashed edges bring the input as it is,
    and each solid edge has an operation. Of a cell that is not a Dag, it shows the key.

    Args:
        cells: Cells of the rows.
        title: Text that a browser shows at the mouse pointer.
    """
    from fade_study.cells.dag import Dag

    drawn, x, height = [], 0.0, 1.0
    for cell in cells:
        found = layout(cell) if isinstance(cell, Dag) else None
        half = 1.2 if found is None else max(found.half_width, 0.5) + 0.25
        drawn.append((cell, found, x + half))
        x, height = x + 2 * half, max(height, 1.0 if found is None else found.height)
    parts = [
        _key_svg(cell.key, center, height) if found is None else _dag_svg(found, center)
        for cell, found, center in drawn
    ]
    width, top = x, RADIUS + 0.25
    box = f"0 {-top:g} {width:.4g} {height + 2 * top:.4g}"
    size = f'width="{UNIT * width:.0f}" height="{UNIT * (height + 2 * top):.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" {size}><title>{escape(title)}</title>'
        f'<g fill="none" stroke="#808080" stroke-width="0.06">{"".join(parts)}</g></svg>'
    )


def _dag_svg(found: Layout, center: float) -> str:
    points = [(center + x, y) for x, y in found.points]
    source = len(points) - 2
    lines = []
    for u, v, bend in found.edges:
        (x0, y0), (x1, y1) = points[u], points[v]
        cx, cy = control_point(points[u], points[v], bend)
        dash = ' stroke-dasharray="0.12 0.1"' if u == source else ""
        lines.append(f'<path d="M{x0:.3g} {y0:.3g}Q{cx:.3g} {cy:.3g} {x1:.3g} {y1:.3g}"{dash}/>')
    r = RADIUS
    shapes = [f'<circle cx="{x:.3g}" cy="{y:.3g}" r="{r}" fill="#0072B2"/>' for x, y in points[:source]]
    (x, y), (z, h) = points[source:]
    shapes.append(f'<rect x="{x - r:.3g}" y="{y - r:.3g}" width="{2 * r}" height="{2 * r}" fill="#E69F00"/>')
    shapes.append(f'<path d="M{z:.3g} {h - r:.3g}l{r} {r}l{-r} {r}l{-r} {-r}z" fill="#009E73" class="output"/>')
    return "".join(lines + shapes)


def _key_svg(key: str, center: float, height: float) -> str:
    lines = textwrap.wrap(key, 12)[:4] or [""]
    spans = "".join(f'<tspan x="{center:.3g}" dy="{0.4 if i else 0}">{escape(s)}</tspan>' for i, s in enumerate(lines))
    y = height / 2 - 0.2 * (len(lines) - 1)
    font = 'font-size="0.35" font-family="sans-serif" text-anchor="middle" fill="#808080" stroke="none"'
    return f'<text y="{y:.3g}" {font}>{spans}</text>'


def _bend(u: int, v: int, points: dict[int, Point]) -> float:
    """The smallest bend of an edge that keeps it clear of all other vertices; odd vertices begin on the left."""
    side = 1 if u % 2 else -1
    others = [point for vertex, point in points.items() if vertex not in (u, v)]
    for bend in BENDS:
        curve = _curve(points[u], points[v], side * bend)
        if all(math.dist(one, other) > 1.3 * RADIUS for one in curve for other in others):
            return side * bend
    return side * BENDS[-1]


def _curve(begin: Point, end: Point, bend: float) -> list[Point]:
    """Points along an edge."""
    (cx, cy), count = control_point(begin, end, bend), 24
    return [
        (
            (1 - t) ** 2 * begin[0] + 2 * t * (1 - t) * cx + t**2 * end[0],
            (1 - t) ** 2 * begin[1] + 2 * t * (1 - t) * cy + t**2 * end[1],
        )
        for t in (i / count for i in range(count + 1))
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
