"""How far running tasks are: workers report it, and a progress bar shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future
from typing import Any

from tqdm.auto import tqdm

from fade_study import interrupt

__all__ = ["completed", "listen", "report", "report_epoch"]

REFRESH = 0.5
"""Seconds between two looks at the progress of tasks."""
BAR = "{percentage:3.0f}%|{bar:20}| {n:.1f} of {total} {unit}s [{elapsed}<{remaining}]"
# In any worker: hears what the running task reports.
_listener: Callable[[float], object] | None = None


def report(fraction: float) -> None:
    """Tell how much of the running task is done, 0 to 1; outside worker processes nothing happens."""
    if _listener is not None:
        _listener(fraction)


def report_epoch(epochs: int, epoch: int, *_: Any) -> None:
    """The same, as ``on_epoch`` of a training of so many epochs (with ``functools.partial``)."""
    report((epoch + 1) / epochs)


def listen(listener: Callable[[float], object]) -> None:
    """In a worker: hear what the running task reports, and end it by an exception where nobody waits for it."""
    global _listener  # noqa: PLW0603 - a worker has one running task
    _listener = listener


def completed(tasks: Sequence[Future[Any]], unit: str = "training") -> Iterator[Future[Any]]:
    """Futures as they are done, with a progress bar that also counts what workers report of those that run.

    Args:
        tasks: of any executor.
        unit: what one of them is.
    """
    pending = set(tasks)
    # disable=None: no bar where nobody looks
    with tqdm(total=len(pending), unit=unit, leave=False, disable=None, bar_format=BAR) as bar:
        while pending:
            interrupt.check()
            done, pending = futures.wait(pending, timeout=REFRESH, return_when=futures.FIRST_COMPLETED)
            bar.n = len(tasks) - sum(1 - getattr(future, "fraction", 0.0) for future in pending)
            bar.refresh()
            yield from done
