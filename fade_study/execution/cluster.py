"""Executor on a Dask cluster, whose scheduler and workers may die and be restarted."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent import futures
from concurrent.futures import CancelledError, Executor, Future, InvalidStateError
from contextlib import suppress
from importlib import import_module
from queue import Empty, SimpleQueue
from traceback import clear_frames
from typing import Any

from distributed import Client, KilledWorker, get_worker
from distributed import Future as Remote
from threadpoolctl import threadpool_limits

from fade_study import __version__
from fade_study.builders import as_here
from fade_study.exceptions import ClusterError, WorkerDiedError
from fade_study.execution.local import leave_gpu, why_lost
from fade_study.execution.pickling import pack, unpack
from fade_study.execution.progress import set_listener

CONNECT = 10.0
"""Timeout in seconds for the first connection to the scheduler."""
AWAY = 300.0
"""Seconds for which the scheduler may be away later."""
PAUSE = 1.0
"""Seconds between two checks of a cluster that is away or idle."""


class ClusterExecutor(Executor):
    """Workers of a Dask cluster, which may join, leave and die.

    The address is that of the scheduler, such as ``tcp://host:8786``; a ``ClusterError`` says that none answers, or
    that a worker is unsuitable. If a worker dies, Dask gives its task to another one. If a GPU runs out of memory, its
    task is retried once. If the scheduler dies, unfinished tasks are submitted to the one that replaces it. If there is
    no worker, tasks wait for one. Objects with a ``digest`` are data sets, which are sent once and not with every task.
    """

    shares_files = False

    def __init__(self, address: str) -> None:
        self.address = address
        try:
            self._client = _connect(address)
        except Exception as error:  # another server at this address causes exceptions of many types
            raise ClusterError(
                f"expected a Dask scheduler at {address}, got none in {CONNECT:.0f} seconds ({error}); "
                "start one with: dask scheduler"
            ) from None
        try:
            self._check_workers()
        except BaseException:
            self._client.close()
            raise
        self._tasks: dict[Future[Any], tuple[Any, ...]] = {}
        """Unfinished tasks by their futures."""
        self._retried: set[Future[Any]] = set()
        """Those among them for which a GPU's memory did not suffice once; Dask itself retries those that are killed."""
        self._waiting: SimpleQueue[tuple[Future[Any], Mapping[str, Remote]] | None] = SimpleQueue()
        """Tasks to send, each with the data sets that an earlier attempt has lost; None ends the sender."""
        self._held: dict[str, Remote] = {}
        """Data sets on the cluster by digest."""
        self._alone = self._ended = False
        self._away: float | None = None
        """Time since which the scheduler has been away."""
        # A thread sends tasks, so that submitting one, which a user may interrupt, never waits for the cluster.
        self._sender = threading.Thread(target=self._send_all, daemon=True)
        self._sender.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit ``fn(*args, **kwargs)``, which may be started more than once and must depend on its arguments only."""
        if self._ended:
            raise RuntimeError("expected a task before shutdown, got one after; open another executor")
        future: Future[Any] = Future()
        self._tasks[future] = as_here(fn), args, kwargs
        future.add_done_callback(self._tasks.pop)
        future.add_done_callback(self._retried.discard)
        self._waiting.put((future, {}))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for all tasks; with ``cancel_futures``, cancel them. The workers keep running."""
        if cancel_futures:
            for future in reversed(list(self._tasks)):  # waiting tasks first, so that no freed worker begins one
                future.cancel()
        while self._tasks:
            futures.wait(list(self._tasks))
        self._ended = True
        self._waiting.put(None)
        if wait:
            self._sender.join(CONNECT)

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self.shutdown(cancel_futures=kind is not None)

    def _check_workers(self) -> None:
        # A local function is sent as code, and not by a name that another version may not know.
        def describe(dask_worker: Any) -> tuple[int, str]:
            return dask_worker.state.nthreads, import_module("fade_study").__version__

        for worker, found in self._client.run(describe, on_error="return").items():
            if isinstance(found, Exception):
                raise ClusterError(
                    f"expected fade_study {__version__} on worker {worker}, got {type(found).__name__}: {found}; "
                    "install the same version there"
                )
            _check(worker, *found, version=__version__, scheduler=self.address)

    def _send_all(self) -> None:
        """Send tasks, in the sender's thread."""
        while True:
            try:
                waiting = self._waiting.get(timeout=PAUSE)
            except Empty:
                self._look()
                continue
            if waiting is None:
                with suppress(OSError):  # if the scheduler is away
                    self._client.close()
                return
            future, lost = waiting
            for digest, data in lost.items():
                if self._held.get(digest) is data:
                    del self._held[digest]
            try:
                self._send(future)
            except Exception as error:
                _settle(future.set_exception, error)

    def _send(self, future: Future[Any]) -> None:
        task = self._tasks.get(future)
        if task is None:  # cancelled
            return
        # Tasks are sent as bytes, which a worker unpickles only after checking its version.
        packed, data = pack(task)
        held = self._hold(data)
        remote = self._client.submit(_run, __version__, self.address, packed, held, pure=False)
        remote.add_done_callback(lambda _: self._finish(future, remote, held))
        future.add_done_callback(lambda _: remote.release())

    def _hold(self, data: Mapping[str, Any]) -> dict[str, Remote]:
        """Data sets by digest, sent to all present workers; workers that join later fetch them from the others."""
        self._wait_for_scheduler()
        while missing := data.keys() - self._held.keys():
            digest = missing.pop()
            try:
                self._held[digest] = self._client.scatter(data[digest], broadcast=True, hash=False, timeout=PAUSE)
            except (OSError, KeyError, ValueError):  # there is no worker, or one has just died
                self._look()
            self._wait_for_scheduler()
        return {digest: self._held[digest] for digest in data}

    def _wait_for_scheduler(self) -> None:
        while self._ended or self._client.status != "running":
            self._away = self._away or time.monotonic()
            if self._ended or time.monotonic() > self._away + AWAY:
                raise ClusterError(
                    f"expected the Dask scheduler at {self.address} to come back, got none for {AWAY:.0f} seconds; "
                    "start it and its workers, and then the same command again"
                )
            if self._client.status == "closed":  # Dask's client has stopped trying to reconnect
                with suppress(Exception):  # another server at this address causes exceptions of many types
                    self._client = _connect(self.address)
                    self._held.clear()  # these futures belong to the old client
                    continue
            time.sleep(PAUSE)
        self._away = None

    def _look(self) -> None:
        """Warn once if tasks wait for a worker."""
        if self._tasks and self._client.status == "running":
            with suppress(Exception):  # an error here must not end the sender
                alone = not self._client.nthreads()
                if alone and not self._alone:
                    warnings.warn(
                        f"trainings wait for a worker; start one with: {_command(self.address)}", stacklevel=1
                    )
                self._alone = alone

    def _finish(self, future: Future[Any], remote: Remote, held: Mapping[str, Remote]) -> None:
        """Settle a task that is done, or resubmit one that is lost; called in a thread of Dask."""
        if remote.status == "finished":
            try:
                _settle(future.set_result, remote.result())
                return
            except (CancelledError, OSError):
                pass  # the result was lost on its way
            except Exception as error:  # such as a result that can't be unpickled
                _settle(future.set_exception, error)
                return
        elif remote.status == "error":
            error: Any = remote.exception()
            killed = isinstance(error, KilledWorker)
            lost = _death(error) if killed else why_lost(error)
            if killed or lost is None or future in self._retried:
                _settle(future.set_exception, error if lost is None else WorkerDiedError(lost))
                return
            self._retried.add(future)
            held = {}  # the data sets are still there
        remote.release()  # otherwise the scheduler would restart it as well
        if future in self._tasks:
            self._waiting.put((future, held))


