"""Where independent evaluations run: in this process, or in local worker processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any

from fade_study.exceptions import InvalidInputError

__all__ = ["InlineExecutor", "open_executor"]


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


class _Workers(ProcessPoolExecutor):
    """Ends its workers at once where the caller is interrupted or fails, whatever they have left to do."""

    def __exit__(self, kind: type[BaseException] | None, *details: Any) -> bool | None:
        if kind is not None:
            workers = list((self._processes or {}).values())
            self.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.terminate()
        return super().__exit__(kind, *details)


def open_executor(name: str) -> Executor:
    """An executor by name, to be used as a context.

    Args:
        name: ``inline``, or ``processes:N`` for N spawned worker processes: for small convolutions two processes of
            one thread beat one process of two threads by far.

    Raises:
        InvalidInputError: (a ``ValueError``) for any other name.
    """
    kind, _, count = name.partition(":")
    if name == "inline":
        return InlineExecutor()
    if kind == "processes" and count.isdecimal() and int(count) > 0:
        # Spawned, since forking a process that has used PyTorch's threads may hang.
        return _Workers(int(count), multiprocessing.get_context("spawn"))
    raise InvalidInputError(f"expected an executor 'inline' or 'processes:N' with N of 1 or more, got {name!r}")
