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

from fade_study import DagSpace, InvalidInputError, OpenGenerationError, StorageError, create_study, load_study
from fade_study import storage as module
from fade_study.samplers import PseudoGradientSampler, RowSampler

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
from fade_study import storage as module
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


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'fade.db'}"


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
        assert second.details(0) == {"who": 2}
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
    assert [study.details(number)["trial"] for number in range(20)] == [
        trial.number for trial in study.optuna_study.trials if trial.state == TrialState.PRUNED
    ]


# --- the beat ---


@pytest.fixture
def beats(monkeypatch):
    """Threads that were begun by the test and renew a beat."""
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.05)
    before = set(threading.enumerate())
    return lambda: [thread for thread in set(threading.enumerate()) - before if thread.name == "fade_study beat"]


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
    "add_evaluation": lambda study, batch: study.add_evaluation(0, 0.5, {"a": 1}),
}


def prepared(name, study):
    """The batch that the call takes."""
    batch = study.ask()
    if name in ("ask", "add_evaluation"):
        study.tell(batch, alphas(batch))
    return batch


def expected_states(name):
    return {"ask": ["PRUNED", "RUNNING"], "tell": ["COMPLETE"], "fail": ["FAIL"]}.get(name, ["PRUNED", "COMPLETE"])


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
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.5)
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
        assert study.details(0) == {"a": 1}
        assert study.optuna_study.trials[0].intermediate_values == {0: 0.25}


def test_a_file_that_is_moved_away_and_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.5)
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
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.5)
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
        ("add_evaluation", "create_new_trial"),
    ],
)
@pytest.mark.parametrize("tries", ["within the call", "by calling again"])
def test_what_succeeded_although_its_answer_was_lost(study, monkeypatch, name, write, tries):
    monkeypatch.setattr(module, "RETRY_SECONDS", 60 if tries == "within the call" else 0)
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
        if name == "add_evaluation":  # which can't know who added it
            with pytest.raises(InvalidInputError, match="without a value"):
                CALLS[name](study, batch)
            return
    CALLS[name](study, batch)
    assert lost
    assert states(study) == expected_states(name)


def test_a_storage_that_is_away_does_not_fail_the_generation(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.2)
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
    monkeypatch.setattr(module, "RETRY_SECONDS", 0)
    backend = SimpleNamespace(url="postgresql://me:topsecret@server/db")
    study = SimpleNamespace(study_name="s", _storage=SimpleNamespace(_backend=backend))

    def away():
        raise optuna.exceptions.StorageInternalError(f"no {backend.url}")

    with pytest.raises(StorageError, match="postgresql") as error:
        module.retried(away, study)
    assert "topsecret" not in str(error.value)
