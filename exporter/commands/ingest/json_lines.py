"""JSON lines that are predictions already, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from exporter.commands.ingest.table import Refused
from exporter.errors import BatchError

LONGEST = 16 * 2**20
"""Bytes of a line: an exporter takes no larger body."""


class Chunk(NamedTuple):
    """Some lines that are not blank, where each stands among these (the first is 1), and the share that was read."""

    lines: list[bytes]
    numbers: list[int]
    done: float


class Lines:
    """The lines of a file.

    Parameters
    ----------
    path
        The file.
    where
        What messages call it.
    refused
        Told of lines that are too long.
    most, size
        Lines and bytes of a chunk; one line may be longer.
    after
        The last line to be passed over.
    cut
        A line that is the last of its chunk, whatever its size.

    Attributes
    ----------
    rows
        Lines read so far that are not blank, those passed over included.
    """

    def __init__(
        self, path: Path, where: str, refused: Refused, *, most: int, size: int, after: int = 0, cut: int = 0
    ) -> None:
        self._path = path
        self._where = where
        self._refused = refused
        self._most = most
        self._size = size
        self._after = after
        self._cut = cut
        self.rows = 0

    def __iter__(self) -> Iterator[Chunk]:
        total = max(self._path.stat().st_size, 1)
        lines: list[bytes] = []
        numbers: list[int] = []
        size = place = 0
        with self._path.open("rb") as file:
            for line in _bounded(file):
                text = (line if place else line.removeprefix(b"\xef\xbb\xbf")).strip()
                place += len(line)
                self.rows += bool(text)
                if self.rows <= self._after or not text:
                    continue
                if len(line) > LONGEST:
                    self._refused.add(self.rows, "", f"expected at most {LONGEST >> 20} MiB")
                    continue
                full = len(lines) >= self._most or size + len(text) > self._size
                if lines and (full or numbers[-1] == self._cut):
                    yield Chunk(lines, numbers, min(place / total, 1.0))
                    lines, numbers, size = [], [], 0
                if not line.endswith(b"\n") and not _whole(text):
                    raise BatchError(f"{self._where}: ends in the middle of row {self.rows}: is it still written?")
                lines.append(text)
                numbers.append(self.rows)
                size += len(text) + 1
        if lines:
            yield Chunk(lines, numbers, 1.0)


def _whole(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _bounded(file: BinaryIO) -> Iterator[bytes]:
    """Lines, no more of each than tells that it is too long."""
    while line := file.readline(LONGEST + 1):
        yield line
        if len(line) > LONGEST and not line.endswith(b"\n"):
            while (rest := file.readline(LONGEST)) and not rest.endswith(b"\n"):
                pass
