import pickle

import pytest
import torch
from torch import nn

from fade_study import Dag, enumerate_dags
from fade_study.nn import CellContext, DagCell, build_cell
from fade_study.nn import cell as cell_module
from fade_study.studies.plain import plain_cell

CELLS = [dag for size in (1, 2, 3, 4) for dag in enumerate_dags(size)][::3]


def context(normalization="none", shared=None, channels=3):
    return CellContext(channels, 3, normalization, running_statistics=True, shared=shared)


def build(dag, **arguments):
    torch.manual_seed(0)
    return build_cell(dag, context(**arguments)).double()


@pytest.mark.parametrize("normalization", ["none", "cell", "vertex"])
@pytest.mark.parametrize("dag", CELLS, ids=str)
@pytest.mark.parametrize("small_map", [0, 256])
def test_merged_convolutions_are_exact(dag, normalization, small_map, monkeypatch):
    """Outputs and all gradients equal those of one convolution per edge."""
    monkeypatch.setattr(cell_module, "SMALL_MAP", small_map)
    cell = build(dag, normalization=normalization)
    x = torch.randn(5, 3, 4, 4, dtype=torch.double, requires_grad=True)
    weights = torch.randn(5, 3, 4, 4, dtype=torch.double)
    inputs = [x, *cell.parameters()]
    results = [
        (output, torch.autograd.grad((output * weights).sum(), inputs))
        for output in (cell(x), plain_cell(dag, cell, x))
    ]
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dag", CELLS, ids=str)
def test_one_convolution_per_operation(dag):
    cell = build(dag)
    assert len(cell.operations) == dag.operations
    assert sum(p.numel() for p in cell.parameters()) == dag.operations * (3 * 3 * 9 + 3)


def test_output_is_not_negative_and_keeps_its_shape():
    output = build(Dag(4, ((0, 1), (1, 2), (0, 3))))(torch.randn(2, 3, 5, 7, dtype=torch.double))
    assert output.shape == (2, 3, 5, 7)
    assert (output >= 0).all()


def test_where_normalization_stands():
    dag = Dag(3, ((0, 1), (1, 2)))
    assert set(build(dag, normalization="none").norms) == set()
    assert set(build(dag, normalization="cell").norms) == {"4"}
    assert set(build(dag, normalization="vertex").norms) == {"1", "2", "4"}


def test_shared_operations_are_the_same_object():
    shared = nn.ModuleDict()
    one = build_cell(Dag(2, ((0, 1),)), context(shared=shared))
    other = build_cell(Dag(3, ((0, 1), (0, 2))), context(shared=shared))
    assert isinstance(one, DagCell)
    assert isinstance(other, DagCell)
    assert one.operations["0_1"] is other.operations["0_1"]
    assert one.operations["1_output"] is other.operations["1_output"]
    assert set(shared) == {"0_1", "0_2", "1_output", "2_output"}


def test_a_module_can_be_pickled():
    cell = build(Dag(2, ((0, 1),)))
    x = torch.randn(1, 3, 4, 4, dtype=torch.double)
    torch.testing.assert_close(pickle.loads(pickle.dumps(cell))(x), cell(x))


def test_unknown_cell_types_are_refused():
    with pytest.raises(TypeError, match=r"build_cell\.register"):
        build_cell("cell", context())
