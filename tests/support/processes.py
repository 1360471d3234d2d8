"""Processes of ``model-exporter`` that are forked from one that has imported its modules.

The tests start hundreds of them, and importing would take most of a start. What runs is the same: the command's
``main`` in a process of its own. `support.preloaded` has the modules.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

_FORKSERVER = multiprocessing.get_context("forkserver")


@cache
def _start_forkserver() -> None:
    """Start the server that forks; it finds what it imports only by ``PYTHONPATH``, which its children do not have."""
    _FORKSERVER.set_forkserver_preload(["support.preloaded"])
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if path is not None:
            os.environ["PYTHONPATH"] = path


class ForkedCommand:
    """A process that runs ``model-exporter``, with what the tests use of `subprocess.Popen`.

    Parameters
    ----------
    arguments
        Command and options.
    output
        File that standard output is appended to.
    errors
        File that standard error is appended to; default: the same.
    files
        How many files it may have open; default: as many as the tests.
    """

    def __init__(
        self, arguments: Sequence[str], output: Path, errors: Path | None = None, files: int | None = None
    ) -> None:
        _start_forkserver()
        output.touch()
        streams = (output, errors or output)
        self._process = _FORKSERVER.Process(target=_run, args=(arguments, streams, files, Path.cwd(), dict(os.environ)))
        self._process.start()
        self.pid = self._process.pid or 0

    def poll(self) -> int | None:
        """Return the exit status, if it has ended."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return the exit status."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("model-exporter", timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class Printed(NamedTuple):
    """What a command printed."""

    out: str
    err: str


Run = Callable[..., Printed]
"""The fixture ``run``: the arguments of a command, and as ``status`` its exit status, which is checked."""


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``model-exporter`` until it ends, within a minute."""
    with TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        status = ForkedCommand(arguments, output, errors).wait(60)
        return subprocess.CompletedProcess(arguments, status, output.read_text(), errors.read_text())


def _run(
    arguments: Sequence[str], streams: tuple[Path, Path], files: int | None, folder: Path, environment: dict[str, str]
) -> None:
    for descriptor, path in enumerate(streams, start=1):
        with path.open("ab") as stream:
            os.dup2(stream.fileno(), descriptor)
    if files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    from exporter.cli import main

    sys.exit(main(arguments))
