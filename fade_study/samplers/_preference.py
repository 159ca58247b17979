"""Global search from relative ranks: the paper's future work (1), with a memory that respects what alphas are.

The alphas of a row are the choice probabilities of one exclusive competition, so with a utility u of the cells

    log alpha_j = u(cell_j) + offset of the generation + noise,

and only differences within a generation carry information. A Gaussian process for u over the feature space joins all
generations without ever comparing their alphas: each generation's offset has a flat prior and is integrated out, which
leaves w - 1 orthonormal contrasts. Preferences between pairs are learned likewise by Chu & Ghahramani (2005); the
batch is chosen as by GP-BUCB (Desautels et al., 2014).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fade_study.exceptions import InvalidInputError
from fade_study.samplers._base import RowGeneration, RowHistory, RowSampler, check_width

__all__ = ["PreferenceSampler"]

FLOOR = 1e-2
"""Of alphas relative to the largest of their generation: one that has collapsed to 0 is far below, and no more."""
EVEN = 1e-9
"""Contrasts of log alpha that are smaller are rounding errors, and not scaled up to a signal."""
MEMORY = 100
"""Generations that are remembered, the newest: the cost of a proposal grows with their number cubed."""
SPREAD = 1.0
"""Standard deviation of the log-normal priors of the hyper-parameters."""


@dataclass(frozen=True, slots=True, eq=False)
class _Contrasts:
    """What a history says: n contrasts within generations, of m distinct points."""

    points: NDArray[np.float64]
    """``(m, f)``, where the cells that were seen lie."""
    design: NDArray[np.float64]
    """``(n, m)``, from utilities of the points to contrasts; its rows' sums are 0."""
    values: NDArray[np.float64]
    """``(n,)``, contrasts of log alpha, scaled to a root mean square of 1."""


@dataclass(frozen=True, slots=True, eq=False)
class _Settings:
    """Hyper-parameters; the variances in units of the mean square of the contrasts."""

    lengths: NDArray[np.float64]
    """``(f,)``, length scales."""
    signal: float
    """Variance of u."""
    noise: float
    """Variance of the noise of a log alpha."""


class PreferenceSampler(RowSampler):
    """Learn one utility from the differences of log alpha of all generations, and search the whole space with it.

    The anchor is the point with the highest expected utility. The others are those that may be much better than the
    anchor: one by one the highest upper confidence bound on the difference to it, where the neighborhood chosen so far
    counts as seen. So they don't crowd together, and as outcomes inform only relative to each other, the anchor and
    known good points are what unknown ones are measured against.

    All its points are those of cells; it doesn't look between them. Cells that share a point share a utility.

    Args:
        width: points of a neighborhood w.
        kappa: standard deviations that the confidence bound lies above the mean, 0 or more; 0 explores nothing.
        seed: root of the random first neighborhood, and of ties; None takes the study's.
    """

    def __init__(self, width: int = 7, kappa: float = 1.0, *, seed: int | None = None) -> None:
        if not (np.isfinite(kappa) and kappa >= 0):
            raise InvalidInputError(f"expected a kappa of 0 or more, got {kappa}; it weighs exploration, try 1")
        super().__init__(seed=seed)
        self.width = check_width(width)
        self.kappa = kappa

    def propose(self, history: RowHistory, rng: np.random.Generator) -> NDArray[np.float64]:
        """Points ``(w, f)`` of cells, all different where the space has as many, the anchor's first."""
        points = np.unique(self.embed([cell.key for cell in self.space]).round(12), axis=0)
        points = rng.permutation(points)  # so that equally good ones are taken in no particular order
        count = min(self.width, len(points))
        chosen = list(range(count)) if len(history) == 0 else self._choose(history, points, count)
        return points[np.resize(chosen, self.width)]

    def _choose(self, history: RowHistory, points: NDArray[np.float64], count: int) -> list[int]:
        """Indices of the points of a neighborhood, the anchor's first."""
        data = _contrasts(history[-MEMORY:], self.embed)
        posterior = _Posterior(_fit(data), data, points)
        chosen = [int(posterior.mean.argmax())]
        while len(chosen) < count:
            bound = posterior.mean + self.kappa * np.sqrt(posterior.variance_to_anchor(chosen))
            bound[chosen] = -np.inf
            chosen.append(int(bound.argmax()))
        return chosen


