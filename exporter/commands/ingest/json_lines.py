"""Lines of JSON that are predictions, read in chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from exporter.commands.ingest.table import Refused
from exporter.errors import BatchError

BODY = 4 * 2**20
"""Bytes of a chunk."""
MAX_LINE = 16 * 2**20
"""Bytes of a line: an exporter accepts no larger body."""


class Chunk(NamedTuple):
    """Some lines, their numbers among the lines that are not blank (the first is 1), and the share of the file read."""

    lines: list[bytes]
    numbers: list[int]
    done: float


def split(rows: Iterable[tuple[int, bytes, float]], max_lines: int, end: int) -> Iterator[Chunk]:
    """Yield rows in chunks of at most ``max_lines`` lines and `BODY` bytes; a single line may be longer.

    Parameters
    ----------
    rows
        The number and the line of each, and the share of the file read.
    max_lines
        Lines of a chunk.
    end
        Number of a line that ends its chunk, whatever its size.
    """
    lines: list[bytes] = []
    numbers: list[int] = []
    size = 0
    for number, line, done in rows:
        if lines and (len(lines) >= max_lines or size + len(line) > BODY or numbers[-1] == end):
            yield Chunk(lines, numbers, done)
            lines, numbers, size = [], [], 0
        lines.append(line)
        numbers.append(number)
        size += len(line) + 1
    if lines:
        yield Chunk(lines, numbers, 1.0)


class Lines:
    """The lines of a file.

    Parameters
    ----------
    path
        The file.
    where
        Its name in messages.
    refused
        Collects lines that are too long.
    max_lines, end
        See `split`.
    after
        Number of the last line to skip.

    Attributes
    ----------
    rows
        Lines read so far that are not blank, skipped ones included.
    """

    def __init__(
        self, path: Path, where: str, refused: Refused, *, max_lines: int, after: int = 0, end: int = 0
    ) -> None:
        self._path = path
        self._where = where
        self._refused = refused
        self._max_lines = max_lines
        self._after = after
        self._end = end
        self.rows = 0

    def __iter__(self) -> Iterator[Chunk]:
        return split(self._rows(), self._max_lines, self._end)

    def _rows(self) -> Iterator[tuple[int, bytes, float]]:
        """Yield the number of each line that is to be sent, the line, and the share of the file read."""
        total, position = max(self._path.stat().st_size, 1), 0
        with self._path.open("rb") as file:
            for line in _bounded(file):
                text = (line if position else line.removeprefix(b"\xef\xbb\xbf")).strip()
                position += len(line)
                self.rows += bool(text)
                if self.rows <= self._after or not text:
                    continue
                if len(line) > MAX_LINE:
                    self._refused.add(self.rows, "", f"expected at most {MAX_LINE >> 20} MiB")
                    continue
                if not line.endswith(b"\n") and not _is_json(text):
                    raise BatchError(
                        f"{self._where}: ends in the middle of row {self.rows}: is it still being written?"
                    )
                yield self.rows, text, min(position / total, 1.0)


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _bounded(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines, each truncated just above the longest that is allowed."""
    while line := file.readline(MAX_LINE + 1):
        yield line
        if len(line) > MAX_LINE and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
