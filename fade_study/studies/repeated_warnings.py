"""Warnings that many trainings repeat, in any process: the first is printed, and the others are counted."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")


def recorded(task: Callable[..., T], *args: Any, **kwargs: Any) -> tuple[T, list[str]]:
    """In a worker: the result of a task, and the texts of its warnings."""
    with warnings.catch_warnings(record=True, action="always", category=UserWarning) as caught:
        result = task(*args, **kwargs)
    return result, [str(warning.message) for warning in caught]


def result_of(future: Future[tuple[T, list[str]]]) -> T:
    """The result of a task that was :func:`recorded`, whose warnings are given here."""
    result, texts = future.result()
    for text in texts:
        warnings.warn(text, stacklevel=2)
    return result


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
                with tqdm.external_write_mode(sys.stderr):  # not in the middle of a progress bar
                    show(message, *args, **kwargs)

        warnings.showwarning = show_first
        warnings.simplefilter("always", UserWarning, append=True)  # Python itself skips a text that it has seen
        try:
            yield
        finally:
            for kind, count in counts.items():
                if count > 1:
                    print(f"warning, {count} times in all: {kind}")
