"""``/v1/corrections``: the review queue."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
from flask import g, request

from exporter.errors import EventError
from exporter.features.base import label_json
from exporter.monitoring.binner import Binner
from exporter.profiles.profile import MAX_RARE, CategoricalFeature
from exporter.server.api import schemas
from exporter.server.api.operations import idempotency_key
from exporter.server.application import Exporter
from exporter.server.problem import Reply, json_reply, problem
from exporter.slices.explain import describe
from exporter.slices.population import find_corrections, parse_bins
from exporter.storage import (
    ORDERS,
    PARAMETERS,
    SOURCES,
    STATUSES,
    Decision,
    Filter,
    Outcome,
    Position,
)
from exporter.validation import any_of, preview, suggestion
from exporter.wire.events import check_model


def list_corrections(exporter: Exporter) -> Reply:
    """``GET /v1/corrections``: list corrections in the review queue."""
    query = parse_query(exporter, request.args)
    page, end = exporter.store.review.page(query.filter, query.limit, query.after, query.order)
    cursor = urlencode({**request.args.to_dict(), "cursor": encode_cursor(query.order, end)}) if end else None
    answer = {
        "corrections": [with_new_label(exporter, document) for document in page],
        "next": cursor and f"{request.base_url}?{cursor}",
    }
    return json_reply(200, answer | ({"truncated": query.slice.truncated} if query.slice else {}))


def prediction(exporter: Exporter, prediction_id: str) -> Reply:
    """``GET /v1/predictions/<id>``: a prediction with its inputs, its label and the feedback on it, also as a page."""
    schemas.check_parameters(request.args, ("model",))
    if (model := request.args.get("model")) is not None:
        check_model(exporter.pipeline.monitors.models, model)
    document = exporter.store.review.prediction(prediction_id, model, exporter.redacted)
    if document is None:
        detail = f"no prediction {preview(prediction_id)} is stored; after store.retention, predictions are deleted"
        return problem(404, detail)
    return json_reply(200, document, title=f"Prediction {prediction_id}")


def show(exporter: Exporter, correction_id: int) -> Reply:
    """``GET /v1/corrections/<id>``: return a correction with its history."""
    review = exporter.store.review
    document = review.find(correction_id, exporter.redacted) if correction_id <= schemas.MAX_ID else None
    if document is None:
        return problem(404, f"there is no correction {correction_id}")
    return json_reply(200, {**with_new_label(exporter, document), "history": review.history(correction_id)})


def decide(exporter: Exporter, correction_id: int) -> Reply:
    """``PATCH /v1/corrections/<id>``: decide a correction."""
    decision = _decision(schemas.convert_body(schemas.ReviewDecision, schemas.parse_json(request.get_data())))
    outcomes = (
        _decide(exporter, [(correction_id, decision)]) if correction_id <= schemas.MAX_ID else [Outcome(False, None)]
    )
    result = _result(exporter, correction_id, decision, outcomes[0])
    if result["status"] == 200:
        return json_reply(200, result["correction"])
    further = {"correction": result["correction"]} if "correction" in result else {}
    return problem(result["status"], result["detail"], **further)


def decide_several(exporter: Exporter) -> Reply:
    """``PATCH /v1/corrections``: decide several corrections."""
    batch, errors = _batch(schemas.parse_json(request.get_data()))
    if errors:
        first = f"{errors[0]['pointer']}: {errors[0]['detail']}"
        detail = f"no decision was stored, {len(errors)} of them are not valid: {first}"
        return problem(400, detail, errors)
    outcomes = _decide(exporter, batch)
    results = [_result(exporter, *one, outcome) for one, outcome in zip(batch, outcomes, strict=True)]
    return json_reply(200, {"results": results})


def _decide(exporter: Exporter, batch: Sequence[tuple[int, Decision]]) -> list[Outcome]:
    return exporter.store.review.decide(batch, exporter.redacted, len(request.get_data()))


def _result(exporter: Exporter, correction_id: int, decision: Decision, outcome: Outcome) -> dict[str, Any]:
    result: dict[str, Any] = {"id": str(correction_id), "taken": outcome.stored}
    if outcome.correction is None:
        return result | {"status": 404, "detail": _undecidable(correction_id)}
    correction = with_new_label(exporter, outcome.correction)
    if outcome.lacks_label(decision):
        detail = "/label: is required to accept a correction without one: give the correct label"
        return result | {"status": 400, "detail": detail, "correction": correction}
    conflict = {"status": 409, "detail": _conflict(correction, decision.reviewer)}
    return result | ({"status": 200} if outcome.stored else conflict) | {"correction": correction}


def draw_sample(exporter: Exporter) -> Reply:
    """``POST /v1/corrections/samples``: draw confident predictions without feedback for review."""
    sample = schemas.convert_body(schemas.SampleRequest, schemas.parse_json(request.get_data()))
    check_model(exporter.pipeline.monitors.models, sample.model)
    if sample.version is not None and "\0" in sample.version:
        raise EventError("/version", "expected text without the character NUL", "malformed")
    reviewer = g.user

    def reply() -> Reply:
        count = exporter.store.review.draw(sample.model, sample.version, sample.count, reviewer)
        return json_reply(201, {"drawn": count})

    return exporter.idempotency.once("samples", idempotency_key(), reply, request.get_data())


def _undecidable(correction_id: int) -> str:
    return (
        f"there is no correction {correction_id} to decide; feedback that waits for its prediction can be decided "
        "after an hour, if it came with a model, inputs and a prediction"
    )


def _conflict(document: dict[str, Any], reviewer: str | None) -> str:
    """Return the detail of a decision on another revision than the correction's."""
    label = f" as {preview(document['label'])}" if document["status"] == "accepted" else ""
    if reviewer is not None and document["reviewer"] == reviewer:
        who, by = "you decided it before", ""
    elif document["status"] == "pending":  # new feedback of the user, or a decision taken back
        who, by = "the correction has changed", ""
    else:
        who, by = "another reviewer decided first", f" by {preview(first)}" if (first := document["reviewer"]) else ""
    return (
        f"{who}: it is {document['status']}{label}{by} since revision {document['revision']}; "
        "decide again on that revision to change it"
    )


