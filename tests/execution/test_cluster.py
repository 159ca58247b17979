"""Tasks on a Dask cluster of real processes, some of which are killed."""

import os
import pickle
import shutil
import subprocess
import sys
import time
import weakref
from collections import Counter
from contextlib import nullcontext
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

from fade_study import __version__
from fade_study.exceptions import ClusterError, WorkerDiedError
from fade_study.execution import completed, open_executor, progress, report, shares_files
from tests.cluster import ROOT, Cluster, Samples, lines, note, wait_until

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'fade-study[cluster]'")
pytestmark = pytest.mark.slow


def add(samples, number):
    time.sleep(0.05)
    return samples.count + number, os.getpid()


def fail(message):
    raise ArithmeticError(message)


def wait_for(file):
    """A task that ends when a file exists; a file beside it lists the tasks that have begun."""
    note(file.with_suffix(".begun"), str(os.getpid()))
    while not file.exists():
        report(0.5)
        time.sleep(0.01)
    return os.getpid()


def begun(file):
    return lines(file.with_suffix(".begun"))


def die(_):
    os.kill(os.getpid(), 9)


def run_out(file, times):
    """A task that runs out of a GPU's memory a number of times; a file lists its attempts."""
    note(file, "attempt")
    if len(lines(file)) <= times:
        raise RuntimeError("CUDA out of memory")


