"""Trains the architectures of a finished search from scratch, and analyzes the search with their accuracies.

mlflow run . -e evaluate -P run_id=...
"""

from __future__ import annotations

from fade_study.studies.command import read_command, run_command
from fade_study.studies.schemas import EvaluateConfig

if __name__ == "__main__":  # before the imports that take seconds
    CONFIG = read_command(EvaluateConfig)

import dataclasses
from concurrent.futures import Executor

from fade_study import Architecture, Dag, tracking
from fade_study.benchmarks import Scratch
from fade_study.builders import builders_of
from fade_study.exceptions import InvalidInputError
from fade_study.execution import open_executor
from fade_study.nn import check_operation
from fade_study.studies import notes
from fade_study.studies.analyze import analyze
from fade_study.studies.evaluations import accuracy_metrics, is_due
from fade_study.studies.schemas import SearchConfig
from fade_study.studies.trainings import ScratchTrainings
from fade_study.tracking import SearchRecord
from fade_study.training import Data
from fade_study.training.data import load_data
from fade_study.training.session import open_accelerator


def evaluate(config: EvaluateConfig) -> dict[str, SearchRecord]:
    """Train, add the accuracies to the search's own run, and analyze."""
    tracking.check_server()
    records = tracking.read_searches(config.run_id)
    searches = {run_id: SearchConfig(**tracking.read_config(run_id)) for run_id in records}
    data = load_data(next(iter(searches.values())).data)
    for run_id in records:
        tracking.check_conditions(run_id, data, builders_of([Dag]))
        check_operation(searches[run_id].network)
    device = str(open_accelerator().device)
    tags = {"fade.evaluated": config.run_id}
    with (
        open_executor(config.executor) as executor,
        tracking.start_study(
            "evaluation", config, device, data, tags=tags, name=f"evaluate {config.run_id[:8]}"
        ) as run,
    ):
        evaluated = {
            run_id: evaluate_one(record, config, searches[run_id], data, executor) for run_id, record in records.items()
        }
        for run_id, record in evaluated.items():
            search = tracking.Run(run_id)
            search.series(
                [(generation, accuracy_metrics(list(found))) for generation, found in record.evaluations.items()]
            )
            search.text(record.to_json(), tracking.schema.RECORD)
        text = analyze(evaluated, run)
        print(text)
        run.note(notes.analysis("evaluate", config.run_id, evaluated, text, run.pictures))
        print(tracking.look_at(run.experiment, run.id))
    return evaluated


def evaluate_one(
    record: SearchRecord, config: EvaluateConfig, search: SearchConfig, data: Data, executor: Executor
) -> SearchRecord:
    """A search's record with the trainings that it lacks. Only more trainings of a generation replace those it has."""
    last = len(record.cells) - 1
    chosen = [t for t in range(last + 1) if is_due(t, config.every, last=t == last)]
    try:
        architectures = {
            t: Architecture(tuple(Dag.from_key(key) for key in record.evaluated[t].split("|"))) for t in chosen
        }
    except ValueError as error:
        raise InvalidInputError(f"expected a search whose cells are graphs, got another space: {error}") from None
    wanted = [(architecture, seed) for architecture in architectures.values() for seed in range(config.seeds)]
    first = {architecture.key: t for t, architecture in reversed(architectures.items())}
    found = ScratchTrainings(wanted, data, search.scratch, search.network, executor, generations=first).collect()
    new = {
        t: tuple(found[name] for seed in range(config.seeds) if (name := (architecture.key, seed)) in found)
        for t, architecture in architectures.items()
    }
    evaluations: dict[int, tuple[Scratch, ...]] = dict(record.evaluations)
    evaluations |= {t: one for t, one in new.items() if len(one) >= len(evaluations.get(t, ())) and one}
    return dataclasses.replace(record, evaluations=dict(sorted(evaluations.items())))


if __name__ == "__main__":
    run_command(evaluate, CONFIG)  # pyright: ignore[reportPossiblyUnboundVariable]
