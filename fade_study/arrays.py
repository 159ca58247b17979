"""Conversion of NumPy and PyTorch values to arrays and numbers, without importing PyTorch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESOLUTIONS = {"bfloat16": 2.0**-7, "float16": 2.0**-10}
"""Relative spacing of the number types in which the rows of a softmax do not sum to 1 within 1e-4."""


def to_array(values: Any) -> NDArray[np.float64]:
    """Lists, arrays and tensors (of any precision, on any device, with or without a graph) in double precision.

    Raises:
        TypeError, ValueError: for values that are not numbers.
    """
    if hasattr(values, "detach"):  # a tensor, which is converted first because NumPy has no bfloat16
        values = values.detach().cpu().double().numpy()
    elif isinstance(values, list | tuple):
        values = [to_array(value) if hasattr(value, "detach") else value for value in values]
    return np.asarray(values, dtype=float)


def to_integer(value: Any) -> int | None:
    """An integer of Python or NumPy as a Python ``int``; None for anything else, including booleans."""
    return int(value) if isinstance(value, int | np.integer) and not isinstance(value, bool) else None


def to_number(value: Any) -> float | None:
    """A finite number of Python, NumPy, or a tensor with one element, as a ``float``; None for anything else."""
    try:
        number = math.nan if isinstance(value, str | bytes | bool | np.bool_) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def resolution(values: Any) -> float:
    """Relative spacing of numbers in half precision; 0 for values of higher precision."""
    return RESOLUTIONS.get(str(getattr(values, "dtype", "")).removeprefix("torch."), 0.0)
