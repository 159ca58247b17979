"""Trainings in worker processes, in good days and bad."""

import dataclasses
import os
import signal

import mlflow
import numpy as np
import pytest

from fade_study import Architecture, Dag, HyperArchitecture, enumerate_dags, tracking
from fade_study.benchmarks import Scratch, load_digits625
from fade_study.config import BilevelConfig, DataConfig, NetworkConfig, OptimizerConfig, ScratchConfig
from fade_study.exceptions import WorkerDiedError
from fade_study.execution import open_executor
from fade_study.studies import search, trainings
from fade_study.studies.command import CONFIGS
from fade_study.studies.options import parse_config
from fade_study.studies.schemas import SearchConfig, ValidationConfig
from fade_study.training import load_data, recipe, train_from_scratch, train_hyper_architecture

ARCHITECTURES = [Architecture((Dag(1),)), Architecture((Dag(2, ((0, 1),)),))]
HYPER = HyperArchitecture((tuple(enumerate_dags(2)),))
NETWORK = NetworkConfig(final_channels=4)
SCRATCH = ScratchConfig(epochs=2, batch_size=32)
BILEVEL = BilevelConfig(epochs=2, batch_size=32, optimizer=OptimizerConfig(learning_rate=0.01), alpha_init_std=1.0)


@pytest.fixture
def study(mlflow_store, digits):
    with tracking.start_study("search", BILEVEL, "cpu", digits) as run:
        yield run


def submit(wanted, data, executor):
    return trainings.ScratchTrainings(wanted, data, SCRATCH, NETWORK, executor)


def recorded(kind):
    return [r for r in mlflow.search_runs(output_format="list") if r.data.tags["fade.kind"] == kind]


def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def diverged(*_, **__):
    raise ArithmeticError("loss is not finite")


def test_trainings_are_paid_for_once(study, digits):
    with open_executor("processes:2") as executor:
        first = submit([(a, s) for a in ARCHITECTURES for s in (0, 1)], digits, executor).collect()
        again = submit([(a, s) for a in ARCHITECTURES for s in (0, 1, 2)], digits, executor)
        assert len(again.futures) == 2
        results = again.collect()
    assert {name: results[name] for name in first} == first
    assert len(recorded("scratch")) == 6
    here = train_from_scratch(ARCHITECTURES[1], digits, SCRATCH, network=NETWORK, seed=2)
    assert results[ARCHITECTURES[1].key, 2][:2] == (here.test_accuracy, here.validation_accuracy)


def test_results_have_the_order_in_which_they_were_wanted(study, digits):
    """Whichever is known or done first, so that a search that was stopped leaves the same record."""
    wanted = [(ARCHITECTURES[0], 0), (ARCHITECTURES[0], 1)]
    done = {(ARCHITECTURES[0].key, 1): Scratch(0.5, 0.5, 1.0)}
    with open_executor("inline") as executor:
        found = trainings.ScratchTrainings(wanted, digits, SCRATCH, NETWORK, executor, done=done).collect()
    assert [seed for _, seed in found] == [0, 1]


@pytest.mark.slow
def test_a_training_whose_workers_are_killed_is_recorded_as_failed(study, digits, monkeypatch):
    with open_executor("processes:1") as executor:
        good = submit([(ARCHITECTURES[0], 0)], digits, executor).collect()
        monkeypatch.setattr(trainings, "train_from_scratch", killed)
        bad = submit([(ARCHITECTURES[0], 1)], digits, executor)
        assert set(good) == {(ARCHITECTURES[0].key, 0)}
        with pytest.warns(UserWarning, match="no from-scratch result of 1: with seed 1"):
            assert bad.collect() == {}
    assert {run.data.params["seed"]: run.info.status for run in recorded("scratch")} == {"0": "FINISHED", "1": "FAILED"}


