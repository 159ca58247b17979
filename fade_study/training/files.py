"""Reading files of images and labels, of which some may be malformed or malicious."""

from __future__ import annotations

import gzip
import lzma
import math
import os
import shutil
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fade_study.config import DataConfig
from fade_study.datasets import FASHION14, FASHION14_TEST
from fade_study.exceptions import DataError

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
"""Exceptions that archives raise if they are truncated, encrypted or malformed, for all kinds of compression."""
NOT_NUMBERS = (LookupError, ValueError, AttributeError, TypeError, ArithmeticError, SyntaxError, tokenize.TokenError)
"""Exceptions NumPy raises for a malformed ``.npy`` header."""
LARGEST = 2**34
"""Largest size in bytes of unpacked arrays; in single precision, images of bytes take four times as many."""
UNSUSPECTED = 2**30
"""Size in bytes up to which arrays may be compressed by any factor."""
LONGEST_HEADER = 256
"""Largest number of characters of a ``.npy`` header, twice as many as NumPy writes."""
MOST_PACKED = 200
"""Largest compression factor of larger arrays. Drawings in two colors reach 60, decompression bombs 1,000."""


def read_images(config: DataConfig) -> tuple[NDArray, NDArray, int]:
    """Images and labels as they are stored, and the number of official test images, which are the last ones.

    An unknown name is a ``DataError``, and so are missing, malformed or suspiciously large files.
    """
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
    if not os.path.isfile(path):  # reading a pipe would block
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
    """An array whose header agrees with the size in the archive: NumPy allocates whatever a header says."""
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{member.filename}: expected version 1.0, as arrays of numbers have, got a later one")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=LONGEST_HEADER)
        if dtype.hasobject:
            raise ValueError(f"{member.filename}: expected numbers, got Python objects, which could run code")
        if file.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
            raise ValueError(f"{member.filename}: expected {shape} of {dtype}, got a file of another size")
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


def _check_unpacked(path: str | Path, size: int) -> None:
    """Refuse a file whose declared size is too large, before it is unpacked into memory."""
    packed = os.path.getsize(path)
    if size > LARGEST or size > max(UNSUSPECTED, MOST_PACKED * packed):
        raise DataError(
            f"{path}: expected up to {LARGEST:,} bytes of arrays and, above {UNSUSPECTED:,}, up to {MOST_PACKED} for "
            f"each of the file's {packed:,}, got {size:,}; save it without compression if it is no decompression bomb"
        )


def read_fashion_mnist(folder: Path) -> tuple[NDArray, NDArray, int] | None:
    """Images and labels from Fashion-MNIST's four original files, and the number of test images, which are the last.

    The files lie in the folder or in its subfolder ``FashionMNIST/raw``, as torchvision has them; None if one is
    missing.
    """
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
    """The path, unless a link leads it out of the folder."""
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
            content = file.read(math.prod(shape) + 1)  # one byte more than expected, to notice a longer file
        return np.frombuffer(content, np.uint8).reshape(shape)
    except DataError:
        raise
    except (*UNREADABLE, ValueError):
        raise DataError(
            f"{path}: expected an IDX file of unsigned bytes, got another or a truncated one; download it again"
        ) from None
