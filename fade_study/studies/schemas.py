"""Settings of the studies, which are also the schemas of the presets in ``fade_study/studies/configs``."""

from __future__ import annotations

import inspect
import math
from typing import Annotated, Any, Literal, Self

import numpy as np
import pydantic
from pydantic import Field

from fade_study import samplers
from fade_study.cells import FEATURES, PAPER_FEATURES, DagSpace, check_vertices
from fade_study.config import (
    BilevelConfig,
    DataConfig,
    Folder,
    NetworkConfig,
    NonNegative,
    NonNegativeFloat,
    Positive,
    ScratchConfig,
    Seed,
    settings,
)
from fade_study.generation import RowHistory

MOST_PATHS = 1_000_000
"""Largest number of paths of a hyper-architecture that are all listed."""
Vertices = Annotated[int, pydantic.AfterValidator(check_vertices)]
ModelName = Annotated[str, Field(pattern="^[^/:]+$")]  # MLflow refuses others, but only once the model is there


@settings
class SpaceConfig:
    """The cell space: all DAGs between two sizes, and the graph features that embed them.

    Args:
        max_vertices: Largest number of vertices of a cell, up to 7.
        min_vertices: Smallest number of vertices of a cell.
        features: Names of graph features: the paper's eccentricity_variance, degree_variance and vertices; operations,
            longest_path, density, mean_degree, sources, sinks, algebraic_connectivity, laplacian_radius and
            spectral_radius.
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
        """The cell space that these settings describe."""
        return DagSpace(self.max_vertices, min_vertices=self.min_vertices, features=self.features)


def _check_straight_through(compared: BilevelConfig | None) -> list[str]:
    """Problems of the settings ``straight_through``, which have to use the paper's estimator."""
    if compared is None or compared.estimator == "straight-through":
        return []
    return [f"straight_through.estimator: expected straight-through, got {compared.estimator}"]


@settings
class SamplerConfig:
    """An outer search. A setting that is null takes the default of the search's constructor.

    Args:
        name: Outer search: ``pseudo-gradient``, ``champion`` or ``random-anchors``.
        offset: Distance from the anchor to its neighbors (``pseudo-gradient``, default 0.5).
        step_size: Step size lambda of ``pseudo-gradient``, default 1. A positive one ascends alpha; a negative one is
            the printed sign of Eq. (1) and serves as a control.
        width: Number of points w of a neighborhood, default 7; that of ``pseudo-gradient`` follows from the features.
    """

    name: str = "pseudo-gradient"
    offset: float | None = None
    step_size: float | None = None
    width: int | None = None

    @pydantic.model_validator(mode="after")
    def _opens(self) -> Self:
        if self.name not in samplers.REGISTRY:
            raise ValueError(f"name: expected one of {', '.join(samplers.REGISTRY)}, got {self.name!r}")
        accepted = inspect.signature(samplers.REGISTRY[self.name]).parameters.keys() - {"seed"}
        for name in self._given().keys() - accepted:
            raise ValueError(
                f"{name}: {self.name} has no such setting, only {', '.join(sorted(accepted))}; set it to null"
            )
        try:
            self.open(0)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        return self

    def _given(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "name" and value is not None}

    def open(self, seed: int) -> samplers.RowSampler:
        """The sampler that these settings describe, with a seed."""
        return samplers.REGISTRY[self.name](**self._given(), seed=seed)

    def columns(self, space: DagSpace) -> int:
        """Width w of the hyper-architectures that the sampler proposes over a space."""
        sampler = self.open(0)
        sampler.bind(space)
        return len(sampler.propose(RowHistory(0, tuple(space.features), ()), np.random.default_rng(0)))


@settings
class _StudyConfig:
    """Settings that all studies with trainings share.

    Args:
        seed: Seed for everything random except trainings from scratch.
        depth: Number of cells of an architecture, which is the number of rows d of a hyper-architecture.
        executor: Executor of independent trainings: ``inline``, ``processes:N``, or ``tcp://HOST:PORT`` of a Dask
            scheduler.
        space: Cell space.
        data: Data set.
        network: Macro-architecture.
        bilevel: Training of hyper-architectures.
        repetitions: Number of trainings of each hyper-architecture. Their marginal effects are averaged, or their
            straight-through alphas.
        scratch: Training of architectures from scratch.
    """

    seed: Seed = 0
    depth: Positive = 4
    executor: str = "processes:2"
    space: SpaceConfig = SpaceConfig()
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    bilevel: BilevelConfig = BilevelConfig()
    repetitions: Positive = 1
    scratch: ScratchConfig = ScratchConfig()

    def hyper_steps(self, images: int) -> int:
        """Training steps of a hyper-architecture, all repetitions, on a weight split of so many images."""
        return self.repetitions * self.bilevel.steps(images)

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
        """Problems of several settings together, each naming the one to change."""
        return []


