"""The memory of an exporter and of Python, and small bodies that would take much of it."""

from __future__ import annotations

import base64
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.servers import Served


@contextmanager
def allocating(most: float) -> Iterator[None]:
    """Check that Python allocates no more bytes than these at any moment of the block."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def bomb(side: int) -> str:
    """Base64 of a small PNG file with many black pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join([packer.compress(bytes(side + 1)) for _ in range(side)] + [packer.flush()])
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return base64.b64encode(file).decode()


def peak(server: Served) -> float:
    """The most memory that the exporter ever had, in MiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@contextmanager
def growing(server: Served, most: float) -> Iterator[None]:
    """Expect that the exporter takes at most so many MiB more meanwhile than before."""
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")  # the peak is what it has now
    before = peak(server)
    yield
    assert peak(server) - before < most
