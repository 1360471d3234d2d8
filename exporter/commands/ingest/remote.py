"""Rows sent to an exporter, batch after batch, each acknowledged before the next."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from exporter.client.encoding import rfc3339
from exporter.client.transport import FAILURES, KeepAliveConnection, Transport, final, reason, retry_after
from exporter.commands.ingest.checkpoint import State, save
from exporter.commands.ingest.json_lines import Chunk
from exporter.commands.ingest.table import Refused, Rows, Table
from exporter.errors import BatchError
from exporter.features.extract import as_list

BODY = 4 * 2**20
"""Bytes of a request; one row may be more."""
_SLICE = 500
_LONGEST_WAIT = 10.0

_encoder = msgspec.json.Encoder()


class Sender:
    """Sends batches in order.

    Parameters
    ----------
    target
        The exporter.
    state
        What it has acknowledged; goes on from there.
    path
        Where that is kept.
    refused
        Told of rows that the exporter refused.
    give_up
        Seconds without an acknowledgement after which it is of no use to try again.
    """

    def __init__(self, target: Transport, state: State, path: Path | None, refused: Refused, give_up: float) -> None:
        self._target = target
        self.state = state
        self._path = path
        self._refused = refused
        self._give_up = give_up
        self._kept = KeepAliveConnection(target)

    def send(self, chunks: Iterable[Chunk], told: Callable[[Chunk], None]) -> None:
        """Send batches and keep in the state what was acknowledged.

        Raises
        ------
        BatchError
            When the exporter does not take them; the state says how far it came.
        """
        save(self._path, self.state)
        for chunk in chunks:
            if len(chunk.lines) < self.state.batch_size and self._path is not None:
                self.state.sending = chunk.numbers[-1]  # if the file grows, this batch must be cut here all the same
                save(self._path, self.state)
            accepted = self._batch(chunk)
            self.state.rows, self.state.sending = chunk.numbers[-1], 0
            self.state.accepted += accepted
            save(self._path, self.state)
            told(chunk)

    def close(self) -> None:
        """Let go of the connection."""
        self._kept.close()

    def finish(self, rows: int) -> None:
        """All rows of the file were sent."""
        self.state.rows, self.state.done = max(rows, self.state.rows), True
        save(self._path, self.state)

    def _batch(self, chunk: Chunk) -> int:
        """How many of a batch's rows were accepted."""
        status, answer = self._deliver(b"\n".join(chunk.lines), f"{self.state.run}-{chunk.numbers[0]}")
        try:
            document = json.loads(answer)
            accepted = int(document["accepted"]) if status == 202 else 0
            rejected = [*_rejected(document, status)]
        except (ValueError, TypeError, KeyError, AttributeError):
            raise self._stopped(f"answered {status} with something else than an exporter's answer") from None
        if status != 202 and not rejected:
            raise self._stopped(reason(status, answer))
        for index, pointer, detail in rejected:
            self._refused.add(chunk.numbers[index], pointer.removeprefix("/"), detail)
        return accepted

    def _deliver(self, body: bytes, key: str) -> tuple[int, bytes]:
        """The exporter's answer, for as long as it makes sense to ask again."""
        until, wait, warned = time.monotonic() + self._give_up, 0.1, False
        while True:
            status, headers, answer = self._attempt(body, key)
            if status in {202, 400}:
                return status, answer
            why = reason(status, answer)
            if final(status):
                raise self._stopped(why)
            delay = retry_after(headers)
            wait = min(wait * 2, _LONGEST_WAIT)
            delay = wait if delay is None else delay
            if time.monotonic() + delay > until:
                raise self._stopped(f"{why}, for {self._give_up:g} s")
            if not warned and status != 503:
                print(f"{self._target.shown}: {why}: trying again", file=sys.stderr)
                warned = True
            time.sleep(delay)

    def _attempt(self, body: bytes, key: str) -> tuple[int, Any, bytes]:
        try:
            return self._kept.post("/v1/predictions", body, "application/x-ndjson", key)
        except FAILURES as error:
            return 0, {}, (getattr(error, "strerror", None) or str(error) or type(error).__name__).encode()

    def _stopped(self, why: str) -> BatchError:
        sent = f"{self.state.rows:,} rows are through"
        again = "; the same command goes on after them" if self._path is not None and self.state.rows else ""
        return BatchError(f"{self._target.shown}: {why}; {sent}{again}")


def _rejected(document: Any, status: int) -> Iterator[tuple[int, str, str]]:
    """Place in the request, pointer and detail of what was refused."""
    if status == 202:
        for one in document["rejected"]:
            yield int(one["index"]), str(one["pointer"]), str(one["detail"])
        return
    for one in document.get("errors", ()):
        _, index, *rest = str(one["pointer"]).split("/", 2)
        yield int(index), "/".join(rest), str(one["detail"])


def table_chunks(table: Table, state: State, model: str, version: str | None) -> Iterator[Chunk]:
    """A table's rows as lines of JSON, cut alike however the file is read."""
    lines: list[bytes] = []
    numbers: list[int] = []
    size, cut = 0, state.sending
    for rows in table:
        for number, line in _encoded(rows, state.rows, model, version):
            if lines and (len(lines) >= state.batch_size or size + len(line) > BODY or numbers[-1] == cut):
                yield Chunk(lines, numbers, rows.done)
                lines, numbers, size = [], [], 0
            lines.append(line)
            numbers.append(number)
            size += len(line) + 1
    if lines:
        yield Chunk(lines, numbers, 1.0)


def _encoded(rows: Rows, after: int, model: str, version: str | None) -> Iterator[tuple[int, bytes]]:
    """Number and JSON of each row that was not sent before."""
    first = int(np.searchsorted(rows.numbers, after, side="right"))
    head = {"model": model, **({} if version is None else {"version": version})}
    for start in range(first, len(rows.numbers), _SLICE):
        part = slice(start, start + _SLICE)
        numbers = rows.numbers[part].tolist()
        columns = [_plain(values[part]) for values in rows.inputs.values()]
        outputs = {
            "prediction": _plain(rows.predictions[part]),
            "confidence": _plain(rows.confidences[part]),
            "id": rows.ids[part],
            "time": [] if rows.moments is None else list(map(_moment, rows.moments[part].tolist())),
        }
        given = {name: values for name, values in outputs.items() if len(values)}
        for place, (number, *values) in enumerate(zip(numbers, *columns, strict=True)):
            event = head | {"inputs": dict(zip(rows.inputs, values, strict=True))}
            event |= {name: value for name, own in given.items() if (value := own[place]) is not None}
            yield number, _encoder.encode(event)


def _plain(values: Any) -> Any:
    """A column as JSON can carry it: NaN is missing, an infinity its own text, and so an invalid value."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.ndim == 1:
        if np.isfinite(values).all():
            return values.tolist()
    elif float not in set(map(type, values)):
        return as_list(values)
    return [_finite(value) if isinstance(value, float) else value for value in as_list(values)]


def _finite(value: float) -> float | str | None:
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)


def _moment(seconds: float) -> str | None:
    return None if math.isnan(seconds) else rfc3339(seconds)
