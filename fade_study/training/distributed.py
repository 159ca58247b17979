"""One training over several processes of a launcher: the main process decides, and the others follow."""

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

T = TypeVar("T")
IDLE = timedelta(days=30)
"""Timeout of processes that wait for the main one, which may be busy alone or wait for evaluations."""


def everywhere(accelerator: Accelerator, function: Callable[..., T], *args: Any) -> T:
    """Call a function in all processes, all of which have to call this; an error in one of them is raised in all.

    On each machine one process calls it before the others, so that it may download files that the others then find.
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
    """All processes that a launcher has started, as a context manager.

    The main process calls functions by :meth:`run`. The others :meth:`follow`: they call the same functions at the same
    time with the same arguments. In between, the main process alone decides and writes. Each process has loaded the
    data set by itself; it is not sent with the calls. Different data or versions of PyTorch are an
    ``InvalidInputError``.
    """

    def __init__(self, accelerator: Accelerator, data: Data) -> None:
        self._accelerator, self._data = accelerator, data
        self._others: Literal["follow", "end", "are lost"] = "follow"
        check_alike(accelerator, torch=torch.__version__, data=data.digest)
        # The group is on the CPU, so that processes that wait don't keep a GPU busy.
        calls = distributed.new_group(timeout=IDLE, backend="gloo") if self.count > 1 else None
        assert not isinstance(calls, int)  # all are members
        self._calls = calls

    @property
    def count(self) -> int:
        """Number of processes."""
        return self._accelerator.num_processes

    def run(
        self,
        function: Callable[..., T],
        *args: Any,
        main: Mapping[str, Any] = MappingProxyType({}),
        **kwargs: Any,
    ) -> T:
        """Call a function in all processes, and return the result of the main process.

        The function is sent by name, so it has to be one of a module. Only the main process gets the keyword arguments
        ``main``. A ``WorkerDiedError`` says that another process has died.
        """
        if self.count == 1:
            return function(*args, **kwargs, **main)
        with self._in_step():
            self._broadcast(pack((function, args, kwargs))[0])
            return function(*args, **kwargs, **main)

    def follow(self) -> None:
        """Call what the main process calls, until it ends; a ``WorkerDiedError`` if another process has died."""
        message: bytes | None = b""
        while message is not None:
            with suppress(DivergedError), self._in_step():  # raised in the main process as well, which decides
                message = self._broadcast(None)
                if message is not None:
                    function, args, kwargs = unpack(message, {self._data.digest: self._data})
                    function(*args, **kwargs)

    def _broadcast(self, call: bytes | None) -> bytes | None:
        """Send a packed call from the main process to all others; None ends them."""
        distributed.broadcast(torch.zeros(1), src=0, group=self._calls)  # wait for the main process, with timeout IDLE
        (call,) = broadcast_object_list([call])  # with the usual, shorter timeout
        return call

    @contextmanager
    def _in_step(self) -> Iterator[None]:
        """Within this context all processes do the same; an error determines what happens to the others."""
        try:
            yield
        except DivergedError:  # raised in all processes
            raise
        except Interrupted:  # raised in all processes
            self._others = "end"
            raise
        except BaseException as error:
            self._others = "are lost"
            if type(error) is not RuntimeError and not isinstance(error, distributed.DistError):
                raise
            # PyTorch raises a plain RuntimeError for a lost connection.
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
        with suppress(RuntimeError):  # for a process that has died; it must not hide another error
            if self._accelerator.is_main_process and self._others == "follow":
                self._broadcast(None)
            self._accelerator.end_training()  # threads of gloo would live on, and sometimes abort the process's exit
        self._calls = None  # its threads live as long as it is referenced
