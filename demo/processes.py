"""One program as a child process: choose its port, start it, wait until it is ready, and stop it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
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

from demo import scenario
from exporter.commands.common import address
from exporter.errors import StackError
from exporter.http_client import Client, RequestError

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
        Name of its log file.
    title
        Name in messages.
    command
        Program and arguments.
    address
        ``HOST:PORT`` that it listens on.
    option
        The flag of ``python -m demo up`` that sets another address.
    health
        Path that responds with 200 when the program is ready.
    environment
        Variables in addition to those of this process.
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
        """Return the URL that it listens on."""
        return f"http://{self.address}"


def require_free(program: Program) -> None:
    """Check that the address of a program is free.

    Raises
    ------
    StackError
        When it is not; names the program and, if it can be found, the process that uses the address.
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
                    f"set another address with {program.option} HOST:PORT"
                ) from None
            raise StackError(
                f"{program.title} needs {program.address}, but {_listener(port)}; "
                "stop it ('make down' in its checkout if 'make up' started it), "
                f"or set another address with {program.option} HOST:PORT"
            ) from None


def _listener(port: int) -> str:
    """Return a clause that names the process that listens on a port."""
    unknown = "another program is listening there"
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
                return f"{process.name()} is listening there (process {connection.pid}: {command})"
            except psutil.Error:
                return f"process {connection.pid} is listening there"
    return unknown


class Child:
    """A program in a session of its own, with its output in a file.

    Parameters
    ----------
    program
        The program.
    log
        The file for its output.
    """

    def __init__(self, program: Program, log: Path) -> None:
        self.program = program
        self.log = log
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the program; the first start empties the log.

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
        """Return its process id, which is also the id of its session and process group; 0 before the first start."""
        return self._process.pid if self._process else 0

    def exit_reason(self) -> str | None:
        """Return how it ended, as a predicate; None while it runs."""
        status = self._process.poll() if self._process else None
        if status is None:
            return None
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"exited with status {status}"

    def is_ready(self) -> bool:
        """Return whether it responds that it is ready."""
        try:
            with Client(self.program.url, self.program.option, timeout=2) as client:
                return client.request("GET", self.program.health).status == 200
        except RequestError:
            return False

    def await_ready(self, wait: Callable[[float], bool]) -> bool:
        """Wait until it is ready; return False when ``wait`` returned that the stack is to stop.

        Raises
        ------
        StackError
            When it exits, or is not ready in time; with the end of its log.
        """
        deadline = time.monotonic() + READY_SECONDS
        while not self.is_ready():
            if reason := self.exit_reason():
                raise StackError(f"{self.program.title} did not start: it {reason}. {self.log_end()}")
            if time.monotonic() > deadline:
                raise StackError(
                    f"{self.program.title} was not ready at {self.program.url}{self.program.health} within "
                    f"{READY_SECONDS:g} s. {self.log_end()}"
                )
            if wait(0.1):
                return False
        return True

    def log_end(self) -> str:
        """Return the end of its log, for a message."""
        lines = tail(self.log, TAIL_LINES)
        if not lines:
            return f"{self.log} is empty"
        return "\n  ".join((f"The end of {self.log}:", *lines))

    def stop(self, seconds: float) -> None:
        """Send SIGTERM, wait for some seconds, then kill it and the processes that it started."""
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
    """Return the last lines of a file that are not empty; read no more than its end."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16_384))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [line.rstrip() for line in lines if line.strip()][-count:]


def _end_with_parent() -> Callable[[], None] | None:
    """Return a function that a child runs first, so that it gets SIGTERM when this process is killed."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def run() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # killed between fork and prctl
            os._exit(1)

    return run


STOP_SECONDS = 20.0
"""Time that a running stack has to stop after SIGTERM."""
LEFTOVER_SECONDS = 8.0
"""Time that processes left over from a crash have to stop after SIGTERM."""

Processes = dict[str, tuple[int, float]]
"""Process ids and start times (Unix seconds) by name."""


