"""The macro-architecture around and between the cells of a chain (sections 2.4 and 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from fade_study.config import NetworkConfig
from fade_study.exceptions import InvalidInputError
from fade_study.nn.cell import CellContext
from fade_study.nn.operation import convolution


@dataclass(frozen=True, slots=True)
class MacroPlan:
    """Channels and pooling along a chain of d cells."""

    channels: tuple[int, ...]
    """Number of channels of each row, ``(d,)``."""
    pooled: tuple[bool, ...]
    """Whether the map is halved before each row, ``(d,)``; never before row 0."""


def plan_macro(image_size: tuple[int, int], depth: int, config: NetworkConfig) -> MacroPlan:
    """Derive channels and pooling from the size of the images.

    Channels double from cell to cell up to ``config.final_channels``, with a minimum of ``config.min_channels``. The
    map is halved between cells as long as it keeps ``config.min_map`` pixels per side. If there are more transitions
    than halvings, the halvings are spread evenly over the depth.
    """
    if depth < 1 or min(image_size) < 1:
        raise InvalidInputError(f"expected a depth and image sizes of 1 or more, got {depth} and {image_size}")
    channels = tuple(max(config.min_channels, config.final_channels >> (depth - 1 - row)) for row in range(depth))
    transitions = depth - 1
    possible = 0
    while min(image_size) >> (possible + 1) >= config.min_map:
        possible += 1
    halvings = min(transitions, possible)
    # ceil(i · halvings / transitions) halvings come before row i, the first of them always at the first transition.
    made = [-(-row * halvings // transitions) if transitions else 0 for row in range(depth)]
    return MacroPlan(channels, tuple(row > 0 and made[row] > made[row - 1] for row in range(depth)))


class Macro(nn.Module):
    """Stem, transitions and classifier. ``forward`` receives the cells, which a supernet changes in each step."""

    def __init__(self, plan: MacroPlan, image_channels: int, classes: int, config: NetworkConfig) -> None:
        super().__init__()
        self.plan = plan
        self.config = config
        inputs = (image_channels, *plan.channels[:-1])
        kernels = (config.kernel_size, *(1 for _ in plan.channels[1:]))
        self.transitions = nn.ModuleList(
            convolution(c, channels, kernel) for c, channels, kernel in zip(inputs, plan.channels, kernels, strict=True)
        )
        self.classifier = nn.Linear(plan.channels[-1], classes)

    def context(self, row: int, *, running_statistics: bool, shared: nn.ModuleDict | None = None) -> CellContext:
        """Context of the cells of a row."""
        config = self.config
        return CellContext(
            self.plan.channels[row],
            config.kernel_size,
            config.normalization,
            running_statistics,
            shared,
            config.operation,
        )

    def forward(self, images: Tensor, cells: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
        """Class scores ``(B, classes)`` of images ``(B, image channels, H, W)``, with one cell per row."""
        x = images
        for row, cell in zip(range(len(self.transitions)), cells, strict=True):
            x = cell(self.cell_input(x, row))  # (B, C of this row, H, W)
        return self.scores(x)

    def cell_input(self, x: Tensor, row: int) -> Tensor:
        """Pooling and transition of the output of the row before a row, or of the images."""
        if self.plan.pooled[row]:
            x = F.max_pool2d(x, 2)  # (B, C, H/2, W/2)
        return self.transitions[row](x)

    def scores(self, x: Tensor) -> Tensor:
        """Class scores ``(B, classes)`` of the last row's output ``(B, C, H, W)``."""
        return self.classifier(x.mean(dim=(2, 3)))
