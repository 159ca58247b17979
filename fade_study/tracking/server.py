"""The tracking server: whether it answers, which errors it raises, and queries to it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import requests
import sqlalchemy.exc
import tenacity
from alembic.util.exc import CommandError

from fade_study.exceptions import InvalidInputError, StorageError
from fade_study.tracking.schema import KIND
from fade_study.urls import connect_arguments, masked, masked_url, place

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
DEFAULTS = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # it would hide the search's own progress bar
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it prints two lines for each child run
    RETRIES: "1",  # the outbox retries; MLflow's own retries would hold a training up for minutes
    TIMEOUT: "30",
}
"""Environment variables of MLflow, for those that the user has not set."""
ONCE = {RETRIES: "0"}
"""Environment variables for creating a run: MLflow must not retry, or it creates a second run if an answer is lost."""
IMPATIENT = ONCE | {TIMEOUT: "10"}
"""Environment variables for the check before a study begins, when a user is waiting."""
AWAY = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED", "CANCELLED")
"""MLflow's codes of transient errors: no answer, an HTTP status of 5xx, or a locked database."""
AWAY_STATUS = (408, 429)
"""HTTP statuses of transient errors, beside those from 500 on: request timeout, too many requests."""
CONTACT_SECONDS = 10.0
"""Limit on the time for which opening a new SQLite file is retried."""
MADE = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")
"""Environment variables through which ``mlflow run`` passes the run that it has created."""


def is_away(error: Exception) -> bool:
    """Whether an error is transient: the server does not answer, and a retry may succeed."""
    if isinstance(error, mlflow.MlflowException):
        return error.error_code in AWAY
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code in AWAY_STATUS or error.response.status_code >= 500
    return isinstance(error, requests.RequestException | ConnectionError | TimeoutError)


def may_refuse(error: Exception) -> bool:
    """Whether a transient error may be permanent: MLflow has one code for a locked database and an invalid metric."""
    return isinstance(error, mlflow.MlflowException) and error.error_code == "INTERNAL_ERROR"


def set_defaults() -> None:
    """Set those environment variables of MLflow that the user has not set."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


@contextmanager
def request_settings(settings: Mapping[str, str]) -> Iterator[None]:
    """Change environment variables of MLflow's requests within the context."""
    before = {name: os.environ[name] for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.update(before)


def find_runs(condition: str) -> Any:
    """Runs of all experiments, newest first."""
    return mlflow.search_runs(search_all_experiments=True, filter_string=condition, output_format="list")


def find_runs_or_none(condition: str) -> Any:
    """Runs of all experiments, newest first; none if the server is away."""
    try:
        return find_runs(condition)
    except Exception as error:
        if not is_away(error):
            raise
        return []


@contextmanager
def redirected(uri: str) -> Iterator[None]:
    """Write to another tracking store within the context, without the run that ``mlflow run`` has created."""
    before = mlflow.get_tracking_uri()
    made = {name: os.environ.pop(name) for name in MADE if name in os.environ}
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
        os.environ.update(made)


def look_at(experiment: str, run_id: str) -> str:
    """How to look at a run in MLflow's user interface, which opens on another page by default."""
    uri, page = mlflow.get_tracking_uri(), f"#/experiments/{experiment}/runs/{run_id}?workflowType=machine_learning"
    if uri.startswith("http"):
        return f"Look at the run: {masked_url(uri).rstrip('/')}/{page}"
    return f"Look at the run: mlflow ui --backend-store-uri {shlex.quote(place(uri))}\nand open http://127.0.0.1:5000/{page}"


def check_server() -> None:
    """Check, within seconds, that the tracking store can be read, and that ``MLFLOW_RUN_ID`` names a fresh run if set.

    If not, a ``StorageError`` or an ``InvalidInputError`` is raised.
    """
    set_defaults()
    uri, made = mlflow.get_tracking_uri(), os.environ.get(MADE[0])
    try:
        with request_settings(IMPATIENT):
            _connect(uri)
            _first_contact(uri)
            used = None if made is None else _used(made)
    except (ImportError, OSError, mlflow.MlflowException, sqlalchemy.exc.SQLAlchemyError, CommandError) as error:
        reason = masked(" ".join(str(error).partition("(Background")[0].split()))
        raise StorageError(
            f"expected an MLflow tracking store, got {place(uri)}: {reason}. "
            "Set MLFLOW_TRACKING_URI to a server that runs, or to a file such as sqlite:///mlflow.db"
        ) from None
    if used is not None:
        raise InvalidInputError(
            f"expected MLFLOW_RUN_ID to name a run that nothing was recorded in yet, as `mlflow run` creates it, got "
            f"{made}, which {used}; unset MLFLOW_RUN_ID to create a new run"
        )


def _connect(uri: str) -> None:
    """Connect to a database, or raise within seconds what MLflow itself would raise after minutes."""
    if "://" not in uri or uri.startswith("http"):
        return
    if arguments := connect_arguments(uri):
        engine = sqlalchemy.create_engine(uri, **arguments)
        engine.connect().close()
        engine.dispose()
    elif uri.startswith("sqlite") and (database := sqlalchemy.make_url(uri).database) not in (None, "", ":memory:"):
        file = Path(database)
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise PermissionError(f"{file.absolute()} can't be written")


def _first_contact(uri: str) -> None:
    """Make MLflow create its tables, if it has not yet.

    If two processes begin a new SQLite file at the same moment, both create the tables, and one of them fails.
    """
    for attempt in tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: uri.startswith("sqlite") and not isinstance(error, OSError)),
        wait=tenacity.wait_random(0.5, 1.5),
        stop=tenacity.stop_after_delay(CONTACT_SECONDS),
        reraise=True,
    ):
        with attempt:
            mlflow.MlflowClient().search_experiments(max_results=1)


def _used(made: str) -> str | None:
    """Reason a run is not one that `mlflow run` has just created; None if it may be."""
    try:
        run = mlflow.MlflowClient().get_run(made)
    except mlflow.MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return "does not exist here"
    if run.info.status != "RUNNING":
        return f"is {run.info.status}"
    if kind := run.data.tags.get(KIND):
        return f"holds another {kind}"
    return "has metrics already" if run.data.metrics else None
