"""The paper's outer search: pseudo-gradient ascent on the alphas of a neighborhood (section 2.4, Eq. 1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fade_study.exceptions import InvalidInputError
from fade_study.generation import RowHistory
from fade_study.samplers._base import RowSampler


class PseudoGradientSampler(RowSampler):
    """Move the anchor along the differences of alpha over a cross-shaped neighborhood of w = 1 + 2f points.

    The search has no memory: it reads the last generation only, because alphas of different hyper-architectures cannot
    be compared.

    Args:
        offset: Distance gamma from the anchor to its neighbors, above 0. With small offsets, points share a cell.
        step_size: Step size lambda. A positive one ascends alpha, toward better cells, as in the paper's Fig. 3; a
            negative one descends it, which is the printed sign of Eq. 1 and serves as a control.
        seed: Root of the random first anchors; None takes the study's seed.
    """

    def __init__(self, offset: float = 0.5, step_size: float = 1.0, *, seed: int | None = None) -> None:
        if not (np.isfinite(offset) and offset > 0):
            raise InvalidInputError(f"expected an offset above 0, got {offset}; features lie in [0, 1], try 0.5")
        if not (np.isfinite(step_size) and step_size != 0):
            raise InvalidInputError(f"expected a step_size other than 0, got {step_size}; try 1.0")
        super().__init__(seed=seed)
        self.offset = offset
        self.step_size = step_size

    def propose(self, history: RowHistory, rng: np.random.Generator) -> NDArray[np.float64]:
        """Propose ``(1 + 2f, f)`` points: the anchor, then anchor + offset·e_1, anchor - offset·e_1, and so on."""
        f = len(history.features)
        if len(history) == 0:
            anchor = rng.random(f)
        else:
            last = history[-1]
            # Eq. (1) with the sign of Fig. 3: beta(M + gamma e_k) - beta(M - gamma e_k), for all k at once
            anchor = last.anchor + self.step_size * (last.alpha[1::2] - last.alpha[2::2])
            anchor = np.clip(anchor, 0.0, 1.0)  # first, so that the neighbors surround the clipped anchor
        return self.surround(anchor)

    def surround(self, anchor: NDArray[np.float64], points: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Neighborhood ``(1 + 2f, f)`` of any anchor ``(f,)``."""
        f = len(anchor)
        axes = np.stack([np.eye(f), -np.eye(f)], axis=1).reshape(-1, f)
        return np.concatenate([anchor[None], np.clip(anchor + self.offset * axes, 0.0, 1.0)])
