"""Which process owns an open generation or evaluation, and how it ends.

Several processes may work on one study, one generation at a time, and evaluate as many architectures at once. The
process that has one open is written to its trial as the owner. An owner is alive as long as its process runs or, seen
from another host, as long as it renews its heartbeat.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
import warnings
import weakref
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from fade_study._optuna import forget_cached_trials, id_of, reopen, storage_of, study_id_of
from fade_study.exceptions import InvalidInputError, OpenGenerationError
from fade_study.generation import CELLS, EVALUATES, OWNER, Batch, OpenEvaluation
from fade_study.past import read_past
from fade_study.study.storage import retried

BEAT_SECONDS = 20.0
"""Between two heartbeats of an owner."""
SILENT_SECONDS = 120.0
"""An owner on another host with an older heartbeat is taken for dead; the hosts' clocks have to agree to less."""
CLAIM_SECONDS = 0.5
"""After taking over a dead process's trial, wait for so long before looking whether another process did so as well."""


def claim(study: optuna.Study) -> optuna.Trial:
    """Claim the trial of the next generation for this process: the trial that is open, or a new one.

    An open trial is taken over if this process owns it or if its owner died. If several processes begin a trial at the
    same moment, the trial with the lowest number wins. An ``OpenGenerationError`` says that another living process has
    the generation open.
    """
    forget_cached_trials(study)
    begun, running = None, []
    while not running:
        unfinished = read_past(study).unfinished
        running = [t for t in unfinished if t.state == TrialState.RUNNING and EVALUATES not in t.user_attrs]
        if not running:
            begun = _begin(study, enqueued=any(t.state == TrialState.WAITING for t in unfinished))
    first = running[0]
    owned = id_of(first) == begun or (not _lives_elsewhere(first) and _take_over(study, first))
    for trial in running[1:]:
        if is_mine(trial):  # another process began its trial first
            _give_up(study, id_of(trial))
    if not owned:
        owner = owner_name(storage_of(study).get_trial(id_of(first)))
        raise OpenGenerationError(
            f"expected no open generation, but generation {len(read_past(study).told)} is, in {owner}; "
            "wait until it is told, or stop that process, then ask() again"
        )
    return reopen(study, id_of(first))


def _begin(study: optuna.Study, *, enqueued: bool) -> int | None:
    """Create a running trial. Returns its id if this process owns it from the start, None if the user enqueued it."""
    if enqueued:  # the user has called Optuna's enqueue_trial
        study.ask()  # has no owner yet, so that it is taken over like a dead process's
        return None
    trial = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs={OWNER: _this_process()})
    return storage_of(study).create_new_trial(study_id_of(study), trial)


def claim_evaluation(
    study: optuna.Study, generation: int, params: dict[str, float], cells: Sequence[str], held: Collection[int]
) -> FrozenTrial | None:
    """Create a running trial that evaluates the architecture of a generation, and that this process owns.

    It gets the params, which are coordinates of the architecture's cells, and the keys ``cells`` ``(d,)``. Returns None
    if another living process evaluates the same architecture, or has told the value meanwhile. If several processes
    begin at the same moment, the trial with the lowest number wins. The running trials with the ids ``held`` are those
    that this object of the study has open.
    """
    rows = [[key] for key in cells]
    unit: BaseDistribution = FloatDistribution(0.0, 1.0)

    def others() -> list[FrozenTrial]:
        past = read_past(study)
        complete = [past.values[generation]] if generation in past.values else []
        return complete + [
            t
            for t in past.unfinished
            if EVALUATES in t.user_attrs
            and id_of(t) not in held
            and (t.user_attrs[EVALUATES] == generation or t.user_attrs[CELLS] == rows)
        ]

    for other in others():
        if other.state.is_finished() or _lives_elsewhere(other):
            return None
        _give_up(study, id_of(other))  # its process died, or it is this one's and the answer that said so was lost
    begun = optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=params,
        distributions=dict.fromkeys(params, unit),
        user_attrs={EVALUATES: generation, CELLS: rows, OWNER: _this_process()},
    )
    trial_id = storage_of(study).create_new_trial(study_id_of(study), begun)
    # Look again now that the trial can be seen by all: another process may have begun or finished meanwhile.
    if [id_of(other) for other in others()][:1] != [trial_id]:
        _give_up(study, trial_id)
        return None
    return storage_of(study).get_trial(trial_id)


def _give_up(study: optuna.Study, trial_id: int) -> None:
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        storage_of(study).set_trial_state_values(trial_id, TrialState.FAIL)


