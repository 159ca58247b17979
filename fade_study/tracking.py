"""The record of runs in MLflow, and all that fade_study knows of MLflow.

A study invocation is a parent run, each hyper-architecture and each from-scratch evaluation a child of it; the README's
"What goes where in MLflow" says what they hold.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import mlflow
import numpy as np
import yaml
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Metric, Param
from numpy.typing import NDArray

from fade_study.architecture import HyperArchitecture
from fade_study.benchmarks import Scratch
from fade_study.exceptions import InvalidInputError, StorageError
from fade_study.record import SearchRecord
from fade_study.settings import flatten, masked_url, plain
from fade_study.training import Data, ScratchResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Tables grow by being read and written again: a progress bar for each would drown the search's own.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

__all__ = [
    "OUTCOME",
    "RECORD",
    "SCHEMA",
    "Run",
    "alpha_metrics",
    "check_server",
    "commit",
    "find_outcomes",
    "find_scratch",
    "log_failed_scratch",
    "log_scratch",
    "read_config",
    "read_searches",
    "read_times",
    "start_hyper",
    "start_outcome",
    "start_study",
    "ui_command",
]

SCHEMA = "1"
"""Version of the record, in tag ``fade.schema``; raised when names or meanings change."""
PACKAGES = ("fade-study", "accelerate", "mlflow", "numpy", "optuna", "torch")
PATIENCE = 5.0
"""Seconds that metrics may wait to be written together: a request for each epoch would cost more than a short one."""
MOST_RUNS = 100_000
"""Of one answer of the tracking server."""
Kind = Literal["search", "validation", "comparison", "benchmark", "analysis", "evaluation"]
RECORD = "search.json"
"""Artifact of a search: its record."""
OUTCOME = "outcome.json"
"""Artifact of a search of a comparison: what it came to."""


class Run:
    """One MLflow run to write to."""

    def __init__(self, run_id: str) -> None:
        self.id = run_id
        self._client = mlflow.MlflowClient()
        self._non_finite = 0
        self._waiting: list[Metric] = []
        self._written = time.monotonic()

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
        finite = [Metric(name, value, moment, step) for step, name, value in values if math.isfinite(value)]
        if len(finite) < len(values):
            self._non_finite += len(values) - len(finite)
            finite.append(Metric("non_finite_values", self._non_finite, moment, steps[-1][0]))
        self._waiting += finite
        if now or time.monotonic() - self._written > PATIENCE:
            self.flush()

    def flush(self) -> None:
        """Write what waits to be written."""
        if self._waiting:
            self._client.log_batch(self.id, metrics=self._waiting)
        self._waiting, self._written = [], time.monotonic()

    def params(self, values: Mapping[str, Any]) -> None:
        """Write params, in one request."""
        self._client.log_batch(self.id, params=[Param(name, str(value)) for name, value in values.items()])

    def tag(self, name: str, value: str) -> None:
        """Set a tag."""
        self._client.set_tag(self.id, name, value)

    def text(self, text: str, file: str) -> None:
        """Write a text artifact."""
        self._client.log_text(self.id, text, file)

    def json(self, values: Mapping[str, Any], file: str) -> None:
        """Write a JSON artifact."""
        self._client.log_dict(self.id, dict(values), file)

    def table(self, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        """Append rows to a table artifact, which the MLflow UI shows and compares."""
        self._client.log_table(self.id, dict(columns), file)

    def figure(self, figure: Figure, file: str) -> None:
        """Write a figure artifact."""
        self._client.log_figure(self.id, figure, file)

    def frame(self, figure: Figure, key: str, step: int) -> None:
        """Write a figure as one of a series, through which the MLflow UI has a slider."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        self._client.log_image(self.id, np.asarray(canvas.buffer_rgba()), key=key, step=step, synchronous=True)


@contextmanager
def _run(name: str | None, tags: Mapping[str, str], *, nested: bool) -> Iterator[Run]:
    """A run that ends FINISHED, FAILED after an error, or KILLED after an interrupt."""
    active = mlflow.start_run(run_name=name, nested=nested)
    mlflow.set_tags({"fade.schema": SCHEMA, **tags})
    run = Run(active.info.run_id)
    try:
        try:
            yield run
        finally:
            run.flush()
    except Exception:
        mlflow.end_run("FAILED")
        raise
    except BaseException:
        mlflow.end_run("KILLED")
        raise
    mlflow.end_run("FINISHED")


