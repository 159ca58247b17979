"""Every random stream that results depend on, in one table.

A stream is a function of the numbers named here only, so that results do not depend on what ran before in the process.
Streams with the same number of parts have different ids. Recorded results depend on ids and on the order of parts: add
a stream rather than change one. Not in the table are the fixed seeds of scripts that measure or make tables, those of
a validation's choice of paths and short trainings, those of final trainings, which are numbers of their own, and
regularized evolution, which draws from its own seed for as long as it lives, as Optuna's samplers do.
"""

from __future__ import annotations

from typing import Final

import numpy as np


class Stream:
    """Random numbers for one purpose.

    Args:
        *parts: Names of the numbers on which the stream depends.
        id: Number that distinguishes streams with the same number of parts; None adds no number.
    """

    def __init__(self, *parts: str, id: int | None = None) -> None:  # noqa: A002 - an id
        self.parts, self.id = parts, id

    def rng(self, *values: int) -> np.random.Generator:
        """A generator, from one value for each part."""
        return np.random.default_rng(self._sequence(values))

    def seed(self, *values: int) -> int:
        """A seed of 32 bits, from one value for each part."""
        return int(self._sequence(values).generate_state(1)[0])

    def long_seed(self, *values: int) -> int:
        """A seed of 63 bits for PyTorch, from one value for each part."""
        return int(self._sequence(values).generate_state(1, np.uint64)[0] >> 1)

    def _sequence(self, values: tuple[int, ...]) -> np.random.SeedSequence:
        assert len(values) == len(self.parts), f"expected {self.parts}, got {values}"
        return np.random.SeedSequence([*values, *([] if self.id is None else [self.id])])


# the study
PROPOSALS: Final = Stream("seed", "row", "generation")
"""Random numbers of outer searches, such as first anchors and challengers."""
TIES: Final = Stream("seed", "row", "generation", id=1)
"""Choice among several cells nearest to a point."""
TRAINING: Final = Stream("seed", "generation", "attempt", id=2)
"""Seed of a generation's training."""
REPETITION: Final = Stream("seed", "repetition", id=1)
"""Seeds of further trainings of the same hyper-architecture."""

# data
SPLIT: Final = Stream("split seed")
"""Order of the images within the splits; scikit-learn draws the stratified splits themselves from the plain seed."""

# trainings
TRAINING_NOISE: Final = Stream("seed", id=1)
"""Paths, Gumbel noise and the order of images; PyTorch's own generator draws the weights from the plain seed."""

# statistics
BOOTSTRAP: Final = Stream("seed", id=11)
"""Bootstrap resamples of architectures."""
PERMUTED: Final = Stream("seed", id=12)
"""Permutations behind the p-value of a coefficient."""
NULL: Final = Stream("seed", id=13)
"""Permutations behind the null distribution that an estimate keeps for a mean over hyper-architectures."""
REPETITION_CURVE: Final = Stream("seed", id=15)
"""Subsets of trainings behind the curve of a coefficient against their number."""
SIGNS: Final = Stream("seed", id=14)
"""Random signs of whole searches."""

# studies
REPLICATES: Final = Stream("seed", id=3)
"""Bootstrap resamples of the trainings of a hyper-architecture."""
CHOICE: Final = Stream("seed", id=4)
"""Choice of the architectures of a hyper-architecture on which predictors are compared."""
VALIDATION: Final = Stream("seed", "hyper-architecture", id=2)
"""Seeds of the supernets of a validation."""
SIMULATED_ALPHA: Final = Stream("seed", id=6)
SIMULATED_ACCURACY: Final = Stream("seed", id=7)
SHUFFLE: Final = Stream("seed", id=8)
"""Permutations of alphas within rows, for a control of the arena."""
RANDOM_SEARCHES: Final = Stream("seed", id=9)
RANDOM_TABLES: Final = Stream("seed", id=10)
"""Bootstrap resamples of the architectures of a table."""
EVALUATION: Final = Stream("seed", "repeats", id=0)
"""Seeds of a search's trainings from scratch in the arena."""
FINAL: Final = Stream("seed", "final seed", id=3)
"""Seeds of the arena's final trainings, which no search uses."""
