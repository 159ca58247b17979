"""One training over several processes of a launcher: the main one decides, and the others do the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Literal, Self, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import distributed

from fade_study.exceptions import DivergedError, FadeError, WorkerDiedError
from fade_study.execution.pickling import pack, unpack
from fade_study.interrupt import Interrupted
from fade_study.training.data import Data
from fade_study.training.session import check_alike

__all__ = ["Processes", "everywhere"]

T = TypeVar("T")
IDLE = timedelta(days=30)
"""Patience of processes for the main one, which may be busy alone, or wait for other evaluations."""


def everywhere(accelerator: Accelerator, function: Callable[..., T], *args: Any) -> T:
    """Call a function in all processes, each of which comes here; an error in any of them is raised in all.

    One process of each machine is the first, and may fetch what the others then find.
    """
    result, error = None, None
    for first in (True, False):
        if accelerator.is_local_main_process == first:
            try:
                result = function(*args)
            except FadeError as caught:
                error = caught
        for one in gather_object([error]):
            if one is not None:
                raise one
    return result  # pyright: ignore[reportReturnType] - there was no error


class Processes:
    """All processes that a launcher has started, as a context.

    Main calls what it likes by :meth:`run`, while the others :meth:`follow`: the same function, at the same moment,
    with the same arguments. What only one may do, such as to decide or to write, main alone does in between.

    Args:
        accelerator: of the process.
        data: that all have loaded, each by itself; is not sent along with the calls.

    Raises:
        InvalidInputError: (a ``ValueError``) for data that differ, or versions of PyTorch.
    """

    def __init__(self, accelerator: Accelerator, data: Data) -> None:
        self._accelerator, self._data = accelerator, data
        self._others: Literal["follow", "end", "are lost"] = "follow"
        check_alike(accelerator, torch=torch.__version__, data=data.digest)
        # On the processor, so that none of those who wait keeps a GPU busy.
        calls = distributed.new_group(timeout=IDLE, backend="gloo") if self.count > 1 else None
        assert not isinstance(calls, int)  # all are members
        self._calls = calls

    @property
    def count(self) -> int:
        """How many they are."""
        return self._accelerator.num_processes

    def run(
        self,
        function: Callable[..., T],
        *args: Any,
        main: Mapping[str, Any] = MappingProxyType({}),
        **kwargs: Any,
    ) -> T:
        """Call a function here and in all others, and return this one's result.

        Args:
            function: of a module, so that it can be sent by name.
            *args: of all.
            main: keyword arguments of main alone.
            **kwargs: of all.

        Raises:
            WorkerDiedError: (a ``RuntimeError``) where another process has died.
        """
        if self.count == 1:
            return function(*args, **kwargs, **main)
        with self._in_step():
            self._broadcast(pack((function, args, kwargs))[0])
            return function(*args, **kwargs, **main)

    def follow(self) -> None:
        """Call what main calls, until it has no more.

        Raises:
            WorkerDiedError: (a ``RuntimeError``) where another process has died.
        """
        message: bytes | None = b""
        while message is not None:
            with suppress(DivergedError), self._in_step():  # main knows of it, too, and decides
                message = self._broadcast(None)
                if message is not None:
                    function, args, kwargs = unpack(message, {self._data.digest: self._data})
                    function(*args, **kwargs)

    def _broadcast(self, call: bytes | None) -> bytes | None:
        """Main's call to all others, or that there is no more."""
        distributed.broadcast(torch.zeros(1), src=0, group=self._calls)  # however long main takes to come
        (call,) = broadcast_object_list([call])  # which may be large: not for ever to one that hangs
        return call

    @contextmanager
    def _in_step(self) -> Iterator[None]:
        """While all do the same: what becomes of the others where this one fails."""
        try:
            yield
        except DivergedError:  # all see the same loss
            raise
        except Interrupted:  # all have agreed on it
            self._others = "end"
            raise
        except BaseException as error:
            self._others = "are lost"
            if type(error) is not RuntimeError and not isinstance(error, distributed.DistError):
                raise
            # of a lost connection, the processes' library says no more than that
            reason = str(error).split("\n")[0][:200]
            raise WorkerDiedError(
                f"expected all processes of the training to live, but one has probably died ({reason}); run the same "
                "command again to go on"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.count == 1 or self._others == "are lost":
            return
        with suppress(RuntimeError):  # one that has died is not to hide how this ends
            if self._accelerator.is_main_process and self._others == "follow":
                self._broadcast(None)
            self._accelerator.end_training()  # or some processes abort at their exit
