"""The stored rows of feedback on several predictions, and their changes, read and written together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from exporter.storage.engine import is_shared
from exporter.storage.prediction_lookup import is_given_model
from exporter.storage.schema import feedback, history
from exporter.storage.size import StoreSize, text_bytes
from exporter.storage.statements import CompiledStatement, update_of_row
from exporter.wire.events import Feedback

EMPTY_ROW = {column.name: None for column in feedback.c if column.name != "id"} | {"released": False, "sampled": False}
CONTENT = ("verdict", "label", "user", "comment", "idempotency_key")
_CHANGED = (*CONTENT, "updated", "status", "revision", "reviewed_label", "counted")
_find = CompiledStatement(
    sa.select(feedback.c.id)
    .where(
        feedback.c.prediction_id == sa.bindparam("prediction_id"),
        feedback.c.model.is_(None) | is_given_model(feedback.c.model),
    )
    .order_by(feedback.c.id)
)
_get = CompiledStatement(sa.select(feedback).where(feedback.c.id == sa.bindparam("row_id")))
_insert = CompiledStatement(feedback.insert(), EMPTY_ROW)
_insert_returning = CompiledStatement(feedback.insert().returning(feedback.c.id), EMPTY_ROW)
_update = CompiledStatement(update_of_row(feedback, _CHANGED))
_DESCRIPTION = ("model", "version", "prediction", "inputs")
_describe = CompiledStatement(update_of_row(feedback, _DESCRIPTION))
_insert_history = CompiledStatement(history.insert(), [column.name for column in history.c if column.name != "id"])


class FeedbackBatch:
    """Feedback that is recorded together: the stored rows on the same predictions, and their changes.

    Parameters
    ----------
    connection
        To read the rows.
    items
        The feedback.
    """

    def __init__(self, connection: sa.Connection, items: Iterable[Feedback]) -> None:
        self._rows: dict[str | None, list[dict[str, Any]]] = {}
        self._inserted: list[dict[str, Any]] = []
        self._updated: dict[int, dict[str, Any]] = {}
        self._described: dict[int, dict[str, Any]] = {}
        self._replaced: list[tuple[dict[str, Any], dict[str, Any]]] = []
        wanted = [
            {"prediction_id": item.prediction_id, "given_model": item.model}
            for item in items
            if item.prediction_id is not None
        ]
        ids = sorted({row["id"] for row in _find.first_rows(connection, wanted) if row})
        for row in _get.first_rows(connection, [{"row_id": id_} for id_ in ids]):
            if row is not None:
                self._rows.setdefault(row["prediction_id"], []).append(dict(row))

    def find(self, item: Feedback) -> dict[str, Any] | None:
        """Return the row on the item's prediction; of the same model, where both name one."""
        if item.prediction_id is None:
            return None
        rows = self._rows.get(item.prediction_id, ())
        return next((row for row in rows if item.model in {None, row["model"]} or row["model"] is None), None)

    def insert(self, row: dict[str, Any]) -> dict[str, Any]:
        """Add a new row."""
        self._inserted.append(row)
        self._rows.setdefault(row["prediction_id"], []).append(row)
        return row

    def replace(self, row: dict[str, Any], description: Mapping[str, Any]) -> None:
        """Move a row's feedback into the history, and return the row to review; the caller sets its new content.

        Parameters
        ----------
        row
            The row.
        description
            The columns of its prediction, if they become known now.
        """
        if row["verdict"] != "sampled":  # the draw is in the history already
            self._replaced.append((row, {"time": row["updated"], **{name: row[name] for name in CONTENT}}))
        row |= {"status": "pending", "revision": row["revision"] + 1, "reviewed_label": None, **description}
        if "id" in row:
            self._updated[row["id"]] = row
            if description:
                self._described[row["id"]] = row

    def write(self, connection: sa.Connection, size: StoreSize) -> None:
        """Write all changes if there is room for them; new rows get their identifiers."""
        added = [*self._inserted, *self._described.values(), *(values for _, values in self._replaced)]
        if added:
            size.require(connection, text_bytes(added))
        if is_shared(connection):
            for row, result in zip(
                self._inserted, _insert_returning.first_rows(connection, self._inserted), strict=True
            ):
                row["id"] = result and result["id"]
        else:
            for row in self._inserted:
                row["id"] = _insert.execute(connection, row).lastrowid
        for statement, names, rows in ((_update, _CHANGED, self._updated), (_describe, _DESCRIPTION, self._described)):
            changes = [{"row_id": row["id"], **{f"new_{name}": row[name] for name in names}} for row in rows.values()]
            statement.execute_many(connection, changes)
        _insert_history.execute_many(
            connection, [{"feedback_id": row["id"], **values} for row, values in self._replaced]
        )
