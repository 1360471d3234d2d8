"""Record users' feedback."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from exporter.stats.tolerance import Tolerance
from exporter.storage.feedback_batch import CONTENT, EMPTY_ROW, FeedbackBatch
from exporter.storage.feedback_join import CountedFeedback, Redact, UnjoinedFeedback, count, prediction_snapshot
from exporter.storage.prediction_lookup import find_predictions, stored_days
from exporter.storage.schema import feedback, history
from exporter.storage.size import StoreSize
from exporter.storage.statements import CompiledStatement, Values
from exporter.storage.stored_text import label_json, storable
from exporter.storage.verdicts import Tolerances, effective_verdict
from exporter.wire.events import NO_VERSION, Feedback

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


class _Submitted(NamedTuple):
    """Feedback of a request, with its idempotency key and what was recorded with that key before."""

    feedback: Feedback
    key: str | None
    earlier: Values | None


class FeedbackRecorder:
    """Records feedback and joins it with its prediction; used by the writer's thread alone.

    Parameters
    ----------
    unjoined
        Gets the feedback whose prediction has not arrived.
    redact
        Applied to a prediction's inputs before feedback copies them: they may have been stored when less was redacted.
    tolerances
        Decides which corrections of a number accept it.
    size
        Refuses feedback that it has no room for.
    """

    def __init__(self, unjoined: UnjoinedFeedback, redact: Redact, tolerances: Tolerances, size: StoreSize) -> None:
        self._unjoined = unjoined
        self._size = size
        self._redact = redact
        self._tolerances = tolerances

    def record(
        self, connection: sa.Connection, items: Sequence[Feedback], key: str | None, counted: list[CountedFeedback]
    ) -> list[FeedbackResult]:
        """Record the feedback of one request.

        Parameters
        ----------
        connection
            In a transaction, the only one that writes.
        items
            The feedback, checked.
        key
            The request's idempotency key.
        counted
            Feedback that counts once the transaction is committed; it is extended.

        Raises
        ------
        StoreFullError
            When there is no room for it; repeats need none.
        """
        for item in items:
            item.prediction_id, item.version, item.user, item.comment = map(
                _storable, (item.prediction_id, item.version, item.user, item.comment)
            )
        keys = [f"{key}/{index}" if key else None for index in range(len(items))]
        earlier_items = _recorded_with(connection, keys)
        submitted = [_Submitted(*entry) for entry in zip(items, keys, earlier_items, strict=True)]
        for item, _, earlier in submitted:
            if earlier is not None and not _is_same(earlier, item):  # nothing of the request must be recorded
                id_, verdict = earlier["feedback_id"], earlier["verdict"]
                return [FeedbackResult(id_, item.prediction_id, verdict, joined=False, repeat=True, conflict=True)]
        days = stored_days(connection)
        results: list[FeedbackResult] = []
        for start in range(0, len(submitted), BATCH):
            results += self._record_batch(connection, submitted[start : start + BATCH], counted, days)
        return results

    def _record_batch(
        self,
        connection: sa.Connection,
        submitted: Sequence[_Submitted],
        counted: list[CountedFeedback],
        days: Sequence[int],
    ) -> list[FeedbackResult]:
        """Record some feedback: read all that is stored about it first, and write all changes at the end."""
        items = [item for item, _, _ in submitted]
        batch = FeedbackBatch(connection, items)
        new = [
            (item.prediction_id, item.model)
            for item in items
            if item.prediction_id is not None and batch.find(item) is None
        ]
        predictions = dict(zip(new, find_predictions(connection, new, days), strict=True))
        recorded = [self._record_one(batch, entry, predictions, counted) for entry in submitted]
        batch.write(connection, self._size)
        for result, row in recorded:
            result.id = row["id"]
        return [result for result, _ in recorded]

    def _record_one(
        self,
        batch: FeedbackBatch,
        submitted: _Submitted,
        predictions: Mapping[Any, Values | None],
        counted: list[CountedFeedback],
    ) -> tuple[FeedbackResult, Mapping[str, Any]]:
        """Record one feedback in its batch; return its result and the row, which has an identifier once written."""
        item, key, earlier = submitted
        if earlier is not None:
            joined = bool(earlier["joined"])
            result = FeedbackResult(0, item.prediction_id, earlier["verdict"], joined, repeat=True)
            return result, {"id": earlier["feedback_id"]}
        now = time.time()
        row = batch.find(item)
        is_first = item.prediction_id is not None and (row is None or row["verdict"] == "sampled")
        if row is None:
            row = self._new_row(item, now, predictions.get((item.prediction_id, item.model)))
            content = self._content(item, row)
            batch.insert(row)
        else:
            description = {} if row["joined"] or row["version"] is not None else _description(item)
            content = self._content(item, {**row, **description})
            if not description and all(row[name] == value for name, value in content.items()):
                return _result(row, repeat=True), row
            batch.replace(row, description)
        row |= {**content, "idempotency_key": key, "updated": now}
        if row["joined"]:
            delay = max(now - row["predicted"], 0.0) if is_first else None
            counts = count(row, row["verdict"], bool(row["counted"]), delay)
            row["counted"] = bool(row["counted"] or counts.correction)
            counted.append(counts)
        return _result(row, repeat=False), row

    def _content(self, item: Feedback, row: Values) -> dict[str, Any]:
        """Return the content of feedback on the prediction of a row, if that is known."""
        content = _given_content(item)
        tolerance = self._tolerances(row["model"]) if row["model"] is not None else Tolerance()
        verdict = effective_verdict(item.verdict or "", content["label"], row["prediction"], tolerance)
        return {"verdict": verdict, **content}

    def _new_row(self, item: Feedback, now: float, prediction: Values | None) -> dict[str, Any]:
        row: dict[str, Any] = {
            **EMPTY_ROW,
            "prediction_id": item.prediction_id,
            "model": item.model,
            "created": now,
            "counted": False,
            "confident": False,
            "status": "pending",
            "revision": 1,
            "joined": item.prediction_id is None,
        }
        if item.prediction_id is None:
            return row | _given(item) | {"predicted": now}
        if prediction is not None:
            return row | prediction_snapshot(prediction, self._redact)
        self._unjoined.ids.add(item.prediction_id)
        return row | _description(item)


def _given(item: Feedback) -> dict[str, Any]:
    """Return the columns of the prediction as its feedback describes it."""
    inputs = bytes(memoryview(item.inputs)).decode("utf-8", "replace")
    version, prediction = item.version or NO_VERSION, label_json(item.prediction)
    return {"model": item.model, "version": version, "prediction": prediction, "inputs": inputs or None}


def _description(item: Feedback) -> dict[str, Any]:
    """Return `_given` if feedback describes its prediction well enough for a review without it, else nothing."""
    given = _given(item)
    return {} if None in given.values() else given


_RESULT = (
    feedback.c.id.label("feedback_id"),
    *(feedback.c[name] for name in ("prediction_id", "prediction", "joined")),
)
_find_key = CompiledStatement(
    sa.union_all(
        sa.select(*_RESULT, *(feedback.c[name] for name in CONTENT)).where(
            feedback.c.idempotency_key == sa.bindparam("key")
        ),
        sa.select(*_RESULT, *(history.c[name] for name in CONTENT))
        .join_from(history, feedback, history.c.feedback_id == feedback.c.id)
        .where(history.c.idempotency_key == sa.bindparam("key")),
    )
)


def _recorded_with(connection: sa.Connection, keys: Sequence[str | None]) -> Sequence[Values | None]:
    """Return the feedback that was recorded with each of these idempotency keys."""
    if None in keys:
        return [None] * len(keys)
    return _find_key.first_rows(connection, [{"key": key} for key in keys])


def _result(row: Values, *, repeat: bool) -> FeedbackResult:
    return FeedbackResult(0, row["prediction_id"], row["verdict"], bool(row["joined"]), repeat)


def _storable(text: str | None) -> str | None:
    return text and storable(text)


def _given_content(item: Feedback) -> dict[str, Any]:
    """Return the columns of feedback without its verdict."""
    return {"label": label_json(item.label), "user": item.user, "comment": item.comment}


def _is_same(recorded: Values, item: Feedback) -> bool:
    """Return whether feedback repeats what was recorded with its idempotency key.

    A correction may have been recorded as accepted: its label was the prediction, or within the tolerance at that time.
    """
    content = {"prediction_id": item.prediction_id, **_given_content(item)}
    is_verdict = recorded["verdict"] in {item.verdict, "accepted"}
    return is_verdict and all(recorded[name] == value for name, value in content.items())
