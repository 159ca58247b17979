"""Search for an architecture with FaDE (paper sections 2.4 and 3.2), recorded in MLflow.

mlflow run . -e search
mlflow run . -e search -P preset=smoke -P generations=3 -P study=first
python -m studies.search --help
"""

from __future__ import annotations

from studies.command import read_command, run_command
from studies.schemas import SearchConfig

if __name__ == "__main__":  # before the imports that take seconds
    CONFIG = read_command(SearchConfig, "search")

import contextlib
import dataclasses
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

import fade_study
from analysis import figures
from fade_study import interrupt, tracking
from fade_study.benchmarks import Scratch
from fade_study.builders import builders_of, describe_network
from fade_study.execution import open_executor
from fade_study.samplers import RowGeneration
from fade_study.study import Evaluation, OpenEvaluation
from fade_study.tracking import SearchRecord
from fade_study.training import Data, HyperResult, combined_alpha
from fade_study.training.bilevel import check_schedule
from fade_study.training.checkpoint import Checkpoint
from fade_study.training.data import load_data
from fade_study.training.processes import Processes, everywhere
from fade_study.training.session import check_alike, open_accelerator
from fade_study.urls import place
from studies.analyze import analyze
from studies.answer import against_random_search, difference, final_accuracies, random_table, regime
from studies.command import again
from studies.trainings import (
    ScratchTrainings,
    checkpoint_file,
    forget,
    hyper_file,
    is_due,
    repetition_seeds,
    train_hyper,
)

BEST_RANKED = 5
"""Architectures of each generation in the table of ranks."""
USEFUL = 0.3
"""Rank correlation from which on a search on ranks is worth its price."""
POLL_SECONDS = 2.0
"""Between two looks at what other processes evaluate."""


class Rank(NamedTuple):
    """A line of the table of best ranks."""

    generation: int
    rank: int
    fade_rank: float
    architecture: str
    """Its key."""


def search(config: SearchConfig) -> list[fade_study.FadeStudy]:
    """All generations that the study lacks, then an analysis and a summary; the same for each of several seeds."""
    accelerator = open_accelerator()
    try:
        config, data, processes = gather(config, accelerator)
    except fade_study.FadeError:  # of all of them
        accelerator.wait_for_everyone()
        accelerator.end_training()  # or some processes abort at their exit
        raise
    with processes:
        if accelerator.is_main_process:
            return search_all(config, data, processes, accelerator.device.type)
        processes.follow()
    return []


def gather(config: SearchConfig, accelerator: Accelerator) -> tuple[SearchConfig, Data, Processes]:
    """The processes, their number and the data; an error is raised by all."""
    if config.processes not in (1, accelerator.num_processes):
        raise fade_study.InvalidInputError(
            f"expected {config.processes} processes, got {accelerator.num_processes}; start them by "
            "`python -m studies.search --processes N`, or by a launcher and leave `processes` out"
        )
    config = dataclasses.replace(config, processes=accelerator.num_processes)
    check_alike(accelerator, fade_study=fade_study.__version__)
    data = everywhere(accelerator, load_data, config.data)
    processes = Processes(accelerator, data)
    shape = config.depth, config.sampler.columns(config.space.open())
    check_schedule(config.bilevel, data, shape, config.processes)
    return config, data, processes


def search_all(config: SearchConfig, data: Data, processes: Processes, device: str) -> list[fade_study.FadeStudy]:
    """The same, in the main process."""
    tracking.check_server()
    tell_regime(data, config)
    if config.study is None:
        config = dataclasses.replace(config, study=f"{time.strftime('search-%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}")
        print(f"New study; should it be killed, this goes on with it: {again(str(config.study))}")
    try:
        # of several processes that train together, none evaluates here: what comes out must not depend on their number
        alone = processes.count == 1 or config.executor != "inline"
        with open_executor(config.executor if alone else "processes:1") as executor:
            if config.seeds == 1:
                return [search_once(config, data, executor, processes, device)[0]]
            with tracking.start_study("search", config, device, data) as run:
                found = [
                    search_once(one, data, executor, processes, device, name=one.study) for one in one_per_seed(config)
                ]
                records = {run_id: record for _, run_id, record in found}
                print(f"\nAll {config.seeds} searches:\n{analyze(records, run)}")
                print(f"Look at run {run.id}: {tracking.ui_command()}")
            return [study for study, _, _ in found]
    except interrupt.Interrupted:
        print(f"To go on: {again(str(config.study))}")
        raise


