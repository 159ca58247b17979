"""Image data sets as tensors that stay in memory: a batch is an index."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import lzma
import math
import os
import shutil
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fade_study.config import DataConfig
from fade_study.datasets import FASHION14, FASHION14_TEST
from fade_study.exceptions import DataError, InvalidInputError

__all__ = ["Batches", "Data", "Minibatch", "Split", "load_data", "read_fashion_mnist"]

SMALLEST_CLASS = 6
"""Images that each class needs: one for the alpha split, one for the test split, four for the weight split."""
FASHION_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
EMBEDDED = ("fashion14", "digits")
TORCHVISION = {
    "fashion-mnist": (
        "FashionMNIST",
        "FashionMNIST",
        "FashionMNIST/raw/{" + ", ".join(FASHION_FILES) + "}, each also as .gz",
    ),
    "cifar10": ("CIFAR10", "cifar-10-*", "cifar-10-batches-py/ or cifar-10-python.tar.gz"),
    "cifar100": ("CIFAR100", "cifar-100-*", "cifar-100-python/ or cifar-100-python.tar.gz"),
}
UNREADABLE = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error)
"""What archives of all kinds of compression raise that are cut, encrypted, or something else."""
NOT_NUMBERS = (LookupError, ValueError, AttributeError, TypeError, ArithmeticError, SyntaxError, tokenize.TokenError)
"""What NumPy raises for a header, which is Python text, that is none."""
LARGEST_PIXEL = float(np.finfo(np.float32).max)
LARGEST = 2**34
"""Bytes of arrays that are unpacked: single precision takes four times as many for images of bytes."""
UNSUSPECTED = 2**30
"""Bytes up to which they may be packed as well as can be."""
LONGEST_HEADER = 256
"""Characters of Python that tell an array's shape and type, twice as many as NumPy writes."""
MOST_PACKED = 200
"""Bytes of a larger array for one of its file. Drawings of two colors reach 60, bombs of zeros 1,000."""


