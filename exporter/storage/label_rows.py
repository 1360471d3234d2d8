"""The rows of the table ``labels``: found for many predictions at once, and written together."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import sqlalchemy as sa

from exporter.storage.engine import is_shared
from exporter.storage.schema import WAITING, labels
from exporter.storage.statements import CompiledStatement, driver_connection, update_of_row
from exporter.storage.stored_text import storable
from exporter.wire.events import MAX_COMPARED

Models = Mapping[str | None, Collection[str]]
"""Identifiers of predictions by the model that was named with them; None where none was."""
_CHANGED = tuple(column.name for column in labels.c if column.name not in {"id", "prediction_id", "received"})
_COLUMNS = ("prediction_id", "received", *_CHANGED)
_NAMES = ", ".join(_COLUMNS)
_UPDATED = 500  # rows in one statement: their JSON is in memory


class LabelRow(msgspec.Struct):
    """A row: the label of a prediction, with a copy of the prediction once that has arrived.

    Attributes
    ----------
    day
        The prediction's day; `WAITING` until it has arrived.
    predicted
        The prediction's Unix time; None until it has arrived.
    label, prediction
        As JSON; the label is None for a prediction that has none yet, and a prediction above `MAX_COMPARED` is None.
    loss
        See `exporter.storage.labels.Loss`; None for a label that cannot be compared with its prediction.
    time, received
        When the label became known, and when it arrived first, Unix time; None for a prediction that has none.
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
    time: float | None = None
    received: float | None = None
    id: int | None = None
    stored: str | None = None
    stored_loss: float | None = None

    def __post_init__(self) -> None:
        self.stored, self.stored_loss = self.label, self.loss

    def join(self, prediction: Mapping[str, Any]) -> None:
        """Copy a prediction, so that the label outlives it."""
        self.day, self.predicted = prediction["day"], prediction["time"]
        text = prediction["prediction"]
        self.prediction = text if text and len(text) <= MAX_COMPARED else None
        self.confidence = prediction["confidence"]
        self.model, self.version = storable(prediction["model"]), storable(prediction["version"])
        self.segment = prediction["segment"] and storable(prediction["segment"])


_JOINED = "l.label, l.loss, l.time, l.received, l.id"
_SHORT = f"CASE WHEN length({{0}}.prediction) <= {MAX_COMPARED} THEN {{0}}.prediction END"
_FOUND = f"p.id, p.model, p.day, p.version, p.time, {_SHORT.format('p')}, p.confidence, p.segment, {_JOINED}"
_STORED = (
    f"l.prediction_id, l.model, l.day, l.version, l.predicted, {_SHORT.format('l')}, l.confidence, l.segment, {_JOINED}"
)
# The first prediction alone: a client may have sent a million with one identifier.
_PREDICTIONS = {
    "sqlite": """
        SELECT {found} FROM json_each(:ids) AS wanted
        CROSS JOIN predictions p ON p.seq = (
            SELECT q.seq FROM predictions q
            WHERE q.day IN (SELECT value FROM json_each(:days)) AND q.id = wanted.value {of_model}
            ORDER BY q.day, q.seq LIMIT 1
        )
        LEFT JOIN labels l ON l.day = p.day AND l.prediction_id = p.id AND l.model = p.model
    """,
    "postgresql": """
        SELECT {found} FROM json_array_elements_text(CAST(:ids AS json)) AS wanted(value)
        CROSS JOIN LATERAL (
            SELECT q.day FROM predictions q
            WHERE q.day = ANY(CAST(:days AS integer[])) AND q.id = wanted.value {of_model}
            ORDER BY q.day LIMIT 1
        ) first
        CROSS JOIN LATERAL (
            SELECT * FROM predictions q WHERE q.day = first.day AND q.id = wanted.value {of_model}
            ORDER BY q.seq LIMIT 1
        ) p
        LEFT JOIN LATERAL (
            SELECT * FROM labels WHERE day = p.day AND prediction_id = p.id AND model = p.model LIMIT 1
        ) l ON true
    """,
}
_LABELS = {
    "sqlite": """
        SELECT {stored} FROM json_each(:ids) AS wanted CROSS JOIN labels l
        WHERE l.day IN (SELECT value FROM json_each(:days)) AND l.prediction_id = wanted.value
    """,
    "postgresql": """
        SELECT {stored} FROM json_array_elements_text(CAST(:ids AS json)) AS wanted(value) CROSS JOIN labels l
        WHERE l.day = ANY(CAST(:days AS integer[])) AND l.prediction_id = wanted.value
    """,
}
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
    days = _days(connection, "predictions")
    for model in sorted(wanted, key=lambda model: model or ""):
        rows = _of_predictions(connection, wanted[model], days, model)
        _add(found, rows)
        missing.update(set(wanted[model]).difference(row.prediction_id for row in rows))
    if missing:
        # Labels outlive their predictions, of which the oldest are deleted first.
        old = [day for day in _days(connection, "labels") if not days or day <= days[0]]
        _add(found, stored_rows(connection, missing, [WAITING, *old]))
    return found


