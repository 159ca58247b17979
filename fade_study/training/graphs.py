"""CUDA graphs, with which a GPU repeats a step's hundreds of small kernels without waiting for the host to launch them.

Paths change with every step, but the cells of a supernet do not. So each cell, with the transition before it, becomes
two graphs, forward and backward, when a path first contains it; a step replays those of its path. For alpha steps, the
outputs of all cells of a row are one more graph, in which the cells run side by side, and each cell has one more way
back, which computes no gradients of weights. A network from scratch becomes two graphs as a whole. Losses and gradients
are the same bit for bit as without graphs.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn

from fade_study.builders import builders_of
from fade_study.config import OPERATIONS, NetworkConfig
from fade_study.exceptions import InvalidInputError
from fade_study.nn import Network, Supernet
from fade_study.nn.supernet import inner_products
from fade_study.training.data import Minibatch

SWITCH = "FADE_CUDA_GRAPHS"
"""Environment variable that is false for trainings without CUDA graphs."""
captured: list[torch.cuda.CUDAGraph] = []
"""Graphs of the running training, after those of a training within which it runs."""


def usable(accelerator: Accelerator, network: NetworkConfig, cell_types: Iterable[type]) -> bool:
    """Whether a training uses CUDA graphs: one process on a GPU, without ``FADE_CUDA_GRAPHS=false``.

    The user's own operations and cells run without them, since they may do what can't be captured.
    """
    return (
        accelerator.device.type == "cuda"
        and accelerator.num_processes == 1
        and network.operation in OPERATIONS
        and not builders_of(cell_types)
        and switched_on()
    )


def switched_on() -> bool:
    """The value of ``FADE_CUDA_GRAPHS``; an ``InvalidInputError`` for one that is neither true nor false."""
    try:
        return parse_flag_from_env(SWITCH, default=True)
    except ValueError:
        raise InvalidInputError(
            f"expected true or false in the environment variable {SWITCH}, got {os.environ[SWITCH]!r}; unset it, or "
            "set it to false for trainings without CUDA graphs"
        ) from None


class CudaGraph:
    """The work that a function gives to the GPU. Each replay overwrites the tensors that the function has returned.

    Graphs with the same ``pool`` of memory have to be replayed in the order in which they were captured.
    """

    def __init__(self, function: Callable[[], list[Tensor]], pool: Any) -> None:
        self._graph = torch.cuda.CUDAGraph()
        captured.append(self._graph)
        collects = gc.isenabled()
        gc.disable()  # an older graph that is collected meanwhile would make the capture fail
        try:
            stream = _capture_stream(torch.cuda.current_device())
            with (
                torch.cuda.stream(torch.cuda.current_stream()),  # comes back even if the end of the capture fails
                # Other threads of this process may use the GPU meanwhile.
                torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
            ):
                self.results = function()
        finally:
            if collects:
                gc.enable()

    @staticmethod
    def new_pool() -> Any:
        """A pool of memory for one or more graphs."""
        return torch.cuda.graph_pool_handle()

    def replay(self) -> None:
        """Do the work again, with what the tensors that it reads hold now."""
        self._graph.replay()


@cache
def _capture_stream(device: int, branch: int = 0) -> torch.cuda.Stream:
    """The stream of all captures on a GPU, or of their n-th branches.

    There is only one of each, since libraries never give back what they reserve for a stream.
    """
    return torch.cuda.Stream(device)


def _side_by_side(functions: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
    """Results of functions, which a GPU computes at the same time while they are captured.

    They must not share what one of them computes, so autocast has to run without its cache.
    """
    if not torch.cuda.is_available() or not torch.cuda.is_current_stream_capturing():
        return [function() for function in functions]
    main = torch.cuda.current_stream()
    streams = [_capture_stream(torch.cuda.current_device(), 1 + i) for i in range(len(functions))]
    results = []
    for stream in streams:
        stream.wait_stream(main)
    try:
        for function, stream in zip(functions, streams, strict=True):
            with torch.cuda.stream(stream):
                results.append(function())
    finally:  # otherwise the end of the capture would hide an error
        for stream in streams:
            main.wait_stream(stream)
    return results


def release(first: int) -> None:
    """Give back the memory of the graphs from a number on, at the end of a training, also of one that has failed."""
    while len(captured) > first:
        captured.pop().reset()


class _Stage:
    """A differentiable function as two graphs, or three.

    ``forward`` has to be replayed before each replay of another one.

    Args:
        function: Function of ``x``.
        x: Its input. It has to stay at the same address, as the other tensors here.
        parameters: Parameters of the function. ``backward.results`` are their gradients.
        y: Where ``forward`` leaves the function's value.
        gradient_of_y: Where ``backward`` finds the gradient of ``y``; None if ``y`` is the loss.
        gradient_of_x: Where ``backward`` leaves the gradient of ``x``; None if it is not needed.
        input_only: Whether a third graph is needed, ``backward_to_x``, that computes the gradient of ``x`` alone.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        x: Tensor,
        parameters: Iterable[nn.Parameter],
        y: Tensor,
        gradient_of_y: Tensor | None,
        gradient_of_x: Tensor | None,
        *,
        input_only: bool = False,
    ) -> None:
        self.parameters, self.y = list(parameters), y
        latest: list[Tensor] = []

        def forward() -> list[Tensor]:
            latest[:] = [function(x)]
            with torch.no_grad():
                y.copy_(latest[0])
            return []

        def backward() -> list[Tensor]:
            inputs = self.parameters if gradient_of_x is None else [x, *self.parameters]
            gradients = list(torch.autograd.grad(latest[0], inputs, gradient_of_y))
            if gradient_of_x is not None:
                gradient_of_x.copy_(gradients.pop(0))
            return _as_backward_leaves_them(gradients, self.parameters)

        def backward_to_x() -> list[Tensor]:
            assert gradient_of_x is not None
            gradient_of_x.copy_(torch.autograd.grad(latest[0], x, gradient_of_y, retain_graph=True)[0])
            return []

        # A pool of its own, since other stages must not use the memory of what this one keeps for its backward pass.
        pool = CudaGraph.new_pool()
        self.forward = CudaGraph(forward, pool)
        # This one has to be captured before ``backward``, which frees what ``forward`` has kept.
        self.backward_to_x = CudaGraph(backward_to_x, pool) if input_only and gradient_of_x is not None else None
        self.backward = CudaGraph(backward, pool)


