"""The file that locks the folder of a stack and lists its processes, so that they can be stopped after a crash."""

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
                f"stop it with Ctrl-C there, or with '{scenario.program()} up --down --directory={self.path.parent}' "
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
