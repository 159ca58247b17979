"""Architectures, one cell per row, and hyper-architectures, w cells per row (sections 2.1 and 2.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fade_study.cells import Cell, Dag
from fade_study.cells.drawing import svg
from fade_study.exceptions import InvalidInputError


@dataclass(frozen=True, slots=True)
class Architecture:
    """A chain of d cells, shallow to deep: an element of S^d."""

    cells: tuple[Cell, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", tuple(self.cells))
        if not self.cells:
            raise InvalidInputError("expected one or more cells, got none; an architecture has a depth of 1 or more")

    @classmethod
    def from_key(cls, key: str) -> Architecture:
        """The architecture of DAGs that has a key.

        Raises:
            InvalidInputError: (a ``ValueError``) for anything that is not the key of such an architecture.
        """
        return cls(tuple(map(Dag.from_key, key.split("|"))))

    @property
    def depth(self) -> int:
        """Number of rows d."""
        return len(self.cells)

    @property
    def key(self) -> str:
        """Stable name, made of the keys of the cells, shallow to deep."""
        return "|".join(cell.key for cell in self.cells)

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.cells)

    def __str__(self) -> str:
        return self.key

    def _repr_svg_(self) -> str:
        return svg(self.cells, self.key)  # Jupyter shows it


@dataclass(frozen=True, slots=True)
class HyperArchitecture:
    """d rows of w cells each: H in S^(d x w), which represents w^d architectures (section 2.2)."""

    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(tuple(row) for row in self.rows))
        widths = [len(row) for row in self.rows]
        if not widths or min(widths) < 1 or len(set(widths)) > 1:
            raise InvalidInputError(
                f"expected one or more rows of one width, got rows of {widths} cells; give every row as many cells"
            )

    @property
    def depth(self) -> int:
        """Number of rows d."""
        return len(self.rows)

    @property
    def width(self) -> int:
        """Number of columns w."""
        return len(self.rows[0])

    @property
    def shape(self) -> tuple[int, int]:
        """``(d, w)``, the shape of alpha."""
        return self.depth, self.width

    @property
    def keys(self) -> list[list[str]]:
        """Keys of the cells, d rows of w."""
        return [[cell.key for cell in row] for row in self.rows]

    @property
    def size(self) -> int:
        """Number of paths, w^d."""
        return self.width**self.depth

    def architecture(self, path: Sequence[int]) -> Architecture:
        """The architecture along a path ``(d,)``, which has one column per row."""
        if len(path) != self.depth or not all(0 <= column < self.width for column in path):
            raise InvalidInputError(
                f"expected a path of {self.depth} columns from 0 to {self.width - 1}, got {list(path)}"
            )
        return Architecture(tuple(row[column] for row, column in zip(self.rows, path, strict=True)))
