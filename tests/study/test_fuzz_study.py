"""Random sequences of calls against a model of the protocol, on a storage that may be busy or killed at any write."""

import contextlib
import functools
import os

import numpy as np
import optuna
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from optuna.trial import TrialState

from fade_study import DagSpace, InvalidInputError, OpenGenerationError, StorageError, create_study, load_study
from fade_study.generation import CELLS, EVALUATES
from fade_study.samplers import PseudoGradientSampler
from fade_study.study import ownership
from fade_study.study import storage as retries

SPACE = DagSpace(3)
ACCURACY = st.none() | st.floats(0, 1)
DETAILS = st.dictionaries(
    st.text(max_size=3), st.none() | st.integers() | st.lists(st.floats(0, 1), max_size=2), max_size=2
)


def weather(writes):
    """What becomes of the next writes: some go well, then one or two don't."""
    bad = st.lists(st.sampled_from(["refused", "answer lost"]), max_size=2)
    return st.builds(lambda well, bad: ["well"] * well + bad, st.integers(0, writes - 1), bad)


SETTINGS = settings(stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck))
ASK_WRITES, TELL_WRITES = 10, 4
"""How many writes it takes: trial, points, 6 params, generation, cells; alpha, details, accuracy, state."""


def stormy(name):
    """A write to the storage, and what the weather makes of it."""

    def write(self, *arguments, **keywords):
        weather = self.weather.pop(0) if self.weather else "well"
        if weather == "killed":
            raise KeyboardInterrupt
        result = None if weather == "refused" else getattr(optuna.storages.InMemoryStorage, name)(
            self, *arguments, **keywords
        )  # fmt: skip
        if weather != "well":
            raise optuna.exceptions.StorageInternalError(weather)
        return result

    return write


WRITES = ("create_new_trial", "set_trial_param", "set_trial_user_attr", "set_trial_intermediate_value",
          "set_trial_state_values")  # fmt: skip
StormyStorage = type("StormyStorage", (optuna.storages.InMemoryStorage,), {name: stormy(name) for name in WRITES})


def facts(batch):
    return batch.number, batch.seed, batch.points.tolist(), [[trial.cell.key for trial in row] for row in batch.trials]


def alphas(batch):
    weights = np.array([[trial.cell.operations + 1.0 for trial in row] for row in batch.trials])
    return weights / weights.sum(axis=1, keepdims=True)


@functools.cache
def undisturbed(generation, attempt):
    """Facts of the batch that a search asks in which nothing goes wrong but this generation's attempts before."""
    study = create_study(space=SPACE, depth=2, sampler=PseudoGradientSampler(seed=0))
    for _ in range(generation):
        batch = study.ask()
        study.tell(batch, alphas(batch))
    for _ in range(attempt):
        study.fail(study.ask())
    return facts(study.ask())


WRONG = {
    "shape": lambda alpha: (alpha[:, :-1],),
    "NaN": lambda alpha: (alpha * np.nan,),
    "negative": lambda alpha: (alpha - 0.5,),
    "sum": lambda alpha: (alpha * 1.01,),
    "no array": lambda alpha: ("abc",),
    "value": lambda alpha: (alpha, float("nan")),
    "one-shot accuracy": lambda alpha: (alpha, 0.5, float("inf")),
    "details": lambda alpha: (alpha, None, None, {"x": object()}),
    "details of no number": lambda alpha: (alpha, None, None, {"x": float("nan")}),
}


