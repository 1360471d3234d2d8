"""The file that locks a stack's folder and names its processes, so that a crash can be cleaned up."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from pathlib import Path

import psutil

from exporter.commands.demo import scenario
from exporter.errors import StackError

STOP_SECONDS = 20.0
"""Time a running stack has to stop when another process asks it to."""
LEFT_SECONDS = 8.0
"""Time processes have to end that a crash left behind."""

Processes = dict[str, tuple[int, float]]
"""Process id and start time (Unix seconds) by name."""


class State:
    """``stack.json``: locked as long as the stack runs, deleted when it stops.

    Parameters
    ----------
    directory
        The stack's folder.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "stack.json"
        self._file = -1

    def acquire(self) -> Processes:
        """Lock the folder; what a crash left in the file.

        Raises
        ------
        StackError
            When another process holds it, or the folder cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while not self._lock():
                pass
        except BlockingIOError:
            pid = self.read().get("stack", (0, 0.0))[0]
            raise StackError(
                f"a stack runs already in {self.path.parent} (process {pid}); "
                f"end it with Ctrl-C there, or with '{scenario.program()} up --down --directory={self.path.parent}' "
                "('make down' for run), or choose another --directory"
            ) from None
        except OSError as error:
            raise StackError(f"{self.path}: {error.strerror}; choose another --directory") from None
        return self.read()

    def _lock(self) -> bool:
        """Lock the file; false when it was deleted meanwhile."""
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
        """The processes in the file; none when it is empty or damaged."""
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            return {str(name): (int(pid), float(start)) for name, (pid, start) in document.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def write(self, pids: dict[str, int]) -> None:
        """Name the processes of this stack, this one first."""
        processes = {}
        for name, pid in {"stack": os.getpid(), **pids}.items():
            with contextlib.suppress(psutil.Error):
                processes[name] = (pid, psutil.Process(pid).create_time())
        text = json.dumps(processes, indent=2).encode() + b"\n"
        os.pwrite(self._file, text, 0)
        os.ftruncate(self._file, len(text))

    def release(self) -> None:
        """Delete the file and give up the lock."""
        if self._file >= 0:
            self.path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1


def end(processes: Processes) -> list[str]:
    """End processes that a crash left behind, those that are really ours; their names."""
    ours = {
        name: process
        for name, (pid, start) in processes.items()
        if name != "stack" and (process := _ours(pid, start)) and _leads_session(pid)
    }
    for process in ours.values():
        _send(process.pid, signal.SIGTERM)
    for process in _await_end(list(ours.values()), LEFT_SECONDS):
        _send(process.pid, signal.SIGKILL)
    _await_end(list(ours.values()), 2)
    return list(ours)


def down(directory: Path) -> list[str]:
    """Stop the stack of a folder, running or crashed; names of what was ended.

    Raises
    ------
    StackError
        When it cannot be stopped.
    """
    state = State(directory)
    if not state.path.exists():
        return []
    ended: list[str] = []
    processes = state.read()
    pid, start = processes.get("stack", (0, 0.0))
    if supervisor := _ours(pid, start):
        supervisor.terminate()
        if _await_end([supervisor], STOP_SECONDS):
            supervisor.kill()
        ended = list(processes)
        if not state.path.exists():
            return ended
    deadline = time.monotonic() + 2  # a killed supervisor's lock ends with it
    while True:
        try:
            processes = state.acquire() or processes
            break
        except StackError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    left = end(processes)
    state.release()
    return ended or left


def _await_end(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait for processes to end; the ones that still run."""
    deadline = time.monotonic() + seconds
    while (running := [process for process in processes if _runs(process)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return running


def _runs(process: psutil.Process) -> bool:
    try:
        # One that has ended but that its parent has not asked for still has an entry.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _ours(pid: int, start: float) -> psutil.Process | None:
    """The process, if it is the one that was written down and no later one with its id."""
    try:
        process = psutil.Process(pid)
        # Seconds apart when the clock was set; a process id comes round later than that.
        same = abs(process.create_time() - start) < 5
    except (psutil.Error, ValueError):
        return None
    return process if pid > 1 and same and _runs(process) else None


def _leads_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except OSError:
        return False


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(pid, number)
