"""Responses to clients: those of the model server, and the proxy's own."""

from __future__ import annotations

import http
import json

from aiohttp import web
from multidict import CIMultiDict

_ADDED = ("Content-Type", "Date", "Server")


class PassedResponse(web.StreamResponse):
    """A response of the model server, without the headers that aiohttp adds where it has none.

    Parameters
    ----------
    status, reason, headers
        What it begins with.
    small
        Whether all of its body is here, so that both can be sent at once.
    """

    def __init__(self, status: int, reason: str | None, headers: CIMultiDict[str], *, small: bool) -> None:
        super().__init__(status=status, reason=reason, headers=headers)
        self._send_headers_immediately = not small

    async def _prepare_headers(self) -> None:
        missing = [name for name in _ADDED if name not in self.headers]
        await super()._prepare_headers()
        for name in missing:
            self.headers.pop(name, None)


def document(status: int, detail: str) -> bytes:
    """Return the body of a response of the proxy's own, as ``application/problem+json``."""
    members = {"title": http.HTTPStatus(status).phrase, "status": status, "detail": f"model-exporter proxy: {detail}"}
    return json.dumps(members).encode()


def problem(status: int, detail: str, identifier: str | None = None) -> web.Response:
    """Return a response of the proxy's own; ``identifier`` is the request's."""
    headers = {"Content-Type": "application/problem+json", "Server": "model-exporter proxy"}
    if identifier is not None:
        headers["X-Request-Id"] = identifier
    return web.Response(status=status, body=document(status, detail), headers=headers)


def parser_error(message: str) -> str:
    """Return what aiohttp's parser says, on one line and without the excerpt that follows an empty line."""
    return " ".join(message.partition("\n\n")[0].split()).rstrip(":")
