"""A Dask cluster of real processes on this machine, which can be killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

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
        return self._start("scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")

    def start_worker(self, *arguments, **environment):
        """Without a nanny, which would start it again."""
        arguments = arguments or ("--nthreads", "1")
        return self._start("worker", self.address, "--no-nanny", "--no-dashboard", *arguments, **environment)

    def kill(self, process):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def log(self):
        return (self.folder / "log").read_text()

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
