"""Where independent evaluations run: in this process, or in local worker processes."""

from __future__ import annotations

import multiprocessing
import os
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


def open_executor(name: str) -> Executor:
    """An executor by name, to be used as a context.

    Args:
        name: ``inline``, or ``processes:N`` for N spawned worker processes of one thread each: for small
            convolutions two such processes beat one process of two threads by far.

    Raises:
        InvalidInputError: (a ``ValueError``) for any other name.
    """
    kind, _, count = name.partition(":")
    if name == "inline":
        return InlineExecutor()
    if kind == "processes" and count.isdecimal() and int(count) > 0:
        # Spawned, since forking a process that has used PyTorch's threads may hang.
        return ProcessPoolExecutor(int(count), multiprocessing.get_context("spawn"), initializer=_single_threaded)
    raise InvalidInputError(f"expected an executor 'inline' or 'processes:N' with N of 1 or more, got {name!r}")


def _single_threaded() -> None:
    """Before the first task imports a numerical library."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
