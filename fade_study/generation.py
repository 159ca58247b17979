"""A generation of a search: what a study hands out, what a row sees of it, and what its Optuna trial stores.

One generation is one Optuna trial. Its params are the d·f anchor coordinates. Its value, if it has one, is the
from-scratch accuracy of the architecture that the study evaluates. Everything else is in the attributes named here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from fade_study.architecture import Architecture, HyperArchitecture
from fade_study.cells import Cell
from fade_study.cells.drawing import svg

IDENTITY = "fade:identity"
"""Attribute of a study: a unique identifier, created with it."""
STUDY = "fade:study"
"""Attribute of a study: settings that must never change (space, depth, sampler settings, seed)."""
SPACE = "fade:space"
"""Attribute of a study: arguments that make its ``DagSpace`` again; missing for other spaces."""
GENERATION = "fade:generation"
"""Attribute of a trial: its generation. Another trial of the same generation repeats one that failed."""
POINTS = "fade:points"
"""Attribute of a trial: points of the neighborhoods, ``(d, w, f)``."""
CELLS = "fade:cells"
"""Attribute of a trial: keys of the cells, ``(d, w)``."""
ALPHA = "fade:alpha"
"""Attribute of a trial: alphas, ``(d, w)``."""
DETAILS = "fade:details"
"""Attribute of a trial: additional details from the caller."""
EVALUATES = "fade:evaluates"
"""Attribute of a trial that is only an evaluation: the generation whose value it provides."""
OWNER = "fade:owner"
"""Attribute of a trial: the process in which its generation or evaluation is open."""


@dataclass(frozen=True, slots=True, eq=False)
class CellTrial:
    """One candidate cell of a row, and the point to which it is the nearest cell."""

    row: int
    column: int
    point: NDArray[np.float64]
    """Point ``(f,)``."""
    cell: Cell


@dataclass(frozen=True, eq=False)
class Batch:
    """A request of a study: one hyper-architecture, whose alphas it wants to be told."""

    number: int
    """Number of the generation, from 0."""
    trial_number: int
    """Number of the Optuna trial."""
    seed: int
    """Seed for the training; the same if the generation is asked again after a crash, a new one after ``fail``."""
    trials: tuple[tuple[CellTrial, ...], ...]
    """Candidate cells, d rows of w."""

    @cached_property
    def points(self) -> NDArray[np.float64]:
        """Points of all neighborhoods, ``(d, w, f)``."""
        points = np.array([[trial.point for trial in row] for row in self.trials])
        points.setflags(write=False)
        return points

    @property
    def anchors(self) -> NDArray[np.float64]:
        """Anchors of all rows, ``(d, f)``."""
        return self.points[:, 0]

    @cached_property
    def hyper_architecture(self) -> HyperArchitecture:
        """The cells of all neighborhoods."""
        return HyperArchitecture(tuple(tuple(trial.cell for trial in row) for row in self.trials))

    @property
    def architecture(self) -> Architecture:
        """The cells of the anchors."""
        return self.hyper_architecture.architecture([0] * len(self.trials))

    def __repr__(self) -> str:
        d, w = self.hyper_architecture.shape
        return f"Batch(number={self.number}, seed={self.seed}, {d} rows of {w} cells)"

    def _repr_html_(self) -> str:
        """A table of the cells, for Jupyter."""
        head = "".join(f"<th>{'anchor' if j == 0 else f'column {j}'}</th>" for j in range(len(self.trials[0])))
        rows = "".join(
            f"<tr><th>row {i}</th>{''.join(f'<td>{svg([one.cell], one.cell.key)}</td>' for one in row)}</tr>"
            for i, row in enumerate(self.trials)
        )
        return f"<table><caption>Generation {self.number}</caption><tr><th></th>{head}</tr>{rows}</table>"

    def is_same(self, other: Batch) -> bool:
        """Whether another batch asks for the same, also where one of them went through a pickle."""
        mine, others = (self.trial_number, self.seed), (other.trial_number, other.seed)
        return mine == others and np.array_equal(self.points, other.points)


@dataclass(frozen=True, slots=True)
class OpenEvaluation:
    """A request of a study: an architecture whose from-scratch accuracy it wants to be told."""

    generation: int
    trial_number: int
    """Number of the Optuna trial."""
    architecture: Architecture
    """The generation's anchor architecture or its best-ranked one, depending on what the study evaluates."""


class Evaluation(NamedTuple):
    """A from-scratch accuracy of an architecture of a generation."""

    generation: int
    architecture: Architecture
    value: float
    details: dict[str, Any] = {}  # noqa: RUF012 - evaluations() gives each its own
    """Additional details that were told with the value."""


@dataclass(frozen=True, slots=True, eq=False)
class RowGeneration:
    """What one row saw in one generation."""

    points: NDArray[np.float64]
    """Points ``(w, f)``, the anchor first."""
    cells: tuple[str, ...]
    """Keys of the cells nearest to the points, ``(w,)``."""
    alpha: NDArray[np.float64]
    """Alphas ``(w,)``, which sum to 1; higher is better. They are comparable within this generation only."""
    value: float | None
    """Accuracy from scratch that was told with the alphas; None if there was none. Later evaluations are not seen."""

    @property
    def anchor(self) -> NDArray[np.float64]:
        """The row's anchor ``(f,)``."""
        return self.points[0]


@dataclass(frozen=True, slots=True, eq=False)
class RowHistory(Sequence[RowGeneration]):
    """A row's own past, oldest first. A search without memory reads ``history[-1]`` only."""

    row: int
    features: tuple[str, ...]
    """Names of the f coordinates."""
    generations: Sequence[RowGeneration]

    def __len__(self) -> int:
        return len(self.generations)

    def __getitem__(self, index: Any) -> Any:
        return self.generations[index]


def anchor_names(depth: int, features: Sequence[str]) -> list[list[str]]:
    """Names of the anchor coordinates among a trial's params, d lists of f names."""
    return [[f"row{row}/{feature}" for feature in features] for row in range(depth)]


@dataclass(frozen=True, slots=True, eq=False)
class _Told(Sequence[RowGeneration]):
    """One row's view of the first ``length`` trials, each of which is read only when it is accessed."""

    trials: Sequence[FrozenTrial]
    length: int
    row: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        chosen = range(self.length)[index]
        return tuple(self[i] for i in chosen) if isinstance(chosen, range) else self._generation(self.trials[chosen])

    def _generation(self, trial: FrozenTrial) -> RowGeneration:
        return RowGeneration(
            points=np.array(trial.user_attrs[POINTS][self.row]),
            cells=tuple(trial.user_attrs[CELLS][self.row]),
            alpha=np.array(trial.user_attrs[ALPHA][self.row]),
            # The value of a pruned trial is the supernet's accuracy, which is not a from-scratch accuracy.
            value=trial.value if trial.state == TrialState.COMPLETE else None,
        )


def row_history(told: Sequence[FrozenTrial], row: int, features: tuple[str, ...]) -> RowHistory:
    """One row's view of the generations told so far; it does not grow when more are told."""
    return RowHistory(row, features, _Told(told, len(told), row))
