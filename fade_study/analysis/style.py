"""The common style of all figures."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

__all__ = ["FEWEST", "SMALL", "integers", "new_figure"]

DPI = 200
SMALL = 8
"""Font size of legends and of many labels, in points."""
FEWEST = 3
"""Smallest number of values for which an interval is drawn."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure with automatic layout.

    Args:
        width: Width in inches.
        height: Height in inches.
    """
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def integers() -> MaxNLocator:
    """Locator for ticks at integers."""
    return MaxNLocator(integer=True)
