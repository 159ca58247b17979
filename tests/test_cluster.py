"""A real Dask cluster on this machine, in good weather and in bad."""

import os
import shutil
import time
import warnings
from pathlib import Path

import mlflow
import pytest

import fade_study
from fade_study import Architecture, enumerate_dags, tracking
from fade_study.config import NetworkConfig, ScratchConfig
from fade_study.exceptions import ClusterError
from fade_study.execution import open_executor
from fade_study.training import train_from_scratch
from studies.trainings import ScratchTrainings
from tests.cluster import Cluster, wait_until

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'fade-study[cluster]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

NETWORK = NetworkConfig(final_channels=4)
ARCHITECTURES = [Architecture((cell, cell)) for cell in enumerate_dags(3)]
SEEDS = (0, 1)


def fail():
    raise ArithmeticError("diverged")


def count(data):
    """How often this worker has seen the very same data."""
    time.sleep(0.1)
    data.weight.labels[0] += 1
    return os.getpid(), int(data.weight.labels[0])


@pytest.fixture
def cluster(tmp_path):
    with Cluster(tmp_path) as cluster:
        cluster.start_scheduler()
        yield cluster


def soon(function, *arguments):
    """The error that it raises within 15 seconds."""
    begin = time.monotonic()
    with pytest.raises(ClusterError) as error:
        function(*arguments)
    assert time.monotonic() - begin < 15
    return str(error.value)


def test_tasks_are_done_and_data_are_sent_once(cluster, digits):
    cluster.start_worker()
    first = int(digits.weight.labels[0])
    with open_executor(cluster.address) as executor:
        assert executor.submit(abs, -1).result() == 1
        assert executor.submit(os.getpid).result() != os.getpid()
        with pytest.raises(ArithmeticError, match="diverged"):
            executor.submit(fail).result()
        found = [executor.submit(count, digits).result() for _ in range(3)]
        assert [labels - first for _, labels in found] == [1, 2, 3]
        cluster.start_worker()  # late, it has the same data, and work to do
        wait_until(lambda: len({task.result()[0] for task in [executor.submit(count, digits) for _ in range(20)]}) == 2)
    assert int(digits.weight.labels[0]) == first


def test_what_can_not_be_used_is_told_soon(tmp_path, cluster):
    assert "expected a Dask scheduler at tcp://127.0.0.1:1, got no answer" in soon(open_executor, "tcp://127.0.0.1:1")

    worker = cluster.start_worker("--nthreads", "2")
    wait_until(lambda: "Registered to" in cluster.log())
    error = soon(open_executor, cluster.address)
    assert "expected workers of one thread, got 2 in worker tcp://" in error
    assert f"dask worker {cluster.address} --nthreads 1 --nworkers N" in error
    cluster.kill(worker)

    shutil.copytree(Path(fade_study.__file__).parent, tmp_path / "other" / "fade_study")
    module = tmp_path / "other" / "fade_study" / "__init__.py"
    module.write_text(module.read_text().replace(f'__version__ = "{fade_study.__version__}"', '__version__ = "0.0.9"'))
    with open_executor(cluster.address) as executor:
        cluster.start_worker(PYTHONPATH=str(tmp_path / "other"))
        message = f"expected fade_study {fade_study.__version__} on worker tcp://.* as here, got 0.0.9"
        with pytest.raises(ClusterError, match=message):
            executor.submit(abs, -1).result()
    assert "got 0.0.9; install the same version there" in soon(open_executor, cluster.address)


def test_an_interrupted_driver_leaves_the_workers_alone(cluster):
    cluster.start_worker()

    def interrupted():
        with open_executor(cluster.address) as executor:
            tasks = [executor.submit(time.sleep, 0.5) for _ in range(100)]
            tasks[0].result()
            raise KeyboardInterrupt

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - begin < 30
    with open_executor(cluster.address) as executor:
        assert executor.submit(abs, -1).result() == 1


def test_every_evaluation_is_recorded_once_whatever_dies(cluster, digits, mlflow_store):
    """No worker, a late one, one that is killed, a scheduler that is killed with all data, and new ones."""
    config = ScratchConfig(epochs=8, batch_size=32)
    wanted = [(architecture, seed) for architecture in ARCHITECTURES for seed in SEEDS]
    with tracking.start_study("search", config, "cpu", digits), open_executor(cluster.address) as executor:
        trainings = ScratchTrainings(wanted, digits, config, NETWORK, executor)
        assert trainings.checkpoints is None
        total = len(wanted)

        def done(number):
            wait_until(lambda: sum(future.done() for future in trainings.futures) >= number)

        with pytest.warns(UserWarning, match="trainings wait for a worker; start one with: dask worker tcp://"):
            wait_until(lambda: executor._alone)
        first = cluster.start_worker()
        done(1)
        cluster.start_worker()
        done(2)
        cluster.kill(first)
        done(4)
        for process in list(cluster.processes):
            cluster.kill(process)
        assert sum(future.done() for future in trainings.futures) < total
        cluster.start_scheduler()
        cluster.start_worker()
        with warnings.catch_warnings(action="ignore"):
            results = trainings.collect()
    assert results.keys() == {(architecture.key, seed) for architecture, seed in wanted}
    runs = [r for r in mlflow.search_runs(output_format="list") if r.data.tags["fade.kind"] == "scratch"]
    assert sorted((r.data.params["architecture"], int(r.data.params["seed"])) for r in runs) == sorted(results)
    assert {r.info.status for r in runs} == {"FINISHED"}
    here = train_from_scratch(ARCHITECTURES[-1], digits, config, network=NETWORK, seed=1)
    assert results[ARCHITECTURES[-1].key, 1][:2] == (here.test_accuracy, here.validation_accuracy)
