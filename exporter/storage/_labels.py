"""Labels as numbers in SQL: the error of a regression, and whether a label is within its tolerance."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from exporter.features.base import decode_label, label_json, label_spellings, scalar_text
from exporter.storage import _database as db
from exporter.storage._feedback import Counts
from exporter.storage._predictions import Rows, awaited_ids, find_awaited, resolve_aliases, waiting_ids
from exporter.storage._retention import StoreSize, archived_before
from exporter.validation import ROUNDING, Tolerance
from exporter.wire.events import MAX_COMPARED, LabelEvent, LabelledPrediction, RejectedEvent


class JsonNumber(FunctionElement[float]):
    """The number in a column of JSON texts; NULL where a text is no number, or one that a double cannot hold."""

    type = sa.Double()
    inherit_cache = True


@compiles(JsonNumber)
def _compile(element: JsonNumber, compiler: Any, **options: Any) -> str:
    text = compiler.process(element.clauses, **options)
    return f"(CASE WHEN {text} GLOB '[-0-9]*' THEN CAST({text} AS REAL) END)"


@compiles(JsonNumber, "postgresql")
def _compile_for_postgresql(element: JsonNumber, compiler: Any, **options: Any) -> str:
    text = compiler.process(element.clauses, **options)
    # The cast fails on anything else, and on numbers beyond the range of a double.
    number = r"^-?[0-9]{1,20}([.][0-9]{1,40})?([eE][-+]?[0-9]{1,2})?$"
    return f"(CASE WHEN {text} ~ '{number}' THEN CAST({text} AS DOUBLE PRECISION) END)"


def label_error(prediction: sa.ColumnElement[Any], label: sa.ColumnElement[Any]) -> sa.ColumnElement[float]:
    """Return the error of a prediction in SQL: label − prediction, NULL unless both are numbers."""
    return JsonNumber(label) - JsonNumber(prediction)


def is_within_tolerance(
    prediction: sa.ColumnElement[Any], label: sa.ColumnElement[Any], tolerance: Tolerance
) -> sa.ColumnElement[bool]:
    """Return in SQL whether a label is within the tolerance of a prediction; false unless both are numbers."""
    size = sa.func.abs(JsonNumber(prediction))
    limit = tolerance.amount + tolerance.share * size  # one of the two is 0
    is_near = sa.func.abs(label_error(prediction, label)) <= limit + ROUNDING * size
    return sa.func.coalesce(is_near, sa.false())


def refusal(prediction: Any, label: Any) -> str:
    """Return why a label is refused, without its value: that may be personal data.

    Parameters
    ----------
    prediction
        Its value; None if it has none, or a longer one than `MAX_COMPARED`.
    label
        The label.
    """
    if prediction is None:
        return f"its prediction has no value to compare with, or one that is longer than {MAX_COMPARED:,} characters"
    if not _is_number(prediction):  # classes can always be compared
        return f"its model predicts numbers, and its prediction is {_kind(prediction)}"
    if not _is_number(label):
        return f"expected a number, as its prediction is, got {_kind(label)}"
    return "is too far from its prediction, or one of the two is not finite"


def _is_number(value: Any) -> bool:
    """Return whether a value is a number, or the text of one."""
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return False
    return type(value) in {int, float, str}


def _kind(value: Any) -> str:
    return "a boolean" if isinstance(value, bool) else "a string"


Models = Mapping[str | None, Collection[str]]
"""Identifiers of predictions by the model that was named with them; None where none was."""
_CHANGED = tuple(column.name for column in db.labels.c if column.name not in {"id", "received"})
_COLUMNS = ("received", *_CHANGED)
_values = attrgetter(*_COLUMNS)
_waiting = waiting_ids(db.labels.c.prediction_id, db.is_waiting)


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
        See `exporter.storage._labels.Loss`; None for a label that cannot be compared with its prediction.
    time, received
        When the label became known, and when it arrived first, Unix time; None for a prediction that has none.
    id
        Identifier of the row; None if it is new.
    stored, stored_loss
        The label and the loss as they are in the database.
    """

    prediction_id: str
    model: str | None = None
    day: int = db.WAITING
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
        self.prediction_id, self.day, self.predicted = prediction["id"], prediction["day"], prediction["time"]
        text = prediction["prediction"]
        self.prediction = text if text and len(text) <= MAX_COMPARED else None
        self.confidence = prediction["confidence"]
        self.model, self.version, self.segment = (prediction[name] for name in ("model", "version", "segment"))