@dataclass(frozen=True, slots=True)
class Split:
    """Some of the images."""

    images: Tensor
    """``(N, C, H, W)``, standardized by channel."""
    labels: Tensor
    """``(N,)``, 0 .. classes-1."""

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Split:
        """The same on a device."""
        return Split(self.images.to(device), self.labels.to(device))

    def steps(self, batch_size: int) -> int:
        """Full batches in one pass, 1 at least."""
        return max(1, len(self) // batch_size)


class Minibatch(NamedTuple):
    """A batch, or one of the micro-batches into which it is cut."""

    images: Tensor
    """``(b, C, H, W)``."""
    labels: Tensor
    """``(b,)``."""
    size: int
    """B, of the whole batch."""

    def loss(self, scores: Tensor) -> Tensor:
        """This part's share ``()`` of the batch's mean cross-entropy: those of all micro-batches add up to it.

        Args:
            scores: of the classes, ``(b, classes)``.
        """
        return F.cross_entropy(scores, self.labels, reduction="sum") / self.size


class Batches:
    """Batches of a split in random order, pass after pass, from any place that was kept.

    The images left over sit out until the next pass: batch statistics of a few would be worthless. Of several processes
    with generators of the same seed, each takes as many micro-batches of every batch.

    Args:
        split: on the device.
        batch_size: over all processes.
        generator: of the order; asked when a pass begins.
        micro_batches: into which a batch is cut, over all processes; None for one each.
        rank: of this process.
        ranks: number of processes.

    Raises:
        InvalidInputError: (a ``ValueError``) for more processes or micro-batches than a batch has images, and for
            micro-batches that so many processes can't share.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        generator: torch.Generator,
        *,
        micro_batches: int | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.split, self.batch_size, self.generator = split, batch_size, generator
        self.steps = split.steps(batch_size)
        """Of a pass."""
        parts = micro_batches or ranks
        if parts > min(batch_size, len(split)):
            raise InvalidInputError(
                f"expected an image of each batch for each {'micro-batch' if micro_batches else 'process'}, "
                f"got {parts} of them for batches of {min(batch_size, len(split))}; use fewer, or larger batches"
            )
        if parts % ranks:
            raise InvalidInputError(
                f"expected micro-batches that {ranks} processes can share, got {parts}; use another number of either"
            )
        own = parts // ranks
        self._parts = [slice(part, None, parts) for part in range(rank * own, (rank + 1) * own)]
        self._order = torch.empty(0, dtype=torch.long)
        self._done = self.steps

    def next(self) -> list[Minibatch]:
        """The micro-batches of the next batch that are this process's."""
        if self._done == self.steps:
            self._order, self._done = torch.randperm(len(self.split), generator=self.generator), 0
        start = self._done * self.batch_size
        self._done += 1
        batch = self._order[start : start + self.batch_size]
        parts = [batch[part].to(self.split.labels.device) for part in self._parts]
        return [Minibatch(self.split.images[index], self.split.labels[index], len(batch)) for index in parts]

    def state_dict(self) -> dict[str, Any]:
        """The place, but for the generator's state."""
        return {"order": self._order, "done": self._done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a place."""
        self._order, self._done = state["order"], state["done"]


@dataclass(frozen=True, slots=True)
class Data:
    """A data set in three disjoint, stratified splits, 4 : 1 : 1 (section 3)."""

    name: str
    weight: Split
    """Trains the weights."""
    alpha: Split
    """Trains the alphas, and validates networks trained from scratch."""
    test: Split
    """Is reported, and chooses nothing."""
    classes: int
    digest: str
    """Of images, labels and splits."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        channels, height, width = self.weight.images.shape[1:]
        return channels, height, width

    @property
    def chance(self) -> float:
        """Accuracy of always guessing the most frequent class, on the alpha split."""
        return self.alpha.labels.bincount().max().item() / len(self.alpha)

    def to(self, device: torch.device) -> Data:
        """The same on a device."""
        return dataclasses.replace(
            self, weight=self.weight.to(device), alpha=self.alpha.to(device), test=self.test.to(device)
        )


def load_data(config: DataConfig) -> Data:
    """Load and split a data set.

    A data set's official test images are its test split (for CIFAR that makes 4 : 1 : 1 exactly); where there are
    none, a sixth is. Images are standardized with the channel statistics of the weight split.

    Raises:
        DataError: (a ``ValueError``) for an unknown name, missing files, or images that can't be trained on.
    """
    images, labels, official_test = _read(config)
    images, labels = _checked(config.name, images, labels, config.layout)
    chosen = np.arange(len(labels))
    if config.limit is not None:
        most = len(labels) - (labels.max() + 1)  # what is left out needs an image of every class, too
        if config.limit > most:
            raise DataError(
                f"expected data.limit up to {most} of the {len(labels)} images of {config.name}, got {config.limit}; "
                "leave it out to use all"
            )
        chosen, _ = _divide(chosen, labels, len(labels) - config.limit, config.split_seed)
    smallest = np.bincount(labels[chosen], minlength=labels.max() + 1).min()
    if smallest < SMALLEST_CLASS:
        raise DataError(
            f"expected {SMALLEST_CLASS} or more images of every class of {config.name}, got a class with {smallest}; "
            "add images, leave the class out, or raise data.limit"
        )
    if official_test:
        rest, test = chosen[chosen < len(labels) - official_test], chosen[chosen >= len(labels) - official_test]
    else:
        rest, test = _divide(chosen, labels, round(len(chosen) / 6), config.split_seed)
    weight, alpha = _divide(rest, labels, round(len(rest) / 5), config.split_seed)
    # Files may be sorted by class; supernets are evaluated with the statistics of batches, which must be mixed.
    rng = np.random.default_rng(config.split_seed)
    weight, alpha, test = (rng.permutation(index) for index in (weight, alpha, test))

    # In double precision: single precision would lose small differences between large values.
    mean = images[weight].mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    spread = images[weight].std(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    if not (spread > 0).any():
        raise DataError(
            f"{config.name}: expected images that differ, got the same value in all pixels of every channel"
        )
    # Of the values as they are stored, which no arithmetic of this machine has touched.
    parts = (images, labels, weight, alpha, test)
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts))

    def split(index: NDArray[np.int64]) -> Split:
        standardized = ((images[index] - mean) / np.where(spread > 0, spread, 1)).astype(np.float32)
        tensor = torch.from_numpy(standardized).contiguous(memory_format=torch.channels_last)
        return Split(tensor, torch.from_numpy(labels[index]))

    return Data(config.name, split(weight), split(alpha), split(test), int(labels.max()) + 1, digest.hexdigest()[:16])


def _divide(index: NDArray[np.int64], labels: NDArray[np.int64], size: int, seed: int) -> list[NDArray[np.int64]]:
    """Split an index in two, ``size`` of it in the second part, with the same share of every class."""
    if size == 0:
        return [index, index[:0]]
    from sklearn.model_selection import train_test_split

    try:
        return [np.sort(i) for i in train_test_split(index, test_size=size, stratify=labels[index], random_state=seed)]
    except ValueError as error:
        raise DataError(f"expected enough images of every class in every split, got {len(index)}: {error}") from None


def _checked(name: str, images: NDArray, labels: NDArray, layout: str | None) -> tuple[NDArray, NDArray[np.int64]]:
    """Images ``(N, C, H, W)``, as they are stored, and labels 0 .. classes-1, if a network can be trained on them."""
    if images.ndim not in (3, 4) or min(images.shape, default=0) == 0:
        raise DataError(f"{name}: expected images of shape (N, H, W), (N, C, H, W) or (N, H, W, C), got {images.shape}")
    if not (np.issubdtype(images.dtype, np.integer) or np.issubdtype(images.dtype, np.floating)):
        raise DataError(f"{name}: expected images of integers or floats, got {images.dtype}")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{name}: expected whole-numbered labels of shape ({len(images)},), one per image, "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    if not (np.abs(images) <= LARGEST_PIXEL).all():  # NaN is not
        raise DataError(
            f"{name}: expected images that are finite in single precision, got NaN or infinity; replace those pixels"
        )
    classes, labels = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"{name}: expected two or more classes, got {len(classes)}; there is nothing to tell apart")
    if len(images) < len(classes):
        raise DataError(f"{name}: expected more images than classes, got {len(images)} for {len(classes)}")
    if images.ndim == 3:
        images = images[:, None]
    elif (layout or _layout(name, images.shape)) == "channels-last":  # as NumPy and Keras have them
        images = images.transpose(0, 3, 1, 2)
    return images, labels.astype(np.int64)


