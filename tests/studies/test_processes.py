"""A search whose hyper-architectures are trained by several processes together (here: gloo, on the processor)."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import psutil
import pytest

from tests.studies.harness import ARGUMENTS, finish, log, make_place, outcome, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[2]
MICRO_BATCHES = ["--bilevel.micro_batches", "4"]
NO_LAUNCHER = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}


class Search:
    """A search in a process group of its own; the launcher, where it has several processes."""

    def __init__(self, folder, processes, *arguments, **changes):
        command = [sys.executable, "-m", "fade_study", "search", *ARGUMENTS, "--processes", str(processes), *arguments]
        uri = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}", "PYTHONPATH": str(ROOT)}
        with (folder / "log").open("a") as file:
            self.process = subprocess.Popen(
                command, cwd=folder, env=NO_LAUNCHER | uri | changes, stdout=file, stderr=file, start_new_session=True
            )
        self.folder, self.pid = folder, self.process.pid
        self.seen = set()

    def join(self, timeout=None):
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def is_alive(self):
        """Also looks which processes it has."""
        if self.process.poll() is not None:
            return False
        self.seen |= set(psutil.Process(self.pid).children(recursive=True))
        return True

    def rank(self, rank):
        """One of its processes that train together."""
        for process in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.environ().get("RANK") == str(rank) and "fade_study" in process.cmdline():
                    return process
        return pytest.fail(f"no process of rank {rank}")

    def ended_with(self, seconds):
        """Its exit code, once nothing of it is left."""
        deadline = time.monotonic() + seconds
        while self.is_alive() or any(process.is_running() for process in self.seen):
            time.sleep(0.05)
            assert time.monotonic() < deadline, log(self.folder)
        return self.join()


def run(folder, processes, *arguments):
    """A whole search, or what is left of it; the folder."""
    if processes == 1:
        finish(folder, *arguments)  # sooner than a command
    else:
        assert Search(folder, processes, *arguments).ended_with(300) == 0, log(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, mlflow_template):
    """What searches of 1, 2 and 4 processes leave, by their number; with batch normalization."""

    def search(processes):
        folder = make_place(tmp_path_factory.mktemp(f"processes-{processes}") / "place", mlflow_template)
        return outcome(run(folder, processes, *MICRO_BATCHES))

    return {processes: search(processes) for processes in (1, 2, 4)}


def test_searches_of_any_number_of_processes_are_the_same_search(whole):
    """Anchors, cells, alphas, evaluations, and all that MLflow knows, bit for bit."""
    told, *_ = whole[1]
    assert len(told[0]) == 3
    for processes in (2, 4):
        assert whole[processes] == whole[1]


def test_sums_in_another_order_change_a_search_by_less_than_a_cell(tmp_path, mlflow_template):
    """Without micro-batches, and without batch normalization, which takes the statistics of each process's part."""
    folders = [make_place(tmp_path / str(processes), mlflow_template) for processes in (1, 2)]
    settings = ["--network.normalization", "none", "--network.final_channels", "4"]  # where rounding stays small
    settings += ["--bilevel.optimizer.learning_rate", "0.01"]
    found = [outcome(run(folders[p - 1], p, *settings, "--bilevel.share_weights", "false")) for p in (1, 2)]
    (told, one_shot, evaluations, *_), (other_told, other_one_shot, other_evaluations, *_) = found
    for row, other_row in zip(told, other_told, strict=True):
        for (points, cells, alpha), (other_points, other_cells, other_alpha) in zip(row, other_row, strict=True):
            assert cells == other_cells
            np.testing.assert_allclose(points, other_points, atol=1e-5)
            np.testing.assert_allclose(alpha, other_alpha, atol=1e-5)
    np.testing.assert_allclose(one_shot, other_one_shot, atol=0.02)  # a few of 50 images may change sides
    assert evaluations == other_evaluations


def test_a_killed_process_ends_all_and_the_same_command_goes_on(place, whole):
    for rank, generation in ((1, 0), (0, 1)):
        search = Search(place, 2, *MICRO_BATCHES)
        wait_for(search, place, f"generation {generation} ({generation + 1} of 3)")
        search.rank(rank).kill()
        assert search.ended_with(20) not in (0, None), log(place)
    # by a lost connection, or by the launcher's signal, whichever comes first
    assert "one has probably died" in log(place) or "Stopped; what" in log(place)
    assert outcome(run(place, 2, *MICRO_BATCHES)) == whole[2]


def test_a_killed_launcher_ends_all_and_fewer_processes_go_on(place, whole):
    search = Search(place, 2, *MICRO_BATCHES)
    wait_for(search, place, "generation 0 (1 of 3)")
    search.process.kill()
    assert search.ended_with(20) == -signal.SIGKILL, log(place)
    assert outcome(run(place, 1, *MICRO_BATCHES)) == whole[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_all_at_the_same_step(place, whole, number):
    search = Search(place, 2, *MICRO_BATCHES)
    wait_for(search, place, "generation 0 (1 of 3)")
    # a terminal's Ctrl-C goes to all processes of the group
    (os.killpg if number == signal.SIGINT else os.kill)(search.pid, number)
    assert search.ended_with(30) == 128 + number, log(place)
    assert "Stopped; what is trained is kept" in log(place)
    assert "Traceback" not in log(place)
    statuses = {run.info.status for run in mlflow.MlflowClient(f"sqlite:///{place / 'mlflow.db'}").search_runs(["0"])}
    assert "RUNNING" not in statuses
    assert outcome(run(place, 1, *MICRO_BATCHES)) == whole[2]


def test_an_error_of_all_is_told_once(place):
    assert Search(place, 2, "--data.name", "npz:missing.npz").ended_with(60) == 1
    assert log(place).count("expected an .npz that can be read, got no file") == 1
    assert "Traceback" not in log(place)
    assert not (place / "fade.db").exists()


def test_other_studies_are_not_for_several_processes(place):
    command = [sys.executable, "-m", "fade_study", "validate", "--preset", "smoke"]
    launched = {"RANK": "0", "WORLD_SIZE": "2", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=place, env=NO_LAUNCHER | launched, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "expected one process, got 2 of a launcher; of all studies, search alone trains over several" in done.stderr
