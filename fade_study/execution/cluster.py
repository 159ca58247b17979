"""Independent trainings on a Dask cluster, whose scheduler and workers may die and come back."""

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
from typing import Any

from distributed import Client, KilledWorker, get_worker
from distributed import Future as Remote
from threadpoolctl import threadpool_limits

from fade_study import __version__
from fade_study.builders import as_here
from fade_study.exceptions import ClusterError, WorkerDiedError
from fade_study.execution.pickling import pack, unpack
from fade_study.execution.progress import listen

__all__ = ["ClusterExecutor"]

CONNECT = 10.0
"""Seconds in which a scheduler has to answer at first."""
AWAY = 300.0
"""Seconds for which it may be away later."""
PAUSE = 1.0
"""Seconds between two looks at a cluster to which nothing can be sent, or need be."""


class ClusterExecutor(Executor):
    """Workers of a Dask cluster, which may come, go and die.

    A task whose worker dies is done by another: that is Dask's own doing. What is lost with a scheduler is handed to
    the one that is started in its place. Where there is no worker, tasks wait for one. Data, which is what has a
    ``digest``, is sent once, not with every task.

    Args:
        address: of the scheduler, such as ``tcp://host:8786``.

    Raises:
        ClusterError: (a ``ConnectionError``) if no scheduler answers, or a worker is unfit.
    """

    shares_files = False

    def __init__(self, address: str) -> None:
        self.address = address
        try:
            self._client = _connect(address)
        except Exception as error:  # of many kinds, where something else answers there
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
        """Those that are not done."""
        self._waiting: SimpleQueue[tuple[Future[Any], Mapping[str, Remote]] | None] = SimpleQueue()
        """To be sent, with the data that an earlier attempt has found lost."""
        self._held: dict[str, Remote] = {}
        """Data on the cluster, by digest."""
        self._alone = self._ended = False
        self._away: float | None = None
        """Since when the scheduler is."""
        # Nobody who submits a task, and may be interrupted, has to wait for data to be sent, or for a scheduler.
        self._sender = threading.Thread(target=self._send_all, daemon=True)
        self._sender.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A future of ``fn(*args, **kwargs)``, a function of its arguments alone: it may be begun more than once."""
        if self._ended:
            raise RuntimeError("expected a task before shutdown, got one after; open another executor")
        future: Future[Any] = Future()
        self._tasks[future] = as_here(fn), args, kwargs
        future.add_done_callback(self._tasks.pop)
        self._waiting.put((future, {}))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let all tasks end; or, with ``cancel_futures``, take them back. The workers live on."""
        if cancel_futures:
            for future in list(self._tasks):
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
        # Sent as code, not by its name, which another version may not know.
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
        """In a thread of its own."""
        while True:
            try:
                waiting = self._waiting.get(timeout=PAUSE)
            except Empty:
                self._look()
                continue
            if waiting is None:
                with suppress(OSError):  # the scheduler is away
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
        # As bytes, which a worker unpacks once its version is known to be the same.
        packed, data = pack(task)
        held = self._hold(data)
        remote = self._client.submit(_run, __version__, self.address, packed, held, pure=False)
        remote.add_done_callback(lambda _: self._finish(future, remote, held))
        future.add_done_callback(lambda _: remote.release())

    def _hold(self, data: Mapping[str, Any]) -> dict[str, Remote]:
        """Data, by digest, on all workers that there are; those that come later fetch it from them."""
        self._wait_for_scheduler()
        while missing := data.keys() - self._held.keys():
            digest = missing.pop()
            try:
                self._held[digest] = self._client.scatter(data[digest], broadcast=True, hash=False, timeout=PAUSE)
            except (OSError, KeyError, ValueError):  # no worker is there, or one has died just now
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
            if self._client.status == "closed":  # it has given up, and would not have tried often any more
                with suppress(Exception):  # of many kinds, where something else answers there
                    self._client = _connect(self.address)
                    self._held.clear()  # of the other client
                    continue
            time.sleep(PAUSE)
        self._away = None

    def _look(self) -> None:
        """Warn where tasks have no worker."""
        if self._tasks and self._client.status == "running":
            with suppress(Exception):  # or the thread would end for the sake of a warning, and all wait for ever
                alone = not self._client.nthreads()
                if alone and not self._alone:
                    warnings.warn(
                        f"trainings wait for a worker; start one with: {_command(self.address)}", stacklevel=1
                    )
                self._alone = alone

    def _finish(self, future: Future[Any], remote: Remote, held: Mapping[str, Remote]) -> None:
        """In a thread of Dask's, when a task is done or lost."""
        if remote.status == "finished":
            try:
                _settle(future.set_result, remote.result())
                return
            except (CancelledError, OSError):
                pass  # lost on its way
            except Exception as error:  # such as one that can't be unpickled
                _settle(future.set_exception, error)
                return
        elif remote.status == "error":
            error = remote.exception()
            _settle(future.set_exception, _death(error) if isinstance(error, KilledWorker) else error)
            return
        remote.release()  # or the scheduler, too, would have it done again
        if future in self._tasks:
            self._waiting.put((future, held))


def _connect(address: str) -> Any:
    return Client(address, timeout=CONNECT, set_as_default=False)


def _settle(set_outcome: Callable[[Any], None], outcome: Any) -> None:
    with suppress(InvalidStateError):  # cancelled meanwhile
        set_outcome(outcome)


def _death(error: KilledWorker) -> WorkerDiedError:
    return WorkerDiedError(
        f"expected a worker to live until its task was done, got {error.allowed_failures + 1} that died, the last of "
        f"them {error.last_worker.address}; memory has probably run out: use fewer workers per host or smaller batches"
    )


def _command(scheduler: str) -> str:
    return f"python -m dask worker {scheduler} --nthreads 1 --nworkers N"


def _check(worker: str, threads: int, found: str, *, version: str, scheduler: str) -> None:
    """Refuse a worker of another version, or with several threads: PyTorch's random numbers are a process's."""
    if found != version:
        raise ClusterError(
            f"expected fade_study {version} on worker {worker}, as here, got {found}; install the same version there"
        )
    if threads != 1:
        raise ClusterError(
            f"expected workers of one thread, got {threads} in worker {worker}; start it with: {_command(scheduler)}"
        )


def _run(version: str, scheduler: str, task: bytes, data: Mapping[str, Any]) -> Any:
    """In a worker."""
    worker = get_worker()
    _check(worker.address, worker.state.nthreads, __version__, version=version, scheduler=scheduler)
    try:
        fn, args, kwargs = unpack(task, data)
    except ModuleNotFoundError as error:
        raise ClusterError(
            f"expected the module {error.name} on worker {worker.address}, got none; start the worker in the folder "
            f"in which the driver was: {_command(scheduler)}"
        ) from None
    listen(_end_if_unwanted)
    with threadpool_limits(1):
        return fn(*args, **kwargs)


def _end_if_unwanted(_: float) -> None:
    """End a running task that its driver has taken back, or died for: Dask lets it run on and forgets the result."""
    worker = get_worker()
    if worker.state.tasks[worker.get_current_task()].state == "cancelled":
        raise CancelledError
