"""Reading earlier runs: trainings that need not be repeated, and searches to analyze."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import mlflow
import yaml

from fade_study.benchmarks import Scratch
from fade_study.exceptions import InvalidInputError
from fade_study.tracking.record import SearchRecord
from fade_study.tracking.schema import BUILDERS, CONFIG, KIND, OUTCOME, PARENT, RECORD
from fade_study.tracking.server import find_runs, find_runs_or_none
from fade_study.training import Data
from fade_study.urls import masked, place


def find_outcomes(recipe: str) -> dict[int, tuple[dict[str, Any], SearchRecord]]:
    """Outcomes and records of the searches of earlier comparisons, by seed."""
    client = mlflow.MlflowClient()
    condition = f"tags.`{KIND}` = 'search' and attributes.status = 'FINISHED' and params.recipe = '{recipe}'"
    found: dict[int, tuple[dict[str, Any], SearchRecord]] = {}
    for run in find_runs(condition):
        outcome, record = (_read_text(client, run.info.run_id, file) for file in (OUTCOME, RECORD))
        if outcome is not None and record is not None:
            found[int(run.data.params["seed"])] = json.loads(outcome), SearchRecord.from_json(record)
    return found


def find_scratch(recipe: str, architectures: Collection[str]) -> dict[tuple[str, int], Scratch]:
    """Earlier trainings from scratch by a recipe in any run of the tracking server, by architecture key and seed.

    There are none if the server is away.
    """
    if not architectures:
        return {}
    condition = f"tags.`{KIND}` = 'scratch' and attributes.status = 'FINISHED' and params.recipe = '{recipe}'"
    if len(architectures) == 1 and "'" not in (architecture := next(iter(architectures))):  # MLflow has no escape
        condition += f" and params.architecture = '{architecture}'"
    results: dict[tuple[str, int], Scratch] = {}
    for run in find_runs_or_none(condition):
        name = run.data.params["architecture"], int(run.data.params["seed"])
        if name[0] in architectures:
            metrics = run.data.metrics
            results[name] = Scratch(metrics["accuracy/test"], metrics["accuracy/validation"], metrics["seconds"])
    return results


def read_searches(run_id: str) -> dict[str, SearchRecord]:
    """Records of a search, or of all searches of a command, by run id; an ``InvalidInputError`` if there are none."""
    client = mlflow.MlflowClient()
    try:
        run = client.get_run(run_id)
    except mlflow.MlflowException as error:
        raise InvalidInputError(
            f"expected the id of a run in {place(mlflow.get_tracking_uri())}, got {run_id!r}: {masked(str(error))}"
        ) from None
    kind = run.data.tags.get(KIND)
    if kind != "search":
        also = "; its report.txt analyzes its searches, and each of them is a run" if kind == "comparison" else ""
        raise InvalidInputError(f"expected a run of kind search, got {run_id} of kind {kind}{also}")
    condition = f"tags.`{PARENT}` = '{run_id}' and tags.`{KIND}` = 'search'"
    runs = [run.info.run_id, *(child.info.run_id for child in reversed(find_runs(condition)))]
    records = {i: _read_text(client, i, RECORD) for i in runs}
    found = {i: SearchRecord.from_json(text) for i, text in records.items() if text is not None}
    if not found:
        raise InvalidInputError(
            f"expected a search that has finished a generation, got {run_id}, status {run.info.status}, which left no "
            f"{RECORD}; run it again to continue it"
        )
    return found


def read_config(run_id: str) -> dict[str, Any]:
    """The settings that a run was started with; an ``InvalidInputError`` for a search within a comparison."""
    text = _read_text(mlflow.MlflowClient(), run_id, CONFIG)
    if text is None:
        raise InvalidInputError(f"expected a search with settings of its own, got {run_id}, which has no {CONFIG}")
    settings = yaml.safe_load(text)
    if settings.get("bilevel", {}).get("alpha_start") == 0:  # a setting that is gone, and that did nothing
        del settings["bilevel"]["alpha_start"]
    return settings


def check_conditions(run_id: str, data: Data, builders: Mapping[str, str]) -> None:
    """Raise an ``InvalidInputError`` if data or builders of cells are not those that a run was recorded with."""
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


def _read_text(client: mlflow.MlflowClient, run_id: str, file: str) -> str | None:
    """A text artifact; None if the run has none of this name."""
    if file not in {artifact.path for artifact in client.list_artifacts(run_id)}:
        return None
    return Path(client.download_artifacts(run_id, file)).read_text(encoding="utf-8")


def read_times(uri: str) -> tuple[float, float]:
    """Seconds of the only search in a tracking store, and seconds of all its trainings."""
    client = mlflow.MlflowClient(uri)
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    seconds = {"search": 0.0, "hyper": 0.0, "scratch": 0.0}
    for run in runs:
        seconds[run.data.tags[KIND]] += run.data.metrics["seconds"]
    return seconds["search"], seconds["hyper"] + seconds["scratch"]
