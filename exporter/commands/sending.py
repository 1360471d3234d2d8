"""Options, client and resuming, shared by the commands that send a file to an exporter."""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import math
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from exporter.client.encoding import rfc3339
from exporter.commands.common import add_credentials, checked, exporter_client, refused_events, whole_number
from exporter.commands.tables import Chunk, Input, Refused, Rows, Table, split
from exporter.errors import BatchError
from exporter.features.base import as_list
from exporter.features.json_inputs import sanitize
from exporter.http_client import NO_RETRY, TRANSIENT, Client, InterruptedWait, RequestError, Response, retry_for
from exporter.validation import parse_duration
from exporter.wire.events import MAX_REJECTED

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


def _begin(path: Path | None, file: Path, to: str, batch_size: int, appendable: bool) -> tuple[State, str]:
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
        unsent = f"rows from {state.rows + 1:,} on of the file of {state.time} were never sent"
        return new, "" if state.done else f"{file} is another file than before and is sent from its start; {unsent}"
    if state.to != to:
        if state.done:
            return new, ""
        advice = f"finish it there, or remove {path} to send it from its start"
        sent = f"its first {state.rows:,} rows were sent" if state.rows else "its first rows may have been sent"
        raise BatchError(f"{file}: {sent} to {state.to}: {advice}")
    state.done = state.done and same
    state.size, state.sha256 = size, digest
    return state, f"the first {state.rows:,} rows were sent before ({path})"


def save(path: Path | None, state: State) -> None:
    """Write the state atomically, and wait until it is on disk.

    Raises
    ------
    BatchError
        When that fails.
    """
    if path is None:
        return
    state.time = rfc3339(int(time.time()))
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
    digest, left = hashlib.sha256(), path.stat().st_size if size is None else size
    with path.open("rb") as file:
        while piece := file.read(min(_PIECE, left)):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


_SLICE = 500
_REFUSED = os.strerror(errno.ECONNREFUSED)

_encoder = msgspec.json.Encoder()


@dataclass
class RowLabels:
    """The labels of rows that are sent.

    Parameters
    ----------
    column
        Name of their column.
    refused
        Collects labels that are refused.
    """

    column: str | None
    refused: Refused
    lines: dict[int, bytes] = field(default_factory=dict)

    def add(self, number: int, prediction_id: str | None, label: Any) -> None:
        """Add the label of a row; None is none."""
        if label is None:
            return
        if prediction_id is None:
            self.refused.add(number, self.column or "", "the row has no identifier by which its label could be joined")
        else:
            self.lines[number] = _encoder.encode({"prediction_id": prediction_id, "label": label})

    def of(self, chunk: Chunk, refused: Collection[int]) -> Chunk:
        """Take the labels of a chunk's rows; those of refused rows are dropped."""
        found = {number: self.lines.pop(number) for number in chunk.numbers if number in self.lines}
        kept = {number: line for number, line in found.items() if number not in refused}
        return Chunk(list(kept.values()), list(kept), chunk.done)


