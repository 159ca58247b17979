"""Writing runs: a parent for each study command, and a child for each training."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
import yaml

from fade_study import __version__
from fade_study.exceptions import StorageError
from fade_study.study.settings import flatten, plain
from fade_study.tracking import schema
from fade_study.tracking.delivery import OUTBOX, deliver, end_run, open_outbox
from fade_study.tracking.experiment import describe_experiment, own_experiment
from fade_study.tracking.git import commit
from fade_study.tracking.models import pack_model
from fade_study.tracking.pictures import small, small_path
from fade_study.tracking.server import ONCE, find_runs_or_none, is_away, request_settings
from fade_study.training import Data
from fade_study.urls import masked, masked_url, place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PACKAGES = ("accelerate", "mlflow", "numpy", "optuna", "torch")
FLUSH_SECONDS = 5.0
"""Seconds for which metrics may be buffered: a request for each epoch could take longer than a short epoch itself."""


class Run:
    """An MLflow run to write to. Everything goes through the outbox, so that writing never waits for the server."""

    def __init__(
        self, name: str, experiment: str = "", study: str | None = None, kind: str | None = None, title: str = ""
    ) -> None:
        self.name = name
        """Its id, or its name in the outbox until it has an id."""
        self.experiment = experiment
        self.study = study
        """Identity of the study that it belongs to, if any."""
        self.title = title
        """What titles of figures call it."""
        self.kind = kind
        self.pictures: dict[str, bytes] = {}
        """Figures that were written here, by their paths."""
        self.models: set[str] = set()
        """Names of the models that were written here."""
        self._tables: dict[str, dict[str, str]] = {}
        self._non_finite = 0
        self._metrics: list[list[Any]] = []
        self._params: dict[str, str] = {}
        self._written = time.monotonic()

    @property
    def id(self) -> str:
        """Id on the server, once the server has created the run."""
        return open_outbox().id_of(self.name)

    def metrics(self, values: Mapping[str, float], step: int = 0, *, now: bool = True) -> None:
        """Write metrics of an epoch or generation. Non-finite values, which charts can't show, are only counted.

        If not ``now``, they are written in one request with later ones, within ``FLUSH_SECONDS`` or when the run ends.
        """
        self.series([(step, values)], now=now)

    def series(self, steps: Sequence[tuple[int, Mapping[str, float]]], *, now: bool = True) -> None:
        """Write metrics of many steps in one request."""
        moment = int(time.time() * 1000)
        values = [(step, name, float(value)) for step, metrics in steps for name, value in metrics.items()]
        finite = [[name, value, moment, step] for step, name, value in values if math.isfinite(value)]
        if len(finite) < len(values):
            self._non_finite += len(values) - len(finite)
            finite.append([schema.NON_FINITE, self._non_finite, moment, steps[-1][0]])
        self._metrics += finite
        if now or time.monotonic() - self._written > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the buffered metrics and params."""
        if self._metrics or self._params:
            self._put("batch", metrics=self._metrics, params=self._params)
        self._metrics, self._params, self._written = [], {}, time.monotonic()

    def params(self, values: Mapping[str, Any], *, now: bool = True) -> None:
        """Write params in one request; if not ``now``, then with the next metrics, or when the run ends."""
        self._params |= {name: str(value) for name, value in values.items()}
        if now:
            self.flush()

    def tag(self, name: str, value: str) -> None:
        """Set a tag."""
        self._put("batch", tags={name: value})

    def note(self, text: str) -> None:
        """Describe the run, in Markdown, with small copies of the figures that the text shows.

        The id of the run replaces ``schema.THIS_RUN`` in the text.
        """
        for file, png in self.pictures.items():
            if small_path(file) in text:
                self._put("file", small(png), file=small_path(file))
        self.tag(schema.NOTE, text)

    def text(self, text: str, file: str) -> None:
        """Write a text artifact."""
        self._put("file", text.encode(), file=file)

    def json(self, values: Mapping[str, Any], file: str) -> None:
        """Write a JSON artifact."""
        self.text(json.dumps(values, indent=2), file)

    def rows(self, rows: Sequence[Mapping[str, Any]], file: str) -> None:
        """Write a table artifact of rows with the same columns, which the MLflow UI shows and compares."""
        self.text(str(pd.DataFrame(rows).to_json(orient="split", index=False)), file)
        self._tables[file] = {"path": file, "type": "table"}
        self.tag(schema.TABLES, json.dumps(list(self._tables.values())))

    def figure(self, figure: Figure, file: str, *, svg: bool = True) -> None:
        """Write a figure as PNG and, beside it, as SVG, after putting the title of this run before its own."""
        from fade_study.analysis.style import rendered, set_title  # imported here since matplotlib takes long to import

        set_title(figure, f"{self.title}: {figure.get_suptitle()}")
        self.pictures[file] = rendered(figure, "png")
        self._put("file", self.pictures[file], file=file)
        if svg:
            self._put("file", rendered(figure, "svg"), file=f"{file.removesuffix('.png')}.svg")

    def model(
        self,
        name: str,
        classifier: Any,
        image_shape: tuple[int, int, int],
        labels: Sequence[int],
        *,
        register: str | None = None,
    ) -> None:
        """Write a classifier as an MLflow model, and register it under a name if one is given."""
        self._put("model", pack_model(classifier, image_shape, labels), name=name, register=register)
        self.models.add(name)

    def _put(self, kind: str, data: bytes = b"", /, **content: Any) -> None:
        open_outbox().put(self.name, kind, content, data)