@settings
class SearchConfig(_StudyConfig):
    """A FaDE search (sections 2.4 and 3.2).

    Args:
        generations: Number of generations in total; an existing study is continued up to this number.
        seed: Seed for all but trainings from scratch, which have the seeds 0, 1, ... so that none has to be repeated.
        seeds: Number of searches, each a study of its own, with the seeds ``seed``, ``seed + 1``, ...
        study: Name of the study. A study that exists in the storage is continued; null creates a new one. Several
            searches append their seeds to the name.
        storage: URL of the Optuna storage.
        sampler: Outer search.
        processes: Number of processes that train each hyper-architecture together, on one GPU each or all on the CPU.
            Leave it out where a launcher such as ``torchrun`` starts them.
        checkpoint_dir: Folder of checkpoints, from which an interrupted search is resumed.
        max_failures: Number of trainings of one hyper-architecture that may diverge before the search gives up.
        evaluate: Architecture of a generation that is trained from scratch: the ``best_ranked`` one of its
            hyper-architecture, or that of the ``anchor`` (as in the paper).
        evaluate_every: Number of generations from one evaluation from scratch to the next; the last generation is
            always evaluated. 0 evaluates none, which ``mlflow run . -e evaluate`` can do later.
        evaluation_seeds: Number of trainings from scratch, with different seeds, in an evaluation.
        final_seeds: Number of trainings, with seeds that chose nothing, of the best architecture and of the first
            generation's anchor architecture, to tell the gain. The best one's first network is kept as the MLflow model
            ``best``. 0 skips all this.
        register: Name under which this model is also registered; null registers nothing.
    """

    generations: Positive = 8
    seeds: Positive = 1
    study: Annotated[str, Field(min_length=1)] | None = None
    storage: str = "sqlite:///fade.db"
    sampler: SamplerConfig = SamplerConfig()
    processes: Positive = 1
    checkpoint_dir: Folder = "checkpoints"
    max_failures: NonNegative = 3
    evaluate: Literal["anchor", "best_ranked"] = "best_ranked"
    evaluate_every: NonNegative = 4
    evaluation_seeds: Positive = 2
    final_seeds: NonNegative = 0
    register: ModelName | None = None

    def _problems(self) -> list[str]:
        images, parts = self.bilevel.batch_size, self.bilevel.micro_batches
        if self.processes > images:
            return [f"processes: expected up to {images}, an image of each batch for each, got {self.processes}"]
        if parts is not None and parts % self.processes:
            return [f"processes: expected a number that divides bilevel.micro_batches = {parts}, got {self.processes}"]
        return []


