"""Several processes evaluate for one study, and write to one MLflow server."""

import os
import signal
import sqlite3
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import mlflow
import numpy as np
import pytest
from optuna.trial import TrialState

import fade_study
from fade_study import tracking
from fade_study.config import DataConfig, NetworkConfig, ScratchConfig
from fade_study.execution import InlineExecutor
from fade_study.studies.schemas import EvaluateConfig
from fade_study.studies.trainings import ScratchTrainings
from fade_study.tracking import delivery
from fade_study.tracking.outbox import Record
from fade_study.training import ScratchResult, load_data
from tests.studies import harness
from tests.studies.harness import log, start, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SPACE = fade_study.DagSpace(4)
MOVING = ("--sampler.name", "random-anchors")
"""So that no architecture comes twice: who evaluates one generation has all of the same architecture."""


def in_place(folder, uri):
    """At the beginning of a process."""
    os.chdir(folder)
    mlflow.set_tracking_uri(uri)
    out = (folder / "log").open("a", buffering=1)
    os.dup2(out.fileno(), 1)
    os.dup2(out.fileno(), 2)


def begin(function, *arguments):
    process = harness.processes.Process(target=function, args=arguments)
    process.start()
    return process


# --- a search and others ---


def load(folder):
    return fade_study.load_study(
        study_name="s", storage=f"sqlite:///{folder / 'fade.db'}", space=fade_study.DagSpace(3)
    )


def hold(folder):
    """Holds an evaluation until it is killed."""
    in_place(folder, "")
    print(f"held: {load(folder).ask_evaluation().generation}")
    signal.pause()


def test_a_search_waits_for_what_another_process_evaluates(place):
    start(place, *MOVING, "--evaluate_every", "0").join()
    study = load(place)
    assert len(set(study.architectures())) == 3
    evaluation = study.ask_evaluation([1])
    search = start(place, *MOVING, "--evaluate_every", "1")
    wait_for(search, place, "Waiting for other processes that evaluate generations [1]")
    study.tell_evaluation(evaluation, 0.25)
    search.join()
    assert search.exitcode == 0, log(place)
    assert [e.generation for e in load(place).evaluations()] == [0, 1, 2]
    client = mlflow.MlflowClient(f"sqlite:///{place / 'mlflow.db'}")
    (whole,) = client.search_runs(["0"], "tags.`fade.kind` = 'search' and metrics.`accuracy/validation` > 0")
    history = client.get_metric_history(whole.info.run_id, "accuracy/validation")
    assert sorted(metric.step for metric in history) == [0, 1, 2]
    assert 0.25 in [metric.value for metric in history if metric.step == 1]
    scratch = client.search_runs(["0"], "tags.`fade.kind` = 'scratch'")
    assert evaluation.architecture.key not in {run.data.params["architecture"] for run in scratch}


def test_a_search_trains_what_a_process_held_that_is_killed(place):
    start(place, *MOVING, "--evaluate_every", "0").join()
    holder = begin(hold, place)
    wait_for(holder, place, "held: 0")
    search = start(place, *MOVING, "--evaluate_every", "1")
    wait_for(search, place, "Waiting for other processes that evaluate generations [0]")
    holder.kill()
    holder.join()
    search.join()
    assert search.exitcode == 0, log(place)
    assert [(e.generation, len(e.details["trainings"])) for e in load(place).evaluations()] == [(0, 2), (1, 2), (2, 2)]


def test_a_search_whose_generation_another_process_has_is_refused_and_takes_nothing(place):
    start(place, "--generations", "1").join()
    client = mlflow.MlflowClient(f"sqlite:///{place / 'mlflow.db'}")
    before = [run.data.tags for run in client.search_runs(["0"])]
    study = load(place)
    study.ask()
    search = start(place)
    search.join()
    assert search.exitcode == 1
    assert f"expected no open generation, but generation 1 is, in process {os.getpid()}" in log(place)
    assert [run.data.tags for run in client.search_runs(["0"])] == before


# --- several processes, PostgreSQL, one server ---

GENERATIONS = 12


def evaluate_all(folder, uri, storage):
    """What a helper does: evaluate as long as something lacks a value."""
    in_place(folder, uri)
    data = load_data(DataConfig(limit=300))
    study = fade_study.load_study(study_name="s", storage=storage, space=SPACE)
    scratch, network = ScratchConfig(epochs=8, batch_size=32), NetworkConfig(final_channels=8)
    with tracking.start_study("evaluation", EvaluateConfig(run_id="s"), "cpu", data):
        while len(study.evaluations()) < GENERATIONS:
            evaluation = study.ask_evaluation()
            if evaluation is None:
                time.sleep(0.1)
                continue
            print(f"{os.getpid()} begins {evaluation.generation}")
            wanted = [(evaluation.architecture, seed) for seed in range(2)]
            found = ScratchTrainings(wanted, data, scratch, network, InlineExecutor()).collect()
            value = float(np.mean([training.validation for training in found.values()]))
            study.tell_evaluation(evaluation, value, {"pid": os.getpid()})
    print(f"{os.getpid()} is done")