def _batch(document: Any) -> tuple[list[tuple[int, Decision]], list[dict[str, str]]]:
    """Return the decisions in a body by the correction's identifier, and the errors of those that are not valid.

    Raises
    ------
    EventError
        When the body is not an array of decisions.
    """
    if not isinstance(document, list) or not 1 <= len(document) <= schemas.MAX_LIMIT:
        raise EventError("", f"expected an array of 1 to {schemas.MAX_LIMIT} decisions", "wrong_type")
    decisions, errors = [], []
    for index, item in enumerate(document):
        try:
            decision = schemas.convert_body(schemas.BatchDecision, item)
        except EventError as error:
            errors.append({"pointer": f"/{index}{error.pointer}", "detail": error.detail})
        else:
            decisions.append((int(decision.id), _decision(decision)))
    return decisions, errors


def _decision(decision: schemas.ReviewDecision) -> Decision:
    return Decision(decision.status, label_json(decision.label), decision.revision, decision.reviewer or g.user)


class FoundSlice(NamedTuple):
    """A slice in which corrections were looked for.

    Attributes
    ----------
    description
        What its predictions have in common.
    truncated
        Whether there are older corrections that were not looked at, see `exporter.slices.population.MOST_LOOKED_AT`.
    """

    description: str
    truncated: bool


class QueueQuery(NamedTuple):
    """The filter, order and position of a page of the queue, and the slice of the filter."""

    filter: Filter
    order: str
    limit: int
    after: Position | None
    slice: FoundSlice | None


def parse_query(exporter: Exporter, arguments: Mapping[str, str]) -> QueueQuery:
    """Parse the query string of a page, and find the corrections of the slice that it names.

    Raises
    ------
    EventError
        When a parameter is not valid.
    StoreError
        When the corrections of the slice cannot be read.
    """
    schemas.check_parameters(arguments, (*PARAMETERS, "cursor", "limit", "order"))
    model = arguments.get("model")
    if model is not None and model not in exporter.pipeline.monitors.models:
        hint = suggestion(model, exporter.pipeline.monitors.models)
        raise EventError("", f"no model {preview(model)} is configured; {hint}", "unknown_model")
    given = {name: _PARSERS.get(name, _text)(name, arguments[name]) for name in PARAMETERS if name in arguments}
    order = _one_of("order", arguments.get("order", "newest"), ORDERS)
    limit = schemas.parse_whole_number("limit", arguments.get("limit"), schemas.MAX_LIMIT) or schemas.DEFAULT_LIMIT
    after = _decode_cursor(order, arguments.get("cursor"))
    selected, found = _select_slice(exporter, Filter(**given, redacted=exporter.redacted))
    return QueueQuery(selected, order, limit, after, found)


