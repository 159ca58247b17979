"""Bi-level training of a hyper-architecture: DARTS over whole cells, with hard Gumbel-softmax (section 2.2).

Weight steps on the weight split alternate with alpha steps on the alpha split, first order. Alphas live outside the
module: they are d·w numbers on the CPU, so that paths are drawn without waiting for the device.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from fade_study.architecture import HyperArchitecture
from fade_study.config import BilevelConfig, NetworkConfig
from fade_study.exceptions import InvalidInputError
from fade_study.nn import Supernet, gumbel_noise
from fade_study.training.data import Data, Split
from fade_study.training.session import accuracy, adam, session

__all__ = ["HyperResult", "alpha_loss", "row_regularization", "train_hyper_architecture"]


@dataclass(frozen=True, slots=True)
class HyperResult:
    """A trained hyper-architecture."""

    alpha: NDArray[np.float64]
    """``(d, w)``, rows sum to 1, higher is better."""
    alpha_history: NDArray[np.float64]
    """After each epoch, ``(E, d, w)``."""
    accuracy: float
    """One-shot accuracy on the alpha split, mean over random paths. Near chance, alphas mean nothing."""
    epochs: tuple[dict[str, float], ...]
    """Per epoch: ``loss/weights``, ``loss/alpha`` (once alpha steps are taken), ``accuracy/validation`` (of one random
    path)."""
    warning: str | None
    """Why the alphas mean nothing, where they don't."""
    seconds: float


def train_hyper_architecture(
    hyper_architecture: HyperArchitecture,
    data: Data,
    config: BilevelConfig,
    *,
    network: NetworkConfig = NetworkConfig(),  # noqa: B008 - frozen
    seed: int = 0,
    on_epoch: Callable[[int, NDArray[np.float64], dict[str, float]], None] | None = None,
) -> HyperResult:
    """Train the supernet of a hyper-architecture and its alphas.

    Args:
        hyper_architecture: d rows of w cells.
        data: from ``load_data``.
        config: of both levels.
        network: macro-architecture and normalization.
        seed: of initialization, data order, paths and noise; the result is a function of the arguments.
        on_epoch: called with each epoch's number, alphas ``(d, w)`` and metrics.
    """
    begin = time.perf_counter()
    depth, width = hyper_architecture.shape
    regularization = row_regularization(config, depth)
    with session(seed, config.threads) as (accelerator, generator):
        data = data.to(accelerator.device)
        supernet = Supernet(
            hyper_architecture, data.image_shape, data.classes, network, share_weights=config.share_weights
        )
        module, optimizer = accelerator.prepare(supernet, adam(supernet, config.optimizer))
        supernet = accelerator.unwrap_model(module)
        logits = config.alpha_init_std * torch.randn(depth, width, generator=generator)
        logits.requires_grad_()
        alpha_optimizer = torch.optim.Adam([logits], lr=config.alpha_learning_rate)
        alpha_batches = _endless(data.alpha, config.batch_size, generator, accelerator)

        history: list[NDArray[np.float64]] = []
        epochs: list[dict[str, float]] = []
        steps = data.weight.steps(config.batch_size)
        for epoch in range(config.epochs):
            module.train()
            weight_total, alpha_total = torch.zeros(2, device=accelerator.device)
            alpha_steps = 0
            noise = gumbel_noise((2, steps, depth, width), generator)
            batches = data.weight.batches(
                config.batch_size, generator, rank=accelerator.process_index, ranks=accelerator.num_processes
            )
            for step, (images, labels) in enumerate(batches):
                path = (logits.detach() + noise[0, step]).argmax(dim=1).tolist()
                with accelerator.autocast():
                    loss = F.cross_entropy(module(images, path), labels)
                optimizer.zero_grad()
                accelerator.backward(loss)
                accelerator.clip_grad_value_(module.parameters(), config.optimizer.gradient_clip)
                optimizer.step()
                weight_total += loss.detach()

                if epoch >= config.alpha_start and (step + 1) % config.alpha_every == 0:
                    factors = torch.softmax((logits + noise[1, step]) / config.temperature, dim=1)
                    remaining = 1 - (epoch + step / steps) / config.epochs
                    with accelerator.autocast():
                        loss = alpha_loss(supernet, *next(alpha_batches), factors)
                    objective = loss + remaining * (regularization * factors.amax(dim=1)).sum().to(loss.device)
                    (gradient,) = torch.autograd.grad(objective, logits)
                    logits.grad = accelerator.reduce(gradient, "mean")  # pyright: ignore[reportAttributeAccessIssue]
                    alpha_optimizer.step()
                    alpha_total += loss.detach()
                    alpha_steps += 1

            alpha = torch.softmax(logits.detach().double(), dim=1).numpy()
            metrics = {
                "loss/weights": weight_total.item() / steps,
                "accuracy/validation": _one_shot_accuracy(supernet, data.alpha, 1, width, generator, accelerator),
            }
            if alpha_steps:
                metrics["loss/alpha"] = alpha_total.item() / alpha_steps
            history.append(alpha)
            epochs.append(metrics)
            if on_epoch is not None:
                on_epoch(epoch, alpha, metrics)

        one_shot = _one_shot_accuracy(supernet, data.alpha, config.one_shot_paths, width, generator, accelerator)
    warning = _warning(one_shot, data.chance)
    if warning is not None:
        warnings.warn(warning, stacklevel=2)
    return HyperResult(
        history[-1], np.stack(history), one_shot, tuple(epochs), warning, time.perf_counter() - begin
    )


