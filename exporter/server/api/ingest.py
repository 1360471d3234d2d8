"""The routes under ``/v1`` to which services and clients send events."""

from __future__ import annotations

import time

from flask import Blueprint, Response, request

from exporter.errors import EventError
from exporter.server.api.parameters import parse_ids
from exporter.server.application import Exporter
from exporter.server.http.problem import Reply, event_problem, json_reply
from exporter.server.ingest import NDJSON, Ingest
from exporter.server.labels import Labels


def blueprint(exporter: Exporter, ingest: Ingest) -> Blueprint:
    """Return the routes for predictions, feedback, labels, business events and notifications."""
    routes = Blueprint("api", __name__, url_prefix="/v1")
    labels = Labels(exporter, ingest.idempotency)

    @routes.post("/predictions")
    def predictions() -> Response:
        lines = request.mimetype in NDJSON
        ids = parse_ids(request.args.get("ids"))
        return ingest.predictions(request.get_data(), lines, idempotency_key(), ids).flask()

    @routes.post("/feedback")
    def feedback() -> Response:
        return ingest.feedback(request.get_data(), idempotency_key()).flask()

    @routes.post("/labels")
    def label() -> Response:
        return labels.record(request.get_data(), request.mimetype in NDJSON, idempotency_key()).flask()

    @routes.post("/events")
    def events() -> Response:
        return ingest.events(request.get_data(), idempotency_key()).flask()

    @routes.post("/notifications")
    def notifications() -> Response:
        body = request.get_data()
        key = idempotency_key()
        return ingest.idempotency.once("notifications", key, lambda: receive_notification(body), body).flask()

    def receive_notification(body: bytes) -> Reply:
        try:
            alerts = exporter.inbox.take(body, time.monotonic())
        except EventError as error:
            exporter.client_log.reject(error)
            return event_problem(error)
        for alert in alerts:
            exporter.telemetry.notifications.labels("resolved" if alert.status == "resolved" else "firing").inc()
        return json_reply(200, {})

    return routes


def idempotency_key() -> str | None:
    """Return the request's ``Idempotency-Key``."""
    return request.headers.get("Idempotency-Key")