@dataclass
class Sender:
    """Sends batches in order, each acknowledged before the next.

    Parameters
    ----------
    client
        Of the exporter.
    state
        What the exporter has acknowledged; sending continues from there.
    path
        File of the state; None for none.
    refused
        Collects the rows that the exporter refuses.
    labels
        The labels of the rows; each batch is sent before its labels.
    give_up
        Seconds for which a batch is tried again.
    route
        Where they are sent.

    Attributes
    ----------
    totals
        Sums of the numbers in the responses of this run.
    """

    client: Client
    state: State
    path: Path | None
    refused: Refused
    labels: RowLabels
    give_up: float
    route: str = "/v1/predictions"
    totals: Counter[str] = field(default_factory=Counter)
    warned: bool = False
    reached: bool = False  # an attempt failed after it may have reached the exporter

    def __post_init__(self) -> None:
        self.is_new = not self.state.time  # it was never saved

    def send(self, chunks: Iterable[Chunk], on_chunk: Callable[[Chunk], None]) -> None:
        """Send batches and save in the state what was acknowledged.

        Raises
        ------
        BatchError
            When the exporter does not accept them; the state says how many it did.
        """
        is_saved = False
        for chunk in chunks:
            if len(chunk.lines) < self.state.batch_size and self.path is not None:
                self.state.sending = chunk.numbers[-1]  # if the file grows, this batch must end here all the same
                is_saved = False
            if not is_saved:  # before anything is sent: a file that cannot be read leaves no state
                save(self.path, self.state)
            is_saved = True
            key = f"{self.state.run}-{chunk.numbers[0]}"
            accepted, refused = self._send(chunk, self.route, self.refused, key)
            labels = self.labels.of(chunk, refused)
            accepted_labels, _ = self._send(labels, "/v1/labels", self.labels.refused) if labels.lines else (0, ())
            self.state.rows, self.state.sending = chunk.numbers[-1], 0
            self.state.accepted += accepted
            self.state.labels += accepted_labels
            save(self.path, self.state)
            on_chunk(chunk)

    def finish(self, rows: int) -> None:
        """Save that all rows of the file were sent."""
        self.state.rows, self.state.done = max(rows, self.state.rows), True
        save(self.path, self.state)

    def _send(self, chunk: Chunk, path: str, refused: Refused, key: str | None = None) -> tuple[int, set[int]]:
        """Send lines; return how many were accepted, and the numbers of the rows that were refused."""
        response = self._post(path, b"\n".join(chunk.lines), key)
        accepted = response.status in {200, 201, 202}
        if not accepted and response.status != 400:
            if path == self.route and response.status not in TRANSIENT:
                self._forget_unsent()
            tried = f", for {self.give_up:g} s" if response.status in TRANSIENT else ""
            raise self._stopped(response.error_message() + tried)
        try:
            document = json.loads(response.body)
            count = int(document["accepted"]) if accepted else 0
            rejected = [*refused_events(document)]
            numbers = {chunk.numbers[index] for index, _, _ in rejected}
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            raise self._stopped(f"the response ({response.status}) is not an exporter's") from None
        if accepted:
            self.totals.update({name: value for name, value in document.items() if isinstance(value, int)})
        elif not rejected:
            raise self._stopped(response.error_message())
        if (known := count + len(numbers)) < len(chunk.lines):
            raise self._stopped(f"the response accounts for {known:,} of {len(chunk.lines):,} rows in the request")
        for index, pointer, detail in rejected:
            refused.add(chunk.numbers[index], pointer.removeprefix("/"), detail)
        return count, numbers

    def _post(self, path: str, body: bytes, key: str | None) -> Response:
        headers = {"Content-Type": "application/x-ndjson", **({} if key is None else {"Idempotency-Key": key})}
        retries = retry_for(self.give_up, self._warn)
        try:
            return self.client.request("POST", path, body, headers=headers, retries=retries)
        except RequestError as error:
            self.reached = self.reached or error.reason != _REFUSED
            self._forget_unsent()
            raise self._stopped(f"{error.reason}, for {self.give_up:g} s") from None
        except InterruptedWait:
            self._forget_unsent()
            raise

    def _warn(self, reason: str) -> None:
        self.reached = self.reached or reason != _REFUSED
        if not self.warned:
            print(f"{self.client.url}: {reason}: trying again", file=sys.stderr)
        self.warned = True

    def _forget_unsent(self) -> None:
        """Remove the state of a run of which nothing was taken: with the right URL or token, it is a new run."""
        if self.path is not None and self.is_new and not self.state.rows and not self.reached:
            self.path.unlink(missing_ok=True)

    def _stopped(self, reason: str) -> BatchError:
        sent = f"{self.state.rows:,} rows are sent"
        again = "; the same command continues after them" if self.path is not None and self.state.rows else ""
        return BatchError(f"{self.client.url}: {reason}; {sent}{again}")


