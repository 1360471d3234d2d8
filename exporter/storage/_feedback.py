"""Interpret a verdict: a correction to the prediction, or within the model's tolerance of it, accepts it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from exporter.errors import StoreFullError
from exporter.features.base import label_json, label_spellings
from exporter.storage import _database as db
from exporter.storage._database import feedback
from exporter.storage._predictions import (
    Rows,
    awaited_ids,
    find_awaited,
    find_predictions,
    is_given_model,
    resolve_aliases,
    stored_days,
    waiting_ids,
)
from exporter.storage._retention import StoreSize, text_bytes
from exporter.validation import Tolerance
from exporter.wire.events import NO_VERSION, Feedback, LabelledPrediction

Tolerances = Callable[[str], Tolerance]
"""Takes a model, and returns its tolerance."""
LONGEST_NUMBER = 64
"""Characters of a stored label from which it is not read as a number."""


def effective_verdict(verdict: str, label: str | None, prediction: str | None, tolerance: Tolerance) -> str:
    """Return what a verdict means; labels and predictions are stored JSON.

    >>> effective_verdict("corrected", '"7"', "7", Tolerance()), effective_verdict("corrected", "8", "7", Tolerance())
    ('accepted', 'corrected')
    >>> effective_verdict("corrected", "1.1", "1", Tolerance(0.1))
    'accepted'
    >>> effective_verdict("corrected", "90", "100", Tolerance(share=0.05))
    'corrected'
    """
    if label is None or prediction is None:
        return verdict
    is_same = label in label_spellings(prediction) or is_within(label, prediction, tolerance)
    return "accepted" if is_same else verdict


def is_within(label: str | None, prediction: str | None, tolerance: Tolerance) -> bool:
    """Return whether a stored label and a stored prediction are numbers that differ by no more than the tolerance."""
    if label is None or prediction is None or not any(tolerance):
        return False
    predicted, actual = _number(prediction), _number(label)
    return predicted is not None and actual is not None and tolerance.accepts(predicted, actual)


def _number(stored: str) -> float | None:
    """Return the number that a label is, or that its text is; None for any other label."""
    if len(stored) > LONGEST_NUMBER:
        return None
    try:
        return msgspec.json.decode(stored.strip('"'), type=float)
    except (msgspec.MsgspecError, UnicodeError):
        return None


Redact = Callable[[str, str | None], str | None]
"""Takes a model and the JSON of inputs; returns the JSON without what must not be stored."""


class CountedFeedback(msgspec.Struct):
    """Feedback that counts now: its prediction is known, or was never logged."""

    model: str
    version: str
    verdict: str
    correction: bool
    segment: str | None = None
    delay: float | None = None
    """Seconds from the prediction to its first feedback; None for later feedback and for unlogged predictions."""
    decided: bool | None = None
    """For a correction that was counted earlier: whether a reviewer rejects it now, or no longer does."""


class Counts(NamedTuple):
    """What counts when a transaction is committed.

    Attributes
    ----------
    feedback
        Feedback.
    labelled, unusable
        Labels, and the predictions whose label cannot be compared with them.
    """

    feedback: Sequence[CountedFeedback] = ()
    labelled: Sequence[LabelledPrediction] = ()
    unusable: Sequence[str] = ()


def prediction_snapshot(prediction: Mapping[Any, Any], redact: Redact) -> dict[str, Any]:
    """Return the columns that feedback copies from its prediction, so that they outlive the prediction's retention."""
    copied = {name: prediction[name] for name in ("model", "version", "prediction", "confidence", "segment")}
    copied |= {"prediction_id": prediction["id"], "predicted": prediction["time"], "joined": True}
    inputs = redact(prediction["model"], prediction["inputs"])
    return {**copied, "confident": bool(prediction["confident"]), "inputs": inputs}


