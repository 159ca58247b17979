"""Tables of from-scratch trainings: ground truth that does not have to be trained again.

A table contains all evaluations of some architectures of one hyper-architecture. With the shipped tables, such as
:func:`load_digits625`, ranking rules and outer searches can be compared in seconds. ``mlflow run . -e validate``
writes its own table as ``ground_truth.json``.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fade_study.architecture import Architecture, HyperArchitecture
from fade_study.cells import Dag
from fade_study.exceptions import DataError, InvalidInputError

__all__ = ["Scratch", "Table", "Trainings", "load_digits625", "load_table"]

FOLDER = Path(__file__).parent
LARGEST = 2**26
"""Largest size of a table's file in bytes; the shipped ones have about 2**17."""


class Scratch(NamedTuple):
    """A recorded from-scratch evaluation."""

    test: float
    """Test accuracy."""
    validation: float
    """Validation accuracy."""
    seconds: float
    """Seconds of its training, on one processor thread unless its settings say otherwise."""


@dataclass(frozen=True, slots=True)
class Trainings:
    """All of a table's architectures, trained from scratch in one way."""

    settings: Mapping[str, Any]
    """Settings of training and network."""
    seeds: tuple[int, ...]
    test: NDArray[np.float64]
    """Test accuracies ``(n, S)``."""
    validation: NDArray[np.float64]
    """Validation accuracies ``(n, S)``."""
    seconds: float
    """Mean or median seconds of one training."""

    def __post_init__(self) -> None:
        seeds = self.seeds
        if not seeds or not all(type(seed) is int for seed in seeds) or len({*seeds}) < len(seeds):
            raise InvalidInputError(f"expected one or more different integers as seeds, got {seeds}")
        for accuracies in (self.test, self.validation):
            if not ((accuracies >= 0) & (accuracies <= 1)).all():  # NaN is neither
                raise InvalidInputError("expected accuracies from 0 to 1, got others; counts cannot exceed all images")
        if not 0 <= self.seconds < math.inf:
            raise InvalidInputError(f"expected the seconds of a training, got {self.seconds}")