@pytest.fixture
def server(request, place):
    store = request.param and request.getfixturevalue("postgresql").make_database(
        request.getfixturevalue("postgresql_mlflow_template")
    )
    server = harness.MlflowServer(place, store).start()
    yield server
    server.stop()


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
def test_four_processes_evaluate_for_one_study_and_one_is_killed(place, server, postgresql, monkeypatch):
    """Every evaluation is there once, in the study and in MLflow."""
    storage = postgresql.make_database()
    study = fade_study.create_study(
        space=SPACE, depth=3, sampler=fade_study.samplers.RandomAnchorSampler(seed=0), storage=storage, study_name="s"
    )
    for _ in range(GENERATIONS):
        batch = study.ask()
        study.tell(batch, np.full((3, len(batch.trials[0])), 1 / len(batch.trials[0])))
    processes = [begin(evaluate_all, place, server.uri, storage) for _ in range(4)]
    victim = processes[0]
    wait_for(victim, place, f"{victim.pid} begins")
    victim.kill()
    victim.join()
    held = next(line.split()[-1] for line in log(place).splitlines() if line.startswith(f"{victim.pid} begins"))
    for process in processes[1:]:
        process.join()
        assert process.exitcode == 0, log(place)
    evaluations = study.evaluations()
    assert [e.generation for e in evaluations] == list(range(GENERATIONS))
    tellers = {e.details["pid"] for e in evaluations}
    assert tellers == {process.pid for process in processes[1:]}
    assert sum(f"begins {held}\n" in line + "\n" for line in log(place).splitlines()) == 2
    assert not study.optuna_study.get_trials(states=(TrialState.RUNNING,))

    monkeypatch.chdir(place)
    mlflow.set_tracking_uri(server.uri)
    assert tracking.deliver() == 0  # and ends the run of the process that was killed
    runs = mlflow.MlflowClient(server.uri).search_runs(["0"], max_results=1000)
    assert Counter(run.info.status for run in runs if run.data.tags["fade.kind"] == "evaluation") == {
        "FINISHED": 3, "KILLED": 1,
    }  # fmt: skip
    trained = [(r.data.params["architecture"], r.data.params["seed"]) for r in runs if "architecture" in r.data.params]
    assert sorted(trained) == sorted({(e.architecture.key, str(seed)) for e in evaluations for seed in range(2)})


# --- load ---

PROCESSES, TASKS, EPOCHS = 8, 25, 10
KEYS = ("loss/weights", "accuracy/validation")


def log_many(folder, uri, number):
    in_place(folder, uri)
    with tracking.start_study("evaluation", EvaluateConfig(run_id=str(number)), "cpu"):
        for task in range(TASKS):
            epochs = tuple(dict.fromkeys(KEYS, epoch + task / 100) for epoch in range(EPOCHS))
            result = ScratchResult(task / 100, number / 10, epochs, parameters=10, flops=20, seconds=0.1)
            tracking.log_scratch(f"{number}:{task}", "recipe", 0, result)


@pytest.mark.parametrize("server", [None, "postgresql"], indirect=True, ids=["sqlite", "postgresql"])
def test_eight_processes_write_to_one_server(place, server):
    """From one folder, so that they share a file of records on their way."""
    processes = [begin(log_many, place, server.uri, number) for number in range(PROCESSES)]
    for process in processes:
        process.join()
        assert process.exitcode == 0, log(place)
    client = mlflow.MlflowClient(server.uri)
    runs = client.search_runs(["0"], max_results=1000)
    assert {run.info.status for run in runs} == {"FINISHED"}
    scratch = {run.data.params["architecture"]: run for run in runs if run.data.tags["fade.kind"] == "scratch"}
    assert len(runs) == PROCESSES + PROCESSES * TASKS
    assert set(scratch) == {f"{number}:{task}" for number in range(PROCESSES) for task in range(TASKS)}
    for architecture, run in scratch.items():
        number, task = map(int, architecture.split(":"))
        assert run.data.metrics["accuracy/test"] == task / 100
        assert run.data.metrics["accuracy/validation"] == EPOCHS - 1 + task / 100
        for key in KEYS:
            history = client.get_metric_history(run.info.run_id, key)
            assert sorted((m.step, m.value) for m in history) == [(e, e + task / 100) for e in range(EPOCHS)], number
    with sqlite3.connect(place / "checkpoints" / "outbox.db") as database:
        assert database.execute("SELECT count(*) FROM records").fetchone() == (0,)


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
def test_several_processes_record_the_same_data_set_at_the_same_moment(server):
    """MLflow creates a data set for the first run that uses it, and refuses a second attempt at the same moment."""
    client, writers = mlflow.MlflowClient(server.uri), 4
    mlflow.set_tracking_uri(server.uri)
    runs = [client.create_run("0").info.run_id for _ in range(writers)]
    barrier = threading.Barrier(writers, timeout=10)

    def write(run):
        for digest in map(str, range(5)):
            barrier.wait()
            delivery._deliver(Record(run, "input", {"name": "digits", "digest": digest}, b"", tried=False), run)

    with ThreadPoolExecutor(writers) as threads:
        list(threads.map(write, runs))
    for run in runs:
        assert len(client.get_run(run).inputs.dataset_inputs) == 5