def count(row: Mapping[Any, Any], verdict: str, counted: bool, delay: float | None) -> CountedFeedback:
    """Return how a verdict on a joined row counts.

    Parameters
    ----------
    row
        A row of the table ``feedback``.
    verdict
        The user's verdict.
    counted
        Whether an earlier verdict on the prediction was counted as a correction.
    delay
        See `CountedFeedback`.
    """
    correction = bool(verdict in db.CORRECTIONS and row["confident"] and not counted)
    return CountedFeedback(row["model"], row["version"], verdict, correction, row["segment"], delay)


_NEW_ROW: db.Values = {
    **{column.name: None for column in feedback.c if column.name != "id"},
    **dict.fromkeys(("joined", "confident", "counted", "released", "sampled"), False),
    "status": "pending",
    "revision": 1,
}
CONTENT = ("verdict", "label", "user", "comment", "idempotency_key")
_CHANGED = (*CONTENT, "updated", "status", "revision", "reviewed_label", "counted")
_find = db.CompiledStatement(
    sa.select(feedback.c.id)
    .where(
        feedback.c.prediction_id == sa.bindparam("prediction_id"),
        feedback.c.model.is_(None) | is_given_model(feedback.c.model),
    )
    .order_by(feedback.c.id)
)
_waiting = waiting_ids(feedback.c.prediction_id, db.is_unjoined)
_get = db.CompiledStatement(sa.select(feedback).where(feedback.c.id == sa.bindparam("row_id")))
_insert = db.CompiledInsert(feedback, _NEW_ROW)
_update = db.CompiledStatement(db.update_of_row(feedback, _CHANGED))
_DESCRIPTION = ("model", "version", "prediction", "inputs")
_describe = db.CompiledStatement(db.update_of_row(feedback, _DESCRIPTION))
_insert_history = db.CompiledStatement(db.history.insert(), ("feedback_id", "time", *CONTENT))


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
        wanted = [{"prediction_id": item.prediction_id, "given_model": item.model} for item in items]
        ids = sorted({row["id"] for row in _find.first_rows(connection, wanted) if row})
        for row in _get.first_rows(connection, [{"row_id": id_} for id_ in ids]):
            if row is not None:
                self._rows.setdefault(row["prediction_id"], []).append(dict(row))

    def find(self, item: Feedback) -> dict[str, Any] | None:
        """Return the row on the item's prediction; of the same model, where both name one."""
        rows = self._rows.get(item.prediction_id, ()) if item.prediction_id is not None else ()
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

    def write(self, connection: sa.Connection, size: StoreSize, sender: str) -> None:
        """Write all changes if there is room for them; new rows get their identifiers."""
        added = [*self._inserted, *self._described.values(), *(values for _, values in self._replaced)]
        if added:
            size.require(connection, text_bytes(added), sender)
        for row, id_ in zip(self._inserted, _insert.keys(connection, self._inserted), strict=True):
            row["id"] = id_
        for statement, names, rows in ((_update, _CHANGED, self._updated), (_describe, _DESCRIPTION, self._described)):
            changes = [{"row_id": row["id"], **{f"new_{name}": row[name] for name in names}} for row in rows.values()]
            statement.execute_many(connection, changes)
        replaced = [{"feedback_id": row["id"], **values} for row, values in self._replaced]
        _insert_history.execute_many(connection, replaced)


BATCH = 16
"""Feedback that is recorded together: the inputs of each one's prediction may have 16 MiB."""


class FeedbackResult(msgspec.Struct):
    """The result of one recorded feedback.

    ``repeat`` is set when it was recorded before, ``joined`` when its prediction is known, and ``conflict`` when its
    idempotency key was used before with other feedback: then nothing of its request was recorded.
    """

    id: int
    prediction_id: str | None
    verdict: str
    joined: bool
    repeat: bool
    conflict: bool = False


_Submitted = tuple[Feedback, str | None, db.Values | None]  # its idempotency key, and what it was recorded with before
_Recorded = tuple[FeedbackResult, Mapping[str, Any], CountedFeedback | None]  # and its row


