"""Search for an architecture with FaDE (paper sections 2.4 and 3.2), recorded in MLflow.

mlflow run . -e search
mlflow run . -e search -P preset=smoke -P generations=3 -P study=first
python -m studies.search --help
"""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
import uuid
import warnings
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from tqdm.auto import tqdm

import fade_study
from analysis import figures
from fade_study import tracking
from fade_study.config import SearchConfig, parse_config
from fade_study.execution import open_executor
from fade_study.settings import masked_url
from fade_study.study import Evaluation
from fade_study.training import Data, HyperResult, recipe, train_from_scratch, train_hyper_architecture
from fade_study.training.bilevel import check_schedule
from fade_study.training.data import load_data
from fade_study.training.session import open_accelerator

CONFIGS = Path(__file__).parent / "configs"
BEST_RANKED = 5
"""Architectures of each generation in the table of ranks."""


def main() -> None:
    """Run the search that the command line describes; a refused one leaves nothing behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that runs end, and end KILLED
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        search(parse_config(SearchConfig, CONFIGS))
    except fade_study.FadeError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def search(config: SearchConfig) -> fade_study.FadeStudy:
    """All generations that the study lacks, then figures and a summary."""
    accelerator = open_accelerator()
    if accelerator.num_processes > 1:
        raise fade_study.InvalidInputError(
            f"expected one process, got {accelerator.num_processes}; a search over several is not supported yet"
        )
    data = load_data(config.data)
    check_schedule(config.bilevel, data)
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
    return study


def open_study(config: SearchConfig, data: Data) -> fade_study.FadeStudy:
    """The study of that name, or a new one; its values must have come about in the same way to be comparable."""
    trainings = {"network": config.network, "bilevel": config.bilevel, "scratch": config.scratch}
    conditions = {name: dataclasses.asdict(training) for name, training in trainings.items()}
    conditions |= {"data": data.digest, "evaluation_seeds": config.evaluation_seeds}
    return fade_study.create_study(
        space=fade_study.DagSpace(
            config.space.max_vertices, min_vertices=config.space.min_vertices, features=config.space.features
        ),
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
    evaluation = ScratchTrainings(batch.architecture, config, data, executor) if evaluated else None
    result = train_hyper(batch, config, data)
    accuracies = evaluation.accuracies() if evaluation else None
    value = None if accuracies is None else float(np.mean(accuracies["validation"]))

    trajectory = study.trajectory()
    moved = float(np.linalg.norm(batch.anchors - trajectory[-1], axis=1).mean()) if len(trajectory) else 0.0
    # Recorded before it is told: after a crash in between it is trained and recorded again, never missing.
    run.metrics(generation_metrics(study, batch, result) | accuracy_metrics(accuracies), step=batch.number)
    paths, scores = fade_study.ranking.top_k(result.alpha, BEST_RANKED)
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
    study.tell(batch, result.alpha, value, one_shot_accuracy=result.accuracy)
    line = f"generation {batch.number} ({batch.number + 1} of {config.generations}): {result.seconds:.1f} s"
    line += f", one-shot accuracy {result.accuracy:.2f}, anchors moved {moved:.3f}"
    tqdm.write(line + (f", from scratch {np.mean(accuracies['test']):.3f}" if accuracies else ""))


def train_hyper(batch: fade_study.Batch, config: SearchConfig, data: Data) -> HyperResult:
    """Train a generation's hyper-architecture, with a child run of its own."""
    with tracking.start_hyper(batch.number, batch.hyper_architecture, batch.seed) as child:

        def record(epoch: int, alpha: NDArray[np.float64], metrics: dict[str, float]) -> None:
            child.metrics(metrics | tracking.alpha_metrics(alpha), step=epoch)

        result = train_hyper_architecture(
            batch.hyper_architecture,
            data,
            config.bilevel,
            network=config.network,
            seed=batch.seed,
            on_epoch=record,
        )
        child.metrics({"one_shot_accuracy": result.accuracy}, step=config.bilevel.epochs - 1)
        child.figure(figures.draw_alpha_history(result.alpha_history), "figures/alpha.png")
        if result.warning is not None:
            child.tag("fade.warning", result.warning)
    return result


class ScratchTrainings:
    """From-scratch trainings of one architecture with several seeds, each looked up before it is paid for."""

    def __init__(
        self, architecture: fade_study.Architecture, config: SearchConfig, data: Data, executor: Executor
    ) -> None:
        self.architecture = architecture.key
        self.recipe = recipe(data, config.scratch, config.network)
        self.results: list[dict[str, Any] | Future[Any]] = [
            tracking.find_scratch(self.architecture, self.recipe, seed)
            or executor.submit(
                train_from_scratch, architecture, data, config.scratch, network=config.network, seed=seed
            )
            for seed in range(config.evaluation_seeds)
        ]

    def accuracies(self) -> dict[str, list[float]]:
        """``test`` and ``validation`` accuracies, one per seed; what was trained now is recorded."""
        accuracies: dict[str, list[float]] = {"test": [], "validation": []}
        for seed, result in enumerate(self.results):
            if isinstance(result, Future):
                scratch = result.result()
                tracking.log_scratch(self.architecture, self.recipe, seed, scratch)
                accuracies["test"].append(scratch.test_accuracy)
                accuracies["validation"].append(scratch.validation_accuracy)
            else:
                accuracies["test"].append(result["test_accuracy"])
                accuracies["validation"].append(result["validation_accuracy"])
        return accuracies


def generation_metrics(study: fade_study.FadeStudy, batch: fade_study.Batch, result: HyperResult) -> dict[str, float]:
    """What the parent run holds of each generation."""
    metrics = tracking.alpha_metrics(result.alpha)
    metrics |= {"one_shot_accuracy": result.accuracy, "seconds/hyper": result.seconds}
    for i, anchor in enumerate(batch.anchors):
        metrics |= {f"anchor/row{i}/{name}": x for name, x in zip(study.space.features, anchor, strict=True)}
    for i, alpha in enumerate(result.alpha):
        metrics[f"alpha_entropy/row{i}"] = float(-(alpha * np.log(np.maximum(alpha, 1e-300))).sum())
    for i, collisions in enumerate(batch.hyper_architecture.collisions()):
        metrics[f"collisions/row{i}"] = collisions
    return metrics


def accuracy_metrics(accuracies: dict[str, list[float]] | None) -> dict[str, float]:
    """Mean and standard deviation over seeds."""
    metrics: dict[str, float] = {}
    for name, values in (accuracies or {}).items():
        metrics |= {f"accuracy/{name}": float(np.mean(values)), f"accuracy/{name}_sd": standard_deviation(values)}
    return metrics


def standard_deviation(values: list[float]) -> float:
    """Of a sample; NaN for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


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
    key = recipe(data, config.scratch, config.network)
    # By architecture: where the search comes back to one, that is no new evidence.
    tests: dict[str, list[float]] = {}
    for architecture in {evaluation.architecture for evaluation in evaluations}:
        found = [tracking.find_scratch(architecture.key, key, seed) for seed in range(config.evaluation_seeds)]
        tests[architecture.key] = [result["test_accuracy"] for result in found if result]
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
        spread = (
            f" ± {standard_deviation(test):.3f} (mean ± sd over {len(test)} seeds)" if len(test) > 1 else " (1 seed)"
        )
        print(f"  test accuracy {np.mean(test):.3f}{spread}")


if __name__ == "__main__":
    main()
