"""Estimators of the alphas: the paper's straight-through gradients, or marginal effects on the losses of paths.

*Straight-through* (section 2.2): Adam steps on alpha logits, along the gradient of hard Gumbel-softmax on the alpha
split. *Marginal*: a regression of losses on the columns of their paths (:mod:`fade_study.effects`), after the training.
The losses are those of a sweep over fair paths or, without a sweep, of the weight steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from fade_study.config import BilevelConfig
from fade_study.effects import PathLosses, effects_to_alpha, path_effects
from fade_study.exceptions import InvalidInputError
from fade_study.nn import Supernet
from fade_study.training.data import Minibatch
from fade_study.training.graphs import PathGraphs
from fade_study.training.session import add_up

ONE_HOT = 0.99
"""Smallest alpha for which a row counts as collapsed to one cell."""


class StraightThrough:
    """Hard Gumbel-softmax: forward along the sampled path, backward as if the soft sample had been used (section 2.2).

    The logits ``(d, w)`` are on the CPU, so that drawing a path does not wait for the device. Alpha steps change no
    weights of the supernet.
    """

    def __init__(
        self,
        supernet: Supernet,
        logits: Tensor,
        config: BilevelConfig,
        accelerator: Accelerator,
        graphs: PathGraphs | None = None,
    ) -> None:
        self.supernet, self.config, self.accelerator, self.graphs = supernet, config, accelerator, graphs
        self.logits = logits.requires_grad_()
        self.optimizer = torch.optim.Adam([self.logits], lr=config.alpha_learning_rate)
        self.regularization = row_regularization(config, len(logits))

    def draw(self, noise: Tensor) -> list[int]:
        """Draw a path ``(d,)`` from the softmax of the logits, with Gumbel noise ``(d, w)``."""
        return (self.logits.detach() + noise).argmax(dim=1).tolist()

    def step(self, batch: Sequence[Minibatch], noise: Tensor, remaining: float) -> Tensor:
        """Take an alpha step with Gumbel noise ``(d, w)``; return the batch's loss ``()`` without regularization.

        The batch consists of this process's micro-batches of the alpha split. The regularization is scaled by the
        remaining share of the training. A gradient that is NaN or infinite is a ``FloatingPointError``.
        """
        factors = torch.softmax((self.logits + noise) / self.config.temperature, dim=1)
        path = factors.argmax(dim=1).tolist()
        penalty = remaining * (self.regularization * factors.amax(dim=1)).sum()
        parts = self.config.micro_batches or self.accelerator.num_processes  # in a batch, over all processes
        (slope,) = torch.autograd.grad(penalty / parts, self.logits, retain_graph=True)
        shares = []
        for micro_batch in batch:
            loss, by_factor = self._by_factor(micro_batch, factors, path)
            (gradient,) = torch.autograd.grad(factors, self.logits, by_factor, retain_graph=True)
            gradient += slope
            # It stays on the processor unless processes exchange it: each copy back makes the host wait for the GPU.
            shares.append([loss, gradient if self.accelerator.num_processes == 1 else gradient.to(loss)])
        loss, total = add_up(shares, self.accelerator, in_order=self.config.micro_batches is not None)
        total = total.to(self.logits)
        bad = ~total.isfinite().all(dim=1)
        if bad.any():
            raise FloatingPointError(f"the gradient of the alphas of row {int(bad.nonzero()[0])}")
        self.logits.grad = total
        self.optimizer.step()
        return loss

    def _by_factor(self, batch: Minibatch, factors: Tensor, path: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The loss ``()``, and its straight-through gradient ``(d, w)`` by the factors."""
        if self.graphs is not None:
            loss, by_factor = self.graphs.alpha_step(batch, path)
            return loss, by_factor.to(factors)
        with self.accelerator.autocast():
            loss = alpha_loss(self.supernet, batch, factors, path)
        (by_factor,) = torch.autograd.grad(loss, factors)
        return loss.detach(), by_factor

    def alpha(self) -> NDArray[np.float64]:
        """Alphas ``(d, w)``, in double precision so that rows sum to 1."""
        return torch.softmax(self.logits.detach().double(), dim=1).numpy()

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"logits": self.logits.detach(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.logits.detach().copy_(state["logits"])
        self.optimizer.load_state_dict(state["optimizer"])


class Marginal:
    """Losses of the weight steps with their paths, and the marginal effects of columns on them."""

    def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
        self.shape, self.device = shape, device
        self.paths: list[Sequence[int]] = []
        self.losses: list[Tensor] = []
        self.epochs: list[int] = []

    def observe(self, path: Sequence[int], loss: Tensor, epoch: int) -> None:
        """Record a path ``(d,)`` and its loss ``()``, which stays on the device until all losses are needed."""
        self.paths.append(path)
        self.losses.append(loss)
        self.epochs.append(epoch)

    def seen(self) -> PathLosses:
        """All observed paths and losses."""
        losses = torch.stack(self.losses).double().cpu().numpy() if self.losses else np.empty(0)
        paths = np.array(self.paths, dtype=np.int64).reshape(-1, self.shape[0])
        return PathLosses(paths, losses, np.array(self.epochs, dtype=np.int64))

    def alpha(self) -> NDArray[np.float64]:
        """Alphas ``(d, w)``, uniform while there are too few losses."""
        effects = path_effects(self.seen(), self.shape[1])
        return np.full(self.shape, 1 / self.shape[1]) if effects is None else effects_to_alpha(effects)

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        losses = torch.stack(self.losses) if self.losses else torch.empty(0)  # one tensor is saved in a moment
        return {"paths": self.paths, "losses": losses, "epochs": self.epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.paths, self.epochs = state["paths"], state["epochs"]
        self.losses = list(state["losses"].to(self.device))


def gumbel_noise(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise in single precision; argmax(logits + noise) is a sample from softmax(logits)."""
    return -torch.empty(*shape).exponential_(generator=generator).log()


def fair_paths(steps: int, shape: tuple[int, int], generator: torch.Generator) -> list[list[int]]:
    """Random paths ``(steps, d)``, where each round of w steps takes every column of every row exactly once."""
    depth, width = shape
    orders = torch.rand(-(-steps // width), depth, width, generator=generator).argsort(dim=2)
    return orders.transpose(1, 2).reshape(-1, depth)[:steps].tolist()


def alpha_loss(supernet: Supernet, batch: Minibatch, factors: Tensor, path: Sequence[int]) -> Tensor:
    """Cross-entropy ``()`` along a path ``(d,)``, with the straight-through gradient of the soft sample ``(d, w)``."""
    return batch.loss(supernet(batch.images, path, factors.to(batch.images.device)))


def row_regularization(config: BilevelConfig, depth: int) -> Tensor:
    """Weight ``(d,)`` of each row's maximum norm in the alpha loss (section 2.2), by default larger for deeper rows.

    The maximum norm of a row is its largest Gumbel-softmaxed alpha. Its weight decreases linearly during the training.
    """
    if isinstance(config.regularization, tuple):
        if len(config.regularization) != depth:
            raise InvalidInputError(
                f"expected one regularization or {depth}, one per row, got {len(config.regularization)}"
            )
        return torch.tensor(config.regularization)
    return config.regularization * torch.arange(1, depth + 1)


def collapsed(history: NDArray[np.float64]) -> str | None:
    """Warning for alphas ``(E, d, w)`` that are one-hot before half of the epochs are over; None if they are not."""
    early = history[: len(history) // 2].max(axis=2) > ONE_HOT  # (E / 2, d)
    rows = np.flatnonzero(early.any(axis=0))
    if not len(rows):
        return None
    first = {int(row): int(early[:, row].argmax()) for row in rows}
    return (
        f"alphas have collapsed to one cell within half of the {len(history)} epochs, in rows (and epochs) {first}; "
        "they say little of the other cells: lower alpha_learning_rate, or raise regularization"
    )
