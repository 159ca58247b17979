import itertools
import json
import math
import os

import numpy as np
import pytest

from fade_study import Dag, DagSpace, HyperArchitecture
from fade_study.benchmarks import FOLDER, Scratch, Table, Trainings, load_digits625, load_table
from fade_study.cells import distant_cells
from fade_study.studies.command import CONFIGS
from fade_study.studies.options import parse_config
from fade_study.studies.schemas import ValidationConfig
from fade_study.studies.tabulate import DATA, NETWORK, PLANS, SCRATCH
from fade_study.training import load_data, recipe, train_from_scratch

HYPER = HyperArchitecture(((Dag(1), Dag(2)), (Dag(2, ((0, 1),)), Dag(3))))


@pytest.fixture
def table(rng):
    def trainings(seeds, epochs):
        test, validation = (rng.integers(images + 1, size=(4, len(seeds))) / images for images in (300, 299))
        return Trainings({"scratch": {"epochs": epochs}}, seeds, test, validation, 1.25)

    return Table(
        hyper_architecture=HYPER,
        paths=np.array(list(itertools.product(range(2), repeat=2))),
        recipe="long",
        trainings={"long": trainings((0, 1, 2), 4), "short": trainings((1000,), 1)},
        images=(300, 299),
        commit="abc",
        device="cpu",
    )


def test_a_table_read_is_the_table_written_bit_for_bit(table):
    again = Table.from_json(table.to_json())
    assert again.to_json() == table.to_json()
    assert (again.hyper_architecture, again.commit, again.recipe) == (HYPER, "abc", "long")
    np.testing.assert_array_equal(again.paths, table.paths)
    for name, trainings in table.trainings.items():
        np.testing.assert_array_equal(again.trainings[name].test, trainings.test)
        np.testing.assert_array_equal(again.trainings[name].validation, trainings.validation)
        assert again.trainings[name].seeds == trainings.seeds
    assert again.find("long") == table.find("long")


def test_evaluations_are_found_by_architecture_and_seed(table):
    assert len(table.find("long")) == 12
    key = HYPER.architecture((1, 0)).key
    expected = Scratch(table.ground_truth.test[2, 1], table.ground_truth.validation[2, 1], 1.25)
    assert table.find("long")[key, 1] == expected
    assert set(table.find("short")) == {(a.key, 1000) for a in table.architectures}
    assert table.find("unknown") == {}


def test_a_table_of_ones_own_is_loaded_by_its_path(table, tmp_path):
    path = tmp_path / "ground_truth.json"
    path.write_text(table.to_json())
    assert load_table(str(path)).to_json() == table.to_json()


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"images": 3})])
def test_files_that_are_no_tables_are_refused(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"expected a table of trainings in .*other\.json"):
        load_table(str(path))


def test_a_table_with_missing_rows_is_refused(table, tmp_path):
    path = tmp_path / "cut.json"
    content = json.loads(table.to_json())
    content["trainings"]["short"]["test"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="4 paths and all seeds"):
        load_table(str(path))
    path.write_text(json.dumps(json.loads(table.to_json()) | {"ground_truth": "lost"}))
    with pytest.raises(ValueError, match="ground truth's recipe lost"):
        load_table(str(path))


def test_an_unknown_table_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"shipped \(.*\) or the path of a JSON file, got 'digits626'"):
        load_table("digits626")
    with pytest.raises(ValueError, match=r"got 'nowhere/table\.json'"):
        load_table("nowhere/table.json")


@pytest.fixture(scope="module")
def shipped():
    return load_digits625()


@pytest.fixture(scope="module")
def preset():
    return parse_config(ValidationConfig, CONFIGS / "validate", ["--preset", "digits"])


def test_the_shipped_table_holds_all_architectures_of_the_validation(shipped, preset):
    cells = distant_cells(DagSpace(preset.space.max_vertices), preset.cells, preset.operations)
    assert shipped.hyper_architecture == HyperArchitecture((cells,) * preset.depth)
    assert len(np.unique(shipped.paths, axis=0)) == len(set(shipped.architectures)) == 625
    truth = shipped.ground_truth
    assert truth.test.shape == (625, len(truth.seeds))
    assert truth.seeds == (0, 1, 2, 3, 4)
    assert len(truth.seeds) >= 3
    assert ((truth.test > 0.05) & (truth.test <= 1)).all()
    assert {t.settings["scratch"]["epochs"] for t in shipped.trainings.values()} >= {1, 2, 5}


def test_rows_of_the_shipped_table_trained_again_are_within_seed_noise(shipped, preset):
    data = load_data(preset.data)
    assert shipped.recipe == recipe(data, preset.scratch, preset.network), "the preset would not use the table"
    truth = shipped.ground_truth
    noise = math.sqrt(truth.test.var(axis=1, ddof=1).mean())
    for row, seed in ((0, 0), (312, 1), (624, 2)):
        architecture = shipped.hyper_architecture.architecture(shipped.paths[row].tolist())
        again = train_from_scratch(architecture, data, preset.scratch, network=preset.network, seed=seed)
        assert abs(again.test_accuracy - truth.test[row, seed]) <= 4 * noise


@pytest.mark.parametrize("name", [name for name in PLANS if f"{name}.json" in os.listdir(FOLDER)])
def test_a_table_of_fashion14_is_what_its_plan_makes(name):
    table, plan, data = load_table(name), PLANS[name](), load_data(DATA)
    assert table.recipe == recipe(data, SCRATCH, NETWORK, device=table.device)
    assert table.hyper_architecture == plan.hyper_architecture
    np.testing.assert_array_equal(table.paths, plan.paths)
    truth = table.ground_truth
    assert truth.test.shape == (len(plan.paths), plan.seeds)
    assert ((truth.test > 0.5) & (truth.test < 0.9)).all()
