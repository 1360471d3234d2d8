"""The rows of the table ``labels``: found for many predictions at once, and written together."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from exporter.storage.engine import is_shared
from exporter.storage.schema import WAITING, labels
from exporter.storage.statements import CompiledStatement, driver_connection, update_of_row

Models = Mapping[str | None, Collection[str]]
"""Identifiers of predictions by the model that was named with them; None where none was."""
_CHANGED = tuple(column.name for column in labels.c if column.name not in {"id", "prediction_id", "received"})
_COLUMNS = ("prediction_id", "received", *_CHANGED)
_NAMES = ", ".join(_COLUMNS)
_COPIED = ("model", "version", "prediction", "confidence", "segment")


class LabelRow(msgspec.Struct):
    """A row: the label of a prediction, with a copy of the prediction once that has arrived.

    Attributes
    ----------
    day
        The prediction's day; `WAITING` until it has arrived.
    predicted
        The prediction's Unix time; None until it has arrived.
    label, prediction
        As JSON; the label is None for a prediction that has none yet.
    loss
        See `exporter.storage.labels.Loss`; None for a label that cannot be compared with its prediction.
    time, received
        When the label became known, and when it arrived first, Unix time.
    id
        Identifier of the row; None if it is new.
    stored, stored_loss
        The label and the loss as they are in the database.
    """

    prediction_id: str
    model: str | None = None
    day: int = WAITING
    version: str | None = None
    predicted: float | None = None
    prediction: str | None = None
    confidence: float | None = None
    segment: str | None = None
    label: str | None = None
    loss: float | None = None
    time: float = 0.0
    received: float = 0.0
    id: int | None = None
    stored: str | None = None
    stored_loss: float | None = None

    def join(self, prediction: Mapping[str, Any]) -> None:
        """Copy a prediction, so that the label outlives it."""
        self.day, self.predicted = prediction["day"], prediction["time"]
        for name in _COPIED:
            setattr(self, name, prediction[name])


_LABEL = "l.id AS id, l.label AS label, l.loss AS loss, l.time AS time, l.received AS received"
_PREDICTION = ("day", "model", "version", "prediction", "confidence", "segment")
_STORED = ", ".join(
    (
        "l.prediction_id AS prediction_id, l.predicted AS predicted",
        _LABEL,
        *(f"l.{name} AS {name}" for name in _PREDICTION),
    )
)
_FOUND = ", ".join(
    ("p.id AS prediction_id, p.time AS predicted", _LABEL, *(f"p.{name} AS {name}" for name in _PREDICTION))
)
_WANTED = {
    "sqlite": "json_each(:ids) AS wanted",
    "postgresql": "unnest(CAST(:ids AS text[])) AS wanted(value)",
}
# The first prediction alone: a client may have sent a million with one identifier.
_FIRST = "FROM predictions q WHERE q.day = :day AND q.id = wanted.value {of_model} ORDER BY q.day, q.seq LIMIT 1"
_PREDICTIONS = {
    "sqlite": """
        SELECT {found} FROM {wanted}
        CROSS JOIN predictions p ON p.seq = (SELECT q.seq {first})
        LEFT JOIN labels l ON l.day = p.day AND l.prediction_id = p.id AND l.model = p.model
    """,
    "postgresql": """
        SELECT {found} FROM {wanted}
        CROSS JOIN LATERAL (SELECT * {first}) p
        LEFT JOIN LATERAL (
            SELECT * FROM labels WHERE day = p.day AND prediction_id = p.id AND model = p.model LIMIT 1
        ) l ON true
    """,
}
_LABELS = "SELECT {stored} FROM {wanted} CROSS JOIN labels l WHERE l.day = :day AND l.prediction_id = wanted.value"
_DAYS = """
WITH RECURSIVE days(day) AS (
    SELECT min(day) FROM {table} WHERE day > :after
    UNION ALL SELECT (SELECT min(day) FROM {table} t WHERE t.day > days.day) FROM days WHERE days.day IS NOT NULL
) SELECT day FROM days WHERE day IS NOT NULL
"""


def find_rows(connection: sa.Connection, wanted: Models) -> dict[str, list[LabelRow]]:
    """Return by identifier the rows of labels and, without a label, those of the predictions that have none.

    Parameters
    ----------
    connection
        In a transaction, the only one that writes.
    wanted
        The identifiers. Of several predictions with one identifier, the first of each model counts.
    """
    found: dict[str, list[LabelRow]] = {}
    missing: set[str] = set()
    days = _days(connection, "predictions", after=WAITING)
    with _index_scans(connection):
        for model in sorted(wanted, key=lambda model: model or ""):
            left: Collection[str] = wanted[model]
            for day in days if left else ():
                rows = _of_predictions(connection, left, day, model)
                _add(found, rows)
                left = set(left).difference(row.prediction_id for row in rows)
                if not left:
                    break
            missing.update(left)
        if missing:
            # Labels outlive their predictions, of which the oldest are deleted first.
            old = (day for day in _days(connection, "labels", after=WAITING) if not days or day <= days[0])
            for day in (WAITING, *old):
                _add(found, stored_rows(connection, missing, day))
    return found


def _add(found: dict[str, list[LabelRow]], rows: Iterable[LabelRow]) -> None:
    for row in rows:
        others = found.setdefault(row.prediction_id, [])
        if all(other.model != row.model for other in others):
            others.append(row)


def _of_predictions(connection: sa.Connection, ids: Collection[str], day: int, model: str | None) -> list[LabelRow]:
    """Return the rows of the first prediction with each identifier on a day."""
    first = _FIRST.format(of_model="" if model is None else "AND q.model = :model")
    values = {"day": day} if model is None else {"day": day, "model": model}
    name = connection.dialect.name
    text = _PREDICTIONS[name].format(found=_FOUND, wanted=_WANTED[name], first=first)
    return _select(connection, text, ids, **values)


def stored_rows(connection: sa.Connection, ids: Collection[str], day: int, *, lock: bool = False) -> list[LabelRow]:
    """Return the labels with these identifiers on a day.

    Parameters
    ----------
    connection
        In a transaction.
    ids
        Identifiers of predictions.
    day
        The day of the predictions; `WAITING` for labels that wait.
    lock
        Whether another exporter may join the same labels at this moment: those that it joins are not returned.
    """
    text = _LABELS.format(stored=_STORED, wanted=_WANTED[connection.dialect.name])
    locking = " ORDER BY l.id FOR UPDATE OF l" if lock and is_shared(connection) else ""
    with _index_scans(connection):
        return _select(connection, text + locking, ids, day=day)


def _select(connection: sa.Connection, text: str, ids: Collection[str], **values: object) -> list[LabelRow]:
    ordered = sorted(ids)  # the index is read in its order
    bound = {"ids": ordered if is_shared(connection) else msgspec.json.encode(ordered).decode(), **values}
    rows = connection.execute(sa.text(text), bound).mappings()
    return [_row(dict(row)) for row in rows]


def _row(values: dict[str, Any]) -> LabelRow:
    if values["id"] is None:  # a prediction without a label
        del values["time"], values["received"]
    return LabelRow(**values, stored=values["label"], stored_loss=values["loss"])


def _days(connection: sa.Connection, table: str, *, after: int) -> Sequence[int]:
    """Return the days of a table's rows, the first one first: each is found by one look-up in the index."""
    return connection.execute(sa.text(_DAYS.format(table=table)), {"after": after}).scalars().all()


