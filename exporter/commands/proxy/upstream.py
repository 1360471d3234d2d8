"""The model server behind the proxy: its address, and a client for it."""

from __future__ import annotations

import ssl
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from exporter.errors import ExporterError, UsageError

MAX_FIELD = 64 * 1024
"""Bytes of a line or field in the head of a response."""


class Upstream(NamedTuple):
    """Where the model server is; ``prefix`` is put before the path of every request."""

    scheme: str
    host: str
    port: int
    prefix: str
    tls: ssl.SSLContext | None = None


def parse(url: str, ca_file: str | None = None) -> Upstream:
    """Return the address of the model server.

    Raises
    ------
    UsageError
        When it cannot be one.
    """
    expected = "expected the model server's address, such as http://127.0.0.1:8080"
    parts = urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError as error:
        raise UsageError(f"--upstream: {error}; {expected}") from None
    if not (port and parts.hostname) or parts.query or parts.fragment or not url.isascii() or not url.isprintable():
        raise UsageError(f"--upstream: {expected}")
    if parts.username is not None:
        raise UsageError("--upstream: a user in the address is not passed on: clients send their own Authorization")
    context = None
    if parts.scheme == "https":
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ExporterError(f"--upstream.ca-file: {ca_file}: {error}") from None
    elif ca_file:
        raise UsageError("--upstream.ca-file: is for an --upstream of https://")
    return Upstream(parts.scheme, parts.hostname, port, parts.path.rstrip("/"), context)


@dataclass(slots=True)
class Attempt:
    """Which connection a request is sent on.

    Attributes
    ----------
    fresh
        Whether to open a new connection.
    reused
        Whether the connection was idle before, so that the model server may just have closed it.
    """

    fresh: bool
    reused: bool = False


ATTEMPT: ContextVar[Attempt] = ContextVar("attempt")
"""The attempt of the current task, in which the connector says whether it reused a connection."""


class Connector(aiohttp.TCPConnector):
    """Connections to the model server, kept open between requests.

    Parameters
    ----------
    upstream
        The model server.
    idle
        Seconds that a connection without a request is kept; 0 for a new connection for every request.
    """

    def __init__(self, upstream: Upstream, idle: float) -> None:
        tls = upstream.tls or True
        if idle:
            super().__init__(ssl=tls, limit=0, keepalive_timeout=idle)
        else:
            super().__init__(ssl=tls, limit=0, force_close=True)

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        """Return an idle connection; none on which the model server sent something that nobody asked for.

        aiohttp would take that for the response to the next request.
        """
        attempt = ATTEMPT.get()
        while not attempt.fresh and (connection := await super()._get(key, traces)) is not None:
            if connection.protocol is not None and not connection.protocol.should_close:
                attempt.reused = True
                return connection
            connection.close()
        return None

    @property
    def count(self) -> int:
        """Open connections, in use or idle."""
        return len(self._acquired) + sum(map(len, self._conns.values()))


def client(connector: Connector, connect_timeout: float) -> aiohttp.ClientSession:
    """Return a client that sends requests and returns responses as they are."""
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        timeout=aiohttp.ClientTimeout(connect=connect_timeout),
        max_line_size=MAX_FIELD,
        max_field_size=MAX_FIELD,
    )
