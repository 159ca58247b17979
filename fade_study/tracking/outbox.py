"""A queue on the disk for records of a server that may be away, which delivers them in order and exactly once.

All records go through it, so that the next process delivers what a killed one could not. The file is an SQLite
database. Each process holds a lock while it lives; a lock that is free marks records that a dead process has left.
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

from fade_study import interrupt
from fade_study.exceptions import FadeError, StorageError
from fade_study.urls import masked

FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0
"""Seconds until the next attempt after the first failure, and after many failures."""
ATTEMPTS = 3
"""Number of attempts at a record that fails while the server accepts others, after which it counts as refused."""
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
    """Something to deliver to the server."""

    run: str
    """Id of a run, or its name until the server gives it an id."""
    kind: str
    content: dict[str, Any]
    data: bytes
    tried: bool
    """Whether it may have been delivered already, by an earlier attempt whose outcome is unknown."""


class Outbox:
    """The records of this process, and those that dead processes have left for the same server.

    All processes in a folder share the file; one that can't be written is a ``StorageError``. The function ``deliver``
    sends a record, given the id of its run, and returns the id of a run that it has created; a record that was tried
    before may have been delivered already. ``is_away`` tells whether an error of ``deliver`` is transient, because the
    server does not answer, and ``may_refuse`` whether it may also mean that the server will never accept the record.
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
        """How often each record, by number, has failed while the server accepted others."""
        self._session = uuid.uuid4().hex
        self._pause, self._next = FIRST_PAUSE, 0.0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self._lock_path(self._session), thread_local=False)  # any thread may release it
            self._lock.acquire(timeout=0)
            # One process at a time: SQLite refuses to change the journal mode while another process writes.
            with FileLock(f"{self.path}.lock"):
                self._database = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
                # Writes reach the operating system, which survives a kill of this process, without a wait for the disk.
                self._database.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; {TABLES}")
                self.abandoned = self._inherit()
                """Runs of dead processes that are still open, which this process has to end."""
        except (OSError, sqlite3.Error) as error:
            raise StorageError(
                f"expected to write records for {server} to {self.path}: {error}; make room, or start in another folder"
            ) from None

    # --- runs ---------------------------------------------------------------------------------------------------------

    def open_run(self, run: str, known_as: str | None) -> None:
        """Note a run of this process, with its id on the server; None if the server is about to create it."""
        self._write("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, 1)", run, self._session, self._server, known_as)

    def begin_run(self, run: str, content: Mapping[str, Any]) -> None:
        """Begin a run by a record of the kind ``create``, whose delivery creates it on the server."""
        with self._transaction():  # so that a kill in between leaves no run without its record
            self.open_run(run, None)
            self._keep(run, "create", content)
        self._offer()

    def end_run(self, run: str, content: Mapping[str, Any]) -> None:
        """End a run, by a record of the kind ``end``."""
        with self._transaction():  # so that a kill in between does not leave an ended run as abandoned
            self._keep(run, "end", content)
            self._write("UPDATE runs SET open = 0 WHERE run = ?", run)
        self._offer()

    def id_of(self, run: str) -> str:
        """Id of a run on the server; its name until the server has created it."""
        found = self._database.execute("SELECT id FROM runs WHERE run = ?", (run,)).fetchone()
        return found[0] if found and found[0] else run

    # --- records ------------------------------------------------------------------------------------------------------

    def put(self, run: str, kind: str, content: Mapping[str, Any], data: bytes = b"") -> None:
        """Store a record, and deliver all stored records unless the server was away a moment ago."""
        self._keep(run, kind, content, data)
        self._offer()

    def flush(self, retry_seconds: float = 0.0) -> int:
        """Deliver all records, with retries for so many seconds while the server is away; return how many are left.

        A signal ends the retries.

        A record that the server refuses, such as one of a deleted run, is moved to the table ``refused`` of the file,
        with a warning. So is one that repeatedly fails as if the server were away, while the server accepts others. A
        ``FadeError`` of ``deliver`` is raised, and its record kept.
        """
        deadline = time.monotonic() + retry_seconds
        while True:
            try:
                self._deliver_all()
                if self._pause > FIRST_PAUSE:
                    warnings.warn(f"{self._server} is back, and all records are delivered", stacklevel=2)
                self._pause, self._next = FIRST_PAUSE, 0.0
                return 0
            except Exception as error:
                if not self._is_away(error):
                    raise
                if self._pause == FIRST_PAUSE:
                    first = masked(str(error)).strip().split("\n")[0][:200]
                    warnings.warn(
                        f"{self._server} does not answer ({first}); going on: its records are kept in "
                        f"{self.path} and delivered when it is back",
                        stacklevel=2,
                    )
                self._next = time.monotonic() + self._pause
                self._pause = min(LONGEST_PAUSE, 2 * self._pause)
            if time.monotonic() >= deadline or interrupt.requested():
                return len(self._numbers())
            time.sleep(min(1.0, max(0.0, deadline - time.monotonic())))

    def close(self) -> None:
        """Release the file; the next process delivers what is left in it."""
        # The ids of ended runs are needed only as long as there are records of them.
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
        """Take over the records of dead processes; returns their runs that are still open."""
        with self._transaction():  # so that a kill in between parts no records from their run
            rows = self._database.execute("SELECT session FROM records UNION SELECT session FROM runs").fetchall()
            dead = [session for (session,) in rows if session != self._session and self._is_dead(session)]
            which = f"server = ? AND session IN ({', '.join('?' * len(dead))})"
            abandoned = self._database.execute(f"SELECT run FROM runs WHERE open AND {which}", (self._server, *dead))
            runs = [run for (run,) in abandoned.fetchall()]
            for table in ("records", "runs"):
                self._write(f"UPDATE {table} SET session = ? WHERE {which}", self._session, self._server, *dead)
        return runs

    def _waiting(self) -> Iterator[tuple[int, Record]]:
        """Records with their numbers, oldest first; read one at a time, since they may be large."""
        for number in self._numbers():
            found = self._database.execute(
                "SELECT run, kind, content, data, tried FROM records WHERE number = ?", (number,)
            ).fetchone()
            if found is not None:  # None if it was delivered in the meantime
                run, kind, content, data, tried = found
                yield number, Record(run, kind, json.loads(content), data, bool(tried))

    def _numbers(self) -> list[int]:
        rows = self._database.execute("SELECT number FROM records WHERE session = ? ORDER BY number", (self._session,))
        return [number for (number,) in rows.fetchall()]

    def _deliver_all(self) -> None:
        """Deliver records, oldest first; one that fails while the server accepts others is retried after them."""
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
        """Whether the server accepts a record after this one; False if there is none."""
        for later, record in self._waiting():
            if later > number and record.kind != "create":
                try:
                    self._hand_over(later, record)
                except Exception:  # of any type: it does not show that the server answers
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
        """Move a record that the server refuses to the table ``refused``, with a warning."""
        reason, run = masked(f"{type(error).__name__}: {error}"), self.id_of(record.run)
        warnings.warn(
            f"{self._server} refuses {record.kind} of run {run}: {reason} (kept in {self.path}, table refused)",
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
        with self._writing(), self._database:  # commits or rolls back
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
        """Whether the lock of a process is free, because it has ended or was killed."""
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
