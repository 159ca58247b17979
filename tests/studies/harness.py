"""Searches in processes that can be killed, and all that they leave."""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import torch._dynamo  # noqa: F401 - or each forked process would import it for its first optimizer, in seconds

import fade_study
from tests.postgresql import free_port

ARGUMENTS = ["--preset", "smoke", "--study", "s", "--generations", "3", "--bilevel.epochs", "3"]
ARGUMENTS += ["--evaluate_every", "2"]

# Forked from a process that has imported everything, a search begins at once.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["fade_study.studies.search", "tests.studies.harness"])


def make_place(folder, template):
    """A folder with an empty tracking store."""
    folder.mkdir()
    shutil.copy(template, folder / "mlflow.db")
    with sqlite3.connect(folder / "mlflow.db") as connection:
        connection.execute("UPDATE experiments SET artifact_location = ?", (str(folder / "artifacts"),))
    return folder


def run_search(folder, uri, arguments, moment, delivery_seconds):
    """In a process of its own; at some moment something happens to it."""
    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = uri
    sys.argv = ["search", *arguments]
    with open("log", "a", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        from fade_study.studies import command
        from fade_study.studies.schemas import SearchConfig
        from fade_study.tracking import delivery

        delivery.DELIVERY_SECONDS = delivery_seconds
        mlflow.set_tracking_uri(uri)
        if moment is not None:
            break_at(*moment)
        command.run_command("search", "search", command.read_command(SearchConfig, "search"))


def break_at(where, count, how):
    """At a call of a function, kill this process ``before`` it or ``after``, or let its answer be ``lost``."""
    from mlflow import MlflowClient

    from fade_study import study
    from fade_study.tracking import outbox
    from fade_study.training import checkpoint

    owner, name = {
        "ask": (study.FadeStudy, "ask"),
        "tell": (study.FadeStudy, "tell"),
        "evaluating": (study.FadeStudy, "ask_evaluation"),
        "evaluation": (study.FadeStudy, "tell_evaluation"),
        "checkpoint": (checkpoint.Checkpoint, "save"),
        "renaming": (Path, "replace"),
        "record": (outbox.Outbox, "put"),
        "delivery": (MlflowClient, "log_batch"),
        "creation": (MlflowClient, "create_run"),
    }[where]
    function = getattr(owner, name)
    calls = []

    def breaking(*arguments, **options):
        calls.append(name)
        now = len(calls) == count
        if now and how == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **options)
        if now and how == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        if now and how == "lost":
            raise mlflow.MlflowException("no answer")
        return result

    setattr(owner, name, breaking)


def start(folder, *extra, moment=None, uri=None, delivery_seconds=30.0):
    uri = uri or f"sqlite:///{folder / 'mlflow.db'}"
    process = processes.Process(
        target=run_search, args=(str(folder), uri, [*ARGUMENTS, *extra], moment, delivery_seconds)
    )
    process.start()
    return process


def finish(folder, *extra, **options):
    process = start(folder, *extra, **options)
    process.join()
    assert process.exitcode == 0, log(folder)


def log(folder):
    """What all searches in a folder have printed."""
    return (folder / "log").read_text() if (folder / "log").exists() else ""


def wait_for(process, folder, text, seconds=120):
    deadline = time.monotonic() + seconds
    while text not in log(folder):
        process.join(0.05)
        assert process.is_alive(), log(folder)
        assert time.monotonic() < deadline, log(folder)


def outcome(folder):
    """All that a search leaves, but for times and ids."""
    study = fade_study.load_study(
        study_name="s", storage=f"sqlite:///{folder / 'fade.db'}", space=fade_study.DagSpace(3)
    )
    rows = [study.history(row) for row in range(study.depth)]
    told = [[(g.points.tolist(), g.cells, g.alpha.tolist()) for g in row] for row in rows]
    one_shot = [study.generation(t).details["one_shot_accuracy"] for t in range(len(rows[0]))]
    evaluations = [
        (e.generation, e.architecture.key, e.value, [training[:2] for training in e.details["trainings"].values()])
        for e in study.evaluations()
    ]
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs(["0"], max_results=1000)
    assert "RUNNING" not in {run.info.status for run in runs}
    finished = [r for r in runs if r.data.tags["fade.kind"] == "search" and r.info.status == "FINISHED"]
    (whole,) = [r for r in finished if "fade.continued_by" not in r.data.tags]
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == whole.info.run_id]
    recorded = sorted(
        json.dumps([recorded_of(client, run), {k: v for k, v in run.data.params.items() if "config" not in k}])
        for run in (whole, *children)
    )
    ranks = json.loads((folder / "artifacts" / whole.info.run_id / "artifacts" / "ranks.json").read_text())
    return told, one_shot, evaluations, recorded, ranks


def recorded_of(client, run):
    keys = sorted(key for key in run.data.metrics if "seconds" not in key)
    return {key: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)) for key in keys}


class MlflowServer:
    """``mlflow server`` on the store of a folder, or another one, to be stopped and started."""

    def __init__(self, folder, store=None):
        self.folder, self.port = folder, free_port()
        self.store = store or f"sqlite:///{folder / 'mlflow.db'}"
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        command = [Path(sys.executable).parent / "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*command, "--backend-store-uri", self.store, "--workers", "1"],
            cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                return self
            assert self.process.poll() is None
            time.sleep(0.1)

    def stop(self):
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
