"""What all trainings share: the Accelerator, random seeds, CPU threads, Adam, and the measurement of accuracy."""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed.nn  # keeps the process group that exists when it is imported; Adam would do that too late
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import broadcast, gather_object, parse_flag_from_env
from torch import Tensor, distributed, nn
from torch.optim.lr_scheduler import LambdaLR

from fade_study.config import OptimizerConfig, Schedule
from fade_study.exceptions import InvalidInputError
from fade_study.seeding import TRAINING_NOISE
from fade_study.training import graphs
from fade_study.training.data import Data, Minibatch, Split

_training = threading.RLock()
_on_gpu: dict[tuple[str, torch.device], Data] = {}
"""The last data set that was copied to a GPU."""
EVALUATION_BATCH = 1024
"""Largest number of images in a batch of an evaluation. It is large and fixed, since supernets use batch statistics."""
TIMEOUT = timedelta(hours=1)
"""Timeout of processes that wait for one that hangs, or whose machine is off; one that dies is noticed at once."""


def check_gpus(processes: int) -> bool:
    """Whether a number of processes on this machine would train on GPUs; an ``InvalidInputError`` for too few GPUs."""
    gpus = 0 if parse_flag_from_env("ACCELERATE_USE_CPU") else torch.cuda.device_count()
    if processes > gpus > 0:
        raise InvalidInputError(
            f"expected a GPU for each process, got {processes} processes and {gpus} GPUs; start fewer processes, or "
            "set ACCELERATE_USE_CPU=true"
        )
    return gpus > 0


def open_accelerator() -> Accelerator:
    """An Accelerator with the device, precision and processes of this process's environment; on the CPU without CUDA.

    Half precision (fp16) is an ``InvalidInputError``, and so are more processes than GPUs on a machine with GPUs, and
    a value of ``FADE_CUDA_GRAPHS`` that is neither true nor false.
    """
    graphs.switched_on()  # refuses such a value before anything is built
    gpus = check_gpus(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if not gpus and "ACCELERATE_TORCH_DEVICE" not in os.environ:
        # Otherwise, several processes would each train alone, and a Mac would use its GPU, which is not tested.
        os.environ["ACCELERATE_USE_CPU"] = "true"
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)])
    if accelerator.mixed_precision == "fp16":
        raise InvalidInputError(
            "expected fp32 or bf16, got fp16, whose loss scaling fails with two optimizers; use bf16"
        )
    return accelerator


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Make a GPU deterministic, and disable TF32, which rounds the factors of products to 10 bits."""
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    matmul = torch.backends.cuda.matmul
    before = cudnn.deterministic, cudnn.benchmark
    # PyTorch's new names can always be read; setting the old ones keeps both consistent.
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
    """A context for one training, which restores the caller's random state and PyTorch settings at its end.

    It yields the accelerator, and a CPU generator for data order, paths and noise, which is the same on all processes.
    The seed is that of this generator and of PyTorch's global one, which initializes weights. PyTorch's global
    generator and settings belong to the whole process. Only one thread at a time can train, so that a result is a
    function of its arguments.
    """
    accelerator = open_accelerator()
    device = accelerator.device
    with (
        _training,
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.inference_mode(False),
        torch.enable_grad(),
        _exact(device),
        torch.cuda.device(device) if device.type == "cuda" else nullcontext(),  # where graphs are captured
    ):
        graphs_before = len(graphs.captured)
        before, precision = torch.get_num_threads(), torch.get_default_dtype()
        casts = torch.is_autocast_enabled(device.type), torch.is_autocast_cache_enabled()
        torch.set_autocast_enabled(device.type, False)  # trainings use the accelerator's autocast, not the caller's
        torch.set_autocast_cache_enabled(False)  # within the caller's autocast it would hold outdated weights
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
            if device.type == "cuda":  # elsewhere there is nothing to free, and collecting garbage takes half a second
                graphs.release(graphs_before)
                accelerator.free_memory()


def on_device(data: Data, device: torch.device) -> Data:
    """A data set on a device. A GPU keeps the last one, which most trainings of a process share."""
    if device.type == "cpu":
        return data
    device = torch.empty(0, device=device).device  # with the number of the GPU
    if (data.digest, device) not in _on_gpu:
        _on_gpu.clear()
        _on_gpu[data.digest, device] = data.to(device)
    return _on_gpu[data.digest, device]


def surroundings(accelerator: Accelerator) -> dict[str, str]:
    """What determines a training's result besides its arguments: the kind of device, and the precision."""
    return {"device": accelerator.device.type, "precision": str(accelerator.mixed_precision)}


