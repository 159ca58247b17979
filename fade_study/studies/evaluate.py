"""Train the architectures of a finished search from scratch, and analyze it again.

fade evaluate --run_id ID --every 2
mlflow run . -e evaluate -P run_id=ID -P every=2
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import Executor

from fade_study import Architecture, Dag, tracking
from fade_study.benchmarks import Scratch
from fade_study.builders import builders_of
from fade_study.execution import open_executor
from fade_study.nn import check_operation
from fade_study.studies import notes
from fade_study.studies.analyze import report
from fade_study.studies.evaluations import accuracy_metrics, accuracy_text, is_due
from fade_study.studies.schemas import EvaluateConfig, SearchConfig
from fade_study.studies.trainings import ScratchTrainings
from fade_study.tracking import SearchRecord
from fade_study.tracking.schema import EVALUATED
from fade_study.training import Data, load_data
from fade_study.training.session import open_accelerator


def evaluate(config: EvaluateConfig) -> dict[str, SearchRecord]:
    """Train, add the accuracies to the search's own run, and analyze."""
    tracking.check_server()
    records, searches, data = read_finished(config.run_id)
    device = str(open_accelerator().device)
    tags = {EVALUATED: config.run_id}
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
            search.series([(t, accuracy_metrics(trainings)) for t, trainings in record.evaluations.items()])
            search.text(record.to_json(), tracking.schema.RECORD)
            print(f"Search {run_id}:\n{evaluations_text(record)}")
        found = list(evaluated.values())
        text = report(found, run)
        print(text)
        run.note(notes.analysis("evaluate", config.run_id, found, text, run.pictures))
        print(tracking.look_at(run.experiment, run.id))
    return evaluated


def read_finished(run_id: str) -> tuple[dict[str, SearchRecord], dict[str, SearchConfig], Data]:
    """Records and settings of the searches of a run, by run id, and their images.

    Raises:
        InvalidInputError: (a ``ValueError``) for no such search, and for other images, builders or operations than its.
    """
    records = tracking.read_searches(run_id)
    configs = {one: SearchConfig(**tracking.read_config(one)) for one in records}
    data = load_data(next(iter(configs.values())).data)
    for one, config in configs.items():
        tracking.check_conditions(one, data, builders_of([Dag]))
        check_operation(config.network)
    return records, configs, data


def evaluate_one(
    record: SearchRecord, config: EvaluateConfig, search: SearchConfig, data: Data, executor: Executor
) -> SearchRecord:
    """A search's record with the trainings that it lacks. Only more trainings of a generation replace those it has."""
    last = len(record.cells) - 1
    chosen = [t for t in range(last + 1) if is_due(t, config.every, last=t == last)]
    architectures = {t: Architecture.from_key(record.evaluated[t]) for t in chosen}
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


def evaluations_text(record: SearchRecord) -> str:
    """Accuracies by generation, and the best architecture: chosen by validation accuracy, reported by test accuracy."""
    tests = {t: accuracy_text(found) for t, found in record.tests.items()}
    lines = ["generation  test accuracy ± sd  seeds  architecture"]
    lines += [f"{t:10}  {text:18}  {len(record.evaluations[t]):5}  {record.evaluated[t]}" for t, text in tests.items()]
    if (best := record.best) is not None:
        lines += [f"Best, chosen by validation accuracy: {record.evaluated[best]} (generation {best})"]
        lines += [f"  test accuracy {tests[best]}, n = {len(record.evaluations[best])}"]
    return "\n".join(lines)
