"""Random anchors: the outer search that learns nothing, a baseline."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fade_study.generation import RowHistory
from fade_study.samplers._base import RowSampler, check_width

__all__ = ["RandomAnchorSampler"]


class RandomAnchorSampler(RowSampler):
    """Every generation's points are drawn anew, whatever the alphas were.

    Args:
        width: points of a neighborhood w.
        seed: root of all random numbers; None takes the study's.
    """

    def __init__(self, width: int = 7, *, seed: int | None = None) -> None:
        super().__init__(seed=seed)
        self.width = check_width(width)

    def propose(self, history: RowHistory, rng: np.random.Generator) -> NDArray[np.float64]:
        """Points ``(w, f)``, uniform in the box."""
        return rng.random((self.width, len(history.features)))
