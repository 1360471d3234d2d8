"""Decode, check and record the events in request bodies; count and log what is refused, and answer repeated requests.

A repeated POST counts once: responses are remembered by their ``Idempotency-Key``, in bounded memory. A key that comes
with another request than before is a client's mistake and gets a 422, as in the IETF's draft of the header
(draft-ietf-httpapi-idempotency-key-header): else the client would take what was not read for accepted.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
from msgspec import structs

from exporter.errors import EventError, QueueFullError, StoreError, StoreFullError
from exporter.features.json_inputs import decode_inputs
from exporter.metrics.exposition import ExporterMetrics
from exporter.profiles.profile import image_inputs
from exporter.server import problem as problems
from exporter.server.access import sender
from exporter.server.pipeline import Pipeline, prepare_inputs
from exporter.storage import COMMIT_TIMEOUT_SECONDS, FeedbackResult, Store, commit_timeout
from exporter.validation import json_pointer, preview
from exporter.wire import events as wire
from exporter.wire.otlp import Calls, Spans

log = logging.getLogger(__name__)

MAX_CLIENTS = 1000
"""Clients that are remembered; new ones replace those that were not heard of for the longest time."""
CLIENT_SECONDS = 60.0
"""Time between two log lines about rejected events of the same client."""
MAX_LINES = 60
"""Log lines about clients within `CLIENT_SECONDS`, of all clients together."""
_MAX_DETAIL = 300


def _current_client() -> str:
    host, name = sender.get().address or "a Unix socket", sender.get().name
    return f"{preview(name)} at {host}" if name else host


class ClientLog:
    """The log of what clients did wrong; thread-safe.

    Parameters
    ----------
    telemetry
        Counts what is rejected or looks wrong, whether it is logged or not.
    """

    def __init__(self, telemetry: ExporterMetrics) -> None:
        self._telemetry = telemetry
        self._lock = threading.Lock()
        self._pending: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._warned: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._period = 0.0
        self._lines = 0

    def reject(self, error: EventError) -> None:
        """Count and log a request that was rejected as a whole."""
        self.reject_events([wire.RejectedEvent(0, error.pointer, error.detail, error.reason)])

    def reject_events(self, rejected: Sequence[wire.RejectedEvent], accepted: Sequence[Any] | None = None) -> None:
        """Count rejected events by their reason, and log the first; these and ``accepted`` ones use up the rate."""
        further = len(rejected) + len(accepted) - 1 if accepted is not None else 0  # one was taken before
        if further > 0 and (caller := sender.get().caller) and caller.bucket:
            caller.bucket.spend(further)
        if not rejected:
            return
        for reason, count in Counter(event.reason for event in rejected).items():
            self._telemetry.rejected.labels(reason).inc(count)
        client, first = _current_client(), rejected[0]
        total = self._admit(client, len(rejected))
        if total:
            counted = "1 event" if total == 1 else f"{total} events"
            where = f" at {preview(first.pointer, 100)}" if first.pointer else ""
            detail = _without_values(first.detail)
            log.warning("refused %s of client %s: %s%s: %s", counted, client, first.reason, where, detail)

    def warn(self, reason: str, detail: str) -> None:
        """Count an event that is accepted, but looks wrong; log it once for each client."""
        self._telemetry.warnings.labels(reason).inc()
        client = _current_client()
        with self._lock:
            key = (client, reason)
            is_known = key in self._warned
            if not is_known and not self._take_line():
                return
            self._warned[key] = None
            self._warned.move_to_end(key)
            if len(self._warned) > MAX_CLIENTS:
                self._warned.popitem(last=False)
        if not is_known:
            log.warning("client %s: %s (logged once for each client)", client, detail)

    def _admit(self, client: str, count: int) -> int:
        """Return how many events of a client its next log line is about; 0 if none is due."""
        now = time.monotonic()
        with self._lock:
            due, pending = self._pending.pop(client, (now, 0))
            pending += count
            written = now >= due and self._take_line()
            self._pending[client] = (now + CLIENT_SECONDS, 0) if written else (due, pending)
            if len(self._pending) > MAX_CLIENTS:
                self._pending.popitem(last=False)
        return pending if written else 0

    def _take_line(self) -> bool:
        """Return whether a line may be written within the limit of all clients."""
        now = time.monotonic()
        if now - self._period >= CLIENT_SECONDS:
            self._period, self._lines = now, 0
        self._lines += 1
        return self._lines <= MAX_LINES


def _without_values(detail: str) -> str:
    """Return the detail of an error without the value that the client sent, which may be personal data."""
    detail = detail.partition(", got ")[0]
    return detail if len(detail) <= _MAX_DETAIL else detail[: _MAX_DETAIL - 1] + "…"


MAX_KEYS = 10_000
"""Keys that are remembered; new ones replace the oldest."""
MAX_BYTES = 16 * 2**20
"""Bytes of the bodies that are remembered."""
MAX_KEY_LENGTH = 255


class IdempotencyCache:
    """Successful responses by route, sender and key; thread-safe.

    Parameters
    ----------
    clients
        Counts the requests that are refused for their key.
    """

    def __init__(self, clients: ClientLog) -> None:
        self._clients = clients
        self._replies: OrderedDict[tuple[str, str, str], tuple[bytes, problems.Reply]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._locks = [threading.Lock() for _ in range(64)]

    def once(self, route: str, key: str | None, call: Callable[[], problems.Reply], *content: bytes) -> problems.Reply:
        """Return what ``call`` returns; for a key that was used before, return its response instead.

        A retry that arrives while the first request is being processed waits for its response.

        Parameters
        ----------
        route
            What the key is for.
        key
            The ``Idempotency-Key`` header.
        call
            Processes the request.
        content
            The request: its body, and what else it is told by.
        """
        if key is None:
            return call()
        digest = content_digest(*content)
        with self._locks[hash((route, sender.get().name, key)) % len(self._locks)]:
            return self.get(route, key, digest) or self.remember(route, key, digest, call())

    def get(self, route: str, key: str, digest: bytes) -> problems.Reply | None:
        """Return the response of the key, or a problem if the key is not valid; None for a new key.

        Parameters
        ----------
        route, key
            See `once`.
        digest
            `content_digest` of the request; another one than that of the key's first request is a problem.
        """
        try:
            check_key(key)
        except EventError as error:
            self._clients.reject(error)
            return problems.event_problem(error)
        with self._lock:
            first, reply = self._replies.get((route, sender.get().name, key), (digest, None))
        return reply if first == digest else reused_key()

    def remember(self, route: str, key: str, digest: bytes, reply: problems.Reply) -> problems.Reply:
        """Remember a response if it is successful, and return it: a request that was refused may be repeated."""
        if reply.status >= 400:
            return reply
        with self._lock:
            self._bytes += len(reply.body)
            if replaced := self._replies.pop(scoped := (route, sender.get().name, key), None):
                self._bytes -= len(replaced[1].body)
            self._replies[scoped] = digest, reply
            while len(self._replies) > MAX_KEYS or self._bytes > MAX_BYTES:
                self._bytes -= len(self._replies.popitem(last=False)[1][1].body)
        return reply


def content_digest(*content: bytes) -> bytes:
    """Return a digest by which a repeated request is told from another one."""
    digest = hashlib.sha256()
    for part in content:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()


def reused_key() -> problems.Reply:
    """Return the problem for a key that was used before with another request."""
    return problems.problem(422, "this Idempotency-Key was already used with another request: use a new key")


def check_key(key: str) -> None:
    """Check an idempotency key.

    Raises
    ------
    EventError
        When it is empty or too long.
    """
    if not 0 < len(key) <= MAX_KEY_LENGTH:
        detail = f"the Idempotency-Key header must have 1 to {MAX_KEY_LENGTH} characters, got {len(key)}"
        raise EventError("", detail, "too_long" if key else "malformed")


NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")
"""Content types with one object per line."""
MAX_FEEDBACK = 1000
"""Feedback objects in one request. They are on disk before the response, and other requests wait meanwhile."""
MAX_LABELS = 10_000
"""Labels in one request."""
LARGE_BODY = 512 * 1024
"""Bytes from which a body of predictions is decoded in a thread: the loop must not wait for it."""
CHUNK = 2_000
"""Labels in one transaction: few enough that feedback does not wait long."""
_RETRY = (("Retry-After", "1"),)
CHECKED = 100
"""Requests whose inputs are compared with the profile; later ones are once the pipeline has found an unknown input."""
MAX_NAMED = 5
"""Inputs outside the profile that a response names."""
FLAT = 'is ignored: it is an input in the profile, and inputs belong into "inputs"'
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
LABEL_COUNTS = ("accepted", "joined", "waiting", "repeated", "changed")
REFUSED = (EventError, QueueFullError, StoreError)
"""What refuses a request as a whole; see `Ingest.refusal`."""
ONE_ACCEPTED = problems.json_reply(202, {"accepted": 1, "rejected": []})


class _FeedbackRequest(NamedTuple):
    """The decoded feedback in a request; ``many`` is set when the body is an array."""

    feedback: Sequence[wire.Feedback]
    rejected: Sequence[wire.RejectedEvent]
    many: bool


_Decoded = problems.Reply | _FeedbackRequest


class Ingest:
    """Record the events that clients send.

    Parameters
    ----------
    pipeline, store
        Count and store them.
    telemetry, client_log
        Count what is accepted and what is refused.
    idempotency
        The responses to requests with an ``Idempotency-Key``.

    Attributes
    ----------
    served_last
        The version that served a model last, by route and model.
    calls, spans
        The latest calls of models by OpenTelemetry, which evaluations refer to, and their spans.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        store: Store,
        telemetry: ExporterMetrics,
        client_log: ClientLog,
        idempotency: IdempotencyCache,
    ) -> None:
        self._pipeline, self._store, self._telemetry = pipeline, store, telemetry
        self._client_log, self._idempotency = client_log, idempotency
        self.served_last = dict[tuple[str, str], str]()
        self.calls, self.spans, self._checked = Calls(), Spans(), Counter[str]()
        self._predictions = wire.Decoder(
            wire.Prediction, lambda events: wire.check_predictions(pipeline.monitors.models, events)
        )
        self._feedback = wire.Decoder(wire.Feedback, lambda items: wire.check_feedback(pipeline.monitors.models, items))
        self._events = wire.Decoder(
            wire.BusinessEvent, lambda events: wire.check_business_events(pipeline.monitors.models, events)
        )
        self._labels = wire.Decoder(wire.LabelEvent, lambda items: wire.check_labels(pipeline.monitors.models, items))
        self._accepted_counter = functools.cache(telemetry.events.labels)

    def predictions(self, body: bytes, lines: bool, key: str | None, ids: bool) -> problems.Reply:
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
        if key is not None and (previous := self._idempotency.get("predictions", key, digest)):
            return previous
        try:
            self._pipeline.check_capacity()
            events, rejected, unknown = self._predictions.decode(body, lines)
            many = lines or is_array(body)
            reply = self.submit("predictions", events, rejected, len(body), many=many, ids=ids, unknown=unknown)
        except REFUSED as error:
            return self.refusal(error)
        return reply if key is None else self._idempotency.remember("predictions", key, digest, reply)

    def refusal(self, error: EventError | QueueFullError | StoreError) -> problems.Reply:
        """Count a request that is refused as a whole, and return its response."""
        if isinstance(error, StoreFullError | QueueFullError):
            self._client_log.reject(EventError("", str(error), "overloaded"))
        if isinstance(error, StoreError):
            return problems.store_problem(error)
        if isinstance(error, QueueFullError):
            return problems.problem(503, f"{error}: nothing was accepted, try again", headers=_RETRY)
        self._client_log.reject(error)
        return problems.event_problem(error, 413 if error.reason == "too_large" else 400)

    def _warnings(self, events: Sequence[wire.Prediction], member: str | None) -> Iterator[dict[str, str]]:
        """Yield the warnings to send about the inputs of the first prediction, and about a member that is not known."""
        event = events[0]
        monitors, inputs = self._pipeline.monitors, memoryview(event.inputs)
        if detail := wire.time_off(events):
            self._client_log.warn("time_off", detail)
        if monitor := monitors.of_model(event.model).get(event.version or wire.NO_VERSION):
            yield from ({"pointer": f"/{name}", "detail": text} for name, text in monitor.warnings.found.items())
        binner = monitors.binner(event.model, event.version or "")
        self._checked[event.model] += 1
        is_due = self._checked[event.model] <= CHECKED or monitors.unknown_inputs[event.model]
        if is_due and binner and 0 < inputs.nbytes <= LARGE_BODY:
            with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                if names := _members.decode(inputs).keys() - binner.known_inputs:
                    found = monitors.name_unknown(event.model, binner, sorted(names)[:MAX_NAMED])
                    yield from ({"pointer": json_pointer(("inputs", n)), "detail": text} for n, text in found.items())
        if member is not None:
            is_flat = binner and not inputs and member in binner.inputs
            detail, is_mistake = (FLAT, True) if is_flat else wire.describe_member(member[: wire.MAX_ID + 1])
            what = f"{preview(member)} in predictions of {preview(event.model)}"
            self._client_log.warn("unknown_member", f"{what} {detail}")
            if is_mistake:
                yield {"pointer": json_pointer((member,)), "detail": detail}

    def submit(
        self,
        source: str,
        events: Sequence[wire.Prediction],
        rejected: Sequence[wire.RejectedEvent],
        size: int,
        *,
        many: bool = True,
        ids: bool = False,
        unknown: str | None = None,
    ) -> problems.Reply:
        """Queue predictions.

        Parameters
        ----------
        source
            The route, as it is counted.
        events
            Predictions of configured models; may be empty.
        rejected
            The events that are not valid.
        size
            Bytes of the body, or of its inputs where these are more.
        many
            Whether the body could hold several events, so that errors name the index of theirs.
        ids
            Whether the response has the predictions' identifiers.
        unknown
            The first member of the events that is not known.

        Raises
        ------
        QueueFullError
            When the queue is full.
        """
        self._client_log.reject_events(rejected, events)
        if rejected and not events:
            return problems.events_problem(list(rejected), many)
        if ids:
            for event in events:
                event.id = event.id or wire.make_id()
        if events:
            self._pipeline.submit(events, size)
            self._accepted_counter(source).inc(len(events))
        return _accepted(events, rejected, ids, [*self._warnings(events, unknown)] if events else ())

    async def feedback(
        self,
        body: bytes,
        key: str | None,
        decode_in: Callable[[Callable[[], _Decoded]], Awaitable[_Decoded]] | None = None,
    ) -> problems.Reply:
        """Store the feedback in a body (``POST /v1/feedback``); only the store's writer thread waits for the disk.

        Parameters
        ----------
        body
            An object or an array.
        key
            The ``Idempotency-Key`` header.
        decode_in
            Runs what decodes a large body.
        """
        try:
            decode = functools.partial(self._decode_feedback, body, key)
            request = await decode_in(decode) if decode_in else decode()
            if isinstance(request, problems.Reply):
                return request
            name = sender.get().name
            future = self._store.submit_feedback(request.feedback, key and f"{key}\n{name}" if name else key, name)
            try:
                async with asyncio.timeout(COMMIT_TIMEOUT_SECONDS):
                    results: list[FeedbackResult] = await asyncio.wrap_future(future)
            except TimeoutError:
                raise commit_timeout(future) from None
            return self._feedback_reply(request, results)
        except REFUSED as error:
            return self.refusal(error)

    def _decode_feedback(self, body: bytes, key: str | None) -> _Decoded:
        if key is not None:
            check_key(key)
        items, rejected, _ = self._feedback.decode(body)
        many = is_array(body)
        self._client_log.reject_events(rejected, items)
        if not items:
            return problems.events_problem(rejected, many)
        if len(items) > MAX_FEEDBACK:
            count = f"expected at most {MAX_FEEDBACK} feedback objects in a request, got {len(items)}"
            raise EventError("", f"{count}: send them in several requests", "too_large")
        self._prepare_inputs(items)
        return _FeedbackRequest(items, rejected, many)

    def _feedback_reply(self, request: _FeedbackRequest, results: Sequence[FeedbackResult]) -> problems.Reply:
        if any(result.conflict for result in results):
            return reused_key()
        new = sum(not result.repeat for result in results)
        self._telemetry.events.labels("feedback").inc(new)
        status = 201 if new else 200
        documents = [
            {"id": str(one.id), "prediction_id": one.prediction_id, "verdict": one.verdict, "joined": one.joined}
            for one in results
        ]
        if not request.many:
            return problems.json_reply(status, documents[0])
        document = {
            "accepted": len(results),
            "rejected": problems.rejected_document(request.rejected),
            "feedback": documents,
        }
        return problems.json_reply(status, document)

    def events(self, body: bytes, key: str | None) -> problems.Reply:
        """Count the business events in a body (``POST /v1/events``)."""
        return self._idempotency.once("events", key, lambda: self._count_events(body), body)

    def _count_events(self, body: bytes) -> problems.Reply:
        try:
            events, rejected, _ = self._events.decode(body)
        except EventError as error:
            return self.refusal(error)
        self._client_log.reject_events(rejected, events)
        if not events:
            return problems.events_problem(rejected, is_array(body))
        monitors = self._pipeline.monitors
        for event in events:
            monitors.get(event.model, event.version, time.monotonic()).count_event(event.event, event.value)
        self._telemetry.events.labels("events").inc(len(events))
        return _accepted(events, rejected, False)

    def labels(self, body: bytes, lines: bool, key: str | None) -> problems.Reply:
        """Store the labels in a body before returning (``POST /v1/labels``).

        Parameters
        ----------
        body
            An object, an array, or NDJSON if ``lines`` is set.
        lines
            Whether the body is NDJSON.
        key
            The ``Idempotency-Key`` header.
        """
        return self._idempotency.once("labels", key, lambda: self._record_labels(body, lines), body)

    def _record_labels(self, body: bytes, lines: bool) -> problems.Reply:
        try:
            items, refused, _ = self._labels.decode(body, lines)
            if len(items) > MAX_LABELS:
                expected = f"expected at most {MAX_LABELS:,} labels in a request, got {len(items):,}"
                raise EventError("", f"{expected}: send several requests", "too_large")
        except EventError as error:
            return self.refusal(error)
        self._client_log.reject_events(refused, items)
        counts: Counter[str] = Counter()
        incomparable: list[wire.RejectedEvent] = []
        indices = _indices(len(items), refused)
        for start in range(0, len(items), CHUNK):
            try:
                result = self._store.record_labels(items[start : start + CHUNK], sender.get().name)
            except StoreError as error:
                if start:
                    detail = f"the first {start:,} labels are stored, and sending them again changes nothing"
                    error = type(error)(f"{detail}; of the others: {error}")
                return self.refusal(error)
            counts.update({name: getattr(result, name) for name in LABEL_COUNTS})
            incomparable += [structs.replace(one, index=indices[start + one.index]) for one in result.rejected]
            self._telemetry.events.labels("labels").inc(result.accepted - result.repeated)
        self._client_log.reject_events(incomparable)
        rejected = sorted((*refused, *incomparable), key=lambda event: event.index)
        if not counts["accepted"]:
            return problems.events_problem(rejected, many=lines or is_array(body))
        document = {name: counts[name] for name in LABEL_COUNTS} | {"rejected": problems.rejected_document(rejected)}
        return problems.json_reply(200 if counts["repeated"] == counts["accepted"] else 201, document)

    def _prepare_inputs(self, items: Sequence[wire.Feedback]) -> None:
        """Remove from the inputs of feedback what must not be stored, and convert images to PNG."""
        config, monitors = self._pipeline.config, self._pipeline.monitors
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


def is_array(body: bytes) -> bool:
    """Return whether a body is a JSON array, so that errors name the index of their event."""
    return body.lstrip()[:1] == b"["


def _accepted(
    events: Sequence[Any],
    rejected: Sequence[wire.RejectedEvent],
    ids: bool,
    warnings: Sequence[dict[str, str]] = (),
) -> problems.Reply:
    if len(events) == 1 and not rejected and not ids and not warnings:
        return ONE_ACCEPTED
    document: dict[str, Any] = {"accepted": len(events), "rejected": problems.rejected_document(rejected)}
    if ids:
        document["ids"] = [event.id for event in events]
    if warnings:
        document["warnings"] = warnings
    return problems.json_reply(202, document)


def _indices(number: int, refused: Sequence[wire.RejectedEvent]) -> Sequence[int]:
    """Return the index in the body of each of so many events that were not refused."""
    before = {event.index for event in refused}
    return [index for index in range(number + len(before)) if index not in before]
