"""A study's storage: which process owns the open generation, and what to do while the storage does not answer.

Several processes may work on one study, one generation at a time, and evaluate as many architectures. The process that
has one of them open is written to its trial as the owner; it lives as long as its pid does, or, seen from another host,
as long as it goes on renewing its beat.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import traceback
import uuid
import weakref
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import optuna
import tenacity
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from fade_study.exceptions import FadeError, OpenGenerationError, StorageError
from fade_study.past import EVALUATES, read_past
from fade_study.samplers._base import CELLS
from fade_study.settings import connect_arguments, masked, place

__all__ = [
    "OWNER",
    "Beat",
    "claim",
    "claim_evaluation",
    "is_mine",
    "open_storage",
    "owner_name",
    "retried",
    "retried_on",
]

OWNER = "fade:owner"
"""Attribute of a trial: the process that has its generation, or its evaluation, open."""

BEAT_SECONDS = 20.0
"""Between two beats of an owner."""
SILENT_SECONDS = 120.0
"""After so long without a beat an owner on another host is taken for dead; the hosts' clocks have to agree to less."""
CLAIM_SECONDS = 0.5
"""After so long a process that took a dead one's generation over looks whether another did so, too."""

FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 5.0
RETRY_SECONDS = 60.0
"""A storage that is busy or away is tried again for so long, with waits that double up to the longest, at random."""
OPEN_ATTEMPTS = 5
OPEN_SECONDS = 3.0
"""So often a storage is tried to be opened, but not again after so long: where it is away, a human waits."""

Result = TypeVar("Result")


# --- who owns the open generation -----------------------------------------------------------------


def claim(study: optuna.Study) -> optuna.Trial:
    """The trial of the next generation, for this process alone: the one that is open, or else a new one.

    One that is open is this process's own, or that of a process that died. Where processes begin trials at the same
    moment, the lowest number has it.

    Raises:
        OpenGenerationError: (a ``RuntimeError``) where it is another process's.
    """
    study._thread_local.cached_all_trials = None  # as Study.ask does: samplers of Optuna's read it
    begun, running = None, []
    while not running:
        unfinished = read_past(study).unfinished
        running = [t for t in unfinished if t.state == TrialState.RUNNING and EVALUATES not in t.user_attrs]
        if not running:
            begun = _begin(study, enqueued=any(t.state == TrialState.WAITING for t in unfinished))
    first = running[0]
    owned = first._trial_id == begun or (not _lives_elsewhere(first) and _take_over(study, first))
    for trial in running[1:]:
        if is_mine(trial):  # it came second
            _give_up(study, trial._trial_id)
    if not owned:
        owner = owner_name(study._storage.get_trial(first._trial_id))
        raise OpenGenerationError(
            f"expected no open generation, but generation {len(read_past(study).told)} is, in {owner}; "
            "wait until it is told, or stop that process, then ask() again"
        )
    # Optuna has no public way to take up a running trial again; its own ask() builds it like this, too.
    return optuna.Trial(study, first._trial_id)


def _begin(study: optuna.Study, *, enqueued: bool) -> int | None:
    """Make a running trial; its id where it is this process's from the first moment on."""
    if enqueued:  # by the user, with Optuna's enqueue_trial
        study.ask()  # has no owner, so it is taken over
        return None
    trial = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs={OWNER: _this_process()})
    return study._storage.create_new_trial(study._study_id, trial)


