"""The Flask application."""

from __future__ import annotations

import logging
import traceback

from flask import Flask, Response
from werkzeug.exceptions import HTTPException, InternalServerError

from exporter.runtime import Exporter
from exporter.web import access, api, corrections, dataset, drift, openapi, operations, pages, review, wire
from exporter.web.inbox import Inbox
from exporter.web.ingest import MAX_BODY, Ingest
from exporter.web.problems import http_error

log = logging.getLogger(__name__)

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # no-referrer would make browsers hide the Origin of our own forms
}


def create_app(exporter: Exporter, ingest: Ingest | None = None) -> Flask:
    """The application of one exporter. Whoever asks is let in: users and tokens are the front door's.

    Parameters
    ----------
    exporter
        Its state.
    ingest
        Shared with the fast door; one of its own where there is none.
    """
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    access.install(app)
    inbox = Inbox()
    ingest = ingest or Ingest(exporter)
    app.register_blueprint(api.blueprint(exporter, ingest, inbox))
    app.register_blueprint(wire.blueprint(exporter, ingest))
    app.register_blueprint(corrections.blueprint(exporter, ingest.retries))
    app.register_blueprint(dataset.blueprint(exporter))
    app.register_blueprint(operations.blueprint(exporter))
    app.register_blueprint(pages.blueprint(exporter, inbox))
    app.register_blueprint(drift.blueprint(exporter))
    app.register_blueprint(review.blueprint(exporter))
    app.register_blueprint(openapi.blueprint())

    @app.errorhandler(HTTPException)
    def _http_error(error: HTTPException) -> Response:
        return http_error(error)

    @app.errorhandler(Exception)
    def _unexpected(error: Exception) -> Response:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        log.error("%s in %s:%s", type(error).__name__, frame.filename, frame.lineno, exc_info=True)
        return http_error(InternalServerError("something went wrong here; the exporter's log says what"))

    @app.after_request
    def _secure(response: Response) -> Response:
        response.headers.extend(SECURITY_HEADERS)
        return response

    return app