class PidFile:
    """``stack.json``: locked while the stack runs, deleted when it stops.

    Parameters
    ----------
    directory
        The folder of the stack.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "stack.json"
        self._file = -1

    def acquire(self) -> Processes:
        """Lock the folder; return the processes that a crash left in the file.

        Raises
        ------
        StackError
            When another process holds the lock, or the folder cannot be written to.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while not self._lock():
                pass
        except BlockingIOError:
            pid = self.read().get("stack", (0, 0.0))[0]
            raise StackError(
                f"a stack is already running in {self.path.parent} (process {pid}); "
                f"stop it with Ctrl-C there, or with '{scenario.demo()} up --down --directory={self.path.parent}' "
                "('make down' for run), or set another --directory"
            ) from None
        except OSError as error:
            raise StackError(f"{self.path}: {error.strerror}; set another --directory") from None
        return self.read()

    def _lock(self) -> bool:
        """Lock the file; return False when it was deleted in the meantime."""
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file).st_ino == self.path.stat().st_ino:
                self._file = file
                return True
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        return False

    def read(self) -> Processes:
        """Return the processes in the file; none when it is empty or damaged."""
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            return {str(name): (int(pid), float(start)) for name, (pid, start) in document.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def write(self, pids: dict[str, int]) -> None:
        """List the processes of this stack, this one first."""
        processes = {}
        for name, pid in {"stack": os.getpid(), **pids}.items():
            with contextlib.suppress(psutil.Error):
                processes[name] = (pid, psutil.Process(pid).create_time())
        text = json.dumps(processes, indent=2).encode() + b"\n"
        os.pwrite(self._file, text, 0)
        os.ftruncate(self._file, len(text))

    def release(self) -> None:
        """Delete the file and release the lock."""
        if self._file >= 0:
            self.path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1


def stop_leftovers(processes: Processes) -> list[str]:
    """Stop processes that a crash left running; return their names.

    A process that only has the same id as one of the list is spared.
    """
    leftovers = {
        name: process
        for name, (pid, start) in processes.items()
        if name != "stack" and (process := _find_process(pid, start)) and _is_session_leader(pid)
    }
    running = list(leftovers.values())
    for number, seconds in ((signal.SIGTERM, LEFTOVER_SECONDS), (signal.SIGKILL, 2.0)):
        for process in running:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, number)
        running = _wait_for(running, seconds)
    return list(leftovers)


def stop_stack(directory: Path) -> list[str]:
    """Stop the stack of a folder, even after a crash; return the names of the processes that were stopped.

    Raises
    ------
    StackError
        When it cannot be stopped.
    """
    pid_file = PidFile(directory)
    if not pid_file.path.exists():
        return []
    processes = pid_file.read()
    stopped = []
    if supervisor := _find_process(*processes.get("stack", (0, 0.0))):
        supervisor.terminate()
        if _wait_for([supervisor], STOP_SECONDS):
            supervisor.kill()
        stopped = list(processes)
        if not pid_file.path.exists():
            return stopped
    leftovers = stop_leftovers(_acquire_soon(pid_file) or processes)
    pid_file.release()
    return stopped or leftovers


def _acquire_soon(pid_file: PidFile) -> Processes:
    """Lock the folder; wait a moment for the lock of a supervisor that was killed."""
    deadline = time.monotonic() + 2
    while True:
        try:
            return pid_file.acquire()
        except StackError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _wait_for(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait for processes to exit; return those that still run.

    `psutil.wait_procs` would wait for one that has exited, but whose parent has not collected its status.
    """
    deadline = time.monotonic() + seconds
    while (running := [process for process in processes if _is_running(process)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return running


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _find_process(pid: int, start: float) -> psutil.Process | None:
    """Return the process with an id, if it runs and started at that time."""
    try:
        process = psutil.Process(pid)
        # The clock may have been set by a few seconds; a process id is reused later than that.
        same = abs(process.create_time() - start) < 5
    except (psutil.Error, ValueError):
        return None
    return process if pid > 1 and same and _is_running(process) else None


def _is_session_leader(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except OSError:
        return False
