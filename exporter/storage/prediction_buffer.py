"""Predictions that wait for the disk."""

from __future__ import annotations

from collections import deque

from exporter.storage.prediction_rows import Rows

MAX_ROWS = 50_000
"""Predictions that may wait for the disk, at most."""
MAX_BYTES = 128 * 2**20
"""Bytes of inputs that may wait for the disk, at most."""
GROUP = 2000
"""Predictions in one transaction: enough to be fast, few enough that feedback does not wait long."""


class PredictionBuffer:
    """A bounded first-in, first-out queue of predictions; its user holds a lock while it changes.

    Attributes
    ----------
    rows : int
        Predictions that wait.
    """

    def __init__(self) -> None:
        self._entries: deque[tuple[Rows, int]] = deque()
        self.rows = self._bytes = 0

    def has_room(self, rows: Rows, size: int) -> bool:
        """Return whether these rows, with so many bytes of inputs, may be added."""
        return self.rows + len(rows) <= MAX_ROWS and self._bytes + size <= MAX_BYTES

    def append(self, rows: Rows, size: int) -> None:
        """Add rows, with so many bytes of inputs."""
        self._entries.append((rows, size))
        self.rows += len(rows)
        self._bytes += size

    def next_group(self) -> list[Rows]:
        """Return the entries to write in one transaction, without removing them."""
        group: list[Rows] = []
        count = 0
        while len(group) < len(self._entries) and count < GROUP:
            group.append(self._entries[len(group)][0])
            count += len(group[-1])
        return group

    def remove(self, entries: int) -> int:
        """Remove the first entries, and return the number of their rows."""
        before = self.rows
        for _ in range(entries):
            rows, size = self._entries.popleft()
            self.rows -= len(rows)
            self._bytes -= size
        return before - self.rows
