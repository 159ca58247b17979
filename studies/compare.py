"""Does the outer search find better architectures than others with the same budget (paper section 3.2)?

mlflow run . -e compare
mlflow run . -e compare -P preset=digits -P mode=tabular -P seeds=200
python -m studies.compare --help
"""

from __future__ import annotations

from studies.command import read_command, run_command
from studies.schemas import ComparisonConfig

if __name__ == "__main__":  # before the imports that take seconds
    CONFIG = read_command(ComparisonConfig, "compare")

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from functools import cache, partial

import numpy as np

from analysis import comparison
from fade_study import Dag, tracking
from fade_study.benchmarks import load_table
from fade_study.builders import describe_network
from fade_study.execution import completed, open_executor
from fade_study.statistics import arena, trend
from fade_study.study.settings import describe_sampler, plain
from fade_study.tracking import SearchRecord
from fade_study.training import Data
from fade_study.training.bilevel import check_schedule
from fade_study.training.data import load_data
from fade_study.training.session import open_accelerator
from studies.analyze import analyze, movement_line
from studies.searchers import CONTROLS, SEARCHERS, Outcome, check_budget, names, run_search
from studies.trainings import submit
from studies.worlds import Tabulated, Trained, World

GRID = 50
"""Budgets at which anytime curves are drawn."""
HIGHLIGHT = ("fade", "fade_best_ranked", "random", "champion", "oracle", "shuffled")
ARENA_VERSION = 3
"""Raised when a change of the code changes what a search gives."""


def compare(config: ComparisonConfig) -> dict[str, list[Outcome]]:
    """All searches of all searchers, and who is best."""
    begin = time.perf_counter()
    searchers = names(
        config.searchers, config.mode, config.baseline, straight_through=config.straight_through is not None
    )
    tabular = config.mode == "tabular"
    data = None if tabular else load_data(config.data)
    if data is not None:
        check_schedule(config.bilevel, data, (config.depth, config.sampler.columns(config.space.open())))
    world = open_world(config, data)
    check_budget(searchers, world, config.budget)
    if "oracle" in searchers:
        world.check_oracle()
    tracking.check_server()
    device = "cpu" if tabular else str(open_accelerator().device)
    with open_executor(config.executor) as executor, tracking.start_study("comparison", config, device, data) as run:
        outcomes = run_all(searchers, config, data, executor)
        report(outcomes, config, world, run)
        run.metrics({"seconds": time.perf_counter() - begin})
        print(f"Look at run {run.id}: {tracking.ui_command()}")
    return outcomes


@cache
def _tabulated(config: ComparisonConfig) -> World:
    """Made once in each process: its many short searches share it."""
    return Tabulated(config, load_table(config.table or "digits625"))


def open_world(config: ComparisonConfig, data: Data | None) -> World:
    """A world of networks that are trained on data, or of a table."""
    if data is None:
        return _tabulated(config)
    # Not kept: every task brings its own copy of the data, which a cache would hold for ever and never find again.
    return Trained(config, data, load_table(config.table or "digits342"))


def _search(name: str, seed: int, config: ComparisonConfig, data: Data | None) -> Outcome:
    """One search, in a worker."""
    return run_search(name, seed, open_world(config, data), config.sampler, config.depth, config.budget)


def run_all(
    searchers: Sequence[str], config: ComparisonConfig, data: Data | None, executor: Executor
) -> dict[str, list[Outcome]]:
    """Outcomes of each searcher, one per seed. Those of trained worlds that are on record are not repeated."""
    seeds = range(config.seed, config.seed + config.seeds)
    recipes = {name: recipe_of(name, config, data) for name in searchers}
    known = {} if data is None else {name: tracking.find_outcomes(recipe) for name, recipe in recipes.items()}
    found: dict[tuple[str, int], Outcome] = {
        (name, seed): read_outcome(text)
        for name, outcomes in known.items()
        for seed, text in outcomes.items()
        if seed in seeds
    }
    hand_out = executor.submit if data is None else partial(submit, executor)  # tables are the same everywhere
    tasks: dict[Future[Outcome], tuple[str, int]] = {}
    # Seed by seed, so that a comparison that is stopped has all searchers up to a seed.
    for wanted in ((name, seed) for seed in seeds for name in searchers):
        if wanted not in found:
            tasks[hand_out(_search, *wanted, config, data)] = wanted
    if found:
        print(f"{len(found)} of {len(seeds) * len(searchers)} searches were done before")
    for task in completed(list(tasks), unit="search"):
        name, seed = tasks[task]
        try:
            outcome = found[name, seed] = task.result()
        except Exception as error:
            error.add_note(f"in the search of {name} with seed {seed}")
            raise
        if data is not None:
            record(outcome, name, seed, recipes[name])
    return {name: [found[name, seed] for seed in seeds] for name in searchers}


def recipe_of(name: str, config: ComparisonConfig, data: Data | None) -> str:
    """Hash of all that a searcher's outcomes depend on, but for the seed."""
    alphas = SEARCHERS[name].alphas
    paper = config.straight_through if alphas == "straight-through" else None
    bilevel = config.bilevel if paper is None else paper
    settings = {
        "version": ARENA_VERSION,
        "searcher": name,
        "sampler": describe_sampler(SEARCHERS[name].make(config.sampler, 0)),
        "data": None if data is None else data.digest,
        "bilevel": None if alphas == "none" else dataclasses.asdict(bilevel),
        "budget": config.budget,
        "depth": config.depth,
        "final_seeds": config.final_seeds,
        "space": dataclasses.asdict(config.space),
        "features": SEARCHERS[name].features,
        "evaluate": SEARCHERS[name].evaluate,
        "repetitions": None if alphas == "none" else config.repetitions,
        "network": describe_network(config.network, [Dag]),
        "scratch": dataclasses.asdict(config.scratch),
    }
    return hashlib.sha256(json.dumps(plain(settings), sort_keys=True).encode()).hexdigest()[:16]


