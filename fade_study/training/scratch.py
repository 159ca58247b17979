"""Training of a single architecture from scratch: the evaluation rho that FaDE-ranks are to predict (section 2.3)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fade_study.architecture import Architecture
from fade_study.config import NetworkConfig, ScratchConfig
from fade_study.nn import Network, flops, parameters
from fade_study.training.data import Data
from fade_study.training.session import accuracy, adam, mean_over_processes, open_accelerator, schedule, session, single

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
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> ScratchResult:
    """Train an architecture on the weight split and measure it on the others.

    Args:
        architecture: d cells.
        data: from ``load_data``.
        config: epochs, batches, optimizer.
        network: macro-architecture and normalization.
        seed: of initialization and data order; the result is a function of the arguments.
        on_epoch: called with each epoch's number and metrics.
    """
    begin = time.perf_counter()
    with session(seed, config.threads) as (accelerator, generator):
        data = data.to(accelerator.device)
        model = Network(architecture, data.image_shape, data.classes, network)
        size, cost = parameters(model), flops(model, data.image_shape)
        steps = data.weight.steps(config.batch_size)
        weights_adam = adam(model, config.optimizer)
        decay = schedule(weights_adam, config.schedule, steps * config.epochs)
        module, optimizer = accelerator.prepare(model, weights_adam)
        rank, ranks = accelerator.process_index, accelerator.num_processes
        epochs: list[dict[str, float]] = []
        for epoch in range(config.epochs):
            module.train()
            total = torch.zeros((), device=accelerator.device)
            for images, labels in data.weight.batches(config.batch_size, generator, rank=rank, ranks=ranks):
                with accelerator.autocast():
                    loss = F.cross_entropy(module(images), labels)
                optimizer.zero_grad()
                accelerator.backward(loss)
                accelerator.clip_grad_value_(module.parameters(), config.optimizer.gradient_clip)
                optimizer.step()
                decay.step()
                total += loss.detach()
            module.eval()
            metrics = {
                "loss/weights": mean_over_processes(total[None], accelerator)[0] / steps,
                "accuracy/validation": accuracy(single(module, accelerator), data.alpha, accelerator),
            }
            epochs.append(metrics)
            if on_epoch is not None:
                on_epoch(epoch, metrics)
        return ScratchResult(
            test_accuracy=accuracy(single(module, accelerator), data.test, accelerator),
            validation_accuracy=epochs[-1]["accuracy/validation"],
            epochs=tuple(epochs),
            parameters=size,
            flops=cost,
            seconds=time.perf_counter() - begin,
        )


def recipe(data: Data, config: ScratchConfig, network: NetworkConfig) -> str:
    """Hash of everything but architecture and seed on which a from-scratch result depends, device included."""
    accelerator = open_accelerator()
    settings = {
        "version": RECIPE_VERSION,
        "device": accelerator.device.type,
        "precision": str(accelerator.mixed_precision),
        "data": data.digest,
        "scratch": dataclasses.asdict(config),
        "network": dataclasses.asdict(network),
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
