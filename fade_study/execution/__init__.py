"""Executors of independent trainings: in this process, in local worker processes, or on a Dask cluster."""

from __future__ import annotations

import re
from concurrent.futures import Executor

from fade_study.builders import check_sendable
from fade_study.exceptions import ClusterError, InvalidInputError
from fade_study.execution.local import InlineExecutor, Workers, end_with_parent
from fade_study.execution.progress import advance, completed, phase, report, report_epoch, set_listener, watch

__all__ = [
    "InlineExecutor",
    "advance",
    "completed",
    "end_with_parent",
    "open_executor",
    "phase",
    "report",
    "report_epoch",
    "set_listener",
    "shares_files",
    "watch",
]


def shares_files(executor: Executor) -> bool:
    """Whether an executor's tasks see the same files as this process; tasks on a cluster may not."""
    return getattr(executor, "shares_files", True)


def open_executor(name: str) -> Executor:
    """Open an executor, to be used as a context manager.

    Args:
        name: ``inline``; ``processes:N`` for N spawned worker processes (for small convolutions, two processes of one
            thread are much faster than one process of two); or the address of a Dask scheduler, ``tcp://host:8786``.

    Raises:
        InvalidInputError: (a ``ValueError``) for any other name, and if workers can't import the builder that is
            registered here for a type of cells.
        ClusterError: (a ``ConnectionError``) if no scheduler answers, a worker is unsuitable, or Dask is not installed.
    """
    kind, _, count = name.partition(":")
    if name == "inline":
        return InlineExecutor()
    check_sendable()
    if kind == "processes" and count.isdecimal() and int(count) > 0:
        return Workers(int(count))
    if re.fullmatch(r"(tcp|tls)://.+:\d{1,5}", name):
        try:
            from fade_study.execution.cluster import ClusterExecutor
        except ImportError as error:
            raise ClusterError(
                f"expected Dask for {name}, got none ({error}); pip install 'fade-study[cluster]'"
            ) from None
        return ClusterExecutor(name)
    raise InvalidInputError(
        "expected an executor 'inline', 'processes:N' with N of 1 or more, or 'tcp://HOST:PORT' of a Dask scheduler, "
        f"got {name!r}"
    )
