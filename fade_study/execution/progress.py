"""Progress of running tasks: workers report it, and a progress bar shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future
from typing import Any

from tqdm.auto import tqdm

from fade_study import interrupt

__all__ = ["completed", "report", "report_epoch", "set_listener"]

REFRESH = 0.5
"""Seconds between two updates of the progress bar."""
BAR = "{percentage:3.0f}%|{bar:20}| {n:.1f} of {total} {unit}s [{elapsed}<{remaining}]"
_listener: Callable[[float], object] | None = None
"""In a worker, the function that is called with the progress of the running task."""


def report(fraction: float) -> None:
    """Report the finished fraction of the running task, from 0 to 1. Outside of workers this does nothing."""
    if _listener is not None:
        _listener(fraction)


def report_epoch(epochs: int, epoch: int, *_: Any) -> None:
    """Report the progress of a training: bound to ``epochs`` by ``functools.partial``, this is an ``on_epoch``."""
    report((epoch + 1) / epochs)


def set_listener(listener: Callable[[float], object]) -> None:
    """Set the function that receives the progress of this worker's tasks; it may raise an exception to end a task."""
    global _listener  # noqa: PLW0603 - a worker has one running task
    _listener = listener


def completed(tasks: Sequence[Future[Any]], unit: str = "training") -> Iterator[Future[Any]]:
    """Yield futures as they finish, with a progress bar that includes the reported progress of running tasks.

    Args:
        tasks: Futures of any executor.
        unit: Name of one of them in the progress bar.
    """
    pending = set(tasks)
    # disable=None hides the bar if the output is no terminal
    with tqdm(total=len(pending), unit=unit, leave=False, disable=None, bar_format=BAR) as bar:
        while pending:
            interrupt.check()
            done, pending = futures.wait(pending, timeout=REFRESH, return_when=futures.FIRST_COMPLETED)
            bar.n = len(tasks) - sum(1 - getattr(future, "fraction", 0.0) for future in pending)
            bar.refresh()
            yield from done
