"""The settings of everything: frozen dataclasses, which are also the schema of the presets in ``studies/configs``.

A bad value raises :class:`~fade_study.ConfigError` with all problems at once, from Python as from the command line.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self, TypeVar, dataclass_transform

import numpy as np
import pydantic
import yaml
from pydantic import Field

from fade_study import samplers
from fade_study.cells import FEATURES, PAPER_FEATURES, DagSpace, check_vertices
from fade_study.exceptions import ConfigError

__all__ = [
    "AnalyzeConfig",
    "BenchmarkConfig",
    "BilevelConfig",
    "ComparisonConfig",
    "DataConfig",
    "Estimator",
    "EvaluateConfig",
    "NetworkConfig",
    "Normalization",
    "OptimizerConfig",
    "SamplerConfig",
    "ScaleConfig",
    "Schedule",
    "ScratchConfig",
    "SearchConfig",
    "SpaceConfig",
    "ValidationConfig",
    "parse_config",
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
MOST_PATHS = 1_000_000
"""Of a hyper-architecture whose paths are all listed."""
SWEEP_IMAGES = 1000
"""Of the alpha split, on which a trained supernet's paths are compared."""
OPERATIONS = ("convolution", "separable")
"""Those that are named without a module."""
DEFAULT_PRESET = "fashion14"
LONGEST_PRESET = 20_000
"""Characters; ours have less than 1,000."""
SamplerName = Literal["pseudo-gradient", "champion", "successive-rejects", "evolution-strategy", "random-anchors"]
Vertices = Annotated[int, pydantic.AfterValidator(check_vertices)]
Folder = Annotated[str, pydantic.AfterValidator(os.path.expanduser)]
"""A path in which ~ is the user's home, which a shell sees to only at the beginning of a word."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def _settings(cls: type[T]) -> type[T]:
    """A frozen dataclass whose constructor checks types and ranges, and raises ConfigError."""
    decorate = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=pydantic.ConfigDict(extra="forbid"))
    checked: Any = decorate(cls)
    initialize = checked.__init__

    @functools.wraps(initialize)
    def init(self: T, *args: Any, **kwargs: Any) -> None:
        try:
            initialize(self, *args, **kwargs)
        except pydantic.ValidationError as error:
            raise ConfigError(_sentences(error)) from None

    checked.__init__ = init
    return checked


@_settings
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


@_settings
class SpaceConfig:
    """The cells: all DAGs between two sizes, and the features that embed them.

    Args:
        max_vertices: largest number of vertices, up to 7.
        min_vertices: smallest.
        features: names of graph features; the default three are the paper's.
    """

    max_vertices: Vertices = 5
    min_vertices: Vertices = 1
    features: tuple[str, ...] = PAPER_FEATURES

    @pydantic.field_validator("features")
    @classmethod
    def _known(cls, features: tuple[str, ...]) -> tuple[str, ...]:
        if not features or len(set(features)) < len(features) or not set(features) <= FEATURES.keys():
            raise ValueError(f"expected different features among {', '.join(FEATURES)}")
        return features

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> SpaceConfig:
        if self.min_vertices > self.max_vertices:
            raise ValueError(f"min_vertices: expected at most max_vertices = {self.max_vertices}")
        return self

    def open(self) -> DagSpace:
        """The space that these settings describe."""
        return DagSpace(self.max_vertices, min_vertices=self.min_vertices, features=self.features)


@_settings
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


@_settings
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


@_settings
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


def _not_the_papers(compared: BilevelConfig | None) -> list[str]:
    """Problems of a training that the comparison's own is compared with as the paper's."""
    if compared is None or compared.estimator == "straight-through":
        return []
    return [f"straight_through.estimator: expected straight-through, got {compared.estimator}"]


@_settings
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


@_settings
class SamplerConfig:
    """An outer search of ours.

    Args:
        name: ``pseudo-gradient`` (the paper's), ``champion``, ``successive-rejects``, ``evolution-strategy`` or
            ``random-anchors``.
        offset: of all but ``champion`` and ``random-anchors``: distance from an anchor to its neighbors.
        step_size: of the pseudo-gradient; negative is the printed sign of Eq. 1.
        width: candidates in a row, of all searches but the pseudo-gradient, which has 1 + 2 · features.
        kappa: of successive rejects: standard errors by which a cell has to be worse than the champion to be dropped.
    """

    name: SamplerName = "pseudo-gradient"
    offset: PositiveFloat = 0.5
    step_size: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    width: Annotated[int, Field(ge=2)] = 7
    kappa: NonNegativeFloat = 1.0

    @pydantic.field_validator("step_size")
    @classmethod
    def _moves(cls, step_size: float) -> float:
        if step_size == 0:
            raise ValueError("expected a number other than 0, or anchors never move")
        return step_size

    def open(self, seed: int) -> samplers.RowSampler:
        """The sampler that these settings describe."""
        if self.name == "pseudo-gradient":
            return samplers.PseudoGradientSampler(self.offset, self.step_size, seed=seed)
        if self.name == "successive-rejects":
            return samplers.SuccessiveRejectsSampler(self.width, self.offset, self.kappa, seed=seed)
        if self.name == "evolution-strategy":
            return samplers.EvolutionStrategySampler(self.width, self.offset, seed=seed)
        simple = {"champion": samplers.ChampionSampler, "random-anchors": samplers.RandomAnchorSampler}
        return simple[self.name](self.width, seed=seed)

    def columns(self, features: int) -> int:
        """Width w of the hyper-architectures over a space with so many features."""
        return 1 + 2 * features if self.name == "pseudo-gradient" else self.width


@_settings
class _StudyConfig:
    """What all studies that train share.

    Args:
        seed: of all that is random but trainings from scratch.
        depth: cells in a chain, rows of a hyper-architecture.
        executor: where independent trainings run: ``inline``, ``processes:N``, or ``tcp://HOST:PORT`` of a Dask
            scheduler.
        space: the cells.
        data: the images.
        network: the macro-architecture.
        bilevel: training of hyper-architectures.
        scratch: training from scratch.
    """

    seed: Seed = 0
    depth: Positive = 4
    executor: str = "processes:2"
    space: SpaceConfig = SpaceConfig()
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    bilevel: BilevelConfig = BilevelConfig()
    scratch: ScratchConfig = ScratchConfig()

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = self._problems()
        rows = self.bilevel.regularization
        if isinstance(rows, tuple) and len(rows) != self.depth:
            problems.append(f"bilevel.regularization: expected one number or one per row ({self.depth}), got {rows}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems(self) -> list[str]:
        """Of settings together, each naming the one to change."""
        return []


@_settings
class SearchConfig(_StudyConfig):
    """A FaDE search (sections 2.4 and 3.2).

    Args:
        generations: of the study in all; a study that has some already is continued up to this number.
        seed: of anchors, ties between cells, and trainings of hyper-architectures. Trainings from scratch have seeds 0,
            1, ... in all searches, so that the same one is never paid twice.
        seeds: searches, each with a study of its own, with seeds ``seed``, ``seed + 1``, ...
        study: name of the study; a name that exists in the storage is continued. Null makes a new one. Several
            searches append their seeds to it.
        storage: Optuna storage URL.
        sampler: the outer search.
        processes: that train each hyper-architecture together, each on a GPU, or all on the processor. Leave it out
            where a launcher such as ``torchrun`` has started several.
        repetitions: trainings of each hyper-architecture, whose alphas are averaged; several go through the executor.
        carry_over: begin each hyper-architecture with the last one's weights, where it has the same cells (or edges, if
            they share weights); they are kept in ``checkpoint_dir``.
        checkpoint_dir: folder of the states of trainings that run, in which a search that was killed goes on.
        max_failures: trainings of one hyper-architecture that may diverge, each with another seed, before the search
            gives up.
        patience: stop when no anchor has changed its cell for so many generations; null never stops early.
        evaluate: which architecture of a generation is trained from scratch: the ``best_ranked`` of its
            hyper-architecture, or the ``anchor``'s (the paper's).
        evaluate_every: generations between these evaluations; the last one is always evaluated. 0 evaluates none: ``-e
            evaluate`` can do so later.
        evaluation_seeds: trainings per evaluation.
        final_seeds: trainings, that nothing is chosen by, of the architecture that a search ends with and of the first
            generation's anchor architecture: how much better is the answer? 0 leaves that out.
    """

    generations: Positive = 8
    seeds: Positive = 1
    study: Annotated[str, Field(min_length=1)] | None = None
    storage: str = "sqlite:///fade.db"
    sampler: SamplerConfig = SamplerConfig()
    processes: Positive = 1
    repetitions: Positive = 1
    carry_over: bool = False
    checkpoint_dir: Folder = "checkpoints"
    max_failures: NonNegative = 3
    patience: Positive | None = None
    evaluate: Literal["anchor", "best_ranked"] = "best_ranked"
    evaluate_every: NonNegative = 4
    evaluation_seeds: Positive = 2
    final_seeds: NonNegative = 0

    def _problems(self) -> list[str]:
        images, parts = self.bilevel.batch_size, self.bilevel.micro_batches
        if self.processes > images:
            return [f"processes: expected up to {images}, an image of each batch for each, got {self.processes}"]
        if parts is not None and parts % self.processes:
            return [f"processes: expected a number that divides bilevel.micro_batches = {parts}, got {self.processes}"]
        return []


@_settings
class ValidationConfig(_StudyConfig):
    """Do ranks predict from-scratch accuracy (section 3.1)?

    Args:
        seed: of the supernets and of the choice of architectures.
        tables: of from-scratch trainings, each of some architectures of one hyper-architecture: names of shipped ones,
            or paths of ``ground_truth.json`` files. Without any, a hyper-architecture with the same cells in every row
            is made by the next three, and its architectures are trained.
        cells: candidates in every row, the w of the hyper-architecture, as far apart in the space's features as can be.
        operations: of each of them, so that all architectures have the same number of weights.
        scratch_seeds: trainings from scratch of each architecture.
        repetitions: trainings of each hyper-architecture.
        straight_through: training by the paper's estimator, to compare with; null leaves it out.
        straight_through_repetitions: how many of these.
        architectures: how many of each hyper-architecture are judged, such that every cell is equally frequent in every
            row, or ``all``.
        half: of all architectures, from which they are taken: ``selection`` to choose settings by, ``report`` to report
            what was chosen, or ``both``. The halves share their cells, so report with another seed as well.
        early_epochs: other trainings than the ground truth's, which are compared as predictors.
        predictors: names of those that are compared; null for all.
        top: the k of precision, regret and best rank among the best k.
        resamples: of bootstrap intervals.
        space: from which cells are taken.
    """

    tables: tuple[str, ...] = ()
    cells: Annotated[int, Field(ge=2)] = 5
    operations: Positive = 5
    scratch_seeds: Positive = 3
    repetitions: Positive = 4
    straight_through: BilevelConfig | None = None
    straight_through_repetitions: Positive = 2
    architectures: Annotated[int, Field(ge=4)] | Literal["all"] = "all"
    half: Literal["both", "selection", "report"] = "both"
    early_epochs: tuple[Positive, ...] = (1,)
    predictors: tuple[str, ...] | None = None
    top: tuple[Positive, ...] = (1, 5, 10)
    resamples: Positive = 1000

    def _problems(self) -> list[str]:
        problems = []
        if len({*self.tables}) < len(self.tables):
            problems.append(f"tables: expected each once, got {', '.join(self.tables)}")
        if not self.tables and self.depth * math.log(self.cells) > math.log(MOST_PATHS):
            got = f"{self.cells} to the power of {self.depth}"
            problems.append(f"cells: expected cells to the power of depth up to {MOST_PATHS}, got {got}")
        if len({*self.early_epochs, self.scratch.epochs}) <= len(self.early_epochs):
            problems.append(
                f"early_epochs: expected different numbers, and not the {self.scratch.epochs} epochs of the ground "
                f"truth, got {self.early_epochs}"
            )
        return problems + _not_the_papers(self.straight_through)


@_settings
class ComparisonConfig(_StudyConfig):
    """An arena: outer searches with equal budgets and paired seeds, which also have the same first anchors.

    Args:
        mode: ``train`` networks; or ``tabular``, where accuracies are looked up in a table and alphas are simulated
            from the table's true marginal accuracies, with noise.
        seed: of the first search of each searcher.
        seeds: searches of each searcher, with seeds ``seed``, ``seed + 1``, ...
        budget: of each search, in training steps: weight and alpha steps of hyper-architectures, and steps of trainings
            from scratch.
        searchers: names of those that are compared; null for all but repairs and, in tabular mode, the slow ``gp``.
        baseline: that all are compared with; it takes part in any case.
        repetitions: trainings of each hyper-architecture, all paid for.
        straight_through: training of hyper-architectures by the paper's estimator, for the searcher of that name, as
            often as the others. Null leaves that searcher out.
        final_seeds: trainings, that no search has seen, of the architecture that each search ends with.
        sampler: settings of the pseudo-gradient ``fade`` and its controls.
        table: of tabular mode, and of the oracle where networks are trained: the name of a shipped one, or the path of
            a ``ground_truth.json``; null for digits625 and digits342.
        alpha_noise: of simulated alphas, as a multiple of the standard deviation of the marginal accuracies.
    """

    mode: Literal["train", "tabular"] = "train"
    seeds: Annotated[int, Field(ge=2)] = 10
    budget: Positive = 3626
    searchers: tuple[str, ...] | None = None
    baseline: str = "random"
    repetitions: Positive = 1
    straight_through: BilevelConfig | None = None
    final_seeds: Positive = 3
    sampler: SamplerConfig = SamplerConfig()
    table: str | None = None
    alpha_noise: NonNegativeFloat = 1.0

    def _problems(self) -> list[str]:
        return _not_the_papers(self.straight_through)


@_settings
class AnalyzeConfig:
    """Trend and movement of searches that were recorded (section 3.2).

    Args:
        run_id: of a search, or of a run with several.
    """

    run_id: Annotated[str, Field(min_length=1)]


@_settings
class EvaluateConfig:
    """Trains anchors of a finished search from scratch.

    Args:
        run_id: of a search, or of a run with several.
        every: generations between evaluations; the last one is always evaluated.
        seeds: trainings per evaluation; those on record are not repeated.
        executor: where trainings run: ``inline``, ``processes:N``, or ``tcp://HOST:PORT`` of a Dask scheduler.
    """

    run_id: Annotated[str, Field(min_length=1)]
    every: Positive = 1
    seeds: Positive = 2
    executor: str = "processes:2"


@_settings
class BenchmarkConfig:
    """Measuring what a supernet costs.

    Args:
        repetitions: timings of every step, of which median and quartiles are reported.
        seed: of cells, weights and paths.
        threads: of the processor.
        search: preset of the search whose time outside training is measured, once.
    """

    repetitions: Positive = 15
    seed: Seed = 0
    threads: Positive = 1
    search: str = "digits"


@_settings
class ScaleConfig:
    """Simulating how many evaluations one driver can hand out and record.

    Args:
        evaluations: trainings from scratch, none of which trains anything.
        workers: of a Dask cluster, simulated.
        recorded: evaluations that are recorded in an MLflow server.
        seed: of the architectures.
    """

    evaluations: Positive = 10_000
    workers: Positive = 500
    recorded: Positive = 1_000
    seed: Seed = 0


def parse_config(cls: type[T], folder: Path | None, argv: Sequence[str] | None = None) -> T:
    """A configuration from a preset and the command line.

    Args:
        cls: which configuration.
        folder: where presets lie; ``--preset NAME`` is ``folder/NAME.yaml``, and may also be the path of a file. None
            where there are none.
        argv: ``--preset NAME``, and ``--dotted.name value`` for whatever shall differ from it; default the process's.

    Raises:
        ConfigError: with all unknown keys, wrong types and values out of range of preset and command line.
    """
    words = _joined(sys.argv[1:] if argv is None else argv)
    settings: dict[str, Any] = {}
    if folder is not None:
        presets = [word for word in words if word.startswith("--preset=")]
        words = [word for word in words if word not in presets]
        path = _preset_path(presets[-1].removeprefix("--preset=") if presets else DEFAULT_PRESET, folder)
        settings = _read_preset(path)
    if {"-h", "--help"} & {*words}:
        _print_help(cls, folder, settings)
    problems = [problem for word in words for problem in _override(settings, word)]
    return _build(cls, settings, problems)


def _build(cls: type[T], settings: dict[str, Any], problems: Sequence[str] = ()) -> T:
    """The configuration, or a ConfigError with its problems and those that came up before."""
    try:
        config: T = pydantic.TypeAdapter(cls).validate_python(settings)
    except pydantic.ValidationError as error:
        raise ConfigError([*problems, *_sentences(error)]) from None
    if problems:
        raise ConfigError(problems)
    return config


def _joined(argv: Sequence[str]) -> list[str]:
    """``--name value`` as ``--name=value``: a value such as -1e-3 would be taken for an option otherwise."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and not word.startswith("--"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _preset_path(name: str, folder: Path) -> Path:
    path = Path(name) if name.endswith((".yaml", ".yml")) else _presets(folder).get(name)
    if path is None or not os.path.isfile(path):  # a pipe would be waited for
        raise ConfigError([f"preset: expected {_preset_choices(folder)}, got {name!r}"])
    return path


