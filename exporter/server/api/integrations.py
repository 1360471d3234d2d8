"""Routes for other servers' formats: their logs come as they are, without a line in the model service."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import msgspec
from flask import Blueprint, Response, request

from exporter.errors import EventError
from exporter.events import MAX_REJECTED, Prediction, RejectedEvent
from exporter.server.api.ingest import idempotency_key
from exporter.server.application import Exporter
from exporter.server.ingest import MAX_BODY, NDJSON, Ingest
from exporter.server.integrations import Known, PayloadPair, predictions, resolve, seldon
from exporter.server.integrations.cloudevents import BATCH, LoggedMessage
from exporter.server.integrations.cloudevents import read as read_events
from exporter.server.integrations.detect import request as read_request
from exporter.server.integrations.detect import response as read_response
from exporter.server.integrations.otlp import PROTOBUF, Signal, answer, refusal
from exporter.server.integrations.otlp import read as read_records
from exporter.server.integrations.payload import MAX_ROWS, decompressed, document, unpacked
from exporter.server.integrations.payload_pairs import items
from exporter.server.integrations.payload_pairs import read as read_pair
from exporter.server.integrations.proxy_records import read as read_exchange
from exporter.server.integrations.seldon_feedback import words
from exporter.server.problem import Reply, whole

_LARGE = 2**20
_GRPC = {400: 3, 413: 3, 415: 3, 503: 14}  # INVALID_ARGUMENT and UNAVAILABLE
_Decoded = tuple[list[Prediction], list[RejectedEvent]]


class Wire:
    """Takes what other servers log.

    Parameters
    ----------
    exporter
        Whose models they are of.
    ingest
        The way into the pipeline.
    """

    def __init__(self, exporter: Exporter, ingest: Ingest) -> None:
        self._exporter = exporter
        self._ingest = ingest
        self._large = threading.Lock()

    def kserve(self, headers: dict[str, str], body: bytes) -> Reply:
        """``POST /v1/kserve``: halves are paired; predictions are those whose other half was there."""
        pairs, waited = self._exporter.pairs, list[LoggedMessage]()

        def decode() -> Iterator[EventError | Callable[[], _Decoded]]:
            for half in read_events(headers, body):
                if isinstance(half, EventError):
                    yield half
                elif other := pairs.take(half):
                    waited.append(other)
                    yield partial(self._paired, half, other)

        reply = self._take("kserve", body, decode, many=headers.get("content-type", "").startswith(BATCH))
        if reply.status == 503:  # the sender comes again with its half; the others must be there then
            for half in waited:
                pairs.take(half)
        return reply

    def infer(self, model: str, version: str | None, body: bytes, lines: bool, ids: bool) -> Reply:
        """``POST /v2/models/<model>/infer``: requests with their responses."""

        def decode() -> Iterator[EventError | Callable[[], _Decoded]]:
            self._known(model)
            for item in items(body, lines):
                yield item if isinstance(item, EventError) else partial(self._exchanged, model, item, version)

        return self._take("infer", body, decode, lines or body.lstrip()[:1] == b"[", ids)

    def exchanges(self, body: bytes, lines: bool, ids: bool) -> Reply:
        """``POST /v1/exchanges``: what a proxy saw."""

        def decode() -> Iterator[EventError | Callable[[], _Decoded]]:
            for item in items(body, lines):
                yield item if isinstance(item, EventError) else partial(self._recorded, item)

        return self._take("exchanges", body, decode, lines or body.lstrip()[:1] == b"[", ids)

    def seldon(self, body: bytes, model: str | None, key: str | None) -> Reply:
        """``POST /v1/seldon/feedback``."""
        try:
            found, _ = document(body)
            known = self._known(model) if model else self._only()
            said = words(seldon.feedback(found), known)
            return self._ingest.feedback(msgspec.json.encode(said if len(said) > 1 else said[0]), key)
        except EventError as error:
            return self._refuse(error)

    def records(self, signal: Signal, body: bytes, encoding: str, protobuf: bool) -> Reply:
        """``POST /v1/logs`` and ``/v1/traces``, answered as OTLP has it."""
        kind = PROTOBUF if protobuf else "application/json"
        reply, rejected, first = self._records(signal, body, encoding, protobuf)
        if reply:
            message = str(msgspec.json.decode(reply.body)["detail"])
            return Reply(
                reply.status, refusal(protobuf, _GRPC.get(reply.status, 13), message), reply.headers, content_type=kind
            )
        return Reply(200, answer(signal, protobuf, rejected, first), content_type=kind)

    def _records(self, signal: Signal, body: bytes, encoding: str, protobuf: bool) -> tuple[Reply | None, int, str]:
        if full := self._ingest.full():
            return full, 0, ""
        good: list[Prediction] = []
        bad: list[RejectedEvent] = []
        try:
            if encoding.lower() == "gzip":
                body = decompressed(body, MAX_BODY)
            with self._turn(body):
                for found in read_records(body, signal, protobuf):
                    try:
                        if isinstance(found, EventError):
                            raise found
                        models = self._exporter.pipeline.monitors.models
                        events, rejected = found.of(resolve(models, found.names).name)
                    except EventError as error:
                        events, rejected = [], [RejectedEvent(0, error.pointer, error.detail, error.reason)]
                    good += events
                    bad += rejected
                    _check_count(good)
        except EventError as error:
            return self._refuse(error), 0, ""
        self._ingest.count_rejected(bad)
        size = max(len(body), sum(len(memoryview(event.inputs)) for event in good))
        full = self._ingest.queue(signal, good, size) if good else None
        return full, len(bad), f"{bad[0].pointer}: {bad[0].detail}" if bad else ""

    def _take(
        self,
        source: str,
        body: bytes,
        decode: Callable[[], Iterable[EventError | Callable[[], _Decoded]]],
        many: bool,
        ids: bool = False,
    ) -> Reply:
        if full := self._ingest.full():
            return full
        good: list[Prediction] = []
        bad: list[RejectedEvent] = []
        try:
            with self._turn(body):
                for place, one in enumerate(decode()):
                    if len(bad) >= MAX_REJECTED:
                        detail = f"not looked at: {MAX_REJECTED} before were refused"
                        bad.append(RejectedEvent(place, "", detail, "malformed"))
                        break
                    events, rejected = _decoded(one, place)
                    good += events
                    bad += rejected
                    _check_count(good)
        except EventError as error:
            return self._refuse(error)
        return self._ingest.decoded(source, good, bad, len(body), many=many, ids=ids)

    def _turn(self, body: bytes) -> AbstractContextManager[Any]:
        """Large bodies are decoded one after the other: decoded they take many times their size."""
        return self._large if len(body) > _LARGE else nullcontext()

    def _paired(self, one: LoggedMessage, two: LoggedMessage) -> _Decoded:
        first, last = (one, two) if one.side == "request" else (two, one)
        seconds = (last.time - first.time).total_seconds() if first.time and last.time else -1.0
        inputs, outputs = (
            read_request(unpacked(first.body, MAX_BODY), first.head),
            read_response(unpacked(last.body, MAX_BODY), last.head),
        )
        known = self._known(outputs.model, *first.names, version=outputs.version)
        named = outputs.id if outputs.columns and outputs.columns[0].name in seldon.MEMBERS else None
        exchange = PayloadPair(
            inputs, outputs, named or first.id, time=first.time, duration_seconds=seconds if seconds >= 0 else None
        )
        return predictions(known, exchange)

    def _exchanged(self, model: str, item: Any, version: str | None) -> _Decoded:
        exchange = read_pair(item, version)
        return predictions(self._known(model, version=exchange.version or exchange.response.version), exchange)

    def _recorded(self, item: Any) -> _Decoded:
        """A request counts even where its bodies are refused."""
        exchange = read_exchange(item)
        known = self._known(exchange.model, version=exchange.version)
        try:
            events, rejected = predictions(known, exchange.read(MAX_BODY))
        except EventError as error:
            events, rejected = [], [RejectedEvent(0, error.pointer, error.detail, error.reason)]
        if not events:
            events, refused_too = predictions(known, exchange.alone())
            rejected += refused_too
        return events, rejected

    def _known(self, *names: str | None, version: str | None = None) -> Known:
        monitors = self._exporter.pipeline.monitors
        config = resolve(monitors.models, names)
        binner = monitors.nearest_binner(config.name, version)
        return Known(config, binner.profile if binner else None)

    def _only(self) -> Known | None:
        """The one configured model."""
        models = self._exporter.pipeline.monitors.models
        return self._known(*models) if len(models) == 1 else None

    def _refuse(self, error: EventError) -> Reply:
        self._exporter.health.rejected.labels(error.reason).inc()
        return whole(error, 413 if error.reason == "too_large" else 400)


def _check_count(events: list[Prediction]) -> None:
    if len(events) > MAX_ROWS:
        raise EventError("", f"expected at most {MAX_ROWS} predictions: send them in several requests", "too_large")


def _decoded(one: EventError | Callable[[], _Decoded], place: int) -> _Decoded:
    try:
        if isinstance(one, EventError):
            raise one
        events, rejected = one()
    except EventError as error:
        return [], [RejectedEvent(place, error.pointer, error.detail, error.reason)]
    return events, [
        msgspec.structs.replace(row, index=place, detail=f"row {row.index}: {row.detail}") for row in rejected
    ]


def blueprint(exporter: Exporter, ingest: Ingest) -> Blueprint:
    """The routes."""
    routes = Blueprint("wire", __name__)
    wire = Wire(exporter, ingest)

    @routes.post("/v1/kserve")
    def kserve() -> Response:
        headers, body = {name.lower(): value for name, value in request.headers.items()}, request.get_data()
        return ingest.retries.once("kserve", idempotency_key(), lambda: wire.kserve(headers, body)).flask()

    @routes.post("/v2/models/<model>/infer")
    @routes.post("/v2/models/<model>/versions/<version>/infer")
    def infer(model: str, version: str | None = None) -> Response:
        body, lines, ids = request.get_data(), request.mimetype in NDJSON, request.args.get("ids") == "1"
        taken = ingest.retries.once("infer", idempotency_key(), lambda: wire.infer(model, version, body, lines, ids))
        return taken.flask()

    @routes.post("/v1/exchanges")
    def exchanges() -> Response:
        body, lines, ids = request.get_data(), request.mimetype in NDJSON, request.args.get("ids") == "1"
        return ingest.retries.once("exchanges", idempotency_key(), lambda: wire.exchanges(body, lines, ids)).flask()

    @routes.post("/v1/seldon/feedback")
    def seldon_feedback() -> Response:
        return wire.seldon(request.get_data(), request.args.get("model"), idempotency_key()).flask()

    @routes.post("/v1/logs")
    def logs() -> Response:
        return records("logs")

    @routes.post("/v1/traces")
    def traces() -> Response:
        return records("traces")

    def records(signal: Signal) -> Response:
        body, encoding = request.get_data(), request.headers.get("Content-Encoding", "identity")
        protobuf = request.mimetype == PROTOBUF
        return ingest.retries.once(
            signal, idempotency_key(), lambda: wire.records(signal, body, encoding, protobuf)
        ).flask()

    return routes
