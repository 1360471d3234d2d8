"""``/v1/slices``: the combinations of bins that hold the most of the corrections, errors, estimated loss or drift."""

from __future__ import annotations

import time
from collections.abc import Mapping

from flask import Blueprint, Response, request

from exporter.errors import SlicesError
from exporter.server.api.parameters import (
    check_parameters,
    malformed,
    parse_model,
    parse_time,
    parse_whole_number,
)
from exporter.server.application import Exporter
from exporter.server.http.problem import json_reply, problem
from exporter.slices.explain import DAY, DEFAULT_LIMIT, MAX_LIMIT, QUESTIONS, SliceQuery
from exporter.slices.report import document
from exporter.validation import any_of, preview

PARAMETERS = ("model", "version", "of", "since", "limit")


def blueprint(exporter: Exporter) -> Blueprint:
    """Return the route of slices."""
    routes = Blueprint("slices", __name__)

    @routes.get("/v1/slices")
    def slices() -> Response:
        """``GET /v1/slices``: search for slices."""
        try:
            query = parse_question(exporter, request.args)
            explanation, binner = exporter.slices.explain(query)
        except SlicesError as error:
            return problem(404, str(error)).flask()
        watched = exporter.pipeline.monitors.models[query.model].segment_by
        return json_reply(200, document(explanation, binner, watched)).flask()

    return routes


def parse_question(exporter: Exporter, arguments: Mapping[str, str]) -> SliceQuery:
    """Parse the query string of a question.

    Raises
    ------
    EventError
        When a parameter is not valid.
    """
    check_parameters(arguments, PARAMETERS)
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