active_runs: list[Run] = []
"""Runs that this process has begun and not ended, the innermost last."""


@contextmanager
def open_run(name: str, tags: Mapping[str, str], seconds: float = 0.0) -> Iterator[Run]:
    """A child of the active run, if any; it ends FINISHED, FAILED after an error, or KILLED after an interrupt.

    A child began ``seconds`` ago, since the run of a training may be written when the training is done.
    """
    tags = {schema.VERSION: schema.SCHEMA, **tags}
    outermost = not active_runs
    run = _first(name, tags) if outermost else _child(name, tags, active_runs[-1], seconds)
    active_runs.append(run)
    status = "KILLED"
    try:
        yield run
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        active_runs.remove(run)
        try:
            run.flush()
            end_run(run.name, status)
        except BaseException:
            status = "FAILED"
            raise
        finally:
            if outermost:
                _leave(status)


def _first(name: str, tags: Mapping[str, str]) -> Run:
    """The run that ``mlflow run`` has created, or a new one. The server has to answer."""
    known = uuid.uuid4().hex
    open_outbox().open_run(known, None)  # before it is created, so that it is ended even after a kill in between
    try:
        with request_settings(ONCE):  # if the answer is lost, the run is found by its tag schema.NAME
            # A name by tag also renames the run that `mlflow run` has created.
            tags = {**tags, schema.NAME: known, schema.RUN_NAME: name}
            active = mlflow.start_run(experiment_id=own_experiment(), tags=tags)
    except (OSError, mlflow.MlflowException) as error:
        remedy = "once it answers" if is_away(error) else "with MLFLOW_EXPERIMENT_NAME set to another experiment's"
        raise StorageError(
            f"expected {place(mlflow.get_tracking_uri())} to make a run, got {masked(str(error))}; nothing has "
            f"begun: run the same command again {remedy}"
        ) from error
    open_outbox().open_run(known, active.info.run_id)
    with contextlib.suppress(OSError, mlflow.MlflowException):  # else the next command describes it
        describe_experiment(active.info.experiment_id)
    return Run(known, active.info.experiment_id, tags.get(schema.STUDY), tags[schema.KIND], name)