@pytest.fixture
def cluster(tmp_path):
    """A scheduler."""
    with Cluster(tmp_path) as cluster:
        cluster.start_scheduler()
        yield cluster


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """A cluster of two workers, for tests that do not change it."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.start_scheduler()
        for _ in range(2):
            cluster.start_worker()
        cluster.wait_for_workers(2)
        yield cluster


def test_results_are_those_of_this_process_and_errors_arrive(two_workers, tmp_path):
    samples = Samples(tmp_path / "journeys", 100)
    with open_executor(two_workers.address) as executor:
        assert not shares_files(executor)
        tasks = [executor.submit(add, samples, number=i) for i in range(30)]
        with pytest.raises(ArithmeticError, match="diverged"):
            executor.submit(fail, "diverged").result()
        assert sorted(completed(tasks), key=tasks.index) == tasks
    with pytest.raises(RuntimeError, match="got one after"):
        executor.submit(abs, -1)
    totals, pids = zip(*(task.result() for task in tasks), strict=True)
    assert totals == tuple(range(100, 130))
    assert len(set(pids)) == 2
    journeys = Counter(lines(tmp_path / "journeys"))
    assert journeys[f"left {os.getpid()}"] == 1
    assert {f"arrived {pid}" for pid in pids} <= journeys.keys()


def test_a_task_that_runs_out_of_a_gpus_memory_is_done_again(two_workers, tmp_path):
    with open_executor(two_workers.address) as executor:
        assert executor.submit(run_out, tmp_path / "once", 1).result() is None
        with pytest.raises(WorkerDiedError, match=r"in each of 2 attempts: CUDA out of memory; use fewer workers"):
            executor.submit(run_out, tmp_path / "twice", 2).result()
    assert [len(lines(tmp_path / name)) for name in ("once", "twice")] == [2, 2]


class Model:
    """Stands for what a task has on a GPU."""


held = []


def use(number):
    """A task with a model in a cycle."""
    model = Model()
    model.itself = model
    held.append(weakref.ref(model))
    return 1 / number


def diverge():
    try:
        use(0)
    except ZeroDivisionError:
        raise ArithmeticError("diverged") from None


@pytest.mark.parametrize(
    ("task", "arguments", "error"),
    [(use, (0,), ZeroDivisionError), (diverge, (), ArithmeticError), (use, (1,), None)],
)
def test_a_worker_gives_back_what_a_task_had_on_a_gpu(monkeypatch, task, arguments, error):
    """At once, also while the error is kept, as Dask keeps it; after a success without a collection of garbage."""
    alive = []
    monkeypatch.setattr(progress, "_listener", None)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(held[-1]() is not None))
    worker = SimpleNamespace(address="", state=SimpleNamespace(nthreads=1))
    module = import_module("fade_study.execution.cluster")
    monkeypatch.setattr(module, "get_worker", lambda: worker)
    with nullcontext() if error is None else pytest.raises(error):
        module._run(__version__, "", pickle.dumps((task, arguments, {})), {})
    assert alive == [error is None]


def test_what_an_interrupted_driver_leaves_ends_and_the_workers_live_on(two_workers, tmp_path):
    def interrupted():
        with open_executor(two_workers.address) as executor:
            for _ in range(5):
                executor.submit(wait_for, tmp_path / "never")
            wait_until(lambda: len(begun(tmp_path / "never")) == 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with open_executor(two_workers.address) as executor:
        again = {future.result() for future in [executor.submit(wait_for, two_workers.folder) for _ in range(8)]}
    assert {str(pid) for pid in again} == set(begun(tmp_path / "never"))


def test_a_task_that_is_cancelled_is_not_begun_or_ended(two_workers, tmp_path):
    with open_executor(two_workers.address) as executor:
        tasks = [executor.submit(wait_for, tmp_path / "never") for _ in range(3)]
        wait_until(lambda: len(begun(tmp_path / "never")) == 2)
        # The waiting task comes first: a worker that is freed would begin it.
        assert all(task.cancel() for task in reversed(tasks))
        assert executor.submit(abs, -1).result() == 1
    assert len(begun(tmp_path / "never")) == 2


def test_a_task_whose_worker_is_killed_is_done_by_one_that_joins_late(cluster, tmp_path):
    samples, go = Samples(tmp_path / "journeys", 0), tmp_path / "go"
    first = cluster.start_worker()
    with open_executor(cluster.address) as executor:
        task = executor.submit(wait_for, go)
        others = [executor.submit(add, samples, i) for i in range(20)]
        wait_until(lambda: begun(go))
        second = cluster.start_worker()
        cluster.wait_for_workers(2)
        cluster.kill(first)
        go.touch()
        assert task.result() == second.pid
        assert [total for total, _ in (other.result() for other in others)] == list(range(20))


def test_a_task_that_kills_its_workers_fails_alone(tmp_path):
    with Cluster(tmp_path, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="1") as cluster:
        cluster.start_scheduler()
        with open_executor(cluster.address) as executor:
            bad = executor.submit(die, 0)
            for _ in range(2):
                cluster.start_worker()
            with pytest.raises(WorkerDiedError, match=r"got 2 that died, the last of them tcp://.*use fewer workers"):
                bad.result()
            cluster.start_worker()
            assert executor.submit(abs, -1).result() == 1


def test_tasks_wait_for_a_worker_and_outlive_their_scheduler(cluster, tmp_path):
    samples, go = Samples(tmp_path / "journeys", 0), tmp_path / "go"
    with open_executor(cluster.address) as executor:
        tasks = [executor.submit(add, samples, i) for i in range(3)]
        with pytest.warns(UserWarning, match=f"start one with: python -m dask worker {cluster.address} --nthreads 1"):
            wait_until(lambda: executor._alone)
        worker = cluster.start_worker()
        assert [task.result()[0] for task in tasks] == [0, 1, 2]
        held_up = [executor.submit(wait_for, go), *(executor.submit(add, samples, i) for i in range(3))]
        wait_until(lambda: begun(go))
        cluster.kill(cluster.scheduler)
        go.touch()
        worker.wait()  # without a nanny, it goes with its scheduler, and so does what it has done
        meanwhile = executor.submit(add, samples, 3)
        cluster.start_scheduler()
        second = cluster.start_worker()
        assert held_up[0].result() == second.pid
        assert [task.result()[0] for task in (*held_up[1:], meanwhile)] == [0, 1, 2, 3]


def test_a_scheduler_that_comes_back_after_its_client_has_given_up(cluster, tmp_path, monkeypatch):
    samples, go = Samples(tmp_path / "journeys", 0), tmp_path / "go"
    cluster.start_worker()
    cluster.wait_for_workers(1)
    monkeypatch.setattr("fade_study.execution.cluster.CONNECT", 1)
    with open_executor(cluster.address) as executor:
        assert executor.submit(add, samples, 0).result()[0] == 0
        held_up = executor.submit(wait_for, go)
        wait_until(lambda: begun(go))
        cluster.kill(cluster.scheduler)
        client = executor._client
        wait_until(lambda: client.status == "closed")
        meanwhile = executor.submit(add, samples, 1)
        go.touch()
        cluster.start_scheduler()
        worker = cluster.start_worker()
        assert held_up.result() == worker.pid
        assert [task.result()[0] for task in (meanwhile, executor.submit(add, samples, 2))] == [1, 2]
        assert executor._client is not client


def test_a_scheduler_that_does_not_come_back_is_an_error(cluster, monkeypatch):
    monkeypatch.setattr("fade_study.execution.cluster.AWAY", 3)
    with open_executor(cluster.address) as executor:
        task = executor.submit(abs, -1)
        cluster.kill(cluster.scheduler)
        with pytest.raises(ConnectionError, match="to come back, got none for 3 seconds"):
            task.result()
        with pytest.raises(ConnectionError, match="to come back"):
            executor.submit(abs, -1).result()


def test_a_driver_can_leave_while_no_worker_is_there(cluster, tmp_path):
    executor = open_executor(cluster.address)
    executor.submit(add, Samples(tmp_path / "journeys", 0), 0)
    with pytest.warns(UserWarning, match="wait for a worker"):
        wait_until(lambda: executor._alone)
    executor.shutdown(cancel_futures=True)
    assert executor._client.status == "closed"


def test_a_driver_can_leave_while_its_scheduler_is_away(cluster):
    def interrupted():
        with open_executor(cluster.address) as executor:
            executor.submit(abs, -1)
            cluster.kill(cluster.scheduler)
            wait_until(lambda: executor._client.status == "connecting")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_a_scheduler_that_is_not_there_is_refused():
    begin = time.monotonic()
    with pytest.raises(ConnectionError, match=r"expected a Dask scheduler at tcp://127.0.0.1:1, .*: dask scheduler"):
        open_executor("tcp://127.0.0.1:1")
    assert time.monotonic() - begin < 15


def test_a_worker_of_another_version_is_refused(cluster, tmp_path):
    shutil.copytree(ROOT / "fade_study", tmp_path / "other" / "fade_study")
    start = tmp_path / "other" / "fade_study" / "__init__.py"
    start.write_text(start.read_text().replace(f'"{__version__}"', '"0.0.9"'))
    expected = rf"expected fade_study {__version__} on worker tcp://127.0.0.1:\d+, as here, got 0.0.9"
    with open_executor(cluster.address) as executor:
        late = executor.submit(abs, -1)
        cluster.start_worker(PYTHONPATH=str(tmp_path / "other"))
        with pytest.raises(ClusterError, match=expected):
            late.result()
    with pytest.raises(ClusterError, match=expected):
        open_executor(cluster.address)


def test_a_worker_without_the_code_is_refused(cluster, tmp_path):
    """The worker has the package installed, but not the scripts beside it."""
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "fade_study").symlink_to(ROOT / "fade_study")
    cluster.start_worker(PYTHONPATH=str(tmp_path / "installed"))
    expected = r"expected the module tests on worker .*; start the worker in the folder"
    with open_executor(cluster.address) as executor, pytest.raises(ClusterError, match=expected):
        executor.submit(fail, "no").result()


def test_functions_of_a_command_are_found_though_its_module_is_another_in_a_worker(cluster):
    code = """
