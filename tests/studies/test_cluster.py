"""Trainings on a Dask cluster whose processes are killed: each is on record once, by the driver alone."""

import threading
from collections import Counter

import mlflow
import pytest

from fade_study import Architecture, Dag, HyperArchitecture, enumerate_dags, tracking
from fade_study.config import BilevelConfig, NetworkConfig, OptimizerConfig, ScratchConfig
from fade_study.exceptions import ClusterError
from fade_study.execution import open_executor
from fade_study.studies.trainings import ScratchTrainings, train_hyper
from fade_study.training import train_from_scratch, train_hyper_architecture
from tests.cluster import Cluster, wait_until

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'fade-study[cluster]'")
pytestmark = pytest.mark.slow

ARCHITECTURES = [Architecture((Dag(1),)), Architecture((Dag(2, ((0, 1),)),))]
NETWORK = NetworkConfig(final_channels=4)
SCRATCH = ScratchConfig(epochs=2, batch_size=32)
SEEDS = range(10)


@pytest.fixture
def cluster(tmp_path):
    """A scheduler."""
    with Cluster(tmp_path) as cluster:
        cluster.start_scheduler()
        yield cluster


@pytest.fixture
def study(mlflow_store, digits):
    with tracking.start_study("search", SCRATCH, "cpu", digits) as run:
        yield run


def collect(cluster, digits, tmp_path, accident):
    """All trainings, with an accident once a few are on record."""
    with open_executor(cluster.address) as executor:
        wanted = [(a, seed) for seed in SEEDS for a in ARCHITECTURES]
        trainings = ScratchTrainings(wanted, digits, SCRATCH, NETWORK, executor, checkpoints=tmp_path / "states")

        def wait_and_happen():
            wait_until(lambda: len(trainings.results) >= 3)
            accident()

        thread = threading.Thread(target=wait_and_happen)
        thread.start()
        results = trainings.collect()
        thread.join()
    assert results.keys() == {(a.key, seed) for a, seed in wanted}
    runs = [r for r in mlflow.search_runs(output_format="list") if r.data.tags["fade.kind"] == "scratch"]
    counts = Counter((r.data.params["architecture"], int(r.data.params["seed"])) for r in runs)
    assert counts == dict.fromkeys(results, 1)
    assert {run.info.status for run in runs} == {"FINISHED"}
    here = train_from_scratch(ARCHITECTURES[1], digits, SCRATCH, network=NETWORK, seed=9)
    assert results[ARCHITECTURES[1].key, 9][:2] == (here.test_accuracy, here.validation_accuracy)
    assert not (tmp_path / "states").exists()


def test_a_worker_is_killed_and_another_joins(study, digits, cluster, tmp_path):
    workers = [cluster.start_worker() for _ in range(2)]

    def accident():
        cluster.kill(workers[0])
        workers.append(cluster.start_worker())

    collect(cluster, digits, tmp_path, accident)


def test_all_workers_are_killed_and_others_join(study, digits, cluster, tmp_path):
    worker = cluster.start_worker()

    def accident():
        cluster.kill(worker)
        cluster.start_worker()

    collect(cluster, digits, tmp_path, accident)


def test_the_scheduler_is_killed_and_started_again(study, digits, cluster, tmp_path):
    worker = cluster.start_worker()

    def accident():
        cluster.kill(cluster.scheduler)
        worker.wait()
        cluster.start_scheduler()
        cluster.start_worker()

    collect(cluster, digits, tmp_path, accident)


def test_a_worker_that_would_train_in_another_precision_is_refused(study, digits, cluster):
    cluster.start_worker(ACCELERATE_MIXED_PRECISION="bf16")
    expected = (
        "on cpu with mixed precision no, got cpu with mixed precision bf16 in process [0-9]+ on host .*; end that"
    )
    with open_executor(cluster.address) as executor, pytest.raises(ClusterError, match=expected):
        ScratchTrainings([(ARCHITECTURES[0], 0)], digits, SCRATCH, NETWORK, executor).collect()


@pytest.mark.filterwarnings("ignore:the supernet has hardly trained")
def test_repetitions_on_a_cluster_equal_those_here(study, digits, cluster, tmp_path):
    hyper = HyperArchitecture((tuple(enumerate_dags(2)),))
    config = BilevelConfig(epochs=2, batch_size=32, optimizer=OptimizerConfig(learning_rate=0.01), alpha_init_std=1.0)
    cluster.start_worker()
    with open_executor(cluster.address) as executor:
        there = train_hyper(0, hyper, digits, config, NETWORK, [3, 4], executor, checkpoints=tmp_path / "states")
    here = [train_hyper_architecture(hyper, digits, config, network=NETWORK, seed=seed) for seed in (3, 4)]
    assert [result.alpha.tolist() for result in there] == [result.alpha.tolist() for result in here]
    assert not (tmp_path / "states").exists()
