"""A real PostgreSQL for tests and benchmarks: a cluster of its own, on a socket in its own folder."""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

GUARDED, PASSWORD = "guarded", "open sesame"
"""A user of the server who needs a password; the superuser needs none."""


def program(name: str) -> str:
    """One of PostgreSQL's programs, of the newest version on this machine."""
    folders = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda folder: int(folder.split("/")[4]), reverse=True)  # noqa: PTH207
    path = shutil.which(name) or shutil.which(name, path=os.pathsep.join(folders))
    if not path:
        raise FileNotFoundError(f"{name}: install PostgreSQL")
    return path


def _user() -> dict[str, Any]:
    """Whom the server runs as: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    raise LookupError("there is no user postgres or nobody")


class Postgres:
    """A server; ``url`` names a new database on it."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path has 107 bytes at most
        self._user = _user()
        self._number = 0
        if self._user:
            os.chown(self._folder, self._user["user"], self._user["group"])
        command = [program("initdb"), "-D", "data", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync"]
        made = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, check=False, **self._user)
        assert made.returncode == 0, made.stderr
        guarded = f"local all {GUARDED} scram-sha-256\nlocal all all trust\n"
        (self._folder / "data" / "pg_hba.conf").write_text(guarded)
        self.process: subprocess.Popen[bytes]
        self.start()
        with self.connect() as connection:
            connection.execute(f"CREATE ROLE {GUARDED} LOGIN SUPERUSER PASSWORD '{PASSWORD}'")

    def start(self) -> None:
        """Start the server, and wait until it answers.

        It does not wait for the disk, so its data would survive the end of its processes, but not of the machine.
        """
        command = [program("postgres"), "-D", "data", "-k", str(self._folder)]
        command += ["-c", "listen_addresses=", "-c", "fsync=off"]
        with (self._folder / "log").open("ab") as log:
            # In a session of its own: a process group with frozen members would get a SIGHUP with its shell's end.
            self.process = subprocess.Popen(
                command, cwd=self._folder, stdout=log, stderr=log, start_new_session=True, **self._user
            )
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(psycopg.OperationalError), self.connect() as connection:
                connection.execute("SELECT 1")
                return
            assert self.process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server at once; its connections end."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)

    def freeze(self) -> None:
        """Let no process of the server say anything more: connections stay, and hang."""
        for process in self._processes():
            os.kill(process, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let all go on."""
        for process in self._processes():
            os.kill(process, signal.SIGCONT)

    def _processes(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """A connection as the superuser."""
        return psycopg.connect(host=str(self._folder), user="postgres", dbname=database, autocommit=True)

    def url(self) -> str:
        """The URL of a new, empty database."""
        self._number += 1
        name = f"test_{self._number}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://postgres@/{name}?host={self._folder}"

    def remove(self) -> None:
        """Stop, and leave nothing behind."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(30)
        shutil.rmtree(self._folder)


@contextlib.contextmanager
def running() -> Iterator[Postgres]:
    """A server, until the block ends."""
    server = Postgres()
    try:
        yield server
    finally:
        server.remove()