import sys
from functools import cache
from fade_study.execution import open_executor

@cache  # such functions go by their names alone
def double(number):
    return 2 * number

def task(number):
    return double(number)

def call(function, *arguments):
    return function(*arguments)

if __name__ == "__main__":
    with open_executor(sys.argv[1]) as executor:
        print(executor.submit(task, 2).result(), executor.submit(call, task, 3).result())
"""
    (cluster.folder / "some_study.py").write_text(code)
    cluster.start_worker()
    command = [sys.executable, "-m", "some_study", cluster.address]
    ended = subprocess.run(command, cwd=cluster.folder, capture_output=True, text=True, check=True)
    assert ended.stdout == "4 6\n"


def test_a_worker_of_several_threads_is_refused(cluster):
    expected = f"got 2 in worker tcp://.*start it with: python -m dask worker {cluster.address} --nthreads 1 "
    with open_executor(cluster.address) as executor:
        late = executor.submit(abs, -1)
        cluster.start_worker("--nthreads", "2")
        with pytest.raises(ClusterError, match=expected):
            late.result()
    with pytest.raises(ClusterError, match=expected):
        open_executor(cluster.address)


def test_where_dask_is_missing_an_error_says_how_to_install_it():
    script = "import sys; sys.modules['distributed'] = None; from fade_study.execution import open_executor\n"
    script += "open_executor('tcp://127.0.0.1:1')"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "ClusterError: expected Dask" in ended.stderr
    assert "pip install 'fade-study[cluster]'" in ended.stderr
