"""The outer searches that the arena compares, and how one of them spends its budget."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import optuna

import fade_study
from fade_study import samplers
from fade_study.benchmarks import Scratch
from fade_study.exceptions import InvalidInputError
from fade_study.seeding import EVALUATION, SHUFFLE
from fade_study.study import Evaluates
from fade_study.tracking import SearchRecord
from studies.schemas import SamplerConfig
from studies.worlds import World

__all__ = ["CONTROLS", "SEARCHERS", "Outcome", "Searcher", "check_budget", "names", "run_search"]

CONTROLS = ("oracle", "shuffled")
SEVEN_FEATURES = (*fade_study.PAPER_FEATURES, "operations", "longest_path", "sources", "sinks")
Alphas = Literal["supernet", "straight-through", "oracle", "shuffled", "ignored", "none"]
"""Where a search has its alphas from. Those that are ignored are paid for, as if they had been trained."""


class Searcher(NamedTuple):
    """An outer search of the arena."""

    make: Callable[[SamplerConfig, int], optuna.samplers.BaseSampler]
    alphas: Alphas
    evaluate: Evaluates = "anchor"
    """Which architecture of a generation is trained from scratch."""
    features: tuple[str, ...] | None = None
    """Of its space, where they are not the comparison's."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search came to."""

    record: SearchRecord
    spent: tuple[int, ...]
    """Training steps after each generation."""
    best: str
    """Key of the architecture with the highest mean validation accuracy among those trained from scratch."""
    final: float
    """Its test accuracy, of other trainings."""
    seconds: float


def _ours(name: str | None = None, **changes: Any) -> Callable[[SamplerConfig, int], samplers.RowSampler]:
    """A sampler of ours; without a name, that of the comparison's settings with changes."""

    def make(config: SamplerConfig, seed: int) -> samplers.RowSampler:
        config = config if name is None else SamplerConfig(name=name)
        return dataclasses.replace(config, **changes).open(seed)

    return make


def _printed_sign(config: SamplerConfig, seed: int) -> samplers.RowSampler:
    sampler = config.open(seed)
    assert isinstance(sampler, samplers.PseudoGradientSampler)  # no other search has a sign
    sampler.step_size = -sampler.step_size
    return sampler


