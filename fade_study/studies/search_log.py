"""What a search says on the terminal and leaves in its MLflow run."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from concurrent.futures import Executor
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

import fade_study
from fade_study import tracking
from fade_study.analysis import cells, figures
from fade_study.studies import analyze
from fade_study.studies.answer import (
    Difference,
    against_random_search,
    difference,
    final_accuracies,
    keep_model,
    random_table,
    regime,
)
from fade_study.studies.command import further
from fade_study.studies.evaluations import accuracy_text, evaluated
from fade_study.studies.schemas import SearchConfig
from fade_study.tracking import SearchRecord
from fade_study.training import Data
from fade_study.urls import place

BEST_RANKED = 5
"""Number of architectures of each generation in the table of ranks."""
USEFUL = 0.3
"""Rank correlation from which on ranks are worth their price."""


class SearchLog:
    """The record of one search, as a context that writes the table of ranks at its end or when it is interrupted.

    MLflow can't add lines to a table: written with every generation, it would be uploaded again and again, ever longer.
    """

    def __init__(self, study: fade_study.FadeStudy, config: SearchConfig, run: tracking.Run) -> None:
        self.study, self.config, self.run = study, config, run
        self.ranks: list[dict[str, Any]] = []
        self.finals: list[NDArray[np.float64]] = []
        """Test accuracies of the answer, and of the first generation's anchor architecture, trained anew."""
        self.gain: Difference | None = None
        """Difference of their means."""
        self.lead: Difference | None = None
        """Difference of the answer from random searches for the same training steps."""
        self.recorded = 0
        """Number of generations that are recorded."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.ranks:
            self.run.rows(self.ranks, "ranks.json")

    def generations(self) -> None:
        """Record the generations that are new."""
        new = [self.study.generation(number) for number in range(self.recorded, self.study.n_generations)]
        self.run.series([(one.batch.number, self._metrics(one)) for one in new])
        for one in new:
            paths, scores = fade_study.ranking.top_k(one.alpha, BEST_RANKED)
            for rank, (path, score) in enumerate(zip(paths.tolist(), scores.tolist(), strict=True), start=1):
                key = one.batch.hyper_architecture.architecture(path).key
                line = {"generation": one.batch.number, "rank": rank, "fade_rank": score, "architecture": key}
                self.ranks.append(line)
        self.recorded += len(new)

    def _metrics(self, one: fade_study.Generation) -> dict[str, float]:
        """Metrics of a generation that was told."""
        alpha, rows = one.alpha, one.batch.hyper_architecture.rows
        metrics = {"one_shot_accuracy": one.details["one_shot_accuracy"], "hyper_seconds": one.details["seconds"]}
        entropy = -(alpha * np.log(np.maximum(alpha, 1e-300))).sum(axis=1)  # (d,)
        for i, anchor in enumerate(one.batch.anchors):
            metrics |= {f"anchor/row{i}/{name}": x for name, x in zip(self.study.space.features, anchor, strict=True)}
            metrics[f"alpha/row{i}/anchor"], metrics[f"alpha/row{i}/largest"] = alpha[i, 0], alpha[i].max()
            metrics[f"alpha_entropy/row{i}"] = float(entropy[i])
        metrics["collisions"] = sum(len(row) - len({cell.key for cell in row}) for row in rows)
        return metrics

    def summary(self) -> SearchRecord:
        """Record the search as a whole, with its analysis, and summarize it on the terminal."""
        study, run = self.study, self.run
        record = SearchRecord.of(study, evaluated(study))
        run.text(record.to_json(), tracking.schema.RECORD)
        last = study.generation(study.n_generations - 1)
        keys, number = last.batch.hyper_architecture.keys, last.batch.number
        run.figure(figures.draw_alpha(last.alpha, keys, f"alphas of generation {number}"),
                   "figures/alpha_last_generation.png")  # fmt: skip
        anchors = cells.draw_architecture(study.architecture, f"the anchors' cells in generation {number}")
        run.figure(anchors, "figures/anchor_cells.png")
        found = analyze.report([record], run)
        self._best(record)
        print(found)
        print(f"Study {study.optuna_study.study_name!r} in {place(self.config.storage)}")
        return record

    def _best(self, record: SearchRecord) -> None:
        """The best architecture: chosen by validation accuracy, reported by test accuracy."""
        evaluation = self.study.best_evaluation
        if evaluation is None:
            print(f"\nNo architecture was trained from scratch: {further('evaluate', run_id=self.run.id)}")
            return
        number, best, validation, _ = evaluation
        self.run.metrics({"best/validation_accuracy": validation})
        self.run.tag(tracking.schema.BEST, best.key)
        count = len({one.architecture.key for one in self.study.evaluations()})
        print(f"\nBest of {count} architectures trained from scratch, chosen by validation accuracy {validation:.3f}:")
        print(f"  {best} (generation {number})")
        test = record.tests.get(number)
        title = f"best of {count} architectures (generation {number}), validation accuracy {validation:.3f}"
        if test:
            self.run.metrics({"best/test_accuracy": float(np.mean(test))})
            print(f"  test accuracy {accuracy_text(test)}, n = {len(test)}")
            title = f"best of {count} architectures (generation {number}), test accuracy {accuracy_text(test)}"
        self.run.figure(cells.draw_architecture(best, title), "figures/best_architecture.png")

    def answer(self, data: Data, executor: Executor) -> None:
        """Train the search's answer again, and compare it with where the search began and with random search."""
        study, config = self.study, self.config
        evaluations = study.evaluations()
        if not evaluations:
            return
        if not config.final_seeds:
            epochs = 2 * config.scratch.epochs
            train = further("train", run_id=self.run.id, epochs=epochs)
            print(f"To train it for {epochs} epochs and keep it as a model: {train}")
            return
        best = study.best_architecture
        scratch = config.scratch.steps(len(data.weight))
        hyper = study.n_generations * config.hyper_steps(len(data.weight))
        steps = hyper + len(evaluations) * config.evaluation_seeds * scratch
        self.run.metrics({"steps": steps})
        finals, state = final_accuracies([best, study.architectures()[0]], data, config, executor)
        answer, first = finals
        if not len(answer):
            return  # each of its trainings killed its workers, of which there was a warning
        self.finals = finals
        metrics: dict[str, float] = {"answer/test_accuracy": float(answer.mean())}
        print(
            f"The answer, trained again with {len(answer)} seeds that chose nothing: test accuracy {answer.mean():.4f}"
        )
        self.gain = gain = difference(answer, first)
        if gain is not None:
            metrics |= {"answer/gain": gain.value, "answer/gain_low": gain.low, "answer/gain_high": gain.high}
            print(f"  against the first generation's anchor architecture, {first.mean():.4f}: {gain}")
        table = random_table(data, config)
        if table is not None and len(answer) > 1:
            trainings = round(steps / scratch)
            self.lead = lead = against_random_search(answer, table, trainings, config.seed)
            metrics |= {"answer/over_random": lead.value, "answer/over_random_low": lead.low,
                        "answer/over_random_high": lead.high}  # fmt: skip
            print(
                f"  against random searches for the same {steps} training steps ({trainings} trainings from scratch): "
                f"{lead}"
            )
        self.run.metrics({name: value for name, value in metrics.items() if np.isfinite(value)})
        if state is not None:
            keep_model(self.run, best, state, data, config.network, config.register)


def tell_regime(data: Data, config: SearchConfig) -> None:
    """Say at once what validations have found of ranks like these, and warn where they say little."""
    known = regime(data, config)
    if known is None:
        print("How well ranks predict accuracy with these settings was not measured; a validation with them would tell")
        return
    value, low, _ = known.spearman
    said = f"rank correlation {_interval(known.spearman)} with from-scratch accuracy ({known.of}"
    if known.operations is not None:
        said += f"; the number of operations, which costs nothing, has {_interval(known.operations)} there"
    said += ")"
    if known.different:
        said += f", measured with other settings: here, {', '.join(known.different)}"
    if value < USEFUL or low <= 0:
        warnings.warn(f"ranks like these say little: {said}; the search may be no better than chance", stacklevel=2)
    elif known.different:
        print(
            f"How well ranks predict accuracy with these settings was not measured. The nearest ones have had a {said}"
        )
    else:
        print(f"Ranks like these have had a {said}")


def _interval(estimate: Iterable[float]) -> str:
    value, low, high = estimate
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"
