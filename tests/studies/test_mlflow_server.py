"""What a search survives: an MLflow server that is down, slow or failing, and a database that is locked."""

import contextlib
import http.server
import os
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.studies.harness import MlflowServer, log, outcome, start, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def server(place):
    server = MlflowServer(place)
    yield server
    server.stop()


def test_down_at_the_start_nothing_begins(place, server):
    process = start(place, uri=server.uri)
    process.join()
    assert process.exitcode == 1
    assert f"expected an MLflow tracking store, got {server.uri}" in log(place)
    assert "generation" not in log(place)
    assert not (place / "fade.db").exists()


def test_down_in_the_middle_training_goes_on_and_nothing_is_missing(place, server, reference):
    server.start()
    process = start(place, uri=server.uri)
    wait_for(process, place, "generation 0 (1 of 3)")
    server.stop()
    wait_for(process, place, "generation 1 (2 of 3)")
    server.start()
    process.join()
    assert process.exitcode == 0, log(place)
    assert "does not answer" in log(place)
    assert "is back, and all records are delivered" in log(place)
    assert outcome(place) == reference


def test_down_until_the_end_what_is_missing_is_delivered_later(place, server, reference):
    server.start()
    process = start(place, uri=server.uri, delivery_seconds=0.0)
    wait_for(process, place, "generation 0 (1 of 3)")
    server.stop()
    process.join()
    assert process.exitcode == 1, log(place)
    assert f"Once it is back, `fade deliver` in {place} delivers them" in log(place)
    server.start()
    command = [sys.executable, "-m", "fade_study", "deliver"]
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"MLFLOW_TRACKING_URI": server.uri, "PYTHONPATH": root}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "All delivered" in done.stdout
    assert outcome(place) == reference


class Proxy(http.server.BaseHTTPRequestHandler):
    """Passes requests on, slowly; every fourth one gets an answer of 503 instead, before or after it was passed on."""

    uri = ""
    count = 0

    def pass_on(self):
        Proxy.count += 1
        time.sleep(0.05)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, content, kind = 503, b"{}", "application/json"
        if Proxy.count % 8 != 0:
            request = urllib.request.Request(self.uri + self.path, body or None, method=self.command)
            request.add_header("Content-Type", self.headers.get("Content-Type", kind))
            try:
                with urllib.request.urlopen(request) as answer:
                    status, content, kind = answer.status, answer.read(), answer.headers["Content-Type"]
            except urllib.error.HTTPError as error:
                status, content = error.code, error.read()
        if Proxy.count % 8 == 4:
            status, content = 503, b"{}"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on  # noqa: N815 - names that the base class looks for

    def log_message(self, *_):
        pass


def test_slow_and_failing_all_arrives_once(place, server, reference):
    server.start()
    Proxy.uri = server.uri
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        process = start(place, uri=f"http://127.0.0.1:{proxy.server_address[1]}")
        process.join()
        proxy.shutdown()
    assert process.exitcode == 0, log(place)
    assert outcome(place) == reference


def test_a_locked_database_is_waited_for(place, reference):
    process = start(place)
    wait_for(process, place, "generation 0 (1 of 3)")
    with contextlib.closing(sqlite3.connect(place / "mlflow.db", timeout=30, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        time.sleep(23)  # longer than MLflow waits
        database.execute("ROLLBACK")
    process.join()
    assert process.exitcode == 0, log(place)
    assert outcome(place) == reference