def _select_slice(exporter: Exporter, chosen: Filter) -> tuple[Filter, FoundSlice | None]:
    """Find the corrections of the slice that a filter names; return the filter with their identifiers."""
    if chosen.where is None:
        return chosen, None
    try:
        model = schemas.parse_model(exporter.pipeline.monitors.models, chosen.model)
    except EventError as error:
        raise schemas.malformed(f"where: {error.detail}") from None
    binner = exporter.slices.binner(model, chosen.version)
    if binner is None:
        raise schemas.malformed(f"where: {preview(model)} has no profile, and slices are combinations of its bins")
    try:
        bins = parse_bins(binner, chosen.where)
    except ValueError as error:
        raise schemas.malformed(f"where: {error}") from None
    chosen = chosen._replace(model=model)
    looked_at = chosen.of_any_label()._replace(status=None)  # the page counts other statuses and labels as well
    ids, truncated = find_corrections(exporter.store, binner, bins, looked_at)
    return chosen._replace(ids=tuple(ids)), FoundSlice(describe(bins, binner), truncated)


def encode_cursor(order: str, position: Position) -> str:
    """Encode the position at which a page ended."""
    return base64.urlsafe_b64encode(f"{order},{position.key!r},{position.id}".encode()).decode()


def with_new_label(exporter: Exporter, correction: dict[str, Any]) -> dict[str, Any]:
    """Return a correction's document with ``new_label``: whether its label is not among the training predictions."""
    binner = exporter.pipeline.monitors.binner(correction["model"], correction["version"])
    return {**correction, "new_label": is_new(binner, correction["label"])}


def is_new(binner: Binner | None, label: str | float | bool | None) -> bool:
    """Return whether a label is not among the training predictions; false if the profile does not have them all."""
    feature = binner.profile.prediction if binner else None
    if label is None or not isinstance(feature, CategoricalFeature) or len(feature.rare) >= MAX_RARE:
        return False
    name = label if isinstance(label, str) else label_json(label)
    return name not in feature.categories and name not in feature.rare


def _one_of(name: str, text: str, values: tuple[str, ...] | Mapping[str, Any]) -> str:
    if text not in values:
        raise schemas.malformed(f"{name}: expected {any_of(sorted(values))}, got {preview(text)}")
    return text


def _text(_: str, text: str) -> str:
    return text


def _search(name: str, text: str) -> str | None:
    if len(text) > schemas.MAX_SEARCH:
        raise schemas.malformed(f"{name}: expected at most {schemas.MAX_SEARCH} characters, got {len(text)}")
    return text or None


def _label(_: str, text: str) -> str | None:
    """Return the stored form of a label: JSON as in a correction, anything else is a string."""
    try:
        return label_json(msgspec.json.decode(text, type=str | int | float | bool))
    except (msgspec.DecodeError, UnicodeError):
        return label_json(text)


def _share(name: str, text: str) -> float:
    value = _number(name, text, "a number from 0 to 1")
    if not 0 <= value <= 1:
        raise schemas.malformed(f"{name}: expected a number from 0 to 1, got {preview(text)}")
    return value


def _number(name: str, text: str, expected: str = "a number") -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise schemas.malformed(f"{name}: expected {expected}, got {preview(text)}")
    return value


_PARSERS: dict[str, Callable[[str, str], Any]] = {
    "status": lambda name, text: _one_of(name, text, STATUSES),
    "source": lambda name, text: _one_of(name, text, SOURCES),
    "joined": lambda name, text: _one_of(name, text, ("false", "true")) == "true",
    "suspect": schemas.parse_truth,
    "alike": lambda name, text: schemas.parse_whole_number(name, text, schemas.MAX_ID),
    "q": _search,
    **dict.fromkeys(("label", "predicted"), _label),
    **dict.fromkeys(("since", "until"), schemas.parse_time),
    **dict.fromkeys(("confidence_from", "confidence_to"), _share),
    **dict.fromkeys(("error_from", "error_to"), _number),
}
"""What reads a parameter from its name and its text."""


def _decode_cursor(order: str, text: str | None) -> Position | None:
    if text is None:
        return None
    try:
        cursor_order, sort_key, correction_id = base64.urlsafe_b64decode(text).decode().split(",")
        position = Position(float(sort_key), int(correction_id))
    except (binascii.Error, ValueError):
        cursor_order, position = "", Position(math.nan, 0)
    if cursor_order in ORDERS and cursor_order != order:
        raise schemas.malformed(f"cursor: it is for the order {cursor_order}, not {order}")
    is_possible = math.isfinite(position.key) and 0 <= position.id <= schemas.MAX_ID
    if cursor_order != order or not is_possible:
        raise schemas.malformed("cursor: expected the cursor in the URL next of the page before")
    return position
