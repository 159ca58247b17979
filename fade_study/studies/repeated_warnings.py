"""Warnings that many trainings repeat: only the first is printed, and the others are counted."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["count_repeated_warnings"]


@contextmanager
def count_repeated_warnings() -> Iterator[None]:
    """Show the first of several similar warnings at once, and say at the end how many there were.

    Warnings are similar if they agree up to their first colon and space.
    """
    counts: Counter[str] = Counter()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_first(message: Warning | str, *args: Any, **kwargs: Any) -> None:
            kind = str(message).split(": ")[0]
            counts[kind] += 1
            if counts[kind] == 1:
                show(message, *args, **kwargs)

        warnings.showwarning = show_first
        warnings.simplefilter("always", UserWarning, append=True)  # Python itself skips a text that it has seen
        try:
            yield
        finally:
            for kind, count in counts.items():
                if count > 1:
                    print(f"warning, {count} times in all: {kind}")
