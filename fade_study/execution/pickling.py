"""Pickling of calls for another process, without the data sets, which that process already has."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import cloudpickle


def pack(call: Any) -> tuple[bytes, dict[str, Any]]:
    """Pickle a call, such as a function with its arguments; return it with the data sets that it does not contain.

    Data sets are the objects with a ``digest``, and are returned by digest.
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(call)
    return file.getvalue(), pickler.data


def unpack(packed: bytes, data: Mapping[str, Any]) -> Any:
    """Restore a call that :func:`pack` has pickled, with its data by digest."""
    unpickler = pickle.Unpickler(io.BytesIO(packed))
    unpickler.persistent_load = data.__getitem__
    return unpickler.load()


class _Pickler(cloudpickle.Pickler):  # cloudpickle also handles functions of a script
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.data: dict[str, Any] = {}

    def persistent_id(self, obj: Any) -> str | None:
        digest = getattr(obj, "digest", None)
        if not isinstance(digest, str):
            return None
        self.data[digest] = obj
        return digest

    def reducer_override(self, obj: Any) -> Any:
        # In a command ``python -m NAME``, pickle objects of ``__main__`` as those of module NAME, which others import.
        command = sys.modules["__main__"].__spec__
        if command is not None and getattr(obj, "__module__", None) == "__main__":
            name = getattr(obj, "__name__", "")
            if getattr(sys.modules["__main__"], name, None) is obj:
                return _of_module, (command.name, name)
        return super().reducer_override(obj)


def _of_module(module: str, name: str) -> Any:
    return getattr(import_module(module), name)
