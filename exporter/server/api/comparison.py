"""``/v1/compare``: two versions side by side."""

from __future__ import annotations

from flask import Blueprint, Response, request

from exporter.comparison.decision import decide, document_with
from exporter.comparison.measures import at_every_look
from exporter.comparison.report import document
from exporter.errors import CompareError, ExporterError
from exporter.server.api.parameters import check_parameters, parse_model, parse_truth
from exporter.server.application import Exporter
from exporter.server.http.problem import json_reply, problem


def blueprint(exporter: Exporter) -> Blueprint:
    """Return the route of comparisons."""
    routes = Blueprint("comparison", __name__)

    @routes.get("/v1/compare")
    def compare() -> Response:
        """``GET /v1/compare``: two versions over the time in which both served."""
        check_parameters(request.args, ("model", "before", "after", "sequential"))
        sequential = parse_truth("sequential", request.args.get("sequential"))
        models = exporter.pipeline.monitors.models
        model = parse_model(models, request.args.get("model"))
        try:
            result = exporter.comparisons.compare(model, request.args.get("before"), request.args.get("after"))
        except CompareError as error:
            return problem(404, str(error)).flask()
        except ExporterError as error:
            return problem(502, str(error)).flask()
        if sequential:
            result = at_every_look(result)
            return json_reply(200, document_with(result, decide(result, models[model].release_margins))).flask()
        return json_reply(200, document(result)).flask()

    return routes
