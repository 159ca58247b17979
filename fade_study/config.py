"""Settings of data, networks and trainings: frozen dataclasses that report all bad values at once."""

from __future__ import annotations

import functools
import os
import re
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

import numpy as np
import pydantic
from pydantic import Field

from fade_study.exceptions import ConfigError

__all__ = [
    "SWEEP_IMAGES",
    "BilevelConfig",
    "DataConfig",
    "Estimator",
    "Folder",
    "NetworkConfig",
    "NonNegative",
    "NonNegativeFloat",
    "Normalization",
    "OptimizerConfig",
    "Positive",
    "PositiveFloat",
    "Schedule",
    "ScratchConfig",
    "Seed",
    "sentences",
    "settings",
]

T = TypeVar("T")
Normalization = Literal["none", "cell", "vertex"]
Schedule = Literal["constant", "cosine"]
Estimator = Literal["marginal", "straight-through"]
Paths = Literal["fair", "alphas"]
Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
SWEEP_IMAGES = 1000
"""Of the alpha split, on which a trained supernet's paths are compared."""
OPERATIONS = ("convolution", "separable")
"""Those that are named without a module."""
Folder = Annotated[str, pydantic.AfterValidator(os.path.expanduser)]
"""A path in which ~ is the user's home, which a shell sees to only at the beginning of a word."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(cls: type[T]) -> type[T]:
    """A frozen dataclass whose constructor checks types and ranges, and raises ConfigError."""
    decorate = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=pydantic.ConfigDict(extra="forbid"))
    checked: Any = decorate(cls)
    initialize = checked.__init__

    @functools.wraps(initialize)
    def init(self: T, *args: Any, **kwargs: Any) -> None:
        try:
            initialize(self, *args, **kwargs)
        except pydantic.ValidationError as error:
            raise ConfigError(sentences(error)) from None

    checked.__init__ = init
    return checked


@settings
class DataConfig:
    """Which images, and how they are split.

    Args:
        name: ``fashion14`` or ``digits`` (embedded), ``fashion-mnist``, ``cifar10``, ``cifar100``, or ``npz:PATH`` for
            a file with arrays ``images`` and ``labels``, which may take 16 GiB.
        data_dir: folder of downloaded data sets; it may be a link, but no link in it may lead out of it.
        layout: of images with four dimensions: ``channels-first`` (N, C, H, W) or ``channels-last`` (N, H, W, C); null
            where it can be told, since one reading alone gives square images of up to 4 channels.
        split_seed: of the stratified 4 : 1 : 1 split; apart from the search's seed, so that seeds share their data.
        limit: use only so many images, stratified; null for all.
    """

    name: str = "digits"
    data_dir: Folder = "data"
    layout: Literal["channels-first", "channels-last"] | None = None
    split_seed: Seed = 0
    limit: Positive | None = None


@settings
class NetworkConfig:
    """The macro-architecture and normalization, the same for supernets and single networks.

    Args:
        final_channels: channels of the last cell; each cell before it has half as many.
        min_channels: but no cell has fewer than these.
        min_map: the map is halved between cells while it stays at this size or more.
        kernel_size: of the cells' operations, odd.
        normalization: batch normalization before the last ReLU of a cell, of every vertex, or none (the paper's).
        operation: on the edges of a cell: ``convolution`` (the paper's), ``separable``, which is depthwise and then
            pointwise, or ``package.module:function`` of your own; see :func:`fade_study.nn.build_operation`.
    """

    final_channels: Positive = 16
    min_channels: Positive = 1
    min_map: Positive = 2
    kernel_size: Positive = 3
    normalization: Normalization = "cell"
    operation: str = "convolution"

    @pydantic.field_validator("operation")
    @classmethod
    def _named(cls, operation: str) -> str:
        module, _, function = operation.partition(":")
        names = [*module.split("."), function]
        if operation in OPERATIONS or (all(name.isidentifier() for name in names) and module != "__main__"):
            return operation  # importing it is left to those who have PyTorch: a study's command, and each network
        raise ValueError(f"expected {', '.join(OPERATIONS)} or package.module:function that can be imported")

    @pydantic.field_validator("kernel_size")
    @classmethod
    def _odd(cls, kernel_size: int) -> int:
        if kernel_size % 2 == 0:
            raise ValueError("expected an odd number, so that a convolution keeps the map's size")
        return kernel_size

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> NetworkConfig:
        if self.min_channels > self.final_channels:
            raise ValueError(f"min_channels: expected at most final_channels = {self.final_channels}")
        return self


@settings
class OptimizerConfig:
    """Adam for the weights (section 3).

    Args:
        learning_rate: of Adam, with betas (0.9, 0.999).
        weight_decay: as an L2 term.
        gradient_clip: largest absolute value of a gradient entry.
    """

    learning_rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 1e-4
    gradient_clip: PositiveFloat = 10.0


@settings
class BilevelConfig:
    """Training of a hyper-architecture (section 2.2), first order.

    Args:
        epochs: passes over the weight split.
        batch_size: of both kinds of steps.
        micro_batches: into how many each batch is cut, a power of 2. Their gradients are added up in a fixed order, and
            batch normalization takes the statistics of each, so that results on processors of one kind are the same bit
            for bit, whatever number of processes shares them. Null: one for each process, which is the fastest.
        optimizer: of the weights.
        schedule: of their learning rate: ``constant``, or ``cosine``, from its value to 0 over the steps.
        paths: that weight steps train: ``fair``, where each w consecutive steps take every column of every row once; or
            drawn from the ``alphas`` that straight-through steps learn (the paper's).
        estimator: of the alphas: ``marginal`` effects of the columns on the losses of the weight steps; or
            ``straight-through`` Gumbel-softmax, which takes gradient steps on the alpha split (the paper's).
        alpha_learning_rate: of Adam in straight-through steps, constant.
        alpha_every: weight steps for each straight-through step.
        alpha_start: first epoch (from 0) that teaches alphas, by its losses or straight-through steps.
        alpha_init_std: standard deviation of the normal distribution that alpha logits are drawn from.
        temperature: of the Gumbel-softmax.
        regularization: weight of the largest Gumbel-softmaxed alpha of a row in the alpha loss, falling linearly to 0
            over the epochs. One number c gives row i the weight c·(i + 1), which slows deeper rows down; or give one
            number per row.
        sweep_paths: fair paths whose losses on the alpha split, once all is trained, tell the marginal effects; 0 takes
            the losses of the weight steps instead.
        share_weights: whether cells of a row share the operation on edge (u, v).
        one_shot_paths: random paths over which the final one-shot accuracy is averaged.
        threads: of the processor; small convolutions gain nothing from more than one.
    """

    epochs: Positive = 20
    batch_size: Positive = 128
    micro_batches: Positive | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: Schedule = "constant"
    paths: Paths = "fair"
    estimator: Estimator = "marginal"
    alpha_learning_rate: PositiveFloat = 1e-3
    alpha_every: Positive = 1
    alpha_start: NonNegative = 0
    alpha_init_std: NonNegativeFloat = 0.0
    temperature: PositiveFloat = 1.0
    regularization: float | tuple[float, ...] = 0.1
    sweep_paths: NonNegative = 0
    share_weights: bool = False
    one_shot_paths: Positive = 16
    threads: Positive = 1

    @pydantic.field_validator("regularization")
    @classmethod
    def _not_negative(cls, regularization: float | tuple[float, ...]) -> float | tuple[float, ...]:
        if not all(0 <= c < float("inf") for c in np.atleast_1d(regularization)):
            raise ValueError("expected finite numbers of 0 or more")
        return regularization

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> BilevelConfig:
        if self.alpha_start >= self.epochs:
            raise ValueError(f"alpha_start: expected an epoch before the last of {self.epochs}, or alphas never move")
        parts = self.micro_batches
        if parts is not None and (parts.bit_count() > 1 or parts > self.batch_size):
            raise ValueError(f"micro_batches: expected a power of 2 up to batch_size = {self.batch_size}, got {parts}")
        return self

    @property
    def straight_through(self) -> bool:
        """Whether straight-through steps are taken, for the alphas themselves or to draw paths."""
        return self.estimator == "straight-through" or self.paths == "alphas"

    def steps(self, epoch: int) -> int:
        """Training steps of both kinds, with so many weight steps in an epoch; forward passes count as a third."""
        steps, start = self.epochs * epoch, self.alpha_start * epoch
        every = self.alpha_every
        alpha_steps = steps // every - start // every if self.straight_through else 0
        swept = self.sweep_paths * SWEEP_IMAGES // (3 * self.batch_size)
        return steps + alpha_steps + swept


@settings
class ScratchConfig:
    """Training of a single architecture from scratch.

    Args:
        epochs: passes over the weight split.
        batch_size: of a step.
        optimizer: of the weights.
        schedule: of the learning rate: ``constant``, or ``cosine``, from its value to 0 over the steps.
        threads: of the processor.
    """

    epochs: Positive = 20
    batch_size: Positive = 128
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: Schedule = "constant"
    threads: Positive = 1


def sentences(error: pydantic.ValidationError) -> list[str]:
    """One sentence per problem: where, what was expected, what came."""
    sentences = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            message = "unknown name; --help lists all"
        if problem["type"] == "value_error" and (not name or isinstance(problem["input"], dict)):
            # Of several settings together; the message names the one to change.
            sentences.append(f"{name}.{message}".lstrip("."))
        else:
            got = re.sub(r"^'(-?[\d.]+)'$", r"\1", repr(problem["input"]))  # a number is text on the command line
            sentences.append(f"{name}: {message}, got {got}")
    return sentences
