"""Find transactions in SQLite's write-ahead log that SQLite would silently ignore.

The format is that of https://www.sqlite.org/fileformat2.html#walformat.
"""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path
from typing import NamedTuple

_HEADER = struct.Struct(">8I")  # magic, version, page size, checkpoint, salt 1, salt 2, checksum 1, checksum 2
_FRAME = struct.Struct(">2I8s2I")  # page, pages of the database if this frame ends a transaction, salts, checksums
_MAGIC = (0x377F0682, 0x377F0683)
_PAGE_BYTES = 4096
"""SQLite's default, assumed where the header cannot be read."""


class WalCommits(NamedTuple):
    """Transactions of a log.

    Attributes
    ----------
    salts
        Frames of this generation of the log carry these salts.
    frames
        The numbers of the frames that end a transaction, from 1, whether SQLite can read the transaction or not.
    """

    salts: bytes
    frames: list[int]


def has_header(path: Path) -> bool:
    """Return whether the log has a valid header."""
    with path.open("rb") as log:
        return _has_header(log.read(_HEADER.size))


def read_commits(path: Path) -> WalCommits | None:
    """Return the transactions of a log; None if there are none. Checksums of frames are not verified."""
    try:
        with path.open("rb") as log:
            header = log.read(_HEADER.size)
            valid = _has_header(header)
            page_bytes = _HEADER.unpack(header)[2] if valid else _PAGE_BYTES
            heads = []
            while len(head := log.read(_FRAME.size)) == _FRAME.size:
                heads.append(_FRAME.unpack(head))
                log.seek(page_bytes, 1)
    except FileNotFoundError:
        return None
    if not heads:
        return None
    salts = header[16:24] if valid else Counter(head[2] for head in heads).most_common(1)[0][0]
    frames = [number for number, head in enumerate(heads, 1) if head[1] and head[2] == salts]
    return WalCommits(salts, frames) if frames else None


def _has_header(header: bytes) -> bool:
    if len(header) < _HEADER.size or _HEADER.unpack(header)[0] not in _MAGIC:
        return False
    # The magic number tells in which byte order the checksum reads the six numbers before it.
    words = struct.unpack(f"{'>' if header[3] & 1 else '<'}6I", header[:24])
    first = second = 0
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return (first, second) == _HEADER.unpack(header)[6:]
