"""Signals that end a study between two steps: a flag that is checked there, instead of an exception anywhere."""

from __future__ import annotations

import signal
from typing import Any

_number: int | None = None
_twice = True


class Interrupted(SystemExit):
    """Raised after SIGTERM or SIGINT; the exit code is 128 plus the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


def handle_signals(*, twice: bool = True) -> None:
    """Let SIGTERM and SIGINT end the process at its next :func:`check`.

    Args:
        twice: Whether a second signal ends the process at once. Set it to False under a launcher, which forwards
            signals that the terminal has already sent to all processes.
    """
    global _twice  # noqa: PLW0603 - signals concern the whole process
    _twice = twice
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _note)


def requested() -> int:
    """Number of the signal that asks the process to end; 0 if there was none."""
    return _number or 0


def check() -> None:
    """End the process here if a signal has asked for it; call this where the state of the process is safe.

    Raises:
        Interrupted: (a ``SystemExit``) after a signal.
    """
    if _number is not None:
        raise Interrupted(_number)


def _note(number: int, _: Any) -> None:
    global _number  # noqa: PLW0603 - signals concern the whole process
    if _number is not None and _twice:
        raise Interrupted(number)
    _number = number
