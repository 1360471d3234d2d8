"""Feedback and labels that arrived after their prediction had left the database: the archive may have it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from exporter.storage.archive import Archive, archived_up_to
from exporter.storage.prediction_rows import PER_ROW, SHARED, Rows
from exporter.storage.schema import feedback, is_unjoined, is_waiting, labels

MAX_ROWS = 10_000
"""Identifiers that are looked for at a time."""
WAITED = 600.0
"""Seconds that feedback or a label has waited, so that its prediction is not on its way."""
_TABLES = (
    (feedback.c.id, feedback.c.prediction_id, feedback.c.created, is_unjoined),
    (labels.c.id, labels.c.prediction_id, labels.c.received, is_waiting),
)


class LateRows:
    """Finds the archived predictions for which feedback or labels wait; looks for each identifier once."""

    def __init__(self) -> None:
        self._after = [0, 0]

    def identifiers(self, connection: sa.Connection) -> set[str]:
        """Return identifiers of predictions that were not returned before."""
        found: set[str] = set()
        for table, (key, id_, arrived, waits) in enumerate(_TABLES):
            query = sa.select(key, id_).where(waits, key > self._after[table], arrived < time.time() - WAITED)
            rows = connection.execute(query.where(id_.is_not(None)).order_by(key).limit(MAX_ROWS)).all()
            found.update(row[1] for row in rows)
            self._after[table] = max([self._after[table], *(row[0] for row in rows)])
        return found


def find_archived(connection: sa.Connection, archive: Archive, ids: set[str]) -> Iterator[list[Rows]]:
    """Yield archived predictions with these identifiers, the newest file first; none for a file without any.

    Raises
    ------
    StoreError
        When the archive cannot be read.
    """
    last = archived_up_to(connection)
    connection.rollback()
    if not last or not ids:
        return
    names = [name for name in (*SHARED, *PER_ROW) if name not in {"day", "packed"}]
    for found in archive.find(names, ids, last):
        yield [_row(row) for row in found]


def _row(found: Mapping[str, Any]) -> Rows:
    received = found["received"].timestamp()
    row = {**found, "received": received, "time": found["time"].timestamp(), "day": int(received // 86400)}
    return Rows(tuple(row[name] for name in SHARED), [row.get(name) for name in PER_ROW])
