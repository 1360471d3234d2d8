"""The proxy's server: bound the number of connections, and respond to bytes that are not HTTP."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from exporter.commands.proxy.forward import Forwarder, document, parser_error, problem
from exporter.commands.proxy.recorder import Metrics

IDLE_SECONDS = 75.0
"""How long a connection may be idle, or take to send the head of a request."""
LINGER_SECONDS = 2.0
"""How long the rest of a body is read after the response, so that the client gets to read the response."""
MAX_FIELD = 16 * 1024
"""Bytes of a request line or header field; there may be 128 fields."""


MAX_REFUSING = 100
"""Clients beyond the limit that are told so at a time."""
_BODY = document(503, "too many connections")
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(_BODY), _BODY)
)


class ProxyServer(web.Server):
    """Accepts the connections of clients.

    Parameters
    ----------
    forwarder
        What answers their requests.
    metrics
        Where refused requests are counted.
    limit
        Connections at a time.
    """

    def __init__(self, forwarder: Forwarder, metrics: Metrics, limit: int) -> None:
        super().__init__(
            forwarder.handle,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=LINGER_SECONDS,
            max_line_size=MAX_FIELD,
            max_field_size=MAX_FIELD,
        )
        self._metrics = metrics
        self._limit = limit

        self._refusing = 0

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        if len(self._connections) >= self._limit:
            return cast(web.RequestHandler, _Refusal(self))
        return _Connection(self, self._metrics, loop=self._loop, **self._kwargs)

    def refuse(self, transport: asyncio.Transport) -> None:
        """Close a connection beyond the limit: with the reason, unless too many others are being told."""
        self._metrics.codes[503] += 1
        if self._refusing >= MAX_REFUSING:
            transport.abort()
            return
        self._refusing += 1
        transport.write(_REFUSAL)
        transport.write_eof()
        self._loop.call_later(LINGER_SECONDS, self._refused, transport)

    def _refused(self, transport: asyncio.Transport) -> None:
        self._refusing -= 1
        transport.abort()


class _Refusal(asyncio.Protocol):
    """A connection beyond the limit; what its client sends is ignored."""

    def __init__(self, server: ProxyServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Refuse the connection."""
        self._server.refuse(cast(asyncio.Transport, transport))

    def eof_received(self) -> bool:
        """Leave the end to the server."""
        return True


class _Connection(web.RequestHandler):
    """A client's connection, which answers what is not HTTP with a problem document."""

    __slots__ = ("_metrics",)

    def __init__(self, server: ProxyServer, metrics: Metrics, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._metrics = metrics

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Return the response to a request that could not be read, or that failed unforeseen."""
        if isinstance(exc, LineTooLong):
            status, detail = 431, f"expected a request line and header fields of at most {MAX_FIELD} bytes each"
        elif isinstance(exc, HttpProcessingError):
            detail = f"the request is not valid HTTP/1.1: {parser_error(message or '')}"
        else:
            return super().handle_error(request, status, exc, message)
        self._metrics.codes[status] += 1
        response = problem(status, detail)
        response.force_close()
        return response
