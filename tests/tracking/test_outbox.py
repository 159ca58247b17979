import multiprocessing
import os
import signal
import sqlite3
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from filelock import FileLock

from fade_study.exceptions import StorageError
from fade_study.tracking.outbox import Outbox


class Server:
    """A server that stores records, unless it is away."""

    def __init__(self):
        self.told = []
        self.away = False

    def deliver(self, record, run):
        if self.away:
            raise ConnectionError("nobody there")
        if record.kind == "bad":
            raise ValueError("refused")
        self.told.append((run, record.kind, record.content, record.data, record.tried))
        return f"id of {record.run}" if record.kind == "create" else None


@pytest.fixture
def server():
    return Server()


def open_box(folder, server, name="server"):
    return Outbox(folder / "box" / "outbox.db", name, server.deliver, lambda error: isinstance(error, ConnectionError))


def kinds(server):
    return [kind for _, kind, *_ in server.told]


def test_records_are_delivered_at_once_in_order_with_the_id_of_their_run(tmp_path, server):
    box = open_box(tmp_path, server)
    assert box.id_of("a") == "a"
    box.begin_run("a", {"x": 1})
    box.put("a", "file", {}, b"\0data")
    assert [(run, kind, content, data) for run, kind, content, data, _ in server.told] == [
        ("a", "create", {"x": 1}, b""),
        ("id of a", "file", {}, b"\0data"),
    ]
    assert box.id_of("a") == "id of a"


@pytest.mark.filterwarnings("ignore")
def test_what_a_server_that_is_away_has_missed_comes_in_order_when_it_is_back(tmp_path, server, monkeypatch):
    monkeypatch.setattr("fade_study.tracking.outbox.FIRST_PAUSE", 0.0)
    box = open_box(tmp_path, server)
    box.put("a", "0", {})
    server.away = True
    for number in range(1, 6):
        box.put("a", str(number), {})
    assert box.flush() == 5
    assert kinds(server) == ["0"]
    server.away = False
    assert box.flush() == 0
    assert kinds(server) == ["0", "1", "2", "3", "4", "5"]
    assert [tried for *_, tried in server.told] == [False, True, False, False, False, False]


def test_a_server_that_is_away_is_left_alone_for_a_while(tmp_path, server):
    box = open_box(tmp_path, server)
    server.away = True
    with pytest.warns(UserWarning, match=r"server does not answer \(nobody there\); going on: .* kept in .*outbox.db"):
        box.put("a", "0", {})
    server.away = False
    box.put("a", "1", {})
    assert kinds(server) == []
    assert box.flush(retry_seconds=0) == 0
    assert kinds(server) == ["0", "1"]


def test_what_the_server_refuses_is_told_and_dropped(tmp_path, server):
    box = open_box(tmp_path, server)
    with pytest.warns(UserWarning, match="server refuses bad of run a: ValueError: refused"):
        box.put("a", "bad", {})
    box.put("a", "good", {})
    assert kinds(server) == ["good"]


def leave(folder):
    """Open a run and leave a record in a process that is killed."""
    server = Server()
    server.away = True
    box = open_box(folder, server)
    box.open_run("left", known_as="id of left")
    box.open_run("done", known_as="id of done")
    box.end_run("done", {})
    box.put("left", "last words", {})
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.filterwarnings("ignore")
def test_what_a_dead_process_has_left_is_delivered_by_the_next_one(tmp_path, server):
    process = multiprocessing.get_context("spawn").Process(target=leave, args=(tmp_path,))
    process.start()
    process.join()
    other = open_box(tmp_path, server, "another server")
    assert other.abandoned == []
    box = open_box(tmp_path, server)
    assert box.abandoned == ["left"]
    assert box.flush() == 0
    assert [(run, kind) for run, kind, *_ in server.told] == [("id of done", "end"), ("id of left", "last words")]
    box.end_run("left", {})
    for one in (box, other):
        one.close()
    assert sorted(file.name for file in (tmp_path / "box").iterdir()) == ["outbox.db", "outbox.db.lock"]


def test_living_processes_leave_each_other_alone(tmp_path, server):
    absent = Server()
    absent.away = True
    one = open_box(tmp_path, absent)
    one.open_run("a", known_as="a")
    with pytest.warns(UserWarning, match="does not answer"):
        one.put("a", "0", {})
    other = open_box(tmp_path, server)
    other.put("b", "1", {})
    assert other.abandoned == []
    assert kinds(server) == ["1"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path, server):
    (tmp_path / "box").write_text("no folder")
    with pytest.raises(StorageError, match=r"expected to write records for server to .*outbox.db"):
        open_box(tmp_path, server)


def test_a_record_that_fails_while_others_are_taken_is_set_aside(tmp_path, monkeypatch):
    """The server always answers one record with an internal error; the others are delivered without delay."""
    monkeypatch.setattr("fade_study.tracking.outbox.FIRST_PAUSE", 0.0)
    monkeypatch.setattr("fade_study.tracking.outbox.LONGEST_PAUSE", 0.0)
    told = []

    def deliver(record, run):
        if record.content.get("poison"):
            raise ConnectionError("internal error")
        told.append(record.content["number"])

    def away(error):
        return isinstance(error, ConnectionError)

    box = Outbox(tmp_path / "outbox.db", "server", deliver, away, away)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        box.put("a", "batch", {"poison": True}, b"data")
        for number in range(6):
            box.put("a", "batch", {"number": number})
    assert told == list(range(6))
    assert [str(warning.message) for warning in caught if "refuses" in str(warning.message)] == [
        f"server refuses batch of run a: ConnectionError: internal error (kept in {tmp_path}/outbox.db, table refused)"
    ]
    assert box.flush() == 0
    with sqlite3.connect(tmp_path / "outbox.db") as database:
        assert database.execute("SELECT run, kind, content, data FROM refused").fetchall() == [
            ("a", "batch", '{"poison": true}', b"data")
        ]


@pytest.mark.filterwarnings("ignore:server does not answer")
def test_a_server_that_is_away_refuses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("fade_study.tracking.outbox.FIRST_PAUSE", 0.0)
    monkeypatch.setattr("fade_study.tracking.outbox.LONGEST_PAUSE", 0.0)
    server = Server()

    def away(error):
        return isinstance(error, ConnectionError)

    box = Outbox(tmp_path / "outbox.db", "server", server.deliver, away, away)
    server.away = True
    for number in range(10):
        box.put("a", "batch", {"number": number})
    server.away = False
    assert box.flush() == 0
    assert len(server.told) == 10


def test_opening_waits_for_another_process_that_is_opening(tmp_path, server):
    """SQLite itself would not wait: it refuses at once to change the journal mode while another connection writes."""
    (tmp_path / "box").mkdir()
    path = tmp_path / "box" / "outbox.db"
    other, lock = sqlite3.connect(path, isolation_level=None, check_same_thread=False), FileLock(f"{path}.lock")
    lock.acquire()
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as thread:
        opening = thread.submit(open_box, tmp_path, server)
        time.sleep(0.3)
        assert not opening.done()
        other.close()
        lock.release()
        opening.result().close()
