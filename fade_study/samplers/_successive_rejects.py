"""Successive rejects: each row keeps the cells that may still be its best, and tries neighbors of the best one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fade_study.exceptions import InvalidInputError
from fade_study.generation import RowHistory
from fade_study.samplers._base import RowSampler, check_width

FLOOR = 1e-6
"""Alphas are raised to this share of their row's largest one before their logarithm is taken."""


class SuccessiveRejectsSampler(RowSampler):
    """Keep the champion and all cells that are not yet shown to be worse; fill up with neighbors of the champion.

    Alphas compare cells of one generation only, but cells that stay link the generations. The model of the logarithm of
    an alpha is the utility of the cell, plus a constant of the generation, plus noise of size 1 (marginal alphas are in
    units of their standard error). Least squares on the past give the difference of each cell to the champion, with its
    standard error. A cell whose upper confidence bound is below the champion is dropped.

    Args:
        width: Number of points w of a neighborhood.
        offset: Distance from the champion to the neighbors that replace dropped cells.
        kappa: Number of standard errors from a difference to its upper confidence bound, 0 or more.
        seed: Root of all random numbers; None takes the study's seed.
    """

    def __init__(self, width: int = 7, offset: float = 0.5, kappa: float = 1.0, *, seed: int | None = None) -> None:
        if not (np.isfinite(offset) and offset > 0):
            raise InvalidInputError(f"expected an offset above 0, got {offset}; features lie in [0, 1], try 0.5")
        if not (np.isfinite(kappa) and kappa >= 0):
            raise InvalidInputError(f"expected a kappa of 0 or more, got {kappa}; it is a bound on errors, try 1")
        super().__init__(seed=seed)
        self.width = check_width(width)
        self.offset = offset
        self.kappa = kappa

    def propose(self, history: RowHistory, rng: np.random.Generator) -> NDArray[np.float64]:
        """Propose points ``(w, f)``: the champion, the other cells that stay, best first, and neighbors."""
        f = len(history.features)
        if len(history) == 0:
            return rng.random((self.width, f))
        present = list(dict.fromkeys(history[-1].cells))
        utility, covariance = _utilities(history, present)
        champion = int(utility.argmax())
        difference = utility - utility[champion]
        variance = covariance.diagonal() + covariance[champion, champion] - 2 * covariance[:, champion]
        stays = difference + self.kappa * np.sqrt(np.maximum(variance, 0)) >= 0
        kept = [i for i in np.argsort(-utility, kind="stable").tolist() if stays[i]][: self.width - 1]
        points = self.embed([present[i] for i in kept])
        directions = rng.normal(size=(self.width - len(kept), f))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        return np.concatenate([points, np.clip(points[0] + self.offset * directions, 0.0, 1.0)])


def _utilities(history: RowHistory, present: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Utilities ``(n,)`` of the present cells, of which only differences matter, and their covariance ``(n, n)``."""
    generations = list(history)  # each access reads a trial
    cells = list(dict.fromkeys(key for generation in generations for key in generation.cells))
    number = {key: i for i, key in enumerate(cells)}
    precision, right = np.zeros((len(cells), len(cells))), np.zeros(len(cells))
    for generation in generations:
        logs = np.log(np.maximum(generation.alpha, FLOOR * generation.alpha.max()))
        taken = np.zeros((len(logs), len(cells)))
        taken[np.arange(len(logs)), [number[key] for key in generation.cells]] = 1
        centered = taken - taken.mean(axis=0)  # removes the constant of the generation
        precision += centered.T @ centered
        right += centered.T @ logs
    covariance: NDArray[np.float64] = np.linalg.pinv(precision, hermitian=True).astype(float)
    chosen = [number[key] for key in present]
    return (covariance @ right)[chosen], covariance[np.ix_(chosen, chosen)]
