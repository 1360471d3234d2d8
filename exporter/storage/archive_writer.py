"""Write the archive: predictions in parts, before the retention deletes them.

A part holds the predictions that follow the last archived one, in the order of their numbers, and is named after its
first number. The database is told of a part once it is complete: whatever is killed in between, the next attempt writes
the same predictions to the same name.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa

from exporter.storage.archive import archived_up_to
from exporter.storage.archive_files import ArchiveFiles, another_database, label_schema, labels_name, schema
from exporter.storage.label_rows import stored_rows
from exporter.storage.packed_inputs import unpack
from exporter.storage.parquet_buffer import ParquetBuffer
from exporter.storage.prediction_rows import is_sampled
from exporter.storage.schema import feedback, late_labels, predictions

PART_ROWS, PART_BYTES = 250_000, 64 * 2**20
"""Predictions, or late labels, of a part, and bytes of its files, at most; a part is made in memory."""
FETCHED_ROWS = 200
"""Predictions that are fetched at a time."""
_EPOCH = date(1970, 1, 1)


HasDrift = Callable[[sa.Connection, str, str, float], bool]
"""Whether a version of a model had drift when a prediction was received, at a Unix time in seconds."""


class Part(NamedTuple):
    """The part that was written.

    Attributes
    ----------
    last
        The number of the last prediction, or label; None if there was none to archive.
    rows
        How many.
    is_full
        Whether there may be more.
    """

    last: int | None
    rows: int
    is_full: bool


class ArchiveWriter:
    """Writes parts of the archive.

    Parameters
    ----------
    location
        ``store.archive``, see `exporter.storage.archive_files.ArchiveFiles`.
    share
        ``store.archive_share``: the share of confident predictions without feedback or drift that is archived.

    Attributes
    ----------
    shown : str
        The location for messages: without its query, which may hold a key.
    """

    def __init__(self, location: str, share: float = 1.0) -> None:
        self._files, self._share = ArchiveFiles(location), share
        self.shown = self._files.shown

    def write_part(
        self,
        connection: sa.Connection,
        before_day: int,
        redact: Callable[[str, str | None], str | None],
        has_drift: HasDrift,
        redacted: Callable[[], object],
    ) -> Part:
        """Write the predictions that follow the last archived one.

        Parameters
        ----------
        connection
            To read with.
        before_day
            Predictions that were received before this day, in days since 1970, are archived.
        redact
            See `exporter.storage.feedback_join.Redact`.
        has_drift
            See `HasDrift`.
        redacted
            Returns what is redacted: if that changes before all is read, nothing is written, as rows have more inputs.

        Raises
        ------
        StoreError
            When the files cannot be written.
        """
        first, redacted_before = archived_up_to(connection) + 1, redacted()
        query = sa.select(predictions).where(predictions.c.seq >= first).order_by(predictions.c.seq).limit(PART_ROWS)
        files: defaultdict[int, ParquetBuffer] = defaultdict(partial(ParquetBuffer, schema()))
        labelled: set[int] = set()
        last, read, rows, is_full = None, 0, 0, False
        with connection.execute(query, execution_options={"yield_per": FETCHED_ROWS}) as result:
            for fetched in result.mappings().partitions():
                old = list(itertools.takewhile(lambda row: row["day"] < before_day, fetched))
                weights = self._weights(connection, old, has_drift)
                chosen = [(row, weight) for row, weight in zip(old, weights, strict=True) if weight]
                labels = _labels(connection, [row for row, _ in chosen])
                for row, weight in chosen:
                    inputs = redact(row["model"], unpack(connection, row))
                    key = hash(_key(row))  # a label is of the first prediction with its identifier
                    label = labels.get(_key(row)) if key not in labelled else None
                    labelled.update({key} if label else ())
                    files[row["day"]].add({**row, "inputs": inputs, "weight": weight, **(label or {})})
                rows += len(chosen)
                if old:
                    last, read = old[-1]["seq"], read + len(old)
                is_full = read == PART_ROWS or sum(file.size for file in files.values()) > PART_BYTES
                if is_full or len(old) < len(fetched):
                    break
        connection.rollback()
        if redacted() != redacted_before:
            return Part(None, 0, is_full=True)
        self._write(files, first)
        return Part(last, rows, is_full)

    def write_late_labels(self, connection: sa.Connection, before_day: int) -> Part:
        """Write labels that were queued before a day, in days since 1970, to one file for each day on which they were.

        Raises
        ------
        StoreError
            When the files cannot be written.
        """
        query = sa.select(late_labels).order_by(late_labels.c.seq).limit(PART_ROWS)
        files: dict[int, tuple[str, ParquetBuffer]] = {}
        last, rows, is_full = None, 0, False
        with connection.execute(query, execution_options={"yield_per": FETCHED_ROWS}) as result:
            for row in itertools.takewhile(lambda row: row["received"] < before_day * 86400, result.mappings()):
                day = int(row["received"] // 86400)
                if day not in files:
                    files[day] = labels_name(_date(day), row["seq"]), ParquetBuffer(label_schema())
                files[day][1].add({**row, "date": _date(row["day"])})
                last, rows = row["seq"], rows + 1
                is_full = rows == PART_ROWS or sum(file.size for _, file in files.values()) > PART_BYTES
                if is_full:
                    break
        connection.rollback()
        with self._files.explained("cannot be written"):
            for name, file in files.values():
                self._files.write(name, file.content())
        return Part(last, rows, is_full)

    def _weights(
        self, connection: sa.Connection, rows: Sequence[Mapping[Any, Any]], has_drift: HasDrift
    ) -> list[float]:
        """Return for how many predictions each of these stands in the archive; 0 for one that is left out."""
        if self._share == 1:
            return [1.0] * len(rows)
        ids = [row["id"] for row in rows if row["confident"]]
        query = sa.select(feedback.c.prediction_id).where(feedback.c.prediction_id.in_(ids))
        known = set(connection.execute(query).scalars())
        chance = [
            row["confident"]
            and row["id"] not in known
            and not has_drift(connection, row["model"], row["version"], row["received"])
            for row in rows
        ]
        return [
            1.0 if not by_chance else is_sampled(row["id"], self._share) / self._share
            for row, by_chance in zip(rows, chance, strict=True)
        ]

    def _write(self, files: Mapping[int, ParquetBuffer], first: int) -> None:
        named = {f"date={_date(day)}/{first:020}.parquet": file for day, file in files.items()}
        with self._files.explained("cannot be written"):
            # Before its first part is recorded, a database has no other files than those of this part.
            if first == 1 and named and (others := set(self._files.names()) - named.keys()):
                raise another_database(f"{self.shown}/{min(others)}")
            for name, file in named.items():
                self._files.write(name, file.content())


def _date(day: int) -> date:
    return _EPOCH + timedelta(day)


def _key(row: Mapping[Any, Any]) -> tuple[int, str, str]:
    return row["day"], row["id"], row["model"]


def _labels(connection: sa.Connection, rows: Sequence[Mapping[Any, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return the columns of the labels that predictions have, by `_key`."""
    found = stored_rows(connection, {row["id"] for row in rows}, sorted({row["day"] for row in rows})) if rows else []
    return {
        (label.day, label.prediction_id, label.model): {
            "label": label.label,
            "label_time": label.time,
            "loss": label.loss,
        }
        for label in found
    }
