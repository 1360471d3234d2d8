"""Connections to the model server: kept alive, and one request on each at a time."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import httptools

from exporter.commands.proxy import headers
from exporter.errors import ExporterError
from exporter.server.http1.headers import MAX_HEAD, Field
from exporter.server.http1.transport import Connection

if TYPE_CHECKING:
    from exporter.commands.proxy.forward import Exchange

MAX_IDLE = 128
"""Connections that are kept for the next request."""


class Address(NamedTuple):
    """Where the model server is."""

    host: str
    port: int
    netloc: bytes
    prefix: bytes
    tls: ssl.SSLContext | None = None


def address(url: str, ca_file: str | None = None) -> Address:
    """The model server's address.

    Raises
    ------
    ExporterError
        When it cannot be one.
    """
    expected = "expected the model server's address, such as http://127.0.0.1:8080"
    parts = urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError as error:
        raise ExporterError(f"--upstream: {error}; {expected}") from None
    if not (port and parts.hostname) or parts.query or parts.fragment or not url.isascii() or not url.isprintable():
        raise ExporterError(f"--upstream: {expected}")
    if parts.username is not None:
        raise ExporterError("--upstream: a user in the address is not passed on: clients send their own Authorization")
    context = None
    if parts.scheme == "https":
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ExporterError(f"--upstream.ca-file: {ca_file}: {error}") from None
    elif ca_file:
        raise ExporterError("--upstream.ca-file: is for an --upstream of https://")
    return Address(parts.hostname, port, parts.netloc.encode(), parts.path.rstrip("/").encode(), context)


class Upstream(Connection, asyncio.Protocol):
    """One connection to the model server."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self.exchange: Exchange | None = None
        self.used = False
        self.since = 0.0
        self.paused = False
        self._fields: list[Field] = []
        self._renew()

    def _renew(self) -> None:
        self._heard = self._over = self._to_the_end = self._reusable = False
        self._quiet = self._status = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        super().connection_made(transport)
        self._pool.open.add(self)

    def begin(self, exchange: Exchange) -> None:
        """Carry an exchange."""
        self._renew()
        self.exchange = exchange

    def data_received(self, data: bytes) -> None:
        """Bytes of a response, or of what is none."""
        exchange = self.exchange
        if exchange is None:  # nobody asked
            self.transport.abort()
            return
        self._heard = True
        exchange.touch()
        self._quiet += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._over:
                why = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
                self.fail("malformed", f"the model server's answer is no HTTP: {why}")
            self._reusable = False
        if self._over:
            self._finish()
        elif self._quiet > MAX_HEAD:
            self.fail("malformed", f"the model server's answer has a head of more than {MAX_HEAD} bytes")

    def on_message_begin(self) -> None:
        """Begin a response, perhaps after an interim one."""
        if self._over:
            raise ValueError("there is more behind it")
        self._fields = []
        self._reason = b""

    def on_status(self, reason: bytes) -> None:
        """Take the words for the status, or a part of them."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head, or a trailer."""
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """Pass the head on."""
        exchange, status = self.exchange, self._parser.get_status_code()
        if exchange is None:
            return
        if not 100 <= status <= 999 or status == 101:
            raise ValueError(f"a status of {status}")
        self._quiet = 0
        self._status = status
        head = headers.read(self._fields, headers.OF_ANSWERS)
        self._fields = []
        if status < 200:
            exchange.interim(status, self._reason, head)
            return
        if head.codings:
            raise ValueError("transfer codings beside chunked")
        sized = head.chunked or b"content-length" in head.known
        bare = exchange.method == b"HEAD" or status in {204, 304}
        self._to_the_end = not bare and not sized
        self._reusable = self._parser.should_keep_alive() and not self._to_the_end
        exchange.answer(status, self._reason, head, bare)
        if exchange.method == b"HEAD":
            self._over = True
            if sized:  # this parser would wait for a body
                self._parser = httptools.HttpResponseParser(self)

    def on_body(self, part: bytes) -> None:
        """Pass a part of the body on."""
        if self._over:
            raise ValueError("there is more behind it")
        self._quiet = 0
        if self.exchange is not None:
            self.exchange.answered(part)

    def on_message_complete(self) -> None:
        """Note the end of a response, unless it was an interim one; what follows at once is looked at first."""
        if self._status >= 200:
            self._over = True

    def _finish(self) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return
        if exchange.sent_whole and self._reusable:
            self._pool.give_back(self)
        else:
            self.transport.close()
        exchange.end(self._fields)

    def fail(self, reason: str, detail: str) -> None:
        """Give the exchange up."""
        exchange, self.exchange = self.exchange, None
        self.transport.abort()
        if exchange is not None:
            exchange.failed(reason, detail)

    def connection_lost(self, error: Exception | None) -> None:
        """Gone, which ends a body without a length."""
        self._pool.forget(self)
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return
        if error is None and self._to_the_end:
            exchange.end([])
        elif not (self.used and not self._heard and exchange.try_again()):
            exchange.failed("closed", "the model server closed the connection before its answer was whole")

    def pause_writing(self) -> None:
        """Slow the client down: the model server does not read what it sends."""
        self.paused = True
        if self.exchange is not None:
            self.exchange.front.throttle()

    def resume_writing(self) -> None:
        """Go on."""
        self.paused = False
        if self.exchange is not None:
            self.exchange.front.throttle()


class Pool:
    """Connections to one model server.

    Parameters
    ----------
    to
        Its address.
    connect_timeout
        Seconds that a new connection may take.
    idle
        Seconds that one is kept without a request.
    """

    def __init__(self, to: Address, connect_timeout: float, idle: float) -> None:
        self.to = to
        self._connect_timeout = connect_timeout
        self._idle_seconds = idle
        self._idle: deque[Upstream] = deque()
        self.open: set[Upstream] = set()
        self._loop = asyncio.get_running_loop()

    def take(self) -> Upstream | None:
        """Use the connection that rested last, if there is one."""
        while self._idle:
            upstream = self._idle.pop()
            if not upstream.transport.is_closing():
                return upstream
        return None

    async def connect(self) -> Upstream:
        """Make a new connection; OSError or TimeoutError when there is none."""
        name = self.to.host if self.to.tls else None
        async with asyncio.timeout(self._connect_timeout):
            _, upstream = await self._loop.create_connection(
                lambda: Upstream(self), self.to.host, self.to.port, ssl=self.to.tls, server_hostname=name
            )
        return upstream

    def give_back(self, upstream: Upstream) -> None:
        """Keep a connection for the next request."""
        if self._idle_seconds <= 0 or len(self._idle) >= MAX_IDLE:
            upstream.transport.close()
            return
        upstream.used = True
        upstream.transport.resume_reading()
        upstream.since = self._loop.time()
        self._idle.append(upstream)

    def forget(self, upstream: Upstream) -> None:
        """Keep no connection that is gone."""
        self.open.discard(upstream)
        if upstream.exchange is None and upstream in self._idle:
            self._idle.remove(upstream)

    def sweep(self) -> None:
        """Close what has rested for too long: before the model server does, so that no request meets its end."""
        until = self._loop.time() - self._idle_seconds
        while self._idle and self._idle[0].since < until:
            self._idle.popleft().transport.close()

    def close(self) -> None:
        """Close all."""
        for upstream in list(self.open):
            upstream.transport.abort()