def _layout(name: str, shape: tuple[int, ...]) -> str:
    """Which dimension of images ``(N, ·, ·, ·)`` holds the channels, where one reading alone is an ordinary picture."""
    _, first, middle, last = shape
    readings = {"channels-first": (first, middle, last), "channels-last": (last, first, middle)}
    ordinary = [layout for layout, (channels, *sides) in readings.items() if channels <= 4 and len({*sides}) == 1]
    if len(ordinary) == 1:
        return ordinary[0]
    (c, h, w), (c2, h2, w2) = readings.values()
    raise DataError(
        f"{name}: expected square images of up to 4 channels, whose layout can be told, got {shape}, which may be {c} "
        f"channels of {h}x{w} or {c2} of {h2}x{w2}; set data.layout to channels-first or channels-last"
    )


def _read(config: DataConfig) -> tuple[NDArray, NDArray, int]:
    """Images and labels as they are stored, and how many of them, at the end, are the official test set."""
    if config.name == "digits":
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return bunch.images, bunch.target, 0  # pyright: ignore[reportAttributeAccessIssue]
    if config.name == "fashion14":
        return *_read_npz(str(FASHION14)), FASHION14_TEST
    if config.name.startswith("npz:"):
        return *_read_npz(os.path.expanduser(config.name.removeprefix("npz:"))), 0
    if config.name in TORCHVISION:
        return _read_torchvision(config.name, Path(config.data_dir))
    known = ", ".join((*EMBEDDED, *TORCHVISION))
    raise DataError(f"expected a data set among {known} or npz:PATH, got {config.name!r}")


def _read_npz(path: str) -> tuple[NDArray, NDArray]:
    if not os.path.isfile(path):  # a pipe would be waited for
        raise DataError(f"{path}: expected an .npz that can be read, got no file; give its path as npz:PATH")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if not {"images", "labels"} <= members.keys():
                raise DataError(f"{path}: expected arrays 'images' and 'labels', got {[*members]}; save it with "
                                "np.savez(path, images=images, labels=labels)")  # fmt: skip
            images, labels = members["images"], members["labels"]
            _check_unpacked(path, images.file_size + labels.file_size)
            return _read_npy(archive, images), _read_npy(archive, labels)
    except DataError:
        raise
    except (*UNREADABLE, *NOT_NUMBERS) as error:
        raise DataError(
            f"{path}: expected an .npz of plain number arrays that can be read, got another file: {error}"
        ) from None


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray:
    """An array whose header tells the size that the archive tells: NumPy allocates what a header says."""
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{member.filename}: expected version 1.0, as numbers have, got a later one")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=LONGEST_HEADER)
        if dtype.hasobject:
            raise ValueError(f"{member.filename}: expected numbers, got Python objects, which could run code")
        if file.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
            raise ValueError(f"{member.filename}: expected {shape} of {dtype}, got a cut file, or one that lies")
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


