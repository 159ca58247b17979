"""Servers that can't be reached are reported within seconds, before anything begins."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from urllib.parse import quote

import mlflow
import pytest

from fade_study import DagSpace, StorageError, create_study, load_study, tracking


@pytest.fixture(params=["refused", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("swallowed", "mute"))])
def address(request):
    """An address where nobody listens, where packets are dropped, or where a connection gets no answer."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        if request.param != "refused":
            server.listen(0)
        if request.param == "swallowed":  # as from a full backlog
            for _ in range(4):
                client = stack.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(server.getsockname())
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def soon():
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < 15


@pytest.mark.parametrize("make", ["create", "load"])
def test_the_storage_of_a_study(address, soon, make):
    pytest.importorskip("psycopg2")
    place = {"space": DagSpace(3), "study_name": "s", "storage": f"postgresql+psycopg2://me:topsecret@{address}/x"}
    with pytest.raises(StorageError, match=r"storage that can be opened, got postgresql\+psycopg2://me:.* Check") as e:
        create_study(depth=2, **place) if make == "create" else load_study(**place)
    assert "topsecret" not in str(e.value)


@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg2"])
def test_the_tracking_server(address, soon, mlflow_store, scheme):
    if scheme != "http":
        pytest.importorskip("psycopg2")
    mlflow.set_tracking_uri(f"{scheme}://me:topsecret@{address}")
    with pytest.raises(StorageError, match=r"an MLflow tracking store, got .*://me:.* MLFLOW_TRACKING_URI") as e:
        tracking.check_server()
    assert "topsecret" not in str(e.value)


def test_a_database_that_lets_nobody_in(postgresql, soon, mlflow_store):
    url = postgresql.url("missing")
    with pytest.raises(StorageError, match='database "missing" does not exist'):
        create_study(space=DagSpace(3), depth=2, storage=url)
    mlflow.set_tracking_uri(url)
    with pytest.raises(StorageError, match='database "missing" does not exist'):
        tracking.check_server()


def test_a_tracking_file_that_can_not_be_written(soon, tmp_path, monkeypatch, mlflow_store):
    folder = tmp_path / "read only"
    folder.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder)  # root may write anywhere
    mlflow.set_tracking_uri(f"sqlite:///{quote(str(folder))}/mlflow.db")
    with pytest.raises(StorageError, match=r"/read only/mlflow.db can't be written"):
        tracking.check_server()
    mlflow.set_tracking_uri(mlflow_store)


def test_a_run_that_does_not_exist(mlflow_store, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    with pytest.raises(ValueError, match="got abc, which does not exist here; unset MLFLOW_RUN_ID"):
        tracking.check_server()


@pytest.mark.slow
def test_processes_that_begin_a_tracking_file_together(tmp_path):
    code = "from fade_study import tracking; tracking.check_server()"
    where = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    processes = [subprocess.Popen([sys.executable, "-c", code], env=where) for _ in range(3)]
    assert [process.wait(timeout=200) for process in processes] == [0, 0, 0]
