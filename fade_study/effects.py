"""From losses of paths to alphas: what each cell of a row does to the loss of the networks that contain it.

A path's loss is taken for a sum over rows, as the FaDE-rank takes its quality for a product. So least squares on many
paths tells each cell's part, relative to the mean of its row, with a standard error. The losses of weight steps serve,
which a training has anyway.

Several trainings of one hyper-architecture are averaged in their effects, not in the alphas that come from these: what
differs between them is noise, which the softmax would distort.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fade_study.exceptions import InvalidInputError

__all__ = ["Effects", "PathLosses", "average_effects", "effects_to_alpha", "path_effects"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PathLosses:
    """Losses of n paths through one supernet, in the order in which they were seen."""

    paths: NDArray[np.int64]
    """``(n, d)``, a column for each row."""
    losses: Array
    """``(n,)``"""
    epochs: NDArray[np.int64]
    """``(n,)``, in which each was seen, from 0."""

    def part(self, start: int, stop: int) -> PathLosses:
        """Those of the epochs ``start`` to ``stop - 1``."""
        kept = (self.epochs >= start) & (self.epochs < stop)
        return PathLosses(self.paths[kept], self.losses[kept], self.epochs[kept])


@dataclass(frozen=True, slots=True)
class Effects:
    """What columns do to the loss of the paths that take them."""

    value: Array
    """``(d, w)``, relative to the mean of the row; lower is better."""
    error: Array
    """``(d, w)``, standard errors: columns that differ by less than about two are not told apart."""


def path_effects(seen: PathLosses, width: int) -> Effects | None:
    """Effects of columns on losses, by least squares; what an epoch's losses have in common is taken out.

    Args:
        seen: n losses.
        width: columns w of each row.

    Returns:
        Effects; of a column that no path took the value is 0 and the error infinite. None while there are no more
        losses than unknowns.
    """
    n, depth = seen.paths.shape
    taken = (seen.paths[:, :, None] == np.arange(width)).reshape(n, depth * width).astype(float)
    time = (seen.epochs[:, None] == np.unique(seen.epochs)).astype(float)
    basis = np.concatenate([taken, time], axis=1)
    freedom = n - np.linalg.matrix_rank(basis)
    if freedom < 1:
        return None
    inverse = np.linalg.pinv(basis.T @ basis, hermitian=True)
    fit = inverse @ (basis.T @ seen.losses)
    variance = ((seen.losses - basis @ fit) ** 2).sum() / freedom
    # relative to the mean of the row's columns that were taken: their sum is every path's, and no effect
    found = taken.any(axis=0).reshape(depth, width)
    center = np.zeros((depth * width, depth * width))
    for row, known in enumerate(found):
        block = slice(row * width, (row + 1) * width)
        center[block, block] = np.outer(known, known) * (np.eye(width) - 1 / known.sum())
    columns = slice(depth * width)
    error = np.sqrt(np.maximum(0, variance * np.diag(center @ inverse[columns, columns] @ center.T)))
    value = (center @ fit[columns]).reshape(depth, width)
    return Effects(value, np.where(found, error.reshape(depth, width), np.inf))


def losses_needed(shape: tuple[int, int], epochs: int) -> int:
    """Fewest losses, seen in so many epochs, from which the effects of ``(d, w)`` columns can be told."""
    depth, width = shape
    return depth * (width - 1) + epochs + 1


def average_effects(effects: Sequence[Effects]) -> Effects:
    """Mean of the effects that several trainings of one hyper-architecture found.

    Where there are several, the standard errors come from how much the trainings differ, and are the same for all
    columns; those of the regressions do not know what one supernet's weights have in common.

    Args:
        effects: of R trainings, each ``(d, w)``.
    """
    if not effects:
        raise InvalidInputError("expected effects of one training or more, got none")
    if len(effects) == 1:
        return effects[0]
    values = np.stack([one.value for one in effects])  # (R, d, w)
    variance = values.var(axis=0, ddof=1).mean() / len(values)
    return Effects(values.mean(axis=0), np.full(values.shape[1:], np.sqrt(variance)))


def effects_to_alpha(effects: Effects) -> Array:
    """Alphas ``(d, w)``: the softmax of minus the effects over their typical standard error.

    They are even where nothing is known and peaked where much is, and their product along a path falls with the sum of
    the effects.
    """
    typical = np.sqrt((effects.error[np.isfinite(effects.error)] ** 2).mean())
    scores = -effects.value / max(typical, 1e-12)
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)
