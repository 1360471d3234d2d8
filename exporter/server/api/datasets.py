"""``/v1/dataset``: accepted corrections, and what is added to them, as a stream, and releases of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from importlib.util import find_spec
from urllib.parse import urlencode

import msgspec
from flask import Response, g, request

from exporter.config import ModelConfig
from exporter.datasets import FORMATS, Format, Pages, release, stored_pages
from exporter.errors import EventError
from exporter.features.base import label_json
from exporter.monitoring.quality import Scorer
from exporter.server.api import schemas
from exporter.server.application import Exporter
from exporter.server.asgi import STREAMED
from exporter.server.problem import Reply, json_reply, problem
from exporter.storage import ADDED, Selection
from exporter.validation import preview, suggestion
from exporter.wire.events import check_model

DEFAULT_LIMIT = 100
"""Releases on a page, unless the client asks for another number."""
MAX_LIMIT = 1000
INCLUDE = ("corrections", "confirmed", "labelled", "sampled")
"""Valid values of ``include``."""


def stream(exporter: Exporter) -> Response:
    """``GET /v1/dataset``: download the accepted corrections of a model."""
    schemas.check_parameters(request.args, ("model", "version", "label", "since", "until", "format", "include"))
    form, model = _format(), _model(exporter, request.args.get("model"))
    selection = Selection(
        model,
        request.args.get("version"),
        _labels(request.args.get("label")),
        schemas.parse_time("since", request.args.get("since")),
        schemas.parse_time("until", request.args.get("until")),
        include=_included(request.args["include"].split(","), "") if "include" in request.args else (),
    )
    redacted = exporter.pipeline.monitors.models[model].redact
    pages = stored_pages(exporter.store, selection, redacted)
    return _write(exporter, form, pages, model, f"{release.slug(model)}-dataset")


def make_release(exporter: Exporter) -> Reply:
    """``POST /v1/dataset/releases``: freeze the accepted corrections of a model."""
    wanted = _release_request(request.get_data())
    model = _model(exporter, wanted.model)
    redacted = exporter.pipeline.monitors.models[model].redact
    result = release.make_release(
        exporter.store,
        model,
        wanted.name,
        g.user,
        redacted,
        profile=exporter.slices.profile_hash(model),
        exclude_suspects=wanted.exclude_suspects,
        include=_included(wanted.include, "/include"),
    )
    document = release.release_document(result.row)
    if result.conflict:
        same = {"name": "other examples", "content": "the same examples"}[result.conflict]
        detail = f"there already is a release {preview(result.row['name'])} of {same}, and releases do not change"
        return problem(409, detail, release=document)
    location = ("Location", f"{request.path}/{document['id']}")
    return json_reply(201 if result.new else 200, document, (location,))


def list_releases(exporter: Exporter) -> Reply:
    """``GET /v1/dataset/releases``: list the releases, the newest first."""
    schemas.check_parameters(request.args, ("model", "limit", "cursor"))
    model = request.args.get("model")
    if model is not None:
        check_model(exporter.pipeline.monitors.models, model)
    limit = schemas.parse_whole_number("limit", request.args.get("limit"), MAX_LIMIT) or DEFAULT_LIMIT
    before = schemas.parse_whole_number("cursor", request.args.get("cursor"), 2**62)
    rows = exporter.store.releases.list(model, limit + 1, before)
    next_url = None
    if len(rows) > limit:
        arguments = urlencode({**request.args.to_dict(), "cursor": rows[limit - 1]["seq"]})
        next_url = f"{request.base_url}?{arguments}"
    documents = [release.release_document(row) for row in rows[:limit]]
    return json_reply(200, {"releases": documents, "next": next_url})


def download(exporter: Exporter, key: str) -> Reply | Response:
    """``GET /v1/dataset/releases/<key>``: download a release, or return its document, also as a page."""
    schemas.check_parameters(request.args, ("format",))
    form = _format()
    row = exporter.store.releases.find(key)
    if row is None:
        return problem(404, f"there is no release {preview(key)}")
    store, redacted = exporter.store, exporter.redacted.get(row["model"], frozenset())
    lines = form.content_type.partition(";")[0]
    accepted = request.accept_mimetypes.best_match([lines, "application/json", "text/html"])
    if "format" not in request.args and accepted not in {lines, None}:
        return json_reply(200, release.release_document(row), title=f"Release {row['name']}")
    if form.name != "jsonl" or (redacted and release.holds(store.releases.chunks(row), redacted)):
        # Without the release's ETag: its SHA-256 is not that of what remains.
        return _write(exporter, form, release.frozen_pages(store, row, redacted), row["model"], row["name"])
    chunks = store.releases.chunks(row)
    response = _streamed(chunks, form.content_type, _headers(row["name"], form))
    response.content_length = row["bytes"]
    response.set_etag(row["sha256"])
    response.vary.add("Accept")
    response.make_conditional(request)
    return response


def _write(exporter: Exporter, form: Format, pages: Pages, model: str, name: str) -> Response:
    monitors = exporter.pipeline.monitors
    binner, settings = monitors.nearest_binner(model), monitors.models.get(model)
    profile = binner.profile if binner else None
    types = dict(profile.inputs) if profile else {}
    if settings:
        types |= {name: feature.type for name, feature in settings.features.items() if feature.type}
        types = {name: type_name for name, type_name in types.items() if name not in settings.redact}
    scorer = Scorer.of_model(settings or ModelConfig(model), profile)
    return _streamed(form.write(pages, types, scorer), form.content_type, _headers(name, form))


def _model(exporter: Exporter, name: str | None) -> str:
    models = exporter.pipeline.monitors.models
    if name is None:
        raise EventError("", f"model: is required; {suggestion('', models)}", "missing_field")
    check_model(models, name)
    return name


def _headers(name: str, form: Format) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}.{form.suffix}"'}


def _release_request(body: bytes) -> schemas.ReleaseRequest:
    wanted = schemas.convert_body(schemas.ReleaseRequest, schemas.parse_json(body))
    if wanted.name is not None and not release.NAME.fullmatch(wanted.name):
        rule = "1 to 100 letters, digits, dots, dashes and underscores, a letter or a digit first"
        detail = f"expected {rule}, and not an identifier of a release, got {preview(wanted.name)}"
        raise EventError("/name", detail, "malformed")
    return wanted


def _format() -> Format:
    name = request.args.get("format", "jsonl")
    if name not in FORMATS:
        valid = ", ".join(FORMATS)
        raise EventError("", f"format: {preview(name)} is not a valid format; valid values: {valid}", "malformed")
    if name == "parquet" and find_spec("pyarrow") is None:
        detail = (
            "format: parquet needs pyarrow, which is not installed: choose csv or jsonl, or install the extra tables"
        )
        raise EventError("", detail, "malformed")
    return FORMATS[name]


def _included(names: Collection[str], pointer: str) -> tuple[str, ...]:
    """Return what is added to the corrections and the samples, which are always in."""
    for name in names:
        if name not in INCLUDE:
            detail = f"{'' if pointer else 'include: '}{preview(name)} is not a source; {suggestion(name, INCLUDE)}"
            raise EventError(pointer, detail, "malformed")
    return tuple(source for source in ADDED if source in names)


def _labels(text: str | None) -> tuple[str, ...] | None:
    """Return the stored forms of a label in a query: ``7`` is both the number and the text."""
    if text is None:
        return None
    labels = [label_json(text)]
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        value = None
    if isinstance(value, str | bool | int | float):
        labels.append(label_json(value))
    return tuple(label for label in labels if label)


def _streamed(chunks: Iterator[bytes], content_type: str, headers: dict[str, str]) -> Response:
    """Return a response whose body is not joined; its chunks are produced in threads, outside the request."""
    request.environ[STREAMED] = True
    return Response(chunks, 200, headers, content_type=content_type)
