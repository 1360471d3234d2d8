"""Flask's routes for Prometheus and operators: ``/metrics`` and ``/-/``."""

from __future__ import annotations

from flask import Blueprint, Response, request

from exporter.errors import ConfigError, ModelFileError
from exporter.server.api.probes import TEXT, Probes
from exporter.server.application import Exporter
from exporter.server.http.problem import Reply, problem


def blueprint(exporter: Exporter) -> Blueprint:
    """Return the routes of operations, answered as Prometheus answers them."""
    routes = Blueprint("operations", __name__)

    probes = Probes(exporter)

    @routes.get("/metrics")
    def metrics() -> Response:
        wanted = request.headers.get("Accept", ""), request.headers.get("Accept-Encoding", "")
        return probes.metrics(*wanted, request.args.getlist("name[]")).flask()

    @routes.get("/-/healthy")
    def healthy() -> Response:
        return probes.healthy().flask()

    @routes.get("/-/ready")
    def ready() -> Response:
        return probes.ready().flask()

    @routes.put("/-/reload")
    @routes.post("/-/reload")
    def reload() -> Response:
        try:
            exporter.reloader.reload()
        except ModelFileError as error:
            return problem(500, f"all other files are in use: {error}").flask()
        except ConfigError as error:
            return problem(500, f"the previous configuration stays in use: {error}").flask()
        return Reply(200, b"", content_type=TEXT).flask()

    return routes
