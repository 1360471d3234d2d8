"""Labels: the truth about predictions, which is known later; joined with the predictions, in bulk.

Each prediction has one label. A later, different one replaces it. A label whose prediction is not known waits until
that arrives, or until the label is as old as `store.retention` allows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from exporter.features.extract import scalar_text
from exporter.storage.engine import is_shared
from exporter.storage.label_refusal import refusal
from exporter.storage.label_rows import LabelRow, find_rows, stored_rows, write_rows
from exporter.storage.late_labels import LateLabels
from exporter.storage.prediction_rows import Rows
from exporter.storage.schema import WAITING, is_waiting, labels
from exporter.storage.size import StoreSize
from exporter.storage.stored_text import decode_label, label_json, label_spellings, storable
from exporter.storage.waiting_ids import AwaitedPredictions, WaitingIds
from exporter.wire.events import LabelEvent, LabelledPrediction, RejectedEvent

ROW_BYTES = 200
"""Assumed size of a label with its index entries, without its texts."""

Loss = Callable[[str, str, Any, Any], float | None]
"""Takes a model, a version, a prediction and a label. Returns 0 for a right class, 1 for a wrong one, and for a number
the absolute error; None if the label cannot be compared with the prediction."""


class LabelCounts(NamedTuple):
    """Labels of one transaction: those that count, and the predictions with a label that cannot be compared."""

    labelled: list[LabelledPrediction]
    unusable: list[str]


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


class LabelRecorder:
    """Records labels; used by the writer's thread alone.

    Parameters
    ----------
    waiting
        Gets the identifiers of labels that wait.
    size
        Refuses labels that it has no room for.
    loss
        Compares labels with predictions.
    late
        Gets labels of archived predictions.
    """

    def __init__(self, waiting: WaitingIds, size: StoreSize, loss: Loss, late: LateLabels) -> None:
        self._waiting, self._late = waiting, late
        self._size = size
        self._loss = loss

    def record(self, connection: sa.Connection, items: Sequence[LabelEvent], counts: LabelCounts) -> LabelsResult:
        """Record labels, each as if the ones before it were recorded already.

        Parameters
        ----------
        connection
            In a transaction, the only one that writes.
        items
            The labels, checked.
        counts
            What counts once the transaction is committed; it is extended.

        Raises
        ------
        StoreFullError
            When there is no room for new ones.
        """
        wanted: dict[str | None, set[str]] = {}
        for item in items:
            item.prediction_id = storable(item.prediction_id)
            item.model = item.model and storable(item.model)
            wanted.setdefault(item.model, set()).add(item.prediction_id)
        rows = find_rows(connection, wanted)
        result, changed = LabelsResult(), {}
        now = time.time()
        for index, item in enumerate(items):
            row = _find(rows, item)
            if self._set(row, index, item, now, result):
                changed[id(row)] = row
        new = [row for row in changed.values() if row.id is None]
        late = self._late.choose(connection, changed.values())
        if new or late:
            self._size.require(connection, sum(map(_size, (*new, *late))))
        write_rows(connection, changed.values())
        self._late.queue(connection, late)
        for row in new:
            if row.predicted is None:
                self._waiting.add(row.prediction_id)
        shared = is_shared(connection)
        counts.labelled.extend(_counted(row, shared) for row in changed.values() if row.loss is not None)
        return result

    def _set(self, row: LabelRow, index: int, item: LabelEvent, now: float, result: LabelsResult) -> bool:
        """Give a row its label, and count what became of that; return whether the row changed."""
        loss = None
        if row.predicted is not None:
            loss = _loss(self._loss, row, item.label)
            if loss is None:
                result.rejected.append(
                    RejectedEvent(index, "/label", refusal(decode_label(row.prediction), item.label), "wrong_type")
                )
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


class WaitingLabels:
    """Labels whose prediction has not arrived; used by the writer's thread alone.

    Parameters
    ----------
    connection
        To read the identifiers for which labels wait.
    loss
        Compares labels with predictions.
    late
        Gets labels of archived predictions.

    Attributes
    ----------
    ids : WaitingIds
        The identifiers of their predictions.
    """

    def __init__(self, connection: sa.Connection, loss: Loss, late: LateLabels) -> None:
        self._loss, self._late = loss, late
        self.ids = WaitingIds(connection, labels.c.prediction_id, is_waiting)

    def join(self, connection: sa.Connection, group: Sequence[Rows], counts: LabelCounts) -> set[str]:
        """Join the labels that wait for these predictions.

        Parameters
        ----------
        connection
            In the transaction that writes the predictions.
        group
            The predictions.
        counts
            What counts once the transaction is committed; it is extended.

        Returns
        -------
        set
            Identifiers of predictions for which no label waits any more.
        """
        awaited = AwaitedPredictions(connection, group, self.ids)
        if not awaited.ids:
            return set()
        joined = []
        for row in stored_rows(connection, awaited.ids, [WAITING], lock=True):
            if prediction := awaited.find(row.prediction_id, row.model):
                row.join(prediction)
                row.loss = _loss(self._loss, row, decode_label(row.label))
                joined.append(row)
        write_rows(connection, joined)
        self._late.queue(connection, self._late.choose(connection, joined))
        shared = is_shared(connection)
        counts.labelled.extend(_counted(row, shared) for row in joined if row.loss is not None)
        counts.unusable.extend(row.prediction_id for row in joined if row.loss is None)
        return awaited.finished


def _find(rows: dict[str, list[LabelRow]], item: LabelEvent) -> LabelRow:
    """Return the row of a label: of the same model, where both name one; a new one that waits if there is none."""
    known = rows.setdefault(item.prediction_id, [])
    for row in known:
        if item.model in {None, row.model} or row.model is None:
            return row
    known.append(LabelRow(item.prediction_id, item.model))
    return known[-1]


def _loss(loss: Loss, row: LabelRow, label: Any) -> float | None:
    prediction = decode_label(row.prediction)
    return None if prediction is None else loss(row.model or "", row.version or "", prediction, label)


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
