"""Worlds in which outer searches are compared: one trains networks, one looks accuracies up and simulates alphas.

Both count costs in training steps, and both have an oracle, which gives alphas from true accuracies.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from fade_study import FEATURES, PAPER_FEATURES, Architecture, Batch, Dag, DagSpace
from fade_study.benchmarks import Scratch, Table, load_table
from fade_study.exceptions import InvalidInputError
from fade_study.ranking import fade_rank
from fade_study.seeding import CHOICE, FINAL, SIMULATED_ACCURACY, SIMULATED_ALPHA
from fade_study.statistics.ranks import coefficient
from fade_study.studies.schemas import ComparisonConfig
from fade_study.studies.trainings import repetition_seeds
from fade_study.training import Data, combined_alpha, recipe, train_from_scratch, train_hyper_architecture

Array = NDArray[np.float64]
EXPLAINING = (*PAPER_FEATURES, "operations", "longest_path", "density", "mean_degree", "sources", "sinks")
"""Features of the linear model that extends a table of a sample to all architectures."""
PATHS = 100
"""Number of architectures of a hyper-architecture whose simulated ranks are compared with their accuracies."""


class Trained:
    """A world in which everything is trained but the oracle, which knows a table of the same trainings from scratch."""

    def __init__(self, config: ComparisonConfig, data: Data) -> None:
        self.config, self.data = config, data
        self.space = config.space.open()
        self.hyper_steps = _hyper_steps(config, len(data.weight))
        self.scratch_steps = config.scratch.steps(len(data.weight))

    def alphas(self, batch: Batch, *, straight_through: bool = False) -> Array:
        """Alphas ``(d, w)`` of the trained hyper-architecture, by the comparison's estimator or by the paper's."""
        config, hyper_architecture = self.config, batch.hyper_architecture
        bilevel = (straight_through and config.straight_through) or config.bilevel
        results = [
            train_hyper_architecture(hyper_architecture, self.data, bilevel, network=config.network, seed=seed)
            for seed in repetition_seeds(batch.seed, config.repetitions)
        ]
        return combined_alpha(results, bilevel.estimator, hyper_architecture)

    def check_oracle(self) -> None:
        """Raise an InvalidInputError if the table is not of the same trainings from scratch, or not for an oracle."""
        table = _table(self.config)
        wanted = recipe(self.data, self.config.scratch, self.config.network, device=table.device)
        if wanted not in table.recipe:  # a sample's recipe is `sample-` and that of its trainings
            raise InvalidInputError(
                "table: expected one of the same data, network and trainings from scratch for the oracle, got "
                f"{_name(self.config)}; leave the oracle out of searchers"
            )
        known = open_tabulated(self.config)
        unknown = [cell.key for cell in self.space if cell.key not in known.column]
        if unknown:
            raise InvalidInputError(
                f"space: expected cells that the oracle's table {_name(self.config)} has, got {len(unknown)} others, "
                f"such as {unknown[0]}; leave the oracle out of searchers"
            )

    def oracle(self, batch: Batch) -> Array:
        """Alphas ``(d, w)`` from true accuracies; they cost as much as if supernets had been trained."""
        return open_tabulated(self.config).oracle(batch)

    def evaluate(self, architecture: Architecture, seed: int) -> Scratch:
        """Train an architecture from scratch."""
        config = self.config
        result = train_from_scratch(architecture, self.data, config.scratch, network=config.network, seed=seed)
        return Scratch(result.test_accuracy, result.validation_accuracy, result.seconds)

    def final(self, architecture: Architecture, seed: int) -> float:
        """Mean test accuracy of trainings that no search has seen, which is what is reported."""
        seeds = [FINAL.seed(seed, i) for i in range(self.config.final_seeds)]
        return float(np.mean([self.evaluate(architecture, one).test for one in seeds]))


class Tabulated:
    """A world whose accuracies come from a table, and whose alphas are the table's marginal accuracies with noise.

    If the table has all architectures of its cells, each evaluation draws one of an architecture's trainings. If it is
    a sample, accuracies come from a linear model of the cells' graph features in each row, and the residuals of the
    sample are the noise.

    Raises:
        InvalidInputError: (a ``ValueError``) for a table with different rows, of another depth, or of other trainings
            than the settings.
    """

    def __init__(self, config: ComparisonConfig, table: Table) -> None:
        self.config, self.table = config, table
        rows = table.hyper_architecture.rows
        cells = [cell for cell in rows[0] if isinstance(cell, Dag)]
        if any(row != rows[0] for row in rows) or len(cells) < len(rows[0]):
            raise InvalidInputError(
                f"table: expected one with the same graphs as cells in every row, got {_name(config)}; take one such "
                "as fashion14-random or digits342"
            )
        if config.depth != len(rows):
            raise InvalidInputError(
                f"depth: expected {len(rows)}, the number of rows of the table {_name(config)}, got {config.depth}"
            )
        self.complete = len(table.paths) == table.hyper_architecture.size
        self.marginals, self.mean, self.residual = _marginals(table, self.complete)  # (d, n), mean of cells, (m,)
        self.column = {cell.key: j for j, cell in enumerate(cells)}
        self.index = {tuple(path): i for i, path in enumerate(table.paths.tolist())}
        scratch = config.scratch
        settings = table.ground_truth.settings.get("scratch", {})
        epochs, batch_size = settings.get("epochs"), settings.get("batch_size")
        if (scratch.epochs, scratch.batch_size) != (epochs, batch_size):
            raise InvalidInputError(
                f"expected scratch.epochs = {epochs} and scratch.batch_size = {batch_size}, "
                f"with which the table was trained, got {scratch.epochs} and {scratch.batch_size}"
            )
        images = 4 * table.images[1]  # the weight split is four times as large as the alpha split
        self.hyper_steps = _hyper_steps(config, images)
        self.scratch_steps = scratch.steps(images)
        sizes = [cell.vertices for cell in cells]
        self.space = DagSpace(max(sizes), min_vertices=min(sizes), features=config.space.features, only=cells)

    def alphas(self, batch: Batch, *, straight_through: bool = False) -> Array:
        """Alphas ``(d, w)`` with the noise of each repetition, averaged; the estimator makes no difference here."""
        utility, found = self._utility(batch), []
        for seed in repetition_seeds(batch.seed, self.config.repetitions):
            # A cell has the same noise in whatever column it is.
            noise = SIMULATED_ALPHA.rng(seed).standard_normal(self.marginals.shape)
            found.append(softmax(utility + self.config.alpha_noise * self._of_cells(noise, batch), axis=1))
        return np.mean(found, axis=0)

    def correlation(self, batch: Batch) -> float:
        """Spearman correlation of the simulated FaDE-ranks of a batch with the true accuracies, for random paths."""
        hyper_architecture = batch.hyper_architecture
        depth, width = hyper_architecture.shape
        paths = CHOICE.rng(batch.seed).integers(width, size=(PATHS, depth))
        accuracies = [self.final(hyper_architecture.architecture(path), 0) for path in paths.tolist()]
        return coefficient(fade_rank(self.alphas(batch), paths), accuracies)

    def oracle(self, batch: Batch) -> Array:
        """Alphas ``(d, w)`` without noise."""
        return softmax(self._utility(batch), axis=1)

    def evaluate(self, architecture: Architecture, seed: int) -> Scratch:
        """Accuracies of one of an architecture's trainings, or simulated ones."""
        path = self._path(architecture)
        rng = SIMULATED_ACCURACY.rng(seed)
        truth = self.table.ground_truth
        if self.complete:
            i, s = self.index[path], rng.integers(len(truth.seeds))
            return Scratch(float(truth.test[i, s]), float(truth.validation[i, s]), truth.seconds)
        accuracy = float(np.clip(self._mean(path) + rng.choice(self.residual), 0, 1))
        return Scratch(accuracy, accuracy, truth.seconds)

    def final(self, architecture: Architecture, seed: int) -> float:
        """Mean test accuracy, which is what is reported; the seed makes no difference here."""
        path = self._path(architecture)
        return float(self.table.ground_truth.test[self.index[path]].mean()) if self.complete else self._mean(path)

    def _path(self, architecture: Architecture) -> tuple[int, ...]:
        return tuple(self.column[cell.key] for cell in architecture)

    def _mean(self, path: tuple[int, ...]) -> float:
        return float(np.clip(self.mean + sum(self.marginals[i, j] for i, j in enumerate(path)), 0, 1))

    def _utility(self, batch: Batch) -> Array:
        """Marginal accuracies of a batch's cells in units of their standard deviation in the row, ``(d, w)``."""
        return self._of_cells(self.marginals / self.marginals.std(axis=1, keepdims=True), batch)

    def _of_cells(self, values: Array, batch: Batch) -> Array:
        """Values ``(d, n)`` of all cells, for those of a batch: ``(d, w)``."""
        return np.array([[values[i, self.column[one.cell.key]] for one in row] for i, row in enumerate(batch.trials)])


