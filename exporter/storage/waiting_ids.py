"""Remember identifiers that feedback or labels wait for, and find those among new predictions."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import sqlalchemy as sa

from exporter.storage.engine import is_shared
from exporter.storage.prediction_rows import COLUMNS, Rows

MAX_WAITING = 100_000
"""Identifiers that are kept in memory; with more, the database is queried for each group of predictions."""
SCANNED = 500
"""Up to this number of waiting rows, all of them are read; with more, a group's own identifiers are looked up."""


class WaitingIds:
    """Identifiers for which rows of a table wait; used by the writer's thread alone.

    Parameters
    ----------
    connection
        To read them.
    ids
        A column with the identifiers of predictions.
    is_waiting
        Which rows wait.
    """

    def __init__(
        self, connection: sa.Connection, ids: sa.ColumnElement[str | None], is_waiting: sa.ColumnElement[bool]
    ) -> None:
        self._query = sa.select(ids).where(is_waiting)
        # In a shared database other exporters add rows, too: it is queried for each group.
        self._shared = is_shared(connection)
        query = self._query.limit(MAX_WAITING + 1)
        self._ids = set() if self._shared else set(connection.execute(query).scalars())
        self._complete = not self._shared and len(self._ids) <= MAX_WAITING

    def add(self, prediction_id: str) -> None:
        """Remember an identifier for which a row waits now."""
        if self._shared:
            return
        if len(self._ids) < MAX_WAITING:
            self._ids.add(prediction_id)
        else:
            self._complete = False

    def forget(self, ids: set[str]) -> None:
        """Forget identifiers for which no row waits any more."""
        self._ids -= ids

    @property
    def is_empty(self) -> bool:
        """Whether it is known, without a query, that no row waits."""
        return self._complete and not self._ids

    def among(self, connection: sa.Connection, ids: set[str]) -> set[str]:
        """Return those of the identifiers for which rows may wait."""
        if self._complete:
            return ids & self._ids
        # Usually few rows wait, and one query finds all of them; else the caller looks up the identifiers.
        waiting = connection.execute(self._query.limit(SCANNED + 1)).scalars().all()
        return ids if len(waiting) > SCANNED else ids.intersection(waiting)


class AwaitedPredictions:
    """Those of a group's predictions for which rows may wait.

    Parameters
    ----------
    connection
        In the transaction that writes the group.
    group
        The predictions.
    waiting
        The identifiers for which rows wait.
    """

    def __init__(self, connection: sa.Connection, group: Sequence[Rows], waiting: WaitingIds) -> None:
        self._predictions: dict[str, list[dict[str, Any]]] = {}
        self._unmatched: set[str] = set()
        if waiting.is_empty:
            return
        awaited = waiting.among(connection, {prediction_id for rows in group for prediction_id in rows.ids})
        for rows in group if awaited else ():
            for index, prediction_id in enumerate(rows.ids):
                if prediction_id in awaited:
                    row = dict(zip(COLUMNS, rows.row(index), strict=True))
                    self._predictions.setdefault(prediction_id, []).append(row)

    @property
    def ids(self) -> Set[str]:
        """Their identifiers."""
        return self._predictions.keys()

    def find(self, prediction_id: str, model: str | None) -> dict[str, Any] | None:
        """Return the first prediction with an identifier, of a model if one is named, for a row that waits for it."""
        candidates = self._predictions[prediction_id]
        prediction = next((row for row in candidates if model in {None, row["model"]}), None)
        if prediction is None:
            self._unmatched.add(prediction_id)
        return prediction

    @property
    def finished(self) -> set[str]:
        """Identifiers for which no row waits any more, once each row that waits has looked for its prediction."""
        return set(self.ids - self._unmatched)