def alpha_loss(supernet: Supernet, images: Tensor, labels: Tensor, factors: Tensor) -> Tensor:
    """Cross-entropy along the path of the largest factors, with their straight-through gradient.

    Args:
        supernet: not the distributed wrapper: weights take no gradient from it.
        images: ``(B, C, H, W)``.
        labels: ``(B,)``.
        factors: soft Gumbel-softmax sample ``(d, w)``.
    """
    path = factors.argmax(dim=1).tolist()
    return F.cross_entropy(supernet(images, path, factors.to(images.device)), labels)


def row_regularization(config: BilevelConfig, depth: int) -> Tensor:
    """Weight of each row's largest factor in the alpha loss, ``(d,)``: deeper rows are slowed down more (section 2.2)."""
    if isinstance(config.regularization, tuple):
        if len(config.regularization) != depth:
            raise InvalidInputError(
                f"expected one regularization or {depth}, one per row, got {len(config.regularization)}"
            )
        return torch.tensor(config.regularization)
    return config.regularization * torch.arange(1, depth + 1)


def _endless(
    split: Split, batch_size: int, generator: torch.Generator, accelerator: Accelerator
) -> Iterator[tuple[Tensor, Tensor]]:
    rank, ranks = accelerator.process_index, accelerator.num_processes
    return itertools.chain.from_iterable(
        split.batches(batch_size, generator, rank=rank, ranks=ranks) for _ in itertools.count()
    )


def _one_shot_accuracy(
    supernet: nn.Module, split: Split, paths: int, width: int, generator: torch.Generator, accelerator: Accelerator
) -> float:
    """Mean accuracy of uniformly random paths, with batch statistics."""
    assert isinstance(supernet, Supernet)
    depth = len(supernet.rows)
    columns: list[list[int]] = torch.randint(width, (paths, depth), generator=generator).tolist()
    results = [accuracy(lambda images, path=path: supernet(images, path), split, accelerator) for path in columns]
    return float(np.mean(results))


def _warning(one_shot: float, chance: float) -> str | None:
    """A tenth of the way from chance to perfect is the least at which paths can begin to be told apart."""
    bound = chance + 0.1 * (1 - chance)
    if one_shot >= bound:
        return None
    return (
        f"the supernet has hardly trained: one-shot accuracy {one_shot:.3f}, chance {chance:.3f}, expected {bound:.3f} "
        "or more. Its alphas mean nothing; train longer, in smaller batches, or at a higher learning rate"
    )
