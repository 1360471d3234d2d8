"""Connections of clients: requests one after the other, each an exchange."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import TYPE_CHECKING

import httptools

from exporter.http1 import heads
from exporter.http1.connection import Connection

if TYPE_CHECKING:
    from exporter.http1.site import Exchange, Site

HEAD_SECONDS = 15.0
"""What a head may take to come."""
IDLE_SECONDS = 75.0
"""How long a connection may rest."""
SLICE = 16 * 1024
"""Bytes that are read at a time: so many small requests may wait for the one before them."""
LINGER_SECONDS = 2.0
"""How long a client that still sends is listened to, so that it gets to read why nobody wants it."""
_NOT_ASCII = re.compile(rb"[\x80-\xff]")


class Front(Connection):
    """One connection of a client."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self._site = site
        self._parser = httptools.HttpRequestParser(self)
        self.current: Exchange | None = None
        self._reading: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._bad: tuple[int, str] | None = None
        self._fields: list[heads.Field] = []
        self._url = self._rest = b""
        self._quiet = 0
        self.unread = 0
        self._deaf = False
        self._ended = False
        self._stopped = False
        self._begun = False
        self.paused = False
        self.peer = ""
        self.touched = self.loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        super().connection_made(transport)
        name = transport.get_extra_info("peername")
        self.peer = str(name[0]) if isinstance(name, tuple) else ""
        if self._site.welcome(self):
            return
        self._refuse(503, "too many connections")

    def data_received(self, data: bytes) -> None:
        """Bytes of requests, or of what is none."""
        if self._deaf:
            return
        if self._rest:
            self._rest += data
            return
        self._corked = True  # what is answered at once leaves in one piece, without another turn of the loop
        self._feed(data)
        self._corked = False
        self.flush()

    def _feed(self, data: bytes) -> None:
        """Read requests, but no more than a few ahead of the one that is worked on."""
        self._rest = b""
        for start in range(0, len(data), SLICE):
            if self._waiting:
                self._rest = data[start:]
                break
            self._parse(data[start : start + SLICE])
            if self._deaf:
                break
        if self._ended and not self._rest and not self._deaf and (self._reading is not None or self._begun):
            self._malformed(400, "the request broke off")
        self.throttle()

    def _parse(self, data: bytes) -> None:
        self._quiet += len(data)
        if self._reading is None and not self._begun and not data.isascii():
            line, end, rest = data.partition(b"\n")  # some clients send an address as its user wrote it
            data = _NOT_ASCII.sub(lambda byte: b"%%%02X" % ord(byte[0]), line) + end + rest
        while data:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:  # which nobody grants: the answer is in HTTP/1.1
                data = data[upgrade.args[0] :]
                self._deaf = self._url_is_authority()
                continue
            except httptools.HttpParserError as error:
                self._malformed(400, f"the request is no HTTP/1.1: {error}")
            break
        if self._quiet > heads.MAX_HEAD and not self._deaf:
            self._malformed(431, f"expected a head of at most {heads.MAX_HEAD} bytes")

    def eof_received(self) -> bool:
        """No more will come, whether the client is gone or only waits for its answer."""
        if not self._site.patient or self.transport.get_extra_info("sslcontext"):  # TLS ends both ways at once
            return False
        self._ended = True
        self._feed(self._rest)
        self.flush()
        return self.current is not None or bool(self._waiting)

    def _url_is_authority(self) -> bool:
        return self._parser.get_method() == b"CONNECT"

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._begun = True
        self.touched = self.loop.time()
        self._fields = []
        self._url = b""

    def on_url(self, part: bytes) -> None:
        """Take the target, or a part of it."""
        self._url += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head, or a trailer."""
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """Begin the exchange, or have it wait for those before."""
        if self._deaf:
            return
        self._begun = False
        self._quiet = 0
        parser = self._parser
        fields, self._fields = self._fields, []
        old = parser.get_http_version() != "1.1"
        line = heads.Line(parser.get_method(), _origin(self._url), parser.should_keep_alive(), old)
        self._reading = exchange = self._site.exchange(self, line, fields)
        if self.current is None and not self.paused:
            self.current = exchange
            exchange.start()
        else:
            self._waiting.append(exchange)

    def on_body(self, part: bytes) -> None:
        """Pass a part of the body on."""
        self._quiet = 0
        if self._reading is not None:
            self._reading.body(part)

    def on_message_complete(self) -> None:
        """End the request."""
        self._quiet = 0
        if self._reading is not None:
            reading, self._reading = self._reading, None
            answered = reading.done
            reading.body_end(self._fields)
            if answered and self.current is None:
                self._next()

    def _malformed(self, status: int, detail: str) -> None:
        """Answer what has come whole, then say what was wrong."""
        self._deaf = True
        if self._reading is not None and self._reading is self.current:
            self.current.broken(status, detail)
        elif self._reading is not None and self._reading.done:
            self._linger()
        elif self.current is None and not self._waiting:
            self._refuse(status, detail)
        else:
            if self._reading is not None and self._waiting:
                self._waiting.pop().gone()
            self._bad = (status, detail)

    def _refuse(self, status: int, detail: str) -> None:
        """Answer without an exchange, and close."""
        self._deaf = True
        kind, body = self._site.refusal(status, detail)
        ends = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        self.write(heads.response(status, heads.phrase(status), (), ends.encode()) + body)
        self._linger()

    def over(self, exchange: Exchange, keep: bool) -> None:
        """Go on after an exchange, with the next one if one waits."""
        self.current = None
        self.touched = self.loop.time()
        if not exchange.sent_whole:
            # Its client may be in the middle of a body; when the rest has come, or not, the connection ends.
            self.loop.call_soon(self._after, exchange, keep)
        elif not keep:
            self._linger()
        else:
            self._next()

    def _after(self, exchange: Exchange, keep: bool) -> None:
        if not exchange.sent_whole or not keep:
            self._linger()

    def _next(self) -> None:
        if self.paused:  # the client reads nothing: what it wants besides can wait until it does
            return
        if self._waiting:
            self.current = self._waiting.popleft()
            self.loop.call_soon(self._start, self.current)
        elif self._rest:
            self.loop.call_soon(self._go_on)
        elif self._bad is not None:
            bad, self._bad = self._bad, None
            self._refuse(*bad)
        elif self._site.draining or self._deaf or self._ended:
            self._linger()
        self.throttle()

    def _go_on(self) -> None:
        if self._rest and self.current is None and not self._deaf:
            self._feed(self._rest)

    def _start(self, exchange: Exchange) -> None:
        if exchange is self.current and not exchange.done:
            exchange.start()
            self.throttle()

    def throttle(self) -> None:
        """Read from the client only as fast as its requests are worked on, and its answers are read."""
        current = self.current
        stop = not self._deaf and bool(
            self._waiting or self._rest or self.paused or (current is not None and current.full)
        )
        if stop != self._stopped and not self.transport.is_closing():
            self._stopped = stop
            (self.transport.pause_reading if stop else self.transport.resume_reading)()

    def pause_writing(self) -> None:
        """Slow down: the client does not read."""
        self.paused = True
        if self.current is not None:
            self.current.pause()

    def resume_writing(self) -> None:
        """Go on."""
        self.paused = False
        if self.current is not None:
            self.current.resume()
        else:
            self._next()
        self.throttle()

    def _linger(self) -> None:
        """Close as soon as the client has, or soon: one that is still sending would lose the answer otherwise."""
        self._deaf = True
        self.touched = self.loop.time()
        if not self.transport.is_closing():
            self.flush()
            if self._ended:
                self.transport.close()
            elif self.transport.can_write_eof():
                self.transport.write_eof()
            self.throttle()

    def cut(self) -> None:
        """End in the middle of an answer, so that the client cannot take it for whole."""
        self._deaf = True
        self.transport.abort()

    def drain(self) -> None:
        """Close where nothing is under way; what is under way ends the connection itself."""
        if self.current is None and not self._begun:
            self._linger()

    def sweep(self, now: float) -> int:
        """End what takes too long; bytes that wait for the client to read them."""
        current = self.current
        left = self.transport.get_write_buffer_size()
        if left < self.unread:
            self.touched = now
        self.unread = left
        if self._deaf and current is None:
            if now - self.touched > (IDLE_SECONDS if left else LINGER_SECONDS):
                self.transport.abort()
        elif current is not None:
            current.check(now)
        elif self._begun and now - self.touched > HEAD_SECONDS:
            self._refuse(408, "the head of the request did not come in time")
        elif now - self.touched > IDLE_SECONDS:
            (self.transport.abort if left else self.transport.close)()
        return left

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """Gone."""
        self._deaf = True
        self._site.leave(self)
        for exchange in (self.current, *self._waiting):
            if exchange is not None:
                exchange.gone()
        self.current = self._reading = None
        self._waiting.clear()


def _origin(target: bytes) -> bytes:
    """A target without the host, which some clients name in front of it."""
    if target[:1] == b"/" or target[:4].lower() != b"http":
        return target
    _, colon, rest = target.partition(b"://")
    if not colon:
        return target
    _, slash, path = rest.partition(b"/")
    return slash + path if slash else b"/"