_JOINED = "l.label, l.loss, l.time, l.received, l.id"
_SHORT = f"CASE WHEN length({{0}}.prediction) <= {MAX_COMPARED} THEN {{0}}.prediction END"
_FOUND = f"p.id, p.model, p.day, p.version, p.time, {_SHORT.format('p')}, p.confidence, p.segment, {_JOINED}"
_STORED = (
    f"l.prediction_id, l.model, l.day, l.version, l.predicted, {_SHORT.format('l')}, l.confidence, l.segment, {_JOINED}"
)
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
    days, first = _days(connection, "predictions"), db.backend(connection).FIRST_PREDICTIONS
    for model in sorted(wanted, key=lambda model: model or ""):
        of_model: dict[str, str] = {} if model is None else {"model": model}
        text = first.format(found=_FOUND, of_model="AND q.model = :model" if of_model else "")
        _add(found, rows := _select(connection, text, wanted[model], days, **of_model))
        missing.update(set(wanted[model]).difference(row.prediction_id for row in rows))
    if missing:
        # Labels outlive their predictions, of which the oldest are deleted first.
        old = [day for day in _days(connection, "labels") if not days or day <= days[0]]
        _add(found, stored_rows(connection, missing, [db.WAITING, *old]))
    return found


def _add(found: dict[str, list[LabelRow]], rows: Iterable[LabelRow]) -> None:
    for row in rows:
        others = found.setdefault(row.prediction_id, [])
        if all(other.model != row.model for other in others):
            others.append(row)


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
    text = db.backend(connection).STORED_LABELS.format(stored=_STORED)
    return _select(connection, text + (db.backend(connection).LOCKED if lock else ""), ids, days)


def _select(
    connection: sa.Connection, text: str, ids: Collection[str], days: Sequence[int], **values: str
) -> list[LabelRow]:
    bound = {"ids": db.json_text(sorted(ids)), "days": db.json_text(days)}  # sorted, as the index
    with db.backend(connection).index_scans(connection):
        return [LabelRow(*row) for row in connection.execute(sa.text(text), bound | values).all()]


def _days(connection: sa.Connection, table: str) -> list[int]:
    """Return the days of a table's rows, the first one first: each is found by one look-up in the index."""
    return list(connection.execute(sa.text(_DAYS.format(table=table)), {"after": db.WAITING}).scalars())


def write_rows(connection: sa.Connection, rows: Collection[LabelRow]) -> None:
    """Insert new rows, and update others."""
    new = sorted((row for row in rows if row.id is None), key=attrgetter("day", "prediction_id"))
    values = [value for row in new for value in _values(row)]
    db.backend(connection).insert_rows(connection, db.FlatRows("labels", (), (), _COLUMNS, values))
    db.backend(connection).update_rows(connection, "labels", _CHANGED, [row for row in rows if row.id is not None])


ROW_BYTES = 200
"""Assumed size of a label with its index entries, without its texts."""

Loss = Callable[[str, str, Any, Any], float | None]
"""Takes a model, a version, a prediction and a label. Returns 0 for a right class, 1 for a wrong one, and for a number
the absolute error; None if the label cannot be compared with the prediction."""


class LabelsResult(msgspec.Struct):
    """The results of recorded labels.

    Attributes
    ----------
    accepted
        Labels that are stored: ``joined`` and ``waiting`` ones.
    joined, waiting
        Labels whose prediction is known, and others.
    repeated, changed
        Labels that equal the one before, and labels that replace another one.
    rejected
        Labels that cannot be compared with their prediction; nothing of them is stored.
    """

    accepted: int = 0
    joined: int = 0
    waiting: int = 0
    repeated: int = 0
    changed: int = 0
    rejected: list[RejectedEvent] = []


