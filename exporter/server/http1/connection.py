"""Connections of clients: requests one after the other, each an exchange."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from exporter.server.http1 import headers
from exporter.server.http1.parser import WRONG, Reader
from exporter.server.http1.transport import Connection

if TYPE_CHECKING:
    from exporter.server.http1.handler import Exchange, Site

log = logging.getLogger(__name__)

HEAD_SECONDS = 15.0
"""What a head may take to come."""
IDLE_SECONDS = 75.0
"""How long a connection may rest."""
CROWDED_SECONDS = 0.005
"""How long nothing more is read from a client that has just sent something, while too much waits to be worked on."""
LINGER_SECONDS = 2.0
"""How long a client that still sends is listened to, so that it gets to read why nobody wants it."""
SLICE = 16 * 1024
"""Bytes that are received at a time, and in a turn of the loop: the others come next. So many may wait."""
_TOLD = 100  # clients beyond the limit that are told so at a time; more take files that others need
_received = memoryview(bytearray(SLICE))  # one for all connections: what is in it is copied at once


class Front(Connection, asyncio.BufferedProtocol):
    """One connection of a client.

    Attributes
    ----------
    current
        What is answered at this moment.
    deaf
        Whether nothing more is read; what has come whole is answered nevertheless, unless the connection ends.
    paused, stalled
        Whether the client reads too little of its answers, and since when by the loop's time.
    unread
        Bytes that waited for it at the last look.
    touched
        When something moved last.
    """

    def __init__(self, site: Site) -> None:
        super().__init__()
        self._site = site
        self._reader = Reader(self)
        self.current: Exchange | None = None
        self._reading: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._bad: tuple[int, str] | None = None
        self._rest = b""
        self.unread = 0
        self._sated = self._stopped = self._ended = False
        self.deaf = self.paused = False
        self.stalled = math.inf
        self.peer = ""
        self.touched = self.loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        super().connection_made(transport)
        name = transport.get_extra_info("peername")
        self.peer = str(name[0]) if isinstance(name, tuple) else ""
        self._tls = transport.get_extra_info("sslcontext") is not None
        if self._tls:
            cast(Any, transport).set_read_buffer_limits(SLICE, 0)  # of bytes that are not deciphered: 512 KiB otherwise
        beyond = self._site.welcome(self)
        if beyond > _TOLD:
            self.cut()
        elif beyond > 0:
            self.refuse(503, "too many connections")

    @property
    def heading(self) -> bool:
        """Whether the head of a request has come in part."""
        return self._reader.heading

    # --- what comes ---------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Where to put what comes."""
        return _received

    def buffer_updated(self, count: int) -> None:
        """Bytes of requests, or of what is none."""
        if self.deaf:
            return
        data = bytes(_received[:count])
        if self._site.crowded:  # whoever works on what has come needs the processor more
            self._sated = True
            self.loop.call_later(CROWDED_SECONDS, self._go_on)
        elif count == SLICE:  # there may be more, but others come first
            self._sated = True
            self.loop.call_soon(self._go_on)
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
        place = 0
        while place < len(data) and not self.deaf:
            if self._waiting:
                self._rest = data[place:]
                break
            step = self._reader.step
            self._reader.read(data[place : place + step])
            place += step
        if self._ended and self._reader.midst and not self._rest and not self.deaf:
            self.malformed(400, "the request broke off")
        self.throttle()

    def eof_received(self) -> bool:
        """No more will come, whether the client is gone or only waits for its answer."""
        if self._tls or not self._site.patient:  # TLS ends both ways at once
            return False
        self._ended = True
        self._feed(self._rest)
        if self.current is None and not self._waiting:
            self._linger()
        return True

    # --- what the reader finds in it ----------------------------------------------------------

    def request(self, request: headers.Request) -> None:
        """Begin an exchange, or have it wait for those before."""
        self._reading = exchange = self._site.exchange(self, request)
        if self.current is None and not self.paused:
            self.current = exchange
            exchange.start()
        else:
            self._waiting.append(exchange)

    def body(self, part: bytes) -> None:
        """Pass a part of the body on."""
        if self._reading is not None:
            self._reading.body(part)

    def whole(self, trailers: Sequence[headers.Field]) -> None:
        """End a request."""
        reading = self._reading
        if reading is not None:
            answered = reading.done
            reading.body_end(trailers)
            self._reading = None
            if answered and self.current is None:
                self._next()

    def malformed(self, status: int, detail: str) -> None:
        """Answer what has come whole, then say what was wrong."""
        self.deaf = True
        reading, self._reading = self._reading, None
        if reading is not None and reading.done:
            self._linger()
        elif reading is not None and reading is self.current:
            reading.broken(status, detail)
        else:
            if reading is not None:
                self._waiting.pop().gone()
            self._bad = (status, detail)
            if self.current is None:
                self._next()

    # --- one after the other ------------------------------------------------------------------

    def refuse(self, status: int, detail: str) -> None:
        """Answer without an exchange, and close."""
        kind, body = self._site.refusal(status, detail)
        ends = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n".encode() + headers.connection(False, False)
        self.write(headers.response(status, headers.phrase(status), (), ends) + body)
        self._linger()

    def over(self, exchange: Exchange, keep: bool) -> None:
        """Go on after an exchange, with the next one if one waits."""
        self.current = None
        self.touched = self.loop.time()
        if not keep:
            self._linger()
        elif exchange.sent_whole:
            self._next()
        else:  # its client may be at the end of a body
            self.loop.call_soon(self._after, exchange)

    def _after(self, exchange: Exchange) -> None:
        if not exchange.sent_whole:
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
            self.refuse(*self._bad)
        elif self._site.draining or self.deaf or self._ended:
            self._linger()
        self.throttle()

    def _start(self, exchange: Exchange) -> None:
        if exchange is self.current and not exchange.done:
            try:
                exchange.start()
            except Exception:
                log.exception("a request cannot be worked on")
                exchange.broken(500, WRONG)
        self._go_on()  # with the rest of its body, or with the next

    def _go_on(self) -> None:
        self._sated = False
        if self._rest and not self._waiting:
            self._feed(self._rest)
        self.throttle()

    # --- how fast, and how long ---------------------------------------------------------------

    def throttle(self) -> None:
        """Read from the client only as fast as its requests are worked on, and its answers are read."""
        current = self.current
        stop = not self.deaf and bool(
            self._sated or self._waiting or self._rest or self.paused or (current is not None and current.full)
        )
        if stop != self._stopped and not self.transport.is_closing():
            self._stopped = stop
            (self.transport.pause_reading if stop else self.transport.resume_reading)()

    def pause_writing(self) -> None:
        """Slow down: the client does not read."""
        self.paused = True
        self.stalled = self.loop.time()
        if self.current is not None:
            self.current.pause()
        self.throttle()

    def resume_writing(self) -> None:
        """Go on."""
        self.paused = False
        self.stalled = math.inf
        if self.current is not None:
            self.current.resume()
        else:
            self._next()
        self.throttle()

    def _linger(self) -> None:
        """Close as soon as the client has, or soon: one that is still sending would lose the answer otherwise."""
        sending = self._reader.midst
        waiting, self._waiting = self._waiting, deque()
        for exchange in waiting:
            exchange.gone()
        self.deaf = True
        self._bad = self._reading = None
        self._rest = b""
        self.touched = self.loop.time()
        if not self.transport.is_closing():
            self.flush()
            if self._ended or (self._tls and not sending):  # TLS cannot say that only one side has ended
                self.transport.close()
            elif self.transport.can_write_eof():
                self.transport.write_eof()
            self.throttle()

    def cut(self) -> None:
        """End in the middle of an answer, so that the client cannot take it for whole."""
        self.deaf = True
        self.transport.abort()

    def drain(self) -> None:
        """Close where nothing is under way; what is under way ends the connection itself."""
        if self.current is None and not self.heading:
            self._linger()

    def sweep(self, now: float) -> int:
        """End what takes too long; bytes that wait for the client to read them."""
        current = self.current
        left = self.transport.get_write_buffer_size()
        if left < self.unread:
            self.touched = now
        self.unread = left
        if current is not None:
            current.check(now)
        elif self.deaf and not left and now - self.touched > LINGER_SECONDS:
            (self.transport.abort if self.transport.is_closing() else self.transport.close)()
            self.touched = now
        elif self.heading and not self.deaf and now - self.touched > HEAD_SECONDS:
            self.refuse(408, "the head of the request did not come in time")
        elif now - self.touched > IDLE_SECONDS:
            (self.transport.abort if left or self.deaf else self.transport.close)()
        return left

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """Gone."""
        self.deaf = True
        self._site.leave(self)
        for exchange in (self.current, *self._waiting):
            if exchange is not None:
                exchange.gone()
        self.current = self._reading = None
        self._waiting.clear()
        self._reader.close()
