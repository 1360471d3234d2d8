"""Routes that accept other servers' payload logs as they send them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext

import msgspec
from flask import request

from exporter.config import ModelConfig
from exporter.errors import EventError
from exporter.profiles.profile import CategoricalFeature
from exporter.server.api.operations import idempotency_key
from exporter.server.api.parameters import parse_ids
from exporter.server.application import Exporter
from exporter.server.ingest import NDJSON, REFUSED, is_array
from exporter.server.problem import Reply
from exporter.wire import cloudevents, otlp
from exporter.wire.cloudevents import BATCH, LoggedMessage
from exporter.wire.events import MAX_REJECTED, Prediction, RejectedEvent
from exporter.wire.formats import MAX_ROWS, attempt, decompress
from exporter.wire.mapping import (
    ConfiguredModel,
    ModelNames,
    Received,
    Validated,
    read_pairs,
    read_records,
    sorted_classes,
)
from exporter.wire.otlp import PROTOBUF, Signal

_LARGE = 2**20
_GRPC_CODES = {400: 3, 413: 3, 415: 3, 503: 14}  # INVALID_ARGUMENT and UNAVAILABLE
_INTERNAL = 13
_FIRST_ERROR = 400
_Items = Iterable[Received | EventError]


def kserve(exporter: Exporter) -> Reply:
    """``POST /v1/kserve``: record the pairs of requests and responses that KServe's logger sends as CloudEvents."""
    headers, body = {name.lower(): value for name, value in request.headers.items()}, request.get_data()
    pairer, paired = exporter.pairer, list[LoggedMessage]()

    def read() -> Iterator[Received | EventError]:
        for message in cloudevents.read_events(headers, body):
            if isinstance(message, EventError):
                yield message
            elif counterpart := pairer.pair(message):
                paired.append(counterpart)
                yield attempt(cloudevents.to_exchange, message, counterpart)

    def take() -> Reply:
        reply = _take(exporter, "kserve", read, headers.get("content-type", "").startswith(BATCH))
        if reply.status == 503:  # the sender retries with its message, which must find its counterpart then
            for message in paired:
                pairer.pair(message)
        return reply

    return _once(exporter, "kserve", take)


def infer(exporter: Exporter, model: str, version: str | None = None) -> Reply:
    """``POST /v2/models/<model>/infer``: record requests with their responses."""
    body, ndjson, ids = request.get_data(), request.mimetype in NDJSON, parse_ids(request.args.get("ids"))

    def read() -> _Items:
        ModelNames(exporter.pipeline.monitors.models).resolve([model])
        return read_pairs(body, ndjson, model, version)

    return _once(exporter, "infer", lambda: _take(exporter, "infer", read, ndjson or is_array(body), ids))


def exchanges(exporter: Exporter) -> Reply:
    """``POST /v1/exchanges``: record requests and responses that a proxy captured."""
    body, ndjson, ids = request.get_data(), request.mimetype in NDJSON, parse_ids(request.args.get("ids"))
    many = ndjson or is_array(body)
    call = functools.partial(_take, exporter, "exchanges", lambda: read_records(body, ndjson), many, ids)
    return _once(exporter, "exchanges", call)


def logs(exporter: Exporter) -> Reply:
    """``POST /v1/logs``: record predictions in OpenTelemetry's log records."""
    return _once_otlp(exporter, "logs")


def traces(exporter: Exporter) -> Reply:
    """``POST /v1/traces``: record predictions in OpenTelemetry's spans."""
    return _once_otlp(exporter, "traces")


def _once_otlp(exporter: Exporter, signal: Signal) -> Reply:
    body, encoding = request.get_data(), request.headers.get("Content-Encoding", "identity")
    protobuf = request.mimetype == PROTOBUF
    return _once(exporter, signal, lambda: _otlp(exporter, signal, body, encoding, protobuf))


def _once(exporter: Exporter, route: str, call: Callable[[], Reply]) -> Reply:
    content = request.full_path.encode(), request.get_data()  # the path may name the model
    return exporter.idempotency.once(route, idempotency_key(), call, *content)


