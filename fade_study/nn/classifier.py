"""A trained network that takes images as they are stored."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fade_study.nn.network import Network


class Classifier(nn.Module):
    """A trained network with the normalization of its images, in evaluation mode.

    Args:
        network: Network of an architecture.
        state: State of the trained network, such as :attr:`fade_study.training.ScratchResult.state`.
        mean: Mean ``(C, 1, 1)`` of each channel of the images that it was trained on.
        deviation: Standard deviation ``(C, 1, 1)`` of each channel.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: Network, state: Mapping[str, Tensor], mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        network.load_state_dict(state)
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Class probabilities ``(B, classes)`` of images ``(B, C, H, W)`` with the values of the stored images."""
        # In double precision, as the training images were standardized.
        standardized = ((images - self.mean) / self.deviation).float()
        return self.network(standardized.contiguous(memory_format=torch.channels_last)).softmax(dim=1)
