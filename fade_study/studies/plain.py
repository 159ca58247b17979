"""Plain computations with which the benchmark compares those of a supernet, and tests their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fade_study import Architecture, Dag
from fade_study.nn import DagCell, Network, Supernet


def all_branches(supernet: Supernet, images: Tensor, factors: Tensor) -> Tensor:
    """Class scores ``(B, classes)`` of images by plain DARTS, with the soft sample ``(d, w)`` as factors.

    Every cell runs, and its output is multiplied by its hard factor.
    """
    hard = torch.zeros_like(factors).scatter_(1, factors.argmax(dim=1, keepdim=True), 1.0)
    hard = hard - factors.detach() + factors  # straight-through

    def mixed(row: int) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.stack([hard[row, j] * cell(x) for j, cell in enumerate(supernet.cells(row))]).sum(dim=0)

    return supernet.macro(images, [mixed(row) for row in range(len(supernet.rows))])


def edge_by_edge(network: Network, architecture: Architecture, images: Tensor) -> Tensor:
    """Class scores ``(B, classes)`` of a network as the paper has it, with one convolution for every edge."""
    cells = zip(cast(Any, architecture), cast(Any, network.cells), strict=True)
    return network.macro(images, [partial(plain_cell, dag, cell) for dag, cell in cells])


def plain_cell(dag: Dag, cell: DagCell, x: Tensor) -> Tensor:
    """Output ``(B, C, H, W)`` of a cell for an input ``(B, C, H, W)``, computed edge by edge."""
    values = dict.fromkeys(dag.sources, x)
    for v in (*range(dag.vertices), cell.output):
        edges = [u for u, target in dag.augmented_edges if target == v and u != dag.vertices]
        if edges:
            names = [f"{u}_{'output' if v == cell.output else v}" for u in edges]
            value = reduce(torch.add, [cell.operations[name](values[u]) for u, name in zip(edges, names, strict=True)])
            values[v] = F.relu(cell.norms[str(v)](value) if str(v) in cell.norms else value)
    return values[cell.output]


class _Recorder(TorchFunctionMode):
    """Records the arguments of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.conv2d:
            self.calls.append(tuple(tensor.detach() for tensor in args[:3]))
        return func(*args, **(kwargs or {}))


def arithmetic_floor(supernet: Supernet, images: Tensor, path: Sequence[int]) -> Callable[[], None]:
    """A function that runs only the convolutions of an alpha step: all forward, and those on the path backward."""
    with torch.no_grad():
        with _Recorder() as everything:
            supernet(images, path, torch.zeros(len(supernet.rows), len(supernet.cells(0))))
        with _Recorder() as on_path:
            supernet(images, path)
    gradients = [torch.ones_like(F.conv2d(*call, padding="same")) for call in on_path.calls]

    def run() -> None:
        with torch.no_grad():
            for call in everything.calls:
                F.conv2d(*call, padding="same")
            for (x, weight, _), gradient in zip(on_path.calls, gradients, strict=True):
                pad = [size // 2 for size in weight.shape[2:]]
                torch.ops.aten.convolution_backward(
                    gradient, x, weight, None, [1, 1], pad, [1, 1], False, [0, 0], 1, [True, False, False]
                )

    return run
