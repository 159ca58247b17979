"""How the generations of one study lie in its Optuna trials: what a new one is given, what a told one holds."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from fade_study._optuna import id_of
from fade_study.architecture import Architecture
from fade_study.cells import CellSpace
from fade_study.generation import ALPHA, CELLS, DETAILS, GENERATION, POINTS, STUDY, Batch, CellTrial, anchor_names
from fade_study.past import Past, read_past
from fade_study.ranking import top_k
from fade_study.samplers import row_sampler
from fade_study.seeding import TIES, TRAINING


class Generation(NamedTuple):
    """Everything about a generation that was told."""

    batch: Batch
    """What was asked."""
    alpha: NDArray[np.float64]
    """Alphas ``(d, w)`` that were told."""
    details: dict[str, Any]
    """Details that were told; empty where there were none."""


class Trials:
    """Reads and completes the trials of one study of d rows, and knows which architecture it evaluates."""

    def __init__(self, study: optuna.Study, space: CellSpace, depth: int, evaluate: str) -> None:
        self._study, self._space, self._depth, self._evaluate = study, space, depth, evaluate
        self._names = anchor_names(depth, space.features)
        self._cells = {cell.key: cell for cell in space}

    def complete(self, trial: optuna.Trial) -> Batch:
        """The batch of a running trial; draws and stores what the storage does not hold yet."""
        past = read_past(self._study)
        generation = len(past.told)
        # Read from the storage: where two processes create a study at the same moment, the last one draws the seed.
        seed = self._study.user_attrs[STUDY]["seed"]
        anchors = [[trial.suggest_float(name, 0.0, 1.0) for name in row] for row in self._names]
        # Read from the storage, because the trial object does not see what its sampler wrote. Copied, because the
        # storage in memory returns its own dictionary.
        stored = dict(trial.storage.get_trial_user_attrs(id_of(trial)))
        sampler = row_sampler(self._study)
        if POINTS not in stored and sampler is not None:  # all coordinates are fixed, so Optuna has not asked it
            stored[POINTS] = sampler.neighborhoods(self._study).tolist()
        points = np.array(stored.get(POINTS, [[anchor] for anchor in anchors]))  # (d, w, f); w = 1 with Optuna's own
        if CELLS not in stored and sampler is not None and not np.array_equal(points[:, 0], anchors):
            points = np.stack([sampler.surround(np.array(a), row) for a, row in zip(anchors, points, strict=True)])
            points[:, 0] = anchors  # to the last bit: there is one truth about an anchor
        if CELLS not in stored:
            trial.set_user_attr(POINTS, points.tolist())
            rngs = [TIES.rng(seed, row, generation) for row in range(self._depth)]
            stored[CELLS] = [
                [self._space.nearest(point, rng).key for point in row] for row, rng in zip(points, rngs, strict=True)
            ]
            trial.set_user_attr(GENERATION, generation)
            trial.set_user_attr(CELLS, stored[CELLS])
        return self._batch(generation, past, trial.number, points, stored[CELLS], seed)

    def generation(self, number: int, past: Past) -> Generation:
        """Everything about a generation that was told."""
        trial = past.told[number]
        points, cells = np.array(trial.user_attrs[POINTS]), trial.user_attrs[CELLS]
        seed = self._study.user_attrs[STUDY]["seed"]
        batch = self._batch(number, past, trial.number, points, cells, seed)
        return Generation(batch, np.array(trial.user_attrs[ALPHA]), details_of(trial))

    def _batch(
        self,
        generation: int,
        past: Past,
        trial_number: int,
        points: NDArray[np.float64],
        cells: list[list[str]],
        seed: int,
    ) -> Batch:
        """A batch of points ``(d, w, f)`` and keys of cells ``(d, w)``, from the study's seed."""
        # A failed attempt repeats with another seed. Attempts that lost the race for a generation have no generation
        # yet, and so do not count.
        attempt = past.failures[generation]
        return Batch(
            number=generation,
            trial_number=trial_number,
            seed=TRAINING.seed(seed, generation, attempt),
            trials=tuple(
                tuple(
                    CellTrial(row, column, _read_only(points[row, column]), self._cells[key])
                    for column, key in enumerate(keys)
                )
                for row, keys in enumerate(cells)
            ),
        )

    def anchors(self, trial: FrozenTrial) -> NDArray[np.float64]:
        """Anchors of a generation ``(d, f)``."""
        return np.array([[trial.params[name] for name in row] for row in self._names])

    def architecture(self, trial: FrozenTrial) -> Architecture:
        """The cells of the first column: the anchors' in a generation, those to be evaluated in an evaluation."""
        return Architecture(tuple(self._cells[row[0]] for row in trial.user_attrs[CELLS]))

    def evaluated(self, trial: FrozenTrial) -> Architecture:
        """The architecture of a told generation that the study evaluates."""
        return Architecture(tuple(self._cells[key] for key in self.to_evaluate(trial)[1]))

    def to_evaluate(self, trial: FrozenTrial) -> tuple[dict[str, float], list[str]]:
        """What is evaluated of a generation: the points of an architecture's cells as params, and their keys."""
        path = [0] * self._depth
        if self._evaluate == "best_ranked":
            path = top_k(trial.user_attrs[ALPHA], 1)[0][0].tolist()
        points = [row[column] for row, column in zip(trial.user_attrs[POINTS], path, strict=True)]
        params = {
            name: value
            for names, point in zip(self._names, points, strict=True)
            for name, value in zip(names, point, strict=True)
        }
        return params, [row[column] for row, column in zip(trial.user_attrs[CELLS], path, strict=True)]


def details_of(trial: FrozenTrial) -> dict[str, Any]:
    """What a caller has kept with a trial; a copy."""
    return copy.deepcopy(trial.user_attrs.get(DETAILS, {}))


def _read_only(array: NDArray[np.float64]) -> NDArray[np.float64]:
    array = array.copy()
    array.setflags(write=False)
    return array
