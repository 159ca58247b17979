"""The past of a study, cached between reads of its storage, so that no finished trial is read twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from weakref import WeakKeyDictionary

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from fade_study._optuna import id_of, storage_of, study_id_of
from fade_study.exceptions import StorageError
from fade_study.generation import ALPHA, EVALUATES, GENERATION, IDENTITY

FEW = 8
"""Largest number of trials that are read one by one; for more of them, one query reads all trials."""


class Past:
    """Summary of the trials of a study at the last read of its storage."""

    def __init__(self, identity: str | None) -> None:
        self.identity = identity
        """Unique identifier of the study."""
        self.count = 0
        """Number of known trials, which is also the number of the next one."""
        self.unfinished: list[FrozenTrial] = []
        """Running and waiting trials, ordered by number."""
        self.told: list[FrozenTrial] = []
        """Trials of told generations, ordered by number; entry t is generation t. The list only grows."""
        self.in_order = True
        """False if a trial was told after one with a higher number, which renumbers the generations."""
        self.values: dict[int, FrozenTrial] = {}
        """Trial with the value of each generation's architecture: the generation's own trial or an evaluation."""
        self.failures: Counter[int] = Counter()
        """Number of failed trials of each generation."""

    def update(self, study: Study) -> None:
        """Read the trials that may have changed: unfinished and new ones."""
        if self.count == 0 or len(self.unfinished) > FEW:
            everything = study.get_trials(deepcopy=False)
            trials = [everything[trial.number] for trial in self.unfinished] + everything[self.count :]
        else:
            trials = [storage_of(study).get_trial(id_of(trial)) for trial in self.unfinished]
            new = list(islice(_trials_from(study, self.count), FEW + 1))
            trials += new if len(new) <= FEW else study.get_trials(deepcopy=False)[self.count :]
        self.count += len(trials) - len(self.unfinished)
        self.unfinished = [trial for trial in trials if not trial.state.is_finished()]
        for trial in trials:
            if trial.state == TrialState.FAIL and GENERATION in trial.user_attrs:
                self.failures[trial.user_attrs[GENERATION]] += 1
            elif trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and ALPHA in trial.user_attrs:
                self.in_order &= not self.told or self.told[-1].number < trial.number
                self.told.append(trial)
                if trial.state == TrialState.COMPLETE:
                    self._evaluated(len(self.told) - 1, trial)
            elif trial.state == TrialState.COMPLETE and EVALUATES in trial.user_attrs:
                self._evaluated(trial.user_attrs[EVALUATES], trial)

    def _evaluated(self, generation: int, trial: FrozenTrial) -> None:
        """Keep the value of the later trial if a generation has two, whichever was read first."""
        known = self.values.get(generation)
        if known is None or known.number < trial.number:
            self.values[generation] = trial


_known: WeakKeyDictionary[Study, Past] = WeakKeyDictionary()


def read_past(study: Study) -> Past:
    """The current past of a study.

    Raises:
        StorageError: (an ``OSError``) if the study was deleted, even if another one has replaced it.
    """
    identity = identity_of(study)
    # Removed while it changes, so that everything is read again after an error or interrupt, and by another thread.
    past = _known.pop(study, None)
    if past is None or past.identity != identity:
        if past is not None and past.told:  # without trials, two processes may just have created the study at once
            _known[study] = past
            raise _deleted(study)
        past = Past(identity)
    past.update(study)
    if not past.in_order:
        past = Past(identity)
        past.update(study)
    _known[study] = past
    return past


def identity_of(study: Study) -> str | None:
    """Unique identifier of a study, which differs from those of all others, whatever their names and storages.

    Raises:
        StorageError: (an ``OSError``) if the study was deleted.
    """
    try:
        return storage_of(study).get_study_user_attrs(study_id_of(study)).get(IDENTITY)
    except KeyError:
        raise _deleted(study) from None


def _deleted(study: Study) -> StorageError:
    return StorageError(
        f"expected study {study.study_name!r} to exist, got none: it was deleted; create it again, or restore its "
        "storage"
    )


def _trials_from(study: Study, number: int) -> Iterator[FrozenTrial]:
    """All trials from a number on; numbers have no gaps."""
    storage, study_id = storage_of(study), study_id_of(study)
    while True:
        try:
            trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
        except KeyError:
            return
        yield storage.get_trial(trial_id)
        number += 1
