"""Records on their way to a server that may be away: kept on the disk, delivered in order, each of them once.

All records go this way, so that a process that is killed leaves what it could not deliver to the next one. The file is
an SQLite database; a lock that a dead process gives back tells whose records are left over.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fade_study.exceptions import FadeError, StorageError
from fade_study.urls import masked

__all__ = ["Outbox", "Record"]

FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0
"""Seconds without a new attempt after the first failure, and after many."""
ATTEMPTS = 3
"""At a record while the server takes others, before it is taken for refused."""
TABLES = """
CREATE TABLE IF NOT EXISTS records (
    number INTEGER PRIMARY KEY, session TEXT, server TEXT, run TEXT, kind TEXT, content TEXT, data BLOB, tried INTEGER
);
CREATE TABLE IF NOT EXISTS refused (
    number INTEGER PRIMARY KEY, server TEXT, run TEXT, kind TEXT, content TEXT, data BLOB, reason TEXT
);
CREATE TABLE IF NOT EXISTS runs (run TEXT PRIMARY KEY, session TEXT, server TEXT, id TEXT, open INTEGER);
"""


@dataclass(frozen=True, slots=True)
class Record:
    """Something for the server."""

    run: str
    """Id of a run, or the name that one has until the server gives it an id."""
    kind: str
    content: dict[str, Any]
    data: bytes
    tried: bool
    """Whether an attempt to deliver it was made before, of which the end is not known."""


class Outbox:
    """The records of a process, and those that dead ones have left for the same server.

    Args:
        path: of the file, which all processes in a folder share.
        server: to whom they go.
        deliver: hands over a record, with the id of its run; returns the id of a run that it has made. A record that
            was tried before may be there already.
        is_away: whether an error of ``deliver`` means that the server does not answer, so that it pays to wait.
        may_refuse: whether such an error may also mean that the server will never take this record.

    Raises:
        StorageError: (an ``OSError``) where the file can't be written.
    """

    def __init__(
        self,
        path: str | Path,
        server: str,
        deliver: Callable[[Record, str], str | None],
        is_away: Callable[[Exception], bool],
        may_refuse: Callable[[Exception], bool] = lambda _: False,
    ) -> None:
        self.path = Path(path)
        self._server, self._deliver, self._is_away, self._may_refuse = server, deliver, is_away, may_refuse
        self._failures: dict[int, int] = {}
        """How often records failed while the server took others, by number."""
        self._session = uuid.uuid4().hex
        self._pause, self._next = FIRST_PAUSE, 0.0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self._lock_path(self._session), thread_local=False)  # whichever thread ends it
            self._lock.acquire(timeout=0)
            self._database = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
            # written through to the system, which survives a kill of this process, without waiting for the disk
            self._database.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; {TABLES}")
            self.abandoned = self._inherit()
            """Runs of dead processes that have not ended: this one's to end now."""
        except (OSError, sqlite3.Error) as error:
            raise StorageError(
                f"expected to write records for {server} to {self.path}: {error}; make room, or start in another folder"
            ) from None

    # --- runs ---------------------------------------------------------------------------------------------------------

    def open_run(self, run: str, known_as: str | None) -> None:
        """Note a run of this process that the server knows by an id; None just before it is to give one."""
        self._write("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, 1)", run, self._session, self._server, known_as)

    def begin_run(self, run: str, content: Mapping[str, Any]) -> None:
        """Begin a run that the server is to make: by a record of the kind ``create``, whose delivery gives its id."""
        with self._transaction():  # a run without it would never be made, and yet be abandoned by a kill
            self.open_run(run, None)
            self._keep(run, "create", content)
        self._offer()

    def end_run(self, run: str, content: Mapping[str, Any]) -> None:
        """End a run, by a record of the kind ``end``."""
        with self._transaction():  # or a kill in between would end it once more, as abandoned
            self._keep(run, "end", content)
            self._write("UPDATE runs SET open = 0 WHERE run = ?", run)
        self._offer()

    def id_of(self, run: str) -> str:
        """Id that the server has given a run; its name while there is none."""
        found = self._database.execute("SELECT id FROM runs WHERE run = ?", (run,)).fetchone()
        return found[0] if found and found[0] else run

    # --- records ------------------------------------------------------------------------------------------------------

    def put(self, run: str, kind: str, content: Mapping[str, Any], data: bytes = b"") -> None:
        """Keep a record, and deliver what there is, unless the server was away a moment ago."""
        self._keep(run, kind, content, data)
        self._offer()

    def flush(self, patience: float = 0.0) -> int:
        """Deliver, and try again for so many seconds while the server is away.

        A record that the server refuses, such as one of a run that somebody has deleted, is told of and set aside in
        the table ``refused`` of the file. So is one that fails as if the server were away, while it takes others.

        Returns:
            How many records are left.

        Raises:
            FadeError: that ``deliver`` raises; the record is kept.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                self._deliver_all()
                if self._pause > FIRST_PAUSE:
                    warnings.warn(f"{self._server} is back, and has been told all", stacklevel=2)
                self._pause, self._next = FIRST_PAUSE, 0.0
                return 0
            except Exception as error:
                if not self._is_away(error):
                    raise
                if self._pause == FIRST_PAUSE:
                    first = masked(str(error)).strip().split("\n")[0][:200]
                    warnings.warn(
                        f"{self._server} does not answer ({first}); going on: what it is to be told is kept in "
                        f"{self.path}, and delivered when it is back",
                        stacklevel=2,
                    )
                self._next = time.monotonic() + self._pause
                self._pause = min(LONGEST_PAUSE, 2 * self._pause)
            if time.monotonic() >= deadline:
                return len(self._numbers())
            time.sleep(min(1.0, max(0.0, deadline - time.monotonic())))

    def close(self) -> None:
        """Give the file back; what is left in it waits for the next process."""
        # of runs that have ended, names are known only as long as records need them
        self._write(
            "DELETE FROM runs WHERE NOT open AND session = ? AND run NOT IN (SELECT run FROM records)", self._session
        )
        self._database.close()
        self._lock.release()
        self._lock_path(self._session).unlink(missing_ok=True)

    def _keep(self, run: str, kind: str, content: Mapping[str, Any], data: bytes = b"") -> None:
        self._write(
            "INSERT INTO records (session, server, run, kind, content, data, tried) VALUES (?, ?, ?, ?, ?, ?, 0)",
            *(self._session, self._server, run, kind, json.dumps(content), data),
        )

    def _offer(self) -> None:
        if time.monotonic() >= self._next:
            self.flush()

    def _inherit(self) -> list[str]:
        """Take over what dead processes have left; their runs that have not ended."""
        with self._transaction():  # of several that start at once, one gets it
            rows = self._database.execute("SELECT session FROM records UNION SELECT session FROM runs").fetchall()
            dead = [session for (session,) in rows if session != self._session and self._is_dead(session)]
            which = f"server = ? AND session IN ({', '.join('?' * len(dead))})"
            abandoned = self._database.execute(f"SELECT run FROM runs WHERE open AND {which}", (self._server, *dead))
            runs = [run for (run,) in abandoned.fetchall()]
            for table in ("records", "runs"):
                self._write(f"UPDATE {table} SET session = ? WHERE {which}", self._session, self._server, *dead)
        return runs

    def _waiting(self) -> Iterator[tuple[int, Record]]:
        """Oldest first; one by one, since they may be large."""
        for number in self._numbers():
            found = self._database.execute(
                "SELECT run, kind, content, data, tried FROM records WHERE number = ?", (number,)
            ).fetchone()
            if found is not None:  # else it was delivered meanwhile
                run, kind, content, data, tried = found
                yield number, Record(run, kind, json.loads(content), data, bool(tried))

    def _numbers(self) -> list[int]:
        rows = self._database.execute("SELECT number FROM records WHERE session = ? ORDER BY number", (self._session,))
        return [number for (number,) in rows.fetchall()]

    def _deliver_all(self) -> None:
        """Oldest first. What fails though the server takes other records is tried again when these are delivered."""
        failed = None
        for number, record in self._waiting():
            try:
                self._hand_over(number, record)
            except Exception as error:
                if record.kind == "create" or not self._may_refuse(error) or not self._takes_another(number):
                    raise
                self._failures[number] = self._failures.get(number, 0) + 1
                if self._failures[number] < ATTEMPTS:
                    failed = error
                else:
                    self._set_aside(number, record, error)
        if failed is not None:
            raise failed

    def _takes_another(self, number: int) -> bool:
        """Whether the server takes a later record; False where there is none."""
        for later, record in self._waiting():
            if later > number and record.kind != "create":
                try:
                    self._hand_over(later, record)
                except Exception:  # of whatever kind: the server is not known to be there
                    return False
                return True
        return False

    def _hand_over(self, number: int, record: Record) -> None:
        self._write("UPDATE records SET tried = 1 WHERE number = ?", number)
        made = None
        try:
            made = self._deliver(record, self.id_of(record.run))
        except Exception as error:
            if isinstance(error, FadeError) or self._is_away(error):
                raise
            self._set_aside(number, record, error)
            return
        with self._transaction():
            if made is not None:
                self._write("UPDATE runs SET id = ? WHERE run = ?", made, record.run)
            self._write("DELETE FROM records WHERE number = ?", number)

    def _set_aside(self, number: int, record: Record, error: Exception) -> None:
        """Keep for a look what the server will never take, and tell of it once."""
        reason = masked(f"{type(error).__name__}: {error}")
        warnings.warn(
            f"{self._server} refuses {record.kind} of run {record.run}: {reason} (kept in {self.path}, table refused)",
            stacklevel=2,
        )
        with self._transaction():
            self._write(
                "INSERT OR REPLACE INTO refused VALUES (?, ?, ?, ?, ?, ?, ?)",
                *(number, self._server, record.run, record.kind, json.dumps(record.content), record.data, reason),
            )
            self._write("DELETE FROM records WHERE number = ?", number)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._writing(), self._database:  # commits, or rolls back
            self._database.execute("BEGIN IMMEDIATE")
            yield

    def _write(self, statement: str, *values: Any) -> None:
        with self._writing():
            self._database.execute(statement, values)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StorageError(
                f"expected to keep records for {self._server} in {self.path}: {error}; make room, and run the same "
                "command again"
            ) from error

    def _lock_path(self, session: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{session}.lock")

    def _is_dead(self, session: str) -> bool:
        """Whether a process has given its lock back, as the system does for one that is killed."""
        path = self._lock_path(session)
        if not path.exists():
            return True
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            return False
        path.unlink(missing_ok=True)
        return True
