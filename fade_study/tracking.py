"""The record of runs in MLflow, and all that fade_study knows of MLflow.

A study invocation is a parent run, each hyper-architecture and each from-scratch evaluation a child of it; the README's
"What goes where in MLflow" says what they hold.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import io
import json
import math
import os
import re
import subprocess
import tempfile
import time
import uuid
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import mlflow
import numpy as np
import pandas as pd
import requests
import sqlalchemy.exc
import yaml
from mlflow import entities
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from numpy.typing import NDArray
from PIL import Image

from fade_study import __version__
from fade_study.architecture import HyperArchitecture
from fade_study.benchmarks import Scratch
from fade_study.exceptions import InvalidInputError, StorageError
from fade_study.outbox import Outbox, Record
from fade_study.record import SearchRecord
from fade_study.settings import connect_arguments, flatten, masked, masked_url, place, plain
from fade_study.training import Data, ScratchResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of each small artifact, it would drown the search's own.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# Two lines for each child run.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# The outbox is patient, so MLflow need not be: it would hold a training up for minutes.
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
os.environ.setdefault(RETRIES, "1")
TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
os.environ.setdefault(TIMEOUT, "30")
ONCE = {RETRIES: "0"}
"""Only the outbox looks whether an attempt without an answer has made a run: MLflow's own retry would make another."""
IMPATIENT = ONCE | {TIMEOUT: "10"}
"""Before anything begins."""

__all__ = [
    "OUTCOME",
    "RECORD",
    "SCHEMA",
    "Run",
    "adopt",
    "alpha_metrics",
    "check_conditions",
    "check_server",
    "commit",
    "deliver",
    "find_outcomes",
    "find_scratch",
    "log_failed_scratch",
    "log_scratch",
    "read_config",
    "read_searches",
    "read_times",
    "redirected",
    "start_hyper",
    "start_outcome",
    "start_study",
    "ui_command",
]

SCHEMA = "1"
"""Version of the record, in tag ``fade.schema``; raised when names or meanings change."""
PACKAGES = ("accelerate", "mlflow", "numpy", "optuna", "torch")
PATIENCE = 5.0
"""Seconds that metrics may wait to be written together: a request for each epoch would cost more than a short one."""
MOST_RUNS = 100_000
"""Of one answer of the tracking server."""
Kind = Literal["search", "validation", "comparison", "benchmark", "analysis", "evaluation"]
RECORD = "search.json"
"""Artifact of a search: its record."""
OUTCOME = "outcome.json"
"""Artifact of a search of a comparison: what it came to."""
OUTBOX = Path("checkpoints") / "outbox.db"
"""What is on its way to the server."""
LAST_PATIENCE = 30.0
"""Seconds that a study waits, when all is done, for a server that is away."""
AWAY = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED", "CANCELLED")
"""Codes of MLflow's errors after which it pays to try again: no answer, one of 5xx, or a database that is locked."""
AWAY_STATUS = (408, 429)
"""Of HTTP, beside those from 500 on: too late, too many."""
INHERITED = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit")
"""Tags that children have from the outermost run."""
MADE = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")
"""Variables by which ``mlflow run`` tells of the run that it has made."""
NAME = "fade.name"
"""Tag of a run: its name in the outbox, by which it is found where an attempt to make it had no answer."""
STUDY = "fade.study_id"
"""Tag of a run: the identity of the study that it belongs to."""
BUILDERS = "fade.builders"
"""Tag of a run: the user's own builders of cells, by type."""
PARENT = "mlflow.parentRunId"
"""MLflow's tag of a child."""
TABLES = "mlflow.loggedArtifacts"
"""MLflow's tag of a run that lists its tables."""


