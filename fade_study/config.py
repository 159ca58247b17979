"""Settings of data, networks and trainings: frozen dataclasses that report all invalid values at once."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

import numpy as np
import pydantic
from pydantic import Field

from fade_study.exceptions import ConfigError

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
"""Number of images of the alpha split on which the paths of a trained supernet are compared."""
OPERATIONS = ("convolution", "separable")
"""Operations that are named without a module."""
Folder = Annotated[str, pydantic.AfterValidator(os.path.expanduser)]
"""Path in which ``~`` stands for the user's home; a shell expands it only at the beginning of a word."""


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Number of full batches in one pass over the images, at least 1."""
    return max(1, images // batch_size)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose constructor checks types and ranges, and raises ``ConfigError``."""
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
    """The data set, and how it is split.

    Args:
        name: Data set: ``fashion14`` or ``digits`` (both embedded), ``fashion-mnist``, ``cifar10``, ``cifar100``, or
            ``npz:PATH`` for a file with the arrays ``images`` and ``labels`` of up to 16 GiB.
        data_dir: Folder of downloaded data sets. It may be a symbolic link, but no link in it may lead out of it.
        layout: Order of the dimensions of four-dimensional images: ``channels-first`` (N, C, H, W) or
            ``channels-last`` (N, H, W, C). With null it is inferred where only one order gives square images of up to
            4 channels.
        split_seed: Seed for the stratified 4 : 1 : 1 split. It is independent of the search's seed, so that searches
            with different seeds share their data.
        limit: Number of images to use, as a stratified subset; null uses all.
        augment: How images of the weight split are changed at random, anew in each pass: ``none``, or ``crop-flip``,
            which moves them by up to an eighth of their size (CIFAR: 4 pixels) and mirrors half of them. Mirrored
            digits are wrong.
    """

    name: str = "digits"
    data_dir: Folder = "data"
    layout: Literal["channels-first", "channels-last"] | None = None
    split_seed: Seed = 0
    limit: Positive | None = None
    augment: Literal["none", "crop-flip"] = "none"


@settings
class NetworkConfig:
    """Macro-architecture and normalization, the same for supernets and single networks.

    Args:
        final_channels: Number of channels of the last cell; each cell has half as many as the next one.
        min_channels: Smallest number of channels of any cell.
        min_map: Smallest height and width of the feature map: it is halved between cells down to this size.
        kernel_size: Kernel size of the cells' operations, an odd number.
        normalization: Batch normalization before the last ReLU of each ``cell``, before the ReLU of every ``vertex``,
            or ``none`` (as in the paper).
        operation: Operation on the edges of a cell: ``convolution`` (as in the paper), ``separable`` (a depthwise
            convolution, then a pointwise one), or your own as ``package.module:function``; see
            :func:`fade_study.nn.build_operation`.
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
            return operation  # It is imported later, where PyTorch is loaded: by a study's command and by each network.
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
        learning_rate: Learning rate of Adam, whose betas are (0.9, 0.999).
        weight_decay: Weight decay, as an L2 term of the loss.
        gradient_clip: Largest absolute value of a gradient entry; larger ones are clipped.
    """

    learning_rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 1e-4
    gradient_clip: PositiveFloat = 10.0


@settings
class BilevelConfig:
    """First-order bi-level training of a hyper-architecture (section 2.2).

    Args:
        epochs: Number of passes over the weight split.
        batch_size: Number of images in a batch, of weight steps and alpha steps alike.
        micro_batches: Number of micro-batches that each batch is split into, a power of 2. Their gradients are summed
            in a fixed order and each is normalized with its own batch statistics, so that results on CPUs of one kind
            are the same bit for bit for any number of processes. Null makes one per process, which is the fastest.
        optimizer: Optimizer of the weights.
        schedule: Schedule of the weights' learning rate: ``constant``, or ``cosine`` decay to 0.
        paths: Paths that weight steps train: ``fair``, where each round of w steps takes every column of every row
            once; or drawn from the ``alphas`` that straight-through steps learn (as in the paper).
        estimator: Estimator of the alphas: ``marginal`` effects of the columns on the losses of the paths, or
            ``straight-through`` Gumbel-softmax with gradient steps on the alpha split (as in the paper).
        alpha_learning_rate: Learning rate of Adam in straight-through steps, constant.
        alpha_every: Number of weight steps for each straight-through step.
        alpha_init_std: Standard deviation of the normal distribution from which initial alpha logits are drawn.
        temperature: Temperature of the Gumbel-softmax.
        regularization: Weight of a row's largest Gumbel-softmaxed alpha in the alpha loss, which decreases linearly to
            0 over the epochs. One number c gives row i the weight c·(i + 1), which slows deeper rows down; a list has
            one weight per row.
        sweep_paths: Number of fair paths through the trained supernet from whose losses on the alpha split marginal
            effects are estimated; 0 uses the losses of the weight steps instead.
        share_weights: Whether the cells of a row share the operation on each edge (u, v).
        one_shot_paths: Number of random paths over which the final one-shot accuracy is averaged.
        threads: Number of CPU threads; small convolutions gain nothing from more than one.
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
        parts = self.micro_batches
        if parts is not None and (parts.bit_count() > 1 or parts > self.batch_size):
            raise ValueError(f"micro_batches: expected a power of 2 up to batch_size = {self.batch_size}, got {parts}")
        return self

    @property
    def straight_through(self) -> bool:
        """Whether straight-through steps are taken, to estimate alphas or to draw paths."""
        return self.estimator == "straight-through" or self.paths == "alphas"

    def recorded(self) -> dict[str, Any]:
        """These settings as studies and recipes hold them: with one that is gone, so that earlier ones are found."""
        return dataclasses.asdict(self) | {"alpha_start": 0}

    def steps(self, images: int) -> int:
        """Number of weight and alpha steps in total; a forward pass of the sweep counts as a third of a step.

        Args:
            images: Number of images in the weight split.
        """
        steps = self.epochs * steps_per_epoch(images, self.batch_size)
        alpha_steps = steps // self.alpha_every if self.straight_through else 0
        swept = self.sweep_paths * SWEEP_IMAGES // (3 * self.batch_size)
        return steps + alpha_steps + swept


@settings
class ScratchConfig:
    """Training of a single architecture from scratch.

    Args:
        epochs: Number of passes over the weight split.
        batch_size: Number of images in a batch.
        optimizer: Optimizer of the weights.
        schedule: Schedule of the learning rate: ``constant``, or ``cosine`` decay to 0.
        threads: Number of CPU threads.
    """

    epochs: Positive = 20
    batch_size: Positive = 128
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: Schedule = "constant"
    threads: Positive = 1

    def steps(self, images: int) -> int:
        """Number of training steps in total, with so many images in the weight split."""
        return self.epochs * steps_per_epoch(images, self.batch_size)


def sentences(error: pydantic.ValidationError) -> list[str]:
    """One sentence per problem: which setting, what was expected, and what was given."""
    sentences = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            message = "unknown name; --help lists all"
        if problem["type"] == "value_error" and (not name or isinstance(problem["input"], dict)):
            # The problem is one of several settings together; its message names the one to change.
            sentences.append(f"{name}.{message}".lstrip("."))
        else:
            got = re.sub(r"^'(-?[\d.]+)'$", r"\1", repr(problem["input"]))  # numbers on the command line are strings
            sentences.append(f"{name}: {message}, got {got}")
    return sentences