World = Trained | Tabulated
"""Costs of a generation in training steps are ``scratch_steps``, and ``hyper_steps`` as a pair: with the comparison's
estimator, and with the paper's."""


def open_world(config: ComparisonConfig, data: Data | None) -> World:
    """A world that trains on data, or one of a table if there are none."""
    # A Trained is not cached: every task brings its own copy of the data, which the cache would keep and never reuse.
    return open_tabulated(config) if data is None else Trained(config, data)


@cache
def open_tabulated(config: ComparisonConfig) -> Tabulated:
    """Made once in each process, since its many short searches share it."""
    return Tabulated(config, _table(config))


def _table(config: ComparisonConfig) -> Table:
    return load_table(_name(config))


def _name(config: ComparisonConfig) -> str:
    return config.table or {"train": "digits342", "tabular": "digits625"}[config.mode]


def _hyper_steps(config: ComparisonConfig, images: int) -> tuple[int, int]:
    """Training steps of a generation's hyper-architecture, by the comparison's estimator and by the paper's."""
    paper = config.straight_through or config.bilevel
    return config.hyper_steps(images), config.repetitions * paper.steps(images)


def _marginals(table: Table, complete: bool) -> tuple[Array, float, Array]:
    """What each cell adds in each row ``(d, n)``, the accuracy that it is added to, and the residuals ``(m,)``."""
    accuracy = table.ground_truth.test.mean(axis=1)
    depth, width = table.hyper_architecture.shape
    if complete:
        means = np.array([[accuracy[table.paths[:, i] == j].mean() for j in range(width)] for i in range(depth)])
        effects = means - accuracy.mean()
    else:
        effects = _regression(table, accuracy)
    left = accuracy - effects[np.arange(depth), table.paths].sum(axis=1)
    return effects, float(left.mean()), left - left.mean()


def _regression(table: Table, mean: Array) -> Array:
    """Effects ``(d, n)`` by a linear model of the cells' features in each row, centered over the cells."""
    from sklearn.linear_model import RidgeCV  # imported here because it takes long

    cells = [cell for cell in table.hyper_architecture.rows[0] if isinstance(cell, Dag)]
    values = np.array([[FEATURES[name](cell) for name in EXPLAINING] for cell in cells])
    scaled = (values - values.mean(axis=0)) / values.std(axis=0)  # (n, f)
    model: Any = RidgeCV(np.logspace(-1, 4, 20)).fit(scaled[table.paths].reshape(len(mean), -1), mean)
    return model.coef_.reshape(table.hyper_architecture.depth, -1) @ scaled.T
