"""What lies on an edge of a cell: a convolution, a separable one, or an operation of one's own."""

from __future__ import annotations

import math
from importlib import import_module
from typing import cast

import torch
from torch import Tensor, nn

from fade_study.config import NetworkConfig
from fade_study.exceptions import InvalidInputError

__all__ = ["build_operation", "check_operation", "convolution"]


def build_operation(name: str, channels: int, kernel_size: int) -> nn.Module:
    """A new operation with initial weights, ``(B, C, H, W) -> (B, C, H, W)``.

    Args:
        name: ``convolution``; ``separable``; or ``package.module:function`` of one's own, where
            ``function(channels: int, kernel_size: int)`` returns the module, initialized as it likes. The name is all
            that other processes are told, and all that a result is found again by: give an operation that has changed
            another name. A supernet is never in evaluation mode, so that dropout would go on when its paths are
            compared.
        channels: C, of its input and of its output.
        kernel_size: odd.

    Raises:
        InvalidInputError: (a ``ValueError``) for a name that can't be imported; and for a function that fails, returns
            no module, or one that fails, changes the shape, or changes its input, which other edges share.
    """
    if name == "convolution":
        return convolution(channels, channels, kernel_size)
    if name == "separable":
        return _separable(channels, kernel_size)
    return _own(name, channels, kernel_size)


def check_operation(network: NetworkConfig) -> None:
    """Raise where a network's operation can't be built, as :func:`build_operation` does: before any run begins."""
    build_operation(network.operation, network.final_channels, network.kernel_size)


def convolution(inputs: int, outputs: int, kernel_size: int) -> nn.Conv2d:
    """A convolution that keeps the map's size, with Kaiming initialization (section 3)."""
    layer = nn.Conv2d(inputs, outputs, kernel_size, padding="same")
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(cast(Tensor, layer.bias))
    return layer


def _separable(channels: int, kernel_size: int) -> nn.Module:
    """A convolution of each channel by itself, then one over all channels of each pixel: C·k² + C² + C weights."""
    # without a bias, which would only add to that of the second
    depthwise = nn.Conv2d(channels, channels, kernel_size, padding="same", groups=channels, bias=False)
    nn.init.kaiming_normal_(depthwise.weight, nonlinearity="relu")
    pointwise = nn.Conv2d(channels, channels, 1)
    nn.init.kaiming_normal_(pointwise.weight, nonlinearity="linear")  # no ReLU lies between the two
    nn.init.zeros_(cast(Tensor, pointwise.bias))
    return nn.Sequential(depthwise, pointwise)


def _own(name: str, channels: int, kernel_size: int) -> nn.Module:
    """An operation of one's own, tried on a small map that is not a square."""
    module, _, function = name.partition(":")
    try:
        make = getattr(import_module(module), function)
    except Exception as error:  # whatever its module does
        raise InvalidInputError(
            "network.operation: expected convolution, separable or package.module:function that can be imported, got "
            f"{name!r} ({type(error).__name__}: {error}); install its package, or start all processes in its folder"
        ) from error
    shape = (1, channels, kernel_size, kernel_size + 1)
    x = torch.linspace(-1, 1, math.prod(shape)).reshape(shape)
    before = x.clone()

    def refused(got: str) -> InvalidInputError:
        return InvalidInputError(
            f"network.operation: expected {name}(channels={channels}, kernel_size={kernel_size}) to return a module "
            f"that maps a tensor {shape} to another {shape} and leaves its input as it is, got {got}; correct it"
        )

    try:
        operation = make(channels, kernel_size)
        if not isinstance(operation, nn.Module):
            raise TypeError(f"a result of type {type(operation).__name__}, which is no module")
        with torch.no_grad():
            output = operation.eval()(x)  # or it would count towards running averages
    except Exception as error:
        raise refused(f"{type(error).__name__}: {error}") from error
    if not isinstance(output, Tensor) or output.shape != x.shape:
        raise refused(str(tuple(output.shape)) if isinstance(output, Tensor) else type(output).__name__)
    if not torch.equal(x, before):
        raise refused("a changed input")
    return operation.train()
