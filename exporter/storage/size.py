"""How many bytes the store holds, and whether there is room for more: ``store.max_size``.

Predictions are deleted to make room. The rest is kept: feedback with its history, review decisions, releases and
snapshots. Nothing is added to it for which there would be no room even without predictions.
"""

from __future__ import annotations

import logging
import math
import random
import sqlite3
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import sqlalchemy as sa

from exporter.errors import StoreFullError
from exporter.storage.engine import is_shared
from exporter.storage.schema import metadata, predictions
from exporter.validation import parse_size

log = logging.getLogger(__name__)

SAMPLE = 200
"""Predictions whose size the database is asked for, to estimate that of all."""
ROW_BYTES = 512
"""Assumed size of any other row of the kept tables with its index entries, without its texts."""
MEASURE_SECONDS = 1.0
"""How old the mean size of a prediction may be where it decides whether there is room."""
LOG_SECONDS = 60.0
"""Time between two lines that tell that there is no room."""


class Usage(NamedTuple):
    """Bytes of the predictions, and of everything else."""

    predictions: float = 0.0
    kept: float = 0.0


class StoreSize:
    """Measures the store, and refuses what it has no room for; used by the writer's thread alone.

    Parameters
    ----------
    max_size
        ``store.max_size`` of the configuration.

    Attributes
    ----------
    limit : int or None
        The maximum size in bytes.
    usage : Usage
        As it was last measured; any thread may read it.
    """

    def __init__(self, max_size: str | None) -> None:
        self.limit = parse_size(max_size) if max_size else None
        self.usage = Usage()
        self._row_bytes = 0.0
        self._measured_at = self._log_at = -math.inf

    def measure(self, connection: sa.Connection) -> Usage:
        """Measure the store: SQLite's used pages, or PostgreSQL's tables with their indexes."""
        self._measured_at = time.monotonic()
        self._row_bytes = _mean_row_bytes(connection)
        estimate = self._row_bytes * len(prediction_range(connection))
        if is_shared(connection):  # the files of the table do not shrink, so an estimate from its rows may be less
            self.usage = Usage(min(_table_bytes(connection, [predictions.name]), estimate), _kept_bytes(connection))
        else:
            used = _used_pages_bytes(connection)
            self.usage = Usage(min(estimate, used), max(used - estimate, 0.0))
        return self.usage

    def require(self, connection: sa.Connection, size: float) -> None:
        """Check that there is room for about ``size`` more bytes of what is kept.

        Raises
        ------
        StoreFullError
            When there is none, even without any predictions.
        """
        if self.limit is None:
            return
        kept = self._kept(connection, self.limit - size)
        if kept + size > self.limit:
            detail = (
                f"the store has no room: feedback and what else is kept takes {kept / 1e6:.0f} MB of the "
                f"{self.limit / 1e6:.0f} MB of store.max_size; nothing was stored"
            )
            if time.monotonic() >= self._log_at:
                self._log_at = time.monotonic() + LOG_SECONDS
                log.error("%s", detail)
            raise StoreFullError(detail)

    def _kept(self, connection: sa.Connection, enough: float) -> float:
        """Return the bytes of what is kept, or of more than that where it does not exceed ``enough``."""
        if is_shared(connection):
            return _kept_bytes(connection)
        used = _used_pages_bytes(connection)
        if used <= enough:
            return used
        if not self._row_bytes or time.monotonic() > self._measured_at + MEASURE_SECONDS:
            self.measure(connection)
        return max(used - self._row_bytes * len(prediction_range(connection)), 0.0)


def text_bytes(rows: Iterable[Any]) -> int:
    """Return about how many bytes rows of the kept tables take."""
    return sum(ROW_BYTES + sum(len(value) for value in row.values() if isinstance(value, str)) for row in rows)


def prediction_range(connection: sa.Connection) -> range:
    """Return the numbers of predictions, from the first to the last; few in between are unused."""
    first = connection.execute(sa.select(sa.func.min(predictions.c.seq))).scalar()
    last = connection.execute(sa.select(sa.func.max(predictions.c.seq))).scalar()
    return range(0) if first is None or last is None else range(first, last + 1)


def _used_pages_bytes(connection: sa.Connection) -> float:
    pages, free, size = (
        connection.exec_driver_sql(f"PRAGMA {name}").scalar() or 0
        for name in ("page_count", "freelist_count", "page_size")
    )
    return float((pages - free) * size)


def _kept_bytes(connection: sa.Connection) -> float:
    return _table_bytes(connection, [name for name in metadata.tables if name != predictions.name])


def _table_bytes(connection: sa.Connection, names: list[str]) -> float:
    total = sum((sa.func.pg_total_relation_size(name) for name in names), start=sa.literal(0))
    return float(connection.execute(sa.select(total)).scalar() or 0)


def _mean_row_bytes(connection: sa.Connection) -> float:
    """Return the mean bytes of a prediction for each number of `prediction_range`, from a sample."""
    numbers = prediction_range(connection)
    sample = random.sample(numbers, min(SAMPLE, len(numbers)))
    if not sample:
        return 0.0

    def size(column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
        if is_shared(connection):
            stored = sa.func.pg_column_size(column)
        elif sqlite3.sqlite_version_info >= (3, 43):
            stored = sa.func.octet_length(column)  # does not read the text
        else:
            stored = sa.func.length(sa.cast(column, sa.LargeBinary))
        return sa.func.coalesce(stored, 0)

    texts = [column for column in predictions.c if isinstance(column.type, sa.Text | sa.LargeBinary)]
    # 28 bytes of a row's header, some 64 of its numbers; 44 of both index entries, in pages that are 70 % full.
    row_bytes = sum(map(size, texts), start=sa.literal(0)) + 28 + 64 + (44 + size(predictions.c.id)) / 0.7
    query = sa.select(sa.func.count(), sa.func.avg(row_bytes)).where(predictions.c.seq.in_(sample))
    count, mean = connection.execute(query).one()
    return float(mean or 0) * float(count) / len(sample)
