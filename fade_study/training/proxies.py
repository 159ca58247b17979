"""Zero-cost proxies: scores of untrained networks from one batch of images.

Each is a function of a network with its initial weights, images ``(B, C, H, W)`` and labels ``(B,)``. Higher scores are
better. A proxy may change the network's state. Definitions follow Abdelfattah et al. (2021), "Zero-cost proxies for
lightweight NAS", and the papers cited there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fade_study.nn import Network


def grad_norm(network: Network, images: Tensor, labels: Tensor) -> float:
    """Sum of the norms of the loss gradients of all parameters."""
    return float(sum(gradient.norm() for gradient in _gradients(network, images, labels)))


def snip(network: Network, images: Tensor, labels: Tensor) -> float:
    """Sum of |weight · gradient| of the loss (Lee et al. 2019)."""
    gradients = _gradients(network, images, labels)
    return float(sum((w.detach() * g).abs().sum() for w, g in zip(network.parameters(), gradients, strict=True)))


def synflow(network: Network, images: Tensor, labels: Tensor) -> float:
    """Logarithm of the sum of weight · gradient for an image of ones, with absolute weights (Tanaka et al. 2020).

    It is computed in double precision. Normalizations use their initial statistics, with which they do nothing.
    """
    network.double().eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.abs_()
    output = network(torch.ones_like(images[:1], dtype=torch.double)).sum()
    gradients = torch.autograd.grad(output, list(network.parameters()))
    return math.log(sum((w.detach() * g).sum() for w, g in zip(network.parameters(), gradients, strict=True)))


def jacob_cov(network: Network, images: Tensor, labels: Tensor) -> float:
    """Score of how little the images' input gradients correlate (Mellor et al. 2020, first version)."""
    network.train()
    images = images.clone().requires_grad_()
    (jacobian,) = torch.autograd.grad(network(images).sum(), images)
    values = np.linalg.eigvalsh(np.corrcoef(jacobian.flatten(1).double().numpy()))
    small = 1e-5
    return -float((np.log(values + small) + 1 / (values + small)).sum())


def naswot(network: Network, images: Tensor, labels: Tensor) -> float:
    """Log-determinant of the kernel of agreements between the images' ReLU activation codes (Mellor et al. 2021)."""
    network.train()
    with torch.no_grad(), _Activations() as activations:
        network(images)
    codes = torch.cat(activations.codes, dim=1).double()
    agreements = codes @ codes.T + (1 - codes) @ (1 - codes).T
    return float(torch.linalg.slogdet(agreements).logabsdet)


class _Activations(TorchFunctionMode):
    """Records the activation codes of all ReLUs, in cells of any type."""

    def __init__(self) -> None:
        super().__init__()
        self.codes: list[Tensor] = []
        """Whether each unit is active, ``(B, units)`` for each ReLU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in ("relu", "relu_"):
            self.codes.append((result > 0).flatten(1))
        return result


def _gradients(network: Network, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    network.train()
    return torch.autograd.grad(F.cross_entropy(network(images), labels), list(network.parameters()))


PROXIES: dict[str, Callable[[Network, Tensor, Tensor], float]] = {
    function.__name__: function for function in (grad_norm, snip, synflow, jacob_cov, naswot)
}
"""All proxies by name."""
