"""Cells as modules: DAGs of operations. Other kinds of cells come in by ``fade_study.builders.build_cell``."""

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

__all__ = ["CellContext", "DagCell", "build_module"]


SMALL_MAP = 256
"""Pixels of a map, up to which convolutions that are added are computed as one."""


@dataclass(frozen=True, slots=True)
class CellContext:
    """What a cell is told about the network around it."""

    channels: int
    """C, of its input and of its output."""
    kernel_size: int
    """Odd; padding keeps the map's size."""
    normalization: Normalization
    running_statistics: bool
    """Whether batch normalization keeps running averages: not in a supernet, where they would mix paths."""
    shared: nn.ModuleDict | None = None
    """Operations that all cells of a row share, by name; a cell takes what is there and adds what is not."""
    operation: str = "convolution"
    """On the edges of a DAG: a name for :func:`~fade_study.nn.build_operation`."""


def build_module(cell: Any, context: CellContext) -> nn.Module:
    """``build_cell``, where this process has the builder of the one that it trains for.

    Raises:
        InvalidInputError: (a ``ValueError``) in a worker that would build the cell in another way.
    """
    check_builder(type(cell))
    return build_cell(cell, context)


class DagCell(nn.Module):
    """A DAG of operations, which are convolutions in the paper (section 2.4, "Search Space").

    The input vertex hands ``x`` to all sources. Every other edge holds an operation; a vertex sums what its edges
    bring and applies ReLU, and so does the output vertex.
    """

    def __init__(self, dag: Dag, context: CellContext) -> None:
        super().__init__()
        self.output = dag.vertices + 1
        # Convolutions that are added can be computed as one; other operations are applied edge by edge.
        self._merges = context.operation == "convolution"
        # vertex -> (edges from sources, edges from other vertices), in topological order
        incoming: dict[int, tuple[list[str], list[tuple[int, str]]]] = {}
        self.operations = nn.ModuleDict()
        shared = nn.ModuleDict() if context.shared is None else context.shared
        for u, v in sorted(dag.augmented_edges[len(dag.sources) :], key=lambda edge: (edge[1], edge[0])):
            name = f"{u}_{'output' if v == self.output else v}"  # the output's number differs between sizes of Dags
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
            # All sources hold x, so their convolutions into v are one, with the sum of their weights: exact.
            edges = [(x, from_sources)] if from_sources else []
            edges += [(values[u], [name]) for u, name in from_others]
            value = self._convolve(edges) if self._merges else self._operate(edges)
            if str(v) in self.norms:
                value = self.norms[str(v)](value)
            # In place, since neither convolution nor normalization needs its own output; another operation might.
            values[v] = F.relu_(value) if self._merges else F.relu(value)
        return values[self.output]

    def _operate(self, edges: list[tuple[Tensor, list[str]]]) -> Tensor:
        """Sum of the edges' operations, each applied to its input ``(B, C, H, W)``."""
        return reduce(torch.add, [self.operations[name](x) for x, names in edges for name in names])

    def _convolve(self, edges: list[tuple[Tensor, list[str]]]) -> Tensor:
        """Sum of convolutions of inputs ``(B, C, H, W)``, each with the sum of the weights of some edges."""
        layers = [[cast(nn.Conv2d, self.operations[name]) for name in names] for _, names in edges]
        inputs = [x for x, _ in edges]
        weights = [reduce(torch.add, [layer.weight for layer in group]) for group in layers]  # (C, C, k, k) each
        bias = reduce(torch.add, [cast(Tensor, layer.bias) for group in layers for layer in group])  # (C,)
        if len(inputs) > 1 and inputs[0].shape[2:].numel() <= SMALL_MAP:
            # As one convolution of n·C channels to C, exact, too: small ones cost by the call more than by the channel.
            inputs, weights = [torch.cat(inputs, dim=1)], [torch.cat(weights, dim=1)]
        value = F.conv2d(inputs[0], weights[0], bias, padding="same")
        for x, weight in zip(inputs[1:], weights[1:], strict=True):
            value += F.conv2d(x, weight, padding="same")
        return value


@build_cell.register
def _(cell: Dag, context: CellContext) -> nn.Module:
    return DagCell(cell, context)
