"""The network of one architecture, for training from scratch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fade_study.architecture import Architecture
from fade_study.config import NetworkConfig
from fade_study.nn.cell import build_module
from fade_study.nn.macro import Macro, plan_macro


class Network(nn.Module):
    """A chain of cells.

    Args:
        architecture: Architecture of d cells.
        image_shape: Shape of the images, ``(image channels, H, W)``.
        classes: Number of classes.
        config: Settings of macro-architecture and normalization.
    """

    def __init__(
        self, architecture: Architecture, image_shape: tuple[int, int, int], classes: int, config: NetworkConfig
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.macro = Macro(plan_macro((height, width), architecture.depth, config), channels, classes, config)
        self.cells = nn.ModuleList(
            build_module(cell, self.macro.context(row, running_statistics=True))
            for row, cell in enumerate(architecture)
        )
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, images: Tensor) -> Tensor:
        """``(B, image channels, H, W) -> (B, classes)``."""
        return self.macro(images, list(self.cells))


def parameters(module: nn.Module) -> int:
    """Number of trainable parameters; shared ones count once."""
    return sum(parameter.numel() for parameter in module.parameters())


def flops(network: Network, image_shape: tuple[int, int, int]) -> int:
    """Floating point operations of the forward pass of one image; a multiply-add counts as two."""
    from torch.utils.flop_counter import FlopCounterMode

    training = network.training
    network.eval()
    device = next(network.parameters()).device
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *image_shape, device=device))
    network.train(training)
    return counter.get_total_flops()
