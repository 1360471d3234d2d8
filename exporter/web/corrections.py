"""``/v1/corrections``: the review queue."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal
from urllib.parse import urlencode

import msgspec
from flask import Blueprint, Response, request

from exporter.errors import EventError, StoreError
from exporter.events import Label
from exporter.runtime import Exporter
from exporter.store.review import STATUSES, Decision, Filter, corrections, decide
from exporter.store.schema import spelling
from exporter.validation import explain, listed, pointer, shown, suggestion
from exporter.web.problems import Reply, problem, whole

LIMIT, MOST = 100, 1000
"""Corrections on a page when the client does not say, and at the most."""


class Verdict(msgspec.Struct, forbid_unknown_fields=True):
    """What a reviewer sends; a label that is absent, or null, stays what it was.

    ``reviewer`` names an annotator of Label Studio, which no user of the web configuration can be called.
    """

    status: Literal["accepted", "pending", "rejected"]
    revision: int
    label: Label = None
    reviewer: Annotated[str, msgspec.Meta(pattern="^label-studio:", max_length=200)] | None = None


def blueprint(exporter: Exporter) -> Blueprint:
    """The routes of the review queue."""
    routes = Blueprint("corrections", __name__, url_prefix="/v1/corrections")

    @routes.errorhandler(StoreError)
    def failed(error: StoreError) -> Response:
        return problem(503, str(error), headers=(("Retry-After", "5"),)).flask()

    @routes.errorhandler(EventError)
    def wrong(error: EventError) -> Response:
        return whole(error).flask()

    @routes.get("")
    def queue() -> Response:
        chosen, limit, after = _asked(exporter)
        with exporter.store.reading() as connection:
            page, end = corrections(connection, chosen, limit, after)
        following = None
        if end:
            cursor = base64.urlsafe_b64encode(f"{end[0]!r},{end[1]}".encode()).decode()
            query = urlencode({**request.args.to_dict(), "cursor": cursor})
            following = f"{request.base_url}?{query}"
        return Reply(200, msgspec.json.encode({"corrections": page, "next": following})).flask()

    @routes.patch("/<int:place>")
    def review(place: int) -> Response:
        decision = _decision(request.get_data(), request.authorization.username if request.authorization else None)
        taken, known = exporter.store.write(lambda connection, _: decide(connection, place, decision))
        if known is None:
            return problem(404, f"there is no correction {place}").flask()
        if not taken:
            detail = (
                f"another reviewer was first: it is {known['status']} since revision {known['revision']}; "
                "look at it, and decide again on that revision"
            )
            return problem(409, detail, correction=known).flask()
        return Reply(200, msgspec.json.encode(known)).flask()

    return routes


def _decision(body: bytes, reviewer: str | None) -> Decision:
    try:
        document = msgspec.json.decode(body)
        verdict = msgspec.convert(document, Verdict)
    except msgspec.ValidationError as error:
        path, detail, reason = explain(error, document, (*STATUSES, "label", "reviewer", "revision", "status"))
        raise EventError(pointer(path), detail, reason) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise EventError("", "the body is not JSON", "malformed") from None
    return Decision(verdict.status, spelling(verdict.label), verdict.revision, verdict.reviewer or reviewer)


def _asked(exporter: Exporter) -> tuple[Filter, int, tuple[float, int] | None]:
    known = ("model", "version", "status", "limit", "cursor")
    for name in request.args:
        if name not in known:
            raise EventError("", f"the parameter {shown(name)} is not known; {suggestion(name, known)}", "malformed")
    model, status, limit = request.args.get("model"), request.args.get("status"), request.args.get("limit", str(LIMIT))
    if model is not None and model not in exporter.pipeline.monitors.models:
        hint = suggestion(model, exporter.pipeline.monitors.models)
        raise EventError("", f"no model {shown(model)} is configured; {hint}", "unknown_model")
    if status is not None and status not in STATUSES:
        raise EventError("", f"status: expected {listed(STATUSES)}, got {shown(status)}", "malformed")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= MOST):
        raise EventError("", f"limit: expected a whole number from 1 to {MOST}, got {shown(limit)}", "malformed")
    return Filter(model, request.args.get("version"), status), int(limit), _cursor(request.args.get("cursor"))


def _cursor(text: str | None) -> tuple[float, int] | None:
    if text is None:
        return None
    try:
        created, _, place = base64.urlsafe_b64decode(text).decode().partition(",")
        return float(created), int(place)
    except (binascii.Error, ValueError):
        raise EventError("", "cursor: expected what the page before calls next", "malformed") from None