class _FixedBatch:
    """A batch at addresses of its own, as large as the first one."""

    def __init__(self) -> None:
        self.batch: Minibatch | None = None

    def load(self, batch: Minibatch) -> Minibatch:
        """Copy a batch there."""
        if self.batch is None:
            self.batch = Minibatch(batch.images.clone(), batch.labels.clone(), batch.size)
        else:
            self.batch.images.copy_(batch.images)
            self.batch.labels.copy_(batch.labels)
        return self.batch


class PathGraphs:
    """Steps of a supernet in training mode, all on batches of the same size.

    Args:
        supernet: Supernet.
        weights: Its parameters, whose listing takes as long as the rest of a step.
        accelerator: Accelerator, for its precision.
        alpha_steps: Whether alpha steps are taken, too.
    """

    def __init__(
        self, supernet: Supernet, weights: Sequence[nn.Parameter], accelerator: Accelerator, *, alpha_steps: bool
    ) -> None:
        self._supernet, self._weights, self._autocast = supernet, weights, accelerator.autocast
        self._alpha_steps = alpha_steps
        self._fixed = _FixedBatch()
        self._outputs: list[Tensor] = []
        """Images, and the output of each row for the path of this step."""
        self._gradients: list[Tensor | None] = [None]
        """Gradients of these; the images need none."""
        self._stages: dict[tuple[int, int], _Stage] = {}
        self._rows: dict[int, tuple[CudaGraph, CudaGraph]] = {}

    def weight_step(self, batch: Minibatch, path: Sequence[int]) -> Tensor:
        """Set the gradients of the weights along a path ``(d,)``, and return the loss ``()``."""
        stages = self._chain(batch, path)
        for weight in self._weights:
            weight.grad = None
        return _step(stages)

    def alpha_step(self, batch: Minibatch, path: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The loss ``()`` along a path ``(d,)``, and its straight-through gradient ``(d, w)`` by the factors.

        The gradients of the weights that the last weight step has set may be overwritten.
        """
        stages = self._chain(batch, path)
        rows = [self._row(row) for row in range(len(path))]
        for stage, (outputs, _) in zip(stages[:-1], rows, strict=True):
            outputs.replay()
            stage.forward.replay()
        stages[-1].forward.replay()
        for stage, (_, product) in zip(reversed(stages[1:]), reversed(rows), strict=True):
            assert stage.backward_to_x is not None
            stage.backward_to_x.replay()
            product.replay()
        return stages[-1].y.clone(), torch.stack([product.results[0] for _, product in rows])

    def _chain(self, batch: Minibatch, path: Sequence[int]) -> list[_Stage]:
        """The stages of a path, which are captured when they are first needed; they begin with this batch."""
        self._outputs[:1] = [self._fixed.load(batch).images]
        return [*(self._stage(row, column) for row, column in enumerate(path)), self._head()]

    def _stage(self, row: int, column: int) -> _Stage:
        """The stage of a cell with the transition before it."""
        if (row, column) not in self._stages:
            macro, cell = self._supernet.macro, self._supernet.cells(row)[column]

            def function(x: Tensor) -> Tensor:
                with self._autocast():
                    return cell(macro.cell_input(x, row))

            x, gradient_of_x = self._outputs[row], self._gradients[row]
            parameters = [*macro.transitions[row].parameters(), *cell.parameters()]
            value = _warm_up(function, x, parameters)
            if len(self._outputs) == row + 1:  # the row's first stage
                self._outputs.append(torch.zeros_like(value).requires_grad_())
                self._gradients.append(torch.zeros_like(value))
            y, gradient_of_y = self._outputs[row + 1], self._gradients[row + 1]
            self._stages[row, column] = _Stage(
                function, x, parameters, y, gradient_of_y, gradient_of_x, input_only=self._alpha_steps
            )
        return self._stages[row, column]

    def _head(self) -> _Stage:
        """The stage of the loss, whose input is the output of the last row."""
        depth, macro = len(self._supernet.rows), self._supernet.macro
        if (depth, 0) not in self._stages:

            def loss(x: Tensor) -> Tensor:
                assert self._fixed.batch is not None
                with self._autocast():
                    return self._fixed.batch.loss(macro.scores(x))

            x, parameters = self._outputs[depth], list(macro.classifier.parameters())
            value = _warm_up(loss, x, parameters)
            self._stages[depth, 0] = _Stage(
                loss, x, parameters, value, None, self._gradients[depth], input_only=self._alpha_steps
            )
        return self._stages[depth, 0]

    def _row(self, row: int) -> tuple[CudaGraph, CudaGraph]:
        """The outputs of all cells of a row, and then the straight-through gradients of its factors.

        A stage of the row has to be there before.
        """
        if row not in self._rows:
            macro, x, gradient = self._supernet.macro, self._outputs[row], self._gradients[row + 1]
            assert gradient is not None

            @torch.no_grad()
            def outputs() -> list[Tensor]:
                with self._autocast():
                    cell_input = macro.cell_input(x, row)
                    return _side_by_side([partial(cell, cell_input) for cell in self._supernet.cells(row)])

            inner_products(gradient, outputs())  # warms up
            pool = CudaGraph.new_pool()
            forward = CudaGraph(outputs, pool)
            self._rows[row] = forward, CudaGraph(lambda: [inner_products(gradient, forward.results)], pool)
        return self._rows[row]


class NetworkGraphs:
    """Steps of a network in training mode, all on batches of the same size; arguments as in :class:`PathGraphs`."""

    def __init__(self, network: Network, weights: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
        self._network, self._weights, self._autocast = network, weights, accelerator.autocast
        self._fixed = _FixedBatch()
        self._stage: _Stage | None = None

    def weight_step(self, batch: Minibatch) -> Tensor:
        """Set the gradients of the weights, and return the loss ``()``."""
        fixed = self._fixed.load(batch)
        if self._stage is None:
            self._stage = self._capture(fixed)
        return _step([self._stage])

    def _capture(self, batch: Minibatch) -> _Stage:
        def loss(images: Tensor) -> Tensor:
            with self._autocast():
                return batch.loss(self._network(images))

        buffers = list(self._network.buffers())
        before = [buffer.clone() for buffer in buffers]
        value = _warm_up(loss, batch.images, self._weights)
        stage = _Stage(loss, batch.images, self._weights, value, None, None)
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


def _warm_up(function: Callable[[Tensor], Tensor], x: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The value of a function, which is called before it is captured: libraries can't be initialized in a capture."""
    value = function(x)
    torch.autograd.grad(value.sum(), [x, *parameters] if x.requires_grad else parameters)
    return value.detach()


def _as_backward_leaves_them(gradients: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Gradients with the strides of their parameters, as Adam's fused kernels need them, and each with its own memory.

    Weights that are summed have one gradient, and those of merged convolutions have slices of a larger one.
    """
    own: list[Tensor] = []
    for gradient, parameter in zip(gradients, parameters, strict=True):
        taken = any(gradient.data_ptr() == other.data_ptr() for other in own)
        fits = gradient.stride() == parameter.stride() and not taken
        own.append(gradient if fits else torch.empty_like(parameter).copy_(gradient))
    return own
