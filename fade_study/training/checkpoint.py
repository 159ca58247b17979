"""The state of a training in a file, whose last good version is never lost."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, distributed

from fade_study import interrupt
from fade_study.exceptions import StorageError

__all__ = ["Checkpoint", "Progress", "Stateful"]

DIGEST = hashlib.sha256
"""Of the content, which it precedes in the file."""


class Checkpoint:
    """A file that is either the state that was saved last, or the one before: never half of one.

    It holds tensors and plain values only, so that reading a file of somebody else's runs none of their code.

    Args:
        path: of the file. The state before lies beside it, as ``….previous``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._previous = self.path.with_name(self.path.name + ".previous")

    def save(self, state: Any) -> None:
        """Make this the newest state, once all of it is on the disk.

        Raises:
            StorageError: (an ``OSError``) where it can't be written; the state before is still there.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        unfinished = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                file.write(DIGEST(content).digest() + content)
                file.flush()
                os.fsync(file.fileno())
            if self.path.exists():
                self.path.replace(self._previous)
            unfinished.replace(self.path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise StorageError(
                f"expected to write a checkpoint of {len(content)} bytes to {self.path}: {error}. The one before is "
                "intact: make room or choose another folder, and run the same command again"
            ) from error

    def load(self) -> Any | None:
        """The newest state that is whole, on the processor; None where there is none. A damaged one is warned of."""
        for path in (self.path, self._previous):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            size = DIGEST().digest_size
            if DIGEST(content[size:]).digest() == content[:size]:
                # a file with code in it is no state of ours, and runs none; what else it may hold, torch does not say
                with contextlib.suppress(Exception):
                    return torch.load(io.BytesIO(content[size:]), "cpu", weights_only=True)
            warnings.warn(f"the checkpoint {path} is damaged; going on from the one before it, if any", stacklevel=2)
        return None

    def remove(self) -> None:
        """Forget it: what it was for is done. So are files that a process which was killed had begun to write."""
        for path in (self.path, *self.path.parent.glob(f"{self.path.name}.*")):
            path.unlink(missing_ok=True)


class Stateful(Protocol):
    """A part of a training whose state can be kept."""

    def state_dict(self) -> Any:
        """Tensors and plain values."""
        ...

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """The inverse."""
        ...


class Progress:
    """Where a training stands, and all that it takes to go on from there to the same result.

    Of several processes that train together the main one reads and writes the file, and all end at the same step.

    Args:
        identity: of the training: the state of another is not taken.
        checkpoint: file that keeps the state after each epoch, and after a step where a signal ends the process.
        generator: of all of ours that is random once the training has begun. An operation of the user's may draw from
            PyTorch's own generators, whose states are kept, too.
        parts: by name.
        accelerator: of the training.
    """

    def __init__(
        self,
        identity: str,
        checkpoint: str | Path | None,
        generator: torch.Generator,
        parts: Mapping[str, Stateful],
        accelerator: Accelerator,
    ) -> None:
        self.history: list[Any] = []
        """Tensors and plain values of each epoch that is done."""
        self.running: dict[str, Tensor] = {}
        """Of the epoch that runs; on the processor, where a checkpoint has brought it."""
        self._step = 0
        self._identity, self._generator, self._parts = identity, generator, parts
        self._file = None if checkpoint is None or not accelerator.is_main_process else Checkpoint(checkpoint)
        self._accelerator, self._device = accelerator, accelerator.device
        self._begin = time.perf_counter()
        state = None if self._file is None else self._file.load()
        (state,) = broadcast_object_list([state])
        if isinstance(state, dict) and state.get("identity") == identity:
            self._load(state)

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return len(self.history)

    @property
    def seconds(self) -> float:
        """Since the beginning, without those between a kill and the next start."""
        return time.perf_counter() - self._begin

    def steps(self, count: int) -> Iterator[int]:
        """Steps of the running epoch that are left of so many. Between two of them a signal may end the process."""
        while self._step < count:
            if number := self._signal():
                self._save()
                raise interrupt.Interrupted(number)
            yield self._step
            self._step += 1

    def end_epoch(self, record: Any) -> None:
        """Keep an epoch's record, and the state."""
        self.history.append(record)
        self.running, self._step = {}, 0
        self._save()

    def _signal(self) -> int:
        """Number of a signal that has come to any of the processes, or 0."""
        number = interrupt.requested()
        if self._accelerator.num_processes == 1:
            return number
        anywhere = torch.tensor(number, device=self._accelerator.device)
        distributed.all_reduce(anywhere, distributed.ReduceOp.MAX)
        return int(anywhere)

    def _save(self) -> None:
        if self._file is not None:
            self._file.save(
                {
                    "identity": self._identity,
                    "history": self.history,
                    "running": self.running,
                    "step": self._step,
                    "seconds": self.seconds,
                    "generator": self._generator.get_state(),
                    "random": torch.get_rng_state(),
                    "random_cuda": torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None,
                    "parts": {name: part.state_dict() for name, part in self._parts.items()},
                }
            )

    def _load(self, state: Mapping[str, Any]) -> None:
        self.history, self.running, self._step = state["history"], state["running"], state["step"]
        self._begin -= state["seconds"]
        self._generator.set_state(state["generator"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self._device)
        for name, part in self._parts.items():
            part.load_state_dict(state["parts"][name])
