"""A Dask cluster of real processes on this machine, which can be killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from distributed import Client

ROOT = Path(__file__).parents[1]


class Cluster:
    """A scheduler and its workers, in a folder; all of them end with the context."""

    def __init__(self, folder, **environment):
        self.folder, self.processes = folder, []
        self.environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            self.kill(process)

    def start_scheduler(self):
        """At the address of the one before."""
        arguments = ("--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")
        self.scheduler = self._start("scheduler", *arguments)

    def start_worker(self, *arguments, **environment):
        """Without a nanny, which would start it again."""
        arguments = arguments or ("--nthreads", "1")
        return self._start("worker", self.address, "--no-nanny", "--no-dashboard", *arguments, **environment)

    def kill(self, process):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def wait_for_workers(self, count):
        with Client(self.address, set_as_default=False, timeout=60) as client:
            client.wait_for_workers(count, timeout=60)

    def _start(self, kind, *arguments, **environment):
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *arguments]
        with (self.folder / "log").open("a") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


class Samples:
    """Data that keeps count of its journeys, in a file."""

    digest = "samples"

    def __init__(self, journeys, count):
        self.journeys, self.count = journeys, count

    def __reduce__(self):
        note(self.journeys, f"left {os.getpid()}")
        return arrive, (self.journeys, self.count)


def arrive(journeys, count):
    note(journeys, f"arrived {os.getpid()}")
    return Samples(journeys, count)


def note(path, text):
    with path.open("a") as file:
        file.write(f"{text}\n")


def lines(path):
    return path.read_text().split("\n")[:-1] if path.exists() else []
