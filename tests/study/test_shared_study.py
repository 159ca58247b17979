"""Two processes on one study, and a storage that is busy or away: real processes, real files."""

import contextlib
import gc
import inspect
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from fade_study import (
    DagSpace,
    InvalidInputError,
    OpenEvaluation,
    OpenGenerationError,
    StorageError,
    create_study,
    delete_study,
    load_study,
)
from fade_study.samplers import PseudoGradientSampler, RowSampler
from fade_study.study import ownership as module
from fade_study.study import storage as retries

SPACE = DagSpace(3)


def facts(batch):
    cells = [[trial.cell.key for trial in row] for row in batch.trials]
    return [batch.number, batch.trial_number, batch.seed, batch.points.tolist(), cells]


def alphas(batch):
    weights = np.array([[trial.cell.operations + 1.0 for trial in row] for row in batch.trials])
    return weights / weights.sum(axis=1, keepdims=True)


PRELUDE = f"""
import json, random, sys, time
import numpy as np, optuna, fade_study
from fade_study.study import ownership as module
optuna.logging.set_verbosity(optuna.logging.WARNING)

{inspect.getsource(facts)}
{inspect.getsource(alphas)}
def say(what):
    print(json.dumps(what), flush=True)

def meet(where):
    say(where)
    sys.stdin.readline()

def meeting(storage, name):
    write = getattr(storage, name)
    def wrapper(*arguments, **keywords):
        meet("before")
        result = write(*arguments, **keywords)
        meet("after")
        setattr(storage, name, write)
        return result
    setattr(storage, name, wrapper)

"""
"""Each process says what it does and, where it must meet another one, waits for a line."""

LOAD = """
study = fade_study.load_study(study_name="s", storage=sys.argv[1], space=fade_study.DagSpace(3))
meet("ready")
"""

ASK_AND_WAIT = "say(facts(study.ask())); sys.stdin.readline()"
ASK_OR_NOT = """
try:
    say(facts(study.ask()))
except fade_study.OpenGenerationError as error:
    say(str(error))
sys.stdin.readline()
"""


class Process:
    """A script that works on the study."""

    def __init__(self, script, url):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + script, str(url)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self.process.pid

    def hear(self):
        return json.loads(self.process.stdout.readline())

    def go(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self, *, reaped=True):
        os.kill(self.pid, signal.SIGKILL)
        if reaped:
            self.process.wait()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'fade.db'}"
    return request.getfixturevalue("postgresql").make_database()


@pytest.fixture
def study(url):
    return create_study(space=SPACE, depth=2, sampler=PseudoGradientSampler(seed=0), storage=url, study_name="s")


@pytest.fixture
def start(url, study):
    """Start processes on the study; they are ready when they are handed over, and end with the test."""
    with contextlib.ExitStack() as stack:

        def begin(*scripts):
            processes = [Process(LOAD + script, url) for script in scripts]
            for process in processes:
                stack.callback(process.process.communicate)
                stack.callback(process.process.kill)
            for process in processes:
                assert process.hear() == "ready"
            for process in processes:
                process.go()
            return processes

        yield begin


def load(url):
    return load_study(study_name="s", storage=url, space=SPACE)


def uninterrupted(generations):
    """The study that is never disturbed."""
    study = create_study(space=SPACE, depth=2, sampler=PseudoGradientSampler(seed=0))
    for _ in range(generations):
        batch = study.ask()
        study.tell(batch, alphas(batch))
    return study


def set_owner(study, **changes):
    """Write another owner to the open generation."""
    storage = study.optuna_study._storage
    (trial,) = running(study)
    storage.set_trial_user_attr(trial._trial_id, module.OWNER, trial.user_attrs[module.OWNER] | changes)


def running(study):
    return study.optuna_study.get_trials(states=(TrialState.RUNNING,))


