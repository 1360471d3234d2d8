"""What of a file an exporter has acknowledged, on disk beside the file."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from exporter.errors import BatchError

_PIECE = 2**20


class State(msgspec.Struct, forbid_unknown_fields=True):
    """The state file.

    Attributes
    ----------
    run
        Begins the idempotency key of each of its batches.
    to
        Exporter, model and version.
    size, sha256
        Of the file when it was opened.
    batch_size
        Rows of a batch: batches must be cut as they were.
    rows, accepted
        Rows of the file up to the last acknowledged batch, and how many of them the exporter took.
    sending
        Last row of a batch that is under way and shorter than the others, since the file ended there; 0 for none.
    done
        Whether that was all of the file.
    time
        When this was written, RFC 3339.
    """

    run: str
    to: str
    size: int
    sha256: str
    batch_size: int
    rows: int = 0
    accepted: int = 0
    sending: int = 0
    done: bool = False
    time: str = ""


def begin(path: Path | None, file: Path, to: str, batch_size: int, appendable: bool) -> tuple[State, str]:
    """Where to go on with a file, and what is to be said of it; from the start where nothing was sent.

    Parameters
    ----------
    path
        The state file; None keeps none.
    file
        What is to be sent.
    to
        Exporter, model and version.
    batch_size
        Rows of a batch, if this is a new run.
    appendable
        Whether the file is of lines, so that what was sent of it is still its beginning when it has grown.

    Raises
    ------
    BatchError
        When the state is none, or that of an unfinished run to somewhere else.
    """
    size, digest = file.stat().st_size, _sha256(file)
    fresh = State(secrets.token_hex(12), to, size, digest, batch_size)
    if path is None or (known := _load(path)) is None:
        return fresh, ""
    same = known.size == size and known.sha256 == digest
    grown = appendable and known.size < size and known.sha256 == _sha256(file, known.size)
    if not (same or grown):
        if known.done:
            return fresh, ""
        rows = f"rows from {known.rows + 1:,} on of what it was on {known.time} were never sent"
        return fresh, f"{file} is another file than before: it is sent from its start; {rows}"
    if known.to != to:
        if known.done:
            return fresh, ""
        wanted = f"finish it there, or remove {path} to send it from its start"
        raise BatchError(f"{file}: its first {known.rows:,} rows were sent to {known.to}: {wanted}")
    before = known.rows
    known.done = known.done and same
    known.size, known.sha256 = size, digest
    return known, f"the first {before:,} rows were sent before ({path})"


def save(path: Path | None, state: State) -> None:
    """Write the state, whole and on disk before anything else happens.

    Raises
    ------
    BatchError
        When that fails.
    """
    if path is None:
        return
    state.time = datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(state), indent=1) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        where = "--state names another place for it"
        raise BatchError(f"the state file {path} cannot be written: {error.strerror}; {where}") from None


def _load(path: Path) -> State | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=State)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BatchError(f"the state file {path} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        wanted = "remove it to send the file from its start"
        raise BatchError(f"{path}: is no state of an ingest: {error}; {wanted}") from None


def _sha256(path: Path, size: int | None = None) -> str:
    """Of a file, or of its first bytes."""
    digest = hashlib.sha256()
    left = path.stat().st_size if size is None else size
    with path.open("rb") as file:
        while left and (piece := file.read(min(_PIECE, left))):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()
