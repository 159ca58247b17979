import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import weakref
from functools import partial
from typing import ClassVar

import pytest
import torch

from fade_study.exceptions import ClusterError, WorkerDiedError
from fade_study.execution import completed, local, open_executor, progress, report
from fade_study.execution.local import why_lost


def fail():
    raise ArithmeticError("diverged")


def worker():
    time.sleep(0.2)
    return os.getpid()


def die(marker=None):
    """A task that kills its worker; given the path of a file, only the first time."""
    if marker is None or not marker.exists():
        if marker is not None:
            marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def run_out(marker=None):
    """A task that runs out of a GPU's memory; given the path of a file, only the first time."""
    if marker is None or not marker.exists():
        if marker is not None:
            marker.touch()
        raise torch.OutOfMemoryError("CUDA out of memory")
    return "enough"


def half(marker):
    report(0.5)
    marker.touch()
    while marker.exists():
        time.sleep(0.01)


class CustomError(Exception):
    def __init__(self, got, wanted):
        super().__init__(f"expected {wanted}, got {got}")


def fail_with(name):
    class LocalError(Exception):
        pass

    of_a_graph = ArithmeticError("expected 2, got 1")
    of_a_graph.tensor = 2 * torch.ones(3, requires_grad=True)
    errors = {"custom": CustomError(1, 2), "local": LocalError("expected 2, got 1"), "graph": of_a_graph}
    raise errors[name]


def load(error):
    raise error


class Unloadable:
    """A thing whose pickle cannot be read in a worker."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        return load, (self.error,)


def increment(tensor):
    tensor += 1


@pytest.fixture(scope="module")
def workers():
    with open_executor("processes:2") as executor:
        yield executor


def test_inline_runs_here():
    with open_executor("inline") as executor:
        assert executor.submit(os.getpid).result() == os.getpid()
        assert list(executor.map(abs, [-1, 2])) == [1, 2]
        with pytest.raises(ArithmeticError, match="diverged"):
            executor.submit(fail).result()


def test_processes_run_elsewhere(workers):
    pids = {future.result() for future in [workers.submit(worker) for _ in range(4)]}
    with pytest.raises(ArithmeticError, match="diverged"):
        workers.submit(fail).result()
    assert os.getpid() not in pids


def test_a_task_that_runs_out_of_a_gpus_memory_is_done_again(workers, tmp_path):
    assert workers.submit(run_out, tmp_path / "marker").result() == "enough"
    with pytest.raises(WorkerDiedError, match=r"in each of 2 attempts: CUDA out of memory; use fewer workers"):
        workers.submit(run_out).result()


class Trainer:
    """Stands for what a task holds on a GPU, in a cycle where it has an error."""

    held: ClassVar[list] = []


def hold(error):
    trainer = Trainer()
    Trainer.held.append(weakref.ref(trainer))
    if error:
        trainer.itself = trainer
        raise RuntimeError("illegal memory access")


@pytest.fixture
def here(monkeypatch):
    """A function that runs a task as a worker does, but in this process."""
    monkeypatch.setattr(local, "_fractions", [0.0], raising=False)
    monkeypatch.setattr(progress, "_listener", None)
    return lambda task: local._run(0, pickle.dumps(task))


@pytest.mark.parametrize("error", [False, True])
def test_a_worker_gives_back_the_memory_of_its_gpu_when_nothing_holds_it(here, monkeypatch, error):
    alive = []

    def empty_cache():
        alive.append(Trainer.held[-1]() is not None)
        if error:
            raise RuntimeError("illegal memory access")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    assert here(partial(hold, error)).error == ("RuntimeError: illegal memory access" if error else "")
    assert alive == [False]


@pytest.mark.parametrize(
    ("gpus", "variable", "expected"), [(4, "false", [3]), (4, None, [3]), (4, "true", []), (1, "false", [])]
)
def test_a_worker_takes_one_of_several_gpus_unless_the_processor_trains(here, monkeypatch, gpus, variable, expected):
    import accelerate  # noqa: F401 - as a task that trains

    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(multiprocessing.current_process(), "_identity", (1, 7))
    if variable is None:
        monkeypatch.delenv("ACCELERATE_USE_CPU")
    else:
        monkeypatch.setenv("ACCELERATE_USE_CPU", variable)
    assert not here(int).error
    assert chosen == expected


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("CUDA error: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", True),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", True),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED", False),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED", False),
    ],
)
def test_errors_that_tell_of_a_gpu_without_memory(text, full):
    assert (why_lost(RuntimeError(text)) is not None) == full


def test_a_task_whose_worker_is_killed_once_is_done_by_another(workers, tmp_path):
    others = [workers.submit(worker) for _ in range(4)]
    assert workers.submit(die, tmp_path / "killed").result() == "alive"
    assert all(other.result() for other in others)


def test_a_task_whose_workers_are_all_killed_fails_alone(workers):
    bad = workers.submit(die)
    others = [workers.submit(worker) for _ in range(4)]
    with pytest.raises(WorkerDiedError, match=r"exit code -9 in each of 2 attempts.*use fewer workers"):
        bad.result()
    assert all(other.result() for other in others)
    assert workers.submit(worker).result()


def test_a_task_that_is_cancelled_makes_room(tmp_path):
    with open_executor("processes:1") as executor:
        running, waiting = (executor.submit(half, tmp_path / name) for name in ("running", "waiting"))
        while not (tmp_path / "running").exists():
            time.sleep(0.01)
        assert running.cancel()
        assert waiting.cancel()
        assert executor.submit(worker).result() != os.getpid()


def test_leaving_waits_for_a_task_that_is_tried_again(tmp_path):
    with open_executor("processes:1") as executor:
        future = executor.submit(die, tmp_path / "killed")
    assert future.result() == "alive"


def test_tasks_report_how_far_they_are(workers, tmp_path):
    report(0.5)  # in the main process: nothing happens
    future = workers.submit(half, tmp_path / "running")
    assert future.fraction == 0
    while not (tmp_path / "running").exists():
        time.sleep(0.01)
    assert future.fraction == 0.5
    (tmp_path / "running").unlink()
    assert list(completed([future])) == [future]


def test_tasks_complete_in_their_own_order(workers, tmp_path):
    slow, fast = workers.submit(half, tmp_path / "running"), workers.submit(time.sleep, 0)
    while not (tmp_path / "running").exists():
        time.sleep(0.01)
    tasks = completed([slow, fast])
    assert next(tasks) is fast
    (tmp_path / "running").unlink()
    assert list(tasks) == [slow]


def test_tensors_are_moved_while_nobody_else_can_read_them(workers):
    """Moving frees their memory, so that it must have happened when ``submit`` returns."""
    tensor = torch.zeros(3)
    workers.submit(len, [tensor])
    assert tensor.is_shared()


def test_a_task_that_cannot_be_pickled_fails_alone(workers):
    with pytest.raises(Exception, match="pickle"):
        workers.submit(lambda: None).result()
    assert workers.submit(worker).result()


@pytest.mark.parametrize("name", ["custom", "local", "graph"])
def test_an_error_that_cannot_be_sent_says_what_it_was(workers, name):
    with pytest.raises((RuntimeError, ArithmeticError), match=r"expected 2, got 1$") as caught:
        workers.submit(fail_with, name).result()
    assert "in fail_with" in str(caught.value.__cause__)
    assert workers.submit(worker).result()


def test_a_task_may_end_its_process(workers):
    with pytest.raises(SystemExit, match="3"):
        workers.submit(sys.exit, 3).result()
    assert workers.submit(worker).result()


@pytest.mark.parametrize("error", [RuntimeError("unable to mmap"), ImportError("unable to"), EOFError("unable to")])
def test_a_task_that_a_worker_cannot_read_fails_alone(workers, error):
    with pytest.raises(type(error), match="unable to"):
        workers.submit(len, Unloadable(error)).result()
    assert workers.submit(worker).result()


def test_a_tensor_that_cannot_be_sent_fails_alone(workers):
    of_a_graph = 2 * torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="RuntimeError: Cowardly refusing"):
        workers.submit(len, [of_a_graph]).result()
    assert workers.submit(worker).result()


def test_results_hold_no_file_of_this_process(workers):
    """A shared tensor holds one; with the states of a few networks, none would be left."""
    assert not workers.submit(torch.zeros, 3).result().is_shared()


def test_workers_that_die_idle_are_an_error_and_no_endless_wait():
    with open_executor("processes:1") as executor:
        os.kill(executor.submit(worker).result(), signal.SIGKILL)
        time.sleep(2)  # pebble sees that the worker is gone, and calls the pool broken
        with pytest.raises(ClusterError, match="run the same command again"):
            executor.submit(worker).result()


def test_tasks_that_wait_when_all_workers_die_end_with_an_error():
    with open_executor("processes:1") as executor:
        pid = executor.submit(worker).result()
        os.kill(pid, signal.SIGSTOP)
        waiting = [executor.submit(len, 5000 * "x") for _ in range(100)]  # more than the pipe holds
        os.kill(pid, signal.SIGKILL)
        for future in waiting:
            with pytest.raises(ClusterError, match="got a pool that has ended"):
                future.result()


def test_tensors_are_shared_not_copied(workers):
    """Tasks share one copy of a tensor in memory, so that this process sees a worker's change."""
    tensor = torch.zeros(3)
    for _ in range(4):
        workers.submit(increment, tensor).result()
    assert tensor.tolist() == [4, 4, 4]


