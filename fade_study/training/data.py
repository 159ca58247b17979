"""Image data sets as tensors in memory, their splits, and batches of them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Dataset

from fade_study.config import DataConfig, steps_per_epoch
from fade_study.exceptions import DataError, InvalidInputError
from fade_study.seeding import SPLIT
from fade_study.training.files import read_images

SMALLEST_CLASS = 6
"""Smallest number of images of a class: one in the alpha split, one in the test split, four in the weight split."""
OWN = DataConfig(name="own")
LARGEST_PIXEL = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Split:
    """A part of the images."""

    images: Tensor
    """Images ``(N, C, H, W)``, standardized by channel."""
    labels: Tensor
    """Labels ``(N,)`` from 0 to classes - 1."""
    crop_flip: bool = False
    """Whether batches hold images that are moved and mirrored at random."""

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Split:
        """The split on a device."""
        return dataclasses.replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def steps(self, batch_size: int) -> int:
        """Number of full batches in one pass, at least 1."""
        return steps_per_epoch(len(self), batch_size)


class Minibatch(NamedTuple):
    """A batch, or one of the micro-batches into which it is split."""

    images: Tensor
    """Images ``(b, C, H, W)``."""
    labels: Tensor
    """Labels ``(b,)``."""
    size: int
    """Number of images B of the whole batch."""

    def loss(self, scores: Tensor) -> Tensor:
        """Share ``()`` of the batch's mean cross-entropy, of scores ``(b, classes)``; all shares add up to it."""
        return F.cross_entropy(scores, self.labels, reduction="sum") / self.size


