"""How alphas are learned from a supernet: the estimator of the paper, and others that can be compared with it.

*Gradient* estimators take Adam steps on alpha logits and differ in the gradient: straight-through Gumbel-softmax (the
paper's), ReinMax (Liu et al. 2023), or the score function (REINFORCE). *Path regression* draws paths at random and asks
afterwards which columns the lower losses had: row × column effects by least squares, with standard errors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from fade_study.config import BilevelConfig
from fade_study.exceptions import InvalidInputError
from fade_study.nn import Supernet
from fade_study.training.data import Minibatch
from fade_study.training.session import add_up

__all__ = [
    "ESTIMATORS",
    "AlphaEstimator",
    "Effects",
    "alpha_loss",
    "path_effects",
    "reinmax_factors",
    "row_regularization",
]


@dataclass(frozen=True, slots=True)
class Effects:
    """What columns do to the loss of the paths that take them."""

    value: NDArray[np.float64]
    """``(d, w)``, relative to the mean of the row; lower is better."""
    error: NDArray[np.float64]
    """``(d, w)``, standard errors: columns that differ by less than about two are not told apart."""


class AlphaEstimator(ABC):
    """Turns losses of a supernet's paths into alphas.

    Args:
        supernet: its weights take no gradient from here.
        logits: ``(d, w)``, on the CPU, so that paths are drawn without waiting for the device; weight steps draw their
            paths from the softmax of these.
        config: of the training.
        accelerator: of the training.
    """

    takes_steps: ClassVar[bool] = True
    """Whether it needs steps of its own, on the alpha split."""

    def __init__(self, supernet: Supernet, logits: Tensor, config: BilevelConfig, accelerator: Accelerator) -> None:
        self.supernet, self.logits, self.config, self.accelerator = supernet, logits, config, accelerator
        self.micro_batches = config.micro_batches or accelerator.num_processes
        """Of each batch, over all processes."""

    def observe(self, path: Sequence[int], loss: Tensor, epoch: int) -> None:  # noqa: B027 - most need nothing
        """Told of each weight step's path ``(d,)`` and loss ``()``."""

    def step(self, batch: Sequence[Minibatch], noise: Tensor, remaining: float, epoch: int) -> Tensor:
        """An alpha step.

        Args:
            batch: of the alpha split, the micro-batches of this process.
            noise: Gumbel noise ``(d, w)``.
            remaining: share of the training that is left; scales the regularization.
            epoch: from 0.

        Returns:
            The loss ``()`` of the whole batch, without regularization.
        """
        raise NotImplementedError

    def path_loss(self, batch: Sequence[Minibatch], path: Sequence[int]) -> Tensor:
        """Loss ``()`` of a path ``(d,)`` on the whole batch."""
        with torch.no_grad(), self.accelerator.autocast():
            parts = [[micro_batch.loss(self.supernet(micro_batch.images, path))] for micro_batch in batch]
        (loss,) = self.add_up(parts)
        return loss

    def add_up(self, parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Sums over all micro-batches, of each of which this process's ``parts`` have the same tensors."""
        return add_up(parts, self.accelerator, in_order=self.config.micro_batches is not None)

    @abstractmethod
    def alpha(self) -> NDArray[np.float64]:
        """``(d, w)``, in double precision, so that rows sum to 1."""

    def effects(self) -> Effects | None:
        """Of columns on the loss, where they are estimated."""
        return None

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What the steps so far have left, for a checkpoint."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""


class _Gradient(AlphaEstimator):
    """Adam on the logits."""

    def __init__(self, supernet: Supernet, logits: Tensor, config: BilevelConfig, accelerator: Accelerator) -> None:
        super().__init__(supernet, logits.requires_grad_(), config, accelerator)
        self.optimizer = torch.optim.Adam([self.logits], lr=config.alpha_learning_rate)
        self.regularization = row_regularization(config, len(logits))

    @abstractmethod
    def shares(self, batch: Sequence[Minibatch], noise: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Shares of each micro-batch: of the loss ``()``, and an estimate ``(d, w)`` of its expectation's gradient."""

    def straight_through(
        self, batch: Sequence[Minibatch], factors: Tensor, path: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """The same, along a path ``(d,)``, by factors ``(d, w)`` of the logits that multiply cells' outputs."""
        shares, columns = [], path.tolist()
        for micro_batch in batch:
            with self.accelerator.autocast():
                loss = alpha_loss(self.supernet, micro_batch, factors, columns)
            (slope,) = torch.autograd.grad(loss, factors)
            (gradient,) = torch.autograd.grad(factors, self.logits, slope, retain_graph=True)  # for the next one
            shares.append((loss.detach(), gradient))
        return shares

    def step(self, batch: Sequence[Minibatch], noise: Tensor, remaining: float, epoch: int) -> Tensor:
        soft = torch.softmax((self.logits + noise) / self.config.temperature, dim=1)
        penalty = remaining * (self.regularization * soft.amax(dim=1)).sum()
        (slope,) = torch.autograd.grad(penalty / self.micro_batches, self.logits)
        shares = self.shares(batch, noise)
        # on the device, where processes exchange what they have
        loss, total = self.add_up([[loss, (gradient + slope).to(loss)] for loss, gradient in shares])
        bad = ~total.isfinite().all(dim=1)
        if bad.any():
            raise FloatingPointError(f"the gradient of the alphas of row {int(bad.nonzero()[0])}")
        self.logits.grad = total.to(self.logits)
        self.optimizer.step()
        return loss

    def alpha(self) -> NDArray[np.float64]:
        return torch.softmax(self.logits.detach().double(), dim=1).numpy()

    def state_dict(self) -> dict[str, Any]:
        return {"logits": self.logits.detach(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.logits.detach().copy_(state["logits"])
        self.optimizer.load_state_dict(state["optimizer"])


class StraightThrough(_Gradient):
    """Hard Gumbel-softmax: forward the sampled path, backward as if the soft sample had been used (section 2.2)."""

    def shares(self, batch: Sequence[Minibatch], noise: Tensor) -> list[tuple[Tensor, Tensor]]:
        factors = torch.softmax((self.logits + noise) / self.config.temperature, dim=1)
        return self.straight_through(batch, factors, factors.argmax(dim=1))


class ReinMax(_Gradient):
    """A second-order accurate straight-through gradient (Liu et al. 2023, Algorithm 2)."""

    def shares(self, batch: Sequence[Minibatch], noise: Tensor) -> list[tuple[Tensor, Tensor]]:
        path = (self.logits.detach() + noise).argmax(dim=1)
        return self.straight_through(batch, reinmax_factors(self.logits, path, self.config.temperature), path)


class ScoreFunction(_Gradient):
    """Loss times the gradient of the path's log-probability: forward passes only.

    Each row's baseline is the loss that its alphas lead to expect, from running means by column.
    """

    DECAY: ClassVar[float] = 0.9

    def __init__(self, supernet: Supernet, logits: Tensor, config: BilevelConfig, accelerator: Accelerator) -> None:
        super().__init__(supernet, logits, config, accelerator)
        self.means = torch.full(logits.shape, torch.nan)

    def shares(self, batch: Sequence[Minibatch], noise: Tensor) -> list[tuple[Tensor, Tensor]]:
        path = (self.logits.detach() + noise).argmax(dim=1)
        loss = self.path_loss(batch, path.tolist())
        value = loss.item()
        self.means = torch.where(self.means.isnan(), value, self.means)  # before the first step
        baseline = (torch.softmax(self.logits.detach(), dim=1) * self.means).sum(dim=1)
        rows = torch.arange(len(path))
        surrogate = ((value - baseline) * torch.log_softmax(self.logits, dim=1)[rows, path]).sum()
        self.means[rows, path] += (1 - self.DECAY) * (value - self.means[rows, path])
        (gradient,) = torch.autograd.grad(surrogate / self.micro_batches, self.logits)
        return [(loss / self.micro_batches, gradient)] * len(batch)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"means": self.means}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.means = state["means"]


class _PathRegression(AlphaEstimator):
    """Row × column effects on the losses of random paths, which the initial logits draw."""

    def __init__(self, supernet: Supernet, logits: Tensor, config: BilevelConfig, accelerator: Accelerator) -> None:
        super().__init__(supernet, logits, config, accelerator)
        self.paths: list[Sequence[int]] = []
        self.losses: list[Tensor] = []
        self.epochs: list[int] = []

    def record(self, path: Sequence[int], loss: Tensor, epoch: int) -> None:
        """A path ``(d,)`` and its loss ``()``."""
        if not loss.isfinite():
            raise FloatingPointError(f"the loss of path {list(path)}")
        self.paths.append(path)
        self.losses.append(loss.detach())
        self.epochs.append(epoch)

    def effects(self) -> Effects | None:
        if not self.losses:
            return None
        losses = np.array(torch.stack(self.losses).tolist())
        return path_effects(np.array(self.paths), losses, np.array(self.epochs), self.logits.shape[1])

    def alpha(self) -> NDArray[np.float64]:
        """Softmax of effects over their typical standard error: even where nothing is known, peaked where much is."""
        effects = self.effects()
        if effects is None:
            return np.full(self.logits.shape, 1 / self.logits.shape[1])
        typical = np.sqrt((effects.error[np.isfinite(effects.error)] ** 2).mean())
        scores = -effects.value / max(typical, 1e-12)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return scores / scores.sum(axis=1, keepdims=True)

    def state_dict(self) -> dict[str, Any]:
        # the logits draw the paths, and never move
        return {"logits": self.logits, "paths": self.paths, "losses": self.losses, "epochs": self.epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.logits, self.paths, self.epochs = state["logits"], state["paths"], state["epochs"]
        self.losses = [loss.to(self.accelerator.device) for loss in state["losses"]]


class TrainingRegression(_PathRegression):
    """Path regression on the losses that weight steps produce anyway: alphas cost nothing beyond training."""

    takes_steps = False

    def observe(self, path: Sequence[int], loss: Tensor, epoch: int) -> None:
        if epoch >= self.config.alpha_start:
            self.record(path, loss, epoch)


class ValidationRegression(_PathRegression):
    """Path regression on losses of random paths on the alpha split: forward passes only."""

    def step(self, batch: Sequence[Minibatch], noise: Tensor, remaining: float, epoch: int) -> Tensor:
        path = (self.logits + noise).argmax(dim=1).tolist()
        loss = self.path_loss(batch, path)
        self.record(path, loss, epoch)
        return loss


ESTIMATORS: dict[str, type[AlphaEstimator]] = {
    "straight-through": StraightThrough,
    "reinmax": ReinMax,
    "score-function": ScoreFunction,
    "training-regression": TrainingRegression,
    "validation-regression": ValidationRegression,
}
"""By their names in ``BilevelConfig.estimator``."""


def reinmax_factors(logits: Tensor, path: Tensor, temperature: float = 1.0) -> Tensor:
    """Something ``(d, w)`` with the gradient of ReinMax, for a path ``(d,)`` drawn from softmax(logits)."""
    hard = F.one_hot(path, logits.shape[1])
    middle = (hard + torch.softmax(logits / temperature, dim=1)) / 2
    shifted = torch.softmax((middle.log() - logits).detach() + logits, dim=1)
    return 2 * shifted - torch.softmax(logits, dim=1) / 2


def alpha_loss(supernet: Supernet, batch: Minibatch, factors: Tensor, path: Sequence[int]) -> Tensor:
    """Cross-entropy along a path, with the straight-through gradient of factors.

    Args:
        supernet: of which no weight takes a gradient.
        batch: of the alpha split.
        factors: ``(d, w)``, such as a soft Gumbel-softmax sample.
        path: ``(d,)``.
    """
    return batch.loss(supernet(batch.images, path, factors.to(batch.images.device)))


def path_effects(
    paths: NDArray[np.int64], losses: NDArray[np.float64], epochs: NDArray[np.int64], width: int
) -> Effects | None:
    """Effects of columns on losses, by least squares; what an epoch's losses have in common is taken out.

    Args:
        paths: ``(n, d)``.
        losses: ``(n,)``.
        epochs: ``(n,)``, in which they were seen.
        width: columns w of each row.

    Returns:
        Effects; of a column that no path took the value is 0 and the error infinite. None while there are no more
        losses than unknowns.
    """
    n, depth = paths.shape
    taken = (paths[:, :, None] == np.arange(width)).reshape(n, depth * width).astype(float)
    time = (epochs[:, None] == np.unique(epochs)).astype(float)
    basis = np.concatenate([taken, time], axis=1)
    freedom = n - np.linalg.matrix_rank(basis)
    if freedom < 1:
        return None
    inverse = np.linalg.pinv(basis.T @ basis, hermitian=True)
    fit = inverse @ (basis.T @ losses)
    variance = ((losses - basis @ fit) ** 2).sum() / freedom
    # relative to the mean of the row's columns that were taken: their sum is every path's, and no effect
    seen = taken.any(axis=0).reshape(depth, width)
    center = np.zeros((depth * width, depth * width))
    for row, known in enumerate(seen):
        block = slice(row * width, (row + 1) * width)
        center[block, block] = np.outer(known, known) * (np.eye(width) - 1 / known.sum())
    columns = slice(depth * width)
    error = np.sqrt(np.maximum(0, variance * np.diag(center @ inverse[columns, columns] @ center.T)))
    value = (center @ fit[columns]).reshape(depth, width)
    return Effects(value, np.where(seen, error.reshape(depth, width), np.inf))


def row_regularization(config: BilevelConfig, depth: int) -> Tensor:
    """Weight of each row's largest factor in the alpha loss, ``(d,)``; deeper rows are slowed down more."""
    if isinstance(config.regularization, tuple):
        if len(config.regularization) != depth:
            raise InvalidInputError(
                f"expected one regularization or {depth}, one per row, got {len(config.regularization)}"
            )
        return torch.tensor(config.regularization)
    return config.regularization * torch.arange(1, depth + 1)