def _child(name: str, tags: Mapping[str, str], parent: Run, seconds: float) -> Run:
    """A child run; the server may create it later."""
    study, title = tags.get(schema.STUDY, parent.study), f"{parent.title}, {name}"
    run = Run(uuid.uuid4().hex, parent.experiment, study, tags[schema.KIND], title)
    tags = tags if study is None else {**tags, schema.STUDY: study}
    active = mlflow.active_run()
    inherited = {} if active is None else {k: v for k, v in active.data.tags.items() if k in schema.INHERITED}
    moment = int((time.time() - seconds) * 1000)
    content = {"parent": parent.name, "experiment": run.experiment, "name": name, "moment": moment}
    open_outbox().begin_run(run.name, content | {"tags": {**inherited, **tags, schema.NAME: run.name}})
    return run


def _leave(status: str) -> None:
    """Deliver all records, and end MLflow's active run."""
    left = deliver() if status == "FINISHED" else open_outbox().flush()
    try:
        mlflow.end_run(status)
    except (mlflow.MlflowException, OSError) as error:
        if not is_away(error):  # only a warning, since the search itself is done and stored in its study
            reason = masked(str(error)).strip().split("\n")[0]
            warnings.warn(f"the run can't be ended, since somebody has deleted or ended it: {reason}", stacklevel=2)
    if left and status == "FINISHED":
        raise StorageError(
            f"expected {place(mlflow.get_tracking_uri())} to take the record of this run, got no answer; {left} "
            f"parts of it are kept in {OUTBOX.absolute()}. Once it is back, `fade deliver` in "
            f"{Path.cwd()} delivers them, and so does the next study there"
        )


@contextmanager
def start_study(
    kind: schema.Kind,
    config: Any,
    device: str,
    data: Data | None = None,
    *,
    name: str | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
    builders: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Run]:
    """The run of a study: the one that ``mlflow run`` has created, or a new one.

    Within the run of another study it is a child of that run, as one of several searches of a command. The dataclass of
    settings becomes params ``config.…`` and the artifact ``config.yaml``; ``builders`` are the user's own builders of
    cells. The default name is the kind. A ``StorageError`` at the end says that not everything could be delivered to
    the server.
    """
    settings = dataclasses.asdict(config)
    if "storage" in settings:
        settings["storage"] = masked_url(settings["storage"])
    own = {schema.BUILDERS: json.dumps(builders)} if builders else {}
    with open_run(name or kind, {schema.KIND: kind, schema.COMMIT: commit(), **own, **tags}) as run:
        packages = {f"package.{name}": version(name) for name in PACKAGES} | {"package.fade-study": __version__}
        run.params(
            {f"config.{name}": value for name, value in flatten(settings).items()} | packages | {"device": device}
        )
        run.text(yaml.safe_dump(plain(settings), sort_keys=False), schema.CONFIG)
        if data is not None:
            run._put("input", name=data.name, digest=data.digest)
        yield run


def adopt(run: Run, study: str, generations: int) -> None:
    """Make a new run the complete record of the study that it continues, by moving the children of earlier runs to it.

    The study was told ``generations`` generations; hyper-architectures of later ones are trained, or recorded, again.
    """
    adopted = set()
    for earlier in find_runs_or_none(f"tags.`{schema.STUDY}` = '{study}'"):
        kind, params = earlier.data.tags.get(schema.KIND), earlier.data.params
        if kind == "search" and earlier.data.tags.get(schema.NAME) != run.name:
            Run(earlier.info.run_id).tag(schema.CONTINUED_BY, run.id)
        elif kind in ("hyper", "scratch") and earlier.info.status == "FINISHED":  # even if its parent was deleted
            # A killed process may have logged a training that was then repeated.
            training = frozenset(item for item in params.items() if kind == "hyper" or item[0] != "generation")
            later = kind == "hyper" and int(params["generation"]) >= generations
            if not later and training not in adopted:
                Run(earlier.info.run_id).tag(schema.PARENT, run.name)
                adopted.add(training)
