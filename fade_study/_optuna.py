"""All uses of Optuna's private interface.

Optuna has no public way to write to a trial that another object has asked for, to resume a running trial, or to read
one trial of a study without all others. The upper bound on Optuna's version in ``pyproject.toml`` exists for this file.
"""

from __future__ import annotations

from typing import Any

from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial


def storage_of(study: Study) -> BaseStorage:
    """The storage of a study."""
    return study._storage


def study_id_of(study: Study) -> int:
    """The id of a study in its storage."""
    return study._study_id


def id_of(trial: FrozenTrial | Trial) -> int:
    """The id of a trial in its storage, which is not its number in the study."""
    return trial._trial_id


def reopen(study: Study, trial_id: int) -> Trial:
    """A running trial, as if ``study.ask()`` had just returned it."""
    return Trial(study, trial_id)


def forget_cached_trials(study: Study) -> None:
    """Make Optuna's samplers read the trials again, as ``Study.ask`` does."""
    study._thread_local.cached_all_trials = None


def backend_of(storage: BaseStorage) -> BaseStorage:
    """The storage behind Optuna's cache."""
    return getattr(storage, "_backend", storage)


def complete_schema(storage: BaseStorage) -> None:
    """Create the indexes of a database whose first process was killed between its tables and their indexes.

    Optuna does not look for them again, and without the unique one, a study could be created twice under one name.
    """
    engine = getattr(storage, "engine", None)
    if engine is not None:
        from optuna.storages._rdb.models import BaseModel

        for table in BaseModel.metadata.tables.values():
            for index in table.indexes:
                index.create(engine, checkfirst=True)


def inner_sampler(sampler: BaseSampler) -> Any:
    """The sampler inside a wrapper such as ``PartialFixedSampler``; None if a sampler is not a wrapper."""
    return getattr(sampler, "_base_sampler", None)
