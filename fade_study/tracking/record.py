"""The record of a search for later analysis: the trajectory of its anchors, and the accuracies of its architectures.

The run of a search holds it as the artifact ``search.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fade_study.benchmarks import Scratch
from fade_study.exceptions import DataError
from fade_study.study import FadeStudy


@dataclass(frozen=True, slots=True, eq=False)
class SearchRecord:
    """Record of a search over T generations with d rows, w columns and f features."""

    features: tuple[str, ...]
    space: int
    """Number of cells in the space."""
    anchors: NDArray[np.float64]
    """Anchors ``(T, d, f)``."""
    embedded: NDArray[np.float64]
    """Points of the anchors' cells, ``(T, d, f)``."""
    cells: tuple[tuple[tuple[str, ...], ...], ...]
    """Keys of the cells ``(T, d, w)``, that of the anchor first."""
    evaluated: tuple[str, ...]
    """Keys ``(T,)`` of the architectures to evaluate: the anchors' or the best-ranked ones."""
    evaluations: Mapping[int, tuple[Scratch, ...]]
    """From-scratch trainings of the evaluated architecture, one per seed, by generation."""

    @classmethod
    def of(cls, study: FadeStudy, evaluations: Mapping[int, Sequence[Scratch]]) -> SearchRecord:
        """The record of a study, which stores only mean accuracies, and of its trainings from scratch by generation."""
        embedding = {cell.key: study.space.embed(cell) for cell in study.space}
        rows = [study.history(row) for row in range(study.depth)]
        cells = tuple(zip(*([generation.cells for generation in row] for row in rows), strict=True))
        anchors = study.trajectory()
        return cls(
            features=tuple(study.space.features),
            space=len(study.space),
            anchors=anchors,
            embedded=np.array([[embedding[row[0]] for row in generation] for generation in cells]).reshape(
                anchors.shape
            ),
            cells=cells,
            evaluated=tuple(architecture.key for architecture in study.evaluated_architectures()),
            evaluations={generation: tuple(scratch) for generation, scratch in sorted(evaluations.items())},
        )

    @property
    def tests(self) -> dict[int, list[float]]:
        """Test accuracies of the evaluated architecture, one per seed, by generation."""
        return {t: [scratch.test for scratch in found] for t, found in self.evaluations.items()}

    @property
    def trend(self) -> tuple[list[int], list[float]]:
        """Generations that were evaluated, and their mean test accuracies."""
        return list(self.evaluations), [float(np.mean(tests)) for tests in self.tests.values()]

    @property
    def best(self) -> int | None:
        """Generation whose architecture has the best mean validation accuracy; None if none was evaluated."""
        means = {t: np.mean([scratch.validation for scratch in found]) for t, found in self.evaluations.items()}
        return max(means, key=lambda t: means[t], default=None)

    @property
    def best_validation(self) -> float:
        """Mean validation accuracy of that architecture; 0 if none was evaluated."""
        found = () if self.best is None else self.evaluations[self.best]
        return float(np.mean([scratch.validation for scratch in found])) if found else 0.0

    def to_json(self) -> str:
        """The record as JSON."""
        content: dict[str, Any] = {
            "features": self.features,
            "space": self.space,
            "anchors": self.anchors.tolist(),
            "embedded": self.embedded.tolist(),
            "cells": self.cells,
            "evaluated": self.evaluated,
            "evaluations": {generation: list(found) for generation, found in self.evaluations.items()},
        }
        return json.dumps(content)

    @classmethod
    def from_json(cls, text: str) -> SearchRecord:
        """The record that ``to_json`` has written; a ``DataError`` for any other text."""
        try:
            content = json.loads(text)
            features = tuple(map(str, content["features"]))
            cells = tuple(tuple(tuple(row) for row in generation) for generation in content["cells"])
            shape = len(cells), len(cells[0]) if cells else 1, len(features)
            evaluations = {
                int(generation): tuple(Scratch(*map(float, scratch)) for scratch in found)
                for generation, found in content["evaluations"].items()
            }
            evaluated = tuple(map(str, content["evaluated"]))
            if len(evaluated) != len(cells):
                raise ValueError(f"{len(evaluated)} evaluated architectures of {len(cells)} generations")
            if not evaluations.keys() <= set(range(len(cells))):
                raise ValueError(f"evaluations of generations {sorted(evaluations)} of {len(cells)}")
            return cls(
                features=features,
                space=int(content["space"]),
                anchors=np.array(content["anchors"], dtype=float).reshape(shape),
                embedded=np.array(content["embedded"], dtype=float).reshape(shape),
                cells=cells,
                evaluated=evaluated,
                evaluations=evaluations,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"expected the record of a search, got {type(error).__name__}: {error}") from None
