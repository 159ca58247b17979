"""Measurements that predictors need beside the supernets: sizes, zero-cost proxies and short trainings."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import numpy as np
import torch

from fade_study import Architecture, Dag, HyperArchitecture
from fade_study.benchmarks import Scratch
from fade_study.cells.features import longest_path, operations
from fade_study.config import NetworkConfig
from fade_study.effects import losses_needed
from fade_study.execution import completed, phase
from fade_study.nn import Network, flops, parameters
from fade_study.studies.ground_truth import EARLY_SEED
from fade_study.studies.predictors import Measured, cell_effects
from fade_study.studies.schemas import ValidationConfig
from fade_study.studies.trainings import ScratchTrainings
from fade_study.training import Data
from fade_study.training.alphas import fair_paths
from fade_study.training.proxies import PROXIES
from fade_study.training.session import session

PROXY_IMAGES = 64
"""Number of images on which zero-cost proxies are computed."""
CHUNK = 25
"""Number of architectures whose zero-cost proxies are one task."""


def measure_architectures(
    architectures: Sequence[Architecture],
    predictors: Sequence[str],
    data: Data,
    config: ValidationConfig,
    executor: Executor,
) -> dict[str, Measured]:
    """Those zero-cost proxies of untrained architectures that are compared, by name."""
    proxies = [name for name in PROXIES if name in predictors]
    if not proxies:
        return {}
    chunks = [architectures[i : i + CHUNK] for i in range(0, len(architectures), CHUNK)]
    tasks = [executor.submit(_measure_untrained, chunk, proxies, data, config.network, config.seed) for chunk in chunks]
    for _ in completed(tasks, "phase 3 of 3: proxies"):
        pass
    found = [task.result() for task in tasks]
    return {
        name: Measured(np.concatenate([one[name].values for one in found]), sum(one[name].seconds for one in found))
        for name in proxies
    }


def _measure_untrained(
    architectures: Sequence[Architecture], proxies: Sequence[str], data: Data, config: NetworkConfig, seed: int
) -> dict[str, Measured]:
    """In a worker: zero-cost proxies of some architectures."""
    images, labels = data.weight.images[:PROXY_IMAGES], data.weight.labels[:PROXY_IMAGES]
    measured = {}
    with session(seed, 1):
        for name in proxies:
            values, begin = [], time.perf_counter()
            for architecture in architectures:
                torch.manual_seed(seed)
                network = Network(architecture, data.image_shape, data.classes, config)
                try:
                    values.append(float(PROXIES[name](network, images, labels)))
                except (ValueError, np.linalg.LinAlgError):  # no signal passes the network; NaN is refused later
                    values.append(float("nan"))
            measured[name] = Measured(np.array(values), time.perf_counter() - begin)
    return measured


def measure_sizes(hyper_architecture: HyperArchitecture, data: Data, config: NetworkConfig) -> dict[str, Measured]:
    """What each cell adds to an architecture's size, ``(d, w)`` by the name of the size.

    Sizes are sums over rows, so those of d·w architectures, which differ from the first columns in one row, give all.
    The first row holds everything outside of the cells as well, so that sums along paths are the sizes themselves.
    """

    def network(architecture: Architecture) -> Network:
        return Network(architecture, data.image_shape, data.classes, config)

    def of_cells(feature: Callable[[Dag], float]) -> Callable[[Architecture], float]:
        return lambda architecture: sum(feature(cell) for cell in architecture if isinstance(cell, Dag))

    sizes: dict[str, Callable[[Architecture], float]] = {
        "operations": of_cells(operations),
        "longest_path": of_cells(longest_path),
        "parameters": lambda architecture: parameters(network(architecture)),
        "flops": lambda architecture: flops(network(architecture), data.image_shape),
    }
    first = tuple(row[0] for row in hyper_architecture.rows)
    measured = {}
    for name, size in sizes.items():
        begin = time.perf_counter()
        table = np.array([
            [size(Architecture((*first[:i], cell, *first[i + 1 :]))) for cell in row]
            for i, row in enumerate(hyper_architecture.rows)
        ], dtype=float)  # fmt: skip
        table[1:] -= size(Architecture(first))
        measured[name] = Measured(table, time.perf_counter() - begin)
    return measured


def measure_cells(
    hyper_architecture: HyperArchitecture,
    predictors: Sequence[str],
    data: Data,
    config: ValidationConfig,
    executor: Executor,
    later: int = 0,
) -> dict[str, Measured]:
    """What each cell adds, ``(d, w)`` by name, from short trainings with about as many steps as the supernets.

    ``short_trainings`` trains architectures along fair paths for one epoch each, and regresses their validation
    accuracies on the columns. ``chains`` trains, for each cell, the architecture that has it in every row, for whole
    epochs. Both take more steps if the supernets are too short for the fewest paths, or for an epoch of each chain. The
    command has ``later`` steps after these.
    """
    depth, width = hyper_architecture.shape
    epoch, steps = data.weight.steps(config.scratch.batch_size), config.hyper_steps(len(data.weight))

    def train(name: str, architectures: Sequence[Architecture], epochs: int, after: int) -> tuple[np.ndarray, float]:
        """Validation accuracies ``(n,)``, NaN where a worker was killed, and seconds."""
        scratch = dataclasses.replace(config.scratch, epochs=epochs)
        wanted = [(architecture, EARLY_SEED) for architecture in architectures]
        with phase(f"phase 3 of 3: {name}", len(wanted), after / steps):
            found = ScratchTrainings(wanted, data, scratch, config.network, executor).collect()
        lost = Scratch(np.nan, np.nan, 0.0)
        results = [found.get((architecture.key, EARLY_SEED), lost) for architecture in architectures]
        return np.array([one.validation for one in results]), sum(one.seconds for one in results)

    measured = {}
    if "short_trainings" in predictors:
        count = max(losses_needed((depth, width), 1), steps // epoch)
        paths = np.array(fair_paths(count, (depth, width), torch.Generator().manual_seed(config.seed)))
        short = [hyper_architecture.architecture(path) for path in paths.tolist()]
        values, seconds = train("short trainings", short, 1, later + steps * ("chains" in predictors))
        done = np.isfinite(values)
        measured["short_trainings"] = Measured(cell_effects(paths[done], values[done], hyper_architecture), seconds)
    if "chains" in predictors:
        cells = {cell.key: cell for row in hyper_architecture.rows for cell in row}
        chains = [Architecture((cell,) * depth) for cell in cells.values()]
        values, seconds = train("chains", chains, max(1, steps // (epoch * len(cells))), later)
        by_key = dict(zip(cells, values, strict=True))
        table = np.array([[by_key[cell.key] for cell in row] for row in hyper_architecture.rows])
        measured["chains"] = Measured(table, seconds)
    return measured
