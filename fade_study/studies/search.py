"""Search for an architecture, and record everything in MLflow (paper sections 2.4 and 3.2).

fade search
fade search --preset smoke --generations 3 --study first
mlflow run . -e search -P preset=smoke -P generations=3 -P study=first
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from concurrent.futures import Executor
from typing import Any

from accelerate import Accelerator
from tqdm.auto import tqdm

import fade_study
from fade_study import interrupt, tracking
from fade_study.builders import builders_of, describe_network
from fade_study.execution import open_executor
from fade_study.studies import notes
from fade_study.studies.analyze import report
from fade_study.studies.command import again
from fade_study.studies.evaluations import Evaluations
from fade_study.studies.schemas import SearchConfig
from fade_study.studies.search_log import SearchLog, tell_regime
from fade_study.studies.trainings import Trainer
from fade_study.tracking import SearchRecord
from fade_study.training import Data, load_data
from fade_study.training.bilevel import check_schedule
from fade_study.training.distributed import Processes, everywhere
from fade_study.training.session import check_alike, open_accelerator


def search_once(
    config: SearchConfig,
    data: Data,
    executor: Executor,
    processes: Processes,
    device: str,
    *,
    go_on: str | None = None,
) -> tuple[fade_study.FadeStudy, str, SearchRecord]:
    """Run one search, and return its study, the id of its run, and its record.

    ``go_on`` is the command that continues a new study. It is printed once nothing can refuse the study any more.
    """
    begin = time.perf_counter()
    study = open_study(config, data)
    # Asks at once: where another process has the generation open, that one's record stays as it is.
    batches = study.generations(config.generations)
    name = study.optuna_study.study_name
    tags = {tracking.schema.STUDY_NAME: name, tracking.schema.STUDY: study.identity}
    builders = builders_of([fade_study.Dag])
    with (
        tracking.start_study("search", config, device, data, tags=tags, name=name, builders=builders) as run,
        SearchLog(study, config, run) as log,
    ):
        run.note(notes.unfinished(name))
        tracking.adopt(run, study.identity, study.n_generations)
        if go_on is not None:
            print(f"New study; should it be killed, this goes on with it: {go_on}")
        trainer = Trainer(study, config, data, executor, processes)
        log.generations()
        evaluations = Evaluations(study, config, data, executor, run)
        with tqdm(total=config.generations, initial=study.n_generations, unit="generation", disable=None) as bar:
            for batch in batches:
                evaluations.begin(batch.number)
                results = trainer.train(batch)
                if results is None:  # diverged: the generation comes again, with another seed
                    continue
                trainer.tell(batch, results)
                log.generations()
                evaluations.begin(batch.number)
                evaluations.collect()
                bar.update()
        evaluations.finish()
        record = log.summary()
        log.answer(data, executor)
        run.note(notes.search(study, config, data, record, log.finals, log.gain, log.lead, run))
        run.metrics({"seconds": time.perf_counter() - begin})
        print(tracking.look_at(run.experiment, run.id))
    return study, run.id, record


def open_study(config: SearchConfig, data: Data) -> fade_study.FadeStudy:
    """The study of that name, or a new one; only values that came about in the same way can be compared."""
    conditions: dict[str, Any] = {
        "bilevel": config.bilevel.recorded(),
        "scratch": dataclasses.asdict(config.scratch),
        "network": describe_network(config.network, [fade_study.Dag]),
        "data": data.digest,
        "evaluation_seeds": config.evaluation_seeds,
        "repetitions": config.repetitions,
    }
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


# --- around the searches: processes, data, executor, several seeds ------------------------------------------------


def search(config: SearchConfig) -> list[fade_study.FadeStudy]:
    """Run all generations that the study lacks, then analyze and summarize; once for each of several seeds."""
    accelerator = open_accelerator()
    try:
        config, data, processes = gather(config, accelerator)
    except fade_study.FadeError:  # raised in all processes
        accelerator.wait_for_everyone()
        accelerator.end_training()  # or some processes abort at their exit
        raise
    with processes:
        if accelerator.is_main_process:
            return search_all(config, data, processes, accelerator.device.type)
        processes.follow()
    return []


def gather(config: SearchConfig, accelerator: Accelerator) -> tuple[SearchConfig, Data, Processes]:
    """The settings with the number of processes, the data, and the processes; all of them raise the same error."""
    if config.processes not in (1, accelerator.num_processes):
        raise fade_study.InvalidInputError(
            f"expected {config.processes} processes, got {accelerator.num_processes}; start them by "
            "`fade search --processes N`, or by a launcher and leave `processes` out"
        )
    config = dataclasses.replace(config, processes=accelerator.num_processes)
    check_alike(accelerator, fade_study=fade_study.__version__)
    data = everywhere(accelerator, load_data, config.data)
    processes = Processes(accelerator, data)
    shape = config.depth, config.sampler.columns(config.space.open())
    check_schedule(config.bilevel, data, shape, config.processes)
    return config, data, processes


def search_all(config: SearchConfig, data: Data, processes: Processes, device: str) -> list[fade_study.FadeStudy]:
    """The searches of all seeds, in the main process."""
    tracking.check_server()
    tell_regime(data, config)
    new = config.study is None
    if new:
        config = dataclasses.replace(config, study=f"{time.strftime('search-%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}")
    go_on = again(str(config.study))
    # Processes that train together leave evaluations to a worker: a result must not depend on their number.
    alone = processes.count == 1 or config.executor != "inline"
    try:
        with open_executor(config.executor if alone else "processes:1") as executor:
            if config.seeds == 1:
                return [search_once(config, data, executor, processes, device, go_on=go_on if new else None)[0]]
            with tracking.start_study("search", config, device, data, name=f"{config.study}, all seeds") as run:
                found = []
                for seed in range(config.seed, config.seed + config.seeds):
                    one = dataclasses.replace(config, seed=seed, seeds=1, study=f"{config.study}-{seed}")
                    say = go_on if new and not found else None
                    found.append(search_once(one, data, executor, processes, device, go_on=say))
                records = {run_id: record for _, run_id, record in found}
                text = report([*records.values()], run)
                print(f"\nAll {config.seeds} searches:\n{text}")
                names = {run_id: study.optuna_study.study_name for study, run_id, _ in found}
                run.note(notes.searches(names, records, config, text, run.experiment, run.pictures))
                print(tracking.look_at(run.experiment, run.id))
            return [study for study, _, _ in found]
    except interrupt.Interrupted:
        print(f"To go on: {go_on}")
        raise
