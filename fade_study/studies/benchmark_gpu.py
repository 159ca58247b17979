"""Costs of trainings on a GPU with and without CUDA graphs, for the shapes of two presets and random images."""

from __future__ import annotations

import dataclasses
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.profiler import ProfilerActivity, profile

import fade_study
from fade_study.execution import open_executor
from fade_study.studies.command import CONFIGS
from fade_study.studies.options import parse_config
from fade_study.studies.schemas import BenchmarkConfig, SearchConfig
from fade_study.training import Data, train_from_scratch, train_hyper_architecture
from fade_study.training.graphs import SWITCH

Array = NDArray[np.float64]
IMAGE_SHAPES = {"fashion14": (1, 14, 14), "fashion": (1, 28, 28), "paper": (3, 32, 32)}
"""Presets of ``search``, and the shapes of their images."""
IMAGES = 12_000
"""Number of images, two thirds of which weights are trained on."""
EPOCHS = 3
"""Number of epochs of a training whose steps are timed after the first one."""
WORKERS = ((1, "no"), (4, "no"), (8, "no"), (1, "bf16"))
"""Numbers of worker processes that share the GPU, and Accelerate's names of their precisions."""
QUANTITIES = ("milliseconds", "gain", "kernel_milliseconds", "kernel_share", "waits")
HEADLINES = tuple(
    (preset, name)
    for preset in IMAGE_SHAPES
    for name in (*(f"{kind}/{q}" for kind in ("supernet", "scratch") for q in QUANTITIES), "supernet/over_scratch")
)


