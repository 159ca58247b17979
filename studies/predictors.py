"""What predicts an architecture's from-scratch accuracy: FaDE-ranks, and everything that they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fade_study.exceptions import InvalidInputError
from fade_study.ranking import RULES
from fade_study.training.proxies import PROXIES

__all__ = ["Evidence", "Measured", "Prediction", "names", "predict"]

Array = NDArray[np.float64]
SIZES = ("operations", "longest_path", "parameters", "flops")


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
    replicates: Array | None
    """``(B, n)``, scores from resampled repetitions; None where there is nothing to repeat."""
    permuted: Array | None = None
    """``(B, n)``, scores after permuting the columns of each row's alphas, where alphas are all there is."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of n architectures but their ground truth."""

    paths: NDArray[np.int64]
    """``(n, d)``"""
    history: Array
    """Alphas of R trainings after each of E epochs, ``(R, E, d, w)``."""
    one_shot: Array
    """One-shot accuracies in each training, ``(R, n)``."""
    hyper_seconds: float
    """Of all R trainings."""
    one_shot_seconds: float
    """Of all one-shot accuracies."""
    single: dict[str, Measured]
    """Numbers of single architectures by name: sizes, zero-cost proxies, accuracies after short trainings."""


def early(epochs: int) -> str:
    """Name of the predictor by a training of so many epochs."""
    return f"epochs_{epochs}"


def names(early_epochs: Sequence[int], chosen: Sequence[str] | None) -> list[str]:
    """Names of the predictors to compare, in their order; ``fade`` is always among them.

    Raises:
        InvalidInputError: for names that do not exist.
    """
    known = [*RULES, "one_shot", "one_shot_rows", *map(early, early_epochs), *SIZES, *PROXIES]
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
    if name in evidence.single:
        values, seconds = evidence.single[name]
        if np.ptp(values) == 0:
            raise InvalidInputError("it is the same for all architectures")
        return Prediction(values, seconds, None)
    if name in RULES:
        rule, seconds = RULES[name], evidence.hyper_seconds

        def scores(repetitions: Sequence[int]) -> Array:
            return rule(evidence.history[list(repetitions)], evidence.paths)
    elif name in ("one_shot", "one_shot_rows"):
        seconds = evidence.hyper_seconds + evidence.one_shot_seconds
        smooth: Callable[[Array], Array] = _row_effects(evidence.paths) if name == "one_shot_rows" else lambda x: x

        def scores(repetitions: Sequence[int]) -> Array:
            return smooth(evidence.one_shot[list(repetitions)].mean(axis=0))
    else:
        raise InvalidInputError("it was not measured")
    count, _, depth, width = evidence.history.shape
    rng = np.random.default_rng([seed, 3])
    drawn = [scores(draw) for draw in rng.integers(count, size=(resamples, count))] if count > 1 else None
    permuted = None
    if name in RULES:
        orders = rng.permuted(np.broadcast_to(np.arange(width), (resamples, depth, width)), axis=2)
        # permuting columns of all alphas is permuting the columns of paths
        permuted = [RULES[name](evidence.history, order[np.arange(depth), evidence.paths]) for order in orders]
    return Prediction(
        scores(range(count)),
        seconds,
        None if drawn is None else np.stack(drawn),
        None if permuted is None else np.stack(permuted),
    )


def _row_effects(paths: NDArray[np.int64]) -> Callable[[Array], Array]:
    """What least squares on row × column effects makes of values ``(n,)``."""
    columns = [(paths[:, [i]] == np.unique(paths[:, i])).astype(float) for i in range(paths.shape[1])]
    u, s, _ = np.linalg.svd(np.concatenate(columns, axis=1), full_matrices=False)
    u = u[:, s > s[0] * 1e-9]
    return lambda values: u @ (u.T @ values)
