"""CUDA graphs, with which a GPU repeats a step's hundreds of small kernels without waiting for the host to launch them.

Paths change with every step, but the cells of a supernet do not. So each cell, with the transition before it, becomes
two graphs, forward and backward, when a path first contains it; a step replays those of its path. A network from
scratch becomes two graphs as a whole. Losses and gradients are the same bit for bit as without graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn

from fade_study.builders import builders_of
from fade_study.config import OPERATIONS, NetworkConfig
from fade_study.nn import Network, Supernet
from fade_study.nn.supernet import inner_products
from fade_study.training.data import Minibatch

SWITCH = "FADE_CUDA_GRAPHS"
"""Environment variable that is false for trainings without CUDA graphs."""


def usable(accelerator: Accelerator, network: NetworkConfig, cell_types: Iterable[type]) -> bool:
    """Whether a training uses CUDA graphs: one process on a GPU, without ``FADE_CUDA_GRAPHS=false``.

    The user's own operations and cells run without them, since they may do what can't be captured.
    """
    return (
        accelerator.device.type == "cuda"
        and accelerator.num_processes == 1
        and network.operation in OPERATIONS
        and not builders_of(cell_types)
        and parse_flag_from_env(SWITCH, default=True)
    )


class Graph:
    """The work that a function gives to the GPU. Each replay overwrites the tensors that the function has returned.

    Graphs with the same ``pool`` of memory have to be replayed in the order in which they were captured.
    """

    def __init__(self, function: Callable[[], list[Tensor]], pool: Any) -> None:
        self._graph = torch.cuda.CUDAGraph()
        # Other threads of this process may use the GPU meanwhile.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self.results = function()

    @staticmethod
    def new_pool() -> Any:
        """A pool of memory for one or more graphs."""
        return torch.cuda.graph_pool_handle()

    @staticmethod
    def warm_up(function: Callable[[], None]) -> None:
        """Call a function before it is captured, since libraries initialize themselves in ways that can't be."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            function()
        torch.cuda.current_stream().wait_stream(stream)

    def replay(self) -> None:
        """Do the work again, with what the tensors that it reads hold now."""
        self._graph.replay()


class _Stage:
    """A differentiable function as two graphs.

    Args:
        function: Function of ``x``.
        x: Its input. It has to stay at the same address, as the other tensors here.
        parameters: Parameters of the function. ``backward.results`` are their gradients.
        y: Where ``forward`` leaves the function's value; its gradient in ``gradient_of_y``, or a scalar without any.
        gradient_of_x: Where ``backward`` leaves the gradient of ``x``, if it is needed.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        x: Tensor,
        parameters: Iterable[nn.Parameter],
        y: Tensor,
        gradient_of_y: Tensor | None,
        gradient_of_x: Tensor | None,
    ) -> None:
        self.parameters, self.y = list(parameters), y
        latest: list[Tensor] = []

        def forward() -> list[Tensor]:
            latest[:] = [function(x)]
            with torch.no_grad():
                y.copy_(latest[0])
            return [latest[0].detach()]

        def backward() -> list[Tensor]:
            inputs = self.parameters if gradient_of_x is None else [x, *self.parameters]
            gradients = list(torch.autograd.grad(latest[0], inputs, gradient_of_y))
            if gradient_of_x is not None:
                gradient_of_x.copy_(gradients.pop(0))
            return [_laid_out(g, p) for g, p in zip(gradients, self.parameters, strict=True)]

        pool = Graph.new_pool()  # a later stage must not use the memory of what this one keeps for its backward pass
        self.forward, self.backward = Graph(forward, pool), Graph(backward, pool)


class PathGraphs:
    """Steps of a supernet in training mode.

    Args:
        supernet: Supernet.
        accelerator: Accelerator, for its precision.
    """

    _batch: Minibatch

    def __init__(self, supernet: Supernet, accelerator: Accelerator) -> None:
        self._supernet, self._autocast = supernet, accelerator.autocast
        self._weights = list(supernet.parameters())  # once, since listing them takes as long as the rest of a step
        self._outputs: list[Tensor] = []
        """Images, and the output of each row for the path of this step."""
        self._gradients: list[Tensor | None] = [None]
        """Gradients of these; the images need none."""
        self._stages: dict[tuple[int, int], _Stage] = {}
        self._products: dict[int, Graph] = {}

    def weight_step(self, batch: Minibatch, path: Sequence[int]) -> Tensor:
        """Set the gradients of the weights along a path ``(d,)``, and return the loss ``()``."""
        self._load(batch)
        stages = [*(self._stage(row, column) for row, column in enumerate(path)), self._head()]
        for weight in self._weights:
            weight.grad = None
        return _step(stages)

    def alpha_step(self, batch: Minibatch, path: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The loss ``()`` along a path ``(d,)``, and its straight-through gradient ``(d, w)`` by the factors."""
        self._load(batch)
        width = len(self._supernet.cells(0))
        rows = [[self._stage(row, column) for column in range(width)] for row in range(len(path))]
        stages = [*(row[column] for row, column in zip(rows, path, strict=True)), self._head()]
        products = [self._product(row, stages) for row, stages in enumerate(rows)]
        for row, column in zip(rows, path, strict=True):
            for stage in (*row[:column], *row[column + 1 :], row[column]):  # the last one leaves its output
                stage.forward.replay()
        stages[-1].forward.replay()
        for stage, product in zip(reversed(stages[1:]), reversed(products), strict=True):
            stage.backward.replay()
            product.replay()
        return stages[-1].y.clone(), torch.stack([product.results[0] for product in products])

    def _load(self, batch: Minibatch) -> None:
        if self._outputs:
            _copy(batch, self._batch)
        else:
            self._batch = _clone(batch)
            self._outputs.append(self._batch.images)

    def _stage(self, row: int, column: int) -> _Stage:
        """The stage of a cell, which is captured when it is first needed."""
        if (row, column) not in self._stages:
            macro, cell = self._supernet.macro, self._supernet.cells(row)[column]

            def function(x: Tensor) -> Tensor:
                with self._autocast():
                    return macro.stage(x, row, cell)

            x, gradient_of_x = self._outputs[row], self._gradients[row]
            parameters = [*macro.transitions[row].parameters(), *cell.parameters()]
            value = _warm_up(function, x, parameters)
            if len(self._outputs) == row + 1:
                self._outputs.append(torch.zeros_like(value).requires_grad_())
                self._gradients.append(torch.zeros_like(value))
            y, gradient_of_y = self._outputs[row + 1], self._gradients[row + 1]
            self._stages[row, column] = _Stage(function, x, parameters, y, gradient_of_y, gradient_of_x)
        return self._stages[row, column]

    def _head(self) -> _Stage:
        """The stage of the loss, whose input is the output of the last row."""
        depth, macro = len(self._supernet.rows), self._supernet.macro
        if (depth, 0) not in self._stages:

            def loss(x: Tensor) -> Tensor:
                with self._autocast():
                    return self._batch.loss(macro.scores(x))

            x, parameters = self._outputs[depth], list(macro.classifier.parameters())
            value = _warm_up(loss, x, parameters)
            self._stages[depth, 0] = _Stage(loss, x, parameters, value, None, self._gradients[depth])
        return self._stages[depth, 0]

    def _product(self, row: int, stages: Sequence[_Stage]) -> Graph:
        """The straight-through gradients of a row's factors."""
        if row not in self._products:
            gradient, outputs = self._gradients[row + 1], [stage.forward.results[0] for stage in stages]
            assert gradient is not None
            self._products[row] = Graph(lambda: [inner_products(gradient, outputs)], Graph.new_pool())
        return self._products[row]


