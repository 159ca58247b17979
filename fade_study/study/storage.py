"""Opening a study's storage, and retrying what fails while it is busy or away."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TypeVar

import optuna
import tenacity
from optuna.storages import BaseStorage

from fade_study._optuna import backend_of, complete_schema, storage_of
from fade_study.exceptions import FadeError, StorageError
from fade_study.past import read_past
from fade_study.urls import connect_arguments, masked, place

FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 5.0
RETRY_SECONDS = 60.0
"""Limit on the time for which an operation is retried, with random waits that double up to the longest."""
OPEN_ATTEMPTS = 5
OPEN_SECONDS = 10.0
"""Limits on attempts and time for opening a storage; short, because a user is waiting."""

Result = TypeVar("Result")


def retried(operation: Callable[[], Result], study: optuna.Study) -> Result:
    """Call an operation on a study; retry it for :data:`RETRY_SECONDS` while the storage is busy or away.

    A failed attempt may have changed the storage, if only its answer was lost. The operation has to check for that. A
    ``StorageError`` says that the storage stays away, or that the study was deleted.
    """
    try:
        return retried_on(storage_of(study), study.study_name, operation)
    except KeyError:  # the study was deleted, or code of the user's raised it
        retried_on(storage_of(study), study.study_name, lambda: read_past(study))  # raises where it was deleted
        raise


def retried_on(opened: BaseStorage, study_name: str | None, operation: Callable[[], Result]) -> Result:
    """Call an operation on a storage, and retry it as :func:`retried` does; for a study that is not open yet."""
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_away),
        wait=tenacity.wait_random_exponential(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS),
        stop=tenacity.stop_after_delay(RETRY_SECONDS),
        reraise=True,
    )
    try:
        return attempts(operation)
    except Exception as error:
        if not _is_away(error):
            raise
        storage = backend_of(opened)
        url = place(str(getattr(storage, "url", type(storage).__name__)))
        reason = masked(str(error.__cause__ or error).partition("\n")[0])
        raise StorageError(
            f"expected the storage of study {study_name!r} to answer within {RETRY_SECONDS:g} s, got from {url}: "
            f"{reason}. What was told before is stored, and an open generation is still open: look after the server "
            "or the file and who has locked it, then call again"
        ) from error


def _is_away(error: BaseException) -> bool:
    """Whether an error says that a storage is busy or away."""
    import sqlalchemy.exc

    if isinstance(error, OSError) and not isinstance(error, FadeError):
        # Only an error that the storage raised: a sampler or space of the user's may open files as well.
        modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
        return any(module.startswith("optuna.storages") for module in modules)
    return isinstance(error, optuna.exceptions.StorageInternalError | sqlalchemy.exc.SQLAlchemyError)


def open_storage(storage: str | BaseStorage | None) -> BaseStorage:
    """An Optuna storage, from its URL or as it is, or in memory for None; a ``StorageError`` if it can't be opened."""
    import sqlalchemy.exc

    def attempt() -> BaseStorage:
        found = storage
        if isinstance(found, str) and (arguments := connect_arguments(found)):
            found = optuna.storages.RDBStorage(found, engine_kwargs=arguments)
        opened = optuna.storages.get_storage(found)
        complete_schema(backend_of(opened))
        return opened

    # If two processes open a new file at the same moment, both create the tables, and one of them fails.
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_away),
        wait=tenacity.wait_random(0, FIRST_WAIT_SECONDS),
        stop=tenacity.stop_after_attempt(OPEN_ATTEMPTS) | tenacity.stop_after_delay(OPEN_SECONDS),
        reraise=True,
    )
    try:
        return attempts(attempt)
    except (
        ImportError,
        OSError,
        RuntimeError,
        ValueError,
        sqlalchemy.exc.SQLAlchemyError,
        optuna.exceptions.StorageInternalError,
    ) as error:
        reason = masked(" ".join(str(error.__cause__ or error).partition("(Background")[0].split()))
        raise StorageError(
            f"expected a storage that can be opened, got {place(str(storage))}: {reason}. "
            "Check the folder, the server and its driver; 'sqlite:///fade.db' is a file in this folder"
        ) from error
