"""Embedded image data, which need no download.

``fashion14.npz`` contains 40,000 images of Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017; copyright 2017 Zalando SE,
MIT license, https://github.com/zalandoresearch/fashion-mnist) at 14×14: the first 3,000 training images of each class,
then the 10,000 test images. Each pixel is the mean of 2×2. The file is made from the original files, which Debian's
package ``dataset-fashion-mnist`` installs, by::

    python -m fade_study.studies.embed_fashion14 /usr/share/datasets/fashion-mnist
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["FASHION14", "FASHION14_TEST", "shrink", "shrink_fashion"]

FASHION14 = Path(__file__).with_name("fashion14.npz")
FASHION14_TEST = 10_000
"""Number of images at the end of ``fashion14.npz`` that are Fashion-MNIST's own test images."""
PER_CLASS = 3_000
"""Number of training images kept of each class."""


def shrink(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means of 2×2 pixels, rounded half up: ``(N, 2h, 2w) -> (N, h, w)``."""
    count, height, width = images.shape
    sums = images.reshape(count, height // 2, 2, width // 2, 2).sum(axis=(2, 4), dtype=np.uint16)
    return ((sums + 2) // 4).astype(np.uint8)


def shrink_fashion(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images and labels of ``fashion14`` from all 70,000 of Fashion-MNIST, training images first.

    Args:
        images: Images ``(70000, 28, 28)``.
        labels: Labels ``(70000,)``, 0 to 9.
    """
    train = labels[:-FASHION14_TEST]
    kept = np.concatenate([np.flatnonzero(train == label)[:PER_CLASS] for label in range(10)])
    index = np.concatenate([np.sort(kept), np.arange(len(train), len(labels))])
    return shrink(images[index]), labels[index].astype(np.uint8)
