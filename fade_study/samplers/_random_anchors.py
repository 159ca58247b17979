"""Random anchors: a baseline that ignores the alphas."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fade_study.generation import RowHistory
from fade_study.samplers._base import RowSampler, check_width


class RandomAnchorSampler(RowSampler):
    """All points are drawn at random in every generation, whatever the alphas are.

    Args:
        width: Number of points w of a neighborhood.
        seed: Root of all random numbers; None takes the study's seed.
    """

    def __init__(self, width: int = 7, *, seed: int | None = None) -> None:
        super().__init__(seed=seed)
        self.width = check_width(width)

    def propose(self, history: RowHistory, rng: np.random.Generator) -> NDArray[np.float64]:
        """Propose points ``(w, f)``, uniform in the box."""
        return rng.random((self.width, len(history.features)))