class _Posterior:
    """The utility of all points ``(p, f)`` after the contrasts."""

    def __init__(self, settings: _Settings, data: _Contrasts, points: NDArray[np.float64]) -> None:
        self._settings = settings
        self._points = points
        factor = np.linalg.cholesky(_covariance(settings, data))
        cross = data.design @ _kernel(settings, data.points, points)
        self._explained = np.linalg.solve(factor, cross)  # (n, p)
        self.mean = self._explained.T @ np.linalg.solve(factor, data.values)  # (p,)
        """``(p,)``; only its differences mean something."""

    def covariance(self, index: int) -> NDArray[np.float64]:
        """Of all points with one of them, ``(p,)``."""
        prior = _kernel(self._settings, self._points, self._points[index : index + 1])[:, 0]
        return prior - self._explained.T @ self._explained[:, index]

    def variance_to_anchor(self, chosen: Sequence[int]) -> NDArray[np.float64]:
        """Of u - u(anchor), ``(p,)``, once the points chosen, the anchor's first, have competed: whatever comes out."""
        anchor, *others = chosen
        with_anchor = self.covariance(anchor)
        variance = self._settings.signal - (self._explained**2).sum(axis=0) - 2 * with_anchor + with_anchor[anchor]
        if others:
            columns = np.stack([self.covariance(i) - with_anchor - with_anchor[i] for i in others], axis=1)
            columns += with_anchor[anchor]  # (p, k), covariances of the differences to the anchor
            # Differences to the anchor are contrasts, too; the noise of its log alpha is in all of them.
            noise = self._settings.noise * (np.eye(len(others)) + 1)
            gain = np.linalg.solve(columns[others] + noise, columns.T)
            variance = variance - (columns * gain.T).sum(axis=1)
        return np.maximum(variance, 0.0)


def _contrasts(
    generations: Sequence[RowGeneration], embed: Callable[[Sequence[str]], NDArray[np.float64]]
) -> _Contrasts:
    """Orthonormal contrasts: the noise stays independent, and an offset of a generation is gone."""
    from scipy.linalg import block_diag, helmert  # here, since importing the package should not wait for it

    seen = np.concatenate([embed(generation.cells) for generation in generations]).round(12)
    points, inverse = np.unique(seen, axis=0, return_inverse=True)
    basis = np.asarray(block_diag(*(helmert(len(generation.alpha)) for generation in generations)))  # (n, all columns)
    logs = [np.log(np.maximum(g.alpha, FLOOR * g.alpha.max())) for g in generations]
    values = basis @ np.concatenate(logs)
    # How peaked alphas are depends on the training; without a scale, priors and bounds need not know.
    scale = np.sqrt(np.mean(values**2))
    return _Contrasts(points, basis @ np.eye(len(points))[inverse.ravel()], values / (scale if scale > EVEN else 1.0))


def _kernel(settings: _Settings, a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matern 5/2, ``(a, f), (b, f) -> (a, b)``: smooth, but not so much that one feature extrapolates far."""
    distance = np.sqrt(5 * (((a[:, None] - b) / settings.lengths) ** 2).sum(axis=-1))
    return settings.signal * (1 + distance + distance**2 / 3) * np.exp(-distance)


def _covariance(settings: _Settings, data: _Contrasts) -> NDArray[np.float64]:
    """Of the contrasts, ``(n, n)``."""
    kernel = _kernel(settings, data.points, data.points)
    return data.design @ kernel @ data.design.T + settings.noise * np.eye(len(data.values))


def _loss(settings: _Settings, data: _Contrasts) -> tuple[float, NDArray[np.float64]]:
    """Negative log likelihood of the contrasts but for a constant, and its gradient in the logarithms ``(f + 2,)``."""
    factor = np.linalg.cholesky(_covariance(settings, data))
    inverse = np.linalg.inv(factor)
    inverse = inverse.T @ inverse
    solved = inverse @ data.values
    loss = 0.5 * data.values @ solved + np.log(factor.diagonal()).sum()
    outer = 0.5 * (inverse - np.outer(solved, solved))  # d loss / d covariance
    inner = data.design.T @ outer @ data.design  # d loss / d kernel
    squares = ((data.points[:, None] - data.points) / settings.lengths) ** 2  # (m, m, f)
    distance = np.sqrt(5 * squares.sum(axis=-1))
    slope = settings.signal * 5 / 3 * (1 + distance) * np.exp(-distance)
    by_length = np.einsum("ab,abf->f", inner * slope, squares)
    by_signal = (inner * _kernel(settings, data.points, data.points)).sum()
    return float(loss), np.array([*by_length, by_signal, settings.noise * outer.trace()])


def _fit(data: _Contrasts) -> _Settings:
    """Most probable hyper-parameters under the contrasts and weak log-normal priors, from the priors' middle."""
    from scipy.optimize import minimize

    f = data.points.shape[1]
    # Length scales that grow with the dimension keep far points correlated in spaces of many features.
    middle = np.log([0.5 * np.sqrt(f)] * f + [1.0, 0.1])

    def objective(logs: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        loss, gradient = _loss(_settings(logs), data)
        away = (logs - middle) / SPREAD
        return loss + 0.5 * away @ away, gradient + away / SPREAD

    bounds = [(m - 5 * SPREAD, m + 5 * SPREAD) for m in middle]
    return _settings(minimize(objective, middle, jac=True, method="L-BFGS-B", bounds=bounds).x)


def _settings(logs: NDArray[np.float64]) -> _Settings:
    """From the logarithms of length scales, signal and noise ``(f + 2,)``."""
    *lengths, signal, noise = np.exp(logs)
    return _Settings(np.array(lengths), float(signal), float(noise))
