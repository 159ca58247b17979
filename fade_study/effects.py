"""From losses of paths to alphas: the effect of each cell of a row on the loss of the networks that contain it.

The loss of a path is modeled as a sum over rows, just as the FaDE-rank is a product over rows. Least squares on many
paths therefore give the effect of each cell, relative to the mean of its row, with a standard error. The losses are
those of a sweep over fair paths after the training or, without a sweep, those of its weight steps.

Several trainings of one hyper-architecture are averaged in their effects, not in their alphas: they differ by noise,
which the softmax would distort. All rows have cells of one space, so the effects of a row can be improved by those of
other rows through features of the cells (:func:`pool_effects`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag, helmert
from scipy.special import softmax

from fade_study.architecture import HyperArchitecture
from fade_study.cells.features import feature_table
from fade_study.exceptions import InvalidInputError

Array = NDArray[np.float64]
SHARES = (0.0, 0.1, 0.3, 1.0, 3.0)
"""Candidate variances for each component of the pooling model, in units of the mean square of the effects."""


@dataclass(frozen=True, slots=True)
class PathLosses:
    """Losses of n paths through one supernet, in the order of the steps."""

    paths: NDArray[np.int64]
    """Columns ``(n, d)``, one for each row."""
    losses: Array
    """Losses ``(n,)``."""
    epochs: NDArray[np.int64]
    """Epochs ``(n,)`` of the steps, from 0."""

    def part(self, start: int, stop: int) -> PathLosses:
        """The losses of epochs ``start`` to ``stop - 1``."""
        kept = (self.epochs >= start) & (self.epochs < stop)
        return PathLosses(self.paths[kept], self.losses[kept], self.epochs[kept])


@dataclass(frozen=True, slots=True)
class Effects:
    """Effects of columns on the loss of the paths that contain them."""

    value: Array
    """Effects ``(d, w)`` relative to the mean of their row; lower is better."""
    error: Array
    """Standard errors ``(d, w)``; columns that differ by less than about two cannot be told apart."""


def path_effects(seen: PathLosses, width: int) -> Effects | None:
    """Effects of columns on losses, by least squares with a constant for each epoch.

    Args:
        seen: Losses of n paths.
        width: Number of columns w of each row.

    Returns:
        The effects, where a column that no path contains has value 0 and an infinite error; or None if there are not
        more losses than unknowns.
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
    # Center the effects on the mean of the row's columns that were seen; least squares cannot determine this mean.
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
    """Smallest number of losses, from so many epochs, that determines the effects of ``(d, w)`` columns."""
    depth, width = shape
    return depth * (width - 1) + epochs + 1


def average_effects(effects: Sequence[Effects]) -> Effects:
    """Mean effects over several trainings of one hyper-architecture.

    The standard error comes from the differences between the trainings and is the same for all columns. The errors of
    the regressions do not include the noise that all losses of one supernet share. A single training has nothing to
    compare with, so it keeps the errors of its regression, which are too small.

    Args:
        effects: Effects from R trainings, ``(d, w)`` each.
    """
    if not effects:
        raise InvalidInputError("expected effects of one training or more, got none")
    if len(effects) == 1:
        return effects[0]
    values = np.stack([one.value for one in effects])  # (R, d, w)
    variance = values.var(axis=0, ddof=1).mean() / len(values)
    return Effects(values.mean(axis=0), np.full(values.shape[1:], np.sqrt(variance)))


def pool_effects(effects: Effects, features: Array) -> Effects:
    """Improve effects through features of the cells, by a mixed model that is averaged over its variances.

    An effect is modeled as the sum of four parts, each with its own variance: a linear function of the cell's features
    that all rows share, a linear function for its row, a part of its own, and noise of the size of the standard error.
    The result is the expectation of the sum of the first three. Their variances are not chosen: all combinations of
    ``SHARES`` are weighted by their marginal likelihood, so that features which explain nothing change nothing. The
    result compares only cells of this hyper-architecture.

    Args:
        effects: Effects ``(d, w)``.
        features: Features of the cells ``(d, w, F)``, in any units.

    Returns:
        Effects relative to the mean of their row, with posterior standard deviations as errors.
    """
    depth, width = effects.value.shape
    spread = features.reshape(depth * width, -1).std(axis=0)
    known = features[:, :, spread > 0] / spread[spread > 0]
    known = known - known.mean(axis=1, keepdims=True)  # effects are relative to the mean of the row
    flat = known.reshape(depth * width, -1)
    contrasts = np.asarray(block_diag(*[helmert(width)] * depth))  # (d(w-1), dw), orthonormal rows

    def covariance(matrix: Array) -> Array:
        return contrasts @ matrix @ contrasts.T

    common = covariance(flat @ flat.T) / max(1, known.shape[2])
    by_row = covariance(np.asarray(block_diag(*(row @ row.T for row in known)))) / max(1, known.shape[2])
    y = contrasts @ effects.value.ravel()
    size = max(float(y @ y) / max(1, len(y)), 1e-24)
    # The error of a column that no path contains is infinite; replace it by one so large that its value has no weight.
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
    """Replace the effects of equal cells of a row by their mean.

    Several points of a neighborhood may have the same nearest cell, whose copies then have separate weights.

    Args:
        effects: Effects ``(d, w)``.
        keys: Keys of the cells, ``(d, w)``.
    """
    value, error = effects.value.copy(), effects.error.copy()
    for i, row in enumerate(keys):
        for key in set(row):
            same = np.array([other == key for other in row])
            value[i, same] = value[i, same].mean()
            error[i, same] = np.sqrt((error[i, same] ** 2).sum()) / same.sum()
    return Effects(value, error)


def marginal_effects(effects: Sequence[Effects], hyper_architecture: HyperArchitecture) -> Effects:
    """Effects ``(d, w)`` from R trainings of a hyper-architecture.

    They are averaged, equal cells of a row get the same effect, and they are pooled if all cells have graph features.
    """
    merged = merge_same(average_effects(effects), hyper_architecture.keys)
    features = feature_table(hyper_architecture.rows)
    return merged if features is None else pool_effects(merged, features)


def effects_to_alpha(effects: Effects) -> Array:
    """Alphas ``(d, w)``: the softmax of minus the effects over their typical standard error.

    Alphas are nearly uniform if the effects are small compared with their errors. Their product along a path decreases
    with the sum of the effects.
    """
    typical = np.sqrt((effects.error[np.isfinite(effects.error)] ** 2).mean())
    return softmax(-effects.value / max(typical, 1e-12), axis=1)
