"""Cells as modules: DAGs of operations. Other cell types register with ``fade_study.builders.build_cell``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fade_study.builders import build_cell, check_builder
from fade_study.cells import Dag
from fade_study.config import Normalization
from fade_study.nn.operation import build_operation

SMALL_MAP = 256
"""Largest number of pixels of a map for which a sum of convolutions is computed as one convolution."""


@dataclass(frozen=True, slots=True)
class CellContext:
    """What a cell needs to know about the network around it."""

    channels: int
    """Number of channels C of its input and of its output."""
    kernel_size: int
    """Odd kernel size; padding keeps the size of the map."""
    normalization: Normalization
    running_statistics: bool
    """Whether batch normalization keeps running averages; False in a supernet, where they would mix paths."""
    shared: nn.ModuleDict | None = None
    """Operations by name that all cells of a row share; a cell uses existing ones and adds those that are missing."""
    operation: str = "convolution"
    """Operation on the edges of a DAG, a name for :func:`~fade_study.nn.build_operation`."""


def build_module(cell: Any, context: CellContext) -> nn.Module:
    """Build a cell after checking that this process has the same builder as the one that submitted the task.

    Raises:
        InvalidInputError: (a ``ValueError``) in a worker whose builder differs.
    """
    check_builder(type(cell))
    return build_cell(cell, context)


class DagCell(nn.Module):
    """A DAG of operations, which are convolutions in the paper (section 2.4, "Search Space").

    The input vertex passes ``x`` to all sources. Every other edge applies an operation. Each vertex, including the
    output vertex, sums the results of its incoming edges and applies ReLU.
    """

    def __init__(self, dag: Dag, context: CellContext) -> None:
        super().__init__()
        self.output = dag.vertices + 1
        # A sum of convolutions can be computed as one convolution; other operations are applied edge by edge.
        self._merges = context.operation == "convolution"
        # vertex -> (edges from sources, edges from other vertices), in topological order
        incoming: dict[int, tuple[list[str], list[tuple[int, str]]]] = {}
        self.operations = nn.ModuleDict()
        shared = nn.ModuleDict() if context.shared is None else context.shared
        for u, v in sorted(dag.augmented_edges[len(dag.sources) :], key=lambda edge: (edge[1], edge[0])):
            name = f"{u}_{'output' if v == self.output else v}"  # the output's number depends on the size of the Dag
            if name not in shared:
                shared[name] = build_operation(context.operation, context.channels, context.kernel_size)
            self.operations[name] = shared[name]
            from_sources, from_others = incoming.setdefault(v, ([], []))
            if u in dag.sources:
                from_sources.append(name)
            else:
                from_others.append((u, name))
        self._incoming = incoming
        normalized = {"none": (), "cell": (self.output,), "vertex": tuple(incoming)}[context.normalization]
        self.norms = nn.ModuleDict(
            {
                str(v): nn.BatchNorm2d(context.channels, track_running_stats=context.running_statistics)
                for v in normalized
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, C, H, W)``."""
        values: dict[int, Tensor] = {}
        for v, (from_sources, from_others) in self._incoming.items():
            # All sources pass on x, so one convolution with the sum of their weights into v gives the exact result.
            edges = [(x, from_sources)] if from_sources else []
            edges += [(values[u], [name]) for u, name in from_others]
            value = self._convolve(edges) if self._merges else self._operate(edges)
            if str(v) in self.norms:
                value = self.norms[str(v)](value)
            # In place, because neither convolution nor normalization needs its output; other operations might.
            values[v] = F.relu_(value) if self._merges else F.relu(value)
        return values[self.output]

    def _operate(self, edges: list[tuple[Tensor, list[str]]]) -> Tensor:
        """Sum of the operations of edges, each applied to its input ``(B, C, H, W)``."""
        return reduce(torch.add, [self.operations[name](x) for x, names in edges for name in names])

    def _convolve(self, edges: list[tuple[Tensor, list[str]]]) -> Tensor:
        """Sum of convolutions of inputs ``(B, C, H, W)``, each with the summed weights of its edges."""
        layers = [[cast(nn.Conv2d, self.operations[name]) for name in names] for _, names in edges]
        inputs = [x for x, _ in edges]
        weights = [reduce(torch.add, [layer.weight for layer in group]) for group in layers]  # (C, C, k, k) each
        bias = reduce(torch.add, [cast(Tensor, layer.bias) for group in layers for layer in group])  # (C,)
        if len(inputs) > 1 and inputs[0].shape[2:].numel() <= SMALL_MAP:
            # One convolution from n·C to C channels is exact, too; on small maps, calls cost more than channels.
            inputs, weights = [torch.cat(inputs, dim=1)], [torch.cat(weights, dim=1)]
        value = F.conv2d(inputs[0], weights[0], bias, padding="same")
        for x, weight in zip(inputs[1:], weights[1:], strict=True):
            value += F.conv2d(x, weight, padding="same")
        return value


@build_cell.register
def _(cell: Dag, context: CellContext) -> nn.Module:
    return DagCell(cell, context)
