"""Decode, check and record the events in request bodies; used by the ASGI application and by Flask's routes."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from exporter.errors import EventError, QueueFullError, StoreError, StoreFullError
from exporter.features.lenient_json import decode_inputs
from exporter.profiles.profile import image_inputs
from exporter.server.application import Exporter
from exporter.server.http.problem import (
    Reply,
    event_problem,
    events_problem,
    json_reply,
    problem,
    rejected_document,
    store_problem,
)
from exporter.server.idempotency import check_key, content_digest, reused_key
from exporter.server.stored_inputs import prepare_inputs
from exporter.storage import COMMIT_TIMEOUT_SECONDS, FeedbackResult, commit_timeout
from exporter.validation import json_pointer, preview
from exporter.wire.decoder import Decoder
from exporter.wire.events import (
    NO_EVENTS,
    BusinessEvent,
    Feedback,
    Prediction,
    RejectedEvent,
    check_business_events,
    check_feedback,
    check_predictions,
    describe_member,
    make_id,
    time_off,
)

NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")
"""Content types with one object per line."""
MAX_FEEDBACK = 1000
"""Feedback objects in one request. They are on disk before the response, and other requests wait meanwhile."""
_RETRY = (("Retry-After", "1"),)
ONE_ACCEPTED = json_reply(202, {"accepted": 1, "rejected": []})


class _FeedbackRequest(NamedTuple):
    """The decoded feedback in a request; ``many`` is set when the body is an array."""

    feedback: Sequence[Feedback]
    rejected: Sequence[RejectedEvent]
    many: bool


class Ingest:
    """Record the events that clients send.

    Parameters
    ----------
    exporter
        The exporter that counts and stores them.
    """

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter
        pipeline = exporter.pipeline
        self._predictions = Decoder(Prediction, lambda events: check_predictions(pipeline.monitors.models, events))
        self._feedback = Decoder(Feedback, lambda items: check_feedback(pipeline.monitors.models, items))
        self._events = Decoder(BusinessEvent, lambda events: check_business_events(pipeline.monitors.models, events))
        self._accepted_counter = functools.cache(exporter.telemetry.events.labels)

    def predictions(self, body: bytes, lines: bool, key: str | None, ids: bool) -> Reply:
        """Queue the predictions in a body (``POST /v1/predictions``).

        Parameters
        ----------
        body
            An object, an array, or NDJSON if ``lines`` is set.
        lines
            Whether the body is NDJSON.
        key
            The ``Idempotency-Key`` header.
        ids
            Whether the response has the predictions' identifiers.
        """
        digest = b"" if key is None else content_digest(body, b"ids" if ids else b"")
        if key is not None and (previous := self._exporter.idempotency.get("predictions", key, digest)):
            return previous
        try:
            self._exporter.pipeline.check_capacity()
            events, rejected, unknown = self._predictions.decode(body, lines)
        except QueueFullError as error:
            return self.overload_reply(error)
        except EventError as error:
            self._exporter.client_log.reject(error)
            return event_problem(error)
        if rejected or not events:
            self._exporter.client_log.reject_events(rejected)
            if not events:
                return _no_valid_event(rejected, lines or body.lstrip()[:1] == b"[")
        if ids:
            for event in events:
                if not event.id:
                    event.id = make_id()
        if full := self.enqueue("predictions", events, len(body)):
            return full
        reply = _accepted(events, rejected, ids, self._warn_of_member(events[0].model, unknown))
        return reply if key is None else self._exporter.idempotency.remember("predictions", key, digest, reply)

    def enqueue(self, source: str, events: Sequence[Prediction], size: int) -> Reply | None:
        """Queue checked predictions of ``size`` bytes; return the response to send if the queue is full."""
        try:
            self._exporter.pipeline.submit(events, size)
        except QueueFullError as error:
            return self.overload_reply(error)
        self._accepted_counter(source).inc(len(events))
        if detail := time_off(events):
            self._exporter.client_log.warn("time_off", detail)
        return None

    def _warn_of_member(self, model: str, name: str | None) -> list[dict[str, str]]:
        """Count and log an unknown member of predictions; return the warning to send if another one was meant."""
        if name is None:
            return []
        detail, is_mistake = describe_member(name)
        self._exporter.client_log.warn("unknown_member", f"{preview(name)} in predictions of {preview(model)} {detail}")
        return [{"pointer": json_pointer((name,)), "detail": detail}] if is_mistake else []

    def check_capacity(self) -> Reply | None:
        """Return the response to send if the queue is full, before the body is decoded; None otherwise."""
        try:
            self._exporter.pipeline.check_capacity()
        except QueueFullError as error:
            return self.overload_reply(error)
        return None

    def overload_reply(self, error: QueueFullError) -> Reply:
        """Count a request that is refused because a queue is full, and return its response."""
        self._exporter.client_log.reject(EventError("", str(error), "overloaded"))
        return problem(503, f"{error}: nothing was accepted, try again", headers=_RETRY)

    def submit(
        self,
        source: str,
        events: Sequence[Prediction],
        rejected: Sequence[RejectedEvent],
        size: int,
        *,
        many: bool,
        ids: bool = False,
    ) -> Reply:
        """Queue predictions that were decoded from another server's format.

        Parameters
        ----------
        source
            The route, as it is counted.
        events
            Predictions of configured models; may be empty.
        rejected
            The events that are not valid.
        size
            Bytes of the body.
        many
            Whether the body could hold several events, so that errors name the index of theirs.
        ids
            Whether the response has the predictions' identifiers.
        """
        self._exporter.client_log.reject_events(rejected)
        if rejected and not events:
            return events_problem(list(rejected), many)
        if ids:
            for event in events:
                event.id = event.id or make_id()
        size = max(size, sum(len(memoryview(event.inputs)) for event in events))
        if events and (full := self.enqueue(source, events, size)):
            return full
        return _accepted(events, rejected, ids)

    def feedback(self, body: bytes, key: str | None) -> Reply:
        """Store the feedback in a body before returning (``POST /v1/feedback``)."""
        request = self._decode_feedback(body, key)
        if isinstance(request, Reply):
            return request
        try:
            results = self._exporter.store.record_feedback(request.feedback, key)
        except StoreError as error:
            return self._store_problem(error)
        return self._feedback_reply(request, results)

    async def feedback_async(self, body: bytes, key: str | None) -> Reply:
        """Do the same on an event loop, where only the store's writer thread waits for the disk."""
        request = self._decode_feedback(body, key)
        if isinstance(request, Reply):
            return request
        try:
            future = self._exporter.store.submit_feedback(request.feedback, key)
            try:
                async with asyncio.timeout(COMMIT_TIMEOUT_SECONDS):
                    results: list[FeedbackResult] = await asyncio.wrap_future(future)
            except TimeoutError:
                raise commit_timeout(future) from None
        except StoreError as error:
            return self._store_problem(error)
        return self._feedback_reply(request, results)

    def _decode_feedback(self, body: bytes, key: str | None) -> Reply | _FeedbackRequest:
        many = body.lstrip()[:1] == b"["
        try:
            if key is not None:
                check_key(key)
            items, rejected, _ = self._feedback.decode(body)
        except EventError as error:
            self._exporter.client_log.reject(error)
            return event_problem(error)
        self._exporter.client_log.reject_events(rejected)
        if not items:
            return _no_valid_event(rejected, many)
        if len(items) > MAX_FEEDBACK:
            count = f"expected at most {MAX_FEEDBACK} feedback objects in a request, got {len(items)}"
            detail = f"{count}: send them in several requests"
            return event_problem(EventError("", detail, "too_large"), 413)
        self._prepare_inputs(items)
        return _FeedbackRequest(items, rejected, many)

    def _store_problem(self, error: StoreError) -> Reply:
        if isinstance(error, StoreFullError):
            self._exporter.client_log.reject(EventError("", str(error), "overloaded"))
        return store_problem(error)

    def _feedback_reply(self, request: _FeedbackRequest, results: Sequence[FeedbackResult]) -> Reply:
        if any(result.conflict for result in results):
            return reused_key()
        new = sum(not result.repeat for result in results)
        self._exporter.telemetry.events.labels("feedback").inc(new)
        status = 201 if new else 200
        if not request.many:
            return json_reply(status, _feedback_document(results[0]))
        document = {
            "accepted": len(results),
            "rejected": rejected_document(request.rejected),
            "feedback": [_feedback_document(result) for result in results],
        }
        return json_reply(status, document)

    def events(self, body: bytes, key: str | None) -> Reply:
        """Count the business events in a body (``POST /v1/events``)."""
        return self._exporter.idempotency.once("events", key, lambda: self._count_events(body), body)

    def _count_events(self, body: bytes) -> Reply:
        try:
            events, rejected, _ = self._events.decode(body)
        except EventError as error:
            self._exporter.client_log.reject(error)
            return event_problem(error)
        self._exporter.client_log.reject_events(rejected)
        if not events:
            return _no_valid_event(rejected, body.lstrip()[:1] == b"[")
        monitors = self._exporter.pipeline.monitors
        for event in events:
            monitors.get(event.model, event.version, time.monotonic()).count_event(event.event, event.value)
        self._exporter.telemetry.events.labels("events").inc(len(events))
        return _accepted(events, rejected, False)

    def _prepare_inputs(self, items: Sequence[Feedback]) -> None:
        """Remove from the inputs of feedback what must not be stored, and convert images to PNG."""
        config, monitors = self._exporter.config, self._exporter.pipeline.monitors
        for feedback in items:
            if config.store.inputs == "none":
                feedback.inputs = msgspec.Raw()
            elif feedback.model is not None:
                model = monitors.models[feedback.model]
                binner = monitors.nearest_binner(feedback.model, feedback.version)
                images = image_inputs(model, binner.profile if binner else None)
                raw = [bytes(memoryview(feedback.inputs))]
                decoded = decode_inputs(raw) if model.redact or images else {}
                feedback.inputs = msgspec.Raw(prepare_inputs(raw, decoded, model.redact, images)[0])


def _no_valid_event(rejected: list[RejectedEvent], many: bool) -> Reply:
    if not rejected:
        return event_problem(EventError("", NO_EVENTS, "malformed"))
    return events_problem(rejected, many)


def _accepted(
    events: Sequence[Any],
    rejected: Sequence[RejectedEvent],
    ids: bool,
    warnings: Sequence[dict[str, str]] = (),
) -> Reply:
    if len(events) == 1 and not rejected and not ids and not warnings:
        return ONE_ACCEPTED
    document: dict[str, Any] = {"accepted": len(events), "rejected": rejected_document(rejected)}
    if ids:
        document["ids"] = [event.id for event in events]
    if warnings:
        document["warnings"] = warnings
    return json_reply(202, document)


def _feedback_document(result: FeedbackResult) -> dict[str, Any]:
    return {
        "id": str(result.id),
        "prediction_id": result.prediction_id,
        "verdict": result.verdict,
        "joined": result.joined,
    }
