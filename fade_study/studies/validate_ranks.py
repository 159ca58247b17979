"""Measure how well FaDE-ranks and other predictors predict accuracy (paper section 3.1).

fade validate
fade validate --preset digits
mlflow run . -e validate -P preset=digits
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np

from fade_study import tracking
from fade_study.config import BilevelConfig
from fade_study.execution import open_executor, phase
from fade_study.seeding import VALIDATION
from fade_study.studies.ground_truth import Case, open_cases, plan, train_scratch
from fade_study.studies.measurements import measure_architectures, measure_cells, measure_sizes
from fade_study.studies.predictors import TRAINED, Evidence, Measured, early, names
from fade_study.studies.report_ranks import Judged, judge, report
from fade_study.studies.schemas import ValidationConfig
from fade_study.studies.trainings import repetition_seeds, train_hyper
from fade_study.training import Data, HyperResult, load_data
from fade_study.training.bilevel import check_schedule
from fade_study.training.session import open_accelerator


def validate(config: ValidationConfig) -> list[Judged]:
    """Train supernets and ground truth, compare, report."""
    begin = time.perf_counter()
    predictors = names(config.early_epochs, config.predictors)
    data = load_data(config.data)
    cases = open_cases(config, data)
    for case in cases:
        for training in filter(None, (config.bilevel, config.straight_through)):
            check_schedule(training, data, case.hyper_architecture.shape)
    tracking.check_server()
    device = str(open_accelerator().device)
    with (
        open_executor(config.executor) as executor,
        tracking.start_study("validation", config, device, data, name=f"validate {data.name}") as run,
    ):
        judged, steps = [], [phase_steps(case, predictors, config, len(data.weight)) for case in cases]
        for number, case in enumerate(cases):
            print(f"{case.name}: hyper-architecture {number + 1} of {len(cases)}, {len(case.paths)} architectures")
            later = sum(map(sum, steps[number + 1 :]))
            judged.append(validate_case(number, case, predictors, config, data, executor, run, steps[number], later))
        report(judged, predictors, config, data, run)
        one_shot = float(np.mean([result.accuracy for one in judged for result in one.evidence.supernets]))
        run.metrics({"one_shot_accuracy": one_shot, "seconds": time.perf_counter() - begin})
        print(f"One-shot accuracy of the supernets: {one_shot:.2f} (chance {data.chance:.2f})")
        print(tracking.look_at(run.experiment, run.id))
    return judged


def phase_steps(case: Case, predictors: Sequence[str], config: ValidationConfig, images: int) -> tuple[int, int, int]:
    """Training steps of a case by phase, of which the remaining time follows: those of all trainings cost about alike.

    Trainings in a table have none; those that MLflow has on record are not known yet. The weight split has so many
    ``images``.
    """
    supernets = config.hyper_steps(images)
    paper = straight_through(predictors, config)
    compared = 0 if paper is None else config.straight_through_repetitions * paper.steps(images)
    untrained = plan(case, early_epochs(predictors, config), config)[0 if case.table is None else 1 :]
    scratch = sum(one.steps(images) * len(seeds) for one, seeds in untrained) * len(case.paths)
    designed = len({*TRAINED} & {*predictors})  # each has as many steps as the supernets
    return supernets + compared, scratch, designed * supernets


def straight_through(predictors: Sequence[str], config: ValidationConfig) -> BilevelConfig | None:
    """Training by the paper's estimator, if one of the predictors needs it."""
    return config.straight_through if any(name.startswith("straight_through") for name in predictors) else None


def early_epochs(predictors: Sequence[str], config: ValidationConfig) -> list[int]:
    """Numbers of epochs of the trainings from scratch that are predictors."""
    return [epochs for epochs in config.early_epochs if early(epochs) in predictors]


def validate_case(
    number: int,
    case: Case,
    predictors: Sequence[str],
    config: ValidationConfig,
    data: Data,
    executor: Executor,
    run: tracking.Run,
    steps: tuple[int, int, int],
    later: int,
) -> Judged:
    """Train what the predictors of one hyper-architecture need, and compare them with its ground truth.

    Its phases have so many training ``steps``, and after them the command has ``later`` ones.
    """
    hyper_architecture = case.hyper_architecture

    def train(bilevel: BilevelConfig, repetitions: int, paths: Sequence[Sequence[int]] = ()) -> list[HyperResult]:
        seeds = repetition_seeds(VALIDATION.seed(config.seed, number), repetitions)
        return train_hyper(number, hyper_architecture, data, bilevel, config.network, seeds, executor, paths)

    first, second, third = steps
    paper = straight_through(predictors, config)
    count = config.repetitions + (0 if paper is None else config.straight_through_repetitions)
    print(f"phase 1 of 3: supernets, {count} trainings", flush=True)
    with phase("phase 1 of 3: supernets", count, (second + third + later) / first):
        supernets = train(config.bilevel, config.repetitions, case.paths.tolist())
        compared = [] if paper is None else train(paper, config.straight_through_repetitions)

    short = early_epochs(predictors, config)
    table, complete = train_scratch(case, short, data, config, executor, (third + later) / max(1, second))
    if case.table is None:
        run.text(table.to_json(), "ground_truth.json")

    print(f"phase 3 of 3: predictors of {len(complete)} architectures", flush=True)
    single = measure_architectures(table.architectures, predictors, data, config, executor)
    for epochs, trainings in zip(short, list(table.trainings.values())[1:], strict=True):
        single[early(epochs)] = Measured(trainings.validation[:, 0], trainings.seconds * len(complete))
    evidence = Evidence(
        hyper_architecture=hyper_architecture,
        paths=table.paths,
        estimator=config.bilevel.estimator,
        supernets=[dataclasses.replace(one, path_accuracies=one.path_accuracies[complete]) for one in supernets],
        straight_through=compared,
        single=single,
        by_cell=measure_sizes(hyper_architecture, data, config.network)
        | measure_cells(hyper_architecture, predictors, data, config, executor, later),
    )
    return judge(case.name, evidence, table.ground_truth, predictors, config)