def _gp(config: SamplerConfig, seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        return optuna.samplers.GPSampler(seed=seed)


SEARCHERS: dict[str, Searcher] = {
    "fade": Searcher(_ours(), "supernet"),
    "fade_best_ranked": Searcher(_ours(), "supernet", "best_ranked"),
    "straight_through": Searcher(_ours(), "straight-through"),
    "printed_sign": Searcher(_printed_sign, "supernet"),
    "evolution_strategy": Searcher(_ours("evolution-strategy"), "supernet"),
    "champion": Searcher(_ours("champion"), "supernet", "best_ranked"),
    "successive_rejects": Searcher(_ours("successive-rejects"), "supernet", "best_ranked"),
    "random_anchors": Searcher(_ours("random-anchors"), "ignored"),
    "random": Searcher(lambda _, seed: optuna.samplers.RandomSampler(seed=seed), "none"),
    "tpe": Searcher(lambda _, seed: optuna.samplers.TPESampler(seed=seed), "none"),
    "gp": Searcher(_gp, "none"),
    "cmaes": Searcher(lambda _, seed: optuna.samplers.CmaEsSampler(seed=seed), "none"),
    "regularized_evolution": Searcher(lambda _, seed: samplers.RegularizedEvolutionSampler(seed=seed), "none"),
    "oracle": Searcher(_ours(), "oracle", "best_ranked"),
    "shuffled": Searcher(_ours(), "shuffled", "best_ranked"),
    # repairs, one at a time
    "fade_offset_015": Searcher(_ours(offset=0.15), "supernet"),
    "fade_offset_03": Searcher(_ours(offset=0.3), "supernet"),
    "fade_paper_features": Searcher(_ours(), "supernet", features=fade_study.PAPER_FEATURES),
    "fade_seven_features": Searcher(_ours(), "supernet", features=SEVEN_FEATURES),
}
"""By name: the method, the printed sign, other searches on alphas, searches on accuracies, controls, repairs."""


REPAIRS = tuple(name for name in SEARCHERS if name.startswith("fade_") and name != "fade_best_ranked")


def names(chosen: tuple[str, ...] | None, mode: str, baseline: str, *, straight_through: bool = False) -> list[str]:
    """Searchers to compare; with the baseline, and with the paper's alphas where their training is configured.

    Raises:
        InvalidInputError: (a ``ValueError``) for an unknown one.
    """
    if chosen is None:
        left_out = {
            *REPAIRS,
            *(() if straight_through else ("straight_through",)),
            *(("gp",) if mode == "tabular" else ()),
        }
        chosen = tuple(name for name in SEARCHERS if name not in left_out)
    wanted = list(dict.fromkeys((*chosen, baseline)))
    unknown = sorted(set(wanted) - set(SEARCHERS))
    if unknown:
        raise InvalidInputError(f"searchers: expected names among {', '.join(SEARCHERS)}, got {', '.join(unknown)}")
    if "straight_through" in wanted and not straight_through:
        raise InvalidInputError("searchers: expected straight_through.* settings for straight_through, got none")
    return wanted


def cost(searcher: str, world: World) -> int:
    """Training steps of a generation: the hyper-architecture, where there is one, and the anchor from scratch."""
    alphas = SEARCHERS[searcher].alphas
    return world.scratch_steps + (0 if alphas == "none" else world.hyper_steps[alphas == "straight-through"])


def check_budget(searchers: list[str], world: World, budget: int) -> None:
    """Raise unless all searchers can spend the budget, but for a tenth at most: budgets are to be equal."""
    costs = {name: cost(name, world) for name in searchers}
    for name, one in costs.items():
        if budget // one * one < 0.9 * budget:
            raise InvalidInputError(
                f"budget: expected training steps of which every searcher can spend nine tenths or more, got {budget}; "
                f"a generation of {name} has {one}: take a multiple of {max(costs.values())}"
            )


def run_search(name: str, seed: int, world: World, sampler: SamplerConfig, depth: int, budget: int) -> Outcome:
    """One search, as far as its budget goes.

    An architecture of every generation is trained from scratch, its anchor's or its best-ranked one; Optuna's samplers
    have nothing else. One that comes back is trained with another seed, and counts with its mean.
    """
    begin = time.perf_counter()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # in a worker, too
    searcher = SEARCHERS[name]
    study = fade_study.create_study(
        space=world.space(searcher.features),
        depth=depth,
        sampler=searcher.make(sampler, seed),
        seed=seed,
        evaluate=searcher.evaluate,
    )
    found: dict[str, list[Scratch]] = defaultdict(list)
    architectures: dict[str, fade_study.Architecture] = {}
    evaluations: dict[int, list[Scratch]] = {}
    spent: list[int] = []
    one = cost(name, world)
    for generation in range(budget // one):
        batch = study.ask()
        alpha = _alphas(searcher, batch, world)
        architecture = batch.architecture
        if searcher.evaluate == "best_ranked":
            architecture = batch.hyper_architecture.architecture(fade_study.ranking.top_k(alpha, 1)[0][0].tolist())
        scratch = world.evaluate(architecture, EVALUATION.seed(seed, len(found[architecture.key])))
        if searcher.evaluate == "best_ranked":
            study.tell(batch, alpha)
            study.add_evaluation(generation, scratch.validation)
        else:
            study.tell(batch, alpha, scratch.validation)
        found[architecture.key].append(scratch)
        architectures[architecture.key] = architecture
        evaluations[generation] = [scratch]
        spent.append((generation + 1) * one)
    best = max(found, key=lambda key: float(np.mean([scratch.validation for scratch in found[key]])))
    return Outcome(
        record=SearchRecord.of(study, evaluations),
        spent=tuple(spent),
        best=best,
        final=world.final(architectures[best], seed),
        seconds=time.perf_counter() - begin,
    )


def _alphas(searcher: Searcher, batch: fade_study.Batch, world: World) -> np.ndarray:
    depth, width = batch.hyper_architecture.shape
    if searcher.alphas in ("none", "ignored"):
        return np.full((depth, width), 1 / width)
    if searcher.alphas == "oracle":
        return world.oracle(batch)
    alpha = world.alphas(batch, batch.seed, straight_through=searcher.alphas == "straight-through")
    if searcher.alphas == "shuffled":
        alpha = SHUFFLE.rng(batch.seed).permuted(alpha, axis=1)
    return alpha
