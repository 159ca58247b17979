"""What must not change over a study's life: described as plain values, stored with it, and compared when it goes on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import optuna

from fade_study.cells import CellSpace
from fade_study.exceptions import InvalidInputError

__all__ = [
    "check_same",
    "connect_arguments",
    "describe_sampler",
    "describe_space",
    "flatten",
    "masked",
    "masked_url",
    "place",
    "plain",
]

SECRET = re.compile(
    r"passw|pwd|passphrase|token|secret|credential|signature|(api|access)[_-]?key|odbc_connect|\b(auth|key|sig)\b", re.I
)
"""In the name of a URL's parameter: its value is nobody's business."""
CONNECT = {"mysqlconnector": "connection_timeout", "pg8000": "timeout"} | dict.fromkeys(
    ("mysqldb", "psycopg", "psycopg2", "pymysql"), "connect_timeout"
)
"""What drivers of databases call the seconds that they wait for a server."""
CONNECT_SECONDS = 5
"""By default most of them wait for minutes."""


def describe_space(space: CellSpace) -> dict[str, Any]:
    """What makes two spaces the same one: features, cells, and where they lie."""
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
    """Type and public attributes. Optuna's samplers have no public ones: their settings are not compared."""
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


def check_same(stored: Mapping[str, Any], settings: Mapping[str, Any], study_name: str) -> None:
    """Raise, naming what differs, unless a study's settings are the stored ones. A seed of None fits all."""
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


def masked_url(url: str) -> str:
    """A URL without its password and secret parameters; what has none comes back as it is.

    Passwords are not always encoded as they should be: all between a user's colon and the last @ is taken for one.
    """
    if "://" not in url:
        return url

    def mask(parameter: re.Match[str]) -> str:
        name, value = parameter.groups()
        # An @ is kept: the parameter may be within a password, whose end it marks.
        return f"{name}={re.sub('[^@]+', '***', value)}" if SECRET.search(unquote(name)) else parameter[0]

    before, at, host = re.sub(r"([?&#][^=?&#]*)=([^&]*)", mask, url).rpartition("@")
    return re.sub(r"(://[^:/]*:).+", r"\1***", before, count=1, flags=re.DOTALL) + at + host


def place(url: str) -> str:
    """A URL as users are told of it: masked, and a file by its whole path, since they may be in another folder."""
    kind, slashes, path = masked_url(url).partition(":///")
    is_file = kind.startswith("sqlite") and path not in ("", ":memory:")
    return f"{kind}{slashes}{Path(path).absolute()}" if is_file else masked_url(url)


def connect_arguments(url: str) -> dict[str, Any]:
    """For SQLAlchemy's ``create_engine``: a server that can't be reached is to be told soon."""
    import sqlalchemy.exc

    try:
        parsed = sqlalchemy.make_url(url)
        name = CONNECT.get(parsed.get_driver_name())
    except (sqlalchemy.exc.SQLAlchemyError, ImportError):  # which to open it will tell of
        return {}
    return {} if name is None or name in parsed.query else {"connect_args": {name: CONNECT_SECONDS}}


def masked(text: str) -> str:
    """A text, such as an error's, with every URL in it masked; a URL ends at a space."""
    return "".join(masked_url(word) for word in re.split(r"(\s+)", text))
