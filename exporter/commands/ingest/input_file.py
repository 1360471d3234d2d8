"""Open the input, a file or standard input, plain or compressed, and refuse a file that changes while it is read."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from exporter.errors import BatchError, UsageError
from exporter.profiles.sources.base import is_gzip, path_of, plain_copy, without_gz
from exporter.validation import any_of, similar_file

TABLES = ("csv", "parquet", "npz", "jsonl")
FORMATS = (*TABLES, "predictions")
"""The last is JSON lines of predictions as ``POST /v1/predictions`` accepts them."""
_SUFFIXES = {".csv": "csv", ".parquet": "parquet", ".npz": "npz", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def add_input_options(parser: argparse.ArgumentParser, formats: Sequence[str]) -> None:
    """Add the file of `open_input`, and its format."""
    text = "CSV, Parquet, NPZ or JSON lines, also as .gz; - is standard input"
    parser.add_argument("file", metavar="FILE", help=text)
    parser.add_argument("--format", choices=formats, help="format of the file; default: by its name")


class Input(NamedTuple):
    """The input of the command.

    Attributes
    ----------
    path
        A plain file: the one that was named, or a temporary one with what was compressed or on standard input.
    where
        Its name in messages.
    kind
        One of `FORMATS`.
    file
        The file that was named; None for standard input and pipes.
    """

    path: Path
    where: str
    kind: str
    file: Path | None


@contextlib.contextmanager
def open_input(name: str, kind: str | None, formats: Sequence[str] = FORMATS) -> Iterator[Input]:
    """Open a file or standard input until the block ends.

    Compressed input and standard input are copied to a temporary file: some formats are read from their end,
    some twice.

    Parameters
    ----------
    name
        Of the file, ``-`` for standard input.
    kind
        One of the formats; None to tell it by the file's name.
    formats
        `FORMATS`, or `TABLES` where JSON lines are always a table.

    Raises
    ------
    BatchError
        When it cannot be read, or changed before the block ended.
    """
    if name == "-":
        if kind is None:
            raise UsageError(f"--format: is required for standard input: {any_of(formats)}")
        with _plain_file(_stdin(), "standard input") as path:
            yield Input(path, "standard input", _detected(path, kind, formats), None)
        return
    file = Path(name)
    kind = kind or _kind_of_name(file)
    stream = _open(file)
    before = os.fstat(stream.fileno())
    if not stat.S_ISREG(before.st_mode):  # a pipe, such as a shell's <(…)
        with stream, _plain_file(stream, name) as path:
            yield Input(path, name, _detected(path, kind, formats), None)
        return
    with stream:
        with contextlib.suppress(OSError):  # not every file system has locks
            _lock(stream, name)
        with _plain_file(stream, name) if is_gzip(stream) else contextlib.nullcontext(file) as path:
            yield Input(path, name, _detected(path, kind, formats), file)
        after = file.stat()
    if (before.st_ino, before.st_size, before.st_mtime_ns) != (after.st_ino, after.st_size, after.st_mtime_ns):
        sizes = f"from {before.st_size:,} to {after.st_size:,} bytes"
        raise BatchError(f"{file}: changed while it was read, {sizes}: ingest it again once it is complete")


def _kind_of_name(file: Path) -> str:
    kind = _SUFFIXES.get(without_gz(file).suffix.lower())
    if kind is None:
        raise BatchError(f"{file}: expected a file that ends in {any_of(_SUFFIXES)}, or --format to say what it is")
    return kind


def _open(file: Path) -> BufferedReader:
    try:
        stream = file.open("rb")
        stream.peek(1)  # some file systems open what they cannot read
    except FileNotFoundError:
        raise BatchError(f"{file}: cannot be read: there is no such file{similar_file(file)}") from None
    except OSError as error:
        raise BatchError(f"{file}: cannot be read: {error.strerror or error}") from None
    return stream


def _stdin() -> BufferedReader:
    buffer = sys.stdin.buffer
    return buffer if isinstance(buffer, BufferedReader) else BufferedReader(buffer)  # type: ignore[arg-type]


def _lock(stream: BufferedReader, name: str) -> None:
    """Lock the file, so that no second command sends it."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BatchError(f"{name}: is being read by another model-exporter") from None


@contextlib.contextmanager
def _plain_file(stream: BufferedReader, where: str) -> Iterator[Path]:
    """Copy a stream, decompressed if it is gzip, to a temporary file that never outlives the process."""
    try:
        copy = plain_copy(stream)
    except (ValueError, OSError) as error:
        raise BatchError(f"{where}: {error}") from None
    with copy:
        yield path_of(copy)


def _detected(path: Path, kind: str, formats: Sequence[str]) -> str:
    """Return the format: JSON lines may be predictions, and are if the first of them has an object of inputs."""
    if kind != "jsonl" or "predictions" not in formats:
        return kind
    with path.open("rb") as file:
        first = next((line for line in iter(lambda: file.readline(2**24), b"") if line.strip()), b"")
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(first.removeprefix(b"\xef\xbb\xbf"))  # NaN is allowed, as where predictions are decoded
        if isinstance(document, dict) and isinstance(document.get("inputs"), dict):
            return "predictions"
    return kind
