"""How far a command that reads a file is."""

from __future__ import annotations

import time
from typing import TextIO


class Progress:
    """How far it is: a bar on a terminal, else a line every ten seconds.

    Parameters
    ----------
    stream
        Where it is shown.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._shown = time.monotonic()
        self._drawn = False

    def __call__(self, what: str, done: float, rows: int) -> None:
        """Show it, if the last time is long enough ago."""
        now = time.monotonic()
        if now - self._shown < (0.1 if self._terminal else 10):
            return
        self._shown = now
        if self._terminal:
            filled = round(30 * done)
            bar = "█" * filled + "░" * (30 - filled)
            self._stream.write(f"\r\033[K{what:<17} {bar} {done:4.0%} {rows:>13,} rows")
            self._drawn = True
        else:
            self._stream.write(f"{what}: {done:.0%}, {rows:,} rows\n")
        self._stream.flush()

    def clear(self) -> None:
        """Take the bar away."""
        if self._drawn:
            self._stream.write("\r\033[K")
            self._stream.flush()
