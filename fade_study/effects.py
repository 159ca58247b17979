"""From losses of paths to alphas: what each cell of a row does to the loss of the networks that contain it.

A path's loss is taken for a sum over rows, as the FaDE-rank takes its quality for a product. So least squares on many
paths tells each cell's part, relative to the mean of its row, with a standard error. The losses of weight steps serve,
which a training has anyway.

Several trainings of one hyper-architecture are averaged in their effects, not in the alphas that come from these: what
differs between them is noise, which the softmax would distort. And since all rows hold cells of one space, the effects
of a row can borrow from those of the others through features of the cells (:func:`pool_effects`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fade_study.exceptions import InvalidInputError

__all__ = [
    "Effects",
    "PathLosses",
    "average_effects",
    "effects_to_alpha",
    "losses_needed",
    "marginal_effects",
    "merge_same",
    "path_effects",
    "pool_effects",
]

Array = NDArray[np.float64]
SHARES = (0.0, 0.1, 0.3, 1.0, 3.0)
"""Variances of each component of the pooling model that are weighed, in units of the effects' mean square."""


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


def pool_effects(effects: Effects, features: Array) -> Effects:
    """Effects that borrow from each other through features of the cells: a mixed model, averaged over its variances.

    An effect is taken for the sum of four parts, each with a variance of its own: a linear function of the cell's
    features that all rows have in common, another one of its row alone, what the cell has of its own, and noise of the
    size of the standard errors. The result is the expectation of the first three. The variances of these three are not
    chosen: all combinations of ``SHARES`` are weighed by their marginal likelihood, so that features which explain
    nothing change nothing. It compares cells of one hyper-architecture, and nothing beyond it.

    Args:
        effects: ``(d, w)``.
        features: of the cells, ``(d, w, F)``, in any units.

    Returns:
        Effects, relative to the mean of the row, with the posterior's standard deviations.
    """
    from scipy.linalg import block_diag, helmert  # here, since importing the package should not wait for it

    depth, width = effects.value.shape
    spread = features.reshape(depth * width, -1).std(axis=0)
    known = features[:, :, spread > 0] / spread[spread > 0]
    known = known - known.mean(axis=1, keepdims=True)  # a row's mean is no effect
    flat = known.reshape(depth * width, -1)
    contrasts = np.asarray(block_diag(*[helmert(width)] * depth))  # (d(w-1), dw), an orthonormal basis

    def covariance(matrix: Array) -> Array:
        return contrasts @ matrix @ contrasts.T

    common = covariance(flat @ flat.T) / max(1, known.shape[2])
    by_row = covariance(np.asarray(block_diag(*(row @ row.T for row in known)))) / max(1, known.shape[2])
    y = contrasts @ effects.value.ravel()
    size = max(float(y @ y) / max(1, len(y)), 1e-24)
    # a column that no path took has an infinite error: so large a one that it says nothing
    noise = covariance(np.diag(np.minimum(effects.error.ravel() ** 2, 1e6 * size) + 1e-9 * size))
    weights, means, variances = [], [], []
    for a, b, c in itertools.product(SHARES, repeat=3):
        signal = size * (a * common + b * by_row + c * np.eye(len(y)))
        factor = np.linalg.cholesky(signal + noise)
        whitened = np.linalg.solve(factor, np.column_stack([y, signal]))
        weights.append(-0.5 * whitened[:, 0] @ whitened[:, 0] - np.log(factor.diagonal()).sum())
        means.append(contrasts.T @ (whitened[:, 1:].T @ whitened[:, 0]))
        variances.append(np.diag(contrasts.T @ (signal - whitened[:, 1:].T @ whitened[:, 1:]) @ contrasts))
    weight = np.exp(np.array(weights) - max(weights))
    weight /= weight.sum()
    mean = weight @ np.array(means)
    variance = weight @ (np.array(variances) + (np.array(means) - mean) ** 2)
    return Effects(mean.reshape(depth, width), np.sqrt(np.maximum(variance, 0)).reshape(depth, width))


def merge_same(effects: Effects, keys: Sequence[Sequence[str]]) -> Effects:
    """Effects in which columns of a row that hold the same cell have one value: their mean.

    Points of a neighborhood may fall on one cell, which then has several copies with weights of their own.

    Args:
        effects: ``(d, w)``.
        keys: of the cells, ``(d, w)``.
    """
    value, error = effects.value.copy(), effects.error.copy()
    for i, row in enumerate(keys):
        for key in set(row):
            same = np.array([other == key for other in row])
            value[i, same] = value[i, same].mean()
            error[i, same] = np.sqrt((error[i, same] ** 2).sum()) / same.sum()
    return Effects(value, error)


def marginal_effects(
    effects: Sequence[Effects], keys: Sequence[Sequence[str]] | None = None, features: Array | None = None
) -> Effects:
    """What R trainings of one hyper-architecture say of its columns: their mean, merged and pooled.

    Args:
        effects: of each training.
        keys: of the cells, ``(d, w)``; columns of a row with the same one have one effect.
        features: of the cells, ``(d, w, F)``, by which rows borrow from each other; None where cells have none.
    """
    mean = average_effects(effects)
    mean = mean if keys is None else merge_same(mean, keys)
    return mean if features is None else pool_effects(mean, features)


def effects_to_alpha(effects: Effects) -> Array:
    """Alphas ``(d, w)``: the softmax of minus the effects over their typical standard error.

    They are even where nothing is known and peaked where much is, and their product along a path falls with the sum of
    the effects.
    """
    typical = np.sqrt((effects.error[np.isfinite(effects.error)] ** 2).mean())
    scores = -effects.value / max(typical, 1e-12)
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)