class NetworkGraphs:
    """Steps of a network in training mode. The arguments are those of :class:`PathGraphs`."""

    _batch: Minibatch

    def __init__(self, network: Network, accelerator: Accelerator) -> None:
        self._network, self._autocast = network, accelerator.autocast
        self._stages: list[_Stage] = []

    def weight_step(self, batch: Minibatch) -> Tensor:
        """Set the gradients of the weights, and return the loss ``()``."""
        if self._stages:
            _copy(batch, self._batch)
        else:
            self._batch = _clone(batch)
            self._stages.append(self._capture())
        return _step(self._stages)

    def _capture(self) -> _Stage:
        def loss(images: Tensor) -> Tensor:
            with self._autocast():
                return self._batch.loss(self._network(images))

        weights, buffers = list(self._network.parameters()), list(self._network.buffers())
        before = [buffer.clone() for buffer in buffers]
        value = _warm_up(loss, self._batch.images, weights)
        stage = _Stage(loss, self._batch.images, weights, value, None, None)
        for buffer, average in zip(buffers, before, strict=True):
            buffer.copy_(average)
        return stage


def _step(stages: Sequence[_Stage]) -> Tensor:
    """Set the gradients of a chain of stages, and return the last one's value."""
    for stage in stages:
        stage.forward.replay()
    for stage in reversed(stages):
        stage.backward.replay()
        for parameter, gradient in zip(stage.parameters, stage.backward.results, strict=True):
            parameter.grad = gradient
    return stages[-1].y.clone()


def _clone(batch: Minibatch) -> Minibatch:
    return Minibatch(batch.images.clone(), batch.labels.clone(), batch.size)


def _copy(batch: Minibatch, to: Minibatch) -> None:
    to.images.copy_(batch.images)
    to.labels.copy_(batch.labels)


def _warm_up(function: Callable[[Tensor], Tensor], x: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The value of a function, which runs forward and backward before it is captured."""
    values: list[Tensor] = []

    def run() -> None:
        value = function(x)
        torch.autograd.grad(value.sum(), parameters)
        values.append(value.detach())

    Graph.warm_up(run)
    return values[0]


def _laid_out(gradient: Tensor, parameter: nn.Parameter) -> Tensor:
    """A gradient with the strides of its parameter, as ``backward()`` leaves it and Adam's fused kernels need it."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