class Batches:
    """Batches of a split, pass after pass in a new random order; a checkpoint can hold the position.

    Leftover images are skipped until the next pass, since the batch statistics of a few would be useless. A batch has
    ``batch_size`` images and ``micro_batches`` micro-batches, by default one per process, over all processes. Those
    with generators of the same seed get equal numbers of micro-batches of the same batch. More processes or
    micro-batches than images are an ``InvalidInputError``, and so is a number of micro-batches that is no multiple of
    the number of processes.
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
        """Number of batches in a pass."""
        parts = micro_batches or ranks
        if parts > min(batch_size, len(split)):
            raise InvalidInputError(
                f"expected an image of each batch for each {'micro-batch' if micro_batches else 'process'}, "
                f"got {parts} of them for batches of {min(batch_size, len(split))}; use fewer, or larger batches"
            )
        if parts % ranks:
            raise InvalidInputError(
                f"expected micro-batches that {ranks} processes can share, got {parts}; use a multiple of {ranks}"
            )
        own = parts // ranks
        self._parts = [slice(part, None, parts) for part in range(rank * own, (rank + 1) * own)]
        self._order = torch.empty(0, dtype=torch.long)
        self._moves: Tensor | None = None
        self._done = self.steps

    def next(self) -> list[Minibatch]:
        """This process's micro-batches of the next batch."""
        if self._done == self.steps:
            device = self.split.labels.device
            self._order, self._done = torch.randperm(len(self.split), generator=self.generator).to(device), 0
            if self.split.crop_flip:
                self._moves = draw_moves(self.split.images, self.generator)
        start = self._done * self.batch_size
        self._done += 1
        batch = slice(start, start + self.batch_size)
        order = self._order[batch]
        micro_batches = []
        for part in self._parts:
            index = order[part]
            if self._moves is None:
                images = self.split.images[index]
            else:
                images = moved(self.split.images, index, self._moves[:, batch][:, part])
            micro_batches.append(Minibatch(images, self.split.labels[index], len(order)))
        return micro_batches

    def state_dict(self) -> dict[str, Any]:
        """The position, without the generator's state."""
        return {"order": self._order, "moves": self._moves, "done": self._done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a position."""
        device = self.split.labels.device
        self._order, self._done = state["order"].to(device), state["done"]
        self._moves = None if state["moves"] is None else state["moves"].to(device)


def draw_moves(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random moves ``(3, N)`` of images ``(N, C, H, W)``, as :func:`moved` takes them, on their device.

    Images move by up to an eighth of their size, and half of them are mirrored.
    """
    ranges = [(-(size // 8), size // 8 + 1) for size in images.shape[2:]] + [(0, 2)]
    moves = [torch.randint(low, high, images.shape[:1], generator=generator) for low, high in ranges]
    return torch.stack(moves).to(images.device)


def moved(images: Tensor, index: Tensor, moves: Tensor) -> Tensor:
    """Of images ``(N, C, H, W)`` those of an index ``(b,)``, moved and then mirrored, ``(b, C, H, W)``.

    Args:
        images: Images.
        index: Which of them.
        moves: By how many pixels each moves down and right, and whether it is mirrored (0 or 1), ``(3, b)``. What moves
            in repeats the border.
    """
    height, width = images.shape[2:]
    down, right, mirrored = moves[:, :, None]  # (b, 1) each
    rows, columns = (torch.arange(size, device=images.device) for size in (height, width))  # (H,), (W,)
    columns = torch.where(mirrored == 1, columns.flip(0), columns)  # (b, W)
    rows, columns = (rows - down).clamp(0, height - 1), (columns - right).clamp(0, width - 1)
    # Indices on both sides of the channels put these last: (b, H, W, C).
    return images[index[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class Data:
    """A data set in three disjoint, stratified splits, 4 : 1 : 1 (section 3)."""

    name: str
    weight: Split
    """Images that weights are trained on."""
    alpha: Split
    """Images that alphas are learned from, and that networks trained from scratch are validated on."""
    test: Split
    """Images for reported accuracies, by which nothing is chosen."""
    classes: int
    digest: str
    """Hash of images, labels, splits, and how images are augmented."""
    mean: Tensor
    """Mean ``(C, 1, 1)`` of each channel, which was subtracted from the stored images."""
    deviation: Tensor
    """Standard deviation ``(C, 1, 1)`` of each channel, by which the images were divided."""
    labels: tuple[int, ...]
    """Stored labels of the classes 0 to classes - 1."""

    def __repr__(self) -> str:
        sizes = " + ".join(str(len(split)) for split in (self.weight, self.alpha, self.test))
        return f"Data({self.name!r}, {sizes} images of shape {tuple(self.image_shape)}, {self.classes} classes)"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of an image."""
        channels, height, width = self.weight.images.shape[1:]
        return channels, height, width

    @property
    def chance(self) -> float:
        """Accuracy on the alpha split of always predicting the most frequent class."""
        return self.alpha.labels.bincount().max().item() / len(self.alpha)

    @classmethod
    def from_arrays(cls, images: ArrayLike, labels: ArrayLike, config: DataConfig = OWN) -> Data:
        """A data set of arrays.

        Args:
            images: Images ``(N, H, W)``, ``(N, C, H, W)`` or ``(N, H, W, C)``.
            labels: Whole-numbered labels ``(N,)``.
            config: Its name, and how it is split.

        Raises:
            DataError: (a ``ValueError``) for arrays that can't be trained on.
        """
        return _split(config, np.asarray(images), np.asarray(labels))

    @classmethod
    def from_dataset(cls, dataset: Dataset[Any], config: DataConfig = OWN) -> Data:
        """A data set of the images and labels of a PyTorch data set, which are read once.

        Raises:
            DataError: (a ``ValueError``) for images and labels that can't be trained on.
        """
        images, labels = zip(*(dataset[i] for i in range(len(cast(Sized, dataset)))), strict=True)
        return cls.from_arrays(np.stack([np.asarray(image) for image in images]), labels, config)

    def to(self, device: torch.device) -> Data:
        """The data set on a device."""
        return dataclasses.replace(
            self, weight=self.weight.to(device), alpha=self.alpha.to(device), test=self.test.to(device)
        )


def load_data(config: DataConfig) -> Data:
    """Load and split a data set.

    The test split consists of the official test images, if the data set has any (for CIFAR that makes 4 : 1 : 1
    exactly), and of a sixth of all images otherwise. Images are standardized with the channel statistics of the weight
    split.

    Raises:
        DataError: (a ``ValueError``) for an unknown name, missing files, or images that can't be trained on.
    """
    return _split(config, *read_images(config))


def _split(config: DataConfig, images: NDArray, labels: NDArray, official_test: int = 0) -> Data:
    """The data set of images and labels, of which the last ``official_test`` ones are the test split."""
    images, labels, stored_labels = _checked(config.name, images, labels, config.layout)
    chosen = np.arange(len(labels))
    if config.limit is not None:
        most = len(labels) - (labels.max() + 1)  # a stratified split needs an image of every class in the rest, too
        if config.limit > most:
            raise DataError(
                f"expected data.limit up to {most} of the {len(labels)} images of {config.name}, got {config.limit}; "
                "set it to null to use all"
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
    # Files may be sorted by class, but supernets are evaluated with batch statistics, which need mixed batches.
    rng = SPLIT.rng(config.split_seed)
    weight, alpha, test = (rng.permutation(index) for index in (weight, alpha, test))

    # Double precision keeps small differences between large values.
    mean = images[weight].mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    deviation = images[weight].std(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    if not (deviation > 0).any():
        raise DataError(
            f"{config.name}: expected images that differ, got the same value in all pixels of every channel"
        )
    deviation = np.where(deviation > 0, deviation, 1)
    # The digest is of the stored values, since computed ones could differ between machines.
    parts = (images, labels, weight, alpha, test)
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts))
    crop_flip = config.augment == "crop-flip"
    if crop_flip:  # data that are trained on otherwise are other data, for recipes, tables and studies
        digest.update(config.augment.encode())

    def split(index: NDArray[np.int64]) -> Split:
        standardized = ((images[index] - mean) / deviation).astype(np.float32)
        tensor = torch.from_numpy(standardized).contiguous(memory_format=torch.channels_last)
        return Split(tensor, torch.from_numpy(labels[index]))

    return Data(
        name=config.name,
        weight=dataclasses.replace(split(weight), crop_flip=crop_flip),
        alpha=split(alpha),
        test=split(test),
        classes=len(stored_labels),
        digest=digest.hexdigest()[:16],
        mean=torch.from_numpy(mean[0]),
        deviation=torch.from_numpy(deviation[0]),
        labels=stored_labels,
    )


def _divide(index: NDArray[np.int64], labels: NDArray[np.int64], size: int, seed: int) -> list[NDArray[np.int64]]:
    """Split an index into two stratified parts, of which the second has ``size`` entries."""
    if size == 0:
        return [index, index[:0]]
    from sklearn.model_selection import train_test_split

    try:
        return [np.sort(i) for i in train_test_split(index, test_size=size, stratify=labels[index], random_state=seed)]
    except ValueError as error:
        raise DataError(f"expected enough images of every class in every split, got {len(index)}: {error}") from None


def _checked(
    name: str, images: NDArray, labels: NDArray, layout: str | None
) -> tuple[NDArray, NDArray[np.int64], tuple[int, ...]]:
    """Check images and labels; return images ``(N, C, H, W)``, labels from 0 to classes - 1, and the stored labels."""
    if images.ndim not in (3, 4) or min(images.shape, default=0) == 0:
        raise DataError(f"{name}: expected images of shape (N, H, W), (N, C, H, W) or (N, H, W, C), got {images.shape}")
    if not (np.issubdtype(images.dtype, np.integer) or np.issubdtype(images.dtype, np.floating)):
        raise DataError(f"{name}: expected images of integers or floats, got {images.dtype}")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{name}: expected whole-numbered labels of shape ({len(images)},), one per image, "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    if not (np.abs(images) <= np.float64(LARGEST_PIXEL)).all():  # false for NaN; a plain float would become float16
        raise DataError(
            f"{name}: expected images that are finite in single precision, got NaN or infinity; replace those pixels"
        )
    classes, labels = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"{name}: expected two or more classes, got {len(classes)}; there is nothing to tell apart")
    if images.ndim == 3:
        images = images[:, None]
    elif (layout or _layout(name, images.shape)) == "channels-last":
        images = images.transpose(0, 3, 1, 2)
    return images, labels.astype(np.int64), tuple(classes.tolist())


def _layout(name: str, shape: tuple[int, ...]) -> str:
    """Layout of images ``(N, ·, ·, ·)``, if only one gives square images of up to 4 channels."""
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
