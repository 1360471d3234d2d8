"""The handlers of the JSON API that are not about corrections or datasets, and those of Prometheus and operators.

A handler is a function of the exporter and of the variables in the path, or a method of a class that is made once, of
the exporter; `exporter.server.routes` names it.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterable, Mapping

import msgspec
from flask import request

from exporter.comparison.measures import at_every_look, decide, document_with
from exporter.comparison.measures import document as comparison_document
from exporter.config import ModelConfig
from exporter.errors import CompareError, ConfigError, EventError, ExporterError, ModelFileError, SlicesError
from exporter.profiles.profile import CategoricalFeature
from exporter.server import application
from exporter.server.api import schemas
from exporter.server.application import Exporter
from exporter.server.ingest import NDJSON, REFUSED, is_array
from exporter.server.problem import Reply, event_problem, json_reply, problem
from exporter.server.tasks.retraining import request_document
from exporter.slices import DEFAULT_LIMIT, MAX_LIMIT, QUESTIONS
from exporter.slices.explain import DAY, SliceQuery
from exporter.slices.explain import document as slices_document
from exporter.validation import any_of, preview
from exporter.wire import cloudevents, mapping, otlp
from exporter.wire.cloudevents import BATCH, LoggedMessage
from exporter.wire.events import MAX_REJECTED, NOT_CHECKED, Prediction, RejectedEvent, check_model
from exporter.wire.formats import ENCODINGS, MAX_ROWS, MAX_UNPACKED, attempt, decompress, unpacked
from exporter.wire.otlp import PROTOBUF, Signal

SLICES_PARAMETERS = ("model", "version", "of", "since", "limit")
DEFAULT_REQUESTS, MAX_REQUESTS = 20, 1000
"""Requests for retraining that are listed: unless the client asks for another number, and at most."""


def idempotency_key() -> str | None:
    """Return the request's ``Idempotency-Key``."""
    return request.headers.get("Idempotency-Key")


def predictions(exporter: Exporter) -> Reply:
    """``POST /v1/predictions``: record predictions."""
    ids = schemas.parse_ids(request.args.get("ids"))
    return exporter.ingest.predictions(request.get_data(), request.mimetype in NDJSON, idempotency_key(), ids)


def feedback(exporter: Exporter) -> Reply:
    """``POST /v1/feedback``: record users' feedback; it is on disk before the response."""
    return asyncio.run(exporter.ingest.feedback(request.get_data(), idempotency_key()))


def labels(exporter: Exporter) -> Reply:
    """``POST /v1/labels``: record true labels of predictions; they are on disk before the response."""
    return exporter.ingest.labels(request.get_data(), request.mimetype in NDJSON, idempotency_key())


def business_events(exporter: Exporter) -> Reply:
    """``POST /v1/events``: count business events."""
    return exporter.ingest.events(request.get_data(), idempotency_key())


def notifications(exporter: Exporter) -> Reply:
    """``POST /v1/notifications``: receive Alertmanager's notifications."""
    body = request.get_data()
    return exporter.idempotency.once("notifications", idempotency_key(), lambda: _receive(exporter, body), body)


def _receive(exporter: Exporter, body: bytes) -> Reply:
    try:
        alerts = exporter.inbox.take(body, time.monotonic())
    except EventError as error:
        exporter.client_log.reject(error)
        return event_problem(error)
    for alert in alerts:
        status = "resolved" if alert.status == "resolved" else "firing"
        exporter.telemetry.notifications.labels(status).inc()
    return json_reply(200, {})


def compare(exporter: Exporter) -> Reply:
    """``GET /v1/compare``: compare two versions over the time in which both served."""
    schemas.check_parameters(request.args, ("model", "before", "after", "sequential"))
    sequential = schemas.parse_truth("sequential", request.args.get("sequential"))
    models = exporter.pipeline.monitors.models
    model = schemas.parse_model(models, request.args.get("model"))
    try:
        result = exporter.comparisons.compare(model, request.args.get("before"), request.args.get("after"))
    except CompareError as error:
        return problem(404, str(error))
    except ExporterError as error:
        return problem(502, str(error))
    if not sequential:
        return json_reply(200, comparison_document(result))
    result = at_every_look(result)
    return json_reply(200, document_with(result, decide(result, models[model].release_margins)))


def slices(exporter: Exporter) -> Reply:
    """``GET /v1/slices``: search for the slices that contain the most corrections, errors, estimated loss or drift."""
    try:
        query = parse_question(exporter, request.args)
        explanation, binner = exporter.slices.explain(query)
    except SlicesError as error:
        return problem(404, str(error))
    watched = exporter.pipeline.monitors.models[query.model].segment_by
    return json_reply(200, slices_document(explanation, binner, watched))