class FeedbackRecorder:
    """Records feedback and joins it with its prediction; used by the writer's thread alone.

    Parameters
    ----------
    redact
        Applied to a prediction's inputs before feedback copies them: they may have been stored when less was redacted.
    tolerances
        Decides which corrections of a number accept it.
    size
        Refuses feedback that it has no room for.
    """

    def __init__(self, redact: Redact, tolerances: Tolerances, size: StoreSize) -> None:
        self._redact, self._tolerances, self._size = redact, tolerances, size

    def record(
        self, connection: sa.Connection, items: Sequence[Feedback], key: str | None, sender: str
    ) -> tuple[list[FeedbackResult], Counts]:
        """Record the feedback of one request.

        Parameters
        ----------
        connection
            In a transaction, the only one that writes.
        items
            The feedback, checked.
        key
            The request's idempotency key.
        sender
            The name of the token or user; empty where nobody is known.

        Returns
        -------
        tuple
            The results, and what counts once the transaction is committed.

        Raises
        ------
        StoreFullError
            When there is no room for it; repeats need none.
        """
        for item in items:
            texts = (item.prediction_id, item.version, item.user, item.comment)
            item.prediction_id, item.version, item.user, item.comment = (text and db.storable(text) for text in texts)
        resolve_aliases(connection, items)
        keys = [f"{key}/{index}" if key else None for index in range(len(items))]
        known = _find_key.first_rows(connection, [{"key": key} for key in keys]) if key else keys
        submitted: Sequence[Any] = list(zip(items, keys, known, strict=True))
        for item, _, earlier in submitted:
            if earlier is not None and not _is_same(earlier, item):  # nothing of the request must be recorded
                of = earlier["feedback_id"], item.prediction_id, earlier["verdict"]
                return [FeedbackResult(*of, joined=False, repeat=True, conflict=True)], Counts()
        days = stored_days(connection)
        results, counted = [], []
        for start in range(0, len(submitted), BATCH):
            for result, row, counts in self._record_batch(connection, submitted[start : start + BATCH], days, sender):
                result.id = row["id"]
                results.append(result)
                counted += [counts] if counts else []
        return results, Counts(counted)

    def _record_batch(
        self, connection: sa.Connection, submitted: Sequence[_Submitted], days: Sequence[int], sender: str
    ) -> list[_Recorded]:
        """Record some feedback: read all that is stored about it first, and write all changes at the end."""
        items = [item for item, _, _ in submitted]
        batch = FeedbackBatch(connection, items)
        new = [(item.prediction_id, item.model) for item in items if item.prediction_id and not batch.find(item)]
        predictions = dict(zip(new, find_predictions(connection, new, days), strict=True))
        recorded = [self._record_one(batch, *entry, predictions) for entry in submitted]
        batch.write(connection, self._size, sender)
        return recorded

    def _record_one(
        self,
        batch: FeedbackBatch,
        item: Feedback,
        key: str | None,
        earlier: db.Values | None,
        predictions: Mapping[Any, db.Values | None],
    ) -> _Recorded:
        if earlier is not None:
            joined = bool(earlier["joined"])
            result = FeedbackResult(0, item.prediction_id, earlier["verdict"], joined, repeat=True)
            return result, {"id": earlier["feedback_id"]}, None
        now = time.time()
        row = batch.find(item)
        is_first = item.prediction_id is not None and (row is None or row["verdict"] == "sampled")
        if row is None:
            row = self._new_row(item, now, predictions.get((item.prediction_id, item.model)))
            content = self._content(item, row)
            batch.insert(row)
        else:
            description = {} if row["joined"] or row["version"] is not None else _description(item)
            description = {name: value for name, value in description.items() if value not in {None, row[name]}}
            content = self._content(item, {**row, **description})
            if not description and all(row[name] == value for name, value in content.items()):
                result = FeedbackResult(0, row["prediction_id"], row["verdict"], bool(row["joined"]), repeat=True)
                return result, row, None
            row["counted"] = bool(row["counted"]) and row["status"] != "rejected"  # then it was withdrawn
            batch.replace(row, description)
        row |= {**content, "idempotency_key": key, "updated": now}
        counts = None
        if row["joined"]:
            delay = max(now - row["predicted"], 0.0) if is_first else None
            counts = count(row, row["verdict"], row["counted"], delay)
            row["counted"] = row["counted"] or counts.correction
        return FeedbackResult(0, row["prediction_id"], row["verdict"], bool(row["joined"]), repeat=False), row, counts

    def _content(self, item: Feedback, row: db.Values) -> dict[str, Any]:
        """Return the content of feedback on the prediction of a row, if that is known."""
        content = _given_content(item)
        tolerance = self._tolerances(row["model"]) if row["model"] is not None else Tolerance()
        verdict = effective_verdict(item.verdict or "", content["label"], row["prediction"], tolerance)
        return {"verdict": verdict, **content}

    def _new_row(self, item: Feedback, now: float, prediction: db.Values | None) -> dict[str, Any]:
        row = {**_NEW_ROW, "prediction_id": item.prediction_id, "model": item.model, "created": now}
        if item.prediction_id is None:
            return row | _given(item) | {"predicted": now, "joined": True}
        if prediction is not None:
            return row | prediction_snapshot(prediction, self._redact)
        return row | _description(item)

    def join(self, connection: sa.Connection, group: Sequence[Rows]) -> Counts:
        """Join the feedback that waits for predictions, in the transaction that writes these; return what counts."""
        if not (ids := awaited_ids(connection, group, _waiting)):
            return Counts()
        texts = db.JsonTexts(sa.literal(db.json_text(sorted(ids))))
        chosen = feedback.c.prediction_id.bool_op("IN")(texts) & db.is_unjoined
        # Another exporter may have got the same prediction: rows that it joins at this moment are its own.
        query = sa.select(feedback).where(chosen).order_by(feedback.c.id).with_for_update()
        rows = sorted(map(dict, connection.execute(query).mappings()), key=itemgetter("updated"))
        found = find_awaited(connection, group, {(row["prediction_id"], row["model"]) for row in rows})
        joined: dict[Any, tuple[db.Values, db.Values]] = {}
        for row in rows:
            if prediction := found.get((row["prediction_id"], row["model"])):
                known = joined.get(key := (prediction["id"], prediction["model"]))
                joined[key] = prediction, _merge(connection, known[1], row) if known else row
        counted = [one for prediction, row in joined.values() for one in self._join_row(connection, row, prediction)]
        return Counts(counted)

    def _join_row(self, connection: sa.Connection, row: db.Values, prediction: db.Values) -> Iterable[CountedFeedback]:
        """Join one row, and return how its earlier verdicts and its current one count."""
        snapshot = prediction_snapshot(prediction, self._redact)
        predicted, tolerance = snapshot["prediction"], self._tolerances(snapshot["model"])
        accepts = db.history.c.label.in_(label_spellings(predicted) if predicted else ())
        verdict_then = sa.case((accepts, "accepted"), else_=db.history.c.verdict)
        number = sa.case((sa.func.length(db.history.c.label) <= LONGEST_NUMBER, db.history.c.label))
        query = sa.select(verdict_then, number).where(db.history.c.feedback_id == row["id"]).order_by(db.history.c.id)
        earlier = [
            "accepted" if is_within(label, predicted, tolerance) else verdict
            for verdict, label in connection.execute(query)
        ]
        current = effective_verdict(row["verdict"], row["label"], predicted, tolerance)
        delay: float | None = max(row["created"] - snapshot["predicted"], 0.0)
        corrected = False
        for verdict in [*earlier, current]:
            result = count(snapshot, verdict, corrected, delay)
            corrected = corrected or result.correction
            delay = None
            yield result
        try:
            self._size.require(connection, len(snapshot["inputs"] or ""), sender="")
        except StoreFullError:  # the feedback was acknowledged: it is joined without the inputs
            snapshot["inputs"] = None
        if snapshot["inputs"] is None:  # those that came with the feedback stay
            del snapshot["inputs"]
        if row["status"] == "pending":  # what a reviewer decided while it waited stands
            snapshot["verdict"] = current
        elif row["status"] == "rejected" and corrected:
            yield CountedFeedback(snapshot["model"], snapshot["version"], current, correction=False, decided=True)
        connection.execute(feedback.update().where(feedback.c.id == row["id"]).values(**snapshot, counted=corrected))


