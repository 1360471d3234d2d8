"""The client of Prometheus' HTTP API, with credentials from the environment."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.fake_exporter import nobody

from exporter.errors import ExporterError, PrometheusError
from exporter.http_client import Credentials
from exporter.prometheus import Prometheus

ALERTS = b'{"status": "success", "data": {"alerts": []}}'
PASSWORD = "Basic " + base64.b64encode(b"me:s3cret").decode()


class Server(ThreadingHTTPServer):
    """Answers ``/api/v1/alerts`` if it is asked with the password."""

    answer = ALERTS

    def __init__(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                allowed = self.headers["Authorization"] == PASSWORD
                self.send_response((200 if self.path == "/api/v1/alerts" else 404) if allowed else 401)
                self.end_headers()
                self.wfile.write(server.answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_credentials_come_from_the_environment(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The password's file is read for each request, so that a renewed one is used; messages name the variables."""
    monkeypatch.setenv("PROMETHEUS_USER", "me")
    with pytest.raises(ExporterError, match=r"^PROMETHEUS_PASSWORD_FILE: is required with PROMETHEUS_USER$"):
        Credentials.from_environment("PROMETHEUS").header()
    secret = tmp_path / "secret"
    monkeypatch.setenv("PROMETHEUS_PASSWORD_FILE", str(secret))
    prometheus = Prometheus(server.url, "prometheus_url", Credentials.from_environment("PROMETHEUS"))
    secret.write_text("wrong\n")
    with pytest.raises(PrometheusError, match=r"denied \(401\): set PROMETHEUS_USER and PROMETHEUS_PASSWORD_FILE, or"):
        prometheus.get("/api/v1/alerts")
    secret.write_text("s3cret\n")
    assert prometheus.get("/api/v1/alerts") == {"alerts": []}
    with pytest.raises(PrometheusError, match="/api/v1/nothing failed: 404"):
        prometheus.get("/api/v1/nothing")
    for answer in (b"<html>", b"[]", b"{}"):
        server.answer = answer
        with pytest.raises(PrometheusError, match="the response is not from Prometheus"):
            prometheus.get("/api/v1/alerts")
    prometheus.close()


def test_the_key_with_the_url_is_named() -> None:
    """A Prometheus that cannot be reached is an error that names where its URL comes from."""
    with pytest.raises(PrometheusError, match=r"cannot be reached \(Connection refused\); .* with prometheus_url$"):
        Prometheus(nobody(), "prometheus_url").get("/api/v1/alerts")


def test_a_response_has_a_limit(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A response above the limit is refused."""
    monkeypatch.setenv("PROMETHEUS_USER", "me")
    (tmp_path / "secret").write_text("s3cret\n")
    monkeypatch.setenv("PROMETHEUS_PASSWORD_FILE", str(tmp_path / "secret"))
    prometheus = Prometheus(server.url, "prometheus_url", Credentials.from_environment("PROMETHEUS"))
    server.answer = ALERTS + b" " * (1 << 20)
    assert prometheus.get("/api/v1/alerts") == {"alerts": []}
    with pytest.raises(PrometheusError, match="the response is larger than 1 MiB"):
        prometheus.get("/api/v1/alerts", 1 << 20)
