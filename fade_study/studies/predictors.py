"""Predictors of an architecture's from-scratch accuracy: FaDE-ranks and everything that they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fade_study import HyperArchitecture
from fade_study.config import Estimator
from fade_study.effects import PathLosses, average_effects, marginal_effects, merge_same, path_effects
from fade_study.exceptions import InvalidInputError
from fade_study.ranking import borda
from fade_study.seeding import REPLICATES
from fade_study.training import HyperResult, combined_alpha
from fade_study.training.proxies import PROXIES

Array = NDArray[np.float64]
SIZES = ("operations", "longest_path", "parameters", "flops")
TRAINED = ("short_trainings", "chains")


class Measured(NamedTuple):
    """A number for each architecture ``(n,)`` or for each cell ``(d, w)``, and the seconds that all of them cost."""

    values: Array
    seconds: float


class Prediction(NamedTuple):
    """Scores of architectures, their cost, and how they vary."""

    scores: Array
    """Scores ``(n,)``; higher is better."""
    seconds: float
    """Time to score all n architectures on one processor core."""
    replicates: Array | None = None
    """Scores from resampled trainings, ``(B, n)``; None for predictors without repetitions."""
    permuted: Array | None = None
    """Scores after permuting the cells within each row, ``(B, n)``; None for scores that are not sums over rows."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that predictors may know about n architectures of a hyper-architecture."""

    hyper_architecture: HyperArchitecture
    paths: NDArray[np.int64]
    """Columns of the architectures, ``(n, d)``."""
    estimator: Estimator
    """Estimator of the alphas of ``supernets``."""
    supernets: Sequence[HyperResult]
    """R trainings of the hyper-architecture, with the one-shot accuracies of all paths."""
    straight_through: Sequence[HyperResult] = ()
    """Trainings by the paper's estimator."""
    single: dict[str, Measured] = field(default_factory=dict)
    """Numbers ``(n,)`` of architectures by name: zero-cost proxies, accuracies after short trainings."""
    by_cell: dict[str, Measured] = field(default_factory=dict)
    """What each cell adds, ``(d, w)`` by name: to sizes, or to accuracies of trainings other than the supernets'."""

    def along_paths(self, table: Array) -> Array:
        """Sums over rows of a table of cells, ``(d, w)`` or ``(B, d, w)``, along all paths: ``(n,)`` or ``(B, n)``."""
        return table[..., np.arange(table.shape[-2]), self.paths].sum(axis=-1)

    def permuted(self, table: Array, count: int, rng: np.random.Generator) -> Array:
        """Sums over rows of a table ``(d, w)`` along all paths, ``(count, n)``, after random permutations of the cells.

        The different cells of each row are permuted. Columns with the same cell keep a common value, their mean. For
        predictors that give such columns different values, p-values are therefore approximate.
        """
        tables = np.empty((count, *table.shape))
        for i, row in enumerate(self.hyper_architecture.rows):
            keys, cells = np.unique([cell.key for cell in row], return_inverse=True)
            values = np.bincount(cells, weights=table[i]) / np.bincount(cells)
            tables[:, i] = rng.permuted(np.broadcast_to(values, (count, len(keys))), axis=1)[:, cells]
        return self.along_paths(tables)


def early(epochs: int) -> str:
    """Name of the predictor that trains architectures for a number of epochs."""
    return f"epochs_{epochs}"


def names(early_epochs: Sequence[int], chosen: Sequence[str] | None) -> list[str]:
    """Names of the predictors to compare, in a fixed order; ``fade`` is always one of them.

    Raises:
        InvalidInputError: for unknown names.
    """
    known = [*TABLES, "one_shot", *TRAINED, *map(early, early_epochs), *SIZES, *PROXIES]
    unknown = sorted(set(chosen or ()) - set(known))
    if unknown:
        raise InvalidInputError(f"expected predictors among {', '.join(known)}, got {', '.join(unknown)}")
    return [name for name in known if chosen is None or name in chosen or name == "fade"]


