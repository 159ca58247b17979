"""How good a search's answer is, compared with where it began and with random search for the same price."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from fade_study import SPECTRAL_FEATURES, Architecture, Dag, tracking
from fade_study.benchmarks import FOLDER, Table, load_table
from fade_study.builders import describe_network
from fade_study.config import BilevelConfig, NetworkConfig
from fade_study.nn import Classifier, Network
from fade_study.seeding import RANDOM_SEARCHES, RANDOM_TABLES
from fade_study.studies.json_lines import read_lines
from fade_study.studies.schemas import SearchConfig, ValidationConfig
from fade_study.studies.trainings import ScratchTrainings, is_truth
from fade_study.study.settings import flatten, plain
from fade_study.training import Data

FINAL_SEED = 2000
"""First seed of the trainings from scratch by which nothing is chosen."""
DRAWS = 2000
"""Number of random searches that are drawn from a table."""
REGIMES = FOLDER / "regimes.jsonl"
"""What validations have found, one line for each: the file ``regimes.jsonl`` of the validation's run."""
STRAIGHT_THROUGH = {
    "alpha_learning_rate", "alpha_every", "alpha_init_std", "temperature", "regularization"
}  # fmt: skip
"""Settings that matter only where straight-through steps are taken."""
Array = NDArray[np.float64]


class Difference(NamedTuple):
    """Difference of two mean accuracies with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def final_accuracies(
    architectures: Sequence[Architecture], data: Data, config: SearchConfig, executor: Executor
) -> tuple[list[Array], dict[str, Tensor] | None]:
    """Test accuracies ``(seeds,)`` of each architecture in trainings by which nothing was chosen.

    The second value is the state of the first network of the first architecture; None if that training failed.
    """
    seeds = range(FINAL_SEED, FINAL_SEED + config.final_seeds)
    wanted = [(architecture, seed) for architecture in architectures for seed in seeds]
    folder = Path(config.checkpoint_dir)
    kept = architectures[0].key, FINAL_SEED
    trainings = ScratchTrainings(
        wanted, data, config.scratch, config.network, executor, checkpoints=folder, keep_states={kept}
    )
    found = trainings.collect()
    accuracies = [
        np.array([found[architecture.key, seed].test for seed in seeds if (architecture.key, seed) in found])
        for architecture in architectures
    ]
    return accuracies, trainings.states.get(kept)


def difference(one: Array, other: Array) -> Difference | None:
    """Mean of one minus mean of the other, with Welch's interval; None unless both have two trainings or more."""
    if min(len(one), len(other)) < 2:
        return None
    result: Any = stats.ttest_ind(one, other, equal_var=False)
    interval = result.confidence_interval(0.95)
    value = float(one.mean() - other.mean())
    low, high = float(interval.low), float(interval.high)
    return Difference(value, *((low, high) if np.isfinite([low, high]).all() else (value, value)))


def random_searches(table: Table, trainings: int, seed: int = 0, index: NDArray[np.int64] | None = None) -> Array:
    """Test accuracies that random searches end with, ``(DRAWS,)``.

    Each search trains random architectures of the table with one of its seeds, and picks the one with the best
    validation accuracy. Its result is the mean test accuracy of that architecture with the other seeds, of which the
    table needs one or more. The seeds choose in turn. ``index`` replaces the table's architectures by some of them,
    which may repeat, as in a bootstrap.
    """
    truth = table.ground_truth
    index = np.arange(len(table.paths)) if index is None else index
    drawn = index[RANDOM_SEARCHES.rng(seed).integers(len(index), size=(DRAWS, max(1, trainings)))]
    search, seeds = np.arange(DRAWS), truth.test.shape[1]
    chooser = search % seeds
    best = drawn[search, truth.validation[drawn, chooser[:, None]].argmax(axis=1)]
    return (truth.test[best].sum(axis=1) - truth.test[best, chooser]) / (seeds - 1)


