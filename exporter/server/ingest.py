"""Bodies in, acknowledgements out: what the fast door and Flask's routes share."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from exporter.errors import EventError, QueueFullError, StoreError
from exporter.events import (
    BusinessEvent,
    Decoder,
    Feedback,
    Prediction,
    RejectedEvent,
    check_model,
    check_models,
    make_id,
)
from exporter.features.lenient_json import decode_inputs
from exporter.profiles.profile import image_inputs
from exporter.server.application import Exporter
from exporter.server.idempotency import IdempotencyCache, check_key
from exporter.server.problem import MAX_ERRORS, Reply, event_problem, events_problem, problem
from exporter.server.stored_inputs import as_stored
from exporter.storage import COMMIT_TIMEOUT_SECONDS, FeedbackResult, commit_timeout
from exporter.storage.schema import label_json
from exporter.validation import preview, suggestion

NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")
"""Content types of one object a line."""
MAX_BODY = 16 * 2**20
"""Bytes of a request's body."""
MAX_WORDS = 1000
"""Words of feedback in one request: they are on disk before it is answered, and others wait meanwhile."""
_RETRY = (("Retry-After", "1"),)
ONE_ACCEPTED = Reply(202, b'{"accepted":1,"rejected":[]}')


class _Said(NamedTuple):
    """The words of a request."""

    words: Sequence[Feedback]
    rejected: Sequence[RejectedEvent]
    many: bool


