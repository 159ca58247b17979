"""Bi-level training of a hyper-architecture: DARTS over whole cells, with hard Gumbel-softmax (section 2.2).

Weight steps on the weight split alternate with alpha steps on the alpha split, first order. Alphas live outside the
module, in one of the ``estimators``.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from fade_study.architecture import HyperArchitecture
from fade_study.config import BilevelConfig, NetworkConfig
from fade_study.exceptions import InvalidInputError
from fade_study.nn import Supernet, gumbel_noise
from fade_study.training.data import Data, Split
from fade_study.training.estimators import ESTIMATORS, Effects
from fade_study.training.session import accuracy, adam, mean_over_processes, schedule, session

__all__ = ["HyperResult", "check_schedule", "train_hyper_architecture"]


@dataclass(frozen=True, slots=True)
class HyperResult:
    """A trained hyper-architecture."""

    alpha: NDArray[np.float64]
    """``(d, w)``, rows sum to 1, higher is better."""
    alpha_history: NDArray[np.float64]
    """After each epoch, ``(E, d, w)``."""
    accuracy: float
    """One-shot accuracy on the alpha split, mean over random paths. Near chance, alphas mean nothing."""
    path_accuracies: NDArray[np.float64]
    """One-shot accuracies ``(n,)`` on the alpha split of the paths that were asked for."""
    effects: Effects | None
    """Of columns on the loss, where the estimator of alphas is a path regression."""
    epochs: tuple[dict[str, float], ...]
    """Per epoch: ``loss/weights``, ``loss/alpha`` (once alpha steps are taken), ``accuracy/validation`` (of one random
    path)."""
    warning: str | None
    """Why the alphas mean nothing, where they don't."""
    seconds: float
    """Without those of ``path_accuracies``."""
    path_seconds: float
    """Of ``path_accuracies``."""
    weights: dict[str, Tensor] | None
    """Of the supernet, by name, where they were asked for."""


def train_hyper_architecture(
    hyper_architecture: HyperArchitecture,
    data: Data,
    config: BilevelConfig,
    *,
    network: NetworkConfig = NetworkConfig(),  # noqa: B008 - frozen
    seed: int = 0,
    paths: Sequence[Sequence[int]] = (),
    weights: Mapping[str, Tensor] | None = None,
    on_epoch: Callable[[int, NDArray[np.float64], dict[str, float]], None] | None = None,
) -> HyperResult:
    """Train the supernet of a hyper-architecture and its alphas.

    Args:
        hyper_architecture: d rows of w cells.
        data: from ``load_data``.
        config: of both levels.
        network: macro-architecture and normalization.
        seed: of initialization, data order, paths and noise; the result is a function of the arguments.
        paths: ``(n, d)``, columns whose one-shot accuracies are measured when all is trained.
        weights: of a supernet trained before, with which to begin where cells are the same ({} for none): the result
            then holds this one's (section 2.4: weight sharing among successive hyper-architectures).
        on_epoch: called with each epoch's number, alphas ``(d, w)`` and metrics.
    """
    check_schedule(config, data, hyper_architecture.shape)
    begin = time.perf_counter()
    history: list[NDArray[np.float64]] = []
    epochs: list[dict[str, float]] = []
    with session(seed, config.threads) as (accelerator, generator):
        trainer = _Trainer(hyper_architecture, data, config, network, accelerator, generator)
        if weights is not None:
            trainer.supernet.carry_over(weights)
        for epoch in range(config.epochs):
            metrics = trainer.epoch(epoch)
            epochs.append(metrics)
            history.append(trainer.estimator.alpha())
            if on_epoch is not None:
                on_epoch(epoch, history[-1], metrics)
        one_shot = trainer.one_shot_accuracy(config.one_shot_paths)
        effects = trainer.estimator.effects()
        seconds = time.perf_counter() - begin
        path_accuracies = trainer.accuracies(paths)
        kept = None if weights is None else {name: w.cpu().clone() for name, w in trainer.supernet.weights().items()}
    warning = _warning(one_shot, data.chance)
    if warning is not None:
        warnings.warn(warning, stacklevel=2)
    return HyperResult(
        alpha=history[-1],
        alpha_history=np.stack(history),
        accuracy=one_shot,
        path_accuracies=path_accuracies,
        effects=effects,
        epochs=tuple(epochs),
        warning=warning,
        seconds=seconds,
        path_seconds=time.perf_counter() - begin - seconds,
        weights=kept,
    )