def against_random_search(answer: Array, table: Table, trainings: int, seed: int = 0) -> Difference:
    """Mean of an answer's accuracies, of which there are two or more, minus that of random searches.

    The interval covers the noise of the answer's trainings and the choice of the table's architectures.
    """
    rng = RANDOM_TABLES.rng(seed)
    count = len(table.paths)
    again = [random_searches(table, trainings, seed, rng.integers(count, size=count)).mean() for _ in range(200)]
    error = np.hypot(answer.std(ddof=1) / np.sqrt(len(answer)), np.std(again))
    reach = stats.t.ppf(0.975, len(answer) - 1) * error
    value = float(answer.mean() - random_searches(table, trainings, seed).mean())
    return Difference(value, value - float(reach), value + float(reach))


def random_table(data: Data, config: SearchConfig) -> Table | None:
    """The shipped table of architectures at random points of the same space, similarly trained, if there is one."""
    if set(config.space.features) != set(SPECTRAL_FEATURES):  # the points of all these tables have these features
        return None
    known = {cell.key for cell in config.space.open()}
    for file in sorted(FOLDER.glob("*-random.json")):
        table = load_table(file.stem)
        rows = table.hyper_architecture
        same = rows.depth == config.depth and {cell.key for cell in rows.rows[0]} == known
        if same and is_truth(table, data, config.scratch, config.network):
            return table
    return None


class Regime(NamedTuple):
    """What a validation has found of ranks by this estimator, with these images and networks."""

    spearman: Sequence[float]
    """Spearman correlation of FaDE-ranks with from-scratch accuracy, and its 95 % interval."""
    operations: Sequence[float] | None
    """The same of the number of operations, which costs nothing; None where it is unknown."""
    of: str
    """What was validated."""
    different: list[str]
    """Other settings on which ranks depend, where those of the search are not the validation's."""


def regime(data: Data, config: SearchConfig) -> Regime | None:
    """What the validation on record with the most similar settings has found; None if there was none."""
    wanted = {"data": data.digest, "network": describe_network(config.network, [Dag])}
    here, found = regime_settings(config, config.bilevel, config.repetitions), []
    for line in reversed(list(read_lines(REGIMES))):
        there = line["settings"]
        if wanted.items() <= line.items() and there["bilevel.estimator"] == config.bilevel.estimator:
            names = [name for name in here if here[name] != there.get(name)]
            if here["repetitions"] > there["repetitions"]:  # more supernets only average out more noise
                names.remove("repetitions")
            different = [f"{name} = {here[name]} instead of {there.get(name)}" for name in names]
            found.append(Regime(line["spearman"], line["operations"], line["of"], different))
    return min(found, key=lambda one: len(one.different), default=None)


def regime_settings(
    config: SearchConfig | ValidationConfig, bilevel: BilevelConfig, repetitions: int
) -> dict[str, Any]:
    """Settings on which the quality of ranks depends, besides images and networks, by dotted name.

    The sampler is not among them: later generations and other samplers propose other cells than were validated.
    """
    unused = {"threads", "one_shot_paths"} | (set() if bilevel.straight_through else STRAIGHT_THROUGH)
    settings = {
        "depth": config.depth,
        "repetitions": repetitions,
        "space": dataclasses.asdict(config.space),
        "bilevel": {name: value for name, value in dataclasses.asdict(bilevel).items() if name not in unused},
        "scratch": {name: value for name, value in dataclasses.asdict(config.scratch).items() if name not in unused},
    }
    return flatten(plain(settings))


def keep_model(
    run: tracking.Run,
    architecture: Architecture,
    state: dict[str, Tensor],
    data: Data,
    network: NetworkConfig,
    register: str | None,
) -> None:
    """Log a trained network as the model ``best`` of a run, registered under a name if one is given."""
    untrained = Network(architecture, data.image_shape, data.classes, network)
    classifier = Classifier(untrained, state, data.mean, data.deviation)
    try:
        run.model("best", classifier, data.image_shape, data.labels, register=register)
    except RuntimeError as error:  # PyTorch can't export every operation that a user may have registered
        warnings.warn(f"the network is not kept as a model, since PyTorch can't export it: {error}", stacklevel=2)
    else:
        print(f"Kept as a model: mlflow.pytorch.load_model('runs:/{run.id}/best')")
