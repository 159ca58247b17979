"""Builders that users register for cell types; nothing is trained unless all processes have the same ones."""

import dataclasses
import importlib
import json
import subprocess
import sys

import pytest

from fade_study import Architecture, Dag, InvalidInputError
from fade_study.builders import as_here, build_cell, builders_of
from fade_study.execution import open_executor
from fade_study.training import NetworkConfig, ScratchConfig, recipe, train_from_scratch

ARCHITECTURE = Architecture((Dag(2, ((0, 1),)),))
CONFIG = ScratchConfig(epochs=1, batch_size=32)
BUILDER = """
from torch import nn
from fade_study import Dag
from fade_study.nn import CellContext, build_cell

@build_cell.register
def pointwise(cell: Dag, context: CellContext) -> nn.Module:
    return nn.Conv2d(context.channels, context.channels, 1)
"""
NOTEBOOK = f"""
import json
from fade_study import Architecture, InvalidInputError
from fade_study.execution import open_executor
from fade_study.training import DataConfig, NetworkConfig, ScratchConfig, load_data, recipe, train_from_scratch
data, config = load_data(DataConfig(limit=300)), ScratchConfig(epochs=1, batch_size=32)
said = dict(ours=recipe(data, config, NetworkConfig()))
with open_executor("processes:1") as executor:
    {BUILDER.replace(chr(10), chr(10) + "    ")}
    training = executor.submit(train_from_scratch, Architecture((Dag(2, ((0, 1),)),)), data, config)
    said |= dict(submitted=repr(training.exception()))
try:
    open_executor("processes:2")
except InvalidInputError as error:
    said |= dict(opened=str(error))
said |= dict(own=recipe(data, config, NetworkConfig()))
print(json.dumps(said))
"""


@pytest.fixture
def restored():
    """The original builder of Dag, which is registered again after the test."""
    original = build_cell.dispatch(Dag)
    yield original
    build_cell.register(Dag, original)


def test_a_builder_of_a_notebook_is_refused(digits):
    run = subprocess.run([sys.executable, "-c", NOTEBOOK], capture_output=True, text=True, check=True)
    said = json.loads(run.stdout)
    assert said["own"] != said["ours"] == recipe(digits, CONFIG, NetworkConfig())
    assert said["submitted"].startswith("InvalidInputError")
    assert "expected fade_study.cells.dag:Dag to be built by __main__:pointwise" in said["submitted"]
    assert "got fade_study's own in process" in said["submitted"]
    assert "expected a builder of fade_study.cells.dag:Dag that worker processes can import" in said["opened"]
    assert "got __main__:pointwise; put it into a module that all processes can import" in said["opened"]


def test_a_builder_of_a_module_trains_here_and_in_workers(digits, tmp_path, monkeypatch, restored):
    ours, base = train_from_scratch(ARCHITECTURE, digits, CONFIG), recipe(digits, CONFIG, NetworkConfig())
    (tmp_path / "pointwise_cells.py").write_text(BUILDER)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("pointwise_cells")
    assert builders_of([Dag, int]) == {"fade_study.cells.dag:Dag": "pointwise_cells:pointwise"}
    assert recipe(digits, CONFIG, NetworkConfig()) != base
    assert recipe(digits, CONFIG, NetworkConfig(), cell_types=[int]) == base
    with open_executor("processes:1") as executor:
        here, there = (
            dataclasses.replace(result, seconds=0)
            for result in (
                train_from_scratch(ARCHITECTURE, digits, CONFIG),
                executor.submit(train_from_scratch, ARCHITECTURE, digits, CONFIG).result(),
            )
        )
        assert here == there
        assert here.parameters < ours.parameters
        build_cell.register(Dag, restored)  # the worker still has the other builder, but must not use it
        with pytest.raises(InvalidInputError, match=r"built by fade_study's own, .* got pointwise_cells:pointwise"):
            executor.submit(train_from_scratch, ARCHITECTURE, digits, CONFIG).result()


def test_what_a_task_expects_ends_with_it(digits, restored):
    """A worker may be a thread of this process, which later trains with its own builders."""
    training = as_here(train_from_scratch)
    build_cell.register(Dag, lambda *arguments: restored(*arguments))  # noqa: PLW0108 - another function
    with pytest.raises(InvalidInputError, match="to be built by fade_study's own"):
        training(ARCHITECTURE, digits, CONFIG)
    assert train_from_scratch(ARCHITECTURE, digits, CONFIG).parameters > 0
    with pytest.raises(InvalidInputError, match=r"that worker processes can import, got .*<lambda>"):
        open_executor("processes:1")
    with open_executor("inline") as executor:
        assert executor.submit(train_from_scratch, ARCHITECTURE, digits, CONFIG).result().parameters > 0
