"""Trainings that studies hand to an executor: looked up before they are trained, recorded when they are done."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import socket
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

import fade_study
from fade_study import Architecture, HyperArchitecture, tracking
from fade_study.analysis import figures
from fade_study.benchmarks import Scratch, Table
from fade_study.config import BilevelConfig, NetworkConfig, ScratchConfig
from fade_study.exceptions import ClusterError, WorkerDiedError
from fade_study.execution import advance, completed, phase, report_epoch, shares_files, watch
from fade_study.seeding import REPETITION
from fade_study.studies import notes
from fade_study.studies.repeated_warnings import recorded, result_of
from fade_study.studies.schemas import SearchConfig
from fade_study.training import (
    Data,
    HyperResult,
    ScratchResult,
    combined_alpha,
    recipe,
    train_from_scratch,
    train_hyper_architecture,
)
from fade_study.training.checkpoint import Checkpoint
from fade_study.training.distributed import Processes
from fade_study.training.session import open_accelerator, surroundings

T = TypeVar("T")


class ScratchTrainings:
    """Trainings of architectures from scratch, which begin at once.

    A training that the table, the tracking store or ``done`` has is not repeated, unless its network is to be kept
    (``keep_states``, by key and seed). ``generations`` names the generation that an architecture is trained for, by its
    key. ``checkpoints`` is the folder of their states, which is ignored where the executor does not share it.
    """

    def __init__(
        self,
        wanted: Iterable[tuple[Architecture, int]],
        data: Data,
        config: ScratchConfig,
        network: NetworkConfig,
        executor: Executor,
        table: Table | None = None,
        checkpoints: Path | None = None,
        generations: Mapping[str, int] = MappingProxyType({}),
        done: Mapping[tuple[str, int], Scratch] = MappingProxyType({}),
        keep_states: Collection[tuple[str, int]] = (),
    ) -> None:
        self.checkpoints = checkpoints if shares_files(executor) else None
        self.generations, self.chance = generations, data.chance
        by_key = {(architecture.key, seed): architecture for architecture, seed in wanted}
        found_by = partial(
            recipe, data, config, network, cell_types={type(cell) for a in by_key.values() for cell in a}
        )
        self.recipe = found_by()
        self.wanted = list(by_key)
        known = {**({} if table is None else table.find(found_by(device=table.device))), **done}
        if not by_key.keys() <= known.keys():
            known |= tracking.find_scratch(self.recipe, {key for key, _ in by_key})
        self.results = {name: known[name] for name in by_key if name in known and name not in keep_states}
        self.states: dict[tuple[str, int], dict[str, Tensor]] = {}
        """States of trained networks by architecture key and seed."""
        self.known = len(self.results)
        advance(self.known, on_record=True)
        self.futures: dict[Future[tuple[ScratchResult, list[str]]], tuple[str, int]] = {}
        for (key, seed), architecture in by_key.items():
            if (key, seed) not in self.results:
                future = submit(
                    executor,
                    train_from_scratch,
                    architecture,
                    data,
                    config,
                    network=network,
                    seed=seed,
                    checkpoint=self._file(key, seed),
                    on_epoch=partial(report_epoch, config.epochs),
                    keep_state=(key, seed) in keep_states,
                )
                self.futures[future] = key, seed
                if future.done():  # trained in this process: record it before the next one begins
                    self._record(future)

    @property
    def done(self) -> bool:
        """Whether all trainings have ended."""
        return all(future.done() for future in self.futures)

    def collect(self) -> dict[tuple[str, int], Scratch]:
        """Results by architecture key and seed, in the order in which they were wanted.

        A warning names those that are missing, as their workers died.
        """
        for future in completed(list(self.futures)):
            self._record(future)
        return {name: self.results[name] for name in self.wanted if name in self.results}

    def _file(self, key: str, seed: int) -> Path | None:
        return checkpoint_file(self.checkpoints, self.recipe, key, seed)

    def _record(self, future: Future[tuple[ScratchResult, list[str]]]) -> None:
        key, seed = self.futures.pop(future)
        try:
            result, generation = result_of(future), self.generations.get(key)
            note = notes.scratch(key, seed, result, self.chance)
            self.results[key, seed] = tracking.log_scratch(key, self.recipe, seed, result, generation, note)
            if result.state is not None:
                self.states[key, seed] = result.state
            forget(self._file(key, seed))
        except WorkerDiedError as error:
            tracking.log_failed_scratch(key, self.recipe, seed, error, self.generations.get(key))
            warnings.warn(f"no from-scratch result of {key} with seed {seed}: {error}", stacklevel=2)
        except Exception as error:
            error.add_note(f"in the training from scratch of {key} with seed {seed}")
            raise


def is_truth(table: Table, data: Data, config: ScratchConfig, network: NetworkConfig) -> bool:
    """Whether a table holds trainings with these images and settings, on any kind of device."""
    found = table.recipe == recipe(data, config, network, device=table.device)
    if found and (here := open_accelerator().device.type) != table.device:
        warnings.warn(
            f"the table's ground truth was trained on {table.device}, this process trains on {here}", stacklevel=2
        )
    return found


def submit(executor: Executor, training: Callable[..., T], *args: Any, **kwargs: Any) -> Future[tuple[T, list[str]]]:
    """Submit a training that has to run on the kind of device, and with the precision, of this process.

    Both are part of a training's recipe. The future raises a ``ClusterError`` where the worker has others.
    ``result_of`` gives the result of the future, and the training's warnings.
    """
    future = executor.submit(_train_as, surroundings(open_accelerator()), training, *args, **kwargs)
    watch(future)
    return future


def train_each(
    executor: Executor, trainings: Mapping[tuple[Any, ...], Callable[[], T]], label: str
) -> Iterator[tuple[Any, T]]:
    """Submit trainings, and yield the name and the result of each as it ends.

    An error of a training gets a note of where it was raised: ``label`` with the name's parts as its fields.
    """
    tasks: dict[Future[tuple[T, list[str]]], tuple[Any, ...]] = {}

    def result(task: Future[tuple[T, list[str]]]) -> tuple[Any, T]:
        name = tasks.pop(task)
        try:
            return name, result_of(task)
        except Exception as error:
            error.add_note(f"in {label.format(*name)}")
            raise

    for name, training in trainings.items():
        task = submit(executor, training)
        tasks[task] = name
        if task.done():  # it ran in this process: used before the next one begins
            yield result(task)
    for task in completed(list(tasks)):
        yield result(task)


def _train_as(
    expected: Mapping[str, str], training: Callable[..., T], *args: Any, **kwargs: Any
) -> tuple[T, list[str]]:
    """Train in a worker."""
    found = surroundings(open_accelerator())
    if found != expected:
        raise ClusterError(
            f"expected workers to train as this process would, on {_name(expected)}, got {_name(found)} in process "
            f"{os.getpid()} on host {socket.gethostname()!r}; end that one, or start all on machines of one kind, with "
            "the same ACCELERATE_MIXED_PRECISION"
        )
    return recorded(training, *args, **kwargs)


def _name(surroundings: Mapping[str, str]) -> str:
    return f"{surroundings['device']} with mixed precision {surroundings['precision']}"


def checkpoint_file(folder: Path | None, *parts: Any) -> Path | None:
    """File of a training that is identified by its parts; named by their hash, since they may hold any characters."""
    name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    return None if folder is None else folder / f"{name}.pt"


def hyper_file(
    folder: Path | None, hyper_architecture: HyperArchitecture, config: BilevelConfig, seed: int
) -> Path | None:
    """Checkpoint file of the training of a hyper-architecture."""
    return checkpoint_file(folder, hyper_architecture.keys, dataclasses.asdict(config), seed)


def forget(file: Path | None) -> None:
    """Remove a checkpoint, once the result of its training is stored."""
    if file is not None:
        Checkpoint(file).remove()


def repetition_seeds(seed: int, repetitions: int) -> list[int]:
    """Seeds of the trainings of one hyper-architecture; the first is the generation's own."""
    return [seed, *(REPETITION.seed(seed, r) for r in range(1, repetitions))]


