"""Feedback and labels that arrived after their prediction had left the database; the archive may have it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from exporter.storage.archive import Archive
from exporter.storage.prediction_rows import PER_ROW, SHARED, Rows
from exporter.storage.schema import feedback, is_unjoined, is_waiting, labels

MAX_ROWS = 10_000
"""Feedback, and labels, that are looked for at a time."""
WAITED = 600.0
"""Seconds that feedback or a label has waited, so that its prediction is not on its way."""
_TABLES = (
    (feedback.c.id, feedback.c.prediction_id, feedback.c.model, feedback.c.created, is_unjoined),
    (labels.c.id, labels.c.prediction_id, labels.c.model, labels.c.received, is_waiting),
)


Waiting = set[tuple[str, str | None]]
"""Identifiers of predictions, each with the model that feedback or a label names; None for any model."""


class LateRows:
    """Lists the predictions for which feedback or labels wait, each once."""

    def __init__(self) -> None:
        self._after = [0, 0]

    def waiting(self, connection: sa.Connection) -> Waiting:
        """Return those that were not returned before."""
        found: Waiting = set()
        for table, (key, id_, model, arrived, waits) in enumerate(_TABLES):
            query = sa.select(key, id_, model).where(waits, key > self._after[table], arrived < time.time() - WAITED)
            rows = connection.execute(query.where(id_.is_not(None)).order_by(key).limit(MAX_ROWS)).all()
            found.update((row[1], row[2]) for row in rows)
            self._after[table] = max([self._after[table], *(row[0] for row in rows)])
        return found


def find_archived(archive: Archive, last: int, waiting: Waiting) -> Iterator[list[Rows]]:
    """Yield the archived predictions for which something waits, the newest file first; none for a file without any.

    Parameters
    ----------
    archive
        The archive.
    last
        The number of the last archived prediction.
    waiting
        What waits; found predictions are removed, and the search ends when nothing is left.

    Raises
    ------
    StoreError
        When the archive cannot be read.
    """
    if not last or not waiting:
        return
    names = [name for name in (*SHARED, *PER_ROW) if name not in {"day", "packed"}]
    for batch in archive.find(names, {id_ for id_, _ in waiting}, last):
        found = [row for row in batch if not waiting.isdisjoint(_awaited_by(row))]
        yield [_row(row) for row in found]
        waiting.difference_update(*map(_awaited_by, found))
        if not waiting:
            return


def _awaited_by(row: Mapping[str, Any]) -> Waiting:
    return {(row["id"], None), (row["id"], row["model"])}


def _row(found: Mapping[str, Any]) -> Rows:
    received = found["received"].timestamp()
    row = {**found, "received": received, "time": found["time"].timestamp(), "day": int(received // 86400)}
    return Rows(tuple(row[name] for name in SHARED), [row.get(name) for name in PER_ROW])
