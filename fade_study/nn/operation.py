"""Operations on the edges of a cell: convolutions, separable convolutions, and operations of the user."""

from __future__ import annotations

import math
from importlib import import_module
from typing import cast

import torch
from torch import Tensor, nn

from fade_study.config import NetworkConfig
from fade_study.exceptions import InvalidInputError


def build_operation(name: str, channels: int, kernel_size: int) -> nn.Module:
    """Build an operation ``(B, C, H, W) -> (B, C, H, W)`` with initial weights.

    Args:
        name: ``convolution``, ``separable``, or ``package.module:function`` for a function of your own, where
            ``function(channels: int, kernel_size: int)`` returns the initialized module. Other processes receive only
            the name, and results are found again by it, so give an operation a new name whenever it changes. A supernet
            is never in evaluation mode: dropout would stay active when its paths are compared.
        channels: Number of channels C of its input and of its output.
        kernel_size: Odd kernel size.

    Raises:
        InvalidInputError: (a ``ValueError``) for a name that cannot be imported, and for a function that fails, returns
            something other than a module, or returns a module that fails, changes the shape, or modifies its input,
            which other edges share.
    """
    if name == "convolution":
        return convolution(channels, channels, kernel_size)
    if name == "separable":
        return _separable(channels, kernel_size)
    return _imported(name, channels, kernel_size)


def check_operation(network: NetworkConfig) -> None:
    """Raise the error of :func:`build_operation` before any run begins if a network's operation cannot be built."""
    build_operation(network.operation, network.final_channels, network.kernel_size)


def convolution(inputs: int, outputs: int, kernel_size: int) -> nn.Conv2d:
    """A convolution that keeps the size of the map, with Kaiming initialization (section 3)."""
    layer = nn.Conv2d(inputs, outputs, kernel_size, padding="same")
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(cast(Tensor, layer.bias))
    return layer


def _separable(channels: int, kernel_size: int) -> nn.Module:
    """A depthwise, then a pointwise convolution; together they have C·k² + C² + C weights."""
    # Without a bias, because the pointwise convolution has one.
    depthwise = nn.Conv2d(channels, channels, kernel_size, padding="same", groups=channels, bias=False)
    nn.init.kaiming_normal_(depthwise.weight, nonlinearity="relu")
    pointwise = nn.Conv2d(channels, channels, 1)
    nn.init.kaiming_normal_(pointwise.weight, nonlinearity="linear")  # no ReLU between the two
    nn.init.zeros_(cast(Tensor, pointwise.bias))
    return nn.Sequential(depthwise, pointwise)


def _imported(name: str, channels: int, kernel_size: int) -> nn.Module:
    """An operation of the user, which is tested on a small map that is not square."""
    module, _, function = name.partition(":")
    try:
        make = getattr(import_module(module), function)
    except Exception as error:  # the import may raise anything
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
            f"that maps a tensor {shape} to another {shape} and does not modify its input, got {got}; correct it"
        )

    try:
        operation = make(channels, kernel_size)
        if not isinstance(operation, nn.Module):
            raise TypeError(f"a result of type {type(operation).__name__}, which is not a module")
        with torch.no_grad():
            output = operation.eval()(x)  # in training mode, it would change running averages
    except Exception as error:
        raise refused(f"{type(error).__name__}: {error}") from error
    if not isinstance(output, Tensor) or output.shape != x.shape:
        raise refused(str(tuple(output.shape)) if isinstance(output, Tensor) else type(output).__name__)
    if not torch.equal(x, before):
        raise refused("a modified input")
    return operation.train()
