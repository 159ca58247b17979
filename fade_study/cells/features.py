"""Graph features: functions from a Dag to a number, which span the feature space (section 2.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, reduce
from operator import or_
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fade_study.cells.dag import Dag, enumerate_dags
from fade_study.exceptions import InvalidInputError

Feature = Callable[[Dag], float]


def eccentricity_variance(dag: Dag) -> float:
    """Variance of the eccentricities in the undirected graph with input and output vertex, which is connected."""
    neighbors = _neighbors(dag)
    return _variance([_eccentricity(v, neighbors) for v in range(len(neighbors))])


def degree_variance(dag: Dag) -> float:
    """Variance of the degrees in the undirected graph with input and output vertex."""
    return _variance([n.bit_count() for n in _neighbors(dag)])


def vertices(dag: Dag) -> float:
    """Number of vertices without input and output vertex."""
    return float(dag.vertices)


def operations(dag: Dag) -> float:
    """Number of convolutions."""
    return float(dag.operations)


def longest_path(dag: Dag) -> float:
    """Largest number of convolutions in a row between input and output."""
    depth = [1] * dag.vertices  # at least the convolution from the vertex to the output
    for u, v in reversed(dag.edges):  # edges are sorted by u, and u < v: depth[v] is final when it is read
        depth[u] = max(depth[u], depth[v] + 1)
    return float(max(depth))


def density(dag: Dag) -> float:
    """Number of edges divided by the largest possible number; 0 for a single vertex."""
    return 2 * len(dag.edges) / (dag.vertices * (dag.vertices - 1)) if dag.vertices > 1 else 0.0


def mean_degree(dag: Dag) -> float:
    """Mean degree in the undirected graph with input and output vertex."""
    return 2 * len(dag.augmented_edges) / (dag.vertices + 2)


def sources(dag: Dag) -> float:
    """Number of vertices fed by the input vertex."""
    return float(len(dag.sources))


def sinks(dag: Dag) -> float:
    """Number of vertices that feed the output vertex."""
    return float(len(dag.sinks))


def algebraic_connectivity(dag: Dag) -> float:
    """Second smallest eigenvalue of the Laplacian of the undirected graph with input and output vertex."""
    return _eigenvalue(_laplacian(dag), 1)


def laplacian_radius(dag: Dag) -> float:
    """Largest eigenvalue of the Laplacian of the undirected graph with input and output vertex."""
    return _eigenvalue(_laplacian(dag), -1)


def spectral_radius(dag: Dag) -> float:
    """Largest eigenvalue of the adjacency matrix of the undirected graph with input and output vertex."""
    return _eigenvalue(_adjacency(dag), -1)


FEATURES: dict[str, Feature] = {
    function.__name__: function
    for function in (
        eccentricity_variance,
        degree_variance,
        vertices,
        operations,
        longest_path,
        density,
        mean_degree,
        sources,
        sinks,
        algebraic_connectivity,
        laplacian_radius,
        spectral_radius,
    )
}
"""Features by the names that a configuration may use."""

PAPER_FEATURES = ("eccentricity_variance", "degree_variance", "vertices")
"""The features of section 3.2."""

SPECTRAL_FEATURES = ("algebraic_connectivity", "laplacian_radius", "spectral_radius")
"""Three features that tell more cells apart; in the arena they guide a search better than the paper's."""


@cache
def feature_values(feature: Feature, size: int) -> NDArray[np.float64]:
    """Values of a feature for all Dags of one size, computed once per process."""
    return np.array([feature(dag) for dag in enumerate_dags(size)], dtype=float)


def feature_table(rows: Sequence[Sequence[Any]]) -> NDArray[np.float64] | None:
    """All features of the cells of a hyper-architecture, ``(d, w, F)``; None unless all cells are Dags."""
    if not all(isinstance(cell, Dag) for row in rows for cell in row):
        return None
    return np.array([[[feature(cell) for feature in FEATURES.values()] for cell in row] for row in rows])


def find_feature(feature: str | Feature) -> tuple[str, Feature]:
    """Name and function of a feature, which is given as either."""
    if callable(feature):
        name = getattr(feature, "__name__", "")
        if not name.isidentifier():
            raise InvalidInputError(f"expected a feature with a name, got {feature!r}; write it with def")
        return name, feature
    if feature not in FEATURES:
        raise InvalidInputError(f"expected a feature among {sorted(FEATURES)}, got {feature!r}; or pass a function")
    return feature, FEATURES[feature]


def _neighbors(dag: Dag) -> list[int]:
    """Neighbors of each vertex, including input and output, as bit sets, which are fast for thousands of Dags."""
    neighbors = [0] * (dag.vertices + 2)
    for u, v in dag.augmented_edges:
        neighbors[u] |= 1 << v
        neighbors[v] |= 1 << u
    return neighbors


def _adjacency(dag: Dag) -> NDArray[np.float64]:
    """Adjacency matrix of the undirected graph with input and output vertex."""
    matrix = np.zeros((dag.vertices + 2, dag.vertices + 2))
    u, v = np.array(dag.augmented_edges).T
    matrix[u, v] = matrix[v, u] = 1
    return matrix


def _laplacian(dag: Dag) -> NDArray[np.float64]:
    adjacency = _adjacency(dag)
    return np.diag(adjacency.sum(axis=0)) - adjacency


def _eigenvalue(matrix: NDArray[np.float64], index: int) -> float:
    """An eigenvalue of a symmetric matrix by its index in ascending order, rounded because processors differ."""
    return round(float(np.linalg.eigvalsh(matrix)[index]), 9)


def _eccentricity(start: int, neighbors: list[int]) -> int:
    """Largest distance from a vertex in a connected graph, given as bit sets."""
    everything = (1 << len(neighbors)) - 1
    reached, distance = 1 << start, 0
    while reached != everything:
        reached |= reduce(or_, (n for v, n in enumerate(neighbors) if reached >> v & 1))
        distance += 1
    return distance


def _variance(values: list[int]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / len(values)