def _merge(connection: sa.Connection, row: db.Values, later: db.Values) -> db.Values:
    """Replace a row by a later one on the same prediction, which one names by its identifier, and one by its alias.

    A decision holds for what the reviewer saw: the later one's is taken, and the earlier one's goes with its content.
    """
    replaced = {"feedback_id": row["id"], "time": row["updated"], **{name: row[name] for name in CONTENT}}
    review = ("status", "reviewed_label", "reviewer", "reviewed", *["released"] * (later["status"] != "pending"))
    changed = {name: later[name] for name in (*CONTENT, "updated", *review)}
    changed["revision"] = row["revision"] + later["revision"]
    connection.execute(db.suspects.delete().where(db.suspects.c.feedback_id == row["id"]))
    for table in (db.decisions, db.suspects):
        moved = {"feedback_id": row["id"], "revision": table.c.revision + row["revision"]}
        connection.execute(table.update().where(table.c.feedback_id == later["id"]).values(moved))
    is_laters = db.history.c.feedback_id == later["id"]
    connection.execute(db.history.update().where(is_laters).values(feedback_id=row["id"]))
    connection.execute(db.history.insert().values(replaced))
    connection.execute(feedback.delete().where(feedback.c.id == later["id"]))
    connection.execute(feedback.update().where(feedback.c.id == row["id"]).values(changed))
    return {**row, **changed}


