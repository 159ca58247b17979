"""The past of a study, kept from one look at its storage to the next: a trial that has ended is never read again."""

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

__all__ = ["Past", "identity_of", "read_past"]

FEW = 8
"""Trials that are read one by one, each with a query. More of them are read with all trials at once."""


class Past:
    """What the trials of a study have come to, as of the last look at its storage."""

    def __init__(self, identity: str | None) -> None:
        self.identity = identity
        """Of the study."""
        self.count = 0
        """Trials that are known; the next one has this number."""
        self.unfinished: list[FrozenTrial] = []
        """Running and waiting trials, by number."""
        self.told: list[FrozenTrial] = []
        """Generations that were told, by trial number; generation t is number t of them. The list only grows."""
        self.in_order = True
        """False once a trial was told after a later one, which renumbers the generations."""
        self.values: dict[int, FrozenTrial] = {}
        """By generation: the trial that has the value of its architecture, the generation's own or an evaluation."""
        self.failures: Counter[int] = Counter()
        """By generation: trials of it that failed."""

    def update(self, study: Study) -> None:
        """Read what may have changed: trials that were unfinished, and those that are new."""
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
        """Of two values of a generation, the later trial's counts, whichever was seen first."""
        known = self.values.get(generation)
        if known is None or known.number < trial.number:
            self.values[generation] = trial


_known: WeakKeyDictionary[Study, Past] = WeakKeyDictionary()


def read_past(study: Study) -> Past:
    """The past of a study as it is now.

    Raises:
        StorageError: (an ``OSError``) where the study was deleted, even if there is another one in its place.
    """
    identity = identity_of(study)
    # Taken out while it changes: after an error or an interrupt, and for another thread, all is read anew.
    past = _known.pop(study, None)
    if past is None or past.identity != identity:
        if past is not None and past.told:  # or two processes have made the study at once, and the last drew it
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
    """What tells a study from all others, of whatever name and storage.

    Raises:
        StorageError: (an ``OSError``) where the study was deleted.
    """
    try:
        return storage_of(study).get_study_user_attrs(study_id_of(study)).get(IDENTITY)
    except KeyError:
        raise _deleted(study) from None


def _deleted(study: Study) -> StorageError:
    return StorageError(
        f"expected study {study.study_name!r} to be there still, got none: it was deleted; create it again, or restore "
        "its storage"
    )


def _trials_from(study: Study, number: int) -> Iterator[FrozenTrial]:
    """All trials from a number on; their numbers have no gaps."""
    storage, study_id = storage_of(study), study_id_of(study)
    while True:
        try:
            trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
        except KeyError:
            return
        yield storage.get_trial(trial_id)
        number += 1
