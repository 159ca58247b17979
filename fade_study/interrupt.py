"""Signals that end a study at a good moment: a flag that is looked at between steps, not an exception anywhere."""

from __future__ import annotations

import signal
from typing import Any

__all__ = ["Interrupted", "check", "listen", "requested"]

_number: int | None = None
_twice = True


class Interrupted(SystemExit):
    """SIGTERM or SIGINT came; the exit code is 128 and its number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def listen(*, twice: bool = True) -> None:
    """From now on SIGTERM and SIGINT end the process at its next :func:`check`.

    Args:
        twice: whether a second one ends it at once. Not under a launcher, which passes on what a terminal has sent to
            all processes already.
    """
    global _twice  # noqa: PLW0603 - as a process gets its signals
    _twice = twice
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _note)


def requested() -> int:
    """Number of the signal by which the process is to end, once what it holds is safe; 0 where none came."""
    return _number or 0


def check() -> None:
    """End here, if the process is to end: whatever it holds is safe.

    Raises:
        Interrupted: (a ``SystemExit``).
    """
    if _number is not None:
        raise Interrupted(_number)


def _note(number: int, _: Any) -> None:
    global _number  # noqa: PLW0603 - a process gets its signals
    if _number is not None and _twice:
        raise Interrupted(number)
    _number = number
