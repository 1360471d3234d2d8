"""The handlers of the JSON API that are not about corrections or datasets, and those of Prometheus and operators.

A handler is a function of the exporter and of the variables in the path, or a method of a class that is made once, of
the exporter; `exporter.server.routes` names it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from flask import request

from exporter.comparison.measures import at_every_look, decide, document_with
from exporter.comparison.measures import document as comparison_document
from exporter.errors import CompareError, ConfigError, EventError, ExporterError, ModelFileError, SlicesError
from exporter.server import application
from exporter.server.api.parameters import (
    check_parameters,
    convert_body,
    malformed,
    parse_ids,
    parse_json,
    parse_model,
    parse_time,
    parse_truth,
    parse_whole_number,
)
from exporter.server.api.schemas import RetrainBody
from exporter.server.application import Exporter
from exporter.server.ingest import NDJSON
from exporter.server.problem import Reply, event_problem, json_reply, problem
from exporter.server.tasks.retraining import request_document
from exporter.slices import DEFAULT_LIMIT, MAX_LIMIT, QUESTIONS
from exporter.slices.explain import DAY, SliceQuery
from exporter.slices.explain import document as slices_document
from exporter.validation import any_of, preview
from exporter.wire.events import check_model

SLICES_PARAMETERS = ("model", "version", "of", "since", "limit")
DEFAULT_REQUESTS, MAX_REQUESTS = 20, 1000
"""Requests for retraining that are listed: unless the client asks for another number, and at most."""


def idempotency_key() -> str | None:
    """Return the request's ``Idempotency-Key``."""
    return request.headers.get("Idempotency-Key")


def predictions(exporter: Exporter) -> Reply:
    """``POST /v1/predictions``: record predictions."""
    ids = parse_ids(request.args.get("ids"))
    return exporter.ingest.predictions(request.get_data(), request.mimetype in NDJSON, idempotency_key(), ids)


def feedback(exporter: Exporter) -> Reply:
    """``POST /v1/feedback``: record users' feedback; it is on disk before the response."""
    return exporter.ingest.feedback(request.get_data(), idempotency_key())


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
    check_parameters(request.args, ("model", "before", "after", "sequential"))
    sequential = parse_truth("sequential", request.args.get("sequential"))
    models = exporter.pipeline.monitors.models
    model = parse_model(models, request.args.get("model"))
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
    """``GET /v1/slices``: search for the slices that hold the most of corrections, errors, estimated loss or drift."""
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
    check_parameters(arguments, SLICES_PARAMETERS)
    model = parse_model(exporter.pipeline.monitors.models, arguments.get("model"))
    text = arguments.get("of", "corrections")
    of = next((name for name in QUESTIONS if name == text), None)
    if of is None:
        raise malformed(f"of: expected {any_of(QUESTIONS)}, got {preview(text)}")
    since = parse_time("since", arguments.get("since"))
    now = time.time()
    if since is None:
        since = now - DAY
    if since >= now:
        raise malformed("since: expected a time in the past")
    limit = parse_whole_number("limit", arguments.get("limit"), MAX_LIMIT) or DEFAULT_LIMIT
    return SliceQuery(model, arguments.get("version") or None, of, since, limit)


def list_retrain_requests(exporter: Exporter) -> Reply:
    """``GET /v1/retrain-requests``: list the requests for retraining, the newest first."""
    check_parameters(request.args, ("model", "limit"))
    model = request.args.get("model")
    if model is not None:
        check_model(exporter.pipeline.monitors.models, model)
    limit = parse_whole_number("limit", request.args.get("limit"), MAX_REQUESTS) or DEFAULT_REQUESTS
    rows = exporter.store.retrain_requests.list(model, limit)
    return json_reply(200, {"requests": [request_document(row) for row in rows]})


def request_retraining(exporter: Exporter) -> Reply:
    """``POST /v1/retrain-requests``: ask for a new version of a model now."""
    model = convert_body(RetrainBody, parse_json(request.get_data())).model
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
