"""Labels that come too late for the archived row of their prediction: they wait here until they are archived, too."""

from __future__ import annotations

import time
from collections.abc import Iterable

import sqlalchemy as sa

from exporter.storage.archive import archived_before
from exporter.storage.label_rows import LabelRow
from exporter.storage.schema import late_labels
from exporter.storage.statements import CompiledStatement

_NAMES = [column.name for column in late_labels.c if column.name != "seq"]
_insert = CompiledStatement(late_labels.insert(), _NAMES)


class LateLabels:
    """Queues labels for the archive; used by the writer's thread alone.

    Parameters
    ----------
    archives
        Whether there is an archive; without one, nothing is queued.
    """

    def __init__(self, *, archives: bool) -> None:
        self._archives = archives

    def choose(self, connection: sa.Connection, rows: Iterable[LabelRow]) -> list[LabelRow]:
        """Return those of new or changed labels whose predictions are, or at this moment are being, archived.

        Parameters
        ----------
        connection
            In the transaction that writes the labels, the only one that writes: `archived_before` cannot change
            meanwhile.
        rows
            The labels.
        """
        before = archived_before(connection) if self._archives else 0
        return [row for row in rows if row.predicted is not None and row.day < before]

    def queue(self, connection: sa.Connection, late: Iterable[LabelRow]) -> None:
        """Queue labels in the transaction that writes them."""
        now = time.time()
        _insert.execute_many(
            connection,
            [
                {
                    "day": row.day,
                    "id": row.prediction_id,
                    "model": row.model,
                    "label": row.label,
                    "label_time": row.time,
                    "loss": row.loss,
                    "received": now,
                }
                for row in late
            ],
        )


def forget_late_labels(connection: sa.Connection, last: int) -> None:
    """Delete labels that were archived, up to the number of the last one."""
    connection.execute(late_labels.delete().where(late_labels.c.seq <= last))
