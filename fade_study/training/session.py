"""What all trainings share: the Accelerator, seeded random numbers, processor threads, Adam, accuracy."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from fade_study.config import OptimizerConfig, Schedule
from fade_study.exceptions import InvalidInputError
from fade_study.training.data import Data, Split

__all__ = [
    "accuracy",
    "adam",
    "fingerprint",
    "mean_over_processes",
    "open_accelerator",
    "schedule",
    "session",
    "single",
]

EVALUATION_BATCH = 1024
"""Large, since supernets are evaluated with batch statistics, and fixed, so that these are always the same."""


def open_accelerator() -> Accelerator:
    """The device, precision and processes that this process was started with.

    Raises:
        InvalidInputError: (a ``ValueError``) for fp16.
    """
    # unused parameters: a step runs one cell of each row
    accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
    if accelerator.mixed_precision == "fp16":
        raise InvalidInputError(
            "expected fp32 or bf16, got fp16, whose loss scaling fails with two optimizers; use bf16"
        )
    return accelerator


@contextmanager
def session(seed: int, threads: int) -> Iterator[tuple[Accelerator, torch.Generator]]:
    """A training's surroundings; the caller's random numbers and threads are as before when it ends.

    Args:
        seed: of the initialization, through PyTorch's global generator, and of the generator that is returned.
        threads: of the processor.

    Yields:
        The accelerator, and a CPU generator for data order, paths and noise, the same on all processes.
    """
    accelerator = open_accelerator()
    before = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        try:
            # another stream than the initialization's
            other = int(np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0] >> 1)
            yield accelerator, torch.Generator().manual_seed(other)
        finally:
            torch.set_num_threads(before)
            accelerator.free_memory()


def fingerprint(accelerator: Accelerator, data: Data, **settings: Any) -> str:
    """Hash of what a training's result depends on: settings, data, kind of device and precision."""
    known = {
        "device": accelerator.device.type,
        "precision": str(accelerator.mixed_precision),
        "data": data.digest,
    }
    return hashlib.sha256(json.dumps(known | settings, sort_keys=True).encode()).hexdigest()[:16]


def adam(module: nn.Module, config: OptimizerConfig) -> torch.optim.Adam:
    """Adam over a module's parameters; those without a gradient, of cells not sampled, are left alone."""
    return torch.optim.Adam(module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def schedule(optimizer: torch.optim.Optimizer, kind: Schedule, steps: int) -> LambdaLR:
    """Of the learning rate; to be told of every step, ``steps`` of them in all."""
    factors = {"constant": lambda _: 1.0, "cosine": lambda done: (1 + math.cos(math.pi * done / steps)) / 2}
    return LambdaLR(optimizer, factors[kind])


@torch.inference_mode()
def accuracy(scores: Callable[[Tensor], Tensor], split: Split, accelerator: Accelerator) -> float:
    """Correct divided by total over a whole split, exact over all processes.

    Args:
        scores: from images ``(B, C, H, W)`` to class scores ``(B, classes)``.
        split: on the accelerator's device.
        accelerator: of the training.
    """
    correct = torch.zeros((), dtype=torch.long, device=accelerator.device)
    # of nearly equal size: the statistics of a few images left over would be worthless
    chunks = -(-len(split) // EVALUATION_BATCH)
    batches = list(zip(split.images.tensor_split(chunks), split.labels.tensor_split(chunks), strict=True))
    for images, labels in batches[accelerator.process_index :: accelerator.num_processes]:
        correct += (scores(images).argmax(dim=1) == labels).sum()
    total = accelerator.reduce(correct, "sum")
    assert isinstance(total, Tensor)
    return total.item() / len(split)


def single(module: nn.Module, accelerator: Accelerator) -> nn.Module:
    """The module without its distributed wrapper, with the first process's running averages: for evaluations.

    A forward pass through the wrapper is an appointment of all processes, and these evaluate batches of their own.
    """
    module = accelerator.unwrap_model(module)
    for buffer in module.buffers():
        buffer.copy_(broadcast(buffer))  # pyright: ignore[reportArgumentType]
    return module


def mean_over_processes(values: Tensor, accelerator: Accelerator) -> list[float]:
    """Numbers ``(n,)`` on the device, averaged over processes; waits for the device, so call it once per epoch."""
    mean = accelerator.reduce(values, "mean")
    assert isinstance(mean, Tensor)
    return mean.tolist()
