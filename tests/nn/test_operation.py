"""Operations on the edges of a cell: built-in ones and those of a user."""

import dataclasses
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fade_study import Architecture, Dag, HyperArchitecture, InvalidInputError
from fade_study.config import NetworkConfig
from fade_study.nn import CellContext, Network, Supernet, build_cell, build_operation, flops, parameters

SEVERAL_SOURCES = Dag(4, ((0, 2), (1, 2), (1, 3), (2, 3)))
OWN = {
    "identity": "nn.Identity()",
    "squashed": "nn.Sequential(nn.Conv2d(channels, channels, kernel_size, padding='same'), nn.Tanh())",
    "normalized": "nn.BatchNorm2d(channels)",
    "fails": "1 / 0",
    "nothing": "None",
    "fails_later": "nn.Conv2d(channels + 1, channels, 1)",
    "shrinks": "nn.Conv2d(channels, channels, kernel_size)",
    "widens": "nn.Conv2d(channels, channels + 1, 1)",
    "transposes": "Transposed()",
    "two": "nn.MaxPool2d(1, return_indices=True)",
    "overwrites": "nn.ReLU(inplace=True)",
}


@pytest.fixture(autouse=True)
def own_operations(tmp_path, monkeypatch):
    """A module of a user."""
    functions = [f"def {name}(channels, kernel_size):\n    return {body}\n" for name, body in OWN.items()]
    transposed = "class Transposed(nn.Module):\n    def forward(self, x):\n        return x.transpose(2, 3)\n"
    (tmp_path / "own_operations.py").write_text("\n".join(["from torch import nn\n", transposed, *functions]))
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_operations", None)


def context(operation, normalization="none", shared=None):
    return CellContext(3, 3, normalization, running_statistics=True, shared=shared, operation=operation)


def separable(operation, x):
    """k x k on each channel separately, then 1 x 1 on all channels."""
    depthwise, pointwise = operation
    channels = [F.conv2d(x[:, c : c + 1], depthwise.weight[c : c + 1], padding=1) for c in range(x.shape[1])]
    mixed = torch.einsum("oi,bihw->bohw", pointwise.weight[:, :, 0, 0], torch.cat(channels, dim=1))
    return mixed + pointwise.bias[:, None, None]


@pytest.mark.parametrize("shared", [None, nn.ModuleDict()])
def test_a_cell_of_separable_convolutions(shared):
    """Vertices 0 and 1 pass on x; every other edge applies its operation, and each vertex sums and rectifies."""
    torch.manual_seed(0)
    cell = build_cell(SEVERAL_SOURCES, context("separable", shared=shared)).double()
    if shared is not None:
        other = build_cell(Dag(3, ((0, 2), (1, 2))), context("separable", shared=shared))
        assert other.operations["0_2"] is cell.operations["0_2"]
    x = torch.randn(2, 3, 5, 4, dtype=torch.double)
    on = {name: lambda x, name=name: separable(cell.operations[name], x) for name in cell.operations}
    second = F.relu(on["0_2"](x) + on["1_2"](x))
    third = F.relu(on["1_3"](x) + on["2_3"](second))
    torch.testing.assert_close(cell(x), F.relu(on["3_output"](third)), rtol=1e-10, atol=1e-10)


def test_a_separable_convolution_keeps_the_variance_of_rectified_inputs():
    torch.manual_seed(0)
    x = F.relu(torch.randn(4, 64, 16, 16))
    for name in ("convolution", "separable"):
        y = build_operation(name, 64, 3)(x)[:, :, 1:-1, 1:-1]  # without the zero-padded margins
        assert y.var().item() == pytest.approx(1.0, abs=0.25)


def test_parameters_and_flops_of_separable_convolutions():
    config = NetworkConfig(final_channels=6, min_channels=6, normalization="none")
    architecture = Architecture((SEVERAL_SOURCES,))
    sizes, costs = [], []
    for operation in ("separable", "convolution"):
        network = Network(architecture, (1, 8, 8), 10, dataclasses.replace(config, operation=operation))
        sizes.append(parameters(network))
        costs.append(flops(network, (1, 8, 8)))
    operations = SEVERAL_SOURCES.operations
    assert sizes[1] - sizes[0] == operations * (6 * 6 * 9 - (6 * 9 + 6 * 6))
    merged = operations - 1  # convolutions of x into the same vertex are merged
    assert costs[1] - costs[0] == 2 * 8 * 8 * (merged * 6 * 6 * 9 - operations * (6 * 9 + 6 * 6))


@pytest.mark.parametrize("name", ["separable", "own_operations:squashed"])
def test_a_supernet_of_other_operations_equals_the_network(name):
    config = NetworkConfig(final_channels=4, normalization="none", operation=name)
    cells = (SEVERAL_SOURCES, Dag(2, ((0, 1),)))
    supernet = Supernet(HyperArchitecture((cells, cells)), (1, 8, 8), 5, config, share_weights=True)
    network = Network(Architecture(cells), (1, 8, 8), 5, config)
    network.macro.load_state_dict(supernet.macro.state_dict())
    for row, cell in enumerate(network.cells):
        cell.load_state_dict(supernet.cells(row)[row].state_dict())
    images = torch.randn(3, 1, 8, 8)
    factors = torch.softmax(torch.randn(2, 2), dim=1).requires_grad_()
    scores = supernet(images, [0, 1], factors)
    torch.testing.assert_close(scores, network(images))
    scores.sum().backward()
    assert factors.grad is not None


@pytest.mark.parametrize("dag", [SEVERAL_SOURCES, Dag(2, ((0, 1),))])
def test_an_operation_may_hand_its_input_on(dag):
    """If vertices rectified in place, they would change the input of others."""
    cell = build_cell(dag, context("own_operations:identity"))
    x = torch.randn(1, 3, 4, 4, requires_grad=True)
    before = x.detach().clone()
    assert torch.equal(cell(x), F.relu(x) * (3 if dag is SEVERAL_SOURCES else 1))
    cell(x).sum().backward()
    assert torch.equal(x, before)


def test_an_operation_is_tried_without_a_trace():
    operation = build_operation("own_operations:normalized", 3, 3)
    assert operation.training
    assert operation.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("no_such_module:operation", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("own_operations:missing", "AttributeError: module 'own_operations' has no attribute 'missing'"),
        ("own_operations:fails", "ZeroDivisionError: division by zero"),
        ("own_operations:nothing", "a result of type NoneType, which is not a module"),
        ("own_operations:fails_later", "RuntimeError: Given groups=1"),
        ("own_operations:shrinks", "got (1, 3, 1, 2)"),
        ("own_operations:widens", "got (1, 4, 3, 4)"),
        ("own_operations:transposes", "got (1, 3, 4, 3)"),
        ("own_operations:two", "got tuple"),
        ("own_operations:overwrites", "a modified input"),
    ],
)
def test_what_is_no_operation_is_refused(name, got):
    with pytest.raises(InvalidInputError, match=r"network\.operation: expected") as error:
        Network(Architecture((Dag(1),)), (1, 8, 8), 5, NetworkConfig(final_channels=3, operation=name))
    assert name in str(error.value)
    assert got in str(error.value)