def _take_over(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Become the owner of a running trial; False where another process was faster."""
    try:
        storage_of(study).set_trial_user_attr(id_of(trial), OWNER, _this_process())
    except optuna.exceptions.UpdateFinishedTrialError:
        return False
    if not is_mine(trial):
        time.sleep(CLAIM_SECONDS)  # if several processes take it over at the same moment, the last one to write wins
    trial = storage_of(study).get_trial(id_of(trial))
    return trial.state == TrialState.RUNNING and is_mine(trial)


def is_mine(trial: FrozenTrial) -> bool:
    """Whether this process owns a trial."""
    owner = trial.user_attrs.get(OWNER)
    return owner is not None and owner["pid"] == os.getpid() and _is_here(owner) and _is_running(owner)


def owner_name(trial: FrozenTrial) -> str:
    """Name of a trial's owner, for messages."""
    owner = trial.user_attrs.get(OWNER)
    return f"process {owner['pid']} on host {owner['host']!r}" if owner else "a process that left no name"


def _lives_elsewhere(trial: FrozenTrial) -> bool:
    """Whether a trial is owned by another process that is alive."""
    owner = trial.user_attrs.get(OWNER)
    if owner is None or is_mine(trial):
        return False
    return _is_running(owner) if _is_here(owner) else time.time() - owner["beat"] < SILENT_SECONDS


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {**_here(), "pid": pid, "started": _started(pid), "beat": time.time()}


def _here() -> dict[str, str]:
    """The scope in which a process id is unique: a boot of a host, and a container on it.

    Machines made from one image may share host names and ids of containers, but every boot has an id of its own.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return {"host": socket.gethostname(), "boot": boot, "namespace": os.readlink("/proc/self/ns/pid")}
    except OSError:  # not Linux
        return {"host": socket.gethostname(), "boot": f"{uuid.getnode():x}", "namespace": ""}


def _is_here(owner: dict[str, Any]) -> bool:
    return _here().items() <= owner.items()


def _is_running(owner: dict[str, Any]) -> bool:
    """Whether an owner on this host is alive; another process may have its process id by now."""
    started = _started(owner["pid"])
    return started is not None and abs(started - owner["started"]) < 2  # the boot time has a resolution of a second


def _started(pid: int) -> float | None:
    """Seconds from boot to the start of a process, unaffected by changes of the clock; None where it is gone."""
    import psutil

    try:
        process = psutil.Process(pid)
        # A zombie is dead, but its parent has not collected its exit status.
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time() - psutil.boot_time()
    except psutil.NoSuchProcess:
        return None


def _renew(storage: BaseStorage, trial_id: int, stopped: threading.Event) -> None:
    """Renew the heartbeat of this process's trial until it is stopped or the trial is lost."""
    while not stopped.wait(BEAT_SECONDS):
        with contextlib.suppress(Exception):  # whatever is wrong with the storage, the next heartbeat may reach it
            trial = storage.get_trial(trial_id)
            if trial.state.is_finished() or not is_mine(trial):
                return
            storage.set_trial_user_attr(trial_id, OWNER, _this_process())


class OpenTrial:
    """The trial of a batch or an evaluation that one object of a study has open; messages call it by its name."""

    def __init__(self, study: optuna.Study, asked: Batch | OpenEvaluation, name: str, trial_id: int) -> None:
        self.asked: Any = asked
        self.trial_id = trial_id
        self.closed = False
        self._study, self._name = study, name
        stopped = threading.Event()
        self._stop_beat = weakref.finalize(self, stopped.set)
        """Stops the heartbeat, without waiting for its thread; garbage collection of this object stops it as well."""
        # The thread holds no reference to this object, which could not be garbage-collected otherwise.
        arguments = (storage_of(study), trial_id, stopped)
        threading.Thread(target=_renew, args=arguments, name="fade_study heartbeat", daemon=True).start()
        self._tried = False
        """Whether an attempt to finish it may have succeeded, although its answer was lost."""

    def finish(
        self,
        state: TrialState,
        attributes: Mapping[str, Any],
        value: float | None = None,
        one_shot_accuracy: float | None = None,
    ) -> bool:
        """Store how it ends, and return whether the sampler asked to stop the search.

        The state is written last and closes it, so that nothing is ever half told. An ``InvalidInputError`` says that
        another process has finished it or taken it over. After a ``StorageError`` it stays open.
        """
        stop = retried(lambda: self._store(state, attributes, value, one_shot_accuracy), self._study)
        self._close()
        return stop

    def _store(
        self,
        state: TrialState,
        attributes: Mapping[str, Any],
        value: float | None,
        one_shot_accuracy: float | None,
    ) -> bool:
        storage = storage_of(self._study)
        stored = storage.get_trial(self.trial_id)
        missing = {name: x for name, x in attributes.items() if stored.user_attrs.get(name, {}) != x}
        if self._tried and is_mine(stored) and stored.state == state and not missing:
            return False  # an earlier attempt succeeded, but its answer was lost
        self._check_open(stored)
        self._tried = True
        try:
            for name, x in missing.items():
                storage.set_trial_user_attr(self.trial_id, name, x)
            if isinstance(self.asked, Batch):
                if one_shot_accuracy is not None:
                    storage.set_trial_intermediate_value(self.trial_id, self.asked.number, one_shot_accuracy)
                self._study.tell(stored.number, value, state)
            else:  # the sampler hears of an evaluation when it next reads the history
                storage.set_trial_state_values(self.trial_id, state, None if value is None else [value])
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError):  # Optuna's errors for a trial that has ended
            self._check_open(storage.get_trial(self.trial_id))  # another process may have ended it a moment ago
            raise
        except RuntimeError as error:  # raised by a sampler's hook, which Optuna calls after everything is stored
            if storage.get_trial(self.trial_id).state != state:
                raise
            warnings.warn(f"{self._name} is told; then its sampler raised {error!r}", stacklevel=2)
            return True  # GridSampler asks for it when its grid is exhausted
        return False

    def _check_open(self, stored: FrozenTrial) -> None:
        """Raise unless the trial is still open and this process's."""
        if not stored.state.is_finished() and is_mine(stored):
            return
        self._close()
        if stored.state.is_finished():
            raise InvalidInputError(
                f"expected {self._name} to be open, but another session has finished it; ask for another"
            )
        raise InvalidInputError(
            f"expected {self._name} to be this process's, but {owner_name(stored)} has taken it over; ask for another"
        )

    def _close(self) -> None:
        self.closed = True
        self._stop_beat()