def _given(item: Feedback) -> dict[str, Any]:
    """Return the columns of the prediction as its feedback describes it."""
    inputs = bytes(memoryview(item.inputs)).decode("utf-8", "replace")
    version, prediction = item.version or NO_VERSION, label_json(item.prediction)
    return {"model": item.model, "version": version, "prediction": prediction, "inputs": inputs or None}


def _description(item: Feedback) -> dict[str, Any]:
    """Return `_given` if feedback describes its prediction well enough for a review without it, else its model."""
    given = _given(item)
    return {"model": item.model} if None in given.values() else given


_RESULT = (
    feedback.c.id.label("feedback_id"),
    *(feedback.c[name] for name in ("prediction_id", "prediction", "joined")),
)
_current = sa.select(*_RESULT, *(feedback.c[name] for name in CONTENT))
_replaced = sa.select(*_RESULT, *(db.history.c[name] for name in CONTENT))
_replaced = _replaced.join_from(db.history, feedback, db.history.c.feedback_id == feedback.c.id)
_key: sa.BindParameter[str] = sa.bindparam("key")
_find_key = db.CompiledStatement(
    sa.union_all(
        _current.where(feedback.c.idempotency_key == _key), _replaced.where(db.history.c.idempotency_key == _key)
    )
)


def _given_content(item: Feedback) -> dict[str, Any]:
    """Return the columns of feedback without its verdict."""
    return {"label": label_json(item.label), "user": item.user, "comment": item.comment}


def _is_same(recorded: db.Values, item: Feedback) -> bool:
    """Return whether feedback repeats what was recorded with its idempotency key.

    A correction may have been recorded as accepted: its label was the prediction, or within the tolerance at that time.
    """
    content = {"prediction_id": item.prediction_id, **_given_content(item)}
    content |= {"prediction": label_json(item.prediction)} if item.prediction_id is None else {}
    is_verdict = recorded["verdict"] == item.verdict or (recorded["verdict"] == "accepted" and item.label is not None)
    return is_verdict and all(recorded[name] == value for name, value in content.items())
