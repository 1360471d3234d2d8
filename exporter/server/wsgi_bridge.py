"""From the front door to a WSGI application and back."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from exporter.errors import StoreError
from exporter.server.problem import Reply, problem
from exporter.server.request import Call
from exporter.server.streaming import STREAMED, Streamed

if TYPE_CHECKING:
    from flask import Flask

_OWN = {"content-type", "date"}  # headers that every answer gets anew
_MEASURED = {*_OWN, "content-length"}  # and one of known length


def environment(call: Call, body: bytes) -> dict[str, Any]:
    """The WSGI environment of a request that is whole."""
    at = call.front.transport.get_extra_info
    here = at("sockname")
    host, port = here[:2] if isinstance(here, tuple) else ("localhost", 80)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": call.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": call.path,
        "QUERY_STRING": call.query,
        "SERVER_NAME": host,
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": call.front.peer,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https" if at("sslcontext") else "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in call.fields.items():
        if name == b"content-type":
            environ["CONTENT_TYPE"] = value.decode("latin-1")
        elif name not in {b"content-length", b"transfer-encoding"}:
            environ["HTTP_" + name.decode("latin-1").upper().replace("-", "_")] = value.decode("latin-1")
    return environ


def call(app: Flask, environ: dict[str, Any]) -> Reply | Streamed:
    """Run a WSGI application to its end; to the first chunk, where the answer is marked to be streamed."""
    answered: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> Callable[[bytes], object]:
        answered[:] = [int(status.split(maxsplit=1)[0]), headers]
        return answered.append

    chunks: Any = app(environ, start_response)
    status, headers = answered[:2]
    head = environ["REQUEST_METHOD"] == "HEAD"
    if environ.get(STREAMED) and not head and status == 200:
        return _begun(chunks, status, headers)
    try:
        body = b"".join(chunks)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    content_type = next((value for name, value in headers if name.lower() == "content-type"), "")
    said = _OWN if head else _MEASURED
    rest = tuple((name, value) for name, value in headers if name.lower() not in said)
    return Reply(status, body, rest, content_type)


def _begun(chunks: Any, status: int, headers: list[tuple[str, str]]) -> Reply | Streamed:
    try:
        return Streamed(status, headers, next(chunks, b""), chunks, chunks.close)
    except StoreError as error:
        chunks.close()
        return problem(503, str(error), headers=(("Retry-After", "5"),))
    except Exception:
        chunks.close()
        raise