class Ingest:
    """Takes what clients POST.

    Parameters
    ----------
    exporter
        Where it goes.
    """

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter
        self._predictions = Decoder(Prediction, self._check_predictions)
        self._feedback = Decoder(Feedback, self._check_feedback)
        self._events = Decoder(BusinessEvent, self._check_events)
        self._came = functools.cache(exporter.telemetry.events.labels)
        self.retries = IdempotencyCache(exporter.telemetry)

    def predictions(self, body: bytes, lines: bool, key: str | None, ids: bool) -> Reply:
        """``POST /v1/predictions``.

        Parameters
        ----------
        body
            An object, an array, or with ``lines`` NDJSON.
        lines
            Whether it is NDJSON.
        key
            The ``Idempotency-Key`` header.
        ids
            Whether the answer names the events' identifiers.
        """
        if key is not None and (known := self.retries.known("predictions", key)):
            return known
        try:
            self._exporter.pipeline.check_room()
            events, rejected = self._predictions.decode(body, lines)
        except QueueFullError as error:
            return self.overloaded(error)
        except EventError as error:
            self._exporter.telemetry.rejected.labels(error.reason).inc()
            return event_problem(error)
        if rejected or not events:
            self.count_rejected(rejected)
            if not events:
                return _nothing_good(rejected, lines or body.lstrip()[:1] == b"[")
        if ids:
            for event in events:
                if not event.id:
                    event.id = make_id()
        if full := self.queue("predictions", events, len(body)):
            return full
        reply = _accepted(202, events, rejected, ids)
        return reply if key is None else self.retries.remember("predictions", key, reply)

    def queue(self, source: str, events: Sequence[Prediction], size: int) -> Reply | None:
        """Queue checked predictions of ``size`` bytes; the answer where there is no room for them."""
        try:
            self._exporter.pipeline.submit(events, size)
        except QueueFullError as error:
            return self.overloaded(error)
        self._came(source).inc(len(events))
        return None

    def full(self) -> Reply | None:
        """The answer while there is no room, before a body is even decoded."""
        try:
            self._exporter.pipeline.check_room()
        except QueueFullError as error:
            return self.overloaded(error)
        return None

    def overloaded(self, error: QueueFullError) -> Reply:
        """The answer to a request for which there is no room; it is counted."""
        self._exporter.telemetry.rejected.labels("overloaded").inc()
        return problem(503, f"{error}: nothing was taken, try again", headers=_RETRY)

    def decoded(
        self,
        source: str,
        events: Sequence[Prediction],
        rejected: Sequence[RejectedEvent],
        size: int,
        *,
        many: bool,
        ids: bool = False,
    ) -> Reply:
        """Take what was decoded from another server's format.

        Parameters
        ----------
        source
            The route.
        events
            Predictions of configured models; none is no error.
        rejected
            What was wrong with the others.
        size
            Bytes they came in.
        many
            Whether they came with others, so that a place says which one was wrong.
        ids
            Whether the answer names the events' identifiers.
        """
        self.count_rejected(rejected)
        if rejected and not events:
            return events_problem(list(rejected), many)
        if ids:
            for event in events:
                event.id = event.id or make_id()
        if events and (full := self.queue(source, events, max(size, sum(len(memoryview(e.inputs)) for e in events)))):
            return full
        return _accepted(202, events, rejected, ids)

    def feedback(self, body: bytes, key: str | None) -> Reply:
        """``POST /v1/feedback``: on disk before it answers."""
        said = self._words(body, key)
        if isinstance(said, Reply):
            return said
        try:
            return self._taken(said, self._exporter.store.record_feedback(said.words, key))
        except StoreError as error:
            return _not_taken(error)

    async def small_feedback(self, body: bytes, key: str | None) -> Reply:
        """The same on an event loop: no thread waits for the disk but the one that writes."""
        said = self._words(body, key)
        if isinstance(said, Reply):
            return said
        try:
            future = self._exporter.store.submit_feedback(said.words, key)
            try:
                async with asyncio.timeout(COMMIT_TIMEOUT_SECONDS):
                    taken: list[FeedbackResult] = await asyncio.wrap_future(future)
            except TimeoutError:
                raise commit_timeout(future) from None
        except StoreError as error:
            return _not_taken(error)
        return self._taken(said, taken)

    def _words(self, body: bytes, key: str | None) -> Reply | _Said:
        many = body.lstrip()[:1] == b"["
        try:
            if key is not None:
                check_key(key)
            words, rejected = self._feedback.decode(body)
        except EventError as error:
            self._exporter.telemetry.rejected.labels(error.reason).inc()
            return event_problem(error)
        self.count_rejected(rejected)
        if not words:
            return _nothing_good(rejected, many)
        if len(words) > MAX_WORDS:
            detail = f"expected at most {MAX_WORDS} words a request, got {len(words)}: send them in several"
            return event_problem(EventError("", detail, "too_large"), 413)
        self._redact(words)
        return _Said(words, rejected, many)

    def _taken(self, said: _Said, taken: Sequence[FeedbackResult]) -> Reply:
        if any(word.conflict for word in taken):
            return problem(422, "this Idempotency-Key came before with another body: use a new one")
        fresh = sum(not word.repeat for word in taken)
        self._exporter.telemetry.events.labels("feedback").inc(fresh)
        status = 201 if fresh else 200
        if not said.many:
            return Reply(status, msgspec.json.encode(_word(taken[0])))
        document = {
            "accepted": len(taken),
            "rejected": _shown(said.rejected),
            "feedback": [_word(word) for word in taken],
        }
        return Reply(status, msgspec.json.encode(document))

    def events(self, body: bytes, key: str | None) -> Reply:
        """``POST /v1/events``: business counters."""
        return self.retries.once("events", key, lambda: self._count_events(body))

    def _count_events(self, body: bytes) -> Reply:
        try:
            events, rejected = self._events.decode(body)
        except EventError as error:
            self._exporter.telemetry.rejected.labels(error.reason).inc()
            return event_problem(error)
        self.count_rejected(rejected)
        if not events:
            return _nothing_good(rejected, body.lstrip()[:1] == b"[")
        monitors = self._exporter.pipeline.monitors
        for event in events:
            monitors.get(event.model, event.version, time.monotonic()).count_event(event.event, event.value)
        self._exporter.telemetry.events.labels("events").inc(len(events))
        return _accepted(202, events, rejected, False)

    def count_rejected(self, rejected: Sequence[RejectedEvent]) -> None:
        """Count refused events by their reason."""
        for reason, times in Counter(one.reason for one in rejected).items():
            self._exporter.telemetry.rejected.labels(reason).inc(times)

    def _redact(self, words: Sequence[Feedback]) -> None:
        """Take out of words' inputs what must not be stored; images become PNG."""
        config, monitors = self._exporter.config, self._exporter.pipeline.monitors
        for word in words:
            if word.prediction_id is not None or config.store.inputs == "none":
                word.inputs = msgspec.Raw()
            elif word.model is not None:
                model, binner = monitors.models[word.model], monitors.nearest_binner(word.model, word.version)
                images = image_inputs(model, binner.profile if binner else None)
                if model.redact or images:
                    raw = [bytes(memoryview(word.inputs))]
                    word.inputs = msgspec.Raw(as_stored(raw, decode_inputs(raw), model.redact, images)[0])

    def _check_predictions(self, events: Sequence[Prediction]) -> None:
        check_models(self._exporter.pipeline.monitors.models, events)

    def _check_feedback(self, words: Sequence[Feedback]) -> None:
        models = self._exporter.pipeline.monitors.models
        for word in words:
            if word.model is not None:
                check_model(models, word.model)
            if word.prediction_id is None:
                if word.model is None:
                    detail = "is required, or a model and a label in its stead"
                    raise EventError("/prediction_id", detail, "missing_field")
                if word.label is None:
                    raise EventError("/label", "is required where there is no prediction_id", "missing_field")
                if word.verdict is None:
                    word.verdict = "accepted" if label_json(word.label) == label_json(word.prediction) else "corrected"
            if word.verdict is None:
                raise EventError("/verdict", "is required: accepted or corrected", "missing_field")

    def _check_events(self, events: Sequence[BusinessEvent]) -> None:
        models = self._exporter.pipeline.monitors.models
        for event in events:
            check_model(models, event.model)
            declared = models[event.model].events
            if event.event not in declared:
                hint = suggestion(event.event, declared)
                detail = f"{preview(event.event)} is not among the model's events in the configuration; {hint}"
                raise EventError("/event", detail, "unknown_event")


def _not_taken(error: StoreError) -> Reply:
    return problem(503, str(error), headers=(("Retry-After", "5"),))


def _nothing_good(rejected: list[RejectedEvent], many: bool) -> Reply:
    if not rejected:
        return event_problem(EventError("", "there is no event in the body", "malformed"))
    return events_problem(rejected, many)


def _accepted(status: int, events: Sequence[Any], rejected: Sequence[RejectedEvent], ids: bool) -> Reply:
    if len(events) == 1 and not rejected and not ids:
        return ONE_ACCEPTED
    document: dict[str, Any] = {"accepted": len(events), "rejected": _shown(rejected)}
    if ids:
        document["ids"] = [event.id for event in events]
    return Reply(status, msgspec.json.encode(document))


def _shown(rejected: Sequence[RejectedEvent]) -> list[dict[str, Any]]:
    return [{"index": r.index, "pointer": r.pointer, "detail": r.detail} for r in rejected[:MAX_ERRORS]]


def _word(word: FeedbackResult) -> dict[str, Any]:
    return {"id": str(word.id), "prediction_id": word.prediction_id, "verdict": word.verdict, "joined": word.joined}
