"""Small copies of figures for descriptions, since MLflow's user interface shows every picture in its full size."""

from __future__ import annotations

import io

from PIL import Image

WIDEST = 640
"""Largest width of a picture, in pixels: a wider one would push the rest of the page off the screen."""


def small_path(file: str) -> str:
    """Path of the small copy of a figure."""
    return file.replace("figures/", "pictures/")


def small(png: bytes) -> bytes:
    """The small copy of a figure in PNG format."""
    image = Image.open(io.BytesIO(png))
    image.thumbnail((WIDEST, image.height))
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return buffer.getvalue()
