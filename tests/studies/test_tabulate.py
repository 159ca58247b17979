"""Tables of ground truth can be made in several runs, from the same trainings as everywhere."""

import json

import numpy as np
import pytest

from fade_study import HyperArchitecture, enumerate_dags
from fade_study.benchmarks import load_table
from fade_study.config import DataConfig, NetworkConfig, OptimizerConfig, ScratchConfig
from fade_study.studies import tabulate
from fade_study.training import load_data, train_from_scratch

CELLS = tuple(enumerate_dags(2))


@pytest.fixture
def small(tmp_path, monkeypatch):
    plan = tabulate.Plan(HyperArchitecture((CELLS, CELLS)), np.array([[0, 0], [0, 1], [1, 1]]), 2)
    monkeypatch.setattr(tabulate, "PLANS", {"small": lambda: plan})
    monkeypatch.setattr(tabulate, "FOLDER", tmp_path)
    monkeypatch.setattr(tabulate, "DATA", DataConfig(limit=300))
    monkeypatch.setattr(tabulate, "NETWORK", NetworkConfig(final_channels=4))
    adam = OptimizerConfig(learning_rate=0.01)
    monkeypatch.setattr(tabulate, "SCRATCH", ScratchConfig(epochs=1, batch_size=50, optimizer=adam))
    return plan


@pytest.mark.slow
def test_a_table_that_was_stopped_goes_on(small, tmp_path):
    tabulate.tabulate(["small"], 1)
    table = load_table(str(tmp_path / "small.json"))
    assert not (tmp_path / "small.jsonl").exists()
    assert table.ground_truth.test.shape == (3, 2)
    data = load_data(tabulate.DATA)
    here = train_from_scratch(table.architectures[1], data, tabulate.SCRATCH, network=tabulate.NETWORK, seed=1)
    assert table.ground_truth.test[1, 1] == here.test_accuracy

    # as if it had been stopped after the first training, whose accuracy is replaced here
    line = {"recipe": table.recipe, "architecture": table.architectures[0].key, "seed": 0}
    line |= {"test": 0.5, "validation": 0.5, "seconds": 1.0}
    (tmp_path / "small.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line | {"recipe": "other", "test": 1}))
    tabulate.tabulate(["small"], 1)
    again = load_table(str(tmp_path / "small.json"))
    assert again.ground_truth.test[0, 0] == 0.5
    np.testing.assert_array_equal(again.ground_truth.test[1:], table.ground_truth.test[1:])


def test_the_plans_are_balanced_and_of_the_searches_they_name():
    for seed in (0, 3):
        plan = tabulate.PLANS[f"fashion14-h{seed}"]()
        assert plan.hyper_architecture.shape == (4, 7)
        for columns in plan.paths.T:
            assert np.ptp(np.bincount(columns, minlength=7)) <= 1
    equal = tabulate.PLANS["fashion14-equal"]()
    assert {cell.operations for row in equal.hyper_architecture.rows for cell in row} == {5}
    random = tabulate.PLANS["fashion14-random"]()
    assert (random.paths.shape, random.seeds) == ((100, 4), 2)
