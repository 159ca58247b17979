"""A PostgreSQL server for tests: real, in a folder of its own, gone with them."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import sqlalchemy
from sqlalchemy import text


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def programs():
    """The folder of the server's programs, which Debian keeps off the path; None where there are none."""
    candidates = [Path(found).parent for found in [shutil.which("initdb")] if found]
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(candidates) if (folder / "initdb").exists()), None)


class Server:
    """Started when made. PostgreSQL refuses root, so then it runs as the user that its package has made."""

    def __init__(self, programs):
        self.programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="pg"))  # not in pytest's, which other users can't enter
        self.port, self.count = free_port(), 0
        user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        self.as_user = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        if user is not None:
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        data = self.folder / "data"
        arguments = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync", "-D", data]
        self.call("initdb", *arguments).wait()
        options = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": self.folder}
        options |= {"fsync": "off", "max_connections": 200}
        self.process = self.call("postgres", "-D", data, *(f"--{name}={value}" for name, value in options.items()))
        while True:
            with contextlib.suppress(sqlalchemy.exc.OperationalError), self.connect():
                break
            assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)

    def call(self, program, *arguments):
        with (self.folder / "log").open("a") as log:
            command = [self.programs / program, *arguments]
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **self.as_user)

    def url(self, database):
        return f"postgresql+psycopg2://postgres:topsecret@127.0.0.1:{self.port}/{database}"

    @contextlib.contextmanager
    def connect(self):
        engine = sqlalchemy.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()

    def make_database(self, template="template1"):
        """URL of a new database, like another one."""
        self.count += 1
        with self.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "d{self.count}" TEMPLATE "{template}"'))
        return self.url(f"d{self.count}")

    def stop(self):
        self.process.send_signal(signal.SIGINT)  # to end without waiting for its clients
        self.process.wait()
        shutil.rmtree(self.folder)
