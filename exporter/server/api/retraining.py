"""``/v1/retrain-requests``: list the requests for retraining, and make one by hand."""

from __future__ import annotations

from flask import Blueprint, Response, request

from exporter.server.api.parameters import check_parameters, convert_body, parse_json, parse_whole_number
from exporter.server.api.request_bodies import RetrainBody
from exporter.server.application import Exporter
from exporter.server.http.problem import json_reply, problem
from exporter.server.tasks.retraining import request_document
from exporter.storage._retraining import list_requests
from exporter.validation import preview
from exporter.wire.events import check_model

DEFAULT_LIMIT, MAX_LIMIT = 20, 1000
"""Requests that are listed: unless the client asks for another number, and at most."""


def blueprint(exporter: Exporter) -> Blueprint:
    """Return the routes of requests for retraining."""
    routes = Blueprint("retraining", __name__)

    @routes.get("/v1/retrain-requests")
    def list_newest() -> Response:
        """``GET /v1/retrain-requests``: the newest first."""
        check_parameters(request.args, ("model", "limit"))
        model = request.args.get("model")
        if model is not None:
            check_model(exporter.pipeline.monitors.models, model)
        limit = parse_whole_number("limit", request.args.get("limit"), MAX_LIMIT) or DEFAULT_LIMIT
        with exporter.store.reading() as connection:
            rows = list_requests(connection, model, limit)
        return json_reply(200, {"requests": [request_document(row) for row in rows]}).flask()

    @routes.post("/v1/retrain-requests")
    def ask() -> Response:
        """``POST /v1/retrain-requests``: ask for a new version of a model now."""
        model = convert_body(RetrainBody, parse_json(request.get_data())).model
        check_model(exporter.pipeline.monitors.models, model)
        settings = exporter.config.retrain
        if settings is None:
            return problem(409, "retrain is not configured: exporter.yml must name the trainer's URL").flask()
        if not settings.concerns(model):
            return problem(409, f"retrain.models does not name {preview(model)}").flask()
        row = exporter.retrainer.request(model)
        if row is None:
            with exporter.store.reading() as connection:
                current = request_document(list_requests(connection, model, 1)[0])
            return problem(409, f"the request {current['id']} has not been delivered yet", request=current).flask()
        return json_reply(201, request_document(row)).flask()

    return routes
