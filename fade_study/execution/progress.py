"""Progress of running tasks: workers report it; a bar on a terminal, and a line each minute elsewhere, show it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

from fade_study import interrupt

REFRESH = 0.5
"""Seconds between two updates of the progress bar."""
EVERY = 60.0
"""Seconds between two lines where the output is no terminal."""
_listener: Callable[[float], object] | None = None
"""In a worker, the function that is called with the progress of the running task."""
_phase: _Phase | None = None
"""The open phase; None outside of ``phase``."""


class _Phase:
    """A number of tasks, taken as equally long, whose progress is shown; the arguments are those of `phase`."""

    def __init__(self, label: str, total: int, after: float | None = None) -> None:
        self.label, self.total, self.after = label, total, after
        self.tasks: set[Future[Any]] = set()
        self.finished = 0
        """Number of finished tasks that are not among ``tasks``."""
        self.on_record = 0
        """Number of those that were on record, and so say nothing of the speed."""
        self.begun = self.shown = time.monotonic()
        # disable=None hides the bar if the output is no terminal
        self.bar = tqdm(total=total, leave=False, disable=None, bar_format="{desc} |{bar:20}|", desc=label)

    def show(self, running: float = 0.0) -> None:
        """Show how far it is, if that is due; a task in this process has finished the fraction ``running``."""
        now = time.monotonic()
        if now - self.shown < (EVERY if self.bar.disable else REFRESH):
            return
        self.shown = now
        finished = self.finished + sum(task.done() for task in self.tasks)
        done = finished + running + sum(getattr(task, "fraction", 0.0) for task in self.tasks if not task.done())
        text = f"{self.label}, {finished} of {self.total}"
        if done > self.on_record:
            left = self.total * (1 + (self.after or 0)) - done
            seconds = (now - self.begun) * left / (done - self.on_record)
            text += f"; about {_duration(seconds)} left{'' if self.after is None else ' in all'}"
        if self.bar.disable:
            print(text, flush=True)
        else:
            self.bar.n = min(done, self.total)
            self.bar.set_description_str(text)


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


@contextmanager
def phase(label: str, total: int, after: float | None = None) -> Iterator[None]:
    """Show the progress of the tasks that begin inside, and when they will all have ended.

    Args:
        label: What the tasks are, such as ``phase 2 of 3: ground truth``.
        total: Number of tasks.
        after: Work of the command that follows, as a multiple of this phase's; it makes the remaining time that of the
            whole command. None if that is not known.
    """
    global _phase  # noqa: PLW0603 - a command has one phase at a time
    outer, _phase = _phase, _Phase(label, total, after)
    try:
        yield
    finally:
        _phase.bar.close()
        _phase = outer


def advance(count: int = 1, *, on_record: bool = False) -> None:
    """Count tasks of the open phase as finished, in this process or long ago, as those on record are."""
    if _phase is not None:
        _phase.finished += count
        _phase.on_record += count * on_record
        _phase.show()


def watch(task: Future[Any]) -> None:
    """Let the open phase count a task that was submitted; one in this process has finished."""
    if _phase is not None:
        _phase.tasks.add(task)
        _phase.show()


def report(fraction: float) -> None:
    """Report the finished fraction of the running task, from 0 to 1."""
    if _listener is not None:
        _listener(fraction)
    elif _phase is not None:
        _phase.show(fraction)


def report_epoch(epochs: int, epoch: int, *_: Any) -> None:
    """Report the progress of a training: bound to ``epochs`` by ``functools.partial``, this is an ``on_epoch``."""
    report((epoch + 1) / epochs)


def set_listener(listener: Callable[[float], object]) -> None:
    """Set the function that receives the progress of this worker's tasks; it may raise an exception to end a task."""
    global _listener  # noqa: PLW0603 - a worker has one running task
    _listener = listener


def completed(tasks: Sequence[Future[Any]], label: str = "trainings") -> Iterator[Future[Any]]:
    """Yield futures as they finish, and show the progress of the open phase, or of these tasks if there is none.

    Args:
        tasks: Futures of any executor.
        label: What they are, where no phase is open.
    """
    pending = set(tasks)
    shown = _phase or _Phase(label, len(pending))
    shown.tasks |= pending
    try:
        while pending:
            interrupt.check()
            done, pending = futures.wait(pending, timeout=REFRESH, return_when=futures.FIRST_COMPLETED)
            shown.show()
            yield from done
    finally:
        if shown is not _phase:
            shown.bar.close()
