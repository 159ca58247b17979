"""FaDE: a fast DARTS estimator on hierarchical NAS spaces, as an Optuna-style study.

The core imports neither PyTorch nor MLflow; networks and training are in ``fade_study.nn`` and ``fade_study.training``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fade_study import ranking, samplers
from fade_study.architecture import Architecture, HyperArchitecture
from fade_study.cells import FEATURES, PAPER_FEATURES, SPECTRAL_FEATURES, CellSpace, Dag, DagSpace, enumerate_dags
from fade_study.exceptions import (
    ConfigError,
    DataError,
    DivergedError,
    FadeError,
    InvalidInputError,
    OpenGenerationError,
    StorageError,
)
from fade_study.study import (
    Batch,
    CellTrial,
    FadeStudy,
    Generation,
    OpenEvaluation,
    create_study,
    delete_study,
    load_study,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "FEATURES",
    "PAPER_FEATURES",
    "SPECTRAL_FEATURES",
    "Architecture",
    "Batch",
    "CellSpace",
    "CellTrial",
    "ConfigError",
    "Dag",
    "DagSpace",
    "DataError",
    "DivergedError",
    "FadeError",
    "FadeStudy",
    "Generation",
    "HyperArchitecture",
    "InvalidInputError",
    "OpenEvaluation",
    "OpenGenerationError",
    "StorageError",
    "create_study",
    "delete_study",
    "draw",
    "enumerate_dags",
    "load_study",
    "ranking",
    "samplers",
]
__version__ = "0.1.0"


def draw(architecture: Architecture) -> Figure:
    """A matplotlib figure of an architecture: its cells side by side, shallow to deep."""
    from fade_study.analysis.cells import draw_architecture  # imported here to keep the import of the package fast

    return draw_architecture(architecture)