def _presets(folder: Path) -> dict[str, Path]:
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def _preset_choices(folder: Path) -> str:
    return f"one of {', '.join(_presets(folder))}, or the path of a YAML file"


class _Loader(yaml.SafeLoader):
    """YAML that runs nothing and means what it shows: mappings, lists, texts and null.

    Numbers stay texts. What a text means is for the type of its setting to say: a name may consist of digits.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - as the base class has it
        letter: [(tag, pattern) for tag, pattern in resolvers if tag.endswith(":null")]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose names are all different: of two values nobody knows which is meant."""
        names = [self.construct_object(name, deep=True) for name, _ in node.value]
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        if twice:
            raise yaml.MarkedYAMLError(
                problem=f"expected each name once, got {twice} twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A value; an alias could stand for billions of them, and a tag for a call."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(problem="settings have no aliases and tags", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def _read_preset(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LONGEST_PRESET + 1)
        if len(text) > LONGEST_PRESET:
            raise yaml.YAMLError(f"more than {LONGEST_PRESET} characters")
        settings = yaml.load(text, _Loader) or {}
    except (yaml.YAMLError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError([f"{path}: expected YAML, got {error}"]) from None
    if not isinstance(settings, dict):
        raise ConfigError([f"{path}: expected names and values, got {type(settings).__name__}"])
    return settings


def _override(settings: dict[str, Any], word: str) -> list[str]:
    """Put ``--dotted.name=value`` into the settings; what is wrong with it, otherwise."""
    name, separator, value = word.removeprefix("--").partition("=")
    if not word.startswith("--") or not name:
        return [f"unrecognized arguments: {word}"]
    if not separator:
        return [f"{name}: expected a value, got none"]
    *sections, last = name.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
        if not isinstance(settings, dict):
            return [f"{name}: unknown name; --help lists all, got {value!r}"]
    try:
        # Only lists and mappings are YAML here: a text such as a password may contain anything.
        plain = None if value in ("null", "~") else value
        settings[last] = yaml.load(value, _Loader) if value.lstrip()[:1] in ("[", "{") else plain
    except (yaml.YAMLError, RecursionError):
        return [f"{name}: expected a YAML value, got {value!r}"]
    return []


def _print_help(cls: Any, folder: Path | None, preset: dict[str, Any]) -> NoReturn:
    """Print all names, with their meaning and the values that hold; exit.

    Only this is left to jsonargparse: when it parses, it opens files and imports modules that a value may name.
    """
    import jsonargparse

    parser = jsonargparse.ArgumentParser()
    if folder is not None:
        parser.add_argument("--preset", default=DEFAULT_PRESET, help=_preset_choices(folder))
    parser.add_class_arguments(cls)
    for action in parser._actions:
        if action.metavar == "CONFIG":  # a file for a section
            action.help = argparse.SUPPRESS
    if folder is not None:
        parser.set_defaults(dataclasses.asdict(_build(cls, preset)))
    parser.print_help()
    sys.exit()


def _sentences(error: pydantic.ValidationError) -> list[str]:
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
