"""Cell spaces: the set S of cells and the feature space into which it is embedded (section 2.4, "Search Space").

:class:`DagSpace` contains all directed acyclic graphs up to a size, embedded by graph features that are scaled to
[0, 1] over the space. Any other space that implements :class:`CellSpace` works as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fade_study.cells.dag import Dag, check_vertices, enumerate_dags
from fade_study.cells.features import PAPER_FEATURES, Feature, feature_values, find_feature
from fade_study.exceptions import InvalidInputError


class Cell(Protocol):
    """Protocol of cells."""

    @property
    def key(self) -> str:
        """Unique name in the space, the same in every process and version."""
        ...


class CellSpace(Protocol):
    """Protocol of spaces of cells."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the f features."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """All cells, always in the same order."""
        ...

    def __len__(self) -> int:
        """Number of cells."""
        ...

    def embed(self, cell: Any) -> NDArray[np.float64]:
        """Point ``(f,)`` of a cell, in [0, 1]^f."""
        ...

    def nearest(self, point: ArrayLike, rng: np.random.Generator | None = None) -> Any:
        """Cell nearest to a point ``(f,)``; ``rng`` breaks ties, and without it the choice is deterministic."""
        ...


@dataclass(frozen=True, slots=True)
class SpaceDiagnostics:
    """How well features tell cells apart."""

    cells: int
    """Number of cells."""
    points: int
    """Number of distinct points; a search cannot tell apart cells that share one."""
    median_spacing: float
    """Median distance from a point to its nearest neighbor; smaller offsets lead to collisions."""


