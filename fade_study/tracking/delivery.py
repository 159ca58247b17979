"""Delivery of records to the tracking server, through the outbox."""

from __future__ import annotations

import atexit
import tempfile
import time
from pathlib import Path

import mlflow
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

from fade_study.exceptions import StorageError
from fade_study.tracking.models import deliver_model
from fade_study.tracking.outbox import Outbox, Record
from fade_study.tracking.schema import NAME, NOTE, PARENT, THIS_RUN
from fade_study.tracking.server import ONCE, find_runs, is_away, may_refuse, request_settings, set_defaults
from fade_study.urls import masked_url

OUTBOX = Path("checkpoints") / "outbox.db"
"""File of the outbox, relative to the folder in which a command is started."""
DELIVERY_SECONDS = 30.0
"""Seconds that a finished study, and ``fade deliver``, wait for a server that is away."""
_open: tuple[str, Outbox] | None = None
"""The open outbox, and the tracking URI that it delivers to."""


def open_outbox() -> Outbox:
    """The outbox of the current tracking server. Opening it delivers the records that dead processes left in it."""
    global _open  # noqa: PLW0603 - as MLflow's tracking URI is global, too
    uri = mlflow.get_tracking_uri()
    if _open is None or _open[0] != uri:
        _close()
        set_defaults()
        _open = uri, Outbox(OUTBOX, masked_url(uri), _deliver, is_away, may_refuse)
        for run in _open[1].abandoned:
            end_run(run, "KILLED")
        _open[1].flush()
    return _open[1]


@atexit.register
def _close() -> None:
    if _open is not None:
        _open[1].close()


def deliver() -> int:
    """Deliver the records of this process and of dead ones, with retries, and return how many remain."""
    return open_outbox().flush(DELIVERY_SECONDS)


def end_run(run: str, status: str) -> None:
    """End a run, after everything that it has written before is delivered."""
    open_outbox().end_run(run, {"status": status, "moment": int(time.time() * 1000)})


def _deliver(record: Record, run_id: str) -> str | None:
    """Send a record to the server. Sending it again does no harm: metrics, params and tags have the same values."""
    client, content = mlflow.MlflowClient(), record.content
    try:
        if record.kind == "create":
            return _create(client, record)
        if record.kind == "batch":
            client.log_batch(
                run_id,
                metrics=[Metric(*metric) for metric in content.get("metrics", ())],
                params=[Param(*param) for param in content.get("params", {}).items()],
                tags=[RunTag(name, _value(name, value, run_id)) for name, value in content.get("tags", {}).items()],
            )
        elif record.kind == "file":
            _upload(client, run_id, content["file"], record.data)
        elif record.kind == "model":
            deliver_model(client, run_id, content["name"], record.data, content["register"])
        elif record.kind == "input":
            source = CodeDatasetSource(tags={"mlflow.source.name": content["name"]})
            dataset = Dataset(content["name"], content["digest"], "code", source.to_json())
            context = [InputTag("mlflow.data.context", "training")]
            try:
                client.log_inputs(run_id, datasets=[DatasetInput(dataset, context)])
            except mlflow.MlflowException as error:
                if error.error_code != "BAD_REQUEST":
                    raise
                # Another process has created the same data set at the same moment; now MLflow finds it.
                client.log_inputs(run_id, datasets=[DatasetInput(dataset, context)])
        elif found := run_id if run_id != record.run else _named(record.run):
            client.set_terminated(found, content["status"], content["moment"])
    except OSError as error:
        if is_away(error):
            raise
        raise StorageError(
            f"expected to write {record.kind} of run {run_id}: {error}; make room, and run the same command again"
        ) from error
    return None


def _value(name: str, value: str, run_id: str) -> str:
    """Value of a tag, with the ids of runs that had none when it was written."""
    if name == PARENT:
        return open_outbox().id_of(value)
    return value.replace(THIS_RUN, run_id) if name == NOTE else value


def _create(client: mlflow.MlflowClient, record: Record) -> str:
    content = record.content
    if record.tried and (found := _named(record.run)):
        return found
    tags = content["tags"] | {PARENT: open_outbox().id_of(content["parent"])}
    with request_settings(ONCE):
        return client.create_run(content["experiment"], content["moment"], tags, content["name"]).info.run_id


def _named(run: str) -> str | None:
    """Id of a run by its name, if the server has created it although its answer was lost."""
    found = find_runs(f"tags.`{NAME}` = '{run}'")
    return found[0].info.run_id if found else None


def _upload(client: mlflow.MlflowClient, run_id: str, file: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(file).name
        path.write_bytes(data)
        client.log_artifact(run_id, str(path), str(Path(file).parent) if "/" in file else None)
