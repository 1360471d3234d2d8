"""``/metrics`` and ``/-/``: what Prometheus and operators ask."""

from __future__ import annotations

import gzip

from flask import Blueprint, Response, request

from exporter.errors import ConfigError
from exporter.runtime import Exporter
from exporter.web.problems import problem


def blueprint(exporter: Exporter) -> Blueprint:
    """The routes of operations, answered as Prometheus answers them."""
    routes = Blueprint("operations", __name__)

    @routes.get("/metrics")
    def metrics() -> Response:
        body, content_type = exporter.metrics(request.headers.get("Accept", ""), request.args.getlist("name[]"))
        response = Response(body, content_type=content_type)
        response.vary.update(("Accept", "Accept-Encoding"))
        if request.accept_encodings["gzip"] > 0 and len(body) > 1000:
            response.set_data(gzip.compress(body, compresslevel=1, mtime=0))
            response.content_encoding = "gzip"
        return response

    @routes.get("/-/healthy")
    def healthy() -> Response:
        if exporter.alive:
            return _text("model-exporter is healthy.\n")
        return _text("a thread of model-exporter has ended: restart it, and read its log.\n", 503)

    @routes.get("/-/ready")
    def ready() -> Response:
        if exporter.ready:
            return _text("model-exporter is ready.\n")
        return _text("model-exporter is stopping.\n", 503)

    @routes.put("/-/reload")
    @routes.post("/-/reload")
    def reload() -> Response:
        try:
            exporter.reload()
        except ConfigError as error:
            return problem(500, f"the configuration before stays: {error}").flask()
        return _text("")

    return routes


def _text(text: str, status: int = 200) -> Response:
    return Response(text, status, content_type="text/plain; charset=utf-8")