class Protocol(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.storage = StormyStorage()
        self.storage.weather = []
        self.study = create_study(
            space=SPACE, depth=2, sampler=PseudoGradientSampler(seed=0), storage=self.storage, study_name="s"
        )
        self.told = []  # (batch, details) of each generation
        self.evaluated = {}  # (value, details) by generation
        self.attempt = 0
        self.old = []  # batches that are no longer open
        self.here = None  # the batch that is open in self.study
        self.owner = None  # of the running trial: "us", "other" or "dead"
        self.evaluating = {}  # evaluations that are open in self.study, by generation
        self.taken = {}  # those of them that another process has, and whether it lives

    def reload(self):
        self.storage.weather = []
        self.study = load_study(study_name="s", storage=self.storage, space=SPACE)
        self.here = None
        self.evaluating, self.taken = {}, {}

    def running(self):
        """Trials of the search, and trials of evaluations."""
        trials = self.storage.get_all_trials(self.study.optuna_study._study_id, states=(TrialState.RUNNING,))
        evaluations = [trial for trial in trials if EVALUATES in trial.user_attrs]
        return [trial for trial in trials if trial not in evaluations], evaluations

    def taken_by_another(self, trial, lives):
        pid = os.getppid()
        started = ownership._started(pid) - (0 if lives else 1000)
        process = {**ownership._here(), "pid": pid, "started": started, "beat": 0}
        self.storage.weather = []
        self.storage.set_trial_user_attr(trial._trial_id, ownership.OWNER, process)

    def close(self):
        self.old.append(self.here)
        self.here = self.owner = None

    # --- what goes well ---

    @precondition(lambda self: self.here is None and self.owner != "other")
    @rule(weather=weather(ASK_WRITES))
    def ask(self, weather):
        self.storage.weather = weather
        self.here = self.study.ask()
        self.owner = "us"
        assert facts(self.here) == undisturbed(len(self.told), self.attempt)

    @precondition(lambda self: self.here and self.owner == "us")
    @rule(weather=weather(TELL_WRITES), value=ACCURACY, one_shot=ACCURACY, details=st.none() | DETAILS)
    def tell(self, weather, value, one_shot, details):
        self.storage.weather = weather
        self.study.tell(self.here, alphas(self.here), value, one_shot, details)
        if value is not None:
            self.evaluated[len(self.told)] = value, details or {}
        self.told.append((self.here, details or {}))
        self.attempt = 0
        self.close()

    @precondition(lambda self: self.here and self.owner == "us")
    @rule(weather=weather(1))
    def fail(self, weather):
        self.storage.weather = weather
        self.study.fail(self.here)
        self.attempt += 1
        self.close()

    @precondition(lambda self: self.told)
    @rule(weather=weather(1), back=st.integers(1, 3), value=st.floats(0, 1), details=DETAILS)
    def add_evaluation(self, weather, back, value, details):
        generation = len(self.told) - back
        self.storage.weather = weather
        free = generation in self.evaluating or (
            generation in self.without_value() and not self.is_elsewhere(generation)
        )
        if not free or generation in self.evaluated or generation in self.taken:
            with pytest.raises(InvalidInputError):
                self.study.add_evaluation(generation, value, details)
            if generation in self.taken:
                self.forget(generation)
        else:
            self.study.add_evaluation(generation, value, details)
            self.evaluated[generation] = value, details
            self.forget(generation)

    # --- evaluations that are asked and told ---

    def without_value(self):
        return [number for number in range(len(self.told)) if number not in self.evaluated]

    def is_elsewhere(self, generation):
        """Whether a living process evaluates a generation, or its architecture."""
        cells = [cell.key for cell in self.told[generation][0].architecture]
        return any(
            ownership._lives_elsewhere(trial)
            and (trial.user_attrs[EVALUATES] == generation or [row[0] for row in trial.user_attrs[CELLS]] == cells)
            for trial in self.running()[1]
        )

    def forget(self, generation):
        self.evaluating.pop(generation, None)
        self.taken.pop(generation, None)

    @rule(weather=weather(2))
    def ask_evaluation(self, weather):
        free = [g for g in self.without_value() if g not in self.evaluating and not self.is_elsewhere(g)]
        self.storage.weather = weather
        evaluation = self.study.ask_evaluation()
        assert (evaluation and evaluation.generation) == (free[0] if free else None)
        if evaluation is not None:
            assert evaluation.architecture == self.told[evaluation.generation][0].architecture
            self.evaluating[evaluation.generation] = evaluation

    @precondition(lambda self: self.here and self.owner == "us" and len(self.told) not in self.evaluating)
    @rule()
    def ask_evaluation_of_the_open_generation(self):
        self.storage.weather = []
        evaluation = self.study.ask_evaluation([len(self.told)])
        if evaluation is not None:  # another process may have its architecture
            assert evaluation.architecture == self.here.architecture
            self.evaluating[len(self.told)] = evaluation

    @precondition(lambda self: self.evaluating)
    @rule(weather=weather(2), which=st.integers(0, 100), value=st.floats(0, 1), details=DETAILS, failing=st.booleans())
    def finish_an_evaluation(self, weather, which, value, details, failing):
        generation = sorted(self.evaluating)[which % len(self.evaluating)]
        evaluation = self.evaluating[generation]
        call = (self.study.fail_evaluation, evaluation) if failing else (
            self.study.tell_evaluation, evaluation, value, details
        )  # fmt: skip
        if generation in self.taken:
            self.refused(InvalidInputError, *call)
            self.forget(generation)
        elif not failing and (generation >= len(self.told) or generation in self.evaluated):
            self.refused(InvalidInputError, *call)
        else:
            self.storage.weather = weather
            call[0](*call[1:])
            self.forget(generation)
            if not failing:
                self.evaluated[generation] = value, details

    @precondition(lambda self: self.evaluating or self.without_value())
    @rule(which=st.integers(0, 100), lives=st.booleans(), crash=st.booleans())
    def another_process_takes_an_evaluation(self, which, lives, crash):
        if not self.evaluating:
            self.ask_evaluation([])
        if self.evaluating:
            generation = sorted(self.evaluating)[which % len(self.evaluating)]
            numbers = {trial.number: trial for trial in self.running()[1]}
            if trial := numbers.get(self.evaluating[generation].trial_number):
                self.taken_by_another(trial, lives)
                self.taken[generation] = lives
        if crash:
            self.reload()

    # --- crashes and other processes ---

    @rule()
    def crash(self):
        self.reload()

    @precondition(lambda self: self.here is None and self.owner != "other")
    @rule(writes=st.integers(0, ASK_WRITES - 1))
    def crash_within_ask(self, writes):
        self.storage.weather = ["well"] * writes + ["killed"]
        with contextlib.suppress(KeyboardInterrupt):
            self.study.ask()
        self.reload()
        if self.running()[0]:
            self.owner = "us"

    @precondition(lambda self: self.here and self.owner == "us")
    @rule(writes=st.integers(0, TELL_WRITES - 1), details=DETAILS, killed=st.booleans())
    def tell_in_vain(self, writes, details, killed):
        self.storage.weather = ["well"] * writes + ["killed" if killed else "refused"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(retries, "RETRY_SECONDS", 0)
            try:
                self.study.tell(self.here, alphas(self.here), 0.5, 0.5, details)
            except KeyboardInterrupt:
                self.reload()
            except StorageError:
                pass  # and it is open still
            else:  # it was fewer writes
                self.evaluated[len(self.told)] = 0.5, details
                self.told.append((self.here, details))
                self.attempt = 0
                self.close()
        self.storage.weather = []

    @precondition(lambda self: self.owner)
    @rule(lives=st.booleans())
    def another_process_takes_it(self, lives):
        (trial,) = self.running()[0]
        self.taken_by_another(trial, lives)
        self.owner = "other" if lives else "dead"

    # --- what is refused, and changes nothing ---

    def refused(self, error, call, *arguments):
        before = self.study.optuna_study.trials
        with pytest.raises(error):
            call(*arguments)
        assert self.study.optuna_study.trials == before

    @precondition(lambda self: self.here)
    @rule(kind=st.sampled_from(sorted(WRONG)))
    def tell_wrongly(self, kind):
        self.storage.weather = []
        self.refused(InvalidInputError, self.study.tell, self.here, *WRONG[kind](alphas(self.here)))

    @precondition(lambda self: self.old)
    @rule(which=st.integers(0, 100), failing=st.booleans())
    def finish_an_old_batch(self, which, failing):
        batch = self.old[which % len(self.old)]
        if self.here is None or facts(batch) != facts(self.here):
            self.refused(
                InvalidInputError, *((self.study.fail, batch) if failing else (self.study.tell, batch, alphas(batch)))
            )

    @precondition(lambda self: self.here or self.owner == "other")
    @rule()
    def ask_while_open(self):
        self.refused(OpenGenerationError, self.study.ask)

    @precondition(lambda self: self.here and self.owner != "us")
    @rule(failing=st.booleans())
    def finish_what_was_taken_over(self, failing):
        call = (self.study.fail, self.here) if failing else (self.study.tell, self.here, alphas(self.here))
        self.refused(InvalidInputError, *call)
        self.here = None

    # --- what always holds ---

    @invariant()
    def the_study_is_as_the_model(self):
        np.testing.assert_array_equal(
            self.study.trajectory(), np.array([batch.anchors for batch, _ in self.told]).reshape(-1, 2, 3)
        )
        assert [self.study.generation(number).details for number in range(len(self.told))] == [
            details for _, details in self.told
        ]
        assert [(e.generation, e.value, e.details) for e in self.study.evaluations()] == [
            (number, *self.evaluated[number]) for number in sorted(self.evaluated)
        ]
        searching, evaluating = self.running()
        assert len(searching) == (self.owner is not None)
        mine = {trial.number for trial in evaluating if ownership.is_mine(trial)}
        assert {e.trial_number for g, e in self.evaluating.items() if g not in self.taken} <= mine


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(ownership, "CLAIM_SECONDS", 0)
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0)
    monkeypatch.setattr(retries, "LONGEST_WAIT_SECONDS", 0)


class TestProtocol(Protocol.TestCase):
    settings = settings(SETTINGS, max_examples=300)


@pytest.mark.slow
class TestProtocolForLong(Protocol.TestCase):
    settings = settings(SETTINGS, max_examples=1000)