def wait_until(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError


def states(study):
    return [trial.state.name for trial in study.optuna_study.trials]


# --- one generation, one process ---


def test_while_the_first_process_lives_the_second_is_refused(study, start, url):
    (first,) = start(ASK_AND_WAIT)
    first.hear()
    second = load(url)
    with pytest.raises(OpenGenerationError, match=rf"generation 0 is, in process {first.pid} on host '.+'; wait until"):
        second.ask()
    assert states(study) == ["RUNNING"]


@pytest.mark.parametrize("reaped", [True, False])
def test_after_a_kill_the_second_goes_on_with_the_same_generation(start, url, reaped):
    (first,) = start("batch = study.ask(); study.tell(batch, alphas(batch)); " + ASK_AND_WAIT)
    batch = first.hear()
    first.kill(reaped=reaped)  # one whose parent has not looked yet still has its pid
    wait_until(lambda: module._started(first.pid) is None)
    begin = time.monotonic()
    again = load(url).ask()
    assert json.loads(json.dumps(facts(again))) == batch
    assert again.number == 1
    assert time.monotonic() - begin < module.CLAIM_SECONDS + 5
    undisturbed = uninterrupted(1).ask()
    assert facts(again)[2:] == facts(undisturbed)[2:]


def test_a_pid_that_is_another_process_by_now(study, url):
    batch = study.ask()
    set_owner(study, pid=os.getppid(), started=module._started(os.getppid()))
    with pytest.raises(OpenGenerationError):
        load(url).ask()
    set_owner(study, pid=os.getppid(), started=module._started(os.getppid()) - 60)
    assert facts(load(url).ask()) == facts(batch)


def test_the_owner_on_another_host_is_dead_when_it_is_silent(study, url):
    batch = study.ask()
    for place in ({"host": "elsewhere"}, {"namespace": "another container"}):
        set_owner(study, **place, beat=time.time() - 100)
        with pytest.raises(OpenGenerationError, match=r"generation 0 is, in process \d+ on host"):
            load(url).ask()
        set_owner(study, **place, beat=time.time() - 130)
        assert facts(load(url).ask()) == facts(batch)


def test_a_process_takes_over_its_own_at_once(study, url, monkeypatch):
    monkeypatch.setattr(module.time, "sleep", None)
    assert facts(study.ask()) == facts(load(url).ask())


def test_a_trial_that_was_enqueued_in_optuna(url):
    study = create_study(space=SPACE, depth=1, sampler=optuna.samplers.RandomSampler(seed=0), storage=url)
    wanted = {f"row0/{feature}": 0.25 for feature in SPACE.features}
    study.optuna_study.enqueue_trial(wanted)
    np.testing.assert_array_equal(study.ask().anchors, [[0.25] * 3])
    assert len(study.optuna_study.trials) == 1


@pytest.mark.parametrize("finish", ["study.fail(batch)", "study.tell(batch, alphas(batch), 0.9, 0.8, {'who': 1})"])
@pytest.mark.parametrize("told", [True, False])
def test_who_was_taken_over_tells_nothing(study, start, url, monkeypatch, finish, told):
    """The first process is on another host, or so it says, and is taken for dead although it lives."""
    (first,) = start(
        f"""
module.socket.gethostname = lambda: "elsewhere"
batch = study.ask()
meet("asked")
try:
    {finish}
except fade_study.InvalidInputError as error:
    say(str(error))
{ASK_OR_NOT}"""
    )
    assert first.hear() == "asked"
    monkeypatch.setattr(module, "SILENT_SECONDS", 0)
    second = load(url)
    batch = second.ask()
    before = running(study)
    if told:
        second.tell(batch, alphas(batch), details={"who": 2})
    first.go()
    if told:
        assert "another session has finished it" in first.hear()
        assert first.hear()[0] == 1
        assert second.generation(0).details == {"who": 2}
        assert states(study) == ["PRUNED", "RUNNING"]
    else:
        assert re.search(rf"process {os.getpid()} on host '.+' has taken it over", first.hear())
        assert f"generation 0 is, in process {os.getpid()} on host" in first.hear()
        assert running(study) == before
        second.tell(batch, alphas(batch))


# --- at the same moment ---


def test_two_begin_a_generation_at_once(study, start, url):
    processes = start(*["meeting(study.optuna_study._storage, 'create_new_trial')\n" + ASK_OR_NOT] * 2)
    for where in ("before", "after"):
        for process in processes:
            assert process.hear() == where
        if where == "before":
            assert states(study) == []
        for process in processes:
            process.go()
    answers = [process.hear() for process in processes]
    ((winner, batch),) = [(p, answer) for p, answer in zip(processes, answers, strict=True) if isinstance(answer, list)]
    (error,) = [answer for answer in answers if isinstance(answer, str)]
    assert f"generation 0 is, in process {winner.pid} on host" in error
    assert states(study) == ["RUNNING", "FAIL"]
    assert batch == json.loads(json.dumps(facts(uninterrupted(0).ask())))  # first attempt's seed
    winner.kill()
    assert load(url).ask().seed == batch[2]  # the loser's trial is no attempt


def test_a_process_killed_while_it_makes_the_file_leaves_no_study_twice(tmp_path):
    """SQLite keeps each statement, and Optuna does not make the indexes of a table that exists."""
    settings = {"space": SPACE, "depth": 2, "study_name": "s", "storage": f"sqlite:///{tmp_path / 'fade.db'}"}
    create_study(**settings)
    delete_study(study_name="s", storage=settings["storage"])
    with sqlite3.connect(tmp_path / "fade.db") as connection:
        connection.execute("DROP INDEX ix_studies_study_name")
    create_study(**settings)
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        create_study(**settings)
    create_study(**settings, load_if_exists=True)


def test_two_create_the_same_study_at_once(tmp_path, monkeypatch):
    """Both make the tables and draw a seed."""
    monkeypatch.setattr(module, "CLAIM_SECONDS", 0)
    script = """
for number in range(4):
    meet("ready")
    study = fade_study.create_study(space=fade_study.DagSpace(3), depth=2, study_name="s", load_if_exists=True,
                                    storage=f"sqlite:///{sys.argv[1]}/{number}.db")
    meet("created")
    try:
        say(facts(study.ask()))
    except fade_study.OpenGenerationError:
        say(None)
"""
    processes = [Process(script, tmp_path) for _ in range(2)]
    asked = []
    for _ in range(4):
        for where in ("ready", "created"):
            assert [process.hear() for process in processes] == [where] * 2
            for process in processes:
                process.go()
        (batch,) = [answer for process in processes if (answer := process.hear())]
        asked.append(batch)
    for process in processes:
        process.process.communicate()
    for number, batch in enumerate(asked):
        assert json.loads(json.dumps(facts(load(f"sqlite:///{tmp_path / str(number)}.db").ask()))) == batch


def test_two_take_over_the_same_dead_process_at_once(study, start, url):
    """The last to write has it, and the first waits long enough to notice."""
    batch = study.ask()
    set_owner(study, pid=2**22 + 1)
    script = f"""
module.CLAIM_SECONDS = 3
meeting(study.optuna_study._storage, "set_trial_user_attr")
{ASK_OR_NOT}"""
    first, second = start(script, script)
    for process in (first, second):  # both have seen that the owner is dead
        assert process.hear() == "before"
    for process in (first, second):
        process.go()
        assert process.hear() == "after"
        process.go()
        time.sleep(0.5)  # long enough to conclude that nobody else is there, but for the wait
    assert f"generation 0 is, in process {second.pid} on host" in first.hear()
    assert second.hear() == json.loads(json.dumps(facts(batch)))
    assert states(study) == ["RUNNING"]


def test_two_processes_search_together(study, start):
    """Each generation is told once, and all are those of one process alone."""
    loop = """
while True:
    try:
        batch = study.ask()
    except fade_study.OpenGenerationError:
        time.sleep(random.uniform(0, 0.05))
        continue
    if batch.number >= 20:
        study.fail(batch)
        break
    study.tell(batch, alphas(batch), details={"trial": batch.trial_number})
    say(batch.number)
say("end")
"""
    processes = start(loop, loop)
    told = []
    for process in processes:
        told.append([])
        while (answer := process.hear()) != "end":
            told[-1].append(answer)
    assert sorted(told[0] + told[1]) == list(range(20))
    np.testing.assert_array_equal(study.trajectory(), uninterrupted(20).trajectory())
    assert not running(study)
    assert [study.generation(number).details["trial"] for number in range(20)] == [
        trial.number for trial in study.optuna_study.trials if trial.state == TrialState.PRUNED
    ]


# --- evaluations that are shared ---


def tell_generations(study, count):
    for _ in range(count):
        batch = study.ask()
        study.tell(batch, alphas(batch))


ASK_EVALUATION_AND_WAIT = """
evaluation = study.ask_evaluation()
say(evaluation and evaluation.generation)
sys.stdin.readline()
"""


def test_evaluations_are_handed_out_once(study, url):
    tell_generations(study, 2)
    first = study.ask_evaluation()
    assert first == OpenEvaluation(0, 2, study.architectures()[0])
    second = study.ask_evaluation()
    assert (second.generation, second.architecture) == (1, study.architectures()[1])
    assert study.ask_evaluation() is None
    study.tell_evaluation(second, 0.75, {"who": 2})
    study.fail_evaluation(first)
    assert study.ask_evaluation([1]) is None
    again = study.ask_evaluation()
    assert (again.generation, again.architecture) == (0, first.architecture)
    study.tell_evaluation(again, 0.5)
    assert [(e.generation, e.value, e.details) for e in load(url).evaluations()] == [
        (0, 0.5, {}),
        (1, 0.75, {"who": 2}),
    ]
    assert study.best_architecture == second.architecture
    assert study.ask_evaluation() is None
    assert states(study) == ["PRUNED", "PRUNED", "FAIL", "COMPLETE", "COMPLETE"]


def test_an_evaluation_in_the_wrong_order_stores_nothing(study):
    tell_generations(study, 1)
    evaluation = study.ask_evaluation()
    for wrong, message in [
        ((float("nan"),), "expected a finite value"),
        ((0.5, {"x": object()}), "expected details as a mapping"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            study.tell_evaluation(evaluation, *wrong)
    study.tell_evaluation(evaluation, 0.5)
    for finish in (lambda: study.tell_evaluation(evaluation, 0.6), lambda: study.fail_evaluation(evaluation)):
        with pytest.raises(InvalidInputError, match="expected an evaluation that is open, got that of generation 0"):
            finish()
    assert [e.value for e in study.evaluations()] == [0.5]


def test_an_open_generation_may_be_evaluated_before_it_is_told(study):
    """By the process that has it alone, and only where it is asked for."""
    assert study.ask_evaluation() is None
    batch = study.ask()
    assert study.ask_evaluation() is None
    evaluation = study.ask_evaluation([0])
    assert evaluation.architecture == batch.architecture
    with pytest.raises(InvalidInputError, match="expected generation 0 to be told before its evaluation, got 0"):
        study.tell_evaluation(evaluation, 0.5)
    study.fail(batch)
    batch = study.ask()
    study.tell(batch, alphas(batch))
    study.tell_evaluation(evaluation, 0.5)
    np.testing.assert_array_equal(
        study.optuna_study.best_trial.params["row0/" + SPACE.features[0]], batch.anchors[0, 0]
    )


def test_anchors_that_are_drawn_anew_are_another_evaluation():
    study = create_study(space=SPACE, depth=2, sampler=optuna.samplers.RandomSampler(seed=1))
    first = study.ask()
    stale = study.ask_evaluation([0])
    study.fail(first)
    batch = study.ask()
    assert batch.architecture != first.architecture
    study.tell(batch, np.ones((2, 1)))
    with pytest.raises(InvalidInputError, match="that one with other anchors"):
        study.tell_evaluation(stale, 0.5)
    study.fail_evaluation(stale)
    assert study.ask_evaluation().architecture == batch.architecture


def test_the_search_does_not_mind_evaluations(study, url):
    tell_generations(study, 2)
    study.ask_evaluation()
    batch = study.ask()
    assert facts(batch)[2:] == facts(uninterrupted(2).ask())[2:]
    assert facts(load(url).ask()) == facts(batch)
    np.testing.assert_array_equal(study.trajectory(), uninterrupted(2).trajectory())
    assert study.evaluations() == []


def test_what_another_process_evaluates_is_left_to_it_until_it_dies(study, start):
    tell_generations(study, 1)
    (first,) = start(ASK_EVALUATION_AND_WAIT)
    assert first.hear() == 0
    assert study.ask_evaluation() is None
    with pytest.raises(InvalidInputError, match="no other process evaluates"):
        study.add_evaluation(0, 0.5)
    first.kill()
    assert study.ask_evaluation().generation == 0


def test_who_was_taken_for_dead_tells_no_evaluation(study, start, monkeypatch):
    tell_generations(study, 1)
    (first,) = start(
        """
module.socket.gethostname = lambda: "elsewhere"
evaluation = study.ask_evaluation()
meet(evaluation.generation)
try:
    study.tell_evaluation(evaluation, 0.25)
except fade_study.InvalidInputError as error:
    say(str(error))
sys.stdin.readline()
"""
    )
    assert first.hear() == 0
    assert study.ask_evaluation() is None
    monkeypatch.setattr(module, "SILENT_SECONDS", 0)
    evaluation = study.ask_evaluation()
    first.go()
    assert "expected the evaluation of generation 0 to be open, but another session has finished it" in first.hear()
    study.tell_evaluation(evaluation, 0.5)
    assert [e.value for e in study.evaluations()] == [0.5]


def test_two_begin_an_evaluation_at_once(study, start):
    tell_generations(study, 1)
    processes = start(*["meeting(study.optuna_study._storage, 'create_new_trial')\n" + ASK_EVALUATION_AND_WAIT] * 2)
    for where in ("before", "after"):
        for process in processes:
            assert process.hear() == where
        for process in processes:
            process.go()
    assert sorted(process.hear() is None for process in processes) == [False, True]
    assert sorted(states(study)) == ["FAIL", "PRUNED", "RUNNING"]


def test_a_value_told_while_another_process_begins_is_not_told_twice(study, start):
    tell_generations(study, 1)
    evaluation = study.ask_evaluation()
    module_script = "module._lives_elsewhere = lambda trial: False\n"  # so that it gives up ours, and begins
    (other,) = start(
        module_script + "meeting(study.optuna_study._storage, 'create_new_trial')\n" + ASK_EVALUATION_AND_WAIT
    )
    assert other.hear() == "before"
    with pytest.raises(InvalidInputError, match="another session has finished it"):
        study.tell_evaluation(evaluation, 0.5)
    mine = study.ask_evaluation()
    study.tell_evaluation(mine, 0.5)
    other.go()
    assert other.hear() == "after"
    other.go()
    assert other.hear() is None
    assert [e.value for e in study.evaluations()] == [0.5]


class Still(RowSampler):
    def propose(self, history, rng):
        return np.full((2, len(history.features)), 0.5)


def test_an_architecture_that_comes_back_is_evaluated_by_one_process(url, start):
    """Whoever has its first generation may have the others as well."""
    study = create_study(space=SPACE, depth=1, sampler=Still(seed=0), storage=url, study_name="still")
    same = [0]
    for number in range(20):
        batch = study.ask()
        study.tell(batch, [[0.5, 0.5]])
        if number and batch.architecture == study.architectures()[0]:
            same.append(number)
    (other,) = start(
        f"""
class Still(fade_study.samplers.RowSampler):
    def propose(self, history, rng):
        return None
study = fade_study.load_study(
    study_name="still", storage=sys.argv[1], space=fade_study.DagSpace(3), sampler=Still(seed=0)
)
say([study.ask_evaluation([number]).generation for number in {same[:2]}])
sys.stdin.readline()
"""
    )
    assert other.hear() == same[:2]
    assert study.ask_evaluation(same) is None
    other.kill()
    assert study.ask_evaluation(same).generation == 0


# --- the beat ---


@pytest.fixture
def beats(monkeypatch):
    """Threads that were begun by the test and renew a beat."""
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.05)
    before = set(threading.enumerate())
    return lambda: [thread for thread in set(threading.enumerate()) - before if thread.name == "fade_study heartbeat"]


def beat(study):
    return running(study)[0].user_attrs[module.OWNER]["beat"]


@pytest.mark.parametrize("finish", ["tell", "fail", "garbage", "taken over"])
def test_the_beat_goes_on_while_the_generation_is_open(study, url, beats, finish):
    other = load(url)
    batch = study.ask()
    first = beat(other)
    wait_until(lambda: beat(other) > first)
    assert len(beats()) == 1
    if finish == "tell":
        study.tell(batch, alphas(batch))
    elif finish == "fail":
        study.fail(batch)
    elif finish == "taken over":
        set_owner(other, host="elsewhere", beat=0)
    else:
        study.__dict__.clear()
    wait_until(lambda: not beats())
    if finish == "taken over":
        assert beat(other) == 0


def test_a_study_with_an_open_generation_becomes_garbage(beats):
    study = create_study(space=SPACE, depth=2)
    study.ask()
    assert len(beats()) == 1
    del study
    gc.collect()
    wait_until(lambda: not beats())


def test_the_beat_outlives_a_bad_moment_of_the_storage(study, url, beats, monkeypatch):
    study.ask()
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(study.optuna_study._storage, "get_trial", lambda trial_id: calls.append(trial_id) or 1 / 0)
        wait_until(lambda: len(calls) > 2)
    first = beat(study)
    wait_until(lambda: beat(study) > first)


# --- a storage that is busy or away ---


def quick(tmp_path):
    """A study on a file whose locks are waited for a short while only."""
    url = f"sqlite:///{tmp_path / 'busy.db'}?timeout=0.1"
    return create_study(space=SPACE, depth=2, sampler=PseudoGradientSampler(seed=0), storage=url, study_name="s")


@contextlib.contextmanager
def locked(path):
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


CALLS = {
    "ask": lambda study, batch: study.ask(),
    "tell": lambda study, batch: study.tell(batch, alphas(batch), 0.5, 0.25, {"a": 1}),
    "fail": lambda study, batch: study.fail(batch),
    "ask_evaluation": lambda study, batch: study.ask_evaluation(),
    "tell_evaluation": lambda study, evaluation: study.tell_evaluation(evaluation, 0.5, {"a": 1}),
    "fail_evaluation": lambda study, evaluation: study.fail_evaluation(evaluation),
    "add_evaluation": lambda study, batch: study.add_evaluation(0, 0.5, {"a": 1}),
}


def prepared(name, study):
    """The batch, or the evaluation, that the call takes."""
    batch = study.ask()
    if name == "ask" or "evaluation" in name:
        study.tell(batch, alphas(batch))
    return study.ask_evaluation() if name in ("tell_evaluation", "fail_evaluation") else batch


def expected_states(name):
    if "evaluation" in name:
        ends = {"ask_evaluation": "RUNNING", "fail_evaluation": "FAIL"}
        return ["PRUNED", ends.get(name, "COMPLETE")]
    return {"ask": ["PRUNED", "RUNNING"], "tell": ["COMPLETE"], "fail": ["FAIL"]}[name]


@pytest.mark.parametrize("name", CALLS)
def test_a_file_that_is_locked_for_a_second(tmp_path, name):
    study = quick(tmp_path)
    batch = prepared(name, study)
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(tmp_path / "busy.db"))
        timer = threading.Timer(1, stack.pop_all().close)
        timer.start()
        begin = time.monotonic()
        CALLS[name](study, batch)
        assert time.monotonic() - begin > 0.9
        timer.join()
    assert states(study) == expected_states(name)


@pytest.mark.parametrize("name", CALLS)
def test_a_file_that_stays_locked(tmp_path, name, monkeypatch):
    monkeypatch.setattr(retries, "RETRY_SECONDS", 0.5)
    study = quick(tmp_path)
    batch = prepared(name, study)
    before = states(study)
    with locked(tmp_path / "busy.db"):
        begin = time.monotonic()
        message = r"expected the storage of study 's' to answer within 0\.5 s, got from sqlite:///.*database is locked"
        with pytest.raises(StorageError, match=message):
            CALLS[name](study, batch)
        assert time.monotonic() - begin < 10
    assert states(study) == before
    CALLS[name](study, batch)
    assert states(study) == expected_states(name)
    if name == "tell":
        assert len(study.trajectory()) == 1
        assert study.generation(0).details == {"a": 1}
        assert study.optuna_study.trials[0].intermediate_values == {0: 0.25}


def test_a_file_that_is_moved_away_and_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(retries, "RETRY_SECONDS", 0.5)
    study = quick(tmp_path)
    batch = study.ask()
    shutil.move(tmp_path / "busy.db", tmp_path / "elsewhere.db")
    with pytest.raises(StorageError, match="expected the storage of study"):
        study.tell(batch, alphas(batch))
    shutil.move(tmp_path / "elsewhere.db", tmp_path / "busy.db")
    study.tell(batch, alphas(batch))
    assert len(study.trajectory()) == 1
    assert study.ask().number == 1


def test_a_journal_whose_folder_is_away_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(retries, "RETRY_SECONDS", 0.5)
    (tmp_path / "here").mkdir()
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "here" / "journal.log"))
    study = create_study(space=SPACE, depth=2, storage=optuna.storages.JournalStorage(backend))
    batch = study.ask()
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(StorageError, match="No such file"):
        study.tell(batch, alphas(batch))
    (tmp_path / "there").rename(tmp_path / "here")
    study.tell(batch, alphas(batch))
    assert states(study) == ["PRUNED"]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("ask", "create_new_trial"),
        ("ask", "set_trial_param"),
        ("tell", "set_trial_user_attr"),
        ("tell", "set_trial_state_values"),
        ("fail", "set_trial_state_values"),
        ("ask_evaluation", "create_new_trial"),
        ("tell_evaluation", "set_trial_user_attr"),
        ("tell_evaluation", "set_trial_state_values"),
        ("fail_evaluation", "set_trial_state_values"),
        ("add_evaluation", "create_new_trial"),
        ("add_evaluation", "set_trial_state_values"),
    ],
)
@pytest.mark.parametrize("tries", ["within the call", "by calling again"])
def test_what_succeeded_although_its_answer_was_lost(study, monkeypatch, name, write, tries):
    monkeypatch.setattr(retries, "RETRY_SECONDS", 60 if tries == "within the call" else 0)
    batch = prepared(name, study)
    storage = study.optuna_study._storage
    lost = []

    def losing(*arguments, **keywords):
        result = real(*arguments, **keywords)
        if not lost:
            lost.append(result)
            raise optuna.exceptions.StorageInternalError("the answer was lost")
        return result

    real = getattr(storage, write)
    monkeypatch.setattr(storage, write, losing)
    if tries == "by calling again":
        with pytest.raises(StorageError):
            CALLS[name](study, batch)
    CALLS[name](study, batch)
    assert lost
    again = "evaluation" in name and write == "create_new_trial"  # its first trial is given up
    assert states(study) == expected_states(name)[:1] + ["FAIL"] * again + expected_states(name)[1:]