def parse_question(exporter: Exporter, arguments: Mapping[str, str]) -> SliceQuery:
    """Parse the query string of a question about slices.

    Raises
    ------
    EventError
        When a parameter is not valid.
    """
    schemas.check_parameters(arguments, SLICES_PARAMETERS)
    model = schemas.parse_model(exporter.pipeline.monitors.models, arguments.get("model"))
    text = arguments.get("of", "corrections")
    of = next((name for name in QUESTIONS if name == text), None)
    if of is None:
        raise schemas.malformed(f"of: expected {any_of(QUESTIONS)}, got {preview(text)}")
    since = schemas.parse_time("since", arguments.get("since"))
    now = time.time()
    if since is None:
        since = now - DAY
    if since >= now:
        raise schemas.malformed("since: expected a time in the past")
    limit = schemas.parse_whole_number("limit", arguments.get("limit"), MAX_LIMIT) or DEFAULT_LIMIT
    return SliceQuery(model, arguments.get("version") or None, of, since, limit)


def list_retrain_requests(exporter: Exporter) -> Reply:
    """``GET /v1/retrain-requests``: list the requests for retraining, the newest first."""
    schemas.check_parameters(request.args, ("model", "limit"))
    model = request.args.get("model")
    if model is not None:
        check_model(exporter.pipeline.monitors.models, model)
    limit = schemas.parse_whole_number("limit", request.args.get("limit"), MAX_REQUESTS) or DEFAULT_REQUESTS
    rows = exporter.store.retrain_requests.list(model, limit)
    return json_reply(200, {"requests": [request_document(row) for row in rows]})


def request_retraining(exporter: Exporter) -> Reply:
    """``POST /v1/retrain-requests``: ask for a new version of a model now."""
    model = schemas.convert_body(schemas.RetrainBody, schemas.parse_json(request.get_data())).model
    check_model(exporter.pipeline.monitors.models, model)
    settings = exporter.config.retrain
    if settings is None:
        return problem(409, "retrain is not configured: exporter.yml must name the trainer's URL")
    if not settings.concerns(model):
        return problem(409, f"retrain.models does not name {preview(model)}")
    row = exporter.retrainer.request(model)
    if row is None:
        current = request_document(exporter.store.retrain_requests.list(model, 1)[0])
        return problem(409, f"the request {current['id']} has not been delivered yet", request=current)
    return json_reply(201, request_document(row))


def metrics(exporter: Exporter) -> Reply:
    """``GET /metrics``: return the metrics."""
    wanted = request.headers.get("Accept", ""), request.headers.get("Accept-Encoding", "")
    return application.metrics(exporter, *wanted, request.args.getlist("name[]"))


def reload(exporter: Exporter) -> Reply:
    """``POST /-/reload`` and ``PUT``: reload the configuration, and answer as Prometheus does."""
    try:
        exporter.reloader.reload()
    except ModelFileError as error:
        return problem(500, f"all other files are in use: {error}")
    except ConfigError as error:
        return problem(500, f"the previous configuration stays in use: {error}")
    return Reply(200, b"", content_type=application.TEXT)


_GRPC_CODES = {400: 3, 413: 3, 415: 3, 503: 14}  # INVALID_ARGUMENT and UNAVAILABLE
_INTERNAL = 13
_FIRST_ERROR = 400
_Item = mapping.Exchange | mapping.ProxyRecord | otlp.PredictionRecord | otlp.Evaluation | EventError
_Items = Iterable[tuple[int, _Item]]


def kserve(exporter: Exporter) -> Reply:
    """``POST /v1/kserve``: record the pairs of requests and responses that KServe's logger sends as CloudEvents."""
    headers, body = {name.lower(): value for name, value in request.headers.items()}, request.get_data()
    pairer, paired = exporter.pairer, list[LoggedMessage]()

    def read() -> _Items:
        for index, message in enumerate(cloudevents.read_events(headers, body)):
            if isinstance(message, EventError):
                yield index, message
            elif counterpart := pairer.pair(message):
                paired.append(counterpart)
                yield index, attempt(cloudevents.to_exchange, message, counterpart)

    def take() -> Reply:
        reply = _take(exporter, "kserve", read, headers.get("content-type", "").startswith(BATCH))
        if reply.status in {413, 503}:  # the sender retries with its message, or a part: it must find its counterpart
            for message in paired:
                pairer.pair(message)
        return reply

    return _once(exporter, "kserve", take)


def exchanges(exporter: Exporter) -> Reply:
    """``POST /v1/exchanges``: record requests and responses that a proxy captured."""
    body, ndjson, ids = request.get_data(), request.mimetype in NDJSON, schemas.parse_ids(request.args.get("ids"))
    many = ndjson or is_array(body)
    call = functools.partial(
        _take, exporter, "exchanges", lambda: enumerate(mapping.read_records(body, ndjson)), many, ids
    )
    return _once(exporter, "exchanges", call)


def logs(exporter: Exporter) -> Reply:
    """``POST /v1/logs``: record predictions in OpenTelemetry's log records."""
    return _once_otlp(exporter, "logs")


def traces(exporter: Exporter) -> Reply:
    """``POST /v1/traces``: record predictions in OpenTelemetry's spans."""
    return _once_otlp(exporter, "traces")