def _otlp(exporter: Exporter, signal: Signal, body: bytes, encoding: str, protobuf: bool) -> Reply:
    """Take an export request, and answer as OTLP specifies."""
    content_type = PROTOBUF if protobuf else "application/json"
    try:
        exporter.pipeline.check_capacity()
        if encoding.lower() == "gzip":
            body = decompress(body)
        accepted, rejected = _decode(exporter, signal, len(body), lambda: otlp.read(body, signal, protobuf))
        exporter.ingest.submit(signal, accepted, rejected, _size(body, accepted))
    except REFUSED as error:
        problem = exporter.ingest.refusal(error)
        message = str(msgspec.json.decode(problem.body)["detail"])
        status = otlp.error_status(protobuf, _GRPC_CODES.get(problem.status, _INTERNAL), message)
        return Reply(problem.status, status, problem.headers, content_type=content_type)
    first = f"{rejected[0].pointer}: {rejected[0].detail}" if rejected else ""
    response = otlp.export_response(signal, protobuf, len(rejected), first)
    return Reply(200, response, content_type=content_type)


def _take(exporter: Exporter, source: str, read: Callable[[], _Items], many: bool, ids: bool = False) -> Reply:
    body = request.get_data()
    try:
        exporter.pipeline.check_capacity()
        accepted, rejected = _decode(exporter, source, len(body), read, MAX_REJECTED)
        return exporter.ingest.submit(source, accepted, rejected, _size(body, accepted), many=many, ids=ids)
    except REFUSED as error:
        return exporter.ingest.refusal(error)


def _decode(
    exporter: Exporter, source: str, size: int, read: Callable[[], _Items], max_rejected: int | None = None
) -> Validated:
    """Return the predictions in a body; of large ones, one at a time: decoded, they take many times their size."""
    with exporter.ingest.large_body if size > _LARGE else nullcontext():
        accepted, rejected = _predictions(exporter, read(), max_rejected)
    _name_versions(exporter, source, accepted)
    return accepted, rejected


def _predictions(exporter: Exporter, items: _Items, max_rejected: int | None) -> Validated:
    """Return the predictions of a body's items, until ``max_rejected`` are rejected.

    Raises
    ------
    EventError
        When there are more than `MAX_ROWS` predictions.
    """
    accepted: list[Prediction] = []
    rejected: list[RejectedEvent] = []
    names, models = ModelNames(exporter.pipeline.monitors.models), dict[tuple[str, str | None], ConfiguredModel]()
    for index, item in enumerate(items):
        if max_rejected is not None and len(rejected) >= max_rejected:
            detail = f"not checked: {max_rejected} items before it are rejected"
            rejected.append(RejectedEvent(index, "", detail, "malformed"))
            break
        try:
            if isinstance(item, EventError):
                raise item
            config, version = names.resolve(item.names), item.model_version
            if (model := models.get((config.name, version))) is None:
                model = models[config.name, version] = _configured(exporter, config, version)
            good, bad = item.predictions(model)
        except EventError as error:
            good, bad = [], [RejectedEvent.of(error)]
        accepted += good
        rejected += [msgspec.structs.replace(row, index=index) for row in bad]
        if len(accepted) > MAX_ROWS:
            detail = f"expected at most {MAX_ROWS} predictions: send them in several requests"
            raise EventError("", detail, "too_large")
    return accepted, rejected


def _name_versions(exporter: Exporter, source: str, predictions: Iterable[Prediction]) -> None:
    """Give an error, whose response names no version, the one that served the model last on this route."""
    for event in predictions:
        if (event.code or 200) < _FIRST_ERROR:
            if event.version:
                exporter.ingest.served_last[source, event.model] = event.version
        elif not event.version:
            event.version = exporter.ingest.served_last.get((source, event.model))


def _size(body: bytes, events: Iterable[Prediction]) -> int:
    """Return the bytes that predictions take while they wait."""
    return max(len(body), sum(len(memoryview(event.inputs)) for event in events))


def _configured(exporter: Exporter, config: ModelConfig, version: str | None) -> ConfiguredModel:
    """Return a model with what its profile says of it."""
    binner = exporter.pipeline.monitors.nearest_binner(config.name, version)
    if binner is None:
        return ConfiguredModel(config)
    profile = binner.profile
    target, order = profile.prediction, profile.input_names or None
    if isinstance(target, CategoricalFeature):
        classes = sorted_classes({*target.categories, *target.rare})
        return ConfiguredModel(config, profile.inputs, order, "classification", classes)
    return ConfiguredModel(config, profile.inputs, order, "regression" if target else None)