@dataclass(frozen=True, slots=True)
class Table:
    """From-scratch trainings of architectures of one hyper-architecture."""

    hyper_architecture: HyperArchitecture
    paths: NDArray[np.int64]
    """Columns ``(n, d)``, one for each row."""
    recipe: str
    """Recipe of the ground truth; other trainings are shorter or longer ones that may predict it."""
    trainings: Mapping[str, Trainings]
    """Trainings by recipe, which is the hash of everything that matters except architecture and seed."""
    images: tuple[int, int]
    """Numbers of test and validation images; accuracies are counts of these."""
    commit: str
    """Commit of the code that wrote the table; the recipes determine how it was trained."""
    device: str
    """Type of device of all trainings, which is also part of the recipes."""

    def __post_init__(self) -> None:
        depth, width = self.hyper_architecture.shape
        shape = max(1, len(self.paths)), depth
        if self.paths.shape != shape or not ((self.paths >= 0) & (self.paths < width)).all():
            raise InvalidInputError(
                f"expected paths of shape {shape} with columns 0 to {width - 1}, got shape {self.paths.shape}"
            )
        for trainings in self.trainings.values():
            expected = len(self.paths), len(trainings.seeds)
            if {trainings.test.shape, trainings.validation.shape} != {expected}:
                raise InvalidInputError(
                    f"expected accuracies of {len(self.paths)} paths and all seeds, {expected}, got "
                    f"{trainings.test.shape} and {trainings.validation.shape}"
                )
        if self.recipe not in self.trainings:
            raise InvalidInputError(f"expected trainings of the ground truth's recipe {self.recipe}, got none")

    @property
    def ground_truth(self) -> Trainings:
        """The trainings that predictors should predict."""
        return self.trainings[self.recipe]

    @property
    def architectures(self) -> list[Architecture]:
        """All n architectures."""
        return [self.hyper_architecture.architecture(path) for path in self.paths.tolist()]

    def find(self, recipe: str) -> dict[tuple[str, int], Scratch]:
        """Evaluations by architecture key and seed; empty for an unknown recipe."""
        if recipe not in self.trainings:
            return {}
        trainings = self.trainings[recipe]
        return {
            (architecture.key, seed): Scratch(
                float(trainings.test[i, s]), float(trainings.validation[i, s]), trainings.seconds
            )
            for i, architecture in enumerate(self.architectures)
            for s, seed in enumerate(trainings.seeds)
        }

    def to_json(self) -> str:
        """The table as text, one line per architecture, accuracies as counts of images."""
        test, validation = self.images
        trainings = {
            recipe: {
                "settings": dict(trainings.settings),
                "seeds": list(trainings.seeds),
                "seconds": round(trainings.seconds, 4),
                "test": _lines(trainings.test * test),
                "validation": _lines(trainings.validation * validation),
            }
            for recipe, trainings in self.trainings.items()
        }
        content = {
            "commit": self.commit,
            "device": self.device,
            "images": {"test": test, "validation": validation},
            "rows": [" ".join(cell.key for cell in row) for row in self.hyper_architecture.rows],
            "paths": _lines(self.paths),
            "ground_truth": self.recipe,
            "trainings": trainings,
        }
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Table:
        """Read the text of ``to_json``; cells must be Dags."""
        content = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)
        images = content["images"]["test"], content["images"]["validation"]
        if not all(type(number) is int and number > 0 for number in images):
            raise InvalidInputError(f"expected numbers of test and of validation images, got {images}")
        return cls(
            hyper_architecture=HyperArchitecture(
                tuple(tuple(Dag.from_key(key) for key in row.split()) for row in content["rows"])
            ),
            paths=_numbers(content["paths"]),
            recipe=content["ground_truth"],
            trainings={
                recipe: Trainings(
                    settings={**trainings["settings"]},
                    seeds=tuple(trainings["seeds"]),
                    test=_numbers(trainings["test"]) / images[0],
                    validation=_numbers(trainings["validation"]) / images[1],
                    seconds=trainings["seconds"],
                )
                for recipe, trainings in content["trainings"].items()
            },
            images=images,
            commit=content["commit"],
            device=content["device"],
        )


def load_table(name: str) -> Table:
    """Load a shipped table by its name, or any table by the path of its JSON file.

    Raises:
        DataError: (a ``ValueError``) if the table does not exist, or the file is not a table.
    """
    shipped = {file.stem: file for file in sorted(FOLDER.glob("*.json"))}
    path = Path(name) if name.endswith(".json") else shipped.get(name)
    if path is None or not os.path.isfile(path):
        raise DataError(
            f"expected a table that is shipped ({', '.join(shipped)}) or the path of a JSON file, got {name!r}"
        )
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        return Table.from_json(path.read_text(encoding="utf-8"))
    except (OSError, LookupError, ValueError, AttributeError, TypeError, ArithmeticError, RecursionError) as error:
        raise DataError(
            f"expected a table of trainings in {path}, got {type(error).__name__}: {error}; take ground_truth.json "
            "from a run of the validation study"
        ) from None


def load_digits625() -> Table:
    """All 625 architectures with 4 rows of the same 5 cells of 5 operations on digits, with several seeds each."""
    return load_table("digits625")


def _lines(numbers: NDArray[Any]) -> list[str]:
    return [" ".join(str(round(number)) for number in row) for row in numbers.tolist()]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dictionary, or an error if a name occurs twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"expected every name once, got {[name for name, _ in pairs]}")
    return found


def _no_number(constant: str) -> None:
    raise ValueError(f"expected numbers, got {constant}")


def _numbers(lines: Sequence[str]) -> NDArray[np.int64]:
    return np.array([[int(number) for number in line.split()] for line in lines], dtype=np.int64)
