"""The common style of all figures: colors, sizes, titles and files."""

from __future__ import annotations

import io
import textwrap
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from fade_study.statistics.arena import FEWEST
from fade_study.statistics.resampling import interval

DPI = 200
SMALL = 8
"""Font size of legends and of many labels, in points."""
TITLE = 10
"""Font size of titles, in points."""
BLUE, RED, GREEN, ORANGE, PURPLE, SKY, BLACK = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000"
)  # fmt: skip
COLORS = BLUE, RED, GREEN, ORANGE, PURPLE, SKY, BLACK
"""Colors of Okabe and Ito that people with any kind of color vision can tell apart, without the pale yellow."""
GREY = "#808080"
SETTINGS: dict[Any, Any] = {"svg.hashsalt": "fade_study"}
"""Settings with which equal figures give equal files."""


def new_figure(width: float, height: float, title: str) -> Figure:
    """An empty figure with automatic layout; its width and height are in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    set_title(figure, title)
    return figure


def set_title(figure: Figure, title: str) -> None:
    """Give a figure a title, in lines that fit its width."""
    letters = max(20, int(13.5 * figure.get_figwidth()))  # a letter of this size is 0.074 inches wide
    figure.suptitle(textwrap.fill(title, letters), fontsize=TITLE)


def legend_below(figure: Figure, **options: Any) -> None:
    """Give a figure a legend below its panels, where it hides nothing."""
    figure.legend(loc="outside lower center", fontsize=SMALL, **options)


def integers() -> MaxNLocator:
    """Locator for ticks at integers."""
    return MaxNLocator(integer=True, min_n_ticks=1)


def wrapped_key(key: str, letters: int) -> str:
    """The key of a cell in lines of so many letters, which end after dots where there are any."""
    return textwrap.fill(key.replace(".", ". "), letters).replace(". ", ".")


def accuracy_interval(values: ArrayLike) -> NDArray[np.float64] | None:
    """Student's 95 % interval ``(2, ...)`` of means of accuracies or alphas ``(S, ...)``, within [0, 1].

    None for fewer than ``FEWEST`` of them.
    """
    if len(np.asarray(values)) < FEWEST:
        return None
    return np.clip(interval(values), 0, 1)


def rendered(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """The file of a figure; equal figures give equal files."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()