def _add(found: dict[str, list[LabelRow]], rows: Iterable[LabelRow]) -> None:
    for row in rows:
        others = found.setdefault(row.prediction_id, [])
        if all(other.model != row.model for other in others):
            others.append(row)


def _of_predictions(
    connection: sa.Connection, ids: Collection[str], days: Sequence[int], model: str | None
) -> list[LabelRow]:
    """Return the rows of the first prediction with each identifier."""
    of_model = "" if model is None else "AND q.model = :model"
    text = _PREDICTIONS[connection.dialect.name].format(found=_FOUND, of_model=of_model)
    return _select(connection, text, ids, days, **({} if model is None else {"model": model}))


def stored_rows(
    connection: sa.Connection, ids: Collection[str], days: Sequence[int], *, lock: bool = False
) -> list[LabelRow]:
    """Return the labels with these identifiers.

    Parameters
    ----------
    connection
        In a transaction.
    ids
        Identifiers of predictions.
    days
        The days of the predictions; `WAITING` for labels that wait.
    lock
        Whether another exporter may join the same labels at this moment: those that it joins are not returned.
    """
    text = _LABELS[connection.dialect.name].format(stored=_STORED)
    locking = " ORDER BY l.id FOR UPDATE OF l" if lock and is_shared(connection) else ""
    return _select(connection, text + locking, ids, days)


def _select(
    connection: sa.Connection, text: str, ids: Collection[str], days: Sequence[int], **values: str
) -> list[LabelRow]:
    bound = {"ids": _json(sorted(ids)), "days": days if is_shared(connection) else _json(days)}  # sorted, as the index
    with _index_scans(connection):
        rows = connection.execute(sa.text(text), bound | values).all()
    return [LabelRow(*row) for row in rows]


def _json(values: Any) -> str:
    return msgspec.json.encode(values).decode()


def _days(connection: sa.Connection, table: str) -> list[int]:
    """Return the days of a table's rows, the first one first: each is found by one look-up in the index."""
    return list(connection.execute(sa.text(_DAYS.format(table=table)), {"after": WAITING}).scalars())


@contextlib.contextmanager
def _index_scans(connection: sa.Connection) -> Iterator[None]:
    """Let PostgreSQL look each identifier up: its plan of a prepared statement stays while the table grows."""
    names = [f"enable_{kind}" for kind in ("seqscan", "bitmapscan", "hashjoin", "mergejoin") if is_shared(connection)]
    if names:
        connection.exec_driver_sql("SELECT " + ", ".join(f"set_config('{name}', 'off', true)" for name in names))
    yield
    if names:
        connection.exec_driver_sql("SELECT " + ", ".join(f"set_config('{name}', 'on', true)" for name in names))


_insert = CompiledStatement(labels.insert(), _COLUMNS)
_update = CompiledStatement(update_of_row(labels, _CHANGED))


def write_rows(connection: sa.Connection, rows: Collection[LabelRow]) -> None:
    """Insert new rows, and update others."""
    new = sorted((row for row in rows if row.id is None), key=attrgetter("day", "prediction_id"))
    stored = [row for row in rows if row.id is not None]
    if is_shared(connection):
        _copy(connection, new)
        _update_together(connection, stored)
        return
    _insert.execute_many(connection, [{name: getattr(row, name) for name in _COLUMNS} for row in new])
    _update.execute_many(
        connection, [{"row_id": row.id, **{f"new_{name}": getattr(row, name) for name in _CHANGED}} for row in stored]
    )


def _copy(connection: sa.Connection, rows: Sequence[LabelRow]) -> None:
    """Insert rows into PostgreSQL: their texts are `storable`, so that psycopg's own dumper, in C, takes them."""
    if not rows:
        return
    from psycopg.types.string import StrDumper  # only here: SQLite needs no psycopg

    text, values = f"COPY labels ({_NAMES}) FROM STDIN", attrgetter(*_COLUMNS)
    with driver_connection(connection, text) as driver, driver.cursor() as cursor:
        cursor.adapters.register_dumper(str, StrDumper)
        with cursor.copy(text) as copy:
            for row in rows:
                copy.write_row(values(row))


def _update_together(connection: sa.Connection, rows: Sequence[LabelRow]) -> None:
    """Update rows of PostgreSQL in few statements.

    A row takes 18 µs of processor time; with a statement for each, in one round trip, 39 µs.
    """
    values = ", ".join(f"{name} = new.{name}" for name in _CHANGED)
    text = (
        f"UPDATE labels SET {values} "  # noqa: S608 (constant names)
        "FROM json_populate_recordset(CAST(NULL AS labels), CAST(:rows AS json)) AS new WHERE labels.id = new.id"
    )
    for start in range(0, len(rows), _UPDATED):
        with _index_scans(connection):
            connection.execute(sa.text(text), {"rows": _json(rows[start : start + _UPDATED])})
