"""Outer searches, one file each. Optuna's own samplers work on the same study as baselines."""

from fade_study.generation import RowGeneration, RowHistory
from fade_study.samplers._base import RowSampler, row_sampler
from fade_study.samplers._champion import ChampionSampler
from fade_study.samplers._pseudo_gradient import PseudoGradientSampler
from fade_study.samplers._random_anchors import RandomAnchorSampler
from fade_study.samplers._regularized_evolution import RegularizedEvolutionSampler

__all__ = [
    "REGISTRY",
    "ChampionSampler",
    "PseudoGradientSampler",
    "RandomAnchorSampler",
    "RegularizedEvolutionSampler",
    "RowGeneration",
    "RowHistory",
    "RowSampler",
    "row_sampler",
]

REGISTRY: dict[str, type[RowSampler]] = {
    "pseudo-gradient": PseudoGradientSampler,
    "champion": ChampionSampler,
    "random-anchors": RandomAnchorSampler,
}
"""Outer searches by their names on the command line and in presets."""
