"""An HTTP server that keeps what it is sent, as an exporter or as any other receiver."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Exporter:
    """A real HTTP server that keeps what it is sent and answers as it is told, then always alike or as an exporter."""

    def __init__(self, port: int = 0, always: tuple[int, dict, dict | bytes] | None = None) -> None:
        self.requests: list[dict] = []
        self.answers: list[tuple[int, dict, dict | bytes] | None] = []  # None: hang up without an answer
        self.hang_up_after_each = False
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._reply(200, {}, {"status": "ok"})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = exporter.answers.pop(0) if exporter.answers else always or ()
                events = _lines(body)
                exporter.requests.append(
                    {
                        "path": self.path,
                        "headers": dict(self.headers),
                        "events": events,
                        "peer": self.client_address,
                        "at": time.monotonic(),
                        "answered": answer == (),
                    }
                )
                if answer is None:
                    self.close_connection = True
                elif answer:
                    self._reply(*answer)
                elif self.path.endswith("/v1/feedback"):
                    self._reply(201, {}, {"id": "f-1"})
                elif self.path.endswith("/v1/labels"):
                    self._reply(201, {}, {"accepted": 1, "joined": 1})
                else:
                    self._reply(202, {}, {"accepted": len(events), "rejected": []})
                self.close_connection = self.close_connection or exporter.hang_up_after_each

            def _reply(self, status: int, headers: dict, document: dict | bytes) -> None:
                body = document if isinstance(document, bytes) else json.dumps(document).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": len(body)}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def events(self, path: str = "/v1/predictions") -> list[dict]:
        """Everything that was accepted there."""
        return [e for r in list(self.requests) if r["answered"] and r["path"] == path for e in r["events"]]

    def serve_tls(self, certificate: Path, key: Path) -> None:
        """Expect TLS from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = self.url.replace("http:", "https:")

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def _lines(body: bytes) -> list[dict]:
    try:
        return [json.loads(line) for line in body.splitlines()]
    except ValueError:  # of another format
        return []


def nobody() -> str:
    """A URL at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"