def train_hyper(
    generation: int,
    hyper_architecture: HyperArchitecture,
    data: Data,
    config: BilevelConfig,
    network: NetworkConfig,
    seeds: Sequence[int],
    executor: Executor,
    paths: Sequence[Sequence[int]] = (),
    checkpoints: Path | None = None,
    processes: Processes | None = None,
) -> list[HyperResult]:
    """Train a hyper-architecture once for each seed, each time with a child run of its own.

    A single training runs in this process, recorded epoch by epoch; so do all of them, one after the other, where
    several processes train together. Otherwise they go through the executor. ``paths`` ``(n, d)`` are measured in each
    supernet. Checkpoints lie in the folder ``checkpoints`` until ``forget`` removes them.
    """
    here = len(seeds) == 1 or (processes is not None and processes.count > 1)
    checkpoints = checkpoints if here or shares_files(executor) else None
    files = [hyper_file(checkpoints, hyper_architecture, config, seed) for seed in seeds]
    trainings = {
        seed: partial(
            train_hyper_architecture,
            hyper_architecture,
            data,
            config,
            network=network,
            seed=seed,
            paths=paths,
            checkpoint=file,
        )
        for seed, file in zip(seeds, files, strict=True)
    }
    if here:
        return [
            _train_here(training, generation, hyper_architecture, seed, config.epochs, processes, data.chance)
            for seed, training in trainings.items()
        ]
    on_epoch = partial(report_epoch, config.epochs)
    tasks = {submit(executor, training, on_epoch=on_epoch): seed for seed, training in trainings.items()}
    results: dict[int, HyperResult] = {}
    for task in completed(list(tasks)):
        seed = tasks[task]
        try:
            result = results[seed] = result_of(task)
        except Exception as error:
            for other in tasks:
                other.cancel()
            error.add_note(f"in the training of the hyper-architecture of generation {generation} with seed {seed}")
            with tracking.start_hyper(generation, hyper_architecture, seed):  # a run for it, which ends as failed
                raise
        with tracking.start_hyper(generation, hyper_architecture, seed, result.seconds) as child:
            epochs = zip(result.epochs, result.alpha_history, strict=True)
            child.series(
                [(e, metrics | tracking.schema.alpha_metrics(a)) for e, (metrics, a) in enumerate(epochs)], now=False
            )
            _finish_hyper(child, result, hyper_architecture, data.chance)
    return [results[seed] for seed in seeds]


