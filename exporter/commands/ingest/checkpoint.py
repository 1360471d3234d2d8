"""The state of sending a file: how much of it an exporter has acknowledged, kept on disk beside the file."""

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
        Prefix of the idempotency keys of its batches.
    to
        Exporter, model and version.
    size, sha256
        Of the file when it was opened.
    batch_size
        Rows of a batch: a batch that is sent again must have the same rows.
    rows, accepted
        Rows of the file up to the last acknowledged batch, and how many of them the exporter accepted.
    labels
        How many labels of these rows the exporter accepted.
    sending
        Last row of a batch that is being sent and is shorter than the others, because the file ended there; else 0.
    done
        Whether all of the file was sent.
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
    labels: int = 0
    sending: int = 0
    done: bool = False
    time: str = ""


def begin(path: Path | None, file: Path, to: str, batch_size: int, appendable: bool) -> tuple[State, str]:
    """Return the state to continue from, a new one where nothing was sent, and a remark for the user.

    Parameters
    ----------
    path
        The state file; None for none.
    file
        What is to be sent.
    to
        Exporter, model and version.
    batch_size
        Rows of a batch, if this is a new run.
    appendable
        Whether the file is of lines, so that it still begins with what was sent after it has grown.

    Raises
    ------
    BatchError
        When the state file is not valid, or belongs to an unfinished run to another target.
    """
    size, digest = file.stat().st_size, _sha256(file)
    new = State(secrets.token_hex(12), to, size, digest, batch_size)
    if path is None or (state := _load(path)) is None:
        return new, ""
    same = state.size == size and state.sha256 == digest
    grown = appendable and state.size < size and state.sha256 == _sha256(file, state.size)
    if not (same or grown):
        return new, "" if state.done else _changed(file, state)
    if state.to != to:
        if state.done:
            return new, ""
        advice = f"finish it there, or remove {path} to send it from its start"
        sent = f"its first {state.rows:,} rows were sent" if state.rows else "its first rows may have been sent"
        raise BatchError(f"{file}: {sent} to {state.to}: {advice}")
    state.done = state.done and same
    state.size, state.sha256 = size, digest
    return state, f"the first {state.rows:,} rows were sent before ({path})"


def _changed(file: Path, state: State) -> str:
    return (
        f"{file} is another file than before and is sent from its start; "
        f"rows from {state.rows + 1:,} on of the file of {state.time} were never sent"
    )


def save(path: Path | None, state: State) -> None:
    """Write the state atomically, and wait until it is on disk.

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
        advice = "set another one with --state"
        raise BatchError(f"the state file {path} cannot be written: {error.strerror}; {advice}") from None


def _load(path: Path) -> State | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=State)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BatchError(f"the state file {path} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        advice = "remove it to send the file from its start"
        raise BatchError(f"{path}: is not a state file: {error}; {advice}") from None


def _sha256(path: Path, size: int | None = None) -> str:
    """Return the hash of a file, or of its first ``size`` bytes."""
    digest = hashlib.sha256()
    left = path.stat().st_size if size is None else size
    with path.open("rb") as file:
        while left and (piece := file.read(min(_PIECE, left))):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()
