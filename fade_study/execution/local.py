"""Executors on this machine: in this process, or in worker processes that may be killed."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, MutableSequence
from concurrent import futures
from concurrent.futures import Executor, Future
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.sharedctypes import RawArray
from typing import Any

from pebble import ProcessExpired, ProcessPool
from threadpoolctl import threadpool_limits

from fade_study import interrupt
from fade_study.builders import as_here
from fade_study.exceptions import WorkerDiedError
from fade_study.execution.progress import REFRESH, listen

__all__ = ["InlineExecutor", "Workers", "end_with_parent"]

ATTEMPTS = 2
"""Of a task whose worker dies: one more than the first."""
SLOTS = 4096
"""Tasks whose progress is told apart at any time."""
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LAUNCHERS = ("TORCHELASTIC_", "PMI_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_")
"""Variables by which a launcher's process finds the others, and how the names of more of them begin."""
# In a worker process: the progress of all tasks, shared with the main process.
_fractions: MutableSequence[float]


class InlineExecutor(Executor):
    """Runs each task at once, in the caller's process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A future that is done."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class _TaskFuture(Future[Any]):
    """A future that knows how much of its task is done."""

    def __init__(self, fractions: MutableSequence[float], slot: int) -> None:
        super().__init__()
        self._fractions, self.slot = fractions, slot
        fractions[slot] = 0.0

    @property
    def fraction(self) -> float:
        """As last reported, 0 to 1."""
        return self._fractions[self.slot]


class Workers(Executor):
    """Spawned processes. A task whose worker is killed is tried once more, and no other task suffers.

    Arguments reach the workers by PyTorch's pickling, which puts tensors into shared memory: a data set is there once,
    however many tasks use it.
    """

    def __init__(self, count: int) -> None:
        # Numbers without a lock, since a worker that is killed would never give it back.
        self._fractions: MutableSequence[float] = RawArray("d", SLOTS)
        if getattr(sys.excepthook, "func", None) is not _unless_hung_up:
            sys.excepthook = partial(_unless_hung_up, sys.excepthook)
        # Spawned, since forking a process that has used PyTorch's threads may hang.
        context: Any = multiprocessing.get_context("spawn")
        self._pool = ProcessPool(count, initializer=_start, initargs=(self._fractions,), context=context)
        # Started now, deaf to Ctrl-C from their first moment, since a terminal sends it to them as well. (The tracker
        # would be started with the first worker otherwise, and lift the block.)
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._pool.schedule(int)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._unfinished: set[Future[Any]] = set()
        self._slots = itertools.cycle(range(SLOTS))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A future of ``fn(*args, **kwargs)``; its ``fraction`` is what the task has reported."""
        future = _TaskFuture(self._fractions, next(self._slots))
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)
        self._attempt(future, (future.slot, as_here(fn), args, kwargs), ATTEMPTS)
        return future

    def _attempt(self, future: Future[Any], task: tuple[Any, ...], attempts: int) -> None:
        def finish(attempt: Future[Any]) -> None:
            if future.cancelled():
                return
            error = attempt.exception()
            if error is None:
                future.set_result(attempt.result())
            elif not isinstance(error, ProcessExpired):
                future.set_exception(error)
            elif attempts > 1:
                self._attempt(future, task, attempts - 1)
            else:
                future.set_exception(WorkerDiedError(_death(error)))

        try:
            running = self._pool.schedule(_run, task)
        except RuntimeError:
            interrupt.check()  # a signal to the whole group may have ended a worker that was starting, and the pool
            raise
        running.add_done_callback(finish)
        future.add_done_callback(lambda _: running.cancel())  # or it would be done for nobody

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let all tasks end; or, with ``cancel_futures``, end the workers at once, whatever they have left to do."""
        if cancel_futures:
            for future in list(self._unfinished):
                future.cancel()
            self._pool.stop()
        else:
            while self._unfinished:
                futures.wait(list(self._unfinished))
            self._pool.close()
        if wait:
            self._pool.join()

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self.shutdown(cancel_futures=kind is not None)


def _unless_hung_up(say: Callable[..., object], kind: type[BaseException], *error: Any) -> None:
    """Say nothing of a worker that was ended while multiprocessing's thread, which asks for this, sent it tensors."""
    if threading.current_thread() is threading.main_thread() or not issubclass(kind, ConnectionError | EOFError):
        say(kind, *error)


def _death(error: ProcessExpired) -> str:
    return (
        f"expected a worker process to live until its task was done, got exit code {error.exitcode} in each of "
        f"{ATTEMPTS} attempts; where that is -9, memory has probably run out: use fewer workers or smaller batches"
    )


def _start(fractions: MutableSequence[float]) -> None:
    """In a worker, before its first task: one thread each, also of numpy's, or workers get into each other's way."""
    threadpool_limits(1)
    os.setpgid(0, 0)  # a signal to all processes of the parent's group, as launchers send it, is the parent's to hear
    for name in [name for name in os.environ if name.startswith(LAUNCHERS) or name in LAUNCHER]:
        del os.environ[name]  # it trains alone, though its parent may be one of several processes
    end_with_parent()
    global _fractions  # noqa: PLW0603 - a process has one running task
    _fractions = fractions


def end_with_parent() -> None:
    """End this process when its parent is gone, even killed: what it trains is trained again, not by two at once."""

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(REFRESH)
        os._exit(1)

    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()


def _run(slot: int, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """In a worker: the task, on the GPU that is this worker's, where there are several."""
    listen(partial(_fractions.__setitem__, slot))
    torch = sys.modules.get("torch")  # which the task has imported, if it trains
    if torch is not None and (gpus := torch.cuda.device_count()) > 1:
        number = multiprocessing.current_process()._identity[-1]  # pyright: ignore[reportAttributeAccessIssue]
        torch.cuda.set_device(number % gpus)  # as they start: one that replaces a dead one may share its GPU
    return fn(*args, **kwargs)
