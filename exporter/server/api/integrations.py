"""Routes that accept other servers' payload logs as they send them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import msgspec
from flask import Blueprint, Response, request

from exporter.errors import EventError
from exporter.server.api.ingest import idempotency_key
from exporter.server.api.parameters import parse_ids
from exporter.server.application import Exporter
from exporter.server.http.problem import Reply, event_problem
from exporter.server.http.request import MAX_BODY
from exporter.server.ingest import NDJSON, Ingest
from exporter.wire import seldon
from exporter.wire.cloudevents import BATCH, LoggedMessage, read_events
from exporter.wire.events import MAX_REJECTED, Prediction, RejectedEvent
from exporter.wire.formats import decode_request, decode_response
from exporter.wire.mapping import ModelNames, PayloadPair, to_predictions
from exporter.wire.otlp import PROTOBUF, PredictionRecord, Signal, error_status, export_response, read_records
from exporter.wire.outputs import ConfiguredModel
from exporter.wire.pairs import read_pair, split_pairs
from exporter.wire.payload import MAX_ROWS, decode_json, decompress, decompress_if_gzip
from exporter.wire.proxy_records import read_record
from exporter.wire.seldon_feedback import feedback_documents

_LARGE = 2**20
_GRPC_CODES = {400: 3, 413: 3, 415: 3, 503: 14}  # INVALID_ARGUMENT and UNAVAILABLE
_INTERNAL = 13
_Validated = tuple[list[Prediction], list[RejectedEvent]]
_Item = EventError | Callable[[], _Validated]
"""An error, or a function that decodes one item of a body."""


class PayloadIngest:
    """Decodes the payload logs of other servers and hands their predictions to the pipeline.

    Parameters
    ----------
    exporter
        Its configured models and profiles.
    ingest
        Queues the predictions.
    """

    def __init__(self, exporter: Exporter, ingest: Ingest) -> None:
        self._exporter = exporter
        self._ingest = ingest
        self._large_body = threading.Lock()

    def kserve(self, headers: dict[str, str], body: bytes) -> Reply:
        """``POST /v1/kserve``: pair logged requests and responses, and take those that are complete."""
        pairer, paired = self._exporter.pairer, list[LoggedMessage]()

        def decode() -> Iterator[_Item]:
            for message in read_events(headers, body):
                if isinstance(message, EventError):
                    yield message
                elif counterpart := pairer.pair(message):
                    paired.append(counterpart)
                    yield partial(self._logged, message, counterpart)

        reply = self._take("kserve", body, decode, many=headers.get("content-type", "").startswith(BATCH))
        if reply.status == 503:  # the sender retries with its message, which must find its counterpart then
            for message in paired:
                pairer.pair(message)
        return reply

    def infer(self, model: str, version: str | None, body: bytes, ndjson: bool, ids: bool) -> Reply:
        """``POST /v2/models/<model>/infer``: take requests with their responses."""

        def decode() -> Iterator[_Item]:
            self._model(model)
            for item in split_pairs(body, ndjson):
                yield item if isinstance(item, EventError) else partial(self._pair, model, item, version)

        return self._take("infer", body, decode, ndjson or body.lstrip()[:1] == b"[", ids)

    def exchanges(self, body: bytes, ndjson: bool, ids: bool) -> Reply:
        """``POST /v1/exchanges``: take the records of a proxy."""

        def decode() -> Iterator[_Item]:
            for item in split_pairs(body, ndjson):
                yield item if isinstance(item, EventError) else partial(self._proxy_record, item)

        return self._take("exchanges", body, decode, ndjson or body.lstrip()[:1] == b"[", ids)

    def seldon_feedback(self, body: bytes, name: str | None, key: str | None) -> Reply:
        """``POST /v1/seldon/feedback``: take a feedback message."""
        try:
            message, _ = decode_json(body)
            model = self._model(name) if name else self._only_model()
            documents = feedback_documents(seldon.decode_feedback(message), model)
            return self._ingest.feedback(msgspec.json.encode(documents if len(documents) > 1 else documents[0]), key)
        except EventError as error:
            return self._refuse(error)

    def otlp(self, signal: Signal, body: bytes, encoding: str, protobuf: bool) -> Reply:
        """``POST /v1/logs`` and ``/v1/traces``: take an export request, and answer as OTLP specifies."""
        content_type = PROTOBUF if protobuf else "application/json"
        problem, rejected = self._export(signal, body, encoding, protobuf)
        if problem:
            message = str(msgspec.json.decode(problem.body)["detail"])
            status = error_status(protobuf, _GRPC_CODES.get(problem.status, _INTERNAL), message)
            return Reply(problem.status, status, problem.headers, content_type=content_type)
        first = f"{rejected[0].pointer}: {rejected[0].detail}" if rejected else ""
        return Reply(200, export_response(signal, protobuf, len(rejected), first), content_type=content_type)

    def _export(
        self, signal: Signal, body: bytes, encoding: str, protobuf: bool
    ) -> tuple[Reply | None, list[RejectedEvent]]:
        """Take an export request: the problem that refuses it, or the rejected records."""
        if full := self._ingest.check_capacity():
            return full, []
        try:
            if encoding.lower() == "gzip":
                body = decompress(body, MAX_BODY)
            with self._limit_memory(body):
                names = ModelNames(self._exporter.pipeline.monitors.models)
                items = (
                    record if isinstance(record, EventError) else partial(_otlp_record, names, record)
                    for record in read_records(body, signal, protobuf)
                )
                accepted, rejected = _decode_all(items)
        except EventError as error:
            return self._refuse(error), []
        self._exporter.client_log.reject_events(rejected)
        size = max(len(body), sum(len(memoryview(event.inputs)) for event in accepted))
        return self._ingest.enqueue(signal, accepted, size) if accepted else None, rejected

    def _take(
        self, source: str, body: bytes, decode: Callable[[], Iterable[_Item]], many: bool, ids: bool = False
    ) -> Reply:
        if full := self._ingest.check_capacity():
            return full
        try:
            with self._limit_memory(body):
                accepted, rejected = _decode_all(decode(), MAX_REJECTED)
        except EventError as error:
            return self._refuse(error)
        return self._ingest.submit(source, accepted, rejected, len(body), many=many, ids=ids)

    def _limit_memory(self, body: bytes) -> AbstractContextManager[Any]:
        """Decode large bodies one at a time: decoded, they take many times their size."""
        return self._large_body if len(body) > _LARGE else nullcontext()

    def _logged(self, message: LoggedMessage, counterpart: LoggedMessage) -> _Validated:
        request, response = (message, counterpart) if message.side == "request" else (counterpart, message)
        seconds = (response.time - request.time).total_seconds() if request.time and response.time else -1.0
        inputs = decode_request(decompress_if_gzip(request.body, MAX_BODY), request.json_length)
        outputs = decode_response(decompress_if_gzip(response.body, MAX_BODY), response.json_length)
        model = self._model(outputs.model, *request.names, version=outputs.version)
        puid = outputs.id if outputs.columns and outputs.columns[0].name in seldon.MEMBERS else None
        duration = seconds if seconds >= 0 else None
        pair = PayloadPair(inputs, outputs, puid or request.id, time=request.time, duration_seconds=duration)
        return to_predictions(model, pair)

    def _pair(self, name: str, document: Any, version: str | None) -> _Validated:
        pair = read_pair(document, version)
        return to_predictions(self._model(name, version=pair.version or pair.response.version), pair)

    def _proxy_record(self, document: Any) -> _Validated:
        """Take a proxy's record; the request is counted even if its bodies cannot be read."""
        record = read_record(document)
        model = self._model(record.model, version=record.version)
        try:
            accepted, rejected = to_predictions(model, record.decode(MAX_BODY))
        except EventError as error:
            accepted, rejected = [], [_rejected(error)]
        if not accepted:
            accepted, more = to_predictions(model, record.without_bodies())
            rejected += more
        return accepted, rejected

    def _model(self, *names: str | None, version: str | None = None) -> ConfiguredModel:
        monitors = self._exporter.pipeline.monitors
        config = ModelNames(monitors.models).resolve(names)
        binner = monitors.nearest_binner(config.name, version)
        return ConfiguredModel(config, binner.profile if binner else None)

    def _only_model(self) -> ConfiguredModel | None:
        """Return the model if only one is configured."""
        models = self._exporter.pipeline.monitors.models
        return self._model(*models) if len(models) == 1 else None

    def _refuse(self, error: EventError) -> Reply:
        self._exporter.client_log.reject(error)
        return event_problem(error, 413 if error.reason == "too_large" else 400)


