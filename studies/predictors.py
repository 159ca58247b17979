"""What predicts an architecture's from-scratch accuracy: FaDE-ranks, and everything that they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fade_study import HyperArchitecture
from fade_study.config import Estimator
from fade_study.effects import PathLosses as Losses
from fade_study.effects import average_effects, path_effects
from fade_study.exceptions import InvalidInputError
from fade_study.ranking import borda
from fade_study.seeding import REPLICATES
from fade_study.training import HyperResult, combined_alpha
from fade_study.training.bilevel import effects_of
from fade_study.training.proxies import PROXIES

__all__ = ["Evidence", "Measured", "Prediction", "names", "predict"]

Array = NDArray[np.float64]
SIZES = ("operations", "longest_path", "parameters", "flops")
TRAINED = ("short_trainings", "chains")


class Measured(NamedTuple):
    """A number for each architecture, and what all of them cost."""

    values: Array
    """``(n,)``"""
    seconds: float


class Prediction(NamedTuple):
    """Scores of architectures, what they cost, and how they vary."""

    scores: Array
    """``(n,)``, higher is better."""
    seconds: float
    """To score all n, on one processor core."""
    replicates: Array | None = None
    """``(B, n)``, scores from resampled trainings; None where there is nothing to repeat."""
    permuted: Array | None = None
    """``(B, n)``, scores after permuting the columns of each row, where scores are sums over rows."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of n architectures of a hyper-architecture but their ground truth."""

    hyper_architecture: HyperArchitecture
    paths: NDArray[np.int64]
    """``(n, d)``"""
    estimator: Estimator
    """Of the alphas of ``supernets``."""
    supernets: Sequence[HyperResult]
    """R trainings of the hyper-architecture, with the one-shot accuracies of all paths."""
    straight_through: Sequence[HyperResult] = ()
    """Trainings by the paper's estimator, to compare with."""
    single: dict[str, Measured] = field(default_factory=dict)
    """Numbers of single architectures by name: sizes, zero-cost proxies, accuracies after short trainings."""
    by_cell: dict[str, Measured] = field(default_factory=dict)
    """What each cell adds, ``(d, w)`` by name, by other trainings than those of the supernets; higher is better."""


def early(epochs: int) -> str:
    """Name of the predictor by a training of so many epochs."""
    return f"epochs_{epochs}"


def names(early_epochs: Sequence[int], chosen: Sequence[str] | None) -> list[str]:
    """Names of the predictors to compare, in their order; ``fade`` is always among them.

    Raises:
        InvalidInputError: for names that do not exist.
    """
    known = [*TABLES, "one_shot", *TRAINED, *map(early, early_epochs), *SIZES, *PROXIES]
    unknown = sorted(set(chosen or ()) - set(known))
    if unknown:
        raise InvalidInputError(f"expected predictors among {', '.join(known)}, got {', '.join(unknown)}")
    return [name for name in known if chosen is None or name in chosen or name == "fade"]


def predict(name: str, evidence: Evidence, resamples: int, seed: int) -> Prediction:
    """Scores by a predictor.

    Args:
        name: of it.
        evidence: that it may use.
        resamples: of repetitions.
        seed: of these.

    Raises:
        InvalidInputError: says why it is not available.
    """
    rng = REPLICATES.rng(seed)
    if name in evidence.single:
        values, seconds = evidence.single[name]
        if np.ptp(values) == 0:
            raise InvalidInputError("it is the same for all architectures")
        return Prediction(values, seconds)
    if name in evidence.by_cell:
        values, seconds = evidence.by_cell[name]
        return Prediction(_along(values, evidence.paths), seconds, None, _permuted(values, evidence, resamples, rng))
    if name == "one_shot":
        accuracies = np.stack([one.path_accuracies for one in evidence.supernets])
        seconds = sum(one.seconds + one.path_seconds for one in evidence.supernets)
        drawn = [accuracies[list(draw)].mean(axis=0) for draw in _draws(len(accuracies), resamples, rng)]
        return Prediction(accuracies.mean(axis=0), seconds, np.stack(drawn) if drawn else None)
    if name not in TABLES:
        raise InvalidInputError("it was not measured")
    trainings = evidence.straight_through if name.startswith("straight_through") else evidence.supernets
    if not trainings:
        raise InvalidInputError("no supernet was trained for it")
    table = TABLES[name]
    drawn = [
        _along(table([trainings[i] for i in draw], evidence), evidence.paths)
        for draw in _draws(len(trainings), resamples, rng)
    ]
    cells = table(trainings, evidence)
    return Prediction(
        _along(cells, evidence.paths),
        sum(one.seconds for one in trainings),
        np.stack(drawn) if drawn else None,
        _permuted(cells, evidence, resamples, rng),
    )


def _log_alpha(trainings: Sequence[HyperResult], evidence: Evidence) -> Array:
    """The FaDE-rank is the product of alphas; its logarithm is a sum over rows."""
    return np.log(np.maximum(combined_alpha(trainings, evidence.estimator, evidence.hyper_architecture), 1e-300))


def _without_pooling(trainings: Sequence[HyperResult], evidence: Evidence) -> Array:
    effects = [one.effects for one in trainings if one.effects is not None]
    return -average_effects(effects).value


def _training_losses(trainings: Sequence[HyperResult], evidence: Evidence) -> Array:
    width = evidence.supernets[0].alpha.shape[1]
    effects = [path_effects(one.losses, width) for one in trainings]
    return -effects_of([one for one in effects if one is not None], evidence.hyper_architecture).value


def _mean_alpha(trainings: Sequence[HyperResult], evidence: Evidence) -> Array:
    return np.log(np.maximum(combined_alpha(trainings, "straight-through", evidence.hyper_architecture), 1e-300))


def _borda(trainings: Sequence[HyperResult], evidence: Evidence) -> Array:
    return borda(np.stack([one.alpha for one in trainings]))


TABLES: dict[str, Callable[[Sequence[HyperResult], Evidence], Array]] = {
    "fade": _log_alpha,
    "borda": _borda,
    "unpooled": _without_pooling,
    "training_losses": _training_losses,
    "straight_through": _mean_alpha,
    "straight_through_borda": _borda,
    "straight_through_losses": _training_losses,
}
"""Predictors that are sums over rows of what supernets tell of the cells, ``(d, w)``."""


def cell_effects(paths: NDArray[np.int64], values: Array, hyper_architecture: HyperArchitecture) -> Array:
    """What each cell adds to values of designed paths ``(n, d)``, as marginal alphas are made of losses: ``(d, w)``."""
    losses = Losses(paths, -values, np.zeros(len(paths), dtype=np.int64))
    effects = path_effects(losses, hyper_architecture.width)
    if effects is None:
        raise InvalidInputError(f"expected more designed trainings than effects of columns, got {len(paths)}")
    return -effects_of([effects], hyper_architecture).value


def _along(table: Array, paths: NDArray[np.int64]) -> Array:
    return table[np.arange(table.shape[0]), paths].sum(axis=1)


def _draws(count: int, resamples: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Resampled trainings, ``(B, R)``; none of a single one."""
    return rng.integers(count, size=(resamples if count > 1 else 0, count))


def _permuted(table: Array, evidence: Evidence, resamples: int, rng: np.random.Generator) -> Array:
    shuffled = rng.permuted(np.broadcast_to(table, (resamples, *table.shape)), axis=2)
    return shuffled[:, np.arange(len(table)), evidence.paths].sum(axis=2)
