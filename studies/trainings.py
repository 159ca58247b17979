"""Trainings that studies hand to an executor, looked up before they are paid for and recorded when they are done."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from analysis import figures
from fade_study import Architecture, HyperArchitecture, tracking
from fade_study.benchmarks import Scratch, Table
from fade_study.config import BilevelConfig, NetworkConfig, ScratchConfig
from fade_study.exceptions import WorkerDiedError
from fade_study.execution import completed, report
from fade_study.training import Data, HyperResult, ScratchResult, recipe, train_from_scratch, train_hyper_architecture

__all__ = ["ScratchTrainings", "is_due", "repetition_seeds", "seed_of", "train_hyper"]


class ScratchTrainings:
    """From-scratch trainings of architectures.

    Args:
        wanted: architectures and seeds.
        data: from ``load_data``.
        config: of the trainings.
        network: the macro-architecture.
        executor: that trains, from now on.
        table: of trainings that need not be done again, beside those on record.
    """

    def __init__(
        self,
        wanted: Iterable[tuple[Architecture, int]],
        data: Data,
        config: ScratchConfig,
        network: NetworkConfig,
        executor: Executor,
        table: Table | None = None,
    ) -> None:
        self.recipe = recipe(data, config, network)
        by_key = {(architecture.key, seed): architecture for architecture, seed in wanted}
        known = {} if table is None else table.find(self.recipe)
        if not by_key.keys() <= known.keys():
            known |= tracking.find_scratch(self.recipe, {key for key, _ in by_key})
        self.results = {name: known[name] for name in by_key if name in known}
        self.known = len(self.results)
        self.futures: dict[Future[ScratchResult], tuple[str, int]] = {}
        for (key, seed), architecture in by_key.items():
            if (key, seed) not in known:
                future = executor.submit(_scratch, architecture, data, config, network, seed)
                self.futures[future] = key, seed
                if future.done():  # trained in this process: recorded before the next one begins
                    self._record(future)

    @property
    def done(self) -> bool:
        """Whether nothing is left to wait for."""
        return all(future.done() for future in self.futures)

    def collect(self) -> dict[tuple[str, int], Scratch]:
        """Results by architecture key and seed; without those whose workers were killed, of which a warning tells."""
        for future in completed(list(self.futures)):
            self._record(future)
        return self.results

    def _record(self, future: Future[ScratchResult]) -> None:
        key, seed = self.futures.pop(future)
        try:
            self.results[key, seed] = tracking.log_scratch(key, self.recipe, seed, future.result())
        except WorkerDiedError as error:
            tracking.log_failed_scratch(key, self.recipe, seed, error)
            warnings.warn(f"no from-scratch result of {key} with seed {seed}: {error}", stacklevel=2)
        except Exception as error:
            error.add_note(f"in the training from scratch of {key} with seed {seed}")
            raise


def is_due(generation: int, every: int, *, last: bool) -> bool:
    """Whether a generation's anchor is trained from scratch: every so many, and the last; never where that is 0."""
    return every > 0 and (last or (generation + 1) % every == 0)


def seed_of(*parts: int) -> int:
    """A seed for a training that depends on all parts."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def repetition_seeds(seed: int, repetitions: int) -> list[int]:
    """Seeds of the trainings of one hyper-architecture; the first is its own."""
    return [seed, *(seed_of(seed, r, 1) for r in range(1, repetitions))]


def train_hyper(
    generation: int,
    hyper_architecture: HyperArchitecture,
    data: Data,
    config: BilevelConfig,
    network: NetworkConfig,
    seeds: Sequence[int],
    executor: Executor,
    paths: Sequence[Sequence[int]] = (),
    weights: Sequence[Mapping[str, Tensor] | None] | None = None,
) -> list[HyperResult]:
    """Train a hyper-architecture once per seed, each with a child run of its own.

    A single training runs in this process and is recorded epoch by epoch; several go through the executor. ``paths``
    are columns ``(n, d)`` whose one-shot accuracies are measured in each; ``weights``, one per seed, are those to begin
    with.
    """
    begin = [None] * len(seeds) if weights is None else weights
    if len(seeds) == 1:
        with tracking.start_hyper(generation, hyper_architecture, seeds[0]) as child:

            def on_epoch(epoch: int, alpha: NDArray[np.float64], metrics: dict[str, float]) -> None:
                child.metrics(metrics | tracking.alpha_metrics(alpha), step=epoch, now=False)

            result = train_hyper_architecture(
                hyper_architecture,
                data,
                config,
                network=network,
                seed=seeds[0],
                paths=paths,
                weights=begin[0],
                on_epoch=on_epoch,
            )
            _finish_hyper(child, result)
        return [result]
    tasks = {
        executor.submit(_hyper, hyper_architecture, data, config, network, seed, paths, first): seed
        for seed, first in zip(seeds, begin, strict=True)
    }
    results: dict[int, HyperResult] = {}
    for task in completed(list(tasks)):
        seed = tasks[task]
        try:
            result = results[seed] = task.result()
        except Exception as error:
            error.add_note(f"in the training of the hyper-architecture of generation {generation} with seed {seed}")
            raise
        with tracking.start_hyper(generation, hyper_architecture, seed) as child:
            epochs = zip(result.epochs, result.alpha_history, strict=True)
            child.series([(e, metrics | tracking.alpha_metrics(a)) for e, (metrics, a) in enumerate(epochs)], now=False)
            _finish_hyper(child, result)
    return [results[seed] for seed in seeds]


def _finish_hyper(child: tracking.Run, result: HyperResult) -> None:
    last = len(result.epochs) - 1
    child.metrics({"one_shot_accuracy": result.accuracy, "seconds": result.seconds}, step=last)
    child.figure(figures.draw_alpha_history(result.alpha_history), "figures/alpha.png")
    if result.effects is not None:
        child.json({"value": result.effects.value.tolist(), "error": result.effects.error.tolist()}, "effects.json")
    if result.warning is not None:
        child.tag("fade.warning", result.warning)


def _scratch(
    architecture: Architecture, data: Data, config: ScratchConfig, network: NetworkConfig, seed: int
) -> ScratchResult:
    on_epoch = _reporter(config.epochs)
    return train_from_scratch(architecture, data, config, network=network, seed=seed, on_epoch=on_epoch)


def _hyper(
    hyper_architecture: HyperArchitecture,
    data: Data,
    config: BilevelConfig,
    network: NetworkConfig,
    seed: int,
    paths: Sequence[Sequence[int]],
    weights: Mapping[str, Tensor] | None,
) -> HyperResult:
    on_epoch = _reporter(config.epochs)
    return train_hyper_architecture(
        hyper_architecture, data, config, network=network, seed=seed, paths=paths, weights=weights, on_epoch=on_epoch
    )


def _reporter(epochs: int) -> Callable[..., None]:
    return lambda epoch, *_: report((epoch + 1) / epochs)
