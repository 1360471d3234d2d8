"""Predictions on their way to the disk: rows as they wait for it, and how each database takes them fastest."""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
import zlib
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

import msgspec
import sqlalchemy as sa

from exporter.config import sampled_share
from exporter.events import NO_VERSION, Label, Prediction
from exporter.storage.schema import predictions, spelling, storable
from exporter.storage.statements import driver_of

SHARED = ("day", "model", "version", "received")
"""Columns that are the same in all rows that came together."""
OWN = tuple(column.name for column in predictions.columns if column.name not in {"seq", *SHARED})
"""Columns of each row's own, the identifier first."""
COLUMNS = SHARED + OWN
"""What a whole row holds, in order."""
TOGETHER = 32
"""Rows in one statement: each gives the interpreter up and waits to have it back, which costs more than a row."""

_NAMES = ", ".join(COLUMNS)
_COPY = f"COPY predictions ({_NAMES}) FROM STDIN"
_WIDTH, _INPUTS = len(OWN), OWN.index("inputs")


class Rows(msgspec.Struct, frozen=True, gc=False):
    """Predictions of one model and version that came together, in the order of the index.

    Attributes
    ----------
    shared
        The values of `SHARED`.
    values
        Those of `OWN`, one row behind the other: a list of its own for each would cost more than all that is in it.
    """

    shared: tuple[Any, ...]
    values: list[Any]

    def __len__(self) -> int:
        return len(self.values) // _WIDTH

    @property
    def ids(self) -> list[str]:
        """The identifier of each."""
        return self.values[::_WIDTH]

    @property
    def size(self) -> int:
        """Bytes of memory that their inputs take."""
        return sum(map(sys.getsizeof, filter(None, self.values[_INPUTS::_WIDTH])))

    def row(self, place: int) -> tuple[Any, ...]:
        """One of them, as values of `COLUMNS`."""
        return (*self.shared, *self.values[place * _WIDTH : (place + 1) * _WIDTH])

    def parts(self, most: int) -> Iterator[Rows]:
        """All of them, so many at a time."""
        for some in self._values(most):
            yield Rows(self.shared, some)

    def _values(self, most: int) -> Iterator[list[Any]]:
        for start in range(0, len(self.values), most * _WIDTH):
            yield self.values[start : start + most * _WIDTH]

    def insert(self, cursor: Any) -> None:
        """Write them with a cursor of SQLite's driver."""
        for some in self._values(TOGETHER):
            cursor.execute(insert_text(len(some) // _WIDTH), (*self.shared, *some))


@functools.cache
def insert_text(rows: int) -> str:
    """A statement that writes so many rows: its parameters are the values of `SHARED`, then of `OWN` for each row."""
    shared = ", ".join(f"?{number}" for number in range(1, len(SHARED) + 1))
    values = ", ".join([f"({shared}, {', '.join('?' * _WIDTH)})"] * rows)
    # Should it fail, its whole transaction is rolled back: SQLite need not remember how to take back it alone.
    return f"INSERT OR FAIL INTO predictions ({_NAMES}) VALUES {values}"  # noqa: S608 (names of ours)


def insert_predictions(connection: sa.Connection, group: Sequence[Rows]) -> None:
    """Write rows, the fast way of each database."""
    with driver_of(connection, "INSERT INTO predictions") as driver, contextlib.closing(driver.cursor()) as cursor:
        if connection.dialect.name == "sqlite":
            for rows in group:
                rows.insert(cursor)
            return
        with cursor.copy(_COPY) as copy:
            for rows in group:
                for place in range(len(rows)):
                    copy.write_row(rows.row(place))


def prediction_rows(
    events: Sequence[Prediction],
    confident: Sequence[bool],
    inputs: Sequence[bytes],
    received: float,
    segments: Sequence[str | None] | None = None,
) -> Rows:
    """Predictions of one model and version as rows.

    Parameters
    ----------
    events
        The predictions; they have identifiers.
    confident
        Whether each counts as confident.
    inputs
        The JSON of each one's inputs that is to be kept; empty for none.
    received
        Unix time in seconds at which they came.
    segments
        The name of each one's segment, where the model has segments.
    """
    shared = (int(received // 86400), events[0].model, storable(events[0].version or NO_VERSION), received)
    ids = [event.id or "" for event in events]
    if "\0" in "".join(ids):
        ids = [storable(name) for name in ids]
    rows: Any = zip(
        ids,
        [event.time.timestamp() if event.time else received for event in events],
        _spelt([event.prediction for event in events]),
        [event.confidence for event in events],
        [event.code or 200 for event in events],
        [event.duration_seconds for event in events],
        confident,
        [kept.decode("utf-8", "replace") or None for kept in inputs],
        segments or [None] * len(events),
        strict=True,
    )
    if ids != sorted(ids):  # written in the order of the index, clients' random identifiers cost less
        rows = sorted(rows, key=itemgetter(0))
    return Rows(shared, list(itertools.chain.from_iterable(rows)))


def _spelt(labels: Sequence[Label]) -> list[str | None]:
    """The spelling of each label; each different one is spelt once."""
    if len(set(map(type, labels))) > 1:  # 1, 1.0 and true are the same to a mapping
        return [spelling(label) for label in labels]
    known = {label: spelling(label) for label in set(labels)}
    return [known[label] for label in labels]


class InputsPolicy:
    """Whose inputs are kept: ``store.inputs`` of the configuration."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._share = sampled_share(text)

    def kept(self, events: Sequence[Prediction], confident: Sequence[bool], inputs: Sequence[bytes]) -> Sequence[bytes]:
        """The inputs of each event that are stored, empty for none.

        Parameters
        ----------
        events
            The events; they have identifiers.
        confident
            Whether each counts as confident.
        inputs
            The JSON of each one's inputs.
        """
        if self._share is not None:  # by the identifier: the same choice wherever it is made
            below = self._share * 2**32
            keeps: Sequence[bool] = [zlib.crc32((event.id or "").encode()) < below for event in events]
        elif self._text == "confident":
            keeps = confident
        else:
            return inputs if self._text == "all" else [b""] * len(inputs)
        return [text if keep else b"" for text, keep in zip(inputs, keeps, strict=True)]
