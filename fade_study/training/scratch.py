"""Training of a single architecture from scratch: the evaluation rho that FaDE-ranks are to predict (section 2.3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fade_study.architecture import Architecture
from fade_study.builders import describe_network
from fade_study.cells import Dag
from fade_study.config import NetworkConfig, ScratchConfig
from fade_study.nn import Network, flops, parameters
from fade_study.training.checkpoint import Progress
from fade_study.training.data import Batches, Data, Minibatch
from fade_study.training.session import (
    accuracy,
    adam,
    backward,
    check_alike,
    copy_from_main,
    fingerprint,
    open_accelerator,
    schedule,
    session,
)

__all__ = ["ScratchResult", "recipe", "train_from_scratch"]

RECIPE_VERSION = 2
"""Raised when a change of the code changes what a training gives."""


@dataclass(frozen=True, slots=True)
class ScratchResult:
    """A from-scratch evaluation."""

    test_accuracy: float
    """On the test split: to report."""
    validation_accuracy: float
    """On the alpha split, which this training never saw: to choose by."""
    epochs: tuple[dict[str, float], ...]
    """Per epoch: ``loss/weights``, ``accuracy/validation``."""
    parameters: int
    flops: int
    """Of one image's forward pass."""
    seconds: float


def train_from_scratch(
    architecture: Architecture,
    data: Data,
    config: ScratchConfig,
    *,
    network: NetworkConfig = NetworkConfig(),  # noqa: B008 - frozen
    seed: int = 0,
    checkpoint: str | Path | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> ScratchResult:
    """Train an architecture on the weight split and measure it on the others.

    Args:
        architecture: d cells.
        data: from ``load_data``.
        config: epochs, batches, optimizer.
        network: macro-architecture and normalization.
        seed: of initialization and data order; the result is a function of the arguments.
        checkpoint: file that keeps the state after each epoch. Where it holds that of the same training, this one goes
            on from there, to the same result. Remove it (``Checkpoint.remove``) once the result is safe.
        on_epoch: called with each epoch's number and metrics; first of all with those that a checkpoint brings.
    """
    with session(seed, config.threads) as (accelerator, generator):
        known = (
            recipe(data, config, network, cell_types=map(type, architecture)),
            architecture.key,
            seed,
            accelerator.num_processes,
        )
        identity = f"scratch {known}"
        check_alike(accelerator, data=data.digest, training=identity)
        data = data.to(accelerator.device)
        model = Network(architecture, data.image_shape, data.classes, network).to(accelerator.device)
        copy_from_main(model.parameters(), accelerator)
        size, cost = parameters(model), flops(model, data.image_shape)
        rank, ranks = accelerator.process_index, accelerator.num_processes
        batches = Batches(data.weight, config.batch_size, generator, rank=rank, ranks=ranks)
        optimizer = adam(model, config.optimizer)
        decay = schedule(optimizer, config.schedule, batches.steps * config.epochs)
        weights = list(model.parameters())
        parts = {"model": model, "optimizer": optimizer, "decay": decay, "batches": batches}
        progress = Progress(identity, checkpoint, generator, parts, accelerator)

        def loss(batch: Minibatch) -> Tensor:
            with accelerator.autocast():
                return batch.loss(model(batch.images))

        for epoch, metrics in enumerate(progress.history):
            if on_epoch is not None:
                on_epoch(epoch, metrics)
        for epoch in range(progress.epoch, config.epochs):
            model.train()
            total = progress.running.get("loss", torch.zeros(())).to(accelerator.device)
            progress.running["loss"] = total
            for _ in progress.steps(batches.steps):
                total += backward(batches.next(), loss, weights, accelerator)
                nn.utils.clip_grad_value_(weights, config.optimizer.gradient_clip)
                optimizer.step()
                decay.step()
            copy_from_main(model.buffers(), accelerator)  # running averages are of shares
            model.eval()
            metrics = {
                "loss/weights": total.item() / batches.steps,
                "accuracy/validation": accuracy(model, data.alpha, accelerator),
            }
            progress.end_epoch(metrics)
            if on_epoch is not None:
                on_epoch(epoch, metrics)
        return ScratchResult(
            test_accuracy=accuracy(model.eval(), data.test, accelerator),
            validation_accuracy=progress.history[-1]["accuracy/validation"],
            epochs=tuple(progress.history),
            parameters=size,
            flops=cost,
            seconds=progress.seconds,
        )


def recipe(
    data: Data,
    config: ScratchConfig,
    network: NetworkConfig,
    *,
    cell_types: Iterable[type] = (Dag,),
    device: str | None = None,
) -> str:
    """Hash of everything but architecture and seed on which a from-scratch result depends.

    Args:
        data: from ``load_data``.
        config: of the training.
        network: the macro-architecture.
        cell_types: whose builders, where they are one's own, belong to it.
        device: its kind, ``cpu`` or ``cuda``; default the one on which this process would train.
    """
    return fingerprint(
        open_accelerator(),
        data,
        device=device,
        version=RECIPE_VERSION,
        scratch=dataclasses.asdict(config),
        network=describe_network(network, cell_types),
    )