class DagSpace:
    """All Dags with ``min_vertices`` to ``max_vertices`` vertices, embedded by ``features``.

    Each feature is scaled linearly to [0, 1] over the space; a constant feature becomes 0.

    Args:
        max_vertices: Largest number of vertices, 1 to 7. The paper has 6; 5 keeps the space small.
        min_vertices: Smallest number of vertices, 1 to ``max_vertices``.
        features: Names from ``FEATURES``, or functions from a Dag to a float, which are named after themselves.
        only: Cells to keep, with the features scaled over all cells; None keeps all.

    Raises:
        InvalidInputError: (a ``ValueError``) for sizes out of range, unknown, repeated or non-finite features, and
            cells to keep that do not exist.
    """

    def __init__(
        self,
        max_vertices: int = 5,
        *,
        min_vertices: int = 1,
        features: Sequence[str | Feature] = PAPER_FEATURES,
        only: Collection[Dag] | None = None,
    ) -> None:
        max_vertices, min_vertices = check_vertices(max_vertices), check_vertices(min_vertices)
        if min_vertices > max_vertices:
            raise InvalidInputError(
                f"expected min_vertices up to max_vertices = {max_vertices}, got {min_vertices}; lower it"
            )
        named = only is None and not any(callable(feature) for feature in features)
        self.settings: dict[str, Any] | None = (
            {"max_vertices": max_vertices, "min_vertices": min_vertices, "features": list(features)} if named else None
        )
        """Arguments that make the same space again, as plain values; None with functions of one's own or ``only``."""
        functions = [find_feature(feature) for feature in features]
        self._features = tuple(name for name, _ in functions)
        if not functions or len(set(self._features)) < len(functions):
            raise InvalidInputError(f"expected one or more different features, got {list(self._features)}")
        sizes = range(min_vertices, max_vertices + 1)
        self._cells = tuple(dag for size in sizes for dag in enumerate_dags(size))
        values = np.stack(
            [np.concatenate([feature_values(function, n) for n in sizes]) for _, function in functions], axis=1
        )
        if not np.isfinite(values).all():
            bad = [name for name, column in zip(self._features, values.T, strict=True) if not np.isfinite(column).all()]
            raise InvalidInputError(f"expected finite features, got NaN or infinity from {bad}; correct the function")
        low, high = values.min(axis=0), values.max(axis=0)
        self._embedded = (values - low) / np.where(high > low, high - low, 1.0)  # (n, f)
        if only is not None:
            wanted = set(only)
            kept = [i for i, dag in enumerate(self._cells) if dag in wanted]
            if not kept or len(kept) < len(wanted):
                raise InvalidInputError(
                    f"expected one or more cells of this size to keep, got {list(only)}; check them"
                )
            self._cells, self._embedded = tuple(self._cells[i] for i in kept), self._embedded[kept]
        self._index = {dag: i for i, dag in enumerate(self._cells)}
        # Cells are grouped by their point, so that a query compares it with few points instead of many cells.
        self._points, inverse = np.unique(self._embedded.round(12), axis=0, return_inverse=True)  # (p, f)
        order = np.argsort(inverse, kind="stable")
        self._groups = np.split(order, np.cumsum(np.bincount(inverse.ravel()))[:-1])

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the f features."""
        return self._features

    def __iter__(self) -> Iterator[Dag]:
        return iter(self._cells)

    def __len__(self) -> int:
        return len(self._cells)

    def __repr__(self) -> str:
        low, high = self._cells[0].vertices, self._cells[-1].vertices
        return f"DagSpace({high}, min_vertices={low}, features={self._features})"

    def embed(self, cell: Dag) -> NDArray[np.float64]:
        """Point of a cell, ``(f,)``, in [0, 1]^f."""
        if cell not in self._index:
            raise InvalidInputError(f"expected a cell of {self!r}, got {cell!r}; build a space that contains it")
        return self._embedded[self._index[cell]].copy()

    def nearest(self, point: ArrayLike, rng: np.random.Generator | None = None) -> Dag:
        """Cell nearest to a point ``(f,)`` by Euclidean distance.

        Several cells may be equally near, because features are not injective. ``rng`` chooses one of them; without it,
        the first is taken.
        """
        try:
            array = np.asarray(point, dtype=float)
        except (TypeError, ValueError):
            array = np.array(np.nan)
        if array.shape != (len(self._features),) or not np.isfinite(array).all():
            raise InvalidInputError(f"expected a finite point of shape ({len(self._features)},), got {point}")
        # The square of a clipped coordinate is still finite.
        distance = ((self._points - np.clip(array, -1e100, 1e100)) ** 2).sum(axis=1)
        tied = np.flatnonzero(distance <= distance.min() + 1e-12)
        candidates = np.concatenate([self._groups[i] for i in tied])
        return self._cells[candidates[0] if rng is None else rng.choice(candidates)]

    def diagnostics(self) -> SpaceDiagnostics:
        """How many cells share a point, and how far apart the points are."""
        from scipy.spatial import KDTree  # imported here to keep the import of the package fast

        points = len(self._points)
        neighbors = KDTree(self._points).query(self._points, k=2)[0][:, 1] if points > 1 else np.zeros(1)
        return SpaceDiagnostics(len(self._cells), points, float(np.median(neighbors)))


def distant_cells(space: DagSpace, count: int, operations: int) -> tuple[Dag, ...]:
    """Cells of one size that lie far apart: a row of the hyper-architecture of section 3.1, not chosen by hand.

    Farthest-point selection takes the two cells farthest apart, then repeatedly the cell with the largest distance to
    the nearest one taken. Ties go to the first cell in the order of the space.

    Args:
        space: Space of the cells.
        count: Number of cells, 2 or more.
        operations: Number of convolutions of each cell, which determines its number of weights.

    Raises:
        InvalidInputError: (a ``ValueError``) if the space has fewer cells of that size.
    """
    cells = [cell for cell in space if cell.operations == operations]
    if not 2 <= count <= len(cells):
        raise InvalidInputError(
            f"expected 2 to {len(cells)} cells of {operations} operations in {space!r}, got {count}; "
            "change operations, or the space's max_vertices"
        )
    points = np.array([space.embed(cell) for cell in cells])
    distance = np.linalg.norm(points[:, None] - points, axis=-1).round(12)
    taken = list(np.unravel_index(distance.argmax(), distance.shape))
    while len(taken) < count:
        taken.append(distance[:, taken].min(axis=1).argmax())
    return tuple(cells[i] for i in taken)