def test_a_storage_that_is_away_does_not_fail_the_generation(tmp_path, monkeypatch):
    monkeypatch.setattr(retries, "RETRY_SECONDS", 0.2)
    study = quick(tmp_path)
    with pytest.raises(StorageError), contextlib.ExitStack() as stack:
        study.optimize(
            lambda batch: stack.enter_context(locked(tmp_path / "busy.db")) or alphas(batch),
            n_generations=2,
            catch=Exception,
        )
    assert states(study) == ["RUNNING"]
    study.optimize(alphas, n_generations=2)
    assert states(study) == ["PRUNED", "PRUNED"]


def test_a_samplers_own_files_are_not_the_storage():
    class Reading(RowSampler):
        calls = 0

        def propose(self, history, rng):
            self.calls += 1
            raise FileNotFoundError("mine")

    sampler = Reading(seed=0)
    with pytest.raises(FileNotFoundError, match="mine"):
        create_study(space=SPACE, depth=1, sampler=sampler).ask()
    assert sampler.calls == 1


def test_errors_hide_the_password(monkeypatch):
    monkeypatch.setattr(retries, "RETRY_SECONDS", 0)
    backend = SimpleNamespace(url="postgresql://me:topsecret@server/db")
    study = SimpleNamespace(study_name="s", _storage=SimpleNamespace(_backend=backend))

    def away():
        raise optuna.exceptions.StorageInternalError(f"no {backend.url}")

    with pytest.raises(StorageError, match="postgresql") as error:
        retries.retried(away, study)
    assert "topsecret" not in str(error.value)
