"""The past of a study, kept from one look at its storage to the next: a trial that has ended is never read again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from weakref import WeakKeyDictionary

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

__all__ = ["ALPHA", "EVALUATES", "GENERATION", "Past", "read_past"]

ALPHA = "fade:alpha"
"""Attribute of a trial: alphas, ``(d, w)``."""
EVALUATES = "fade:evaluates"
"""Attribute of a trial that is none of the search's: the generation whose value it brings."""
GENERATION = "fade:generation"
"""Attribute of a trial: the generation it belongs to. Trials that failed repeat a generation."""

FEW = 8
"""Unfinished trials that are read one by one, each with a query. More of them are read with all trials at once."""


class Past:
    """What the trials of a study have come to, as of the last look at its storage."""

    def __init__(self) -> None:
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
            trials = [study._storage.get_trial(trial._trial_id) for trial in self.unfinished]
            trials += _trials_from(study, self.count)
        self.count += len(trials) - len(self.unfinished)
        self.unfinished = [trial for trial in trials if not trial.state.is_finished()]
        for trial in trials:
            if trial.state == TrialState.FAIL and GENERATION in trial.user_attrs:
                self.failures[trial.user_attrs[GENERATION]] += 1
            elif trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and ALPHA in trial.user_attrs:
                self.in_order &= not self.told or self.told[-1].number < trial.number
                self.told.append(trial)
                if trial.state == TrialState.COMPLETE:
                    self.values[len(self.told) - 1] = trial
            elif trial.state == TrialState.COMPLETE and EVALUATES in trial.user_attrs:
                self.values[trial.user_attrs[EVALUATES]] = trial


_known: WeakKeyDictionary[Study, Past] = WeakKeyDictionary()


def read_past(study: Study) -> Past:
    """The past of a study as it is now."""
    # Taken out while it changes: after an error or an interrupt, and for another thread, all is read anew.
    past = _known.pop(study, None) or Past()
    past.update(study)
    if not past.in_order:
        past = Past()
        past.update(study)
    _known[study] = past
    return past


def _trials_from(study: Study, number: int) -> Iterator[FrozenTrial]:
    """All trials from a number on; their numbers have no gaps."""
    storage = study._storage
    while True:
        try:
            trial_id = storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
        except KeyError:
            return
        yield storage.get_trial(trial_id)
        number += 1
