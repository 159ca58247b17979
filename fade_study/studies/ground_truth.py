"""The ground truth of a rank validation: which architectures are judged, and their trainings as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from fade_study import HyperArchitecture, tracking
from fade_study.benchmarks import Scratch, Table, Trainings, load_table
from fade_study.cells import distant_cells
from fade_study.config import NetworkConfig, ScratchConfig
from fade_study.exceptions import InvalidInputError, WorkerDiedError
from fade_study.execution import phase
from fade_study.seeding import CHOICE
from fade_study.statistics.ranks import FEWEST
from fade_study.studies.schemas import ValidationConfig
from fade_study.studies.trainings import ScratchTrainings, is_truth
from fade_study.study.settings import plain
from fade_study.training import Data
from fade_study.training.session import open_accelerator

EARLY_SEED = 1000
"""Seed of short trainings. The ground truth never uses it, since predictors must not share its noise."""


class Case(NamedTuple):
    """A hyper-architecture on which predictors are judged."""

    name: str
    hyper_architecture: HyperArchitecture
    paths: NDArray[np.int64]
    """Columns ``(n, d)`` of the architectures that are judged."""
    table: Table | None
    """Ground truth that was trained before, if there is any."""


def open_cases(config: ValidationConfig, data: Data) -> list[Case]:
    """One case for each table; without tables, one case with the same cells in every row, still to be trained.

    Raises:
        InvalidInputError: (a ``ValueError``) for a table of other images, of other trainings from scratch, or of
            another depth.
    """
    if config.tables:
        cases = []
        for name in config.tables:
            table = load_table(name)
            if not is_truth(table, data, config.scratch, config.network):
                settings = table.ground_truth.settings
                same = settings == plain(training_settings(config.scratch, config.network))
                of = f"other images than {data.name}, or another split" if same else f"other settings: {dict(settings)}"
                raise InvalidInputError(
                    f"expected a table of trainings with these images, network and scratch settings, got {name}, which "
                    f"is of {of}; use those of the table, or leave tables empty to train the ground truth"
                )
            if config.depth != table.hyper_architecture.depth:
                raise InvalidInputError(
                    f"depth: expected {table.hyper_architecture.depth}, the number of rows of the table {name}, got "
                    f"{config.depth}; set it to that"
                )
            cases.append(Case(name, table.hyper_architecture, table.paths, table))
    else:
        cells = distant_cells(config.space.open(), config.cells, config.operations)
        hyper_architecture = HyperArchitecture((cells,) * config.depth)
        cases = [Case("equal cells", hyper_architecture, all_paths(hyper_architecture.shape), None)]
    return [
        case._replace(paths=choose_paths(case.paths, config.half, config.architectures, config.seed)) for case in cases
    ]


def all_paths(shape: tuple[int, int]) -> NDArray[np.int64]:
    """All w^d paths, ``(w^d, d)``."""
    depth, width = shape
    return np.indices((width,) * depth).reshape(depth, -1).T


def choose_paths(paths: NDArray[np.int64], half: str, count: int | Literal["all"], seed: int) -> NDArray[np.int64]:
    """Choose some of the paths ``(n, d)``, in their order, so that the columns of a row are about equally frequent.

    The halves ``selection`` and ``report`` are disjoint and do not depend on the seed.

    Raises:
        InvalidInputError: (a ``ValueError``) for a count larger than the number of paths.
    """
    shuffled = np.random.default_rng(0).permutation(len(paths))
    middle = len(paths) // 2
    index = {"both": shuffled, "selection": shuffled[:middle], "report": shuffled[middle:]}[half]
    if count != "all":
        if count > len(index):
            raise InvalidInputError(f"architectures: expected up to {len(index)}, got {count}; there are no more")
        index = CHOICE.rng(seed).permutation(index)
        rows = np.arange(paths.shape[1])
        frequency, chosen, left = np.zeros((len(rows), paths.max() + 1)), [], np.ones(len(index), dtype=bool)
        for _ in range(count):  # greedily: the path whose columns were chosen least often so far
            best = int(np.where(left, frequency[rows, paths[index]].sum(axis=1), np.inf).argmin())
            left[best] = False
            chosen.append(index[best])
            frequency[rows, paths[index[best]]] += 1
        index = np.array(chosen)
    return paths[np.sort(index)]


def plan(
    case: Case, early_epochs: Sequence[int], config: ValidationConfig
) -> list[tuple[ScratchConfig, tuple[int, ...]]]:
    """Settings and seeds of the trainings of each architecture: first the ground truth, then the short trainings."""
    seeds = tuple(range(config.scratch_seeds)) if case.table is None else case.table.ground_truth.seeds
    early = [(dataclasses.replace(config.scratch, epochs=epochs), (EARLY_SEED,)) for epochs in early_epochs]
    return [(config.scratch, seeds), *early]


def train_scratch(
    case: Case,
    early_epochs: Sequence[int],
    data: Data,
    config: ValidationConfig,
    executor: Executor,
    after: float | None = None,
) -> tuple[Table, list[int]]:
    """Train the ground truth of a case, and the same architectures for other numbers of epochs as predictors of it.

    Architectures of which a training failed are left out. Returns a table whose first trainings are the ground truth,
    and the numbers that its architectures have in the case. Raises a ``WorkerDiedError`` if too few are left. The work
    that follows is ``after`` times as much as this.
    """
    architectures = [case.hyper_architecture.architecture(path) for path in case.paths.tolist()]
    plans = plan(case, early_epochs, config)
    different = len({architecture.key for architecture in architectures})  # rows may hold a cell twice
    count = different * sum(len(seeds) for _, seeds in plans)
    print(f"phase 2 of 3: ground truth, {count} trainings from scratch", flush=True)
    with phase("phase 2 of 3: ground truth", count, after):
        trainings = [
            ScratchTrainings(
                [(a, seed) for seed in seeds for a in architectures], data, one, config.network, executor, case.table
            )
            for one, seeds in plans
        ]
        known = sum(one.known for one in trainings)
        tqdm.write(f"phase 2 of 3: ground truth, {known} of {count} were on record")
        found = [one.collect() for one in trainings]
    complete = [
        i
        for i, a in enumerate(architectures)
        if all((a.key, seed) in results for results, (_, seeds) in zip(found, plans, strict=True) for seed in seeds)
    ]
    if len(complete) < FEWEST:
        raise WorkerDiedError(
            f"expected {FEWEST} architectures or more with all their trainings, got {len(complete)} of "
            f"{len(architectures)}; run the same command again to repeat only the missing ones"
        )
    keys = [architectures[i].key for i in complete]
    table = Table(
        hyper_architecture=case.hyper_architecture,
        paths=case.paths[complete],
        recipe=trainings[0].recipe,
        trainings={
            one.recipe: as_trainings(results, keys, seeds, scratch, config.network)
            for one, results, (scratch, seeds) in zip(trainings, found, plans, strict=True)
        },
        images=(len(data.test), len(data.alpha)),
        commit=tracking.commit(),
        device=open_accelerator().device.type,
    )
    return table, complete


def training_settings(scratch: ScratchConfig, network: NetworkConfig) -> dict[str, Any]:
    """Settings of trainings from scratch, as tables hold them."""
    return {"scratch": dataclasses.asdict(scratch), "network": dataclasses.asdict(network)}


def as_trainings(
    found: dict[tuple[str, int], Scratch],
    keys: Sequence[str],
    seeds: tuple[int, ...],
    scratch: ScratchConfig,
    network: NetworkConfig,
) -> Trainings:
    """Evaluations by architecture key and seed, as the arrays of a table."""
    results = np.array([[found[key, seed] for seed in seeds] for key in keys])  # (n, S, 3)
    return Trainings(
        settings=training_settings(scratch, network),
        seeds=seeds,
        test=results[..., 0],
        validation=results[..., 1],
        seconds=float(np.median(results[..., 2])),  # the median, since other work on the machine delays some trainings
    )
