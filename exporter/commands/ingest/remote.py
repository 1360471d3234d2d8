"""Send rows to an exporter, batch by batch, each acknowledged before the next."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from exporter.client.encoding import rfc3339
from exporter.commands.ingest.checkpoint import State, save
from exporter.commands.ingest.json_lines import Chunk, split
from exporter.commands.ingest.table import Refused, Rows, Table
from exporter.errors import BatchError
from exporter.features.extract import as_list
from exporter.http_client.client import TRANSIENT, Client, InterruptedWait, RequestError, Response, retry_for

_SLICE = 500
_REFUSED = os.strerror(errno.ECONNREFUSED)

_encoder = msgspec.json.Encoder()


class RowLabels:
    """The labels of rows that are sent.

    Parameters
    ----------
    column
        Name of their column.
    refused
        Collects labels that are refused.
    """

    def __init__(self, column: str | None, refused: Refused) -> None:
        self.column = column
        self.refused = refused
        self._lines: dict[int, bytes] = {}

    def add(self, number: int, prediction_id: str | None, label: Any) -> None:
        """Add the label of a row; None is none."""
        if label is None:
            return
        if prediction_id is None:
            self.refused.add(number, self.column or "", "the row has no identifier by which its label could be joined")
        else:
            self._lines[number] = _encoder.encode({"prediction_id": prediction_id, "label": label})

    def of(self, chunk: Chunk, refused: Collection[int]) -> Chunk:
        """Take the labels of a chunk's rows; those of refused rows are dropped."""
        found = {number: self._lines.pop(number) for number in chunk.numbers if number in self._lines}
        kept = {number: line for number, line in found.items() if number not in refused}
        return Chunk(list(kept.values()), list(kept), chunk.done)


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

    def __init__(
        self,
        client: Client,
        state: State,
        path: Path | None,
        refused: Refused,
        *,
        labels: RowLabels,
        give_up: float,
        route: str = "/v1/predictions",
    ) -> None:
        self._client = client
        self.state = state
        self._path = path
        self._refused = refused
        self._labels = labels
        self._give_up = give_up
        self._route = route
        self.totals: Counter[str] = Counter()
        self._warned = False
        self._reached = False  # an attempt failed after it may have reached the exporter
        self._is_new = not state.time  # it was never saved

    def send(self, chunks: Iterable[Chunk], on_chunk: Callable[[Chunk], None]) -> None:
        """Send batches and save in the state what was acknowledged.

        Raises
        ------
        BatchError
            When the exporter does not accept them; the state says how many it did.
        """
        is_saved = False
        for chunk in chunks:
            if len(chunk.lines) < self.state.batch_size and self._path is not None:
                self.state.sending = chunk.numbers[-1]  # if the file grows, this batch must end here all the same
                is_saved = False
            if not is_saved:  # before anything is sent: a file that cannot be read leaves no state
                save(self._path, self.state)
            is_saved = True
            key = f"{self.state.run}-{chunk.numbers[0]}"
            accepted, refused = self._send(chunk, self._route, self._refused, key)
            labels = self._labels.of(chunk, refused)
            accepted_labels, _ = self._send(labels, "/v1/labels", self._labels.refused) if labels.lines else (0, ())
            self.state.rows, self.state.sending = chunk.numbers[-1], 0
            self.state.accepted += accepted
            self.state.labels += accepted_labels
            save(self._path, self.state)
            on_chunk(chunk)

    def finish(self, rows: int) -> None:
        """Save that all rows of the file were sent."""
        self.state.rows, self.state.done = max(rows, self.state.rows), True
        save(self._path, self.state)

    def _send(self, chunk: Chunk, path: str, refused: Refused, key: str | None = None) -> tuple[int, set[int]]:
        """Send lines; return how many were accepted, and the numbers of the rows that were refused."""
        response = self._post(path, b"\n".join(chunk.lines), key)
        accepted = response.status in {200, 201, 202}
        if not accepted and response.status != 400:
            if path == self._route and response.status not in TRANSIENT:
                self._forget_unsent()
            tried = f", for {self._give_up:g} s" if response.status in TRANSIENT else ""
            raise self._stopped(response.error_message() + tried)
        try:
            document = json.loads(response.body)
            count = int(document["accepted"]) if accepted else 0
            rejected = [*_rejected(document, accepted)]
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
        retries = retry_for(self._give_up, self._warn)
        try:
            return self._client.request("POST", path, body, headers=headers, retries=retries)
        except RequestError as error:
            self._note(error.reason)
            self._forget_unsent()
            raise self._stopped(f"{error.reason}, for {self._give_up:g} s") from None
        except InterruptedWait:
            self._forget_unsent()
            raise

    def _note(self, reason: str) -> None:
        self._reached = self._reached or reason != _REFUSED

    def _warn(self, reason: str) -> None:
        self._note(reason)
        if not self._warned:
            print(f"{self._client.url}: {reason}: trying again", file=sys.stderr)
        self._warned = True

    def _forget_unsent(self) -> None:
        """Remove the state of a run of which nothing was taken: with the right URL or token, it is a new run."""
        if self._path is not None and self._is_new and not self.state.rows and not self._reached:
            self._path.unlink(missing_ok=True)

    def _stopped(self, reason: str) -> BatchError:
        sent = f"{self.state.rows:,} rows are sent"
        again = "; the same command continues after them" if self._path is not None and self.state.rows else ""
        return BatchError(f"{self._client.url}: {reason}; {sent}{again}")


def _rejected(document: Any, accepted: bool) -> Iterator[tuple[int, str, str]]:
    """Yield the index in the request, the pointer and the detail of each row that was refused."""
    if accepted:
        for item in document["rejected"]:
            yield int(item["index"]), str(item["pointer"]), str(item["detail"])
        return
    for item in document.get("errors", ()):
        _, index, *rest = str(item["pointer"]).split("/", 2)
        yield int(index), "/".join(rest), str(item["detail"])


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
            "time": [] if rows.moments is None else list(map(_rfc3339, rows.moments[part].tolist())),
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
    return [_json_number(value) if isinstance(value, float) else value for value in as_list(values)]


def _json_number(value: float) -> float | str | None:
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)


def _rfc3339(seconds: float) -> str | None:
    return None if math.isnan(seconds) else rfc3339(seconds)
