"""Training of a single architecture from scratch: the evaluation rho that FaDE-ranks are to predict (section 2.3)."""

from __future__ import annotations

import dataclasses
import math
import warnings
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
from fade_study.training.graphs import NetworkGraphs, usable
from fade_study.training.session import (
    accuracy,
    adam,
    backward,
    check_alike,
    copy_from_main,
    fingerprint,
    on_device,
    open_accelerator,
    schedule,
    session,
)

RECIPE_VERSION = 2
"""Version of the training, to be raised when a code change alters its results: older results are then not reused."""


@dataclass(frozen=True, slots=True)
class ScratchResult:
    """Result of one training from scratch, as :func:`train_from_scratch` returns it.

    Records and tables hold less of it: a :class:`fade_study.benchmarks.Scratch` is what is stored of one training, and
    :class:`fade_study.benchmarks.Trainings` holds the accuracies of all architectures of a table.
    """

    test_accuracy: float
    """Accuracy on the test split, for reports."""
    validation_accuracy: float
    """Accuracy on the alpha split, which this training does not use, for choosing an architecture."""
    epochs: tuple[dict[str, float], ...]
    """Metrics by epoch: ``loss/weights`` and ``accuracy/validation``."""
    parameters: int
    """Number of weights of the network."""
    flops: int
    """Floating point operations of a forward pass of one image."""
    seconds: float
    """Seconds of the training."""
    state: dict[str, Tensor] | None = None
    """State of the trained :class:`fade_study.nn.Network` on the CPU, if it was asked for."""


def train_from_scratch(
    architecture: Architecture,
    data: Data,
    config: ScratchConfig,
    *,
    network: NetworkConfig = NetworkConfig(),  # noqa: B008 - frozen
    seed: int = 0,
    checkpoint: str | Path | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
    keep_state: bool = False,
) -> ScratchResult:
    """Train an architecture on the weight split, and measure its accuracy on the other splits.

    A warning tells of a training whose loss was not finite.

    Args:
        architecture: Architecture of d cells.
        data: Data set from ``load_data``.
        config: Settings of the training.
        network: Macro-architecture and normalization.
        seed: Seed for initialization and data order. The result is a function of the arguments.
        checkpoint: File for the state after each epoch. If it holds the state of the same training, that training is
            resumed, to the same result. Remove the file with ``Checkpoint.remove`` once the result is stored.
        on_epoch: Function that is called with the number and metrics of each epoch, including the epochs that a
            checkpoint holds.
        keep_state: Whether the result holds the state of the trained network.
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
        data = on_device(data, accelerator.device)
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

        graphs = None
        if usable(accelerator, network, map(type, architecture)):
            graphs = NetworkGraphs(model, weights, accelerator)
        for epoch, metrics in enumerate(progress.history):
            if on_epoch is not None:
                on_epoch(epoch, metrics)
        for epoch in range(progress.epoch, config.epochs):
            model.train()
            total = progress.running.get("loss", torch.zeros(())).to(accelerator.device)
            progress.running["loss"] = total
            for _ in progress.steps(batches.steps):
                batch = batches.next()
                total += backward(batch, loss, weights, accelerator) if graphs is None else graphs.weight_step(batch[0])
                nn.utils.clip_grad_value_(weights, config.optimizer.gradient_clip)
                optimizer.step()
                decay.step()
            copy_from_main(model.buffers(), accelerator)  # each process has averaged over its share of the batches
            model.eval()
            metrics = {
                "loss/weights": total.item() / batches.steps,
                "accuracy/validation": accuracy(model, data.alpha, accelerator),
            }
            progress.end_epoch(metrics)
            if on_epoch is not None:
                on_epoch(epoch, metrics)
        if not all(math.isfinite(metrics["loss/weights"]) for metrics in progress.history):
            warnings.warn(
                f"the training from scratch of {architecture.key} with seed {seed} diverged: its loss was not finite, "
                "so its accuracy says nothing of the architecture; lower the learning rate of the optimizer",
                stacklevel=2,
            )
        return ScratchResult(
            test_accuracy=accuracy(model.eval(), data.test, accelerator),
            validation_accuracy=progress.history[-1]["accuracy/validation"],
            epochs=tuple(progress.history),
            parameters=size,
            flops=cost,
            seconds=progress.seconds,
            state={name: value.cpu().clone() for name, value in model.state_dict().items()} if keep_state else None,
        )


def recipe(
    data: Data,
    config: ScratchConfig,
    network: NetworkConfig,
    *,
    cell_types: Iterable[type] = (Dag,),
    device: str | None = None,
) -> str:
    """Hash of everything that determines the result of a training from scratch, except architecture and seed.

    Args:
        data: Data set from ``load_data``.
        config: Settings of the training.
        network: Macro-architecture and normalization.
        cell_types: Types of cells; the user's own builders for them are part of the recipe.
        device: Kind of device, ``cpu`` or ``cuda``; by default the one on which this process would train.
    """
    return fingerprint(
        open_accelerator(),
        data,
        device=device,
        version=RECIPE_VERSION,
        scratch=dataclasses.asdict(config),
        network=describe_network(network, cell_types),
    )