class _Trainer:
    """Supernet, alphas and their optimizers, and the two kinds of steps."""

    def __init__(
        self,
        hyper_architecture: HyperArchitecture,
        data: Data,
        config: BilevelConfig,
        network: NetworkConfig,
        accelerator: Accelerator,
        generator: torch.Generator,
    ) -> None:
        self.depth, self.width = hyper_architecture.shape
        self.config = config
        self.accelerator = accelerator
        self.generator = generator
        self.data = data.to(accelerator.device)
        supernet = Supernet(
            hyper_architecture, data.image_shape, data.classes, network, share_weights=config.share_weights
        )
        weights_adam = adam(supernet, config.optimizer)
        steps = self.data.weight.steps(config.batch_size) * config.epochs
        self.schedule = schedule(weights_adam, config.schedule, steps)
        self.module, self.optimizer = accelerator.prepare(supernet, weights_adam)
        self.supernet: Supernet = accelerator.unwrap_model(self.module)
        logits = config.alpha_init_std * torch.randn(self.depth, self.width, generator=generator)
        self.estimator = ESTIMATORS[config.estimator](self.supernet, logits, config, accelerator)
        self.alpha_batches = itertools.chain.from_iterable(self._pass(self.data.alpha) for _ in itertools.count())

    def epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the weight split, with its alpha steps."""
        self.module.train()
        steps = self.data.weight.steps(self.config.batch_size)
        noise = gumbel_noise((2, steps, self.depth, self.width), self.generator)
        weight_total, alpha_total = torch.zeros(2, device=self.accelerator.device)
        alpha_steps = 0
        for step, (images, labels) in enumerate(self._pass(self.data.weight)):
            weight_total += self.weight_step(images, labels, noise[0, step], epoch)
            done = epoch * steps + step + 1
            due = epoch >= self.config.alpha_start and done % self.config.alpha_every == 0
            if due and self.estimator.takes_steps:
                remaining = 1 - (done - 1) / (steps * self.config.epochs)
                alpha_total += self.estimator.step(*next(self.alpha_batches), noise[1, step], remaining, epoch)
                alpha_steps += 1
        weight_loss, alpha_loss = mean_over_processes(torch.stack([weight_total, alpha_total]), self.accelerator)
        metrics = {"loss/weights": weight_loss / steps, "accuracy/validation": self.one_shot_accuracy(1)}
        if alpha_steps:
            metrics["loss/alpha"] = alpha_loss / alpha_steps
        return metrics

    def weight_step(self, images: Tensor, labels: Tensor, noise: Tensor, epoch: int) -> Tensor:
        """Train the weights along one sampled path; returns the loss."""
        path = (self.estimator.logits.detach() + noise).argmax(dim=1).tolist()
        with self.accelerator.autocast():
            loss = F.cross_entropy(self.module(images, path), labels)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_value_(self.module.parameters(), self.config.optimizer.gradient_clip)
        self.optimizer.step()
        self.schedule.step()
        self.estimator.observe(path, loss, epoch)
        return loss.detach()

    def accuracies(self, paths: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """One-shot accuracies ``(n,)`` of paths ``(n, d)`` on the alpha split, with batch statistics."""
        return np.array(
            [
                accuracy(lambda images, path=path: self.supernet(images, path), self.data.alpha, self.accelerator)
                for path in paths
            ]
        )

    def one_shot_accuracy(self, paths: int) -> float:
        """Mean one-shot accuracy of uniformly random paths."""
        columns = torch.randint(self.width, (paths, self.depth), generator=self.generator).tolist()
        return float(self.accuracies(columns).mean())

    def _pass(self, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        return split.batches(self.config.batch_size, self.generator, rank=rank, ranks=ranks)


def check_schedule(config: BilevelConfig, data: Data, shape: tuple[int, int]) -> None:
    """Raise unless a training on these data teaches its estimator something.

    Args:
        config: of the training.
        data: from ``load_data``.
        shape: ``(d, w)``.
    """
    steps = data.weight.steps(config.batch_size)
    regression = config.estimator.endswith("regression")
    every = config.alpha_every if ESTIMATORS[config.estimator].takes_steps else 1
    taught = config.epochs * steps // every - config.alpha_start * steps // every
    depth, width = shape
    needed = depth * (width - 1) + config.epochs - config.alpha_start + 1 if regression else 1
    if taught < needed:
        what = "an alpha step" if needed == 1 else f"{needed} losses, more than there are unknowns,"
        raise InvalidInputError(
            f"expected {what} within {config.epochs} epochs of {steps} weight steps, got {taught} with alpha_every = "
            f"{config.alpha_every} from epoch {config.alpha_start} on; lower them, or alphas never move"
        )


def _warning(one_shot: float, chance: float) -> str | None:
    """A tenth of the way from chance to perfect is the least at which paths can begin to be told apart."""
    bound = chance + 0.1 * (1 - chance)
    if one_shot >= bound:
        return None
    return (
        f"the supernet has hardly trained: one-shot accuracy {one_shot:.3f}, chance {chance:.3f}, expected {bound:.3f} "
        "or more. Its alphas mean nothing; train longer, in smaller batches, or at a higher learning rate"
    )
