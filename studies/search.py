"""Search for an architecture with FaDE (paper sections 2.4 and 3.2), recorded in MLflow.

mlflow run . -e search
mlflow run . -e search -P preset=smoke -P generations=3 -P study=first
python -m studies.search --help
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

import fade_study
from analysis import figures
from fade_study import tracking
from fade_study.benchmarks import Scratch
from fade_study.config import SearchConfig
from fade_study.execution import open_executor
from fade_study.settings import masked_url
from fade_study.study import Evaluation
from fade_study.training import Data, recipe
from fade_study.training.bilevel import check_schedule
from fade_study.training.data import load_data
from fade_study.training.session import open_accelerator
from studies.command import command
from studies.trainings import ScratchTrainings, repetition_seeds, train_hyper

BEST_RANKED = 5
"""Architectures of each generation in the table of ranks."""


def search(config: SearchConfig) -> fade_study.FadeStudy:
    """All generations that the study lacks, then figures and a summary."""
    begin = time.perf_counter()
    accelerator = open_accelerator()
    if accelerator.num_processes > 1:
        raise fade_study.InvalidInputError(
            f"expected one process, got {accelerator.num_processes}; a search over several is not supported yet"
        )
    data = load_data(config.data)
    check_schedule(config.bilevel, data, (config.depth, 1 + 2 * len(config.space.features)))
    tracking.check_server()
    with open_executor(config.executor) as executor:
        study = open_study(config, data)
        device = str(accelerator.device)
        with tracking.start_study("search", config, device, data, study.optuna_study.study_name) as run:
            done = len(study.trajectory())
            with tqdm(total=config.generations, initial=done, unit="generation") as bar:
                for _ in range(done, config.generations):
                    generation(study, config, data, executor, run)
                    bar.update()
            finish(study, config, data, run)
            run.metrics({"seconds": time.perf_counter() - begin})
    return study


def open_study(config: SearchConfig, data: Data) -> fade_study.FadeStudy:
    """The study of that name, or a new one; its values must have come about in the same way to be comparable."""
    trainings = {"network": config.network, "bilevel": config.bilevel, "scratch": config.scratch}
    conditions = {name: dataclasses.asdict(training) for name, training in trainings.items()}
    conditions |= {"data": data.digest, "evaluation_seeds": config.evaluation_seeds, "repetitions": config.repetitions}
    return fade_study.create_study(
        space=config.space.open(),
        depth=config.depth,
        sampler=fade_study.samplers.PseudoGradientSampler(config.offset, config.step_size, seed=config.seed),
        study_name=config.study or f"{time.strftime('search-%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",
        storage=config.storage,
        load_if_exists=config.study is not None,
        conditions=conditions,
    )


def generation(
    study: fade_study.FadeStudy, config: SearchConfig, data: Data, executor: Executor, run: tracking.Run
) -> None:
    """Ask, train, tell, record."""
    batch = study.ask()
    last = batch.number == config.generations - 1
    evaluated = last or (batch.number + 1) % config.evaluate_every == 0
    # Worker processes train the anchors' architecture from scratch while this one trains the hyper-architecture.
    seeds = range(config.evaluation_seeds) if evaluated else ()
    wanted = [(batch.architecture, seed) for seed in seeds]
    evaluation = ScratchTrainings(wanted, data, config.scratch, config.network, executor)
    hyper_seeds = repetition_seeds(batch.seed, config.repetitions)
    results = train_hyper(
        batch.number, batch.hyper_architecture, data, config.bilevel, config.network, hyper_seeds, executor
    )
    alpha = fade_study.ranking.marginals(np.stack([result.alpha for result in results]))
    one_shot = float(np.mean([result.accuracy for result in results]))
    seconds = sum(result.seconds for result in results)
    accuracies = list(evaluation.collect().values())
    value = float(np.mean([scratch.validation for scratch in accuracies])) if accuracies else None

    trajectory = study.trajectory()
    moved = float(np.linalg.norm(batch.anchors - trajectory[-1], axis=1).mean()) if len(trajectory) else 0.0
    # Recorded before it is told: after a crash in between it is trained and recorded again, never missing.
    metrics = {"one_shot_accuracy": one_shot, "seconds/hyper": seconds}
    metrics |= generation_metrics(study, batch, alpha) | accuracy_metrics(accuracies)
    run.metrics(metrics, step=batch.number)
    paths, scores = fade_study.ranking.top_k(alpha, BEST_RANKED)
    ranked = [batch.hyper_architecture.architecture(path).key for path in paths.tolist()]
    run.table(
        {
            "generation": [batch.number] * len(ranked),
            "rank": list(range(1, len(ranked) + 1)),
            "fade_rank": scores.tolist(),
            "architecture": ranked,
        },
        "ranks.json",
    )
    study.tell(batch, alpha, value, one_shot_accuracy=one_shot)
    line = f"generation {batch.number} ({batch.number + 1} of {config.generations}): {seconds:.1f} s"
    line += f", one-shot accuracy {one_shot:.2f}, anchors moved {moved:.3f}"
    tqdm.write(line + (f", from scratch {np.mean([s.test for s in accuracies]):.3f}" if accuracies else ""))


def generation_metrics(
    study: fade_study.FadeStudy, batch: fade_study.Batch, alpha: NDArray[np.float64]
) -> dict[str, float]:
    """Alphas ``(d, w)`` and where they come from."""
    metrics = tracking.alpha_metrics(alpha)
    for i, anchor in enumerate(batch.anchors):
        metrics |= {f"anchor/row{i}/{name}": x for name, x in zip(study.space.features, anchor, strict=True)}
    for i, row in enumerate(alpha):
        metrics[f"alpha_entropy/row{i}"] = float(-(row * np.log(np.maximum(row, 1e-300))).sum())
    for i, collisions in enumerate(batch.hyper_architecture.collisions()):
        metrics[f"collisions/row{i}"] = collisions
    return metrics


def accuracy_metrics(accuracies: list[Scratch]) -> dict[str, float]:
    """Mean over seeds, and standard deviation where there are several."""
    metrics: dict[str, float] = {}
    for name in ("test", "validation"):
        values = [getattr(scratch, name) for scratch in accuracies]
        if values:
            metrics[f"accuracy/{name}"] = float(np.mean(values))
        if len(values) > 1:
            metrics[f"accuracy/{name}_sd"] = float(np.std(values, ddof=1))
    return metrics


def finish(study: fade_study.FadeStudy, config: SearchConfig, data: Data, run: tracking.Run) -> None:
    """Figures of the whole study, and a summary on the terminal."""
    last = [study.history(row)[-1] for row in range(study.depth)]
    alpha, cells = np.array([row.alpha for row in last]), [row.cells for row in last]
    run.figure(figures.draw_alpha(alpha, cells), "figures/alpha_last_generation.png")
    run.figure(figures.draw_trajectory(study.trajectory(), study.space.features), "figures/trajectory.png")
    run.figure(figures.draw_cells(study.architecture), "figures/anchor_cells.png")

    evaluations = study.evaluations()
    if evaluations:
        summarize(evaluations, config, data, run)
    else:
        print("\nNo architecture was trained from scratch in these generations.")
    print(
        f"Study {study.optuna_study.study_name!r} in {masked_url(config.storage)}\n"
        f"Look at run {run.id}: {tracking.ui_command()}"
    )


def summarize(evaluations: list[Evaluation], config: SearchConfig, data: Data, run: tracking.Run) -> None:
    """The figure of from-scratch accuracies, and the best architecture: chosen by validation, reported on test."""
    # By architecture: where the search comes back to one, that is no new evidence.
    keys = {evaluation.architecture.key for evaluation in evaluations}
    tests: dict[str, list[float]] = {key: [] for key in keys}
    for (key, seed), scratch in tracking.find_scratch(recipe(data, config.scratch, config.network), keys).items():
        if seed < config.evaluation_seeds:
            tests[key].append(scratch.test)
    # Where this tracking server does not know a study's earlier evaluations, it can't show them.
    known = [(e.generation, e.architecture.key) for e in evaluations if tests[e.architecture.key]]
    if known:
        figure = figures.draw_accuracy([t for t, _ in known], [tests[name] for _, name in known], [n for _, n in known])
        run.figure(figure, "figures/accuracy.png")

    number, best, validation = max(evaluations, key=lambda evaluation: evaluation.value)
    run.metrics({"best/validation_accuracy": validation})
    run.tag("fade.best_architecture", best.key)
    print(f"\nBest of {len(tests)} architectures trained from scratch, chosen by validation accuracy {validation:.3f}:")
    print(f"  {best} (generation {number})")
    test = tests[best.key]
    if test:
        run.metrics({"best/test_accuracy": float(np.mean(test))})
        spread = " (1 seed)"
        if len(test) > 1:
            spread = f" ± {np.std(test, ddof=1):.3f} (mean ± sd over {len(test)} seeds)"
        print(f"  test accuracy {np.mean(test):.3f}{spread}")


if __name__ == "__main__":
    command(search, SearchConfig, "search")
