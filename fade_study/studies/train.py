"""Train the best architecture of a search, or any other one, and keep it as an MLflow model.

mlflow run . -e train -P run_id=... -P epochs=100
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fade_study import Architecture, InvalidInputError, tracking
from fade_study.exceptions import WorkerDiedError
from fade_study.execution import open_executor
from fade_study.studies import notes
from fade_study.studies.answer import keep_model
from fade_study.studies.command import further
from fade_study.studies.evaluate import read_finished
from fade_study.studies.evaluations import accuracy_metrics, accuracy_text
from fade_study.studies.schemas import TrainConfig
from fade_study.studies.trainings import ScratchTrainings
from fade_study.tracking.schema import TRAINED
from fade_study.training.session import open_accelerator

FIRST_SEED = 3000
"""First seed of these trainings, by which nothing was chosen."""


def train(config: TrainConfig) -> None:
    """Train with every seed, and keep the network with the best validation accuracy."""
    tracking.check_server()
    records, searches, data = read_finished(config.run_id)
    run_id, record = max(records.items(), key=lambda item: item[1].best_validation)
    search, key = searches[run_id], config.architecture
    if key is None and record.best is None:
        raise InvalidInputError(
            "expected a search with architectures trained from scratch, got one without; "
            f"{further('evaluate', run_id=config.run_id)} trains them"
        )
    architecture = Architecture.from_key(record.evaluated[record.best or 0] if key is None else key)
    scratch = search.scratch
    if config.epochs is not None:
        scratch = dataclasses.replace(scratch, epochs=config.epochs)
    wanted = [(architecture, seed) for seed in range(FIRST_SEED, FIRST_SEED + config.seeds)]
    device, name, tags = str(open_accelerator().device), f"train {config.run_id[:8]}", {TRAINED: config.run_id}
    with (
        open_executor(config.executor) as executor,
        tracking.start_study("training", config, device, data, tags=tags, name=name) as run,
    ):
        keep = {(architecture.key, seed) for _, seed in wanted}
        folder = Path(config.checkpoint_dir)
        trainings = ScratchTrainings(
            wanted, data, scratch, search.network, executor, checkpoints=folder, keep_states=keep
        )
        found = trainings.collect()
        if not found:
            raise WorkerDiedError("expected a training that ends, got none; use fewer workers, or a smaller network")
        run.metrics(accuracy_metrics(found.values()))
        run.tag(tracking.schema.BEST, architecture.key)
        tests = [one.test for one in found.values()]
        print(f"{architecture}\n  {scratch.epochs} epochs: test accuracy {accuracy_text(tests)}, n = {len(tests)}")
        best = max(found, key=lambda name: found[name].validation)
        keep_model(run, architecture, trainings.states[best], data, search.network, config.register)
        run.note(notes.training(architecture.key, tests, scratch.epochs, config.run_id, run))
        print(tracking.look_at(run.experiment, run.id))