def predict(name: str, evidence: Evidence, resamples: int, seed: int) -> Prediction:
    """Scores by a predictor, with ``resamples`` replicates and permutations.

    Raises:
        InvalidInputError: if the predictor is not available, with the reason as its message.
    """
    rng = REPLICATES.rng(seed)

    def draws(repetitions: int) -> NDArray[np.int64]:
        """Resampled repetitions ``(B, R)``; none if there is only one repetition."""
        return rng.integers(repetitions, size=(resamples if repetitions > 1 else 0, repetitions))

    if name in evidence.single:
        values, seconds = evidence.single[name]
        return Prediction(_different(values), seconds)
    if name in evidence.by_cell:
        table, seconds = evidence.by_cell[name]
        scores = _different(evidence.along_paths(table))
        return Prediction(scores, seconds, None, evidence.permuted(table, resamples, rng))
    if name == "one_shot":
        accuracies = np.stack([one.path_accuracies for one in evidence.supernets])
        seconds = sum(one.seconds + one.path_seconds for one in evidence.supernets)
        drawn = [accuracies[draw].mean(axis=0) for draw in draws(len(accuracies))]
        return Prediction(accuracies.mean(axis=0), seconds, np.stack(drawn) if drawn else None)
    if name not in TABLES:
        raise InvalidInputError("it was not measured")
    trainings = evidence.straight_through if name.startswith("straight_through") else evidence.supernets
    if not trainings:
        raise InvalidInputError("no supernet was trained for it")
    drawn = [
        evidence.along_paths(TABLES[name]([trainings[i] for i in draw], evidence))
        for draw in draws(len(trainings)).tolist()
    ]
    table = TABLES[name](trainings, evidence)
    return Prediction(
        scores=evidence.along_paths(table),
        seconds=sum(one.seconds for one in trainings),
        replicates=np.stack(drawn) if drawn else None,
        permuted=evidence.permuted(table, resamples, rng),
    )


def _different(scores: Array) -> Array:
    """The scores, if they have any order."""
    if np.ptp(scores) == 0:
        raise InvalidInputError("it is the same for all architectures")
    return scores


def _log_alpha(trainings: Sequence[HyperResult], estimator: Estimator, hyper_architecture: HyperArchitecture) -> Array:
    """The FaDE-rank is the product of alphas; its logarithm is a sum over rows."""
    return np.log(np.maximum(combined_alpha(trainings, estimator, hyper_architecture), 1e-300))


def _training_losses(trainings: Sequence[HyperResult], evidence: Evidence) -> Array:
    effects = [path_effects(one.losses, evidence.hyper_architecture.width) for one in trainings]
    return -marginal_effects([one for one in effects if one is not None], evidence.hyper_architecture).value


def _unpooled(trainings: Sequence[HyperResult], evidence: Evidence) -> Array:
    """Scores as those of ``fade``, with equal cells of a row merged, but without pooling over rows."""
    effects = average_effects([one.effects for one in trainings if one.effects is not None])
    return -merge_same(effects, evidence.hyper_architecture.keys).value


def _borda(trainings: Sequence[HyperResult], _: Evidence) -> Array:
    return borda(np.stack([one.alpha for one in trainings]))


TABLES: dict[str, Callable[[Sequence[HyperResult], Evidence], Array]] = {
    "fade": lambda trainings, e: _log_alpha(trainings, e.estimator, e.hyper_architecture),
    "borda": _borda,
    "unpooled": _unpooled,
    "training_losses": _training_losses,
    "straight_through": lambda trainings, e: _log_alpha(trainings, "straight-through", e.hyper_architecture),
    "straight_through_borda": _borda,
    "straight_through_losses": _training_losses,
}
"""Predictors that sum over rows what supernets say about the cells, ``(d, w)``."""


def cell_effects(paths: NDArray[np.int64], values: Array, hyper_architecture: HyperArchitecture) -> Array:
    """What each cell adds, ``(d, w)``, to values of architectures along paths ``(n, d)``.

    The values are regressed on the columns as the losses of paths are for marginal alphas.
    """
    losses = PathLosses(paths, -values, np.zeros(len(paths), dtype=np.int64))
    effects = path_effects(losses, hyper_architecture.width)
    if effects is None:
        raise InvalidInputError(f"expected more designed trainings than effects of columns, got {len(paths)}")
    return -marginal_effects([effects], hyper_architecture).value
