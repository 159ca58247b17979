"""The outer searches that the arena compares, and how one of them spends its budget."""

from __future__ import annotations

import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import optuna

import fade_study
from fade_study import Architecture, samplers
from fade_study.benchmarks import Scratch
from fade_study.exceptions import InvalidInputError
from fade_study.execution import report_epoch
from fade_study.seeding import EVALUATION, SHUFFLE
from fade_study.studies.schemas import ComparisonConfig, SamplerConfig
from fade_study.studies.worlds import Tabulated, World
from fade_study.study import Evaluates
from fade_study.tracking import SearchRecord

CONTROLS = ("oracle", "shuffled")
SPENT = 0.85
"""Smallest share of the budget that a searcher has to be able to spend."""
Alphas = Literal["supernet", "straight-through", "oracle", "shuffled", "ignored", "none"]
"""Origin of a search's alphas. Ignored ones are paid for as if they had been trained."""


class Searcher(NamedTuple):
    """An outer search of the arena."""

    make: Callable[[SamplerConfig, int], optuna.samplers.BaseSampler]
    """Makes its sampler from the comparison's settings and a seed."""
    alphas: Alphas
    evaluate: Evaluates = "anchor"
    """Which architecture of a generation is trained from scratch."""
    trained: int = 1
    """Number of best-ranked architectures of a generation that are trained from scratch."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a search."""

    record: SearchRecord
    spent: tuple[int, ...]
    """Training steps after each generation."""
    best: str
    """Key of the architecture with the highest mean validation accuracy among those trained from scratch."""
    final: float
    """Mean test accuracy of other trainings of that architecture."""
    seconds: float
    commit: str | None = None
    """Commit of the code that found it, if it was on record."""


def _printed_sign(config: SamplerConfig, seed: int) -> samplers.RowSampler:
    sampler = config.open(seed)
    assert isinstance(sampler, samplers.PseudoGradientSampler)  # `names` refuses any other
    sampler.step_size = -sampler.step_size
    return sampler