def _connect(address: str) -> Any:
    return Client(address, timeout=CONNECT, set_as_default=False)


def _settle(set_outcome: Callable[[Any], None], outcome: Any) -> None:
    with suppress(InvalidStateError):  # it was cancelled in the meantime
        set_outcome(outcome)


def _death(error: KilledWorker) -> str:
    return (
        f"expected a worker to live until its task was done, got {error.allowed_failures + 1} that died, the last of "
        f"them {error.last_worker.address}; memory has probably run out: use fewer workers per host or smaller batches"
    )


def _command(scheduler: str) -> str:
    return f"python -m dask worker {scheduler} --nthreads 1 --nworkers N"


def _check(worker: str, threads: int, found: str, *, version: str, scheduler: str) -> None:
    """Refuse a worker of another version, or with several threads, which would share PyTorch's random state."""
    if found != version:
        raise ClusterError(
            f"expected fade_study {version} on worker {worker}, as here, got {found}; install the same version there"
        )
    if threads != 1:
        raise ClusterError(
            f"expected workers of one thread, got {threads} in worker {worker}; start it with: {_command(scheduler)}"
        )


def _run(version: str, scheduler: str, task: bytes, data: Mapping[str, Any]) -> Any:
    """Run a task in a worker."""
    worker = get_worker()
    _check(worker.address, worker.state.nthreads, __version__, version=version, scheduler=scheduler)
    try:
        fn, args, kwargs = unpack(task, data)
    except ModuleNotFoundError as error:
        raise ClusterError(
            f"expected the module {error.name} on worker {worker.address}, got none; start the worker in the folder "
            f"in which the driver was started: {_command(scheduler)}"
        ) from None
    set_listener(_end_if_unwanted)
    try:
        with threadpool_limits(1):
            result = fn(*args, **kwargs)
    except BaseException as error:
        _clear(error)
        leave_gpu(failed=True)
        raise
    leave_gpu(failed=False)
    return result


def _clear(error: BaseException | None) -> None:
    """Clear the frames of an error and of those before it: Dask keeps it, and they hold what the task had on a GPU."""
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__context__


def _end_if_unwanted(_: float) -> None:
    """End a running task whose driver has cancelled it or has died; Dask itself would let it run."""
    worker = get_worker()
    if worker.state.tasks[worker.get_current_task()].state == "cancelled":
        raise CancelledError
