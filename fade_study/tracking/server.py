"""The tracking server: whether it answers, what it refuses, and how to look at it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import mlflow
import requests
import sqlalchemy.exc
from mlflow import entities

from fade_study.exceptions import InvalidInputError, StorageError
from fade_study.urls import connect_arguments, masked, masked_url, place

if TYPE_CHECKING:
    pass


__all__ = [
    "ONCE",
    "check_server",
    "find_runs",
    "find_runs_or_none",
    "is_away",
    "may_refuse",
    "redirected",
    "request_settings",
    "set_defaults",
    "ui_command",
]

# The outbox is patient, so MLflow need not be: it would hold a training up for minutes.
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
DEFAULTS = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # one for each small artifact would drown the search's own
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for each child run
    RETRIES: "1",  # the outbox retries; MLflow's own retries would hold a training up for minutes
    TIMEOUT: "30",
}
"""Settings of MLflow by environment variables, for those that the user has not set."""
ONCE = {RETRIES: "0"}
"""Only the outbox looks whether an attempt without an answer has made a run: MLflow's own retry would make another."""
IMPATIENT = ONCE | {TIMEOUT: "10"}
"""Before anything begins."""
MOST_RUNS = 100_000
"""Of one answer of the tracking server."""
AWAY = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED", "CANCELLED")
"""Codes of MLflow's errors after which it pays to try again: no answer, one of 5xx, or a database that is locked."""
AWAY_STATUS = (408, 429)
"""Of HTTP, beside those from 500 on: too late, too many."""
MADE = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")
"""Variables by which ``mlflow run`` tells of the run that it has made."""


def is_away(error: Exception) -> bool:
    """Whether an error means that the server does not answer, so that it pays to retry."""
    if isinstance(error, mlflow.MlflowException):
        return error.error_code in AWAY
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code in AWAY_STATUS or error.response.status_code >= 500
    return isinstance(error, requests.RequestException | ConnectionError | TimeoutError)


def may_refuse(error: Exception) -> bool:
    """MLflow has one code for a database that is locked and for a metric that its store can't hold."""
    return isinstance(error, mlflow.MlflowException) and error.error_code == "INTERNAL_ERROR"


def set_defaults() -> None:
    """Set those environment variables of MLflow that the user has not."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


@contextmanager
def request_settings(settings: Mapping[str, str]) -> Iterator[None]:
    """Other settings of MLflow's requests for a while."""
    before = {name: os.environ[name] for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.update(before)


def find_runs(condition: str) -> Any:
    """Runs of all experiments, newest first."""
    return mlflow.search_runs(
        search_all_experiments=True, filter_string=condition, max_results=MOST_RUNS, output_format="list"
    )


def find_runs_or_none(condition: str) -> Any:
    """The same, but none where the server is away: for what can be done without."""
    try:
        return find_runs(condition)
    except Exception as error:
        if not is_away(error):
            raise
        return []


@contextmanager
def redirected(uri: str) -> Iterator[None]:
    """Write to another tracking store for a while, which has no run that ``mlflow run`` has made."""
    before = mlflow.get_tracking_uri()
    made = {name: os.environ.pop(name) for name in MADE if name in os.environ}
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
        os.environ.update(made)


def ui_command() -> str:
    """What to type to look at the runs."""
    uri = mlflow.get_tracking_uri()
    return f"at {masked_url(uri)}" if uri.startswith("http") else f"mlflow ui --backend-store-uri {place(uri)}"


def check_server() -> None:
    """Raise, within seconds, unless the tracking store can be read, and has a fresh run if it has one to be used.

    Raises:
        StorageError: (an ``OSError``) that names it.
        InvalidInputError: (a ``ValueError``) where MLFLOW_RUN_ID names a run that was used before.
    """
    set_defaults()
    uri, made = mlflow.get_tracking_uri(), os.environ.get(MADE[0])
    try:
        with request_settings(IMPATIENT):
            if "://" in uri and (arguments := connect_arguments(uri)):  # MLflow would try for minutes
                engine = sqlalchemy.create_engine(uri, **arguments)
                engine.connect().close()
                engine.dispose()
            mlflow.MlflowClient().search_experiments(max_results=1)
            used = None if made is None else _used(mlflow.MlflowClient().get_run(made))
    except (ImportError, OSError, mlflow.MlflowException, sqlalchemy.exc.SQLAlchemyError) as error:
        reason = masked(" ".join(str(error).partition("(Background")[0].split()))
        raise StorageError(
            f"expected an MLflow tracking store, got {place(uri)}: {reason}. "
            "Set MLFLOW_TRACKING_URI to a server that runs, or to a file such as sqlite:///mlflow.db"
        ) from None
    if used is not None:
        raise InvalidInputError(
            f"expected MLFLOW_RUN_ID to name a run that nothing was recorded in yet, as `mlflow run` makes it, got "
            f"{made}, which {used}; unset MLFLOW_RUN_ID, and a new run is made"
        )


def _used(run: entities.Run) -> str | None:
    """Why a run is not one that `mlflow run` has just made; None if it may be."""
    if run.info.status != "RUNNING":
        return f"is {run.info.status}"
    if kind := run.data.tags.get("fade.kind"):
        return f"holds another {kind}"
    return "has metrics already" if run.data.metrics else None
