"""Image data sets as tensors that stay in memory: a batch is an index."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fade_study.config import DataConfig
from fade_study.exceptions import DataError

__all__ = ["Data", "Split", "load_data"]

SMALLEST_CLASS = 6
"""Images that each class needs: one for the alpha split, one for the test split, four for the weight split."""
FASHION_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
TORCHVISION = {
    "fashion-mnist": ("FashionMNIST", "FashionMNIST/raw/{" + ", ".join(FASHION_FILES) + "}, each also as .gz"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py/ or cifar-10-python.tar.gz"),
    "cifar100": ("CIFAR100", "cifar-100-python/ or cifar-100-python.tar.gz"),
}


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

    def batches(
        self, batch_size: int, generator: torch.Generator, *, rank: int = 0, ranks: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass in random order over full batches ``(B, C, H, W), (B,)``.

        The images left over sit out until the next pass: batch statistics of a few would be worthless. Of several
        processes with generators of the same seed, each takes its share of every batch.
        """
        order = torch.randperm(len(self), generator=generator)
        for start in range(0, self.steps(batch_size) * batch_size, batch_size):
            index = order[start : start + batch_size][rank::ranks].to(self.labels.device)
            yield self.images[index], self.labels[index]


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
    images, labels = _checked(config.name, images, labels)
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

    mean = images[weight].mean(axis=(0, 2, 3), keepdims=True)
    spread = images[weight].std(axis=(0, 2, 3), keepdims=True)
    images = (images - mean) / np.where(spread > 0, spread, 1)
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in (images, labels, weight, alpha, test)))

    def split(index: NDArray[np.int64]) -> Split:
        tensor = torch.from_numpy(images[index]).contiguous(memory_format=torch.channels_last)
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


def _checked(name: str, images: NDArray, labels: NDArray) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images ``(N, C, H, W)`` in single precision and labels 0 .. classes-1, if a network can be trained on them."""
    if images.ndim not in (3, 4) or min(images.shape, default=0) == 0:
        raise DataError(f"{name}: expected images of shape (N, H, W), (N, C, H, W) or (N, H, W, C), got {images.shape}")
    if not (np.issubdtype(images.dtype, np.integer) or np.issubdtype(images.dtype, np.floating)):
        raise DataError(f"{name}: expected images of integers or floats, got {images.dtype}")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{name}: expected whole-numbered labels of shape ({len(images)},), one per image, "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    with np.errstate(over="ignore"):
        images = images.astype(np.float32)
    if not np.isfinite(images).all():
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
    elif images.shape[3] <= 4 < images.shape[1]:  # channels last, as NumPy and Keras have them
        images = images.transpose(0, 3, 1, 2)
    return images, labels.astype(np.int64)


def _read(config: DataConfig) -> tuple[NDArray, NDArray, int]:
    """Images and labels as they are stored, and how many of them, at the end, are the official test set."""
    if config.name == "digits":
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return bunch.images, bunch.target, 0  # pyright: ignore[reportAttributeAccessIssue]
    if config.name.startswith("npz:"):
        return *_read_npz(config.name.removeprefix("npz:")), 0
    if config.name in TORCHVISION:
        return _read_torchvision(config.name, Path(config.data_dir))
    raise DataError(f"expected a data set among digits, {', '.join(TORCHVISION)} or npz:PATH, got {config.name!r}")


def _read_npz(path: str) -> tuple[NDArray, NDArray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = {"images", "labels"} - set(file.files)
            if missing:
                raise DataError(f"{path}: expected arrays 'images' and 'labels', got {file.files}; save it with "
                                "np.savez(path, images=images, labels=labels)")  # fmt: skip
            return file["images"], file["labels"]
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"expected an .npz file that can be read, got {path}: {error}") from None
    except (ValueError, AttributeError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: expected an .npz of plain number arrays, got another file: {error}") from None


def _read_torchvision(name: str, folder: Path) -> tuple[NDArray, NDArray, int]:
    if name == "fashion-mnist":
        for place in (folder, folder / "FashionMNIST" / "raw"):
            files = [_existing(place / file) for file in FASHION_FILES]
            if all(files):
                train_images, train_labels, test_images, test_labels = (_read_idx(file) for file in files if file)
                images = np.concatenate([train_images, test_images])
                return images, np.concatenate([train_labels, test_labels]), len(test_labels)

    import torchvision

    kind, files = TORCHVISION[name]
    existed = folder.exists()
    try:
        train, test = (getattr(torchvision.datasets, kind)(folder, train=t, download=True) for t in (True, False))
    except (OSError, RuntimeError) as error:
        if not existed:
            shutil.rmtree(folder, ignore_errors=True)
        reason = " ".join(str(error).split())
        raise DataError(
            f"expected {name} in {folder.resolve()} or from the network, got neither ({reason}). Put there {files}; "
            "set the folder with --data.data_dir; or use the embedded data set with --data.name digits"
        ) from None
    images = np.concatenate([np.asarray(train.data), np.asarray(test.data)])
    return images, np.concatenate([np.asarray(train.targets), np.asarray(test.targets)]), len(test.targets)


def _existing(path: Path) -> Path | None:
    return next((file for file in (path, path.with_name(path.name + ".gz")) if file.is_file()), None)


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """An array in the IDX format: two zero bytes, type (8: unsigned byte), dimensions, sizes (big-endian), data."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        dimensions = content[3] if content[:3] == b"\0\0\x08" else 0
        shape = np.frombuffer(content, ">u4", count=dimensions, offset=4)
    except (OSError, EOFError, IndexError, ValueError, zlib.error):
        content, dimensions, shape = b"", 0, np.zeros(0, ">u4")
    if not dimensions or len(content) != 4 + 4 * dimensions + shape.prod():
        raise DataError(f"{path}: expected an IDX file of unsigned bytes, got another or a cut one; fetch it again")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(tuple(shape))