def one_per_seed(config: SearchConfig) -> list[SearchConfig]:
    """The searches that a search with several seeds consists of."""
    return [
        dataclasses.replace(config, seed=seed, seeds=1, study=f"{config.study}-{seed}")
        for seed in range(config.seed, config.seed + config.seeds)
    ]


def search_once(
    config: SearchConfig,
    data: Data,
    executor: Executor,
    processes: Processes,
    device: str,
    *,
    name: str | None = None,
) -> tuple[fade_study.FadeStudy, str, SearchRecord]:
    """One search, with the id of its run, which may have a name, and its record."""
    begin = time.perf_counter()
    study = open_study(config, data)
    batch = ask(study, config)  # first of all: another process that has the generation keeps its record, too
    tags = {"fade.study": study.optuna_study.study_name, tracking.STUDY: study.identity}
    with (
        tracking.start_study(
            "search", config, device, data, tags=tags, name=name, builders=builders_of([fade_study.Dag])
        ) as run,
        table_of_ranks(run) as ranks,
    ):
        done = study.n_generations
        if done:  # a kill after it was told may have left them
            forget_all(study.batch(done - 1), config)
        tracking.adopt(run, study.identity, done)
        record_generations(study, run, ranks)
        evaluations = Evaluations(study, config, data, executor, run)
        with tqdm(total=config.generations, initial=done, unit="generation") as bar:
            while batch is not None:
                batch, results = train(study, batch, config, data, executor, processes, evaluations)
                tell(study, batch, results, config)
                evaluations.begin(batch.number, last=batch.number == config.generations - 1)
                record_generations(study, run, ranks)
                evaluations.collect()
                bar.update()
                batch = ask(study, config)
            evaluations.begin(study.n_generations - 1, last=True)
            evaluations.finish()
        record = SearchRecord.of(study, evaluated(study))
        finish(study, record, config, run)
        judge_answer(study, config, data, executor, run)
        run.metrics({"seconds": time.perf_counter() - begin})
    return study, run.id, record


def open_study(config: SearchConfig, data: Data) -> fade_study.FadeStudy:
    """The study of that name, or a new one; its values must have come about in the same way to be comparable."""
    trainings = {"bilevel": config.bilevel, "scratch": config.scratch}
    conditions: dict[str, Any] = {name: dataclasses.asdict(training) for name, training in trainings.items()}
    conditions["network"] = describe_network(config.network, [fade_study.Dag])
    conditions |= {"data": data.digest, "evaluation_seeds": config.evaluation_seeds, "repetitions": config.repetitions}
    conditions["carry_over"] = config.carry_over
    return fade_study.create_study(
        space=config.space.open(),
        depth=config.depth,
        sampler=config.sampler.open(config.seed),
        study_name=config.study,
        storage=config.storage,
        load_if_exists=True,
        evaluate=config.evaluate,
        conditions=conditions,
    )


