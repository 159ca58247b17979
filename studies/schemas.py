"""Settings of the studies, which are also the schema of the presets in ``studies/configs``."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_type_hints

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
from studies.options import meanings

__all__ = [
    "AnalyzeConfig",
    "BenchmarkConfig",
    "ComparisonConfig",
    "EvaluateConfig",
    "SamplerConfig",
    "ScaleConfig",
    "SearchConfig",
    "SpaceConfig",
    "ValidationConfig",
]

MOST_PATHS = 1_000_000
"""Of a hyper-architecture whose paths are all listed."""
Vertices = Annotated[int, pydantic.AfterValidator(check_vertices)]


@settings
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


def _not_the_papers(compared: BilevelConfig | None) -> list[str]:
    """Problems of a training that the comparison's own is compared with as the paper's."""
    if compared is None or compared.estimator == "straight-through":
        return []
    return [f"straight_through.estimator: expected straight-through, got {compared.estimator}"]


def _sampler_settings() -> dict[str, Any]:
    """Types of the arguments of all registered outer searches, by name; without the seed, which is the study's."""
    found: dict[str, Any] = {}
    for sampler in samplers.REGISTRY.values():
        hints = get_type_hints(sampler.__init__)
        found |= {name: hints[name] for name in inspect.signature(sampler).parameters if name != "seed"}
    return found


def _documented() -> str:
    """The arguments' meaning, of all outer searches that take them, for a docstring."""
    lines = [f"name: {', '.join(samplers.REGISTRY)}."]
    for setting in _sampler_settings():
        found = {name: meanings(sampler).get(setting) for name, sampler in samplers.REGISTRY.items()}
        lines.append(f"{setting}: " + " ".join(f"{name}: {text}" for name, text in found.items() if text))
    return "\n\nArgs:\n" + "\n".join(f"    {line}" for line in lines)


class _Sampler:
    """An outer search, by its registered name; all other settings are arguments of the constructors."""

    name: str

    def __post_init__(self) -> None:
        accepted = [name for name in inspect.signature(samplers.REGISTRY[self.name]).parameters if name != "seed"]
        for name in self._given().keys() - accepted:
            raise ValueError(f"{name}: {self.name} has no such setting, only {', '.join(accepted)}; set it to null")
        try:
            self.open(0)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    def _given(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "name" and value is not None}

    def open(self, seed: int) -> samplers.RowSampler:
        """The sampler that these settings describe."""
        return samplers.REGISTRY[self.name](**self._given(), seed=seed)

    def columns(self, space: DagSpace) -> int:
        """Width w of the hyper-architectures over a space."""
        sampler = self.open(0)
        sampler.bind(space)
        return len(sampler.propose(RowHistory(0, tuple(space.features), ()), np.random.default_rng(0)))


if TYPE_CHECKING:
    SamplerConfig = _Sampler
else:
    # The schema comes from the constructors: a new outer search needs a line in the registry, and nothing here.
    kinds = {name: kind | None for name, kind in _sampler_settings().items()}
    SamplerConfig = settings(
        type(
            "SamplerConfig",
            (_Sampler,),
            {
                "__annotations__": {"name": Literal[tuple(samplers.REGISTRY)], **kinds},
                "__doc__": f"{_Sampler.__doc__}{_documented()}",
                "__module__": __name__,
                "name": "pseudo-gradient",
                **dict.fromkeys(kinds),
            },
        )
    )


@settings
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


@settings
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


@settings
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


@settings
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
        results: JSON Lines file to which each trained search is appended as soon as it is done; searches that it holds
            are not repeated. Null keeps them in MLflow alone.
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
    results: Folder | None = None
    alpha_noise: NonNegativeFloat = 1.0

    def _problems(self) -> list[str]:
        return _not_the_papers(self.straight_through)


@settings
class AnalyzeConfig:
    """Trend and movement of searches that were recorded (section 3.2).

    Args:
        run_id: of a search, or of a run with several.
    """

    run_id: Annotated[str, Field(min_length=1)]


@settings
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


@settings
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


@settings
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