@settings
class ValidationConfig(_StudyConfig):
    """A validation: do FaDE-ranks predict from-scratch accuracy (section 3.1)?

    Args:
        seed: Seed for the supernets and for the choice of architectures.
        tables: Tables of from-scratch trainings, each with architectures of one hyper-architecture: names of shipped
            tables, or paths of ``ground_truth.json`` files. If the list is empty, a hyper-architecture with the same
            cells in every row is made from ``cells`` and ``operations``, and its architectures are trained.
        cells: Number of cells in every row, which is the width w of the hyper-architecture. They lie as far apart in
            the space's features as possible.
        operations: Number of operations of each of these cells, which gives all architectures the same number of
            weights.
        scratch_seeds: Number of trainings from scratch of each architecture.
        straight_through: Training of hyper-architectures by the paper's estimator, for comparison, with the settings of
            ``bilevel``; null leaves it out.
        straight_through_repetitions: Number of trainings of each hyper-architecture by the paper's estimator.
        architectures: Number of architectures of each hyper-architecture that are judged, chosen so that every cell is
            equally frequent in every row; or ``all``.
        half: Half of the architectures from which these are chosen: ``selection`` to choose settings by, ``report`` to
            report on what was chosen, or ``both``. The halves share their cells, so report with another seed as well.
        early_epochs: Numbers of epochs, other than the ground truth's, of trainings from scratch that are compared as
            predictors.
        predictors: Names of the predictors to compare; null compares all.
        top: Values of k for precision, regret and best rank among the k best-ranked architectures.
        resamples: Number of resamples for bootstrap intervals, and of permutations of cells for p-values.
        space: Cell space from which the cells are taken.
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
    resamples: Annotated[int, Field(ge=100)] = 1000

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
        return problems + _check_straight_through(self.straight_through)


@settings
class ComparisonConfig(_StudyConfig):
    """A comparison of outer searches with equal budgets and paired seeds.

    Args:
        mode: Source of accuracies and alphas: ``train`` trains networks; ``tabular`` looks accuracies up in a table and
            simulates alphas from the table's true marginal accuracies, with noise.
        seed: Seed of each searcher's first search.
        seeds: Number of searches of each searcher, with the seeds ``seed``, ``seed + 1``, ...
        budget: Budget of each search in training steps: weight and alpha steps of all trainings of
            hyper-architectures, and steps of trainings from scratch.
        searchers: Names of the searchers to compare; null compares all except ``fade_top_five``, those that these
            settings do not allow and, in tabular mode, the slow ``gp``.
        baseline: Searcher with which all others are compared; it always takes part.
        straight_through: Training of hyper-architectures by the paper's estimator, for the searcher of that name, with
            the settings of ``bilevel`` and the same number of repetitions. Null leaves that searcher out.
        final_seeds: Number of trainings from scratch, with seeds that no search has used, of each search's final
            architecture.
        sampler: Settings of the pseudo-gradient searcher ``fade`` and of its controls.
        table: Table for tabular mode, and for the oracle where networks are trained: the name of a shipped table, or
            the path of a ``ground_truth.json`` file. Null takes ``digits625`` and ``digits342``, respectively.
        alpha_noise: Standard deviation of the noise of simulated alphas, as a multiple of that of the marginal
            accuracies.
        results: JSON Lines file to which each trained search is appended as soon as it is done; null keeps them in
            MLflow alone. Searches that MLflow, this file or the package's own files hold are not repeated.
    """

    mode: Literal["train", "tabular"] = "train"
    seeds: Annotated[int, Field(ge=2)] = 10
    budget: Positive = 3626
    searchers: tuple[str, ...] | None = None
    baseline: str = "random"
    straight_through: BilevelConfig | None = None
    final_seeds: Positive = 3
    sampler: SamplerConfig = SamplerConfig()
    table: str | None = None
    results: Folder | None = None
    alpha_noise: NonNegativeFloat = 1.0

    def _problems(self) -> list[str]:
        return _check_straight_through(self.straight_through)


@settings
class AnalyzeConfig:
    """An analysis of the trend and movement of recorded searches (section 3.2).

    Args:
        run_id: Id of the MLflow run of a search, or of a command with several searches.
    """

    run_id: Annotated[str, Field(min_length=1)]


@settings
class EvaluateConfig:
    """An evaluation of a finished search: trains architectures of its generations from scratch.

    Args:
        run_id: Id of the MLflow run of a search, or of a command with several searches.
        every: Number of generations from one evaluation to the next; the last generation is always evaluated.
        seeds: Number of trainings in an evaluation; those already recorded are not repeated.
        executor: Executor of the trainings, as in a search.
    """

    run_id: Annotated[str, Field(min_length=1)]
    every: Positive = 1
    seeds: Positive = 2
    executor: str = "processes:2"


@settings
class TrainConfig:
    """A training of the best architecture of a finished search, which is kept as a model.

    Args:
        run_id: Id of the MLflow run of a search, whose images and settings are taken.
        architecture: Key of another architecture to train; null trains the search's best one.
        epochs: Number of epochs; null takes that of the search's trainings from scratch.
        seeds: Number of trainings. The network with the best validation accuracy is kept.
        register: Name under which the model is also registered; null registers nothing.
        executor: Executor of the trainings, as in a search.
        checkpoint_dir: Folder of checkpoints, from which an interrupted training is resumed.
    """

    run_id: Annotated[str, Field(min_length=1)]
    architecture: Annotated[str, Field(min_length=1)] | None = None
    epochs: Positive | None = None
    seeds: Positive = 1
    register: ModelName | None = None
    executor: str = "processes:2"
    checkpoint_dir: Folder = "checkpoints"


@settings
class BenchmarkConfig:
    """A benchmark of the cost of supernets.

    Args:
        repetitions: Number of timings of every step, whose median and quartiles are reported.
        seed: Seed for cells, weights and paths.
        threads: Number of CPU threads.
        search: Preset of the search whose time outside training is measured once.
        device: ``cpu``, or ``cuda`` for the cost of trainings on one GPU with and without CUDA graphs, for which only
            ``repetitions`` and ``seed`` matter.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    repetitions: Positive = 15
    seed: Seed = 0
    threads: Positive = 1
    search: str = "digits"


@settings
class ScaleConfig:
    """A simulation of how many evaluations one driver can submit and record.

    Args:
        evaluations: Number of simulated trainings from scratch, which train nothing.
        workers: Number of workers of the simulated Dask cluster.
        recorded: Number of evaluations that are recorded in an MLflow server.
        seed: Seed for the architectures.
    """

    evaluations: Positive = 10_000
    workers: Positive = 500
    recorded: Positive = 1_000
    seed: Seed = 0


@settings
class DeliverConfig:
    """Delivery of records, which has no settings."""
