"""Directed acyclic graphs up to isomorphism: the cell architectures S of the paper (section 2.4, "Search Space").

A :class:`Dag` stands for a class of isomorphic graphs. Its vertices are numbered in a canonical topological order, so
two isomorphic graphs give equal objects with equal keys, on every machine and in every process.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from operator import index
from typing import TYPE_CHECKING

from fade_study.arrays import to_integer
from fade_study.cells.drawing import svg
from fade_study.exceptions import InvalidInputError

if TYPE_CHECKING:
    import networkx as nx

MAX_VERTICES = 7
"""Largest number of vertices: 7 have 243,668 classes, which take a minute to list; 8 would have 20,286,025."""

Edges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, order=True)
class Dag:
    """One cell architecture: an isomorphism class of directed acyclic graphs without input and output vertex.

    Args:
        vertices: Number of vertices, 1 to ``MAX_VERTICES``.
        edges: Pairs (u, v) of vertices 0 .. vertices-1, in any order and numbering. They are stored in canonical
            form, in which u < v for every edge.

    Raises:
        InvalidInputError: (a ``ValueError``) for a number of vertices out of range, an edge to a vertex that does
            not exist, a double edge, and a cycle.
    """

    vertices: int
    edges: Edges = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "vertices", check_vertices(self.vertices))
        try:
            edges = tuple((index(u), index(v)) for u, v in self.edges)
        except (TypeError, ValueError):
            raise InvalidInputError(f"expected edges as pairs of whole numbers, got {self.edges!r}") from None
        for u, v in edges:
            if not (0 <= u < self.vertices and 0 <= v < self.vertices):
                raise InvalidInputError(
                    f"expected edges between vertices 0 to {self.vertices - 1}, got ({u}, {v}); number vertices from 0"
                )
        if len(set(edges)) < len(edges):
            raise InvalidInputError(f"expected every edge once, got {edges}; remove the repeated ones")
        object.__setattr__(self, "edges", _canonical_edges(self.vertices, edges))

    @property
    def key(self) -> str:
        """Stable name, such as ``"4:01.02.13"``: the number of vertices, then the edges. ``from_key`` reads it."""
        return f"{self.vertices}:" + ".".join(f"{u}{v}" for u, v in self.edges)

    @property
    def sources(self) -> tuple[int, ...]:
        """Vertices without incoming edges; the input vertex feeds them."""
        return tuple(sorted(set(range(self.vertices)) - {v for _, v in self.edges}))

    @property
    def sinks(self) -> tuple[int, ...]:
        """Vertices without outgoing edges; they feed the output vertex."""
        return tuple(sorted(set(range(self.vertices)) - {u for u, _ in self.edges}))

    @property
    def operations(self) -> int:
        """Number of convolutions: one for every edge that does not come from the input vertex (section 2.4)."""
        return len(self.edges) + len(self.sinks)

    @property
    def augmented_edges(self) -> Edges:
        """Edges of the graph with an input vertex, numbered ``vertices``, and an output vertex, ``vertices + 1``."""
        source, target = self.vertices, self.vertices + 1
        return (*((source, v) for v in self.sources), *self.edges, *((u, target) for u in self.sinks))

    @classmethod
    def from_key(cls, key: str) -> Dag:
        """The Dag with this key, which may number the vertices in any way."""
        if not re.fullmatch(r"\d:(\d\d(\.\d\d)*)?", key):
            raise InvalidInputError(f"expected a key such as '4:01.02.13', got {key!r}; take it from Dag.key")
        vertices, _, edges = key.partition(":")
        return cls(int(vertices), tuple((int(edge[0]), int(edge[1])) for edge in edges.split(".") if edge))

    @classmethod
    def from_networkx(cls, graph: nx.DiGraph) -> Dag:
        """The isomorphism class of a directed networkx graph, whose vertices may have any names."""
        if not graph.is_directed() or graph.is_multigraph():
            raise InvalidInputError(
                f"expected a networkx.DiGraph, got {type(graph).__name__}; give its edges a direction"
            )
        number = {vertex: i for i, vertex in enumerate(graph)}
        return cls(len(number), tuple((number[u], number[v]) for u, v in graph.edges))

    def to_networkx(self, *, augmented: bool = False) -> nx.DiGraph:
        """A networkx graph with vertices 0 .. vertices-1, and with input and output vertex if ``augmented``."""
        import networkx as nx  # imported here to keep the import of the package fast

        graph = nx.DiGraph()
        graph.add_nodes_from(range(self.vertices + 2 * augmented))
        graph.add_edges_from(self.augmented_edges if augmented else self.edges)
        return graph

    def __str__(self) -> str:
        return self.key

    def _repr_svg_(self) -> str:
        return svg([self], self.key)  # Jupyter shows it


@cache
def enumerate_dags(vertices: int) -> tuple[Dag, ...]:
    """All classes with exactly this many vertices, sorted; 1 to 7 vertices have 1, 2, 6, 31, 302, 5984, 243668.

    Every graph is a smaller graph plus a last vertex with some set of predecessors.
    """
    check_vertices(vertices)
    if vertices == 1:
        return (Dag(1),)
    last = vertices - 1
    subsets = [[u for u in range(last) if mask >> u & 1] for mask in range(2**last)]
    canonical = {
        _canonical_edges(vertices, (*dag.edges, *((u, last) for u in subset)))
        for dag in enumerate_dags(last)
        for subset in subsets
    }
    return tuple(_trusted(vertices, edges) for edges in sorted(canonical))


def check_vertices(vertices: int) -> int:
    """The number as an ``int``, or an error if a Dag cannot have so many vertices."""
    number = to_integer(vertices)
    if number is None or not 1 <= number <= MAX_VERTICES:
        raise InvalidInputError(
            f"expected 1 to {MAX_VERTICES} vertices, got {vertices!r}; choose fewer: "
            "7 vertices have 243,668 cells, 8 would have 20,286,025, too many to list and to embed"
        )
    return number


def _trusted(vertices: int, edges: Edges) -> Dag:
    """A Dag from canonical edges, without the checks, which would double the work of the enumeration."""
    dag = object.__new__(Dag)
    object.__setattr__(dag, "vertices", vertices)
    object.__setattr__(dag, "edges", edges)
    return dag


def _canonical_edges(vertices: int, edges: Iterable[tuple[int, int]]) -> Edges:
    """The edges, renumbered in the canonical order of the graph's isomorphism class.

    Vertices are sorted by a color that isomorphic graphs share: the length of the longest path from a source, which
    makes the order topological, refined by the colors of parents and children until no more vertices can be told
    apart. Among the remaining orders, the one with the smallest list of edges is chosen.
    """
    edges = sorted(edges)
    parents: list[list[int]] = [[] for _ in range(vertices)]
    children: list[list[int]] = [[] for _ in range(vertices)]
    for u, v in edges:
        parents[v].append(u)
        children[u].append(v)
    colors = _refine(_levels(parents, children), parents, children)

    orders: list[list[tuple[int, ...]]] = []
    for color in sorted(set(colors)):
        group = tuple(v for v in range(vertices) if colors[v] == color)
        twins = len({(*parents[v], None, *children[v]) for v in group}) == 1  # any order gives the same edges
        orders.append([group] if twins else list(itertools.permutations(group)))

    def renumbered(order: tuple[tuple[int, ...], ...]) -> list[tuple[int, int]]:
        position = {v: i for i, v in enumerate(itertools.chain.from_iterable(order))}
        return sorted((position[u], position[v]) for u, v in edges)

    return tuple(min(map(renumbered, itertools.product(*orders))))


def _levels(parents: list[list[int]], children: list[list[int]]) -> list[int]:
    """Length of the longest path from a source to each vertex; raises for a cycle."""
    levels = [0] * len(parents)
    waiting = [len(p) for p in parents]
    ready = [v for v, count in enumerate(waiting) if count == 0]
    for u in ready:  # the list grows during the loop
        for v in children[u]:
            levels[v] = max(levels[v], levels[u] + 1)
            waiting[v] -= 1
            if waiting[v] == 0:
                ready.append(v)
    if len(ready) < len(parents):
        cycle = sorted(set(range(len(parents))) - set(ready))
        raise InvalidInputError(f"expected a graph without cycles, got one through vertices {cycle}; reverse an edge")
    return levels


def _refine(colors: list[int], parents: list[list[int]], children: list[list[int]]) -> list[int]:
    """Split colors by the colors of parents and children until nothing changes; the order of colors is kept."""
    while True:
        signatures = [
            (color, tuple(sorted(colors[u] for u in p)), tuple(sorted(colors[v] for v in c)))
            for color, p, c in zip(colors, parents, children, strict=True)
        ]
        rank = {signature: i for i, signature in enumerate(sorted(set(signatures)))}
        if len(rank) == len(set(colors)):
            return colors
        colors = [rank[signature] for signature in signatures]
