"""Executors on this machine: in this process, or in worker processes."""

from __future__ import annotations

import gc
import io
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, MutableSequence
from concurrent import futures
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from multiprocessing import resource_sharer, resource_tracker
from multiprocessing.reduction import ForkingPickler
from multiprocessing.sharedctypes import RawArray
from typing import Any, NamedTuple

from pebble import ProcessExpired, ProcessPool
from threadpoolctl import threadpool_limits

from fade_study import interrupt
from fade_study.builders import as_here
from fade_study.exceptions import ClusterError, WorkerDiedError
from fade_study.execution.progress import REFRESH, set_listener

ATTEMPTS = 2
"""Number of attempts at a task whose worker dies, or whose GPU runs out of memory."""
SLOTS = 4096
"""Number of tasks whose progress is tracked at the same time."""
FULL = (
    "out of memory",
    "ALLOC_FAILED",
    "DEVICE_ALLOCATION_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_NOT_INITIALIZED",
)
"""Parts of the texts of PyTorch's errors on a GPU without free memory; the classes of these errors vary."""
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables by which processes of a launcher find each other."""
LAUNCHERS = ("TORCHELASTIC_", "PMI_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_")
"""Prefixes of more such variables."""
_fractions: MutableSequence[float]
"""In a worker process: the progress of all tasks, shared with the main process."""


class InlineExecutor(Executor):
    """Runs each task at once in the caller's process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a task, and return its finished future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class _TaskFuture(Future[Any]):
    """A future that knows the progress of its task."""

    def __init__(self, fractions: MutableSequence[float], slot: int) -> None:
        super().__init__()
        self._fractions, self.slot = fractions, slot
        fractions[slot] = 0.0
        self.attempt: Future[Any] | None = None
        """The pool's future of the present attempt."""

    @property
    def fraction(self) -> float:
        """Last reported progress, from 0 to 1."""
        return self._fractions[self.slot]

    def cancel(self) -> bool:
        """Cancel the task, even if it is running."""
        cancelled = super().cancel()
        if cancelled and (attempt := self.attempt) is not None:
            attempt.cancel()
        return cancelled


class _Outcome(NamedTuple):
    """What a worker returns of a task."""

    content: bytes
    """The pickled result or error; empty for an error that can't be pickled."""
    error: str = ""
    """Class and text of the error."""
    traceback: str = ""
    """Traceback of the error."""


class Workers(Executor):
    """Spawned worker processes. A task whose worker is killed, or whose GPU runs out of memory, is retried once.

    Arguments are sent by PyTorch's pickling, which puts tensors into shared memory, so that all tasks share one copy of
    a data set. That happens in ``submit``, in the caller's thread: a tensor that moves leaves memory that is freed, so
    that a pool's thread must not move it while the caller's reads it.
    """

    def __init__(self, count: int) -> None:
        # The array has no lock, since a worker that is killed would never release it.
        self._fractions: MutableSequence[float] = RawArray("d", SLOTS)
        if getattr(sys.excepthook, "func", None) is not _unless_hung_up:
            sys.excepthook = partial(_unless_hung_up, sys.excepthook)
        # Workers are spawned, since forking a process that has used PyTorch's threads may hang.
        context: Any = multiprocessing.get_context("spawn")
        self._pool = ProcessPool(count, initializer=_start, initargs=(self._fractions,), context=context)
        # Start workers now with SIGINT blocked, since a terminal sends Ctrl-C to them as well. The resource tracker is
        # started before them: if the first worker started it, that would unblock the signal.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._pool.schedule(int)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._unfinished: set[Future[Any]] = set()
        self._slots = itertools.cycle(range(SLOTS))
        self._broken: BaseException | None = None
        threading.Thread(target=self._watch, daemon=True).start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit ``fn(*args, **kwargs)``; the future's ``fraction`` is the reported progress."""
        future = _TaskFuture(self._fractions, next(self._slots))
        task = _Task(partial(as_here(fn), *args, **kwargs))
        try:
            _ShareTensors(io.BytesIO()).dump(task.call)
        except Exception as error:  # the call can't be pickled, or shared memory is full
            future.set_exception(error)
            return future
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)
        try:
            self._attempt(future, task, ATTEMPTS)
        except RuntimeError as error:
            self._unfinished.discard(future)
            interrupt.check()  # a signal to the process group may have ended all workers, and so the pool
            raise _ended(error) from error
        return future

    def _attempt(self, future: _TaskFuture, task: _Task, attempts: int) -> None:
        def finish(attempt: Future[_Outcome]) -> None:
            future.attempt = None  # it would keep the result's bytes as long as the future keeps the result
            if future.done():
                return
            try:
                result, error = _read(attempt.result())
            except BrokenProcessPool as broken:
                self._broken = broken.__cause__ or broken
                return
            except Exception as lost_worker:
                result, error = None, lost_worker
            if error is None:
                future.set_result(result)
            elif (lost := why_lost(error)) is None:
                future.set_exception(error)
            elif attempts > 1:
                with suppress(RuntimeError):  # the pool is broken
                    self._attempt(future, task, attempts - 1)
            else:
                future.set_exception(WorkerDiedError(lost))

        future.attempt = self._pool.schedule(_run, (future.slot, task))
        future.attempt.add_done_callback(finish)

    def _watch(self) -> None:
        """End all tasks once the pool is broken, since it only does so itself for those that it has sent."""
        while self._pool.active:
            time.sleep(REFRESH)
        for future in list(self._unfinished):
            with suppress(futures.InvalidStateError):
                future.set_exception(_ended(self._broken))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for all tasks and end the workers; with ``cancel_futures``, end the workers at once."""
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
        if cancel_futures:
            resource_sharer.stop()  # closes the files of tensors in tasks that no worker has fetched

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self.shutdown(cancel_futures=kind is not None)


def _ended(cause: BaseException | None) -> ClusterError:
    return ClusterError(
        f"expected worker processes that live, got a pool that has ended: {cause or 'all have died'}; if memory or "
        "open files have run out, use fewer workers, and run the same command again to go on"
    )


class _Task:
    """A call, which is pickled when the pool's thread sends it, since each pickled tensor holds a file until then.

    The pool sees bytes, so that no error of pickling can end its thread or lose the task.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            content = bytes(ForkingPickler.dumps(self.call))
        except Exception as error:  # no more files, for example; the worker raises it
            content = pickle.dumps(partial(_fail, f"{type(error).__name__}: {error}"))
        return bytes, (content,)