def _once_otlp(exporter: Exporter, signal: Signal) -> Reply:
    body, encoding = request.get_data(), request.headers.get("Content-Encoding", "identity").lower()
    protobuf = request.mimetype == PROTOBUF
    return _once(exporter, signal, lambda: _otlp(exporter, signal, body, encoding, protobuf))


def _once(exporter: Exporter, route: str, call: Callable[[], Reply]) -> Reply:
    content = request.full_path.encode(), request.get_data()  # the path may name the model
    return exporter.idempotency.once(route, idempotency_key(), call, *content)


def _otlp(exporter: Exporter, signal: Signal, body: bytes, encoding: str, protobuf: bool) -> Reply:
    """Take an export request and answer as OTLP specifies, or an array of several and answer as other routes do."""
    content_type, many = PROTOBUF if protobuf else "application/json", not protobuf and is_array(body)
    taken, found = set[int](), otlp.Evaluations()
    try:
        exporter.pipeline.check_capacity()
        body = body if encoding == "identity" else decompress(body, encoding)
        records = otlp.read_all(body, signal) if many else enumerate(otlp.read(body, signal, protobuf))
        fresh = exporter.ingest.spans.new(records, taken) if signal == "traces" else records
        items = otlp.join(fresh, exporter.ingest.calls, found)
        accepted, rejected = _decode(exporter, signal, items, MAX_REJECTED if many else None)
        reply = exporter.ingest.submit(signal, accepted, rejected, _size(body, accepted))
        exporter.ingest.spans.take(taken)
        monitors = exporter.pipeline.monitors
        for model, version, one in found:
            monitors.count_evaluation(monitors.get(model, version, time.monotonic()), one)
    except REFUSED as error:
        reply = exporter.ingest.refusal(error)
        if many:
            return reply
        is_known, accept = encoding in {"identity", *ENCODINGS}, (("Accept-Encoding", ", ".join(ENCODINGS)),)
        code, headers = (reply.status, reply.headers) if is_known else (415, accept)
        message = str(msgspec.json.decode(reply.body)["detail"])
        status = otlp.error_status(protobuf, _GRPC_CODES.get(code, _INTERNAL), message)
        return Reply(code, status, headers, content_type=content_type)
    if many:
        return reply
    first = f"{rejected[0].pointer}: {rejected[0].detail}" if rejected else ""
    response = otlp.export_response(signal, protobuf, len(rejected), first)
    return Reply(200, response, content_type=content_type)


def _take(exporter: Exporter, source: str, read: Callable[[], _Items], many: bool, ids: bool = False) -> Reply:
    body = request.get_data()
    try:
        exporter.pipeline.check_capacity()
        accepted, rejected = _decode(exporter, source, read(), MAX_REJECTED)
        return exporter.ingest.submit(source, accepted, rejected, _size(body, accepted), many=many, ids=ids)
    except REFUSED as error:
        return exporter.ingest.refusal(error)


def _decode(exporter: Exporter, source: str, items: _Items, max_rejected: int | None = None) -> mapping.Validated:
    """Return the predictions of a body's items, until ``max_rejected`` are rejected.

    Raises
    ------
    EventError
        When there are more than `MAX_ROWS` predictions, or compressed bodies are too large together.
    """
    unpacked.set(0)
    accepted: list[Prediction] = []
    rejected: list[RejectedEvent] = []
    names = mapping.ModelNames(exporter.pipeline.monitors.models)
    models: dict[tuple[str, str | None], mapping.ConfiguredModel] = {}
    for index, item in items:
        if max_rejected is not None and len(rejected) >= max_rejected and index > rejected[-1].index:
            detail = f"{NOT_CHECKED}{max_rejected} items before it are rejected"
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
        if unpacked.get() > MAX_UNPACKED:
            detail = f"the compressed bodies have more than {MAX_UNPACKED} bytes together: send several requests"
            raise EventError("", detail, "too_large")
        accepted += good
        rejected += [msgspec.structs.replace(row, index=index) for row in bad]
        if len(accepted) > MAX_ROWS:
            detail = f"expected at most {MAX_ROWS} predictions: send them in several requests"
            raise EventError("", detail, "too_large")
    _name_versions(exporter, source, accepted)
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


def _configured(exporter: Exporter, config: ModelConfig, version: str | None) -> mapping.ConfiguredModel:
    """Return a model with what its profile says of it."""
    binner = exporter.pipeline.monitors.nearest_binner(config.name, version)
    if binner is None:
        return mapping.ConfiguredModel(config)
    profile = binner.profile
    target, order = profile.prediction, profile.input_names or None
    if isinstance(target, CategoricalFeature):
        classes = mapping.sorted_classes({*target.categories, *target.rare})
        return mapping.ConfiguredModel(config, profile.inputs, order, "classification", classes)
    return mapping.ConfiguredModel(config, profile.inputs, order, "regression" if target else None)