def test_a_worker_that_hangs_up_on_a_thread_is_not_told_of(capsys, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    with open_executor("processes:1"):
        for error in (ConnectionResetError("gone"), EOFError("gone"), ValueError("wrong")):
            thread = threading.Thread(target=sys.excepthook, args=(type(error), error, None))
            thread.start()
            thread.join()
        sys.excepthook(ConnectionResetError, ConnectionResetError("main"), None)
    said = capsys.readouterr().err
    assert "gone" not in said
    assert "ValueError: wrong" in said
    assert "ConnectionResetError: main" in said


def test_an_interrupt_does_not_wait_for_the_workers():
    begin = time.perf_counter()

    def interrupted():
        with open_executor("processes:1") as executor:
            for _ in range(3):
                executor.submit(time.sleep, 60)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.perf_counter() - begin < 30


def test_an_interrupt_closes_the_files_of_waiting_tasks():
    def interrupted(tensor):
        with open_executor("processes:1") as executor:
            for _ in range(100):
                executor.submit(half, tensor)  # it fails, or waits
            time.sleep(1)  # the pool's thread pickles as many as the pipe holds
            raise KeyboardInterrupt

    tensor = torch.zeros(3).share_memory_()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KeyboardInterrupt):
        interrupted(tensor)
    assert len(os.listdir("/proc/self/fd")) < before + 10


@pytest.mark.parametrize(
    "name",
    [
        "",
        "processes",
        "processes:",
        "processes:0",
        "processes:-1",
        "processes:x",
        "cloud:2",
        "tcp://",
        "tcp://a",
        "tcp://a:b",
    ],
)
def test_unknown_executors_are_refused(name):
    with pytest.raises(ValueError, match=r"'inline', 'processes:N' .* or 'tcp://HOST:PORT'"):
        open_executor(name)
