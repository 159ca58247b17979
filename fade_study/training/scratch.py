"""Training of a single architecture from scratch: the evaluation rho that FaDE-ranks are to predict (section 2.3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from fade_study.architecture import Architecture
from fade_study.config import NetworkConfig, ScratchConfig
from fade_study.nn import Network, flops, parameters
from fade_study.training.checkpoint import Progress
from fade_study.training.data import Batches, Data
from fade_study.training.session import (
    accuracy,
    adam,
    fingerprint,
    mean_over_processes,
    open_accelerator,
    schedule,
    session,
    single,
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
    identity = f"scratch {recipe(data, config, network)} {architecture.key} {seed}"
    with session(seed, config.threads) as (accelerator, generator):
        data = data.to(accelerator.device)
        model = Network(architecture, data.image_shape, data.classes, network)
        size, cost = parameters(model), flops(model, data.image_shape)
        rank, ranks = accelerator.process_index, accelerator.num_processes
        batches = Batches(data.weight, config.batch_size, generator, rank=rank, ranks=ranks)
        weights_adam = adam(model, config.optimizer)
        decay = schedule(weights_adam, config.schedule, batches.steps * config.epochs)
        module, optimizer = accelerator.prepare(model, weights_adam)
        weights = list(model.parameters())
        parts = {"model": model, "optimizer": optimizer, "decay": decay, "batches": batches}
        progress = Progress(identity, checkpoint, generator, parts, writes=accelerator.is_main_process)
        for epoch, metrics in enumerate(progress.history):
            if on_epoch is not None:
                on_epoch(epoch, metrics)
        for epoch in range(progress.epoch, config.epochs):
            module.train()
            total = progress.running.setdefault("loss", torch.zeros((), device=accelerator.device))
            for _ in progress.steps(batches.steps):
                images, labels = batches.next()
                with accelerator.autocast():
                    loss = F.cross_entropy(module(images), labels)
                optimizer.zero_grad()
                accelerator.backward(loss)
                accelerator.clip_grad_value_(weights, config.optimizer.gradient_clip)
                optimizer.step()
                decay.step()
                total += loss.detach()
            module.eval()
            metrics = {
                "loss/weights": mean_over_processes(total[None], accelerator)[0] / batches.steps,
                "accuracy/validation": accuracy(single(module, accelerator), data.alpha, accelerator),
            }
            progress.end_epoch(metrics)
            if on_epoch is not None:
                on_epoch(epoch, metrics)
        return ScratchResult(
            test_accuracy=accuracy(single(module.eval(), accelerator), data.test, accelerator),
            validation_accuracy=progress.history[-1]["accuracy/validation"],
            epochs=tuple(progress.history),
            parameters=size,
            flops=cost,
            seconds=progress.seconds,
        )


def recipe(data: Data, config: ScratchConfig, network: NetworkConfig) -> str:
    """Hash of everything but architecture and seed on which a from-scratch result depends, device included."""
    return fingerprint(
        open_accelerator(),
        data,
        version=RECIPE_VERSION,
        scratch=dataclasses.asdict(config),
        network=dataclasses.asdict(network),
    )