@contextlib.contextmanager
def _index_scans(connection: sa.Connection) -> Iterator[None]:
    """Let PostgreSQL look each identifier up: its plan of a prepared statement stays while the table grows."""
    names = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin") if is_shared(connection) else ()
    if names:
        connection.exec_driver_sql("SELECT " + ", ".join(f"set_config('{name}', 'off', true)" for name in names))
    yield
    if names:
        connection.exec_driver_sql("SELECT " + ", ".join(f"set_config('{name}', 'on', true)" for name in names))


_insert = CompiledStatement(labels.insert(), _COLUMNS)
_update = CompiledStatement(update_of_row(labels, _CHANGED))
_COPY = f"COPY labels ({_NAMES}) FROM STDIN"


def write_rows(connection: sa.Connection, rows: Iterable[LabelRow]) -> None:
    """Insert new rows, and update others."""
    new = sorted((row for row in rows if row.id is None), key=lambda row: (row.day, row.prediction_id))
    if not is_shared(connection):
        _insert.execute_many(connection, [{name: getattr(row, name) for name in _COLUMNS} for row in new])
    elif new:
        with driver_connection(connection, _COPY) as driver, driver.cursor() as cursor, cursor.copy(_COPY) as copy:
            for row in new:
                copy.write_row([getattr(row, name) for name in _COLUMNS])
    changed = [
        {"row_id": row.id, **{f"new_{name}": getattr(row, name) for name in _CHANGED}}
        for row in rows
        if row.id is not None
    ]
    _update.execute_many(connection, changed)
