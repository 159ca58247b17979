"""Trainings from scratch of the architectures that a search evaluates, while it searches on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

import fade_study
from fade_study import interrupt, tracking
from fade_study.benchmarks import Scratch
from fade_study.studies.schemas import SearchConfig
from fade_study.studies.trainings import ScratchTrainings
from fade_study.study import Evaluation, OpenEvaluation
from fade_study.training import Data

POLL_SECONDS = 2.0
"""Seconds between two looks at evaluations of other processes."""


class Evaluations:
    """Evaluations of one study, trained by the executor.

    Evaluations that an earlier session left out, or was stopped in, begin at once. What another living process
    evaluates for the same study is left to it.
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
        """By architecture: an architecture that comes back is not trained again."""
        self.done: dict[tuple[str, int], Scratch] = {}
        """Everything that was trained for any generation, by architecture and seed."""
        self.record(quiet=True)
        told = study.n_generations
        self.last = max(config.generations, told) - 1
        """Number of the last generation, unless the search stops early."""
        for number in range(told):
            self.begin(number)

    def begin(self, number: int, *, last: bool = False) -> None:
        """Train a generation's architecture if it is due: every so many generations, and the last one.

        The anchor's architecture is known once its generation is asked, the best-ranked one only after it was told.
        """
        begun = number in self.recorded or number in self.waiting or number in self.failed
        if begun or not is_due(number, self.config.evaluate_every, last=last or number == self.last):
            return
        if self.study.evaluate == "best_ranked" and number >= self.study.n_generations:
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
                generations={architecture.key: number},
                done={name: self.done[name] for seed in seeds if (name := (architecture.key, seed)) in self.done},
            )
        self.waiting[number] = evaluation, self.trainings[architecture.key]

    def collect(self, *, wait: bool = False) -> None:
        """Tell and record the evaluations that are done, or wait for all that this process has begun."""
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
                except fade_study.InvalidInputError:  # another process took this one for dead and took it over
                    self.elsewhere.add(number)
                    with contextlib.suppress(fade_study.InvalidInputError):  # give it back, or it stays open for ever
                        self.study.fail_evaluation(evaluation)
        self.record()

    def finish(self) -> None:
        """Wait for all evaluations, those of other processes too; train here what one leaves that dies."""
        self.begin(self.study.n_generations - 1, last=True)
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
        """Record the metrics of evaluations that are new, whoever has told them."""
        new = self.study.evaluations(known=self.recorded)
        self.run.series([(e.generation, evaluation_metrics(e)) for e in new])
        for e in new:
            self.recorded.add(e.generation)
            self.done |= {(e.architecture.key, seed): scratch for seed, scratch in trained(e).items()}
            if not quiet:
                name, accuracy = next(iter(evaluation_metrics(e).items()))
                tqdm.write(f"generation {e.generation} from scratch: {' '.join(name.split('/')[::-1])} {accuracy:.3f}")


def is_due(generation: int, every: int, *, last: bool) -> bool:
    """Whether a generation is evaluated: every so many, and the last; none where that is 0."""
    return every > 0 and (last or (generation + 1) % every == 0)


def accuracy_metrics(accuracies: Collection[Scratch]) -> dict[str, float]:
    """Mean over seeds, and standard deviation where there are several."""
    metrics: dict[str, float] = {}
    for name in ("test", "validation"):
        values = [getattr(scratch, name) for scratch in accuracies]
        if values:
            metrics[f"accuracy/{name}"] = float(np.mean(values))
        if len(values) > 1:
            metrics[f"accuracy/{name}_sd"] = float(np.std(values, ddof=1))
    return metrics


def accuracy_text(values: Sequence[float]) -> str:
    """Mean accuracy over seeds, with the standard deviation where there are several."""
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def evaluation_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Metrics of an evaluation; another program may have told its value and nothing else."""
    return accuracy_metrics(trained(evaluation).values()) or {"accuracy/validation": evaluation.value}


def trained(evaluation: Evaluation) -> dict[int, Scratch]:
    """The trainings from scratch of an evaluation, by seed."""
    return {int(seed): Scratch(*training) for seed, training in evaluation.details.get("trainings", {}).items()}


def evaluated(study: fade_study.FadeStudy) -> dict[int, list[Scratch]]:
    """The trainings from scratch of all evaluations, by generation."""
    return {e.generation: list(scratch.values()) for e in study.evaluations() if (scratch := trained(e))}
