"""From the front door to a WSGI application and back."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

from flask import Flask

from exporter.errors import StoreError
from exporter.web.problems import Reply, problem
from exporter.web.streaming import STREAMED, Streamed, whole

_MEASURED = {"content-type", "content-length"}  # headers that an answer of known length gets anew


def environment(scope: Any, body: bytes) -> dict[str, Any]:
    """The WSGI environment of an RSGI request whose body was read."""
    host, _, port = scope.server.rpartition(":")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": scope.path.encode("utf-8", "surrogateescape").decode("latin-1"),
        "QUERY_STRING": scope.query_string.encode("utf-8", "surrogateescape").decode("latin-1"),
        "SERVER_NAME": host or "localhost",
        "SERVER_PORT": port or "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": scope.client.rpartition(":")[0],
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.scheme,
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in scope.headers.items():
        if name == "content-type":
            environ["CONTENT_TYPE"] = value
        elif name not in {"content-length", "transfer-encoding"}:
            environ["HTTP_" + name.upper().replace("-", "_")] = value
    return environ


def call(app: Flask, environ: dict[str, Any]) -> Reply | Streamed:
    """Run a WSGI application to its end; to the first chunk, where the answer is marked to be streamed."""
    answered: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> Callable[[bytes], object]:
        answered[:] = [int(status.split(maxsplit=1)[0]), headers]
        return answered.append

    chunks: Any = app(environ, start_response)
    if environ.get(STREAMED) and environ["REQUEST_METHOD"] != "HEAD":
        return _begun(chunks, answered[0], answered[1], not environ["REMOTE_ADDR"])
    try:
        body = b"".join(chunks)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    status, headers = answered
    content_type = next((value for name, value in headers if name.lower() == "content-type"), "text/plain")
    said = {"content-type"} if environ["REQUEST_METHOD"] == "HEAD" and environ.get(STREAMED) else _MEASURED
    rest = tuple((name, value) for name, value in headers if name.lower() not in said)
    return Reply(status, body, rest, content_type)


def _begun(chunks: Any, status: int, headers: list[tuple[str, str]], nameless: bool) -> Reply | Streamed:
    try:
        named = [(name.lower(), value) for name, value in headers]
        if nameless and not any(name == "content-length" for name, _ in named):
            return whole(status, named, chunks)
        return Streamed(status, named, next(chunks, b""), chunks, chunks.close)
    except StoreError as error:
        chunks.close()
        return problem(503, str(error), headers=(("Retry-After", "5"),))
    except Exception:
        chunks.close()
        raise