class Run:
    """One MLflow run to write to. All that is written goes through the outbox, so that nothing waits for the server."""

    def __init__(self, name: str, experiment: str = "", study: str | None = None) -> None:
        self.name = name
        """Its id, or what it is called in the outbox until it has one."""
        self.experiment = experiment
        self.study = study
        """Identity of the study that it belongs to, where there is one."""
        self._non_finite = 0
        self._metrics: list[list[Any]] = []
        self._params: dict[str, str] = {}
        self._written = time.monotonic()

    @property
    def id(self) -> str:
        """The server's, once it has heard of the run."""
        return _outbox().id_of(self.name)

    def metrics(self, values: Mapping[str, float], step: int = 0, *, now: bool = True) -> None:
        """Write metrics of one step. Non-finite values are counted instead: charts can't hold them.

        Args:
            values: by name.
            step: epoch or generation.
            now: or else within ``PATIENCE`` seconds, or when the run ends, with others in one request.
        """
        self.series([(step, values)], now=now)

    def series(self, steps: Sequence[tuple[int, Mapping[str, float]]], *, now: bool = True) -> None:
        """Write metrics of many steps, in one request."""
        moment = int(time.time() * 1000)
        values = [(step, name, float(value)) for step, metrics in steps for name, value in metrics.items()]
        finite = [[name, value, moment, step] for step, name, value in values if math.isfinite(value)]
        if len(finite) < len(values):
            self._non_finite += len(values) - len(finite)
            finite.append(["non_finite_values", self._non_finite, moment, steps[-1][0]])
        self._metrics += finite
        if now or time.monotonic() - self._written > PATIENCE:
            self.flush()

    def flush(self) -> None:
        """Write what waits to be written."""
        if self._metrics or self._params:
            self._put("batch", metrics=self._metrics, params=self._params)
        self._metrics, self._params, self._written = [], {}, time.monotonic()

    def params(self, values: Mapping[str, Any], *, now: bool = True) -> None:
        """Write params, in one request; or else with the next metrics, or when the run ends."""
        self._params |= {name: str(value) for name, value in values.items()}
        if now:
            self.flush()

    def tag(self, name: str, value: str) -> None:
        """Set a tag."""
        self._put("batch", tags={name: value})

    def input(self, name: str, digest: str) -> None:
        """Note the data that it trains on."""
        self._put("input", name=name, digest=digest)

    def text(self, text: str, file: str) -> None:
        """Write a text artifact."""
        self._put("file", text.encode(), file=file)

    def json(self, values: Mapping[str, Any], file: str) -> None:
        """Write a JSON artifact."""
        self.text(json.dumps(values, indent=2), file)

    def table(self, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        """Write a table artifact, which the MLflow UI shows and compares."""
        self._put("table", columns={name: list(values) for name, values in columns.items()}, file=file)

    def figure(self, figure: Figure, file: str) -> None:
        """Write a figure artifact."""
        self._put("file", _png(figure), file=file)

    def frame(self, figure: Figure, key: str, step: int) -> None:
        """Write a figure as one of a series, through which the MLflow UI has a slider."""
        self._put("frame", _png(figure), key=key, step=step)

    def _put(self, kind: str, data: bytes = b"", /, **content: Any) -> None:
        _outbox().put(self.name, kind, content, data)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


# --- on the way to the server ----------------------------------------------------------------------------------------

_open: tuple[str, Outbox] | None = None
_active: list[Run] = []
"""Runs of this process that have begun, the innermost last."""


def _outbox() -> Outbox:
    """That of the tracking server in use. What dead processes have left for it is delivered first."""
    global _open  # noqa: PLW0603 - as MLflow's tracking URI is global, too
    uri = mlflow.get_tracking_uri()
    if _open is None or _open[0] != uri:
        _close()
        _open = uri, Outbox(OUTBOX, masked_url(uri), _deliver, _is_away, _may_refuse)
        for run in _open[1].abandoned:
            _end(run, "KILLED")
        _open[1].flush()
    return _open[1]


@atexit.register
def _close() -> None:
    if _open is not None:
        _open[1].close()


def deliver(patience: float = 0.0) -> int:
    """Deliver what is left of this process and of dead ones, and try for so many seconds; how many records remain."""
    return _outbox().flush(patience)


def _end(run: str, status: str) -> None:
    _outbox().end_run(run, {"status": status, "moment": int(time.time() * 1000)})


def _is_away(error: Exception) -> bool:
    if isinstance(error, mlflow.MlflowException):
        return error.error_code in AWAY
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code in AWAY_STATUS or error.response.status_code >= 500
    return isinstance(error, requests.RequestException | ConnectionError | TimeoutError)


def _may_refuse(error: Exception) -> bool:
    """MLflow has one code for a database that is locked and for a metric that its store can't hold."""
    return isinstance(error, mlflow.MlflowException) and error.error_code == "INTERNAL_ERROR"


def _deliver(record: Record, run_id: str) -> str | None:
    """Tell the server. What it was told before does no harm: metrics, params and tags are the same again."""
    client, content = mlflow.MlflowClient(), record.content
    try:
        if record.kind == "create":
            return _create(client, record)
        if record.kind == "batch":
            client.log_batch(
                run_id,
                metrics=[Metric(*metric) for metric in content.get("metrics", ())],
                params=[Param(*param) for param in content.get("params", {}).items()],
                tags=[
                    RunTag(name, _outbox().id_of(value) if name == PARENT else value)
                    for name, value in content.get("tags", {}).items()
                ],
            )
        elif record.kind == "file":
            _upload(client, run_id, content["file"], record.data)
        elif record.kind == "table":
            table = pd.DataFrame(content["columns"]).to_json(orient="split", index=False)
            _upload(client, run_id, content["file"], str(table).encode())
            tables = json.loads(client.get_run(run_id).data.tags.get(TABLES, "[]"))
            if (entry := {"path": content["file"], "type": "table"}) not in tables:
                client.set_tag(run_id, TABLES, json.dumps([*tables, entry]))
        elif record.kind == "frame":
            name = rf"images/{re.escape(content['key'])}[%+]step[%+]{content['step']}[%+]"
            files = client.list_artifacts(run_id, "images") if record.tried else []
            if sum(re.match(name, file.path) is not None for file in files) < 2:  # the picture and its thumbnail
                image = np.asarray(Image.open(io.BytesIO(record.data)))
                client.log_image(run_id, image, key=content["key"], step=content["step"], synchronous=True)
        elif record.kind == "input":
            source = CodeDatasetSource(tags={"mlflow.source.name": content["name"]})
            dataset = Dataset(content["name"], content["digest"], "code", source.to_json())
            context = [InputTag("mlflow.data.context", "training")]
            client.log_inputs(run_id, datasets=[DatasetInput(dataset, context)])
        elif found := run_id if run_id != record.run else _named(record.run):
            client.set_terminated(found, content["status"], content["moment"])
    except OSError as error:
        if _is_away(error):
            raise
        raise StorageError(
            f"expected to write {record.kind} of run {run_id}: {error}; make room, and run the same command again"
        ) from error
    return None


def _create(client: mlflow.MlflowClient, record: Record) -> str:
    content = record.content
    if record.tried and (found := _named(record.run)):
        return found
    tags = content["tags"] | {PARENT: _outbox().id_of(content["parent"])}
    with _http(ONCE):
        return client.create_run(content["experiment"], content["moment"], tags, content["name"]).info.run_id


@contextmanager
def _http(settings: Mapping[str, str]) -> Iterator[None]:
    """Other settings of MLflow's requests for a while."""
    before = {name: os.environ[name] for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.update(before)


def _named(run: str) -> str | None:
    """Id of a run that the server has made, though its answer was lost."""
    found = _find_runs(f"tags.`{NAME}` = '{run}'")
    return found[0].info.run_id if found else None


def _upload(client: mlflow.MlflowClient, run_id: str, file: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(file).name
        path.write_bytes(data)
        client.log_artifact(run_id, str(path), str(Path(file).parent) if "/" in file else None)


@contextmanager
def _run(name: str | None, tags: Mapping[str, str]) -> Iterator[Run]:
    """A child of the run that is open, if any; it ends FINISHED, FAILED after an error, KILLED after an interrupt."""
    tags = {"fade.schema": SCHEMA, **tags}
    outermost = not _active
    run = _first(name, tags) if outermost else _child(name, tags, _active[-1])
    _active.append(run)
    status = "KILLED"
    try:
        yield run
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        _active.remove(run)
        try:
            run.flush()
            _end(run.name, status)
        except BaseException:
            status = "FAILED"
            raise
        finally:
            if outermost:
                _leave(status)


def _first(name: str | None, tags: Mapping[str, str]) -> Run:
    """The run that ``mlflow run`` made, or a new one. The server has to be there."""
    known = uuid.uuid4().hex
    _outbox().open_run(known, None)  # before it is made, so that it ends even after a kill in between
    try:
        with _http(ONCE):  # and even if the answer is lost: by its name
            active = mlflow.start_run(run_name=name, tags={**tags, NAME: known})
    except (OSError, mlflow.MlflowException) as error:
        remedy = "once it answers" if _is_away(error) else "with MLFLOW_EXPERIMENT_NAME set to another experiment's"
        raise StorageError(
            f"expected {place(mlflow.get_tracking_uri())} to make a run, got {masked(str(error))}; nothing has "
            f"begun: run the same command again {remedy}"
        ) from error
    _outbox().open_run(known, active.info.run_id)
    return Run(known, active.info.experiment_id, tags.get(STUDY))


def _child(name: str | None, tags: Mapping[str, str], parent: Run) -> Run:
    """A run that the server may not have heard of for a while."""
    run = Run(uuid.uuid4().hex, parent.experiment, tags.get(STUDY, parent.study))
    tags = tags if run.study is None else {**tags, STUDY: run.study}
    active = mlflow.active_run()
    inherited = {} if active is None else {k: v for k, v in active.data.tags.items() if k in INHERITED}
    content = {"parent": parent.name, "experiment": run.experiment, "name": name, "moment": int(time.time() * 1000)}
    _outbox().begin_run(run.name, content | {"tags": {**inherited, **tags, NAME: run.name}})
    return run


def _leave(status: str) -> None:
    """Deliver all, with some patience, and let MLflow know that the run is over."""
    left = _outbox().flush(LAST_PATIENCE if status == "FINISHED" else 0.0)
    try:
        mlflow.end_run(status)
    except (mlflow.MlflowException, OSError) as error:
        if not _is_away(error):  # the search itself is done, and in its study
            reason = masked(str(error)).strip().split("\n")[0]
            warnings.warn(f"the run can't be ended, since somebody has deleted or ended it: {reason}", stacklevel=2)
    if left and status == "FINISHED":
        raise StorageError(
            f"expected {place(mlflow.get_tracking_uri())} to take the record of this run, got no answer; {left} "
            f"parts of it are kept in {OUTBOX.absolute()}. Once it is back, `python -m studies.deliver` in "
            f"{Path.cwd()} delivers them, and so does the next study there"
        )


@contextmanager
def start_study(
    kind: Kind,
    config: Any,
    device: str,
    data: Data | None = None,
    *,
    name: str | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
    builders: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Run]:
    """The parent run of a study invocation: the one that ``mlflow run`` made, or a new one.

    Within another study's it is a child of that: one of several searches of a command.

    Args:
        kind: tag ``fade.kind``.
        config: dataclass of settings, logged as params ``config.…`` and as ``config.yaml``.
        device: that trains.
        data: logged with its digest, where there are any.
        name: of the run.
        tags: more of them.
        builders: of cells, where they are the user's own.

    Raises:
        StorageError: (an ``OSError``) at the end, where the server has not heard of everything yet.
    """
    settings = dataclasses.asdict(config)
    if "storage" in settings:
        settings["storage"] = masked_url(settings["storage"])
    own = {BUILDERS: json.dumps(builders)} if builders else {}
    with _run(name, {"fade.kind": kind, "fade.commit": commit(), **own, **tags}) as run:
        packages = {f"package.{name}": version(name) for name in PACKAGES} | {"package.fade-study": __version__}
        run.params(
            {f"config.{name}": value for name, value in flatten(settings).items()} | packages | {"device": device}
        )
        run.text(yaml.safe_dump(plain(settings), sort_keys=False), "config.yaml")
        if data is not None:
            run.input(data.name, data.digest)
        yield run


def adopt(run: Run, study: str, generations: int) -> None:
    """Make a run the whole record of a study that it continues: its children are those of the runs before, as well.

    Args:
        run: of the study, newly started.
        study: its identity.
        generations: that were told. A hyper-architecture of a later one is trained, or recorded, again.
    """
    adopted = set()
    for earlier in _find_or_none(f"tags.`{STUDY}` = '{study}'"):
        kind, params = earlier.data.tags.get("fade.kind"), earlier.data.params
        if kind == "search" and earlier.data.tags.get(NAME) != run.name:
            Run(earlier.info.run_id).tag("fade.continued_by", run.id)
        elif kind in ("hyper", "scratch") and earlier.info.status == "FINISHED":  # also of a run that was deleted
            training = frozenset(params.items())  # again, where one that was killed had not told what it trained
            if int(params.get("generation", -1)) < generations and training not in adopted:
                Run(earlier.info.run_id).tag(PARENT, run.name)
                adopted.add(training)


@contextmanager
def start_hyper(generation: int, hyper_architecture: HyperArchitecture, seed: int) -> Iterator[Run]:
    """The child run of a hyper-architecture that is about to be trained."""
    with _run(f"hyper-{generation}", {"fade.kind": "hyper"}) as run:
        keys = [[cell.key for cell in row] for row in hyper_architecture.rows]
        cells = {f"cell/row{i}/column{j}": key for i, row in enumerate(keys) for j, key in enumerate(row)}
        run.params({"generation": generation, "seed": seed, **cells})
        run.json({"rows": keys}, "hyper_architecture.json")
        yield run


@contextmanager
def start_outcome(searcher: str, seed: int, recipe: str) -> Iterator[Run]:
    """The child run of a search that a comparison has finished.

    Args:
        searcher: its name.
        seed: of the search.
        recipe: hash of all that matters but the seed.
    """
    with _run(f"{searcher}-{seed}", {"fade.kind": "search", "fade.searcher": searcher}) as run:
        run.params({"searcher": searcher, "seed": seed, "recipe": recipe})
        yield run


def find_outcomes(recipe: str) -> dict[int, tuple[str, SearchRecord]]:
    """Searches of comparisons done before, by seed: what they came to, as JSON, and their records."""
    client = mlflow.MlflowClient()
    condition = f"tags.`fade.kind` = 'search' and attributes.status = 'FINISHED' and params.recipe = '{recipe}'"
    found: dict[int, tuple[str, SearchRecord]] = {}
    for run in _find_runs(condition):
        texts = [_read_text(client, run.info.run_id, file) for file in (OUTCOME, RECORD)]
        if None not in texts:
            found[int(run.data.params["seed"])] = str(texts[0]), SearchRecord.from_json(str(texts[1]))
    return found


def log_scratch(architecture: str, recipe: str, seed: int, result: ScratchResult) -> Scratch:
    """The child run of a from-scratch evaluation that is done.

    Args:
        architecture: its key.
        recipe: hash of all that matters but architecture and seed.
        seed: of the training.
        result: what came out.
    """
    with _scratch_run(architecture, recipe, seed) as run:
        run.series(list(enumerate(result.epochs)), now=False)
        run.metrics(
            {
                "accuracy/test": result.test_accuracy,
                "parameters": result.parameters,
                "flops": result.flops,
                "seconds": result.seconds,
            },
            step=len(result.epochs) - 1,
        )
        return Scratch(result.test_accuracy, result.validation_accuracy, result.seconds)


def log_failed_scratch(architecture: str, recipe: str, seed: int, error: Exception) -> None:
    """The child run of a from-scratch evaluation that failed: it ends FAILED, with the error in tag ``fade.error``."""
    with contextlib.suppress(type(error)), _scratch_run(architecture, recipe, seed) as run:
        run.tag("fade.error", str(error))
        raise error


@contextmanager
def _scratch_run(architecture: str, recipe: str, seed: int) -> Iterator[Run]:
    with _run(f"scratch-{seed}", {"fade.kind": "scratch"}) as run:
        run.params({"architecture": architecture, "recipe": recipe, "seed": seed}, now=False)
        yield run


def find_scratch(recipe: str, architectures: Collection[str]) -> dict[tuple[str, int], Scratch]:
    """From-scratch evaluations done before, in any run of this tracking server: the same is never paid twice.

    Args:
        recipe: hash of all that matters but architecture and seed.
        architectures: keys.

    Returns:
        Evaluations by architecture and seed.
    """
    if not architectures:
        return {}
    condition = f"tags.`fade.kind` = 'scratch' and attributes.status = 'FINISHED' and params.recipe = '{recipe}'"
    if len(architectures) == 1 and "'" not in (architecture := next(iter(architectures))):  # can't be quoted
        condition += f" and params.architecture = '{architecture}'"
    results: dict[tuple[str, int], Scratch] = {}
    for run in _find_or_none(condition):  # where the server is away, it is paid twice
        name = run.data.params["architecture"], int(run.data.params["seed"])
        if name[0] in architectures:
            metrics = run.data.metrics
            results[name] = Scratch(metrics["accuracy/test"], metrics["accuracy/validation"], metrics["seconds"])
    return results


def read_searches(run_id: str) -> dict[str, SearchRecord]:
    """The record of a search, or those of all searches of a command, by run.

    Raises:
        InvalidInputError: (a ``ValueError``) where there is no such run, or it is no search that has finished.
    """
    client = mlflow.MlflowClient()
    try:
        run = client.get_run(run_id)
    except mlflow.MlflowException as error:
        raise InvalidInputError(
            f"expected the id of a run in {place(mlflow.get_tracking_uri())}, got {run_id!r}: {masked(str(error))}"
        ) from None
    kind = run.data.tags.get("fade.kind")
    if kind not in ("search", "comparison"):
        raise InvalidInputError(f"expected a run of kind search or comparison, got {run_id} of kind {kind}")
    condition = f"tags.`{PARENT}` = '{run_id}' and tags.`fade.kind` = 'search'"
    runs = [run.info.run_id, *(child.info.run_id for child in reversed(_find_runs(condition)))]
    records = {i: _read_text(client, i, RECORD) for i in runs}
    found = {i: SearchRecord.from_json(text) for i, text in records.items() if text is not None}
    if not found:
        raise InvalidInputError(
            f"expected a search that has finished a generation, got {run_id}, status {run.info.status}, which left no "
            f"{RECORD}; run it again to continue it"
        )
    return found


def read_config(run_id: str) -> dict[str, Any]:
    """The settings that a run was started with.

    Raises:
        InvalidInputError: (a ``ValueError``) where it left none: one of a comparison's searches.
    """
    text = _read_text(mlflow.MlflowClient(), run_id, "config.yaml")
    if text is None:
        raise InvalidInputError(f"expected a search with settings of its own, got {run_id}, which has no config.yaml")
    return yaml.safe_load(text)


def check_conditions(run_id: str, data: Data, builders: Mapping[str, str]) -> None:
    """Raise unless data, and builders of cells, are those that a run was recorded with.

    Raises:
        InvalidInputError: (a ``ValueError``) that names both.
    """
    run = mlflow.MlflowClient().get_run(run_id)
    built, inputs = json.loads(run.data.tags.get(BUILDERS, "{}")), run.inputs
    if built != builders:
        raise InvalidInputError(
            f"expected the builders of cells that run {run_id} was recorded with, {built or 'none of its own'}, got "
            f"{dict(builders) or 'none'}; its accuracies would be those of other networks: import their module first"
        )
    recorded = [(one.dataset.name, one.dataset.digest) for one in (inputs.dataset_inputs if inputs else ())]
    if recorded != [(data.name, data.digest)]:
        raise InvalidInputError(
            f"expected the images that run {run_id} was recorded with, {recorded}, got {data.name} with digest "
            f"{data.digest}; its accuracies would be those of other images: bring the file back that it was made with"
        )


def _find_runs(condition: str) -> Any:
    """Runs of all experiments, newest first."""
    return mlflow.search_runs(
        search_all_experiments=True, filter_string=condition, max_results=MOST_RUNS, output_format="list"
    )


def _find_or_none(condition: str) -> Any:
    """The same, but none where the server is away: for what can be done without."""
    try:
        return _find_runs(condition)
    except Exception as error:
        if not _is_away(error):
            raise
        return []


def _read_text(client: mlflow.MlflowClient, run_id: str, file: str) -> str | None:
    """A text artifact, where it is there."""
    if file not in {artifact.path for artifact in client.list_artifacts(run_id)}:
        return None
    return Path(client.download_artifacts(run_id, file)).read_text(encoding="utf-8")


def read_times(uri: str) -> tuple[float, float]:
    """Seconds of the only search in a tracking store, from its own beginning to its end, and of its trainings."""
    client = mlflow.MlflowClient(uri)
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    seconds = {"search": 0.0, "hyper": 0.0, "scratch": 0.0}
    for run in runs:
        seconds[run.data.tags["fade.kind"]] += run.data.metrics["seconds"]
    return seconds["search"], seconds["hyper"] + seconds["scratch"]


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
    uri, made = mlflow.get_tracking_uri(), os.environ.get(MADE[0])
    try:
        with _http(IMPATIENT):
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


def alpha_metrics(alpha: NDArray[np.float64]) -> dict[str, float]:
    """Alphas ``(d, w)`` by their metric names."""
    return {f"alpha/row{i}/column{j}": value for (i, j), value in np.ndenumerate(alpha)}


def commit() -> str:
    """Commit of the code, with ``-dirty`` where it was changed since; ``unknown`` unless git tracks this file.

    An installed package may lie in an environment inside another repository, whose commit says nothing of it.
    """
    folder, name = os.path.split(os.path.abspath(__file__))

    def git(*arguments: str) -> str:
        command = ["git", "-C", folder, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", name)
        return git("describe", "--always", "--dirty", "--abbrev=40")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
