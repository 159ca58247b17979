"""Every use that this package makes of Optuna's private interface, in one place.

Optuna has no public way to write to a trial that another object has asked, to take up a running trial again, or to read
one trial of a study without all others. The upper bound on Optuna's version in ``pyproject.toml`` exists for this file.
"""

from __future__ import annotations

from typing import Any

from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

__all__ = ["backend_of", "forget_cached_trials", "id_of", "inner_sampler", "reopen", "storage_of", "study_id_of"]


def storage_of(study: Study) -> BaseStorage:
    """The storage in which a study lies."""
    return study._storage


def study_id_of(study: Study) -> int:
    """The number by which a storage knows a study."""
    return study._study_id


def id_of(trial: FrozenTrial | Trial) -> int:
    """The number by which a storage knows a trial; not its number within the study."""
    return trial._trial_id


def reopen(study: Study, trial_id: int) -> Trial:
    """A running trial, to go on with it as if ``study.ask()`` had just returned it."""
    return Trial(study, trial_id)


def forget_cached_trials(study: Study) -> None:
    """Have Optuna's samplers read the trials anew, as ``Study.ask`` does."""
    study._thread_local.cached_all_trials = None


def backend_of(storage: BaseStorage) -> BaseStorage:
    """The storage behind Optuna's cache."""
    return getattr(storage, "_backend", storage)


def inner_sampler(sampler: BaseSampler) -> Any:
    """What a wrapper such as ``PartialFixedSampler`` wraps; None for a sampler that wraps none."""
    return getattr(sampler, "_base_sampler", None)
