"""Decompress training files to temporary ones, because readers need to seek or to read twice."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from contextlib import ExitStack
from io import BufferedReader
from pathlib import Path
from typing import IO

GZIP = b"\x1f\x8b"
"""The first bytes of a gzip file."""
_INCOMPLETE = (EOFError, gzip.BadGzipFile, zlib.error)


def without_gz(path: Path) -> Path:
    """Return a path without the suffix of gzip.

    >>> str(without_gz(Path("data/training.csv.GZ"))), str(without_gz(Path("training.csv")))
    ('data/training.csv', 'training.csv')
    """
    return path.with_suffix("") if path.suffix.lower() == ".gz" else path


def is_gzip(stream: BufferedReader) -> bool:
    """Return whether a stream is compressed, without reading it."""
    return stream.peek(2)[:2] == GZIP


def plain_copy(stream: BufferedReader) -> IO[bytes]:
    """Copy a stream, decompressed if it is gzip, to a temporary file; a megabyte of it is in memory at a time.

    Raises
    ------
    ValueError
        When it is not complete gzip.
    OSError
        When it cannot be copied; the text names the folder.
    """
    try:
        with ExitStack() as stack:
            copy: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
            source: BufferedReader | gzip.GzipFile = stream
            if is_gzip(stream):
                source = stack.enter_context(gzip.GzipFile(fileobj=stream))
            shutil.copyfileobj(source, copy, 2**20)
            copy.flush()
            stack.pop_all()
            return copy
    except _INCOMPLETE as error:
        raise ValueError(f"is not complete gzip: {error}") from None
    except OSError as error:
        folder = f"{tempfile.gettempdir()} (TMPDIR sets another folder)"
        raise OSError(f"cannot be copied to {folder}: {error.strerror or error}") from None


def path_of(file: IO[bytes]) -> Path:
    """Return a path that opens a temporary file again."""
    return Path(f"/proc/self/fd/{file.fileno()}")
