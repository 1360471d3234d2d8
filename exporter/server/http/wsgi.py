"""Call a WSGI application from ASGI."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from exporter.errors import StoreError
from exporter.server.http.problem import Reply, store_problem
from exporter.server.http.request import Request
from exporter.server.http.streaming import STREAMED, Streamed

if TYPE_CHECKING:
    from flask import Flask

_REPLACED = {"content-type", "date"}  # headers that every response gets anew
_REPLACED_WITH_BODY = {*_REPLACED, "content-length"}


def environment(request: Request, body: bytes) -> dict[str, Any]:
    """Return the WSGI environment of a request."""
    scope = request.scope
    host, port = scope["server"] or ("", None)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(scope["raw_path"]).decode("latin-1"),
        "QUERY_STRING": request.query,
        "SERVER_NAME": host if port else "localhost",  # a Unix socket has neither
        "SERVER_PORT": str(port or 80),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": request.client,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in request.headers.items():
        if name == b"content-type":
            environ["CONTENT_TYPE"] = value.decode("latin-1")
        elif name not in {b"content-length", b"transfer-encoding"}:
            environ["HTTP_" + name.decode("latin-1").upper().replace("-", "_")] = value.decode("latin-1")
    return environ


def run(app: Flask, environ: dict[str, Any]) -> Reply | Streamed:
    """Run a WSGI application to its end; to the first chunk, where the response is marked to be streamed."""
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> Callable[[bytes], object]:
        started[:] = [int(status.split(maxsplit=1)[0]), headers]
        return started.append

    chunks: Any = app(environ, start_response)
    status, headers = started[:2]
    head = environ["REQUEST_METHOD"] == "HEAD"
    if environ.get(STREAMED) and not head and status == 200:
        return _stream(chunks, status, headers)
    try:
        body = b"".join(chunks)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    content_type = next((value for name, value in headers if name.lower() == "content-type"), "")
    replaced = _REPLACED if head else _REPLACED_WITH_BODY
    rest = tuple((name, value) for name, value in headers if name.lower() not in replaced)
    return Reply(status, body, rest, content_type)


def _stream(chunks: Any, status: int, headers: list[tuple[str, str]]) -> Reply | Streamed:
    try:
        return Streamed(status, headers, next(chunks, b""), chunks, chunks.close)
    except StoreError as error:
        chunks.close()
        return store_problem(error)
    except Exception:
        chunks.close()
        raise
