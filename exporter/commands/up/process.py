"""One program as a child process: its port, its start, its readiness, its end."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from exporter.commands.addresses import address
from exporter.commands.common import DIRECT
from exporter.errors import StackError

READY_SECONDS = 60.0
"""Time a program has to become ready."""
TAIL_LINES = 6

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Program:
    """One program of the stack.

    Parameters
    ----------
    name
        Of its log file.
    title
        For people.
    command
        Program and arguments.
    address
        ``HOST:PORT`` that it listens on.
    option
        The flag of ``model-exporter up`` that chooses another address.
    health
        Path that answers 200 once it is ready.
    environment
        Variables beside those of this process.
    """

    name: str
    title: str
    command: tuple[str, ...]
    address: str
    option: str
    health: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.address}"


def require_free(program: Program) -> None:
    """Refuse an address that somebody listens on.

    Raises
    ------
    StackError
        Says who needs it and, if that can be found, who holds it.
    """
    host, port = address(program.address)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise StackError(
                    f"{program.title} cannot listen on {program.address}: {error.strerror}; "
                    f"choose another address with {program.option} HOST:PORT"
                ) from None
            raise StackError(
                f"{program.title} needs {program.address}, and {_holder(port)}; "
                f"end that, or choose another address with {program.option} HOST:PORT"
            ) from None


def _holder(port: int) -> str:
    unknown = "another program listens there"
    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return unknown
    for connection in connections:
        local = connection.laddr
        if connection.status == psutil.CONN_LISTEN and local and local.port == port and connection.pid:
            try:
                process = psutil.Process(connection.pid)
                command = " ".join(process.cmdline())[:70]
                return f"{process.name()} listens there (process {connection.pid}: {command})"
            except psutil.Error:
                return f"process {connection.pid} listens there"
    return unknown


class Child:
    """A program that runs, in a session of its own, with its output in a file.

    Parameters
    ----------
    program
        What to run.
    log
        File that its output is written to.
    """

    def __init__(self, program: Program, log: Path) -> None:
        self.program = program
        self.log = log
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; the first start empties the log.

        Raises
        ------
        StackError
            When it cannot be executed.
        """
        try:
            with self.log.open("ab" if self.starts else "wb") as log:
                self._process = subprocess.Popen(
                    self.program.command,
                    env=os.environ | self.program.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=_end_with_parent(),  # noqa: PLW1509 (this process has one thread)
                )
        except OSError as error:
            raise StackError(f"{self.program.title} cannot be started: {error}") from None
        self.starts += 1

    @property
    def pid(self) -> int:
        """Process id, which is the id of its session and group too."""
        return self._process.pid if self._process else 0

    def ended(self) -> str | None:
        """How it ended, in words; None while it runs."""
        status = self._process.poll() if self._process else None
        if status is None:
            return None
        if status < 0:
            return f"was ended by {signal.Signals(-status).name}"
        return f"ended with status {status}"

    def answers(self) -> bool:
        """Whether it says that it is ready."""
        try:
            with DIRECT.open(self.program.url + self.program.health, timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, ValueError):
            return False

    def await_ready(self, wait: Callable[[float], bool]) -> bool:
        """Wait until it is ready; false when ``wait`` said that all shall stop.

        Raises
        ------
        StackError
            When it ends, or does not become ready in time; with its last lines.
        """
        deadline = time.monotonic() + READY_SECONDS
        while not self.answers():
            if ended := self.ended():
                raise StackError(f"{self.program.title} did not start: it {ended}. {self.last_lines()}")
            if time.monotonic() > deadline:
                raise StackError(
                    f"{self.program.title} did not answer at {self.program.url}{self.program.health} within "
                    f"{READY_SECONDS:g} s. {self.last_lines()}"
                )
            if wait(0.1):
                return False
        return True

    def last_lines(self) -> str:
        """The end of its log, for a message."""
        lines = tail(self.log, TAIL_LINES)
        if not lines:
            return f"{self.log} is empty"
        return "\n  ".join((f"The end of {self.log}:", *lines))

    def stop(self, seconds: float) -> None:
        """Ask it to end, wait so long, then end it and what it started."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=seconds)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def tail(path: Path, count: int) -> list[str]:
    """The last lines of a file that are not empty, however long the file is."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16_384))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [line.rstrip() for line in lines if line.strip()][-count:]


def _end_with_parent() -> Callable[[], None] | None:
    """What a child runs first, so that it is asked to end when this process is killed."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def run() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # killed between fork and prctl
            os._exit(1)

    return run