def claim_evaluation(
    study: optuna.Study, generation: int, trial: FrozenTrial, cells: Sequence[str], held: Collection[int]
) -> FrozenTrial | None:
    """A new running trial that is to bring the value of a generation, for this process alone.

    Args:
        study: of Optuna.
        generation: that has no value.
        trial: with the params that this one gets.
        cells: keys of the architecture that is to be evaluated, ``(d,)``.
        held: ids of the running trials that this process is at work on.

    Returns:
        None where a living process is at work on the same architecture, or has told the value meanwhile. Where
        processes begin at the same moment, the lowest number has it.
    """
    rows = [[key] for key in cells]

    def others() -> list[FrozenTrial]:
        past = read_past(study)
        complete = [past.values[generation]] if generation in past.values else []
        return complete + [
            t
            for t in past.unfinished
            if EVALUATES in t.user_attrs
            and t._trial_id not in held
            and (t.user_attrs[EVALUATES] == generation or t.user_attrs[CELLS] == rows)
        ]

    for other in others():
        if other.state.is_finished() or _lives_elsewhere(other):
            return None
        _give_up(study, other._trial_id)  # of a process that died, or of this one, which never heard of it
    begun = optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={EVALUATES: generation, CELLS: rows, OWNER: _this_process()},
    )
    trial_id = study._storage.create_new_trial(study._study_id, begun)
    # Only now: nobody can begin, or end, unseen.
    if [other._trial_id for other in others()][:1] != [trial_id]:
        _give_up(study, trial_id)
        return None
    return study._storage.get_trial(trial_id)


def _give_up(study: optuna.Study, trial_id: int) -> None:
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        study._storage.set_trial_state_values(trial_id, TrialState.FAIL)


def _take_over(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Become the owner of a running trial; False where another process was faster."""
    try:
        study._storage.set_trial_user_attr(trial._trial_id, OWNER, _this_process())
    except optuna.exceptions.UpdateFinishedTrialError:
        return False
    if not is_mine(trial):
        time.sleep(CLAIM_SECONDS)  # of several that take it over at the same moment, the last to write has it
    trial = study._storage.get_trial(trial._trial_id)
    return trial.state == TrialState.RUNNING and is_mine(trial)


def is_mine(trial: FrozenTrial) -> bool:
    """Whether this process owns a trial."""
    owner = trial.user_attrs.get(OWNER)
    return owner is not None and owner["pid"] == os.getpid() and _is_here(owner) and _is_running(owner)


def owner_name(trial: FrozenTrial) -> str:
    """The owner of a trial, for messages."""
    owner = trial.user_attrs.get(OWNER)
    return f"process {owner['pid']} on host {owner['host']!r}" if owner else "a process that left no name"


def _lives_elsewhere(trial: FrozenTrial) -> bool:
    """Whether the owner of a trial is another process, and alive."""
    owner = trial.user_attrs.get(OWNER)
    if owner is None or is_mine(trial):
        return False
    return _is_running(owner) if _is_here(owner) else time.time() - owner["beat"] < SILENT_SECONDS


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {**_here(), "pid": pid, "started": _started(pid), "beat": time.time()}


def _here() -> dict[str, str]:
    """Where a pid means anything: this host since it was booted, and in it this container.

    Machines made from one image may share their name, and the ids of their containers; a boot has an id of its own.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return {"host": socket.gethostname(), "boot": boot, "namespace": os.readlink("/proc/self/ns/pid")}
    except OSError:  # not Linux
        return {"host": socket.gethostname(), "boot": f"{uuid.getnode():x}", "namespace": ""}


def _is_here(owner: dict[str, Any]) -> bool:
    return _here().items() <= owner.items()


def _is_running(owner: dict[str, Any]) -> bool:
    """Whether an owner on this host lives: its pid may be another process's by now."""
    started = _started(owner["pid"])
    return started is not None and abs(started - owner["started"]) < 2  # boot time is known to a second


def _started(pid: int) -> float | None:
    """Seconds from boot to the start of a process, which no change of the clock touches; None where it is gone."""
    import psutil

    try:
        process = psutil.Process(pid)
        # A zombie is dead, but its parent has not asked how it died.
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time() - psutil.boot_time()
    except psutil.NoSuchProcess:
        return None


class Beat:
    """Renews the beat of a trial's owner until it is stopped or garbage, or the trial is no longer this process's."""

    def __init__(self, storage: BaseStorage, trial_id: int) -> None:
        stopped = threading.Event()
        self.stop = weakref.finalize(self, stopped.set)
        """Never waits for the thread."""
        # The thread must not know this object, which would never become garbage.
        arguments = (storage, trial_id, stopped)
        threading.Thread(target=_renew, args=arguments, name="fade_study beat", daemon=True).start()


def _renew(storage: BaseStorage, trial_id: int, stopped: threading.Event) -> None:
    while not stopped.wait(BEAT_SECONDS):
        with contextlib.suppress(Exception):  # whatever ails the storage: the next beat may reach it
            trial = storage.get_trial(trial_id)
            if trial.state.is_finished() or not is_mine(trial):
                return
            storage.set_trial_user_attr(trial_id, OWNER, _this_process())


# --- a storage that does not answer ---------------------------------------------------------------


def retried(operation: Callable[[], Result], study: optuna.Study) -> Result:
    """Call an operation on a study, again and again while its storage is busy or away, for :data:`RETRY_SECONDS`.

    An attempt that failed may have changed the storage nevertheless, when only its answer was lost: it is the
    operation's duty to find out.

    Raises:
        StorageError: (an ``OSError``) where the storage stays away, or somebody has deleted the study.
    """
    try:
        return retried_on(study._storage, study.study_name, operation)
    except KeyError:  # the user's code may raise one, too
        retried_on(study._storage, study.study_name, lambda: read_past(study))  # raises where it was deleted
        raise


def retried_on(opened: BaseStorage, study_name: str | None, operation: Callable[[], Result]) -> Result:
    """The same, for a study that is not open yet."""
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_away),
        wait=tenacity.wait_random_exponential(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS),
        stop=tenacity.stop_after_delay(RETRY_SECONDS),
        reraise=True,
    )
    try:
        return attempts(operation)
    except Exception as error:
        if not _is_away(error):
            raise
        storage = getattr(opened, "_backend", opened)  # what Optuna's cache hides
        url = place(str(getattr(storage, "url", type(storage).__name__)))
        reason = masked(str(error.__cause__ or error).partition("\n")[0])
        raise StorageError(
            f"expected the storage of study {study_name!r} to answer within {RETRY_SECONDS:g} s, got from {url}: "
            f"{reason}. What was told before is stored, and an open generation is still open: look after the server "
            "or the file and who has locked it, then call again"
        ) from error


