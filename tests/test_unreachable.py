"""Servers that can't be reached are reported within seconds, before anything begins."""

import contextlib
import socket
import time

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