def _gp(config: SamplerConfig, seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        return optuna.samplers.GPSampler(seed=seed)


SEARCHERS: dict[str, Searcher] = {
    "fade": Searcher(SamplerConfig.open, "supernet"),
    "fade_best_ranked": Searcher(SamplerConfig.open, "supernet", "best_ranked"),
    "fade_top_five": Searcher(SamplerConfig.open, "supernet", "best_ranked", trained=5),
    "straight_through": Searcher(SamplerConfig.open, "straight-through"),
    "printed_sign": Searcher(_printed_sign, "supernet"),
    "champion": Searcher(lambda _, seed: samplers.ChampionSampler(seed=seed), "supernet", "best_ranked"),
    "random_anchors": Searcher(lambda _, seed: samplers.RandomAnchorSampler(seed=seed), "ignored"),
    "random": Searcher(lambda _, seed: optuna.samplers.RandomSampler(seed=seed), "none"),
    "tpe": Searcher(lambda _, seed: optuna.samplers.TPESampler(seed=seed), "none"),
    "gp": Searcher(_gp, "none"),
    "cmaes": Searcher(lambda _, seed: optuna.samplers.CmaEsSampler(seed=seed), "none"),
    "regularized_evolution": Searcher(lambda _, seed: samplers.RegularizedEvolutionSampler(seed=seed), "none"),
    "oracle": Searcher(SamplerConfig.open, "oracle", "best_ranked"),
    "shuffled": Searcher(SamplerConfig.open, "shuffled", "best_ranked"),
}
"""By name: FaDE and variants, other searches on alphas, searches on accuracies, controls."""


def names(config: ComparisonConfig) -> list[str]:
    """Searchers to compare, the baseline among them.

    By default, these are all but ``fade_top_five``, whose generations cost more than the others', the slow ``gp`` on
    tables, ``straight_through`` without settings, and ``printed_sign`` with another sampler than the pseudo-gradient.

    Raises:
        InvalidInputError: (a ``ValueError``) for an unknown name, and for one that these settings do not allow.
    """
    chosen = config.searchers
    if chosen is None:
        left_out = {"fade_top_five"}
        left_out |= {"straight_through"} if config.straight_through is None else set()
        left_out |= set() if config.sampler.name == "pseudo-gradient" else {"printed_sign"}
        left_out |= {"gp"} if config.mode == "tabular" else set()
        chosen = tuple(name for name in SEARCHERS if name not in left_out)
    wanted = list(dict.fromkeys((*chosen, config.baseline)))
    unknown = sorted(set(wanted) - set(SEARCHERS))
    if unknown:
        raise InvalidInputError(f"searchers: expected names among {', '.join(SEARCHERS)}, got {', '.join(unknown)}")
    if "straight_through" in wanted and config.straight_through is None:
        raise InvalidInputError("searchers: expected straight_through.* settings for straight_through, got none")
    if "printed_sign" in wanted and config.sampler.name != "pseudo-gradient":
        raise InvalidInputError(
            f"searchers: expected the sampler pseudo-gradient for printed_sign, got {config.sampler.name}, which has "
            "no sign; leave printed_sign out"
        )
    return wanted


def cost(searcher: str, world: World) -> int:
    """Training steps of a generation: of its trainings from scratch, and of the hyper-architecture if there is one."""
    alphas, scratch = SEARCHERS[searcher].alphas, SEARCHERS[searcher].trained * world.scratch_steps
    return scratch + (0 if alphas == "none" else world.hyper_steps[alphas == "straight-through"])


def check_budget(searchers: list[str], world: World, budget: int) -> None:
    """Raise unless every searcher can spend ``SPENT`` of the budget or more, so that budgets are about equal."""
    costs = {name: cost(name, world) for name in searchers}
    for name, one in costs.items():
        if budget // one * one < SPENT * budget:
            raise InvalidInputError(
                f"budget: expected training steps of which every searcher can spend {SPENT:.0%} or more, got {budget}; "
                f"a generation of {name} has {one}, and those of all: {costs}"
            )


def run_search(name: str, seed: int, world: World, budget: int) -> Outcome:
    """Search until the budget is spent.

    In every generation the anchor's architecture or the best-ranked ones are trained from scratch; the record holds
    only the first of them. An architecture that comes back is trained with another seed, and its mean counts.
    """
    begin = time.perf_counter()
    searcher = SEARCHERS[name]
    study = _open_study(name, seed, world)
    found: defaultdict[Architecture, list[Scratch]] = defaultdict(list)
    evaluations: dict[int, list[Scratch]] = {}
    step = cost(name, world)
    for generation in range(budget // step):
        batch = study.ask()
        alpha = _alphas(searcher, batch, world)
        ranked = searcher.evaluate == "best_ranked"
        architectures = [batch.architecture]
        if ranked:  # different paths may be the same architecture
            paths = fade_study.ranking.top_k(alpha, 100)[0].tolist()
            architectures = list(dict.fromkeys(map(batch.hyper_architecture.architecture, paths)))[: searcher.trained]
        for architecture in architectures:
            scratch = world.evaluate(architecture, EVALUATION.seed(seed, len(found[architecture])))
            found[architecture].append(scratch)
        evaluations[generation] = found[architectures[0]][-1:]
        study.tell(batch, alpha, None if ranked else evaluations[generation][0].validation)
        if ranked:
            study.add_evaluation(generation, evaluations[generation][0].validation)
        report_epoch(budget // step, generation)
    best = max(found, key=lambda one: float(np.mean([scratch.validation for scratch in found[one]])))
    return Outcome(
        record=SearchRecord.of(study, evaluations),
        spent=tuple(step * (generation + 1) for generation in evaluations),
        best=best.key,
        final=world.final(best, seed),
        seconds=time.perf_counter() - begin,
    )


def simulated_correlation(config: ComparisonConfig, world: Tabulated) -> float:
    """Mean Spearman correlation of simulated FaDE-ranks with accuracies, in the first generations of ``fade``."""
    studies = [_open_study("fade", config.seed + i, world) for i in range(config.seeds)]
    return float(np.mean([world.correlation(study.ask()) for study in studies]))


def _open_study(searcher: str, seed: int, world: World) -> fade_study.FadeStudy:
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # needed here because workers run this
    return fade_study.create_study(
        space=world.space,
        depth=world.config.depth,
        sampler=SEARCHERS[searcher].make(world.config.sampler, seed),
        seed=seed,
        evaluate=SEARCHERS[searcher].evaluate,
    )


def _alphas(searcher: Searcher, batch: fade_study.Batch, world: World) -> np.ndarray:
    """Alphas ``(d, w)`` of a batch."""
    depth, width = batch.hyper_architecture.shape
    if searcher.alphas in ("none", "ignored"):
        return np.full((depth, width), 1 / width)
    if searcher.alphas == "oracle":
        return world.oracle(batch)
    alpha = world.alphas(batch, straight_through=searcher.alphas == "straight-through")
    if searcher.alphas == "shuffled":
        alpha = SHUFFLE.rng(batch.seed).permuted(alpha, axis=1)
    return alpha
