"""Outer searches, one file each. Optuna's own samplers work on the same study, as baselines."""

from fade_study.samplers._base import RowGeneration, RowHistory, RowSampler
from fade_study.samplers._pseudo_gradient import PseudoGradientSampler

__all__ = ["PseudoGradientSampler", "RowGeneration", "RowHistory", "RowSampler"]
