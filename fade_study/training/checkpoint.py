"""Checkpoints: the state of a training in a file that survives a kill or a full disk at any moment."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, distributed

from fade_study import interrupt
from fade_study.exceptions import StorageError

DIGEST = hashlib.sha256
"""Hash of the content, which it precedes in the file."""
CHECK_EVERY = 16
"""Number of steps after which a training asks its GPU, or processes on other GPUs, and has to wait for the answer."""


class Checkpoint:
    """A file with the latest state of a training. An interrupted or failed write leaves the previous state intact.

    It holds only tensors and plain values, so that reading an untrusted file can't run code. The previous state lies
    beside it, as ``….previous``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._previous = self.path.with_name(self.path.name + ".previous")

    def save(self, state: Any) -> None:
        """Save a state, after which it is on the disk; after a ``StorageError``, the previous state is intact."""
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
            self.path.parent.stat()  # raises where the folder is gone
            for source, target in ((self.path, self._previous), (unfinished, self.path)):
                with contextlib.suppress(FileNotFoundError):  # another process has done this training, and removed it
                    if source.exists():
                        source.replace(target)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise StorageError(
                f"expected to write a checkpoint of {len(content)} bytes to {self.path}: {error}. The previous one is "
                "intact: make room or choose another folder, and run the same command again"
            ) from error

    def load(self) -> Any | None:
        """The latest intact state, on the CPU; None if there is none. A damaged file gives a warning."""
        for path in (self.path, self._previous):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            size = DIGEST().digest_size
            if DIGEST(content[size:]).digest() == content[:size]:
                # torch.load refuses a file with code in it, and doesn't document what it raises for others.
                with contextlib.suppress(Exception):
                    return torch.load(io.BytesIO(content[size:]), "cpu", weights_only=True)
            warnings.warn(f"the checkpoint {path} is damaged; going on from the one before it, if any", stacklevel=2)
        return None

    def remove(self) -> None:
        """Delete the file, the previous one, and incomplete ones that killed processes have left."""
        for path in (self.path, *self.path.parent.glob(f"{self.path.name}.*")):
            path.unlink(missing_ok=True)


class Progress:
    """The progress of a training, from which it can be resumed to the same result.

    The state is saved after each epoch, and when a signal stops the training; that of a training with another identity
    is ignored. It holds the states of the generator, of PyTorch's own generators, since the user's operations may draw
    from them, and of the ``parts``, which have ``state_dict`` and ``load_state_dict``. If several processes train
    together, the main one reads and writes the file, and all stop at the same step.
    """

    def __init__(
        self,
        identity: str,
        checkpoint: str | Path | None,
        generator: torch.Generator,
        parts: Mapping[str, Any],
        accelerator: Accelerator,
    ) -> None:
        self.history: list[Any] = []
        """Results of each finished epoch, as tensors and plain values."""
        self.running: dict[str, Tensor] = {}
        """Tensors of the current epoch; a checkpoint restores them to the CPU."""
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
        """Number of finished epochs."""
        return len(self.history)

    @property
    def seconds(self) -> float:
        """Seconds of training, without the time between an interruption and the next start."""
        return time.perf_counter() - self._begin

    def steps(self, count: int) -> Iterator[int]:
        """Remaining steps of the current epoch, which has ``count`` steps.

        After a signal to any of the processes, the state is saved between two steps and ``Interrupted`` raised.
        """
        every = CHECK_EVERY if self._device.type == "cuda" and self._accelerator.num_processes > 1 else 1
        while self._step < count:
            if self._step % every == 0 and (number := self._signal()):
                self._save()
                raise interrupt.Interrupted(number)
            yield self._step
            self._step += 1

    def end_epoch(self, record: Any) -> None:
        """Finish an epoch with its results, and save the state."""
        self.history.append(record)
        self.running, self._step = {}, 0
        self._save()

    def _signal(self) -> int:
        """Number of a signal that any of the processes has received, or 0."""
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
