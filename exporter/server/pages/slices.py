"""The page of slices: which inputs the corrections, errors, estimated loss or drift of a model come from."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import msgspec
from flask import Response, render_template, request

from exporter.errors import EventError, SlicesError
from exporter.monitoring.drift_report import OUTPUTS
from exporter.server.api.operations import SLICES_PARAMETERS, parse_question
from exporter.server.application import Exporter
from exporter.server.pages.drift import worst_model
from exporter.server.pages.home import ranked
from exporter.server.text import SLICES_DEFAULTS, parameters, parse_moment
from exporter.slices import QUESTIONS
from exporter.slices.explain import document, summary

PERIODS = ("1h", "6h", "1d", "7d")
"""Times before now since when predictions are looked at."""
FRESH_SECONDS = 30
"""How long a browser may show an answer again: a reviewer opens several pages with the same panel."""


def page(exporter: Exporter) -> Response:
    """``GET /slices``: the page of slices."""
    context, status = _context(exporter, parameters(request.args))
    response = Response(render_template("slices.html", **context), status)
    response.cache_control.private = True
    response.cache_control.max_age = FRESH_SECONDS if status == 200 else 0
    return response


def _context(exporter: Exporter, arguments: dict[str, str]) -> tuple[dict[str, Any], int]:
    """Search, and return the values of the page with its status."""
    models, states = exporter.pipeline.monitors.models, ranked(exporter)
    given = SLICES_DEFAULTS | {name: value.strip() for name, value in arguments.items() if value.strip()}
    chosen = {name: value for name, value in given.items() if name in SLICES_PARAMETERS}  # of which links are made
    context: dict[str, Any] = {"states": states, "questions": QUESTIONS, "periods": PERIODS, "chosen": chosen}
    context["versions"] = []
    if waits := bool(states) and "model" not in given:
        given["model"] = worst_model(exporter, states)
    try:
        query = parse_question(exporter, given | {"since": parse_moment("since", given["since"], time.time())})
    except EventError as error:
        return context | {"message": error.detail}, 400
    chosen["model"] = query.model
    context["versions"] = sorted(one.version for one in exporter.pipeline.monitors.of_model(query.model).values())
    if waits and exporter.pipeline.monitors.nearest_binner(query.model):  # a script searches for the model, or a click
        return context, 200
    try:
        explanation, binner = exporter.slices.explain(query)
    except SlicesError as error:
        return context | {"message": str(error)}, 404
    found = document(explanation, binner, models[query.model].segment_by)
    for one in found["slices"]:
        one["cards"] = {"model": query.model, "where": msgspec.json.encode(one["where"]).decode()}
        one["cards"] |= {name: chosen[name] for name in ("version", "since") if name in chosen}
    context |= {"found": found, "summary": summary(explanation, binner), "outputs": OUTPUTS, "time": datetime.now(UTC)}
    return context, 200
