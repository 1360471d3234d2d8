"""Decode, check and record labels: ``POST /v1/labels``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from exporter.config import ModelConfig
from exporter.errors import EventError, StoreError, StoreFullError
from exporter.server.application import Exporter
from exporter.server.http.problem import (
    Reply,
    event_problem,
    events_problem,
    json_reply,
    rejected_document,
    store_problem,
)
from exporter.storage import LabelsResult
from exporter.wire.decoder import Decoder
from exporter.wire.events import LabelEvent, RejectedEvent, check_model

MAX_LABELS = 10_000
"""Labels in one request."""
CHUNK = 2_000
"""Labels in one transaction: few enough that feedback does not wait long."""
MAX_AHEAD = timedelta(minutes=5)
"""How far the time of a label may be ahead of the exporter's clock: clocks differ."""


class Labels:
    """Record the labels that clients send.

    Parameters
    ----------
    exporter
        The exporter that stores them.
    """

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter
        self._decoder = Decoder(LabelEvent, lambda items: check_labels(exporter.pipeline.monitors.models, items))

    def record(self, body: bytes, lines: bool, key: str | None) -> Reply:
        """Store the labels in a body before returning.

        Parameters
        ----------
        body
            An object, an array, or NDJSON if ``lines`` is set.
        lines
            Whether the body is NDJSON.
        key
            The ``Idempotency-Key`` header.
        """
        return self._exporter.idempotency.once("labels", key, lambda: self._record(body, lines), body)

    def _record(self, body: bytes, lines: bool) -> Reply:
        client_log = self._exporter.client_log
        try:
            items, refused, _ = self._decoder.decode(body, lines)
            if not items and not refused:
                raise EventError("", "the body has no labels", "malformed")
        except EventError as error:
            client_log.reject(error)
            return event_problem(error)
        client_log.reject_events(refused)
        if len(items) > MAX_LABELS:
            detail = f"expected at most {MAX_LABELS:,} labels in a request, got {len(items):,}: send several requests"
            return event_problem(EventError("", detail, "too_large"), 413)
        result = LabelsResult()
        for start in range(0, len(items), CHUNK):
            try:
                self._store(items[start : start + CHUNK], start, result)
            except StoreError as error:
                return self._failed(error, start)
        client_log.reject_events(result.rejected)
        rejected = [*refused, *_renumbered(result.rejected, refused)]
        rejected.sort(key=lambda event: event.index)
        if not result.accepted:
            return events_problem(rejected, many=lines or body.lstrip()[:1] == b"[")
        document = {
            "accepted": result.accepted,
            "joined": result.joined,
            "waiting": result.waiting,
            "repeated": result.repeated,
            "changed": result.changed,
            "rejected": rejected_document(rejected),
        }
        return json_reply(200 if result.repeated == result.accepted else 201, document)

    def _store(self, items: Sequence[LabelEvent], start: int, total: LabelsResult) -> None:
        """Store some labels in one transaction, and add their results to the total."""
        result = self._exporter.store.record_labels(items)
        for name in ("accepted", "joined", "waiting", "repeated", "changed"):
            setattr(total, name, getattr(total, name) + getattr(result, name))
        for event in result.rejected:
            event.index += start
        total.rejected += result.rejected
        self._exporter.telemetry.events.labels("labels").inc(result.accepted - result.repeated)

    def _failed(self, error: StoreError, stored: int) -> Reply:
        if isinstance(error, StoreFullError):
            self._exporter.client_log.reject(EventError("", str(error), "overloaded"))
        if not stored:
            return store_problem(error)
        detail = (
            f"the first {stored:,} labels are stored, and sending them again changes nothing; of the others: {error}"
        )
        return store_problem(type(error)(detail))


def check_labels(models: Mapping[str, ModelConfig], items: Sequence[LabelEvent]) -> None:
    """Check that labels have a value, a time that is not in the future, and no model that is not configured.

    Raises
    ------
    EventError
        At the first one that is not valid.
    """
    latest = datetime.now(UTC) + MAX_AHEAD
    for item in items:
        if item.model is not None:
            check_model(models, item.model)
        if item.label is None:
            raise EventError("/label", "is required: a string, a number or a boolean", "missing_field")
        if item.time is not None and item.time > latest:
            detail = (
                f"expected a time that is not in the future, got {item.time.isoformat()}; is the client's clock right?"
            )
            raise EventError("/time", detail, "out_of_range")


def _renumbered(events: Sequence[RejectedEvent], refused: Sequence[RejectedEvent]) -> Sequence[Any]:
    """Number events by their index in the body: until now it is that among those which were not refused."""
    if events and refused:
        before = {event.index for event in refused}
        last = events[-1].index + len(before) + 1
        indices = [index for index in range(last) if index not in before]
        for event in events:
            event.index = indices[event.index]
    return events