def _is_away(error: BaseException) -> bool:
    """Whether an error is of a storage that is busy or away."""
    import sqlalchemy.exc

    if isinstance(error, OSError) and not isinstance(error, FadeError):
        # Only a storage's own: a sampler or space of the user's may have files, too.
        modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
        return any(module.startswith("optuna.storages") for module in modules)
    return isinstance(error, optuna.exceptions.StorageInternalError | sqlalchemy.exc.SQLAlchemyError)


def open_storage(storage: str | BaseStorage | None) -> BaseStorage:
    """An Optuna storage, from its URL or as it is; None is memory.

    Raises:
        StorageError: (an ``OSError``) where it can't be opened.
    """
    import sqlalchemy.exc

    def attempt() -> BaseStorage:
        if isinstance(storage, str) and (arguments := connect_arguments(storage)):
            return optuna.storages.get_storage(optuna.storages.RDBStorage(storage, engine_kwargs=arguments))
        return optuna.storages.get_storage(storage)

    # Two processes that open a new file at the same moment make the same tables, and one of them fails.
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_away),
        wait=tenacity.wait_random(0, FIRST_WAIT_SECONDS),
        stop=tenacity.stop_after_attempt(OPEN_ATTEMPTS) | tenacity.stop_after_delay(OPEN_SECONDS),
        reraise=True,
    )
    try:
        return attempts(attempt)
    except (
        ImportError,
        OSError,
        RuntimeError,
        ValueError,
        sqlalchemy.exc.SQLAlchemyError,
        optuna.exceptions.StorageInternalError,
    ) as error:
        reason = masked(" ".join(str(error.__cause__ or error).partition("(Background")[0].split()))
        raise StorageError(
            f"expected a storage that can be opened, got {place(str(storage))}: {reason}. "
            "Check the folder, the server and its driver; 'sqlite:///fade.db' is a file in this folder"
        ) from error
