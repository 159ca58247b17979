"""The champion against challengers: the simplest search on relative values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fade_study.generation import RowHistory
from fade_study.samplers._base import RowSampler, check_width


class ChampionSampler(RowSampler):
    """The cell with the largest alpha of the last generation against w - 1 random challengers.

    The search has no memory and no step size: it uses only which cell of a row is best.

    Args:
        width: Number of points w of a neighborhood.
        seed: Root of all random numbers; None takes the study's seed.
    """

    def __init__(self, width: int = 7, *, seed: int | None = None) -> None:
        super().__init__(seed=seed)
        self.width = check_width(width)

    def propose(self, history: RowHistory, rng: np.random.Generator) -> NDArray[np.float64]:
        """Propose points ``(w, f)``, the champion's first."""
        points = rng.random((self.width, len(history.features)))
        if len(history) > 0:
            last = history[-1]
            points[0] = self.embed([last.cells[last.alpha.argmax()]])[0]
        return points
