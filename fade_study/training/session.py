"""What all trainings share: the Accelerator, seeded random numbers, processor threads, Adam, accuracy."""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import broadcast, gather_object, parse_flag_from_env
from torch import Tensor, distributed, nn
from torch.optim.lr_scheduler import LambdaLR

from fade_study.config import OptimizerConfig, Schedule
from fade_study.exceptions import InvalidInputError
from fade_study.seeding import TRAINING_NOISE
from fade_study.training.data import Data, Minibatch, Split

__all__ = [
    "accuracy",
    "adam",
    "add_up",
    "backward",
    "check_alike",
    "check_gpus",
    "copy_from_main",
    "fingerprint",
    "open_accelerator",
    "schedule",
    "session",
    "surroundings",
]

_training = threading.RLock()
EVALUATION_BATCH = 1024
"""Large, since supernets are evaluated with batch statistics, and fixed, so that these are always the same."""


PATIENCE = timedelta(hours=1)
"""Of processes for one that hangs, or whose machine has lost its power; one that dies is noticed at once."""


def check_gpus(processes: int) -> bool:
    """Whether so many processes on this machine train on GPUs.

    Raises:
        InvalidInputError: (a ``ValueError``) for more than there are GPUs, on a machine that has some.
    """
    gpus = 0 if parse_flag_from_env("ACCELERATE_USE_CPU") else torch.cuda.device_count()
    if processes > gpus > 0:
        raise InvalidInputError(
            f"expected a GPU for each process, got {processes} processes and {gpus} GPUs; start fewer processes, or "
            "set ACCELERATE_USE_CPU=true"
        )
    return gpus > 0


