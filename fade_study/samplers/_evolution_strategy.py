"""An evolution strategy on alphas, which recombines all points of a neighborhood with alphas as weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fade_study.exceptions import InvalidInputError
from fade_study.generation import RowHistory
from fade_study.samplers._base import RowSampler, check_width


class EvolutionStrategySampler(RowSampler):
    """The next anchor is the mean of the last points, weighted by their alphas; neighbors are normally distributed.

    The search has no memory. Its neighbors lie in random directions, so that a neighborhood may have any width.

    Args:
        width: Number of points w of a neighborhood, including the anchor.
        offset: Standard deviation of the neighbors around the anchor, above 0.
        seed: Root of all random numbers; None takes the study's seed.
    """

    def __init__(self, width: int = 7, offset: float = 0.5, *, seed: int | None = None) -> None:
        if not (np.isfinite(offset) and offset > 0):
            raise InvalidInputError(f"expected an offset above 0, got {offset}; features lie in [0, 1], try 0.3")
        super().__init__(seed=seed)
        self.width = check_width(width)
        self.offset = offset

    def propose(self, history: RowHistory, rng: np.random.Generator) -> NDArray[np.float64]:
        """Propose points ``(w, f)``, the anchor first."""
        f = len(history.features)
        anchor = rng.random(f) if len(history) == 0 else history[-1].alpha @ history[-1].points
        neighbors = anchor + self.offset * rng.standard_normal((self.width - 1, f))
        return np.clip(np.concatenate([anchor[None], neighbors]), 0.0, 1.0)
