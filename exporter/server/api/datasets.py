"""``/v1/dataset``: reviewed examples as a stream, and releases of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
from flask import Blueprint, Response, g, request

from exporter.datasets import FORMATS, Format, release
from exporter.datasets.examples import Pages, stored_pages
from exporter.errors import EventError, StoreError
from exporter.events import check_model
from exporter.server.application import Exporter
from exporter.server.problem import Reply, problem, whole
from exporter.server.streaming import STREAMED
from exporter.storage import releases
from exporter.storage.accepted_examples import Selection
from exporter.storage.schema import spelling
from exporter.validation import explain, json_pointer, preview, suggestion

LIMIT = 100
"""Releases on a page when the client does not say."""
MOST = 1000


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """What a client sends for a release."""

    model: Annotated[str, msgspec.Meta(max_length=128)]
    name: str | None = None
    hold_back: bool = False


def blueprint(exporter: Exporter) -> Blueprint:
    """The routes of datasets."""
    routes = Blueprint("dataset", __name__, url_prefix="/v1/dataset")

    @routes.errorhandler(StoreError)
    def failed(error: StoreError) -> Response:
        return problem(503, str(error), headers=(("Retry-After", "5"),)).flask()

    @routes.errorhandler(release.EmptyError)
    def empty(error: release.EmptyError) -> Response:
        return problem(409, str(error)).flask()

    @routes.errorhandler(EventError)
    def wrong(error: EventError) -> Response:
        return whole(error).flask()

    @routes.get("")
    def stream() -> Response:
        _check_parameters("model", "version", "label", "since", "until", "format")
        form, model = _format(), _model(exporter, request.args.get("model"))
        chosen = Selection(
            model, request.args.get("version"), _labels(request.args.get("label")), _time("since"), _time("until")
        )
        pages = stored_pages(exporter.store, chosen, exporter.pipeline.monitors.models[model].redact)
        return _written(exporter, form, pages, model, f"{release.slug(model)}-dataset")

    @routes.post("/releases")
    def make() -> Response:
        order = _order(request.get_data())
        model = _model(exporter, order.model)
        by = g.user
        redacted = exporter.pipeline.monitors.models[model].redact
        taken = release.make(exporter.store, model, order.name, by, redacted, hold_back=order.hold_back)
        document = release.document(taken.row)
        if taken.conflict:
            same = {"name": "other examples", "content": "the same examples"}[taken.conflict]
            detail = f"there is a release {taken.row['name']} of {same} already, and releases do not change"
            return problem(409, detail, release=document).flask()
        place = (("Location", f"{request.base_url}/{document['id']}"),)
        return Reply(201 if taken.new else 200, msgspec.json.encode(document), place).flask()

    @routes.get("/releases")
    def listed() -> Response:
        _check_parameters("model", "limit", "cursor")
        model = request.args.get("model")
        if model is not None:
            check_model(exporter.pipeline.monitors.models, model)
        limit = _whole("limit", MOST) or LIMIT
        with exporter.store.reading() as connection:
            rows = releases.listed(connection, model, limit + 1, _whole("cursor", 2**62))
        following = None
        if len(rows) > limit:
            query = urlencode({**request.args.to_dict(), "cursor": rows[limit - 1]["seq"]})
            following = f"{request.base_url}?{query}"
        documents = [release.document(row) for row in rows[:limit]]
        return Reply(200, msgspec.json.encode({"releases": documents, "next": following})).flask()

    @routes.get("/releases/<key>")
    def one(key: str) -> Response:
        _check_parameters("format")
        form = _format()
        with exporter.store.reading() as connection:
            row = releases.find(connection, key)
        if row is None:
            return problem(404, f"there is no release {preview(key)}").flask()
        wanted = request.accept_mimetypes.best_match([form.content_type.partition(";")[0], "application/json"])
        if "format" not in request.args and wanted == "application/json":
            return Reply(200, msgspec.json.encode(release.document(row)), (("Vary", "Accept"),)).flask()
        if form.name != "jsonl":
            return _written(exporter, form, release.frozen_pages(exporter.store, row), row["model"], row["name"])
        answer = _streamed(
            releases.chunks(exporter.store, row["build"]), form.content_type, _headers(row["name"], form)
        )
        answer.content_length = row["bytes"]
        answer.set_etag(row["sha256"])
        answer.vary.add("Accept")
        answer.make_conditional(request)
        return answer

    return routes


def _written(exporter: Exporter, form: Format, pages: Pages, model: str, name: str) -> Response:
    monitors = exporter.pipeline.monitors
    binner, settings = monitors.nearest_binner(model), monitors.models.get(model)
    types = dict(binner.profile.inputs) if binner else {}
    if settings:
        types |= {name: feature.type for name, feature in settings.features.items() if feature.type}
        types = {name: kind for name, kind in types.items() if name not in settings.redact}
    return _streamed(form.write(pages, types), form.content_type, _headers(name, form))


def _headers(name: str, form: Format) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}.{form.suffix}"'}


def _order(body: bytes) -> Order:
    document: Any = None
    try:
        document = msgspec.json.decode(body)
        order = msgspec.convert(document, Order)
    except msgspec.ValidationError as error:
        path, detail, reason = explain(error, document, ("model", "name", "hold_back"))
        raise EventError(json_pointer(path), detail, reason) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise EventError("", "the body is not JSON", "malformed") from None
    if order.name is not None and not release.NAME.fullmatch(order.name):
        wanted = "1 to 100 letters, digits, dots, dashes and underscores, a letter or a digit first"
        raise EventError(
            "/name", f"expected {wanted}, and no identifier of a release, got {preview(order.name)}", "malformed"
        )
    return order


def _model(exporter: Exporter, name: str | None) -> str:
    models = exporter.pipeline.monitors.models
    if name is None:
        raise EventError("", f"model: is required; {suggestion('', models)}", "missing_field")
    check_model(models, name)
    return name


def _format() -> Format:
    name = request.args.get("format", "jsonl")
    if name not in FORMATS:
        raise EventError("", f"format: {preview(name)} is none; known are: {', '.join(FORMATS)}", "malformed")
    return FORMATS[name]


def _labels(text: str | None) -> tuple[str, ...] | None:
    """The spellings of a label as people write it: ``7`` is the number, and the text."""
    if text is None:
        return None
    found = [spelling(text)]
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        value = None
    if isinstance(value, str | bool | int | float):
        found.append(spelling(value))
    return tuple(one for one in found if one)


def _time(name: str) -> float | None:
    text = request.args.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        wanted = "an RFC 3339 time with a zone such as 2026-11-24T10:00:00Z"
        raise EventError("", f"{name}: expected {wanted}, got {preview(text)}", "malformed")
    return moment.timestamp()


def _whole(name: str, most: int) -> int | None:
    text = request.args.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= most):
        raise EventError("", f"{name}: expected a whole number from 1 to {most}, got {preview(text)}", "malformed")
    return int(text)


def _check_parameters(*known: str) -> None:
    for name in request.args:
        if name not in known:
            raise EventError("", f"the parameter {preview(name)} is not known; {suggestion(name, known)}", "malformed")


def _streamed(chunks: Iterator[bytes], content_type: str, headers: dict[str, str]) -> Response:
    """Flask's answer with a body that is not joined; its chunks are made in threads, outside the request."""
    request.environ[STREAMED] = True
    return Response(chunks, 200, headers, content_type=content_type)