@pytest.mark.parametrize("name", ["inline", "processes:1"])
def test_an_error_says_which_training_it_was(study, digits, monkeypatch, name):
    monkeypatch.setattr(trainings, "train_from_scratch", diverged)
    monkeypatch.setattr(trainings, "train_hyper_architecture", diverged)
    with open_executor(name) as executor:
        with pytest.raises(ArithmeticError, match="not finite") as scratch:
            submit([(ARCHITECTURES[1], 5)], digits, executor).collect()
        with pytest.raises(ArithmeticError, match="not finite") as hyper:
            trainings.train_hyper(3, HYPER, digits, BILEVEL, NETWORK, [7, 8], executor)
    assert scratch.value.__notes__ == [f"in the training from scratch of {ARCHITECTURES[1].key} with seed 5"]
    assert "hyper-architecture of generation 3 with seed" in hyper.value.__notes__[0]


@pytest.mark.filterwarnings("ignore:the supernet has hardly trained")
@pytest.mark.slow
def test_repetitions_in_workers_equal_those_here(study, digits):
    seeds = trainings.repetition_seeds(3, 2)
    assert seeds[0] == 3
    with open_executor("processes:2") as executor:
        there = trainings.train_hyper(0, HYPER, digits, BILEVEL, NETWORK, seeds, executor)
        alone = trainings.train_hyper(1, HYPER, digits, BILEVEL, NETWORK, seeds[:1], executor)
    here = [train_hyper_architecture(HYPER, digits, BILEVEL, network=NETWORK, seed=seed) for seed in seeds]
    for one, other in zip(there, here, strict=True):
        np.testing.assert_array_equal(one.alpha_history, other.alpha_history)
    np.testing.assert_array_equal(alone[0].alpha_history, here[0].alpha_history)
    runs = {(r.data.params["generation"], int(r.data.params["seed"])): r for r in recorded("hyper")}
    assert set(runs) == {("0", seeds[0]), ("0", seeds[1]), ("1", seeds[0])}
    first, same = (runs[generation, seeds[0]].data.metrics for generation in ("0", "1"))
    assert {n: v for n, v in first.items() if n != "seconds"} == {n: v for n, v in same.items() if n != "seconds"}


@pytest.mark.filterwarnings("ignore:the supernet has hardly trained", "ignore:no from-scratch result")
@pytest.mark.slow
def test_a_search_goes_on_without_a_killed_evaluation(mlflow_store, tmp_path, monkeypatch):
    monkeypatch.setattr(trainings, "train_from_scratch", killed)
    config = SearchConfig(
        generations=1, evaluate_every=1, depth=2, storage=f"sqlite:///{tmp_path}/fade.db", executor="processes:1",
        evaluation_seeds=1, network=NETWORK, bilevel=dataclasses.replace(BILEVEL, epochs=3), scratch=SCRATCH,
        data=DataConfig(limit=300),
    )  # fmt: skip
    (study,) = search.search(config)
    assert study.trajectory().shape == (1, 2, 3)
    assert study.evaluations() == []
    assert [run.info.status for run in recorded("scratch")] == ["FAILED"]
    assert [run.info.status for run in recorded("search")] == ["FINISHED"]
    assert len(recorded("hyper")) == 1


@pytest.mark.slow
def test_a_search_ends_with_the_generation_whose_workers_are_killed(study, monkeypatch, digits):
    monkeypatch.setattr(trainings, "train_hyper_architecture", killed)
    with open_executor("processes:1") as executor, pytest.raises(WorkerDiedError) as error:
        trainings.train_hyper(3, HYPER, digits, BILEVEL, NETWORK, [7, 8], executor)
    assert "generation 3 with seed" in error.value.__notes__[0]


def test_a_table_is_found_whatever_the_device(digits):
    shipped = load_digits625()
    preset = parse_config(ValidationConfig, CONFIGS / "validate", ["--preset", "digits"])
    data = load_data(preset.data)
    made = recipe(data, preset.scratch, preset.network, device="cuda")
    assert (
        made
        != recipe(data, preset.scratch, preset.network)
        == recipe(data, preset.scratch, preset.network, device="cpu")
    )
    elsewhere = dataclasses.replace(shipped, recipe=made, trainings={made: shipped.ground_truth}, device="cuda")
    with pytest.warns(UserWarning, match="ground truth was trained on cuda, this process trains on cpu"):
        assert trainings.is_truth(elsewhere, data, preset.scratch, preset.network)
    assert not trainings.is_truth(elsewhere, digits, preset.scratch, preset.network)
    assert trainings.is_truth(shipped, data, preset.scratch, preset.network)