class Evaluations:
    """Architectures that are trained from scratch, by worker processes while this one searches on.

    Those that an earlier session left out, or was stopped in, are begun at once. What another living process evaluates
    for the same study is left to it.
    """

    def __init__(
        self, study: fade_study.FadeStudy, config: SearchConfig, data: Data, executor: Executor, run: tracking.Run
    ) -> None:
        self.study, self.config, self.data, self.executor, self.run = study, config, data, executor, run
        self.recorded: set[int] = set()
        self.waiting: dict[int, tuple[OpenEvaluation, ScratchTrainings]] = {}
        self.elsewhere: set[int] = set()
        """Generations that another process evaluates."""
        self.failed: set[int] = set()
        self.trainings: dict[str, ScratchTrainings] = {}
        """By architecture: an anchor that comes back is not trained again."""
        self.done: dict[tuple[str, int], Scratch] = {}
        """What was trained for any generation, by architecture and seed."""
        self.record(quiet=True)
        for number in range(study.n_generations):
            self.begin(number)

    def begin(self, number: int, *, last: bool = False) -> None:
        """Train a generation's architecture, where it is its turn: a regular one, or the last."""
        begun = number in self.recorded or number in self.waiting or number in self.failed
        if begun or not is_due(number, self.config.evaluate_every, last=last):
            return
        evaluation = self.study.ask_evaluation([number])
        if evaluation is None:
            self.elsewhere.add(number)
            return
        self.elsewhere.discard(number)
        architecture = evaluation.architecture
        if architecture.key not in self.trainings:
            self.record()  # so that nothing is trained that another process has trained meanwhile
            seeds = range(self.config.evaluation_seeds)
            self.trainings[architecture.key] = ScratchTrainings(
                [(architecture, seed) for seed in seeds],
                self.data,
                self.config.scratch,
                self.config.network,
                self.executor,
                checkpoints=Path(self.config.checkpoint_dir),
                done={name: self.done[name] for seed in seeds if (name := (architecture.key, seed)) in self.done},
            )
        self.waiting[number] = evaluation, self.trainings[architecture.key]

    def collect(self, *, wait: bool = False) -> None:
        """Tell and record what is done, or all that this process has begun."""
        for number, (evaluation, trainings) in list(self.waiting.items()):
            if wait or trainings.done:
                found = {str(seed): scratch for (_, seed), scratch in trainings.collect().items()}
                del self.waiting[number]
                try:
                    if found:
                        validation = float(np.mean([scratch.validation for scratch in found.values()]))
                        self.study.tell_evaluation(evaluation, validation, {"trainings": found})
                    else:
                        self.study.fail_evaluation(evaluation)
                        self.failed.add(number)
                except fade_study.InvalidInputError:  # taken over by another process, which could not see this one live
                    self.elsewhere.add(number)
                    with contextlib.suppress(fade_study.InvalidInputError):  # or this one would hold it for ever
                        self.study.fail_evaluation(evaluation)
        self.record()

    def finish(self) -> None:
        """Wait for all, those of other processes as well; what one leaves that dies is trained here."""
        self.collect(wait=True)
        if self.elsewhere:
            tqdm.write(f"Waiting for other processes that evaluate generations {sorted(self.elsewhere)}")
        while self.elsewhere:
            interrupt.check()
            for number in sorted(self.elsewhere):
                self.begin(number, last=True)
            self.collect(wait=True)
            self.elsewhere -= self.recorded
            if self.elsewhere:
                time.sleep(POLL_SECONDS)

    def record(self, *, quiet: bool = False) -> None:
        """Metrics of evaluations that are new, whoever has told them."""
        new = self.study.evaluations(known=self.recorded)
        if new:
            self.run.series([(e.generation, evaluation_metrics(e)) for e in new])
        for e in new:
            self.recorded.add(e.generation)
            self.done |= {(e.architecture.key, seed): scratch for seed, scratch in trained(e).items()}
            if not quiet:
                name, accuracy = next(iter(evaluation_metrics(e).items()))
                tqdm.write(f"generation {e.generation} from scratch: {' '.join(name.split('/')[::-1])} {accuracy:.3f}")


def ask(study: fade_study.FadeStudy, config: SearchConfig) -> fade_study.Batch | None:
    """The next generation; None where the search has all of them, or has settled."""
    if study.n_generations >= config.generations:
        return None
    if settled(study, config.patience):
        tqdm.write(f"Stopped: no anchor has changed its cell in the last {config.patience} generations")
        return None
    return study.ask()


