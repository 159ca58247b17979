"""Registered functions that turn cells into modules; they must be the same in this process and in its workers."""

from __future__ import annotations

import dataclasses
import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial, singledispatch
from importlib import import_module
from typing import Any, TypeVar

from fade_study.exceptions import InvalidInputError

T = TypeVar("T")
REMEDY = (
    "put it into a module that all processes can import and that registers it when imported; or keep the builder of "
    "this type and name an operation of your own in network.operation"
)

# In a worker: the builders of the process that submitted the running task, by cell type.
_expected: Mapping[str, str] | None = None


@singledispatch
def build_cell(cell: Any, context: Any) -> Any:
    """Build the module of a cell, ``(B, C, H, W) -> (B, C, H, W)``. Register a function for your own cell types.

    The function receives the cell and a :class:`~fade_study.nn.CellContext`.
    """
    raise TypeError(
        f"expected a cell type with a registered module, got {type(cell).__name__}; "
        "write @build_cell.register above a function (cell: YourCell, context: CellContext) -> nn.Module"
    )


def builders_of(types: Iterable[type]) -> dict[str, str]:
    """Names ``module:name`` of the builders registered for cell types, without the package's own builders.

    Results are found again by this name only, so give a builder a new name whenever it changes.
    """
    builders = {_name(kind): _name(build_cell.dispatch(kind)) for kind in types}
    return {kind: builder for kind, builder in builders.items() if not builder.startswith("fade_study.")}


def describe_network(network: Any, types: Iterable[type]) -> dict[str, Any]:
    """Description of a kind of network on which results depend: its ``NetworkConfig`` and its cell types' builders."""
    return dataclasses.asdict(network) | builders_of(types)


def as_here(function: Callable[..., T]) -> Callable[..., T]:
    """Wrap a function for a call in another process, which then must build cells by the same functions as here."""
    return partial(_as_there, builders_of(build_cell.registry), function)


def _as_there(builders: Mapping[str, str], function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call the function in a worker."""
    global _expected  # noqa: PLW0603 - a worker runs one task at a time
    _expected = builders
    for name in builders.values():
        with suppress(Exception):  # the import may raise anything; check_builder reports a builder that is missing
            import_module(name.partition(":")[0])
    try:
        return function(*args, **kwargs)
    finally:
        _expected = None


def check_builder(kind: type) -> None:
    """Check that this process has the same builder for a cell type as the one that submitted the running task.

    Raises:
        InvalidInputError: (a ``ValueError``) that names both builders if they differ.
    """
    if _expected is None:
        return
    ours = "fade_study's own"
    expected = next((_expected[_name(base)] for base in kind.__mro__ if _name(base) in _expected), ours)
    found = builders_of([kind]).get(_name(kind), ours)
    if found != expected:
        raise InvalidInputError(
            f"expected {_name(kind)} to be built by {expected}, as in the process that submitted this training, got "
            f"{found} in process {os.getpid()} on host {socket.gethostname()!r}; {REMEDY}"
        )


def check_sendable() -> None:
    """Check that other processes can import the builders of all cell types that they can import.

    Raises:
        InvalidInputError: (a ``ValueError``) that names a builder which they cannot import.
    """
    for kind, name in builders_of(build_cell.registry).items():
        if _is_local(name) and not _is_local(kind):
            raise InvalidInputError(
                f"expected a builder of {kind} that worker processes can import, got {name}; {REMEDY}. Or train in "
                "this process: executor inline"
            )


def _is_local(name: str) -> bool:
    """Whether a name belongs to a notebook, a function body or a lambda; names of scripts are known to workers."""
    return "<" in name or (name.startswith("__main__:") and not hasattr(sys.modules["__main__"], "__file__"))


def _name(named: Any) -> str:
    """Name ``module:name`` of a type or function; for callables without a name, one that is unique to this process."""
    module = named.__module__
    if module in ("__main__", "__mp_main__"):  # the latter in a worker, which also runs its parent's script
        command = getattr(sys.modules["__main__"], "__spec__", None)  # set by ``python -m NAME``
        module = "__main__" if command is None else command.name
    return f"{module}:{getattr(named, '__qualname__', repr(named))}"
