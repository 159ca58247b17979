"""Which function makes a cell a module: the same one here and in the processes that work for this one."""

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

__all__ = ["as_here", "build_cell", "builders_of", "check_builder", "check_sendable", "describe_network"]

T = TypeVar("T")
REMEDY = (
    "put it into a module that all processes can import, registered as that module is imported; or leave the type's "
    "builder as it is and name an operation of your own in network.operation"
)

# In a worker: the builders of the process that has sent the running task, by cell type.
_expected: Mapping[str, str] | None = None


@singledispatch
def build_cell(cell: Any, context: Any) -> Any:
    """The module of a cell, ``(B, C, H, W) -> (B, C, H, W)``. Register a function for each cell type of your own.

    The function is called with the cell and a :class:`~fade_study.nn.CellContext`.
    """
    raise TypeError(
        f"expected a cell type with a registered module, got {type(cell).__name__}; "
        "write @build_cell.register above a function (cell: YourCell, context: CellContext) -> nn.Module"
    )


def builders_of(types: Iterable[type]) -> dict[str, str]:
    """The builder registered for each cell type, as ``module:name``; without types whose builder is the package's own.

    A result depends on it by this name alone: give a builder that has changed another name.
    """
    builders = {_name(kind): _name(build_cell.dispatch(kind)) for kind in types}
    return {kind: builder for kind, builder in builders.items() if not builder.startswith("fade_study.")}


def describe_network(network: Any, types: Iterable[type]) -> dict[str, Any]:
    """All of a network's kind that a result depends on: its ``NetworkConfig``, and the builders of its cells' types."""
    return dataclasses.asdict(network) | builders_of(types)


def as_here(function: Callable[..., T]) -> Callable[..., T]:
    """A function to be called in another process, where it has cells built by the same functions as here."""
    return partial(_as_there, builders_of(build_cell.registry), function)


def _as_there(builders: Mapping[str, str], function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """In a worker."""
    global _expected  # noqa: PLW0603 - a worker has one running task
    _expected = builders
    for name in builders.values():
        with suppress(Exception):  # of a module that is not here; whether it is missed, the task's cells will show
            import_module(name.partition(":")[0])
    try:
        return function(*args, **kwargs)
    finally:
        _expected = None


def check_builder(kind: type) -> None:
    """Raise unless a cell type is built here as it is where the running task comes from.

    Raises:
        InvalidInputError: (a ``ValueError``) that names both builders.
    """
    if _expected is None:
        return
    ours = "fade_study's own"
    expected = next((_expected[_name(base)] for base in kind.__mro__ if _name(base) in _expected), ours)
    found = builders_of([kind]).get(_name(kind), ours)
    if found != expected:
        raise InvalidInputError(
            f"expected {_name(kind)} to be built by {expected}, as in the process that has sent this training, got "
            f"{found} in process {os.getpid()} on host {socket.gethostname()!r}; {REMEDY}"
        )


def check_sendable() -> None:
    """Raise where other processes know a cell type, but can't import the builder that is registered for it here.

    Raises:
        InvalidInputError: (a ``ValueError``) that names the builder.
    """
    for kind, name in builders_of(build_cell.registry).items():
        if _is_local(name) and not _is_local(kind):
            raise InvalidInputError(
                f"expected a builder of {kind} that worker processes can import, got {name}; {REMEDY}. Or train in "
                "this process: executor inline"
            )


def _is_local(name: str) -> bool:
    """Of a notebook, or of what is made within a function; lambdas have no name at all. Workers run a script, too."""
    return "<" in name or (name.startswith("__main__:") and not hasattr(sys.modules["__main__"], "__file__"))


def _name(named: Any) -> str:
    """``module:name`` of a type or function; of a callable that has no name, one that no other process knows."""
    module = named.__module__
    if module in ("__main__", "__mp_main__"):  # the second in a worker, which runs its parent's script as well
        command = getattr(sys.modules["__main__"], "__spec__", None)  # of ``python -m NAME``
        module = "__main__" if command is None else command.name
    return f"{module}:{getattr(named, '__qualname__', repr(named))}"