def class_loss(_model: str, _version: str, prediction: Any, label: Any) -> float:
    """Compare a label with a prediction as classes, by their text; see `Loss`."""
    return float(scalar_text(prediction) != scalar_text(label))


_LATE = ("day", "id", "model", "label", "label_time", "loss", "received")
_insert_late = db.CompiledStatement(db.late_labels.insert(), _LATE)


class Labels:
    """Records labels and joins them with their predictions; used by the writer's thread alone.

    Parameters
    ----------
    size
        Refuses labels that it has no room for.
    loss
        Compares labels with predictions.
    archives
        Whether there is an archive, which gets the labels that come too late for the row of their prediction, too.
    """

    def __init__(self, size: StoreSize, loss: Loss, *, archives: bool) -> None:
        self._size, self._loss, self._archives = size, loss, archives

    def record(
        self, connection: sa.Connection, items: Sequence[LabelEvent], sender: str
    ) -> tuple[LabelsResult, Counts]:
        """Record labels, each as if the ones before it were recorded already.

        Parameters
        ----------
        connection
            In a transaction, the only one that writes.
        items
            The labels, checked.
        sender
            The name of the token or user; empty where nobody is known.

        Returns
        -------
        tuple
            The result, and what counts once the transaction is committed.

        Raises
        ------
        StoreFullError
            When there is no room for new ones.
        """
        wanted: dict[str | None, set[str]] = {}
        for item in items:
            item.prediction_id = db.storable(item.prediction_id)
        resolve_aliases(connection, items)
        for item in items:
            wanted.setdefault(item.model, set()).add(item.prediction_id)
        rows = find_rows(connection, wanted)
        result, changed = LabelsResult(), {}
        now = time.time()
        for index, item in enumerate(items):
            row = _find(rows, item)
            if self._set(row, index, item, now, result):
                changed[id(row)] = row
        new = [row for row in changed.values() if row.id is None]
        late = self._late(connection, changed.values())
        if new or late:
            self._size.require(connection, sum(map(_size, (*new, *late))), sender)
        return result, self._write(connection, changed.values(), late)

    def join(self, connection: sa.Connection, group: Sequence[Rows]) -> Counts:
        """Join the labels that wait for predictions, in the transaction that writes these; return what counts then."""
        if not (ids := awaited_ids(connection, group, _waiting)):
            return Counts()
        rows = sorted(stored_rows(connection, ids, [db.WAITING], lock=True), key=attrgetter("time", "id"))
        found = find_awaited(connection, group, {(row.prediction_id, row.model) for row in rows})
        joined: dict[Any, LabelRow] = {}
        for row in rows:
            if prediction := found.get((row.prediction_id, row.model)):
                row.join(prediction)
                row.loss = self._loss_of(row, decode_label(row.label))
                if earlier := joined.get(key := (row.prediction_id, row.model)):  # of two names of the prediction
                    connection.execute(db.labels.delete().where(db.labels.c.id == earlier.id))
                joined[key] = row
        return self._write(connection, joined.values(), self._late(connection, joined.values()))

    def _set(self, row: LabelRow, index: int, item: LabelEvent, now: float, result: LabelsResult) -> bool:
        """Give a row its label, and count what became of that; return whether the row changed."""
        loss = None
        if row.predicted is not None:
            loss = self._loss_of(row, item.label)
            if loss is None:
                why = refusal(decode_label(row.prediction), item.label)
                result.rejected.append(RejectedEvent(index, "/label", why, "wrong_type"))
                return False
        result.accepted += 1
        result.joined += row.predicted is not None
        result.waiting += row.predicted is None
        names_model = row.model is None and item.model is not None
        row.model = row.model or item.model
        label = label_json(item.label)
        if row.label is not None and (row.label == label or label in label_spellings(row.label)):
            result.repeated += 1
            return names_model
        result.changed += row.label is not None
        row.label, row.loss = label, loss
        row.time = now if item.time is None else item.time.timestamp()
        row.received = row.received or now
        return True

    def _loss_of(self, row: LabelRow, label: Any) -> float | None:
        prediction = decode_label(row.prediction)
        return None if prediction is None else self._loss(row.model or "", row.version or "", prediction, label)

    def _late(self, connection: sa.Connection, rows: Iterable[LabelRow]) -> list[LabelRow]:
        """Return those of changed labels whose predictions are, or at this moment are being, archived."""
        before = archived_before(connection) if self._archives else 0
        return [row for row in rows if row.predicted is not None and row.day < before]

    def _write(self, connection: sa.Connection, rows: Collection[LabelRow], late: Iterable[LabelRow]) -> Counts:
        """Write changed rows, and queue late ones for the archive; return what counts."""
        write_rows(connection, rows)
        now = time.time()
        queued = [(row.day, row.prediction_id, row.model, row.label, row.time, row.loss, now) for row in late]
        _insert_late.execute_many(connection, [dict(zip(_LATE, values, strict=True)) for values in queued])
        shared = db.is_shared(connection)
        return Counts(
            labelled=[_counted(row, shared) for row in rows if row.loss is not None],
            unusable=[row.prediction_id for row in rows if row.loss is None and row.predicted is not None],
        )