def measure_gpu(config: BenchmarkConfig) -> dict[tuple[str, str], Array]:
    """Values ``(n,)`` by shape and quantity. Those of a step include its share of the evaluation after each epoch."""
    table: dict[tuple[str, str], Array] = {}
    workloads = {preset: Workload(preset, config.seed, IMAGES) for preset in IMAGE_SHAPES}
    for preset, whole in workloads.items():
        part = Workload(preset, config.seed, IMAGES // 4)
        for kind in ("supernet", "scratch"):
            values = measure_steps(getattr(whole, kind), whole.steps, getattr(part, kind), part.steps, config)
            table |= {(preset, f"{kind}/{quantity}"): value for quantity, value in values.items()}
            print(f"{preset} {kind}: {', '.join(f'{k} {np.median(v):.3g}' for k, v in values.items())}", flush=True)
        ratio = table[preset, "supernet/milliseconds"] / table[preset, "scratch/milliseconds"]
        table[preset, "supernet/over_scratch"] = ratio
        print(f"{preset}: a step of the supernet ÷ one of the network {np.median(ratio):.3g}", flush=True)
    for preset, workload in workloads.items():  # last, since workers take long to start
        for workers, precision in WORKERS:
            name = f"scratch_per_minute/{workers}_workers" + ("" if precision == "no" else f"/{precision}")
            table[preset, name] = rate = workload.per_minute(workers, precision)
            print(f"{preset} {name}: {rate[0]:.3g}", flush=True)
    return table


class Workload:
    """Trainings of a preset's first hyper-architecture, and of its anchors' architecture."""

    def __init__(self, preset: str, seed: int, images: int) -> None:
        self.config = parse_config(SearchConfig, CONFIGS / "search", ["--preset", preset, "--seed", str(seed)])
        sampler = self.config.sampler.open(seed)
        study = fade_study.create_study(space=self.config.space.open(), depth=self.config.depth, sampler=sampler)
        self.batch = study.ask()
        rng = np.random.default_rng(seed)
        pixels = rng.integers(256, size=(images, *IMAGE_SHAPES[preset]), dtype=np.uint8)
        self.data = Data.from_arrays(pixels, rng.integers(10, size=images))
        self.steps = self.data.weight.steps(self.config.scratch.batch_size)
        """Number of weight steps in an epoch, of supernets and networks alike."""

    def supernet(self, epochs: int, on_epoch: Callable[..., None] | None = None) -> None:
        """Train the hyper-architecture."""
        config = dataclasses.replace(self.config.bilevel, epochs=epochs)
        train_hyper_architecture(
            self.batch.hyper_architecture, self.data, config, network=self.config.network, on_epoch=on_epoch
        )

    def scratch(self, epochs: int, on_epoch: Callable[..., None] | None = None) -> None:
        """Train the architecture."""
        config = dataclasses.replace(self.config.scratch, epochs=epochs)
        train_from_scratch(self.batch.architecture, self.data, config, network=self.config.network, on_epoch=on_epoch)

    def per_minute(self, workers: int, precision: str) -> Array:
        """Trainings from scratch of 8 epochs a minute, ``(1,)``, in worker processes that share the GPU."""
        config = dataclasses.replace(self.config.scratch, epochs=8)
        os.environ["ACCELERATE_MIXED_PRECISION"] = precision  # new processes read it; in this one, it is settled
        with open_executor(f"processes:{workers}") as executor:

            def seconds(count: int) -> float:
                begin = time.perf_counter()
                tasks = [
                    executor.submit(
                        train_from_scratch, self.batch.architecture, self.data, config, network=self.config.network
                    )
                    for _ in range(count)
                ]
                for task in tasks:
                    task.result()
                return time.perf_counter() - begin

            seconds(workers)  # until all of them have begun
            return np.array([60 * 3 * workers / seconds(3 * workers)])


Train = Callable[[int, Callable[..., None] | None], None]
"""A training of a number of epochs, with a function that is called after each."""


def measure_steps(
    train: Train, steps: int, train_part: Train, steps_of_part: int, config: BenchmarkConfig
) -> dict[str, Array]:
    """Costs of a weight step with its alpha step, if there is one; trainings take turns with and without graphs.

    ``train_part`` is a training on a part of the images, with fewer steps in an epoch, whose kernels are recorded.
    Their share of a step can exceed 1, since each of those that run side by side counts.
    """
    times: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    train(1, None)  # the first one initializes libraries
    for _ in range(config.repetitions):
        for with_graphs, found in times.items():
            os.environ[SWITCH] = str(with_graphs)
            found.append(step_and_start(train, steps))
    milliseconds, starts = (np.array(values) for values in zip(*times[True], strict=True))
    without, starts_without = (np.array(values) for values in zip(*times[False], strict=True))
    values = {
        "milliseconds": milliseconds,
        "milliseconds/without_graphs": without,
        "gain": without / milliseconds,
        "capture_seconds": starts - starts_without,
    }
    for with_graphs, suffix, of_step in ((False, "/without_graphs", without), (True, "", milliseconds)):
        os.environ[SWITCH] = str(with_graphs)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        (waits,) = by_step(lambda epochs: waited(train, epochs), steps)
        reserved = torch.cuda.max_memory_reserved() / 1e6
        launches, kernels = by_step(lambda epochs: recorded(train_part, epochs), steps_of_part)
        one = {"launches": launches, "kernel_milliseconds": kernels, "waits": waits, "reserved_megabytes": reserved}
        values |= {f"{name}{suffix}": np.array([value]) for name, value in one.items()}
        values[f"kernel_share{suffix}"] = kernels / of_step
    return values


def step_and_start(train: Train, steps: int) -> tuple[float, float]:
    """Milliseconds of a step after the first epoch, and seconds that the first epoch takes longer than the others."""
    ends = [time.perf_counter()]
    train(EPOCHS, lambda *_: ends.append(time.perf_counter()))
    epoch = (ends[-1] - ends[1]) / (EPOCHS - 1)
    return 1e3 * epoch / steps, ends[1] - ends[0] - epoch


def by_step(measure: Callable[[int], Array], steps: int) -> Array:
    """Values of a step, from those of trainings of several epochs and of one."""
    return (measure(EPOCHS) - measure(1)) / ((EPOCHS - 1) * steps)


def recorded(train: Train, epochs: int) -> Array:
    """Launches of a training, and milliseconds of its kernels and copies."""
    with profile(activities=[ProfilerActivity.CUDA]) as record:
        train(epochs, None)
    events: list[Any] = list(record.events() or ())
    launches = sum("LaunchKernel" in event.name or "GraphLaunch" in event.name for event in events)
    on_gpu = [event for event in events if event.device_type.name == "CUDA" and not event.is_user_annotation]
    return np.array([launches, sum(event.device_time_total for event in on_gpu) / 1e3])


def waited(train: Train, epochs: int) -> Array:
    """Times that the host waits for the GPU in a training, as far as PyTorch notices it."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            train(epochs, None)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return np.array([sum("called a synchronizing" in str(warning.message) for warning in heard)])
