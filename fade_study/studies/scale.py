"""Measure what evaluations cost one driver, by simulated trainings on a simulated cluster.

fade scale
mlflow run . -e scale
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import chdir, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import requests
import tenacity

from fade_study import Architecture, DagSpace, tracking
from fade_study.config import DataConfig, NetworkConfig, ScratchConfig
from fade_study.exceptions import ClusterError
from fade_study.execution import open_executor
from fade_study.studies import notes
from fade_study.studies.repeated_warnings import recorded
from fade_study.studies.schemas import ScaleConfig
from fade_study.studies.trainings import ScratchTrainings
from fade_study.training import Data, ScratchResult, load_data

DEPTH = 4
SCRATCH = ScratchConfig(epochs=20)
SERVER_SECONDS = 60
AT_ONCE = 1_000
"""Largest number of submitted tasks; real trainings don't all end at the same time either."""


def scale(config: ScaleConfig) -> None:
    """Measure, record and print the cost of submitting and collecting an evaluation, and of recording it."""
    tracking.check_server()
    data = load_data(DataConfig())
    with (
        simulated_cluster(config.workers) as address,
        open_executor(address) as executor,
        tempfile.TemporaryDirectory() as folder,
        server(Path(folder)) as uri,  # a server of its own, so that real searches don't find simulated results
    ):
        found = measure_cluster(executor, draw(config.evaluations, config.seed), data)
        with chdir(folder), tracking.redirected(uri):
            found |= measure_record(executor, draw(config.recorded, config.seed), data)
    with tracking.start_study("benchmark", config, "cpu", name="scale") as run:
        run.metrics({f"scale/{name}": value for name, value in found.items()})
        for name, value in found.items():
            print(f"{name}: {value:.3g}")
        slowest = max(found["milliseconds/cluster"], found["milliseconds/record"])
        said = (
            f"One driver takes {slowest:.3g} ms for an evaluation: {config.workers} workers are kept busy by "
            f"evaluations of {config.workers * slowest / 1000:.3g} s or more"
        )
        print(said)
        run.note(
            notes.benchmark(said, notes.table(("quantity", "value"), [(k, f"{v:.3g}") for k, v in found.items()]), ())
        )


def draw(count: int, seed: int) -> list[tuple[Architecture, int]]:
    """Random architectures, with seeds for their trainings."""
    cells = list(DagSpace(5))
    columns = np.random.default_rng(seed).integers(len(cells), size=(count, DEPTH))
    return [(Architecture(tuple(cells[j] for j in row)), seed) for seed, row in enumerate(columns)]


def pretend(
    architecture: Architecture, data: Data, config: ScratchConfig, *, network: NetworkConfig, seed: int, **_: Any
) -> ScratchResult:
    """Return at once a result of the same size as a training's."""
    epochs = tuple({"loss/weights": 1 / (epoch + 1), "accuracy/validation": 0.5} for epoch in range(config.epochs))
    return ScratchResult(0.5, 0.5, epochs, len(architecture.key), len(data.test) + seed, network.final_channels)


class Pretending(Executor):
    """An executor that runs :func:`pretend` instead of each task."""

    shares_files = False

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit :func:`pretend` with the arguments of a training."""
        del fn  # it would check the device of each worker's process, but the workers are threads of one process
        _, _, *arguments = args
        return self.executor.submit(recorded, pretend, *arguments, **kwargs)


def measure_cluster(executor: Executor, wanted: list[tuple[Architecture, int]], data: Data) -> dict[str, float]:
    """Milliseconds per evaluation from the first submission to the last result, without a record."""
    executor.submit(pretend, wanted[0][0], data, SCRATCH, network=NetworkConfig(), seed=0).result()  # sends the data
    begin, own = time.perf_counter(), time.process_time()
    tasks: deque[Future[Any]] = deque()
    for architecture, seed in wanted:
        if len(tasks) == AT_ONCE:
            tasks.popleft().result()
        tasks.append(executor.submit(pretend, architecture, data, SCRATCH, network=NetworkConfig(), seed=seed))
    for task in tasks:
        task.result()
    wall, own = time.perf_counter() - begin, time.process_time() - own
    per_task = 1000 / len(wanted)
    return {"milliseconds/cluster": per_task * wall, "milliseconds/cluster_own": per_task * own}


def measure_record(executor: Executor, wanted: list[tuple[Architecture, int]], data: Data) -> dict[str, float]:
    """Milliseconds per evaluation as searches do it, with each recorded in an MLflow server."""
    with tracking.start_study("search", SCRATCH, "cpu", data):
        begin, own = time.perf_counter(), time.process_time()
        trainings = ScratchTrainings(wanted, data, SCRATCH, NetworkConfig(), Pretending(executor))
        done = len(trainings.collect())
        wall, own = time.perf_counter() - begin, time.process_time() - own
    return {"milliseconds/record": 1000 * wall / done, "milliseconds/record_own": 1000 * own / done}


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """An MLflow server with its store in a folder; yields its URL."""
    store = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--host", "127.0.0.1", "--workers", "1"]
    port = 20_000 + os.getpid() % 10_000
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *store, "--port", str(port)],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    uri = f"http://127.0.0.1:{port}"
    try:
        patient = tenacity.Retrying(wait=tenacity.wait_fixed(0.2), stop=tenacity.stop_after_delay(SERVER_SECONDS))
        patient(lambda: requests.get(f"{uri}/health", timeout=1).raise_for_status())
        yield uri
    finally:
        os.killpg(process.pid, 9)
        process.wait()


@contextmanager
def simulated_cluster(workers: int) -> Iterator[str]:
    """A Dask cluster whose workers are threads of one process; yields the address of its scheduler."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_run_cluster, args=(workers, there), daemon=True)
    process.start()
    there.close()
    try:
        try:
            address = here.recv()
        except EOFError:
            raise ClusterError(
                "expected a Dask cluster in a process of its own, got a process that has died; if Dask is missing, "
                "pip install -e '.[cluster]'"
            ) from None
        yield address
    finally:
        process.kill()
        process.join()


def _run_cluster(workers: int, pipe: Connection) -> None:
    from dask import config
    from distributed import LocalCluster

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each worker has several connections
    # Hundreds of workers in one process would do nothing but monitor themselves. And if the memory manager dropped
    # copies of the data, they would fetch them from each other again, over more connections than a process may have.
    config.set(
        {
            "distributed.worker.profile.enabled": False,
            "distributed.admin.system-monitor.interval": "1h",
            "distributed.admin.tick.interval": "1h",
            "distributed.scheduler.active-memory-manager.start": False,
        }
    )
    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address=None,  # pyright: ignore[reportArgumentType]
        worker_dashboard_address=None,
        memory_limit=0,
    )
    cluster.wait_for_workers(workers)
    pipe.send(cluster.scheduler_address)
    multiprocessing.Event().wait()