class _ShareTensors(ForkingPickler):
    """Moves the tensors of a task into shared memory, and leaves them out of the pickle."""

    def persistent_id(self, obj: Any) -> str | None:
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(obj, torch.Tensor):
            return None
        if obj.layout == torch.strided and not obj.is_meta:  # others have no memory of their own
            obj.share_memory_()
        return "tensor"


def _unless_hung_up(say: Callable[..., object], kind: type[BaseException], *error: Any) -> None:
    """Exception hook that ignores lost connections in multiprocessing's thread, which sends tensors to workers."""
    if threading.current_thread() is threading.main_thread() or not issubclass(kind, ConnectionError | EOFError):
        say(kind, *error)


def why_lost(error: BaseException) -> str | None:
    """Why a task is worth another attempt, after which it is an error of workers; None for an error of its own."""
    if isinstance(error, ProcessExpired):
        return (
            f"expected a worker process to live until its task was done, got exit code {error.exitcode} in each of "
            f"{ATTEMPTS} attempts; where that is -9, memory has probably run out: use fewer workers or smaller batches"
        )
    if any(part in str(error) for part in FULL):
        return (
            f"expected memory of the GPU for a task, got this in each of {ATTEMPTS} attempts: {error}; use fewer "
            "workers or smaller batches"
        )
    return None


def _start(fractions: MutableSequence[float]) -> None:
    """Initialize a worker, with one thread for NumPy and others, since more would slow each other down."""
    threadpool_limits(1)
    os.setpgid(0, 0)  # launchers send signals to the whole process group; the parent handles them for its workers
    for name in [name for name in os.environ if name.startswith(LAUNCHERS) or name in LAUNCHER]:
        del os.environ[name]  # a worker trains alone, even if its parent is one of a launcher's processes
    parent = multiprocessing.parent_process()
    assert parent is not None
    end_with_parent(parent.pid)
    global _fractions  # noqa: PLW0603 - a process has one running task
    _fractions = fractions


def end_with_parent(parent: int | None = None) -> None:
    """End this process when its parent ends or is killed, so that no training runs twice at the same time.

    Args:
        parent: Id of the parent, which may have ended while this process started; default the present one.
    """

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(REFRESH)
        os._exit(1)

    threading.Thread(target=watch, args=(parent or os.getppid(),), daemon=True).start()


def _run(slot: int, content: bytes) -> _Outcome:
    """Run a pickled call in a worker, which then leaves the memory of its GPU to the others."""
    set_listener(partial(_fractions.__setitem__, slot))
    outcome = _outcome(content)
    leave_gpu(failed=bool(outcome.error))
    return outcome


def leave_gpu(*, failed: bool) -> None:
    """Leave the memory of this process's GPU to others, after a task that has ended."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        if failed:
            gc.collect()  # for tracebacks in cycles; after each success it would take as long as a short training
        with suppress(RuntimeError):  # after some errors of tasks, a GPU refuses everything
            torch.cuda.empty_cache()


def _outcome(content: bytes) -> _Outcome:
    """What a pickled call returns or raises.

    Tensors of results are copied, since each shared one would hold a file of the main process.
    """
    try:
        call = pickle.loads(content)
        _choose_gpu()
        return _Outcome(pickle.dumps(call()))
    except BaseException as error:
        told = f"{type(error).__name__}: {error}", traceback.format_exc()
        with suppress(Exception):
            return _Outcome(pickle.dumps(error), *told)
        return _Outcome(b"", *told)


def _choose_gpu() -> None:
    """Give this worker one of several GPUs, in turn; one that replaces a dead worker may share a GPU.

    Unpickling a call has imported PyTorch and Accelerate, if it trains. A function that imports PyTorch only in its
    body has its first task on the first GPU.
    """
    torch, accelerate = (sys.modules.get(name) for name in ("torch", "accelerate"))
    if torch is None or (accelerate is not None and accelerate.utils.parse_flag_from_env("ACCELERATE_USE_CPU")):
        return
    if (gpus := torch.cuda.device_count()) > 1:
        number = multiprocessing.current_process()._identity[-1]  # pyright: ignore[reportAttributeAccessIssue]
        torch.cuda.set_device(number % gpus)


def _read(outcome: _Outcome) -> tuple[Any, BaseException | None]:
    """The result or the error of a task. An error whose class only the worker knows becomes a RuntimeError."""
    try:
        content = pickle.loads(outcome.content)
    except Exception as error:
        if not outcome.error:
            return None, error
        content = RuntimeError(outcome.error)
    if not outcome.error:
        return content, None
    content.__cause__ = RuntimeError(f"in a worker process:\n{outcome.traceback}")
    return None, content


def _fail(message: str) -> None:
    raise RuntimeError(message)
