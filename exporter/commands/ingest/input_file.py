"""What is read: a file or standard input, plain or compressed, that does not change meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import json
import os
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from exporter.errors import BatchError
from exporter.validation import any_of

FORMATS = ("csv", "parquet", "npz", "jsonl", "predictions")
"""The last is JSON lines, too: of predictions as ``POST /v1/predictions`` takes them."""
_SUFFIXES = {".csv": "csv", ".parquet": "parquet", ".npz": "npz", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_GZIP = b"\x1f\x8b"


class Input(NamedTuple):
    """What is read.

    Attributes
    ----------
    path
        A plain file: the one that was named, or what was unpacked or came from standard input.
    where
        What messages call it.
    kind
        One of `FORMATS`.
    file
        The file that was named; None for standard input.
    """

    path: Path
    where: str
    kind: str
    file: Path | None


@contextlib.contextmanager
def opened(name: str, kind: str | None) -> Iterator[Input]:
    """What is to be read, until the block ends.

    Compressed input and standard input are kept in a temporary file meanwhile: some formats are read from their
    end, some twice.

    Parameters
    ----------
    name
        Of the file, ``-`` for standard input.
    kind
        One of `FORMATS`; by the file's name when None.

    Raises
    ------
    BatchError
        When it cannot be read, or changed while the block lasted.
    """
    if name == "-":
        if kind is None:
            raise BatchError(f"--format: is required for standard input: {any_of(FORMATS)}")
        with _plain(_stdin(), "standard input") as path:
            yield Input(path, "standard input", _kind(path, kind), None)
        return
    file = Path(name)
    plain = file.with_suffix("") if file.suffix.lower() == ".gz" else file
    kind = kind or _SUFFIXES.get(plain.suffix.lower())
    if kind is None:
        raise BatchError(f"{file}: expected a file that ends in {any_of(_SUFFIXES)}, or --format to say what it is")
    try:
        stream = file.open("rb")
        before = os.fstat(stream.fileno())
        packed = stream.peek(2)[:2] == _GZIP
    except FileNotFoundError:
        raise BatchError(f"{file}: cannot be read: there is no such file") from None
    except OSError as error:
        raise BatchError(f"{file}: cannot be read: {error.strerror or error}") from None
    if not stat.S_ISREG(before.st_mode):  # a pipe, such as a shell's <(…)
        with stream, _plain(stream, name) as path:
            yield Input(path, name, _kind(path, kind), None)
        return
    with stream:
        with contextlib.suppress(OSError):  # not every file system has locks
            _lock(stream, name)
        with _plain(stream, name) if packed else contextlib.nullcontext(file) as path:
            yield Input(path, name, _kind(path, kind), file)
        after = file.stat()
    if (before.st_ino, before.st_size, before.st_mtime_ns) != (after.st_ino, after.st_size, after.st_mtime_ns):
        sizes = f"from {before.st_size:,} to {after.st_size:,} bytes"
        raise BatchError(f"{file}: changed while it was read, {sizes}: ingest it again once it is complete")


def _stdin() -> BufferedReader:
    buffer = sys.stdin.buffer
    return buffer if isinstance(buffer, BufferedReader) else BufferedReader(buffer)  # type: ignore[arg-type]


def _lock(stream: BufferedReader, name: str) -> None:
    """Keep a second command away from the file."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BatchError(f"{name}: another model-exporter reads it right now") from None


@contextlib.contextmanager
def _plain(stream: BufferedReader, where: str) -> Iterator[Path]:
    """A temporary file with all that a stream holds, unpacked if it is gzip; gone with the process, however it ends."""
    with tempfile.TemporaryFile() as kept:
        try:
            if stream.peek(2)[:2] == _GZIP:
                with gzip.GzipFile(fileobj=stream) as unpacked:
                    shutil.copyfileobj(unpacked, kept, 2**20)
            else:
                shutil.copyfileobj(stream, kept, 2**20)
            kept.flush()
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BatchError(f"{where}: is not whole gzip: {error}") from None
        except OSError as error:
            folder = f"{tempfile.gettempdir()} (TMPDIR names another folder)"
            raise BatchError(f"{where}: cannot be kept in {folder}: {error.strerror or error}") from None
        yield Path(f"/proc/self/fd/{kept.fileno()}")


def _kind(path: Path, kind: str) -> str:
    """The format; JSON lines whose first one has an object of inputs are predictions."""
    if kind != "jsonl":
        return kind
    with path.open("rb") as file:
        first = next((line for line in iter(lambda: file.readline(2**24), b"") if line.strip()), b"")
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(first.removeprefix(b"\xef\xbb\xbf"))  # NaN is allowed, as where predictions are decoded
        if isinstance(document, dict) and isinstance(document.get("inputs"), dict):
            return "predictions"
    return kind
