"""Arrays and numbers from whatever a NumPy or PyTorch user has at hand, without importing PyTorch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["resolution", "to_array", "to_integer", "to_number"]

RESOLUTIONS = {"bfloat16": 2.0**-7, "float16": 2.0**-10}
"""Relative distance between neighboring numbers, of types whose softmax rows don't sum to 1 within 1e-4."""


def to_array(values: Any) -> NDArray[np.float64]:
    """Values in double precision: of lists, arrays, and tensors of any precision, device and graph.

    Raises:
        TypeError, ValueError: where they are no numbers.
    """
    if hasattr(values, "detach"):  # a tensor; NumPy knows no bfloat16
        values = values.detach().cpu().double().numpy()
    elif isinstance(values, list | tuple):
        values = [to_array(value) if hasattr(value, "detach") else value for value in values]
    return np.asarray(values, dtype=float)


def to_integer(value: Any) -> int | None:
    """A whole number of Python's or NumPy's as Python's; None for anything else, truth values among it."""
    return int(value) if isinstance(value, int | np.integer) and not isinstance(value, bool) else None


def to_number(value: Any) -> float | None:
    """A finite number of Python's or NumPy's, or of a tensor with one element, as Python's; None for anything else."""
    try:
        number = math.nan if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return number if math.isfinite(number) else None


def resolution(values: Any) -> float:
    """Relative distance between neighboring numbers of half precision; 0 for all that is more precise."""
    return RESOLUTIONS.get(str(getattr(values, "dtype", "")).removeprefix("torch."), 0.0)