def _otlp_record(names: ModelNames, record: PredictionRecord) -> _Validated:
    return record.validate(names.resolve(record.names).name)


def _decode_all(items: Iterable[_Item], max_rejected: int | None = None) -> _Validated:
    """Decode the items of a body, until ``max_rejected`` are rejected.

    Raises
    ------
    EventError
        When there are more than `MAX_ROWS` predictions.
    """
    accepted: list[Prediction] = []
    rejected: list[RejectedEvent] = []
    for index, item in enumerate(items):
        if max_rejected is not None and len(rejected) >= max_rejected:
            detail = f"not checked: {max_rejected} items before it are rejected"
            rejected.append(RejectedEvent(index, "", detail, "malformed"))
            break
        good, bad = _decode(item, index)
        accepted += good
        rejected += bad
        if len(accepted) > MAX_ROWS:
            detail = f"expected at most {MAX_ROWS} predictions: send them in several requests"
            raise EventError("", detail, "too_large")
    return accepted, rejected


def _decode(item: _Item, index: int) -> _Validated:
    try:
        if isinstance(item, EventError):
            raise item
        accepted, rejected = item()
    except EventError as error:
        return [], [_rejected(error, index)]
    return accepted, [msgspec.structs.replace(row, index=index) for row in rejected]


def _rejected(error: EventError, index: int = 0) -> RejectedEvent:
    return RejectedEvent(index, error.pointer, error.detail, error.reason)