def settled(study: fade_study.FadeStudy, patience: int | None) -> bool:
    """Whether no anchor has changed its cell in the last generations."""
    if not patience or study.n_generations <= patience:
        return False
    rows = [study.history(row)[-patience - 1 :] for row in range(study.depth)]
    return all(len({generation.cells[0] for generation in newest}) == 1 for newest in rows)


def tell(
    study: fade_study.FadeStudy, batch: fade_study.Batch, results: Sequence[HyperResult], config: SearchConfig
) -> None:
    """Tell the study what was trained, once its weights are kept, and forget the checkpoints."""
    alpha = combined_alpha(results, config.bilevel.estimator, batch.hyper_architecture)
    one_shot = float(np.mean([result.accuracy for result in results]))
    seconds = sum(result.seconds for result in results)
    if config.carry_over:
        write_weights([result.weights for result in results], study, batch.number, config)
    study.tell(batch, alpha, one_shot_accuracy=one_shot, details={"one_shot_accuracy": one_shot, "seconds": seconds})
    forget_all(batch, config)
    anchors = np.array([[generation.anchor for generation in study.history(row)[-2:]] for row in range(study.depth)])
    moved = float(np.linalg.norm(anchors[:, -1] - anchors[:, 0], axis=-1).mean())  # by 0 in the first generation
    tqdm.write(
        f"generation {batch.number} ({batch.number + 1} of {config.generations}): {seconds:.1f} s, "
        f"one-shot accuracy {one_shot:.2f}, anchors moved {moved:.3f}"
    )


def train(
    study: fade_study.FadeStudy,
    batch: fade_study.Batch,
    config: SearchConfig,
    data: Data,
    executor: Executor,
    processes: Processes,
    evaluations: Evaluations,
) -> tuple[fade_study.Batch, list[HyperResult]]:
    """Train what the study asks for; with another seed where a training diverges, which is another batch."""
    number, failures = batch.number, 0
    weights = read_weights(study, number - 1, config) if config.carry_over else None
    while True:
        if study.evaluate == "anchor":  # which is known before any alpha is
            evaluations.begin(number, last=number == config.generations - 1)
        try:
            return batch, train_hyper(
                number,
                batch.hyper_architecture,
                data,
                config.bilevel,
                config.network,
                repetition_seeds(batch.seed, config.repetitions),
                executor,
                weights=weights,
                checkpoints=Path(config.checkpoint_dir),
                processes=processes,
            )
        except fade_study.DivergedError as error:
            study.fail(batch)
            forget_all(batch, config)
            failures += 1
            if failures > config.max_failures:
                raise
            tqdm.write(f"generation {number} has failed, and is trained with another seed: {error}")
            batch = study.ask()


def forget_all(batch: fade_study.Batch, config: SearchConfig) -> None:
    """Remove the checkpoints of a generation that was told or failed."""
    for seed in repetition_seeds(batch.seed, config.repetitions):
        forget(hyper_file(Path(config.checkpoint_dir), batch.hyper_architecture, config.bilevel, seed))


def weights_file(study: fade_study.FadeStudy, generation: int, config: SearchConfig) -> Checkpoint:
    """Where the weights of a generation's supernets are kept, for the next one."""
    file = checkpoint_file(Path(config.checkpoint_dir), "weights", study.identity, generation)
    assert file is not None
    return Checkpoint(file)


def read_weights(study: fade_study.FadeStudy, generation: int, config: SearchConfig) -> list[dict[str, Tensor]]:
    """Weights of each repetition's supernet, to begin the next generation with; none before the first."""
    if generation < 0:
        return [{} for _ in range(config.repetitions)]
    file = weights_file(study, generation, config)
    weights = file.load()
    if weights is None:
        raise fade_study.DataError(
            f"expected the weights of generation {generation} in {file.path}, with which the next one begins, got no "
            "such file; give the checkpoint_dir of the search that left them"
        )
    return weights


