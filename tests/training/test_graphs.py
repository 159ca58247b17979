"""Steps by CUDA graphs: on a GPU if the machine has one, and always with functions that are called again instead."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from fade_study import Architecture, Dag, HyperArchitecture
from fade_study.config import BilevelConfig, DataConfig, NetworkConfig, OptimizerConfig, ScratchConfig
from fade_study.exceptions import DivergedError, InvalidInputError
from fade_study.nn import Network, Supernet, build_cell
from fade_study.training import bilevel, graphs, load_data, scratch, train_from_scratch, train_hyper_architecture
from fade_study.training.alphas import alpha_loss
from fade_study.training.data import Minibatch
from fade_study.training.graphs import CudaGraph, NetworkGraphs, PathGraphs
from fade_study.training.session import backward, session

A, B, C = Dag(1), Dag(2, ((0, 1),)), Dag(4, ((0, 1), (1, 2), (1, 3)))
HYPER = HyperArchitecture(((A, B, C), (C, A, B), (B, C, A)))
SHAPE = (3, 20, 20)  # maps on which sums of convolutions are merged into one convolution, and others
FAST = OptimizerConfig(learning_rate=0.01)


class Repeated:
    """As a graph, but a replay calls the function again, which leaves its results at the same addresses."""

    replays = 0

    def __init__(self, function, pool):
        self.function, self.results = function, function()

    @staticmethod
    def new_pool():
        return None

    @torch.no_grad()
    def replay(self):
        Repeated.replays += 1
        with torch.enable_grad():
            found = self.function()
        for old, new in zip(self.results, found, strict=True):
            old.copy_(new)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(graphs, "CudaGraph", Repeated)


@pytest.fixture
def device(request, device):
    """The processor, on which functions stand for graphs, and a GPU if the machine has one."""
    if device.type == "cpu":
        request.getfixturevalue("no_gpu")
    return device


def accelerator_of(device, half):
    """What the steps need of an Accelerator."""
    cast = lambda: torch.autocast(device.type, torch.bfloat16, enabled=half, cache_enabled=False)  # noqa: E731
    return SimpleNamespace(autocast=cast, num_processes=1, device=device)


def batch_of(seed, device):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(8, *SHAPE, generator=generator).contiguous(memory_format=torch.channels_last)
    return Minibatch(images.to(device), torch.randint(10, (8,), generator=generator).to(device), 8)


def gradients_of(module):
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        assert one is None or (torch.equal(one, other) and one.stride() == other.stride())


@pytest.mark.parametrize(
    ("normalization", "share", "half", "operation"),
    [
        ("none", False, False, "convolution"),
        ("cell", True, False, "convolution"),
        ("cell", True, True, "convolution"),
        ("vertex", False, True, "convolution"),
        ("cell", False, False, "separable"),
    ],
)
def test_steps_of_a_supernet_are_the_same(device, normalization, share, half, operation):
    torch.manual_seed(0)
    config = NetworkConfig(final_channels=8, min_channels=2, normalization=normalization, operation=operation)
    supernet = Supernet(HYPER, SHAPE, 10, config, share_weights=share).to(device)
    accelerator, weights = accelerator_of(device, half), list(supernet.parameters())
    by_graphs = PathGraphs(supernet, weights, accelerator, alpha_steps=True)
    for step, path in enumerate([[0, 1, 2], [2, 0, 1], [0, 1, 2], [0, 0, 2], [1, 2, 0]]):
        batch = batch_of(step, device)

        def loss(batch, path=path):
            with accelerator.autocast():
                return batch.loss(supernet(batch.images, path))

        expected = [backward([batch], loss, weights, accelerator), *gradients_of(supernet)]
        assert_same([by_graphs.weight_step(batch, path), *gradients_of(supernet)], expected)
        factors = torch.rand(HYPER.shape, requires_grad=True)
        with accelerator.autocast():
            expected = alpha_loss(supernet, batch, factors, path)
        (slope,) = torch.autograd.grad(expected, factors)
        expected = expected.detach()  # nothing can be captured while another computation holds on to the weights
        found, by_factor = by_graphs.alpha_step(batch, path)
        assert torch.equal(found, expected)
        assert torch.equal(by_factor.to(factors), slope)
        with torch.no_grad():
            for weight in weights:  # as an optimizer does, whose changes the next step has to see
                weight.mul_(0.9)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_an_error_in_a_branch_of_a_capture_keeps_its_message():
    def fail():
        raise RuntimeError("out of memory")

    ones = torch.ones(2, device="cuda")
    functions = [lambda: ones + 1, fail, lambda: ones + 2]
    with pytest.raises(RuntimeError, match="out of memory"):
        CudaGraph(lambda: graphs._side_by_side(functions), CudaGraph.new_pool())


@pytest.mark.parametrize("normalization", ["none", "cell"])
def test_steps_of_a_network_are_the_same(device, normalization):
    accelerator, config = accelerator_of(device, False), NetworkConfig(final_channels=8, normalization=normalization)

    def values(with_graphs):
        torch.manual_seed(0)
        network = Network(Architecture((C, A)), SHAPE, 10, config).to(device)
        weights = list(network.parameters())
        by_graphs = NetworkGraphs(network, weights, accelerator)

        def step(batch):
            if with_graphs:
                return by_graphs.weight_step(batch)
            return backward([batch], lambda batch: batch.loss(network(batch.images)), weights, accelerator)

        found = []
        for seed in range(4):
            found += [step(batch_of(seed, device)), *gradients_of(network), *(b.clone() for b in network.buffers())]
        return found

    assert_same(values(True), values(False))


KINDS = {
    "marginal": {"batch_size": 16},
    "straight-through": {"batch_size": 16, "estimator": "straight-through", "paths": "alphas"},
    "few alpha images": {"batch_size": 64, "estimator": "straight-through", "paths": "alphas"},
    "shared": {"batch_size": 16, "share_weights": True},
}


@pytest.fixture
def used(no_gpu, monkeypatch):
    """A function, after whose call trainings use graphs."""

    def use():
        for module in (bilevel, scratch):
            monkeypatch.setattr(module, "usable", lambda *_: True)

    return use


def trainings():
    """Results of one training of each kind."""
    data, options = load_data(DataConfig(limit=300)), {"network": NetworkConfig(final_channels=8), "seed": 1}
    hyper, found = HyperArchitecture(((A, B, C), (C, A, B))), {}
    for name, config in KINDS.items():
        result = train_hyper_architecture(hyper, data, BilevelConfig(epochs=3, optimizer=FAST, **config), **options)
        found[name] = result.alpha_history.tolist(), result.accuracy, result.epochs
    config = ScratchConfig(epochs=2, batch_size=16, optimizer=FAST)
    result = train_from_scratch(hyper.architecture([2, 0]), data, config, **options)
    return found | {"scratch": (result.test_accuracy, result.epochs)}


@pytest.mark.filterwarnings("ignore:the supernet has hardly trained")
def test_trainings_are_the_same(used):
    expected, before = trainings(), Repeated.replays
    used()
    assert trainings() == expected
    assert Repeated.replays > before


def test_a_divergence_is_told_alike(used, digits):
    """Not in its first step, which captures the graphs."""
    huge = OptimizerConfig(learning_rate=1e20)
    config = BilevelConfig(epochs=2, batch_size=16, optimizer=huge)
    network = NetworkConfig(final_channels=8, normalization="none")

    def error():
        with pytest.raises(DivergedError) as caught:
            train_hyper_architecture(HYPER, digits, config, network=network)
        return str(caught.value)

    expected, before = error(), Repeated.replays
    assert "step 0" not in expected
    used()
    assert error() == expected
    assert Repeated.replays > before


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"device": "cpu"}, False),
        ({"processes": 2}, False),
        ({"operation": "tests.operations:shifted"}, False),
        ({"kind": "own"}, False),
        ({"switch": "false"}, False),
    ],
)
def test_when_graphs_are_used(changes, expected, monkeypatch):
    class Own(Dag):
        pass

    @build_cell.register
    def _(cell: Own, context):
        raise NotImplementedError

    monkeypatch.setenv("FADE_CUDA_GRAPHS", changes.get("switch", "true"))
    accelerator = SimpleNamespace(
        device=torch.device(changes.get("device", "cuda")), num_processes=changes.get("processes", 1)
    )
    network = NetworkConfig(operation=changes.get("operation", "convolution"))
    assert graphs.usable(accelerator, network, [Dag, Own] if changes.get("kind") else [Dag]) == expected


def test_a_switch_that_is_neither_true_nor_false_is_refused_before_anything_is_built(digits, monkeypatch):
    monkeypatch.setenv("FADE_CUDA_GRAPHS", "maybe")
    monkeypatch.delattr(scratch, "Network")
    with pytest.raises(InvalidInputError, match=r"expected true or false in .*FADE_CUDA_GRAPHS, got 'maybe'; unset it"):
        train_from_scratch(Architecture((A,)), digits, ScratchConfig(epochs=1))


class Graph:
    """Stands for a captured graph."""

    lost = False

    def reset(self):
        self.lost = True

    def capture_begin(self, *_, **__):
        pass

    def capture_end(self):
        raise RuntimeError("operation failed due to a previous error during capture")


def test_a_training_within_another_leaves_the_graphs_of_that_one(monkeypatch):
    accelerator = SimpleNamespace(device=torch.device("cuda"), free_memory=lambda: None)
    monkeypatch.setattr("fade_study.training.session.open_accelerator", lambda: accelerator)
    monkeypatch.setattr(torch.random, "fork_rng", nullcontext)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    outer, inner = Graph(), Graph()
    with session(0, 1):
        graphs.captured.append(outer)
        with session(0, 1):
            graphs.captured.append(inner)
        assert (outer.lost, inner.lost) == (False, True)
    assert outer.lost


class Stream:
    """Stands for a stream of a GPU; the class notes what waits, in order, and which stream is current."""

    device = torch.device("cuda:0")
    waits: ClassVar[list] = []
    current = None

    def __init__(self, name):
        self.name = name

    def wait_stream(self, other):
        Stream.waits.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def streams(monkeypatch):
    """Streams by number: those of captures and their branches, and the one that is current at first."""
    found = {branch: Stream(f"stream {branch}") for branch in range(4)} | {"current": Stream("current")}
    monkeypatch.setattr(graphs, "_capture_stream", lambda _, branch=0: found[branch])
    monkeypatch.setattr(Stream, "waits", [])
    monkeypatch.setattr(Stream, "current", found["current"])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: Stream.current)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: setattr(Stream, "current", stream))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(graphs, "captured", [])
    return found


def test_a_capture_whose_end_fails_gives_the_stream_back(streams):
    with pytest.raises(RuntimeError, match="error during capture"):
        CudaGraph(lambda: [], None)
    assert Stream.current is streams["current"]


@pytest.mark.parametrize("fails", [False, True])
def test_branches_begin_after_what_precedes_them_and_are_waited_for_even_after_an_error(streams, fails):
    def branch():
        if fails and Stream.current is streams[2]:
            raise RuntimeError("out of memory")
        Stream.waits.append(f"{Stream.current.name} runs")
        return Stream.current

    with pytest.raises(RuntimeError, match="out of memory") if fails else nullcontext():
        assert graphs._side_by_side([branch] * 3) == [streams[1], streams[2], streams[3]]
    assert Stream.current is streams["current"]
    names = ["stream 1", "stream 2", "stream 3"]
    assert Stream.waits == [
        *(f"{name} waits for current" for name in names),
        *(f"{name} runs" for name in names[: 1 if fails else 3]),
        *(f"current waits for {name}" for name in names),
    ]