@contextmanager
def start_study(
    kind: Kind,
    config: Any,
    device: str,
    data: Data | None = None,
    *,
    name: str | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
    nested: bool = False,
) -> Iterator[Run]:
    """The parent run of a study invocation: the one that ``mlflow run`` made, or a new one.

    Args:
        kind: tag ``fade.kind``.
        config: dataclass of settings, logged as params ``config.…`` and as ``config.yaml``.
        device: that trains.
        data: logged with its digest, where there are any.
        name: of the run.
        tags: more of them.
        nested: a child of the run that is active: one of several searches of a command.
    """
    settings = dataclasses.asdict(config)
    if "storage" in settings:
        settings["storage"] = masked_url(settings["storage"])
    with _run(name, {"fade.kind": kind, "fade.commit": commit(), **tags}, nested=nested) as run:
        packages = {f"package.{name}": version(name) for name in PACKAGES}
        run.params(
            {f"config.{name}": value for name, value in flatten(settings).items()} | packages | {"device": device}
        )
        mlflow.log_text(yaml.safe_dump(plain(settings), sort_keys=False), "config.yaml")
        if data is not None:
            source = CodeDatasetSource(tags={"mlflow.source.name": data.name})
            mlflow.log_input(MetaDataset(source, name=data.name, digest=data.digest), context="training")
        yield run


@contextmanager
def start_hyper(generation: int, hyper_architecture: HyperArchitecture, seed: int) -> Iterator[Run]:
    """The child run of a hyper-architecture that is about to be trained."""
    with _run(f"hyper-{generation}", {"fade.kind": "hyper"}, nested=True) as run:
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
    with _run(f"{searcher}-{seed}", {"fade.kind": "search", "fade.searcher": searcher}, nested=True) as run:
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
    with _run(f"scratch-{seed}", {"fade.kind": "scratch"}, nested=True) as run:
        run.params({"architecture": architecture, "recipe": recipe, "seed": seed})
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
    if len(architectures) == 1:
        condition += f" and params.architecture = '{next(iter(architectures))}'"
    results: dict[tuple[str, int], Scratch] = {}
    for run in _find_runs(condition):
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
            f"expected the id of a run in {masked_url(mlflow.get_tracking_uri())}, got {run_id!r}: {error}"
        ) from None
    kind = run.data.tags.get("fade.kind")
    if kind not in ("search", "comparison"):
        raise InvalidInputError(f"expected a run of kind search or comparison, got {run_id} of kind {kind}")
    condition = f"tags.`mlflow.parentRunId` = '{run_id}' and tags.`fade.kind` = 'search'"
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


def _find_runs(condition: str) -> Any:
    """Runs of all experiments, newest first."""
    return mlflow.search_runs(
        search_all_experiments=True, filter_string=condition, max_results=MOST_RUNS, output_format="list"
    )


def _read_text(client: mlflow.MlflowClient, run_id: str, file: str) -> str | None:
    """A text artifact, where it is there."""
    if file not in {artifact.path for artifact in client.list_artifacts(run_id)}:
        return None
    return Path(client.download_artifacts(run_id, file)).read_text()


def read_times(uri: str) -> tuple[float, float]:
    """Seconds of the only search in a tracking store, from its own beginning to its end, and of its trainings."""
    client = mlflow.MlflowClient(uri)
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    seconds = {"search": 0.0, "hyper": 0.0, "scratch": 0.0}
    for run in runs:
        seconds[run.data.tags["fade.kind"]] += run.data.metrics["seconds"]
    return seconds["search"], seconds["hyper"] + seconds["scratch"]


def ui_command() -> str:
    """What to type to look at the runs."""
    uri = mlflow.get_tracking_uri()
    return f"at {masked_url(uri)}" if uri.startswith("http") else f"mlflow ui --backend-store-uri {masked_url(uri)}"


def check_server() -> None:
    """Raise unless the tracking store can be read.

    Raises:
        StorageError: (an ``OSError``) that names it.
    """
    try:
        mlflow.MlflowClient().search_experiments(max_results=1)
    except (OSError, mlflow.MlflowException) as error:
        raise StorageError(
            f"expected an MLflow tracking store, got {masked_url(mlflow.get_tracking_uri())}: {error}. "
            "Set MLFLOW_TRACKING_URI to a server, or to a file such as sqlite:///mlflow.db"
        ) from None


def alpha_metrics(alpha: NDArray[np.float64]) -> dict[str, float]:
    """Alphas ``(d, w)`` by their metric names."""
    return {f"alpha/row{i}/column{j}": value for (i, j), value in np.ndenumerate(alpha)}


def commit() -> str:
    """Commit of the code, with ``-dirty`` where it was changed since."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
