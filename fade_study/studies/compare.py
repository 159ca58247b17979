"""Compare outer searches, random search among them, with equal budgets (paper section 3.2).

fade compare
fade compare --preset digits --mode tabular --seeds 200
mlflow run . -e compare -P preset=digits -P mode=tabular -P seeds=200
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from functools import partial

import numpy as np

from fade_study import tracking
from fade_study.analysis import comparison
from fade_study.execution import advance, open_executor, phase
from fade_study.statistics import arena
from fade_study.studies import analyze, notes, outcomes
from fade_study.studies.schemas import ComparisonConfig
from fade_study.studies.searchers import (
    CONTROLS,
    SEARCHERS,
    Outcome,
    check_budget,
    names,
    run_search,
    simulated_correlation,
)
from fade_study.studies.trainings import train_each
from fade_study.studies.worlds import Tabulated, Trained, World, open_world
from fade_study.training import Data, load_data
from fade_study.training.bilevel import check_schedule
from fade_study.training.session import open_accelerator

GRID = 50
"""Number of budgets at which anytime curves are drawn."""
HIGHLIGHT = ("fade", "fade_best_ranked", "random")
"""Searchers that figures draw bold and with an interval; more than three intervals would hide each other."""


def compare(config: ComparisonConfig) -> dict[str, list[Outcome]]:
    """Run all searches of all searchers, and report which searcher is best."""
    begin = time.perf_counter()
    searchers = names(config)
    data = None if config.mode == "tabular" else load_data(config.data)
    if data is not None:
        shape = config.depth, config.sampler.columns(config.space.open())
        for training in filter(None, (config.bilevel, config.straight_through)):
            check_schedule(training, data, shape)
    world = open_world(config, data)
    check_budget(searchers, world, config.budget)
    if "oracle" in searchers and isinstance(world, Trained):
        world.check_oracle()
    tracking.check_server()
    device = "cpu" if data is None else str(open_accelerator().device)
    with (
        open_executor(config.executor) as executor,
        tracking.start_study(
            "comparison", config, device, data, name=f"compare {config.table if data is None else data.name}"
        ) as run,
    ):
        found = search_all(searchers, config, data, executor)
        print("phase 2 of 2: report", flush=True)
        report(found, config, world, run)
        run.metrics({"seconds": time.perf_counter() - begin})
        print(tracking.look_at(run.experiment, run.id))
    return found


def search_all(
    searchers: Sequence[str], config: ComparisonConfig, data: Data | None, executor: Executor
) -> dict[str, list[Outcome]]:
    """Outcomes of each searcher, one per seed. Trained searches on record are not repeated."""
    seeds = range(config.seed, config.seed + config.seeds)
    wanted = [(name, seed) for seed in seeds for name in searchers]  # a stopped comparison has whole seeds
    recipes = {name: outcomes.recipe_of(name, config, data) for name in searchers}
    found = {} if data is None else outcomes.find(recipes, wanted, config.results)
    known = "" if data is None else f", {len(found)} of them on record"
    print(f"phase 1 of 2: {len(wanted)} searches{known}", flush=True)
    searches = {
        (name, seed): partial(search, name, seed, config, data) for name, seed in wanted if (name, seed) not in found
    }
    with phase("phase 1 of 2: searches", len(wanted), after=0):
        advance(len(found), on_record=True)
        for (name, seed), outcome in train_each(executor, searches, "the search of {} with seed {}"):
            found[name, seed] = outcome
            if data is not None:
                outcomes.write(outcome, name, seed, recipes[name], config.results)
                outcomes.log(outcome, name, seed, recipes[name])
    return {name: [found[name, seed] for seed in seeds] for name in searchers}


def search(name: str, seed: int, config: ComparisonConfig, data: Data | None) -> Outcome:
    """In a worker: one search."""
    return run_search(name, seed, open_world(config, data), config.budget)


def report(found: Mapping[str, list[Outcome]], config: ComparisonConfig, world: World, run: tracking.Run) -> None:
    """Which searcher is best: metrics, tables, figures, and a summary on the terminal."""
    finals = {name: [outcome.final for outcome in searches] for name, searches in found.items()}
    standings = arena.standings(finals, config.baseline)
    trained = {name: [outcomes.accuracies(one)[0].mean() for one in searches] for name, searches in found.items()}
    evaluated = {row.searcher: row for row in arena.standings(trained, config.baseline)}
    metrics: dict[str, float | None] = {}
    for row in standings:
        prefix = f"searcher/{row.searcher}"
        metrics |= {
            f"{prefix}/final_accuracy": row.final,
            f"{prefix}/final_accuracy_low": row.low,
            f"{prefix}/final_accuracy_high": row.high,
            f"{prefix}/p_vs_{config.baseline}": row.p_holm,
            f"{prefix}/win_rate": row.win_rate,
            f"{prefix}/evaluated_accuracy": evaluated[row.searcher].final,
            f"{prefix}/seconds": float(np.mean([outcome.seconds for outcome in found[row.searcher]])),
        }
    simulated = simulated_correlation(config, world) if isinstance(world, Tabulated) else None
    metrics["simulated/spearman"] = simulated
    run.metrics({name: value for name, value in metrics.items() if value is not None})
    run.rows([dataclasses.asdict(row) for row in standings], "standings.json")
    by_seed = [{"seed": config.seed + i} | {name: x[i] for name, x in finals.items()} for i in range(config.seeds)]
    run.rows(by_seed, "finals.json")
    run.figure(comparison.draw_finals(standings, config.baseline, CONTROLS), "figures/finals.png")
    draw_curves(found, config.budget, run)
    hours = sum(outcome.seconds for searches in found.values() for outcome in searches) / 3600
    lines = [
        f"Final test accuracy after {config.budget} training steps",
        f"{config.seeds} paired seeds, from {config.seed} on",
        f"a training from scratch has {world.scratch_steps} steps",
        f"the trainings of a hyper-architecture have {world.hyper_steps[0]} steps",
        *(
            []
            if simulated is None
            else [f"simulated FaDE-ranks have a mean correlation of {simulated:.2f} with accuracy"]
        ),
        "",
        arena.summary_table(standings),
        "",
        "Mean test accuracy of what a search trains from scratch, the first architecture of each generation",
        "",
        arena.summary_table(list(evaluated.values())),
        "",
        f"Hours that a worker took for all searches: {hours:.1f}",
    ]
    analyzed = [name for name in ("fade", "fade_best_ranked", "shuffled", "oracle") if name in found]
    for name in analyzed:
        records = [outcome.record for outcome in found[name]]
        # The method itself has metrics and figures, too.
        method = name == analyzed[0] and name not in CONTROLS
        text = analyze.report(records, run) if method else analyze.summary(records)
        lines.append(f"\nAnchors of {name}, generation by generation:\n{text}")
    text = "\n".join(lines)
    print(text)
    run.text(text + "\n", "report.txt")
    run.note(notes.comparison(standings, CONTROLS, config, run.pictures))


def draw_curves(found: Mapping[str, list[Outcome]], budget: int, run: tracking.Run) -> None:
    """Figures of accuracy against budget, by searcher, without those whose record lacks some of their trainings."""
    grid = np.linspace(0, budget, GRID)
    best, each = {}, {}
    for name, searches in found.items():
        if SEARCHERS[name].trained > 1:
            continue
        spent = [outcome.spent for outcome in searches]
        accuracies = [outcomes.accuracies(outcome) for outcome in searches]
        bests = [outcomes.best_so_far(validations, tests) for tests, validations in accuracies]
        best[name] = grid, arena.anytime(list(zip(spent, bests, strict=True)), grid)
        each[name] = grid, arena.anytime([(x, tests) for x, (tests, _) in zip(spent, accuracies, strict=True)], grid)
    if not best:
        return
    run.figure(comparison.draw_anytime(best, HIGHLIGHT, "test accuracy of the best so far"), "figures/best.png")
    title = "test accuracy of a generation's architecture"
    run.figure(comparison.draw_anytime(each, HIGHLIGHT, title), "figures/evaluated.png")
