"""JSON Lines files, to which results are appended as they come, and which survive a kill at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fade_study.exceptions import DataError


def read_lines(file: str | Path) -> Iterator[dict[str, Any]]:
    """The objects of a file, which need not exist. A last line that a kill has cut off is left out.

    Raises:
        DataError: (a ``ValueError``) for another line that is no JSON object.
    """
    path = Path(file)
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(True) if path.exists() else (), start=1):
        if not text.endswith("\n"):
            return
        try:
            line = json.loads(text)
            if not isinstance(line, dict):
                raise TypeError(f"{type(line).__name__}")
        except (TypeError, ValueError) as error:
            raise DataError(
                f"expected a JSON object in line {number} of {path}, got {type(error).__name__}: {error}; "
                "delete that line"
            ) from None
        yield line


def append_line(file: str | Path, line: Mapping[str, Any]) -> None:
    """Append an object, in place of a last line that a kill has cut off."""
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read() != b"\n":
                stream.seek(0)
                stream.truncate(stream.read().rfind(b"\n") + 1)
        stream.write(json.dumps(line).encode() + b"\n")
