"""The experiment that holds our runs, its description, and views of its table for each kind of run."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import mlflow

from fade_study.tracking.schema import KIND, NOTE
from fade_study.tracking.server import MADE

EXPERIMENT = "fade_study"
"""Experiment of new runs, unless the user names another one."""
VIEW = "mlflow.sharedViewState."
"""Prefix of MLflow's tags for shared views, whose addresses end with the rest of the tag's name.

MLflow does not document what such a tag holds. One that it did not understand would open the usual table.
"""
COLUMNS = {
    "search": ("best/test_accuracy", "answer/test_accuracy", "answer/gain", "trend/gain", "one_shot_accuracy"),
    "validation": ("fade/spearman", "fade/spearman_low", "fade/spearman_high", "fade/ceiling", "one_shot_accuracy"),
    "comparison": ("searcher/fade/final_accuracy", "searcher/random/final_accuracy", "seconds"),
}
"""Metrics that the table shows, by kind of run."""
DESCRIPTION = """**Searches for neural architectures by FaDE. The description of each run says what came out.**

| runs | table | charts |
|---|---|---|
{views}

Trainings are children of the run that they belong to. To compare runs, select them in the table and press *Compare*.
"""


def own_experiment() -> str | None:
    """Id of our experiment, which is created if it is missing; None if the user or ``mlflow run`` has chosen one."""
    if any(name in os.environ for name in (*MADE, "MLFLOW_EXPERIMENT_NAME")):
        return None
    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return found.experiment_id
    try:
        return client.create_experiment(EXPERIMENT)
    except mlflow.MlflowException:
        found = client.get_experiment_by_name(EXPERIMENT)  # another process may have created it meanwhile
        if found is None:
            raise
        return found.experiment_id


def describe_experiment(experiment: str) -> None:
    """Give an experiment its description and views, if it is ours and has none."""
    client = mlflow.MlflowClient()
    found = client.get_experiment(experiment)
    if found.name != EXPERIMENT or NOTE in found.tags:
        return
    for kind, metrics in COLUMNS.items():
        client.set_experiment_tag(experiment, f"{VIEW}{kind}", _view(kind, metrics))
    address = f"#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey="
    rows = [
        f"| {kind} | [table]({address}{kind}) | [charts]({address}{kind}&compareRunsMode=CHART) |" for kind in COLUMNS
    ]
    client.set_experiment_tag(experiment, NOTE, DESCRIPTION.format(views="\n".join(rows)))


def _view(kind: str, metrics: Sequence[str]) -> str:
    columns = [f"metrics.`{name}`" for name in metrics] + ["params.`config.data.name`", "params.`config.seed`"]
    state = {
        "searchFilter": f"tags.`{KIND}` = '{kind}'",
        "selectedColumns": ["attributes.`Duration`", *columns],
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
    }
    return json.dumps(state)
