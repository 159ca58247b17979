"""The supernet of a hyper-architecture: w^d networks that share their weights (section 2.2).

Two savings leave the estimator exactly as it is:

- A weight step runs the sampled path only, because hard Gumbel-softmax gives every other cell the factor 0.
- An alpha step computes the outputs of all cells, because the straight-through gradient of a factor is the inner
  product of the loss gradient and its cell's output. It backpropagates through the sampled cells only, because the
  others are multiplied by 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fade_study.architecture import HyperArchitecture
from fade_study.config import NetworkConfig
from fade_study.nn.cell import build_module
from fade_study.nn.macro import Macro, plan_macro


class Supernet(nn.Module):
    """All cells of a hyper-architecture in one macro-architecture.

    Args:
        hyper_architecture: Hyper-architecture of d rows of w cells.
        image_shape: Shape of the images, ``(image channels, H, W)``.
        classes: Number of classes.
        config: Settings of macro-architecture and normalization.
        share_weights: Whether the cells of a row share the operation on edge (u, v) (section 2.2).
    """

    def __init__(
        self,
        hyper_architecture: HyperArchitecture,
        image_shape: tuple[int, int, int],
        classes: int,
        config: NetworkConfig,
        *,
        share_weights: bool = False,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        depth = hyper_architecture.depth
        self.macro = Macro(plan_macro((height, width), depth, config), channels, classes, config)
        self.rows = nn.ModuleList()
        for row, cells in enumerate(hyper_architecture.rows):
            shared = nn.ModuleDict() if share_weights else None
            context = self.macro.context(row, running_statistics=False, shared=shared)
            self.rows.append(nn.ModuleList(build_module(cell, context) for cell in cells))
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, images: Tensor, path: Sequence[int], factors: Tensor | None = None) -> Tensor:
        """Class scores ``(B, classes)`` of images ``(B, image channels, H, W)`` along a path.

        Args:
            images: Batch of images.
            path: One column per row, ``(d,)``.
            factors: Soft Gumbel-softmax sample ``(d, w)`` whose largest entries are the path. With it, the result
                has the straight-through gradient of the factors; the scores are the same.
        """
        if factors is None:
            cells = [self.cells(row)[column] for row, column in enumerate(path)]
        else:
            cells = [partial(_mixed, self.cells(row), column, factors[row]) for row, column in enumerate(path)]
        return self.macro(images, cells)

    def along(self, images: Tensor, paths: Sequence[Sequence[int]]) -> Iterator[tuple[int, Tensor]]:
        """Index and class scores ``(B, classes)`` of each of the paths ``(n, d)``, the same as from ``forward``.

        The paths come in the order of their columns, so that cells that several of them begin with run only once.
        """
        depth = len(self.rows)
        known: Sequence[int] = ()
        inputs = [self.macro.cell_input(images, 0)]  # of the cell of each row along the known path, and its output
        for i in sorted(range(len(paths)), key=lambda i: tuple(paths[i])):
            shared = next((row for row in range(len(known)) if known[row] != paths[i][row]), len(known))
            del inputs[shared + 1 :]
            for row in range(shared, depth):
                x = self.cells(row)[paths[i][row]](inputs[row])
                inputs.append(self.macro.cell_input(x, row + 1) if row + 1 < depth else x)
            known = paths[i]
            yield i, self.macro.scores(inputs[depth])

    def cells(self, row: int) -> nn.ModuleList:
        """The w candidate cells of a row."""
        cells = self.rows[row]
        assert isinstance(cells, nn.ModuleList)
        return cells


def _mixed(cells: nn.ModuleList, column: int, factors: Tensor, x: Tensor) -> Tensor:
    """Output of one cell of a row, with the gradient of a hard sample that multiplies the outputs of all cells."""
    with torch.no_grad():
        others = [None if j == column else cell(x) for j, cell in enumerate(cells)]
    sampled = cells[column](x)
    outputs = [sampled if output is None else output for output in others]
    return _HardSample.apply(factors, column, *outputs)  # pyright: ignore[reportReturnType]


class _HardSample(torch.autograd.Function):
    """sum_j hard_j · output_j for a one-hot ``hard``, whose gradient goes to the soft factors."""

    @staticmethod
    def forward(ctx: Any, factors: Tensor, column: int, *outputs: Tensor) -> Tensor:
        ctx.column = column
        ctx.factors_like = factors.new_empty(0)
        ctx.save_for_backward(*outputs)
        return outputs[column].view_as(outputs[column])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        outputs: tuple[Tensor, ...] = ctx.saved_tensors
        products = inner_products(gradient, outputs)
        to_outputs = [gradient if j == ctx.column else None for j in range(len(outputs))]
        return (products.to(ctx.factors_like), None, *to_outputs)


def inner_products(gradient: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    """Straight-through gradients ``(w,)`` of a row's factors, of the gradient and the outputs ``(B, C, H, W)``."""
    flat = _flat(gradient)
    return torch.stack([torch.dot(flat, _flat(output)) for output in outputs])


def _flat(x: Tensor) -> Tensor:
    """All entries of ``(B, C, H, W)`` in channels-last order, which needs no copy for channels-last tensors.

    They have at least single precision, because a dot product of bfloat16 would be summed in bfloat16.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32)).permute(0, 2, 3, 1).reshape(-1)
