"""The Flask application."""

from __future__ import annotations

import functools
import logging
import traceback
from types import ModuleType
from typing import Any

import msgspec
from flask import Flask, Response, g, render_template, request
from werkzeug.exceptions import HTTPException, InternalServerError, MethodNotAllowed, NotFound

from exporter.datasets.release import EmptyError
from exporter.errors import EventError, StoreError
from exporter.server.access import sender
from exporter.server.application import Exporter
from exporter.server.pages import documents, drift, home, quality, review
from exporter.server.problem import INTERNAL_ERROR, Reply, event_problem, problem, store_problem
from exporter.server.routes import ROUTES, find_handlers
from exporter.validation import any_of, closest, preview
from exporter.wire.batch import Batch
from exporter.wire.formats import MAX_BODY

log = logging.getLogger(__name__)

PAGES: tuple[ModuleType, ...] = (documents, drift, home, quality, review)
"""The pages that have functions of their own for their templates."""


class _Flask(Flask):
    """Takes responses that are independent of the framework, too."""

    def make_response(self, rv: Any) -> Response:
        if isinstance(rv, Reply):
            rv = _for_people(rv) if rv.title else rv.flask()
        response = super().make_response(rv)
        if response.mimetype == "text/html":  # the button Back shows what is true then
            response.headers.setdefault("Cache-Control", "no-store")
        return response


def create_app(exporter: Exporter) -> Flask:
    """Return the Flask application of an exporter; the ASGI application has permitted its requests."""
    app = _Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.url_map.merge_slashes = False  # no redirects, which would name the Host of the request
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = app.jinja_env.keep_trailing_newline = True
    for page in PAGES:
        app.jinja_env.filters |= getattr(page, "FILTERS", {})
        app.jinja_env.globals |= getattr(page, "GLOBALS", {})
    handlers = {name: functools.partial(function, exporter) for name, function in find_handlers().items()}
    structs: list[Any] = [msgspec.Struct]
    for struct in structs:  # two threads that are the first to convert to the same one would crash the process
        structs += [kind for kind in struct.__subclasses__() if kind is not Batch]
        msgspec.json.Decoder(struct)
    for key, route in ROUTES.items():
        method, _, rule = key.partition(" ")
        endpoint, function = route.handler.rpartition(".")[2].replace(":", "."), handlers[route.handler]
        app.add_url_rule(rule, endpoint, function, methods=[method], strict_slashes=not rule.endswith("s/"))

    @app.before_request
    def _set_user() -> None:
        """Set ``flask.g.user`` to the name of the authenticated caller."""
        if request.environ["PATH_INFO"].startswith("//"):  # which Werkzeug would take for one slash
            raise NotFound
        g.user = sender.get().name or None

    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(EventError, lambda error: event_problem(error).flask())
    app.register_error_handler(EmptyError, lambda error: problem(409, str(error)).flask())

    @app.errorhandler(StoreError)
    def _store_error(error: StoreError) -> Any:
        is_review = request.path.startswith("/review")
        return review.store_error(exporter, error) if is_review else _for_people(store_problem(error))

    @app.errorhandler(Exception)
    def _unexpected(error: Exception) -> Response:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        log.error("%s in %s:%s", type(error).__name__, frame.filename, frame.lineno, exc_info=True)
        return http_error(InternalServerError(INTERNAL_ERROR))

    return app


def http_error(error: HTTPException) -> Response:
    """Return the problem for an HTTP error of Flask."""
    detail = error.description or ""
    if isinstance(error, NotFound) and detail == NotFound.description:
        hint = f"did you mean {preview(similar)}? " if (similar := similar_path(request.path)) else ""
        detail = f"there is no route {preview(request.path)}; {hint}/openapi.json lists all routes"
    if isinstance(error, MethodNotAllowed):
        methods = any_of(sorted(error.valid_methods or ()))
        detail = f"{preview(request.path)} takes {methods}, not {preview(request.method)}"
    response = _for_people(problem(error.code or 500, detail))
    for name, value in error.get_headers():
        if name not in {"Content-Type", "Content-Length"}:
            response.headers[name] = value
    return response


def _for_people(reply: Reply) -> Response:
    """Return a document as a response: a page for a browser that opened an address, else the document."""
    response = reply.flask()
    wanted = request.accept_mimetypes
    if request.method in {"GET", "HEAD"} and wanted["text/html"] > wanted["application/json"]:
        document, template = msgspec.json.decode(reply.body), "record.html" if reply.title else "error.html"
        response.set_data(render_template(template, title=reply.title or document["title"], document=document))
        response.content_type = "text/html; charset=utf-8"
    response.vary.add("Accept")
    return response


def similar_path(path: str) -> str | None:
    """Return the path of a route that was probably meant by one that there is not.

    >>> similar_path("/v1/prediction"), similar_path("/v1/correction/7"), similar_path("/nothing/like/it")
    ('/v1/predictions', '/v1/corrections/7', None)
    """
    given = path.rstrip("/").split("/")
    paths = set()
    for route in ROUTES:
        steps = route.partition(" ")[2].split("/")
        if len(steps) == len(given) and steps[1] == given[1]:
            paths.add("/".join(own if "<" in step else step for step, own in zip(steps, given, strict=True)))
        elif "<" not in route:
            paths.add("/".join(steps))
    return closest(path, paths - {path})