def _train_here(
    training: Callable[..., HyperResult],
    generation: int,
    hyper_architecture: HyperArchitecture,
    seed: int,
    epochs: int,
    processes: Processes | None,
    chance: float,
) -> HyperResult:
    """Train in this process, together with the others, and record each epoch."""
    with tracking.start_hyper(generation, hyper_architecture, seed) as child:

        def on_epoch(epoch: int, alpha: NDArray[np.float64], metrics: dict[str, float]) -> None:
            child.metrics(metrics | tracking.schema.alpha_metrics(alpha), step=epoch, now=False)
            report_epoch(epochs, epoch)

        if processes is None:
            result = training(on_epoch=on_epoch)
        else:
            result = processes.run(training, main={"on_epoch": on_epoch})
        _finish_hyper(child, result, hyper_architecture, chance)
    advance()
    return result


def _finish_hyper(
    child: tracking.Run, result: HyperResult, hyper_architecture: HyperArchitecture, chance: float
) -> None:
    last = len(result.epochs) - 1
    child.metrics({"one_shot_accuracy": result.accuracy, "seconds": result.seconds}, step=last)
    child.figure(figures.draw_alpha_history(result.alpha_history), "figures/alpha.png", svg=False)
    if result.effects is not None:
        child.json({"value": result.effects.value.tolist(), "error": result.effects.error.tolist()}, "effects.json")
    if result.warning is not None:
        child.tag(tracking.schema.WARNING, result.warning)
    child.note(notes.hyper(hyper_architecture, result, chance, child.pictures))


class Trainer:
    """Trains what a search asks for, and tells it."""

    def __init__(
        self,
        study: fade_study.FadeStudy,
        config: SearchConfig,
        data: Data,
        executor: Executor,
        processes: Processes,
    ) -> None:
        self.study, self.config, self.data, self.executor, self.processes = study, config, data, executor, processes
        self.folder = Path(config.checkpoint_dir)
        self.failures: Counter[int] = Counter()
        """Number of trainings that diverged, by generation."""
        if study.n_generations:  # a process that was killed just after it told the last one has left its checkpoints
            self._forget(study.generation(study.n_generations - 1).batch)

    def train(self, batch: fade_study.Batch) -> list[HyperResult] | None:
        """All repetitions of a hyper-architecture; None where one diverged, so that the generation is failed.

        Raises:
            DivergedError: (a ``FloatingPointError``) where that has happened more often than ``max_failures``.
        """
        try:
            with phase(f"generation {batch.number}: supernets", self.config.repetitions):
                return train_hyper(
                    batch.number,
                    batch.hyper_architecture,
                    self.data,
                    self.config.bilevel,
                    self.config.network,
                    repetition_seeds(batch.seed, self.config.repetitions),
                    self.executor,
                    checkpoints=self.folder,
                    processes=self.processes,
                )
        except fade_study.DivergedError as error:
            self.study.fail(batch)
            self._forget(batch)
            self.failures[batch.number] += 1
            if self.failures[batch.number] > self.config.max_failures:
                raise
            tqdm.write(f"generation {batch.number} has failed, and is trained with another seed: {error}")
            return None

    def tell(self, batch: fade_study.Batch, results: Sequence[HyperResult]) -> None:
        """Tell the study what was trained, and remove the checkpoints."""
        alpha = combined_alpha(results, self.config.bilevel.estimator, batch.hyper_architecture)
        one_shot = float(np.mean([result.accuracy for result in results]))
        seconds = sum(result.seconds for result in results)
        details = {"one_shot_accuracy": one_shot, "seconds": seconds}
        self.study.tell(batch, alpha, one_shot_accuracy=one_shot, details=details)
        self._forget(batch)
        rows = [self.study.history(row)[-2:] for row in range(self.study.depth)]
        moved = np.mean([np.linalg.norm(row[-1].anchor - row[0].anchor) for row in rows])  # 0 in the first generation
        tqdm.write(
            f"generation {batch.number} ({batch.number + 1} of {self.config.generations}): {seconds:.1f} s, "
            f"one-shot accuracy {one_shot:.2f}, anchors moved {moved:.3f}"
        )

    def _forget(self, batch: fade_study.Batch) -> None:
        for seed in repetition_seeds(batch.seed, self.config.repetitions):
            forget(hyper_file(self.folder, batch.hyper_architecture, self.config.bilevel, seed))