def blueprint(exporter: Exporter, ingest: Ingest) -> Blueprint:
    """Return the routes of other servers' formats."""
    routes = Blueprint("integrations", __name__)
    payloads = PayloadIngest(exporter, ingest)

    def once(route: str, call: Callable[[], Reply]) -> Response:
        content = request.full_path.encode(), request.get_data()  # the path may name the model
        return ingest.idempotency.once(route, idempotency_key(), call, *content).flask()

    @routes.post("/v1/kserve")
    def kserve() -> Response:
        headers, body = {name.lower(): value for name, value in request.headers.items()}, request.get_data()
        return once("kserve", lambda: payloads.kserve(headers, body))

    @routes.post("/v2/models/<model>/infer")
    @routes.post("/v2/models/<model>/versions/<version>/infer")
    def infer(model: str, version: str | None = None) -> Response:
        body, ndjson, ids = request.get_data(), request.mimetype in NDJSON, parse_ids(request.args.get("ids"))
        return once("infer", lambda: payloads.infer(model, version, body, ndjson, ids))

    @routes.post("/v1/exchanges")
    def exchanges() -> Response:
        body, ndjson, ids = request.get_data(), request.mimetype in NDJSON, parse_ids(request.args.get("ids"))
        return once("exchanges", lambda: payloads.exchanges(body, ndjson, ids))

    @routes.post("/v1/seldon/feedback")
    def seldon_feedback() -> Response:
        return payloads.seldon_feedback(request.get_data(), request.args.get("model"), idempotency_key()).flask()

    @routes.post("/v1/logs")
    def logs() -> Response:
        return otlp("logs")

    @routes.post("/v1/traces")
    def traces() -> Response:
        return otlp("traces")

    def otlp(signal: Signal) -> Response:
        body, encoding = request.get_data(), request.headers.get("Content-Encoding", "identity")
        protobuf = request.mimetype == PROTOBUF
        return once(signal, lambda: payloads.otlp(signal, body, encoding, protobuf))

    return routes