def fingerprint(accelerator: Accelerator, data: Data, *, device: str | None = None, **settings: Any) -> str:
    """Hash of what determines a training's result: settings, data, precision, and the kind of device."""
    known = surroundings(accelerator) | {"data": data.digest} | ({"device": device} if device else {})
    return hashlib.sha256(json.dumps(known | settings, sort_keys=True).encode()).hexdigest()[:16]


def adam(module: nn.Module, config: OptimizerConfig) -> torch.optim.Adam:
    """Adam for a module's parameters; parameters without a gradient, of cells that were not sampled, do not change."""
    return torch.optim.Adam(module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def schedule(optimizer: torch.optim.Optimizer, kind: Schedule, steps: int) -> LambdaLR:
    """Schedule of the learning rate over ``steps`` steps; call its ``step`` after each of them."""
    factors = {"constant": lambda _: 1.0, "cosine": lambda done: (1 + math.cos(math.pi * done / steps)) / 2}
    return LambdaLR(optimizer, factors[kind])


def accuracy(scores: Callable[[Tensor], Tensor], split: Split, accelerator: Accelerator) -> float:
    """Share of correct predictions for the images of a whole split, over all processes.

    ``scores`` maps images ``(B, C, H, W)`` to class scores ``(B, classes)``; the split is on the accelerator's device.
    """
    return accuracies(lambda images: [(0, scores(images))], 1, split, accelerator)[0]


def accuracies(
    scores: Callable[[Tensor], Iterable[tuple[int, Tensor]]], count: int, split: Split, accelerator: Accelerator
) -> list[float]:
    """Accuracies of ``count`` networks, for which ``scores`` gives index and class scores, as in :func:`accuracy`."""
    correct = [torch.zeros((), dtype=torch.long, device=accelerator.device)] * count
    # Batches have nearly equal sizes, since the batch statistics of a few leftover images would be useless.
    chunks = -(-len(split) // EVALUATION_BATCH)
    batches = list(zip(split.images.tensor_split(chunks), split.labels.tensor_split(chunks), strict=True))
    with torch.inference_mode():
        for images, labels in batches[accelerator.process_index :: accelerator.num_processes]:
            for i, found in scores(images):
                correct[i] = correct[i] + (found.argmax(dim=1) == labels).sum()
    total = accelerator.reduce(torch.stack(correct), "sum")
    assert isinstance(total, Tensor)
    return [number / len(split) for number in total.tolist()]


def add_up(parts: Sequence[Sequence[Tensor]], accelerator: Accelerator, *, in_order: bool = False) -> list[Tensor]:
    """Sums over micro-batches and processes in one exchange; bit for bit the same on all processes.

    ``parts`` are the tensors of each micro-batch of this process; several processes need them on their devices. With
    ``in_order``, the sums are bit for bit the same for any number of processes, which then exchange all their parts;
    the number of micro-batches over all processes has to be a power of 2.
    """
    sums = [_pairwise(values) for values in zip(*parts, strict=True)]
    if accelerator.num_processes == 1:
        return sums
    total = torch.cat([value.reshape(-1) for value in sums])
    # Accelerate's own functions take twice as long for such small tensors.
    if in_order:
        everywhere = [torch.empty_like(total) for _ in range(accelerator.num_processes)]
        distributed.all_gather(everywhere, total)
        total = _pairwise(everywhere)
    else:
        distributed.all_reduce(total)
    pieces = total.split([value.numel() for value in sums])
    return [piece.view(value.shape) for piece, value in zip(pieces, sums, strict=True)]


def _pairwise(values: Sequence[Tensor]) -> Tensor:
    """Sum of pairs, then of pairs of these, and so on, so that partial sums of processes give the same result."""
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
    """Set the parameters' gradients of a batch's loss over all processes, and return the loss ``()``.

    ``batch`` are this process's micro-batches, and ``loss`` maps one to its loss ``()``; ``in_order`` is as in
    :func:`add_up`. Only gradients that exist are exchanged; for a supernet these are those of the sampled path.
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
    return total.clone()  # a view would keep the memory of all gradients


@torch.no_grad()
def copy_from_main(tensors: Iterable[Tensor], accelerator: Accelerator) -> None:
    """Overwrite tensors by those of the main process: on other machines, they could differ in their last bits."""
    if accelerator.num_processes > 1:
        for tensor in tensors:
            main = broadcast(tensor.to(accelerator.device))
            assert isinstance(main, Tensor)
            tensor.copy_(main)


def check_alike(accelerator: Accelerator, **known: str) -> None:
    """Raise an ``InvalidInputError`` in all processes if values, such as the data's digest, differ between them."""
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