def _check_unpacked(path: str | Path, size: int) -> None:
    """Refuse what would not fit into memory by the size that it declares, before it is unpacked."""
    packed = os.path.getsize(path)
    if size > LARGEST or size > max(UNSUSPECTED, MOST_PACKED * packed):
        raise DataError(
            f"{path}: expected up to {LARGEST:,} bytes of arrays and, above {UNSUSPECTED:,}, up to {MOST_PACKED} for "
            f"each of the file's {packed:,}, got {size:,}; a file that is no bomb can be saved without compression"
        )


def read_fashion_mnist(folder: Path) -> tuple[NDArray, NDArray, int] | None:
    """Fashion-MNIST's original files in a folder, where it has all four; the last number is that of test images."""
    for place in (folder, folder / "FashionMNIST" / "raw"):
        files = [_existing(folder, place / file) for file in FASHION_FILES]
        if all(files):
            train_images, train_labels, test_images, test_labels = (
                _read_idx(file, dimensions) for file, dimensions in zip(files, (3, 1, 3, 1), strict=True) if file
            )
            if train_images.shape[1:] != test_images.shape[1:] or len(test_images) != len(test_labels):
                raise DataError(
                    f"{place}: expected images of one size and a label for each, got training images "
                    f"{train_images.shape}, test images {test_images.shape} and test labels {test_labels.shape}"
                )
            images = np.concatenate([train_images, test_images])
            return images, np.concatenate([train_labels, test_labels]), len(test_labels)
    return None


def _read_torchvision(name: str, folder: Path) -> tuple[NDArray, NDArray, int]:
    if name == "fashion-mnist" and (found := read_fashion_mnist(folder)) is not None:
        return found

    import torchvision

    kind, pattern, files = TORCHVISION[name]
    existed = os.path.exists(folder)
    for top in folder.glob(pattern) if existed else ():
        for path in (top, *top.rglob("*")):
            _inside(folder, path)
    try:
        train, test = (getattr(torchvision.datasets, kind)(folder, train=t, download=True) for t in (True, False))
    except (OSError, RuntimeError, ValueError) as error:
        if not existed:
            shutil.rmtree(folder, ignore_errors=True)
        reason = " ".join(str(error).split())
        raise DataError(
            f"expected {name} in {os.path.abspath(folder)} or from the network, got neither ({reason}). "
            f"Put there {files}; set the folder with --data.data_dir; "
            f"or use an embedded data set with --data.name {EMBEDDED[0]}"
        ) from None
    images = np.concatenate([np.asarray(train.data), np.asarray(test.data)])
    return images, np.concatenate([np.asarray(train.targets), np.asarray(test.targets)]), len(test.targets)


def _existing(folder: Path, path: Path) -> Path | None:
    files = (path, path.with_name(path.name + ".gz"))
    return next((_inside(folder, file) for file in files if os.path.isfile(file)), None)


def _inside(folder: Path, path: Path) -> Path:
    """A path in a folder, if no link leads it out of there."""
    place = os.path.realpath(path)
    if not Path(place).is_relative_to(os.path.realpath(folder)):
        raise DataError(
            f"expected {path} to lie in {folder}, got a link to {place}; copy it there, or set data.data_dir to the "
            "folder that holds it"
        )
    return path


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """An array in the IDX format: two zero bytes, type (8: unsigned byte), dimensions, sizes (big-endian), data."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            if file.read(4) != bytes([0, 0, 8, dimensions]):
                raise ValueError("another header")
            shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
            _check_unpacked(path, math.prod(shape))
            content = file.read(math.prod(shape) + 1)  # one more than there should be, and not all that there may be
        return np.frombuffer(content, np.uint8).reshape(shape)
    except DataError:
        raise
    except (*UNREADABLE, ValueError):
        raise DataError(
            f"{path}: expected an IDX file of unsigned bytes, got another or a cut one; fetch it again"
        ) from None