def write_weights(weights: Sequence[Any], study: fade_study.FadeStudy, generation: int, config: SearchConfig) -> None:
    """Keep weights of this generation beside those of the last, which a crash before ``tell`` would need again."""
    weights_file(study, generation, config).save(list(weights))
    weights_file(study, generation - 2, config).remove()


@contextlib.contextmanager
def table_of_ranks(run: tracking.Run) -> Iterator[list[Rank]]:
    """The best ranks of all generations, to be added to: written when the search ends or is interrupted.

    Not with every generation, since MLflow has no way to add lines to a table: it would be written anew, ever longer.
    """
    ranks: list[Rank] = []
    try:
        yield ranks
    finally:
        if ranks:
            run.table(dict(zip(Rank._fields, zip(*ranks, strict=True), strict=True)), "ranks.json")


def record_generations(study: fade_study.FadeStudy, run: tracking.Run, ranks: list[Rank]) -> None:
    """Metrics of the generations that are new, whose best ranks are added to the others'."""
    first = ranks[-1].generation + 1 if ranks else 0
    rows = [study.history(row)[first:] for row in range(study.depth)]
    steps: list[tuple[int, dict[str, float]]] = []
    for number, cells in enumerate(zip(*rows, strict=True), start=first):
        alpha = np.array([row.alpha for row in cells])
        details = study.details(number)
        metrics = {"one_shot_accuracy": details["one_shot_accuracy"], "hyper_seconds": details["seconds"]}
        steps.append((number, metrics | generation_metrics(study, cells, alpha)))
        paths, scores = fade_study.ranking.top_k(alpha, BEST_RANKED)
        for rank, (path, score) in enumerate(zip(paths.tolist(), scores.tolist(), strict=True), start=1):
            names = [row.cells[column] for row, column in zip(cells, path, strict=True)]
            ranks.append(Rank(number, rank, score, "|".join(names)))
    if steps:
        run.series(steps)


def generation_metrics(
    study: fade_study.FadeStudy, cells: Sequence[RowGeneration], alpha: NDArray[np.float64]
) -> dict[str, float]:
    """Alphas ``(d, w)`` and where they come from."""
    metrics = tracking.alpha_metrics(alpha)
    for i, row in enumerate(cells):
        metrics |= {f"anchor/row{i}/{name}": x for name, x in zip(study.space.features, row.anchor, strict=True)}
        metrics[f"alpha_entropy/row{i}"] = float(-(alpha[i] * np.log(np.maximum(alpha[i], 1e-300))).sum())
        metrics[f"collisions/row{i}"] = len(row.cells) - len(set(row.cells))
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


