"""The names of everything that runs hold in MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    pass


__all__ = [
    "BUILDERS",
    "INHERITED",
    "NAME",
    "OUTCOME",
    "PARENT",
    "RECORD",
    "SCHEMA",
    "STUDY",
    "TABLES",
    "Kind",
    "alpha_metrics",
]

SCHEMA = "1"
"""Version of the record, in tag ``fade.schema``; raised when names or meanings change."""
Kind = Literal["search", "validation", "comparison", "benchmark", "analysis", "evaluation"]
RECORD = "search.json"
"""Artifact of a search: its record."""
OUTCOME = "outcome.json"
"""Artifact of a search of a comparison: what it came to."""
INHERITED = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit")
"""Tags that children have from the outermost run."""
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


def alpha_metrics(alpha: NDArray[np.float64]) -> dict[str, float]:
    """Alphas ``(d, w)`` by their metric names."""
    return {f"alpha/row{i}/column{j}": value for (i, j), value in np.ndenumerate(alpha)}