def _find(rows: dict[str, list[LabelRow]], item: LabelEvent) -> LabelRow:
    """Return the row of a label: of the same model, where both name one; a new one that waits if there is none."""
    known = rows.setdefault(item.prediction_id, [])
    for row in known:
        if item.model in {None, row.model} or row.model is None:
            return row
    known.append(LabelRow(item.prediction_id, item.model))
    return known[-1]


def _counted(row: LabelRow, shared: bool) -> LabelledPrediction:
    predicted = row.predicted or 0.0
    return LabelledPrediction(
        row.model or "",
        row.version or "",
        predicted,
        decode_label(row.prediction),
        row.confidence,
        row.segment,
        decode_label(row.label),
        None if row.stored_loss is None else decode_label(row.stored),
        max((row.time or 0.0) - predicted, 0.0),
        -math.inf if shared or row.received is None else row.received,
    )


def _size(row: LabelRow) -> int:
    texts = (row.prediction_id, row.model, row.version, row.prediction, row.segment, row.label)
    return ROW_BYTES + sum(len(text) for text in texts if text)


MAX_MARKED = 500_000
"""Corrections, or labels, that are read at most, the newest first."""


class Marked(NamedTuple):
    """Identifiers of predictions, and of each the user who corrected it, or the loss of its label, see `Loss`."""

    ids: list[str]
    values: list[Any]

    @property
    def truncated(self) -> bool:
        """Whether there are more."""
        return len(self.ids) > MAX_MARKED


def read_corrections(connection: sa.Connection, model: str, version: str | None, since: float) -> Marked:
    """See `exporter.storage.Store.corrections`."""
    table = db.feedback.c
    query = sa.select(table.prediction_id, table.user).where(
        table.model == model,
        db.is_correction,
        table.confident == sa.true(),
        table.status.in_(map(sa.literal, ("accepted", "pending"))),
        table.joined == sa.true(),
        table.created >= since,
        table.prediction_id.is_not(None),
    )
    return _marked(connection, query, db.feedback, version, table.created)


def read_losses(connection: sa.Connection, model: str, version: str | None, since: float) -> Marked:
    """See `exporter.storage.Store.losses`."""
    table = db.labels.c
    query = sa.select(table.prediction_id, table.loss)
    query = query.where(table.model == model, table.predicted >= since, table.loss.is_not(None))
    return _marked(connection, query, db.labels, version, table.predicted)


def _marked(
    connection: sa.Connection, query: sa.Select[Any], table: sa.Table, version: str | None, newest: sa.Column[Any]
) -> Marked:
    if version is not None:
        query = query.where(table.c.version == version)
    rows = connection.execute(query.order_by(newest.desc()).limit(MAX_MARKED + 1)).all()
    return Marked([row[0] for row in rows], [row[1] for row in rows])
