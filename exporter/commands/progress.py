"""Show the progress of a command on standard error: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, ProgressColumn, TaskProgressColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

LOG_SECONDS = 10.0
"""Seconds between two lines of progress in a log."""


def _bar(*columns: ProgressColumn) -> Bar:
    console = Console(file=sys.stderr)
    return Bar(*columns, console=console, transient=True, disable=not sys.stderr.isatty())


class Progress:
    """A context manager that shows how much of a file has been read.

    Parameters
    ----------
    log
        Whether to write a line every `LOG_SECONDS` where standard error is not a terminal.
    """

    def __init__(self, *, log: bool = False) -> None:
        rows = TextColumn("{task.fields[rows]:>13,} rows")
        self._bar = _bar(TextColumn("{task.description:<17}"), BarColumn(), TaskProgressColumn(), rows)
        self._task = self._bar.add_task("", total=1.0, rows=0)
        self._log = log and self._bar.disable
        self._logged = time.monotonic()

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def __call__(self, step: str, share: float, rows: int) -> None:
        """Show the step, the share of the file that is read, and the rows so far."""
        self._bar.update(self._task, description=step, completed=share, rows=rows)
        if self._log and time.monotonic() - self._logged >= LOG_SECONDS:
            self._logged = time.monotonic()
            print(f"{step}: {share:.0%}, {rows:,} rows", file=sys.stderr, flush=True)


def download(name: str) -> Bar:
    """Return a context manager whose ``tasks[0]`` shows the bytes of a download of unknown size."""
    bar = _bar(TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
    bar.add_task(name, total=None)
    return bar