def open_accelerator() -> Accelerator:
    """The device, precision and processes that this process was started with; the processor where there is no CUDA.

    Raises:
        InvalidInputError: (a ``ValueError``) for fp16, and for more processes than GPUs on a machine that has some.
    """
    gpus = check_gpus(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if not gpus and "ACCELERATE_TORCH_DEVICE" not in os.environ:
        # Accelerate has to be told: several processes would train alone each, and a Mac would use what is not tested.
        os.environ["ACCELERATE_USE_CPU"] = "true"
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
    if accelerator.mixed_precision == "fp16":
        raise InvalidInputError(
            "expected fp32 or bf16, got fp16, whose loss scaling fails with two optimizers; use bf16"
        )
    return accelerator


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """For a while, a GPU gives the same sums in each run, and doesn't round the factors of products to 10 bits."""
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    matmul = torch.backends.cuda.matmul
    before = cudnn.deterministic, cudnn.benchmark
    # Read by PyTorch's new names, which always answer, and set by the old ones, which keep both consistent.
    rounds = [kind.fp32_precision == "tf32" for kind in (cudnn.conv, matmul)]
    try:
        cudnn.deterministic, cudnn.benchmark = True, False
        cudnn.allow_tf32 = matmul.allow_tf32 = False
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
        cudnn.allow_tf32, matmul.allow_tf32 = rounds


@contextmanager
def session(seed: int, threads: int) -> Iterator[tuple[Accelerator, torch.Generator]]:
    """A training's surroundings; the caller's random numbers and settings are as before when it ends.

    PyTorch's global generator and settings are one for all threads of a process: of several threads that train, each
    waits for the others, so that a result is a function of its arguments.

    Args:
        seed: of the initialization, through PyTorch's global generator, and of the generator that is returned.
        threads: of the processor.

    Yields:
        The accelerator, and a CPU generator for data order, paths and noise, the same on all processes.
    """
    accelerator = open_accelerator()
    device = accelerator.device
    with (
        _training,
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.inference_mode(False),
        torch.enable_grad(),
        _exact(device),
    ):
        before, precision = torch.get_num_threads(), torch.get_default_dtype()
        casts = torch.is_autocast_enabled(device.type), torch.is_autocast_cache_enabled()
        torch.set_autocast_enabled(device.type, False)  # the caller's; the accelerator's own is used within
        torch.set_autocast_cache_enabled(False)  # within the caller's, it would keep weights that have changed since
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        torch.set_default_dtype(torch.float32)
        try:
            yield accelerator, torch.Generator().manual_seed(TRAINING_NOISE.long_seed(seed))
        finally:
            torch.set_num_threads(before)
            torch.set_default_dtype(precision)
            torch.set_autocast_enabled(device.type, casts[0])
            torch.set_autocast_cache_enabled(casts[1])
            accelerator.free_memory()


def surroundings(accelerator: Accelerator) -> dict[str, str]:
    """What a training's result depends on beside its arguments: the kind of device, and the precision."""
    return {"device": accelerator.device.type, "precision": str(accelerator.mixed_precision)}


def fingerprint(accelerator: Accelerator, data: Data, *, device: str | None = None, **settings: Any) -> str:
    """Hash of what a training's result depends on: settings, data, precision, kind of device (the accelerator's)."""
    known = surroundings(accelerator) | {"data": data.digest} | ({"device": device} if device else {})
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


def add_up(parts: Sequence[Sequence[Tensor]], accelerator: Accelerator, *, in_order: bool = False) -> list[Tensor]:
    """Sums over micro-batches and processes, all in one exchange; the same on all processes, bit for bit.

    Args:
        parts: of each micro-batch of this process the same tensors, on the device.
        accelerator: of the training.
        in_order: whether the sums have to be the same for any number of processes, too: then all processes receive
            what each has. The micro-batches have to be a power of 2, over all processes.
    """
    sums = [_pairwise(values) for values in zip(*parts, strict=True)]
    if accelerator.num_processes == 1:
        return sums
    total = torch.cat([value.reshape(-1) for value in sums])
    # directly, since Accelerate's own doubles the time of such small ones
    if in_order:
        everywhere = [torch.empty_like(total) for _ in range(accelerator.num_processes)]
        distributed.all_gather(everywhere, total)
        total = _pairwise(everywhere)
    else:
        distributed.all_reduce(total)
    pieces = total.split([value.numel() for value in sums])
    return [piece.view(value.shape) for piece, value in zip(pieces, sums, strict=True)]


def _pairwise(values: Sequence[Tensor]) -> Tensor:
    """Their sum: of pairs, then of pairs of these, ..., so that it is the same where some were added up before."""
    while len(values) > 1:
        values = [a + b for a, b in zip(values[::2], values[1::2], strict=True)]
    return values[0]


def backward(
    batch: Sequence[Minibatch],
    loss: Callable[[Minibatch], Tensor],
    parameters: Sequence[nn.Parameter],
    accelerator: Accelerator,
    *,
    in_order: bool = False,
) -> Tensor:
    """Leave the gradients of a batch's loss in the parameters, and return the loss ``()``, over all processes.

    What has no gradient is not sent: of a supernet, that is all but the sampled path.

    Args:
        batch: the micro-batches of this process.
        loss: of one of them, ``()``.
        parameters: of the model.
        accelerator: of the training.
        in_order: as in :func:`add_up`.
    """
    parts = []
    for micro_batch in batch:
        for parameter in parameters:
            parameter.grad = None
        part = loss(micro_batch)
        part.backward()
        parts.append([part.detach(), *(p.grad for p in parameters if p.grad is not None)])
    if len(parts) == accelerator.num_processes == 1:
        return parts[0][0]
    total, *sums = add_up(parts, accelerator, in_order=in_order)
    for gradient, value in zip(parts[-1][1:], sums, strict=True):
        gradient.copy_(value)
    return total.clone()  # or who keeps it would keep all gradients


@torch.no_grad()
def copy_from_main(tensors: Iterable[Tensor], accelerator: Accelerator) -> None:
    """Overwrite tensors by the main process's: computed on another machine they could differ in their last bits."""
    if accelerator.num_processes > 1:
        for tensor in tensors:
            main = broadcast(tensor.to(accelerator.device))
            assert isinstance(main, Tensor)
            tensor.copy_(main)


def check_alike(accelerator: Accelerator, **known: str) -> None:
    """Raise on all processes unless all know the same, such as the digest of the data.

    Raises:
        InvalidInputError: (a ``ValueError``) that names what differs.
    """
    if accelerator.num_processes == 1:
        return
    everywhere: list[dict[str, str]] = gather_object([known])
    for name in known:
        values = [one[name] for one in everywhere]
        if len(set(values)) > 1:
            each = ", ".join(f"{value} in process {rank}" for rank, value in enumerate(values))
            raise InvalidInputError(
                f"expected the same {name} in all processes, got {each}; give them the same files, arguments and "
                "versions"
            )
