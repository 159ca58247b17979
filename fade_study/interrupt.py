"""Signals that end a study at a good moment: a flag that is looked at between steps, not an exception anywhere."""

from __future__ import annotations

import signal
from typing import Any

__all__ = ["Interrupted", "check", "listen", "requested"]

_number: int | None = None


class Interrupted(SystemExit):
    """SIGTERM or SIGINT came; the exit code is 128 and its number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def listen() -> None:
    """From now on SIGTERM and SIGINT end the process at its next :func:`check`; a second one ends it at once."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _note)


def requested() -> bool:
    """Whether the process is to end, once what it holds is safe."""
    return _number is not None


def check() -> None:
    """End here, if the process is to end: whatever it holds is safe.

    Raises:
        Interrupted: (a ``SystemExit``).
    """
    if _number is not None:
        raise Interrupted(_number)


def _note(number: int, _: Any) -> None:
    global _number  # noqa: PLW0603 - a process gets its signals
    if _number is not None:
        raise Interrupted(number)
    _number = number
