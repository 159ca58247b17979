"""The settings that must not change during a study: stored with it as plain values, and compared when it continues."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna

from fade_study.cells import CellSpace
from fade_study.exceptions import InvalidInputError


def describe_space(space: CellSpace) -> dict[str, Any]:
    """Identity of a space: its features, its cells, and their points."""
    digest = hashlib.sha256()
    for cell in space:
        digest.update(cell.key.encode() + np.asarray(space.embed(cell), dtype=float).round(9).tobytes())
    return {
        "type": type(space).__name__,
        "features": list(space.features),
        "cells": len(space),
        "digest": digest.hexdigest()[:16],
    }


def describe_sampler(sampler: optuna.samplers.BaseSampler) -> dict[str, Any]:
    """Type and public attributes. Optuna's samplers have no public attributes, so their settings are not compared."""
    settings = {name: value for name, value in vars(sampler).items() if not name.startswith("_")}
    return {"type": type(sampler).__name__, **settings}


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a storage gives them back: lists for tuples and arrays, Python's numbers for NumPy's."""

    def convert(value: Any) -> Any:
        if isinstance(value, np.ndarray | np.generic):
            return value.tolist()
        raise InvalidInputError(
            f"expected settings that can be stored as JSON, got {value!r}; begin the names of other attributes with _"
        )

    return json.loads(json.dumps(settings, default=convert))


def plain_details(details: Mapping[str, Any] | None) -> dict[str, Any]:
    """Details of a caller as a storage gives them back; an ``InvalidInputError`` for what can't be stored."""
    try:
        kept = plain(dict(details or {}))
        json.dumps(kept, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"expected details as a mapping of plain JSON values, got {details!r}: {error}; "
            "leave out what can't be stored, and numbers that are not finite"
        ) from error
    return kept


def check_same(stored: Mapping[str, Any], settings: Mapping[str, Any], study_name: str) -> None:
    """Raise, naming what differs, unless a study's settings are the stored ones.

    A seed of None fits all.
    """
    old, new = flatten(stored), flatten(settings)
    different = [
        f"{key} is {old.get(key)!r} in the study and {new.get(key)!r} here"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not (key.endswith("seed") and None in (old.get(key), new.get(key)))
    ]
    if different:
        raise InvalidInputError(
            f"expected the settings with which study {study_name!r} was created, got others: {'; '.join(different)}. "
            "Use the same settings, or another study name"
        )


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