def record(outcome: Outcome, name: str, seed: int, recipe: str) -> None:
    """The child run of a search that is done."""
    tests, validations = accuracies(outcome)
    with tracking.start_outcome(name, seed, recipe) as run:
        incumbent = best_so_far(validations, tests)
        run.series(
            [
                (spent, {"accuracy/test": test, "accuracy/validation": validation, "best/test_accuracy": best})
                for spent, test, validation, best in zip(outcome.spent, tests, validations, incumbent, strict=True)
            ],
            now=False,
        )
        run.metrics({"final_accuracy": outcome.final, "seconds": outcome.seconds}, step=outcome.spent[-1])
        run.tag("fade.best_architecture", outcome.best)
        run.text(outcome.record.to_json(), tracking.RECORD)
        content = {"spent": outcome.spent, "best": outcome.best, "final": outcome.final, "seconds": outcome.seconds}
        run.json(content, tracking.OUTCOME)


def read_outcome(found: tuple[str, SearchRecord]) -> Outcome:
    """The inverse."""
    content = json.loads(found[0])
    return Outcome(found[1], tuple(content["spent"]), content["best"], content["final"], content["seconds"])


def accuracies(outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """Test and validation accuracies of its trainings from scratch, one a generation, ``(n,)`` each."""
    trainings = [scratch for (scratch,) in outcome.record.evaluations.values()]
    return np.array([scratch.test for scratch in trainings]), np.array([scratch.validation for scratch in trainings])


def best_so_far(validations: np.ndarray, tests: np.ndarray) -> np.ndarray:
    """Test accuracy of the training with the best validation accuracy so far, ``(n,)``."""
    best = np.maximum.accumulate(validations)
    first = np.array([int(np.flatnonzero(validations == value)[0]) for value in best])
    return tests[first]


def report(outcomes: Mapping[str, list[Outcome]], config: ComparisonConfig, world: World, run: tracking.Run) -> None:
    """Who is best: metrics, tables, figures, and a summary on the terminal."""
    finals = {name: [outcome.final for outcome in found] for name, found in outcomes.items()}
    standings = arena.standings(finals, config.baseline)
    metrics: dict[str, float | None] = {}
    for row in standings:
        prefix = f"searcher/{row.searcher}"
        metrics |= {f"{prefix}/final_accuracy": row.final, f"{prefix}/final_accuracy_low": row.low,
                    f"{prefix}/final_accuracy_high": row.high, f"{prefix}/p_vs_{config.baseline}": row.p_holm,
                    f"{prefix}/win_rate": row.win_rate}  # fmt: skip
        metrics[f"{prefix}/seconds"] = float(np.mean([outcome.seconds for outcome in outcomes[row.searcher]]))
    run.metrics({name: value for name, value in metrics.items() if value is not None})
    rows = [dataclasses.asdict(row) for row in standings]
    run.table({column: [row[column] for row in rows] for column in rows[0]}, "standings.json")
    finals_table = {"seed": list(range(config.seed, config.seed + config.seeds)), **finals}
    run.table(finals_table, "finals.json")
    run.figure(comparison.draw_finals(standings, config.baseline, CONTROLS), "figures/finals.png")
    for figure, ylabel in (("best", "test accuracy of the best so far"), ("anchor", "test accuracy of the anchor")):
        run.figure(
            comparison.draw_anytime(curves(outcomes, figure, config.budget), HIGHLIGHT, ylabel), f"figures/{figure}.png"
        )

    lines = [
        f"Final test accuracy after {config.budget} training steps, {config.seeds} paired seeds from {config.seed} on "
        f"(a training from scratch: {world.scratch_steps} steps; a hyper-architecture: {world.hyper_steps[0]})",
        arena.summary_table(standings),
    ]
    for name in ("fade", "shuffled", "oracle"):
        if name in outcomes:
            records = [outcome.record for outcome in outcomes[name]]
            # of the searches that all this is about, metrics and figures, too
            said = analyze(dict(enumerate(records)), run) if name == "fade" else trend_lines(records)
            lines.append(f"\nAnchors of {name}, generation by generation:\n{said}")
    text = "\n".join(lines)
    print(text)
    run.text(text + "\n", "report.txt")


def trend_lines(records: Sequence[SearchRecord]) -> str:
    """Trend and movement of a searcher's searches, pooled."""
    return f"{trend.pooled_trend([one.trend for one in records])}\n{movement_line(records)}"


def curves(outcomes: Mapping[str, list[Outcome]], kind: str, budget: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Accuracy against budget for each searcher: ``(G,)`` and ``(S, G)``."""
    grid = np.linspace(0, budget, GRID)
    result = {}
    for name, found in outcomes.items():
        runs = []
        for outcome in found:
            tests, validations = accuracies(outcome)
            runs.append((outcome.spent, best_so_far(validations, tests) if kind == "best" else tests))
        result[name] = grid, arena.anytime(runs, grid)
    return result


if __name__ == "__main__":
    run_command(compare, CONFIG)
