"""Regularized evolution on from-scratch accuracies (Real et al., AAAI 2019), a standard baseline."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from fade_study.exceptions import InvalidInputError


class RegularizedEvolutionSampler(optuna.samplers.RandomSampler):
    """The parent is the best of a random sample of the most recent trials; its child has one row drawn at random.

    Like Optuna's samplers, it optimizes absolute values, and therefore proposes single architectures (w = 1).

    Args:
        population: Number of most recent trials that may be parents; until there are so many, points are random.
        tournament: Size of the random sample of the population, whose best trial becomes the parent.
        seed: Seed for all random numbers.
    """

    def __init__(self, population: int = 10, tournament: int = 3, seed: int | None = None) -> None:
        if not 1 <= tournament <= population:
            raise InvalidInputError(
                f"expected 1 <= tournament <= population, got tournament {tournament} and population {population}"
            )
        super().__init__(seed=seed)
        self._population = population
        self._tournament = tournament
        self._random = np.random.default_rng(seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The params that all finished trials have."""
        return optuna.search_space.intersection_search_space(study.get_trials(deepcopy=False))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The parent's params without those of one row, which are sampled at random afterwards."""
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))[-self._population :]
        if len(trials) < self._population or not search_space:
            return {}
        drawn = self._random.choice(len(trials), size=self._tournament, replace=False)
        sign = 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
        parent = max((trials[i] for i in drawn), key=lambda trial: sign * (trial.value or 0.0))
        rows = sorted({name.partition("/")[0] for name in search_space})
        mutated = self._random.choice(rows)
        return {name: parent.params[name] for name in search_space if name.partition("/")[0] != mutated}
