"""Cells, their features, and the spaces that hold them."""

from fade_study.cells.dag import MAX_VERTICES, Dag, check_vertices, enumerate_dags
from fade_study.cells.features import FEATURES, PAPER_FEATURES, SPECTRAL_FEATURES, Feature, feature_table
from fade_study.cells.space import Cell, CellSpace, DagSpace, SpaceDiagnostics, distant_cells

__all__ = [
    "FEATURES",
    "MAX_VERTICES",
    "PAPER_FEATURES",
    "SPECTRAL_FEATURES",
    "Cell",
    "CellSpace",
    "Dag",
    "DagSpace",
    "Feature",
    "SpaceDiagnostics",
    "check_vertices",
    "distant_cells",
    "enumerate_dags",
    "feature_table",
]