def evaluation_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Of a generation that was evaluated; by other processes perhaps, which may tell a value alone."""
    return accuracy_metrics(list(trained(evaluation).values())) or {"accuracy/validation": evaluation.value}


def trained(evaluation: Evaluation) -> dict[int, Scratch]:
    """All trainings from scratch of a generation that was evaluated, by seed."""
    return {int(seed): Scratch(*training) for seed, training in evaluation.details.get("trainings", {}).items()}


def evaluated(study: fade_study.FadeStudy) -> dict[int, list[Scratch]]:
    """All trainings from scratch of the generations that were evaluated."""
    return {e.generation: list(scratch.values()) for e in study.evaluations() if (scratch := trained(e))}


def finish(study: fade_study.FadeStudy, record: SearchRecord, config: SearchConfig, run: tracking.Run) -> None:
    """The record with its analysis, and a summary on the terminal."""
    run.text(record.to_json(), tracking.RECORD)
    last = [study.history(row)[-1] for row in range(study.depth)]
    alpha, cells = np.array([row.alpha for row in last]), [row.cells for row in last]
    run.figure(figures.draw_alpha(alpha, cells), "figures/alpha_last_generation.png")
    run.figure(figures.draw_cells(study.architecture), "figures/anchor_cells.png")
    report = analyze({run.id: record}, run)
    summarize(study.evaluations(), record, run)
    print(report)
    print(
        f"Study {study.optuna_study.study_name!r} in {place(config.storage)}\n"
        f"Look at run {run.id}: {tracking.ui_command()}"
    )


def judge_answer(
    study: fade_study.FadeStudy, config: SearchConfig, data: Data, executor: Executor, run: tracking.Run
) -> None:
    """Train the search's answer anew, and compare it with where the search began and with random search."""
    evaluations = study.evaluations()
    if not evaluations or not config.final_seeds:
        return
    best = max(evaluations, key=lambda evaluation: evaluation.value).architecture
    found = final_accuracies([best, study.architectures()[0]], data, config, executor)
    (answer, first), table = found, random_table(data, config)
    metrics: dict[str, float | None] = {"answer/test_accuracy": float(answer.mean())}
    print(f"The answer, trained anew with {len(answer)} seeds that chose nothing: test accuracy {answer.mean():.4f}")
    if (gain := difference(answer, first)) is not None:
        metrics |= {"answer/gain": gain.value, "answer/gain_low": gain.low, "answer/gain_high": gain.high}
        print(f"  against the first generation's anchor architecture, {first.mean():.4f}: {gain}")
    scratch = data.weight.steps(config.scratch.batch_size) * config.scratch.epochs
    hyper = config.repetitions * config.bilevel.steps(data.weight.steps(config.bilevel.batch_size))
    steps = len(study.trajectory()) * hyper + len(evaluations) * config.evaluation_seeds * scratch
    run.metrics({"steps": steps})
    if table is not None:
        trainings = round(steps / scratch)
        lead, share = against_random_search(answer, table, trainings, config.seed)
        metrics |= {"answer/over_random": lead.value, "answer/over_random_low": lead.low,
                    "answer/over_random_high": lead.high, "answer/better_than_random": share}  # fmt: skip
        print(
            f"  against random searches for the same {steps} training steps ({trainings} trainings from scratch): "
            f"{lead}, better than {share:.0%} of them"
        )
    run.metrics({name: value for name, value in metrics.items() if value is not None and np.isfinite(value)})


def tell_regime(data: Data, config: SearchConfig) -> None:
    """Say at once what validations have found of ranks like these, and warn where they say little."""
    known = regime(data, config)
    if known is None:
        print("How well ranks predict accuracy with these settings was not measured: mlflow run . -e validate does")
        return
    value, low, high = known["spearman"]
    said = f"rank correlation {value:.2f} [{low:.2f}, {high:.2f}] with from-scratch accuracy ({known['of']})"
    if value >= USEFUL and low > 0:
        print(f"Ranks like these have had a {said}")
    else:
        warnings.warn(f"ranks like these say little: {said}; the search may be no better than chance", stacklevel=2)


def summarize(evaluations: list[Evaluation], record: SearchRecord, run: tracking.Run) -> None:
    """The best architecture: chosen by validation, reported on test."""
    if not evaluations:
        print(f"\nNo architecture was trained from scratch: mlflow run . -e evaluate -P run_id={run.id}")
        return
    number, best, validation, _ = max(evaluations, key=lambda evaluation: evaluation.value)
    run.metrics({"best/validation_accuracy": validation})
    run.tag("fade.best_architecture", best.key)
    count = len({evaluation.architecture.key for evaluation in evaluations})
    print(f"\nBest of {count} architectures trained from scratch, chosen by validation accuracy {validation:.3f}:")
    print(f"  {best} (generation {number})")
    test = [scratch.test for scratch in record.evaluations.get(number, ())]
    if test:
        run.metrics({"best/test_accuracy": float(np.mean(test))})
        spread = " (1 seed)"
        if len(test) > 1:
            spread = f" ± {np.std(test, ddof=1):.3f} (mean ± sd over {len(test)} seeds)"
        print(f"  test accuracy {np.mean(test):.3f}{spread}")


if __name__ == "__main__":
    run_command(search, CONFIG)
