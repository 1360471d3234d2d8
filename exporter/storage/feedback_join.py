"""Join feedback with its prediction, and count it: each prediction is counted as corrected at most once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from exporter.errors import StoreFullError
from exporter.storage.prediction_rows import Rows
from exporter.storage.schema import feedback, history
from exporter.storage.size import StoreSize
from exporter.storage.stored_text import label_spellings
from exporter.storage.verdicts import LONGEST_NUMBER, Tolerances, effective_verdict, is_within
from exporter.storage.waiting_ids import AwaitedPredictions, WaitingIds

LOOKUP = 500
"""Identifiers that are looked up in one statement."""
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


def prediction_snapshot(prediction: Mapping[Any, Any], redact: Redact) -> dict[str, Any]:
    """Return the columns that feedback copies from its prediction, so that they outlive the prediction's retention."""
    copied = {name: prediction[name] for name in ("model", "version", "prediction", "confidence", "segment")}
    inputs = redact(prediction["model"], prediction["inputs"])
    confident = bool(prediction["confident"])
    return {**copied, "confident": confident, "inputs": inputs, "predicted": prediction["time"], "joined": True}


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
    correction = bool(verdict == "corrected" and row["confident"] and not counted)
    return CountedFeedback(row["model"], row["version"], verdict, correction, row["segment"], delay)


class UnjoinedFeedback:
    """Feedback whose prediction has not arrived; used by the writer's thread alone.

    Parameters
    ----------
    connection
        To read the identifiers for which feedback waits.
    redact
        Applied to a prediction's inputs before feedback copies them: they may have been stored when less was redacted.
    tolerances
        Decides which corrections of a number accept it.
    size
        Tells whether there is room for the inputs.

    Attributes
    ----------
    ids : WaitingIds
        The identifiers of its predictions.
    """

    def __init__(self, connection: sa.Connection, redact: Redact, tolerances: Tolerances, size: StoreSize) -> None:
        self._redact = redact
        self._tolerances = tolerances
        self._size = size
        self.ids = WaitingIds(connection, feedback.c.prediction_id, ~feedback.c.joined)

    def join(self, connection: sa.Connection, group: Sequence[Rows], counted: list[CountedFeedback]) -> set[str]:
        """Join the feedback that waits for these predictions.

        Parameters
        ----------
        connection
            In the transaction that writes the predictions.
        group
            The predictions.
        counted
            Feedback that counts once the transaction is committed; it is extended.

        Returns
        -------
        set
            Identifiers of predictions for which no feedback waits any more.
        """
        awaited = AwaitedPredictions(connection, group, self.ids)
        ids = list(awaited.ids)
        for start in range(0, len(ids), LOOKUP):
            chosen = feedback.c.prediction_id.in_(ids[start : start + LOOKUP]) & ~feedback.c.joined
            # Another exporter may have got the same prediction: rows that it joins at this moment are its own.
            query = sa.select(feedback).where(chosen).order_by(feedback.c.id).with_for_update()
            for row in connection.execute(query).mappings().all():
                if prediction := awaited.find(row["prediction_id"], row["model"]):
                    counted += self._join_row(connection, row, prediction)
        return awaited.finished

    def _join_row(
        self, connection: sa.Connection, row: Mapping[Any, Any], prediction: Mapping[str, Any]
    ) -> Iterable[CountedFeedback]:
        """Join one row, and return how its earlier verdicts and its current one count."""
        snapshot = prediction_snapshot(prediction, self._redact)
        predicted, tolerance = snapshot["prediction"], self._tolerances(snapshot["model"])
        accepts = history.c.label.in_(label_spellings(predicted) if predicted else ())
        verdict_then = sa.case((accepts, "accepted"), else_=history.c.verdict)
        number = sa.case((sa.func.length(history.c.label) <= LONGEST_NUMBER, history.c.label))
        query = sa.select(verdict_then, number).where(history.c.feedback_id == row["id"]).order_by(history.c.id)
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
            self._size.require(connection, len(snapshot["inputs"] or ""))
        except StoreFullError:  # the feedback was acknowledged: it is joined without the inputs
            del snapshot["inputs"]
        if row["status"] == "pending":  # what a reviewer decided while it waited stands
            snapshot["verdict"] = current
        connection.execute(feedback.update().where(feedback.c.id == row["id"]).values(**snapshot, counted=corrected))