def table_chunks(table: Table, state: State, model: str, version: str | None, labels: RowLabels) -> Iterator[Chunk]:
    """Yield a table's rows as lines of JSON, in the same batches however the file is read, and add their labels."""
    lines = ((*row, rows.done) for rows in table for row in _encode(rows, state.rows, model, version, labels))
    return split(lines, state.batch_size, state.sending)


def _encode(rows: Rows, after: int, model: str, version: str | None, labels: RowLabels) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the JSON of each row after one that was sent before, and add its label."""
    first = int(np.searchsorted(rows.numbers, after, side="right"))
    common = {"model": model, **({} if version is None else {"version": version})}
    for start in range(first, len(rows.numbers), _SLICE):
        part = slice(start, start + _SLICE)
        numbers = rows.numbers[part].tolist()
        inputs = [json_values(values[part]) for values in rows.inputs.values()]
        columns = {
            "prediction": json_values(rows.predictions[part]),
            "confidence": json_values(rows.confidences[part]),
            "id": rows.ids[part],
            "time": []
            if rows.moments is None
            else [None if math.isnan(moment) else rfc3339(moment) for moment in rows.moments[part].tolist()],
        }
        actual = json_values(rows.labels[part])
        columns = {name: values for name, values in columns.items() if len(values)}
        for index, (number, *values) in enumerate(zip(numbers, *inputs, strict=True)):
            event = common | {"inputs": dict(zip(rows.inputs, values, strict=True))}
            event |= {name: column[index] for name, column in columns.items() if column[index] is not None}
            if len(actual):
                labels.add(number, rows.ids[start + index] if rows.ids else None, actual[index])
            yield number, _encoder.encode(event)


def json_values(values: Any) -> Any:
    """Return a column as JSON can hold it: NaN as null, an infinity as its text, which is an invalid value."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.ndim == 1:
        if np.isfinite(values).all():
            return values.tolist()
    elif float not in set(map(type, values)):
        return as_list(values)
    return sanitize(as_list(values))


TIMEOUT = 60.0
"""Seconds that one request to an exporter may take."""
BATCH = MAX_REJECTED
"""Rows of a request, at most and by default: an exporter does not look at the rest after as many wrong ones."""


def add_sending_options(parser: argparse.ArgumentParser, command: str) -> None:
    """Add the options of a command that sends a file."""
    add = parser.add_argument
    add_credentials(parser, "MODEL_EXPORTER")
    text = "rows in a request to the exporter"
    add("--batch-size", type=whole_number(1, MAX_REJECTED), default=BATCH, metavar="N", help=text)
    text = "how long to retry when the exporter does not respond or is full"
    add("--give-up", type=checked(parse_duration), default="5m", metavar="DURATION", help=text)
    add("--state", metavar="FILE", help=f"file that records what was sent; default: FILE.{command}.json")
    parser.set_defaults(state_suffix=f".{command}.json")


def sending_client(options: argparse.Namespace) -> Client:
    """Return a client of the exporter in ``--exporter``."""
    return exporter_client(options, TIMEOUT, retries=NO_RETRY, user_in_url=True)


def begin_sending(options: argparse.Namespace, source: Input, to: str) -> tuple[State, Path | None]:
    """Return the state of sending a file and its path, None for none; say what was sent before.

    Parameters
    ----------
    options
        Of `add_sending_options`.
    source
        The file.
    to
        Exporter, and what the rows are to it.

    Raises
    ------
    BatchError
        When the state file is not valid, or belongs to an unfinished run to another target.
    """
    path = options.state or (source.file and source.file.with_name(source.file.name + options.state_suffix))
    appendable = source.kind in {"csv", "jsonl", "predictions"}
    state, remark = _begin(path, source.file or source.path, to, options.batch_size, appendable)
    if state.done:
        print(f"{source.where}: nothing to send: {remark}")
    elif remark:
        print(f"model-exporter: {remark}", file=sys.stderr)
    return state, path
