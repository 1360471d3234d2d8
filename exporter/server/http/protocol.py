"""Bounds on what a client may do with a connection, around uvicorn's protocol.

Uvicorn parses HTTP/1.1 with httptools and runs the application. `BoundedProtocol` adds what uvicorn leaves to a
proxy in front: limits on the time a request takes to arrive, the number of connections, the requests read ahead of
the one being answered, and the answers that wait for a client to read them. Limits on the size of a request are in
`exporter.server.http.request_parser`.
"""

from __future__ import annotations

import math
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.server import ServerState

from exporter.server.http.problem import Reply, problem
from exporter.server.http.request_parser import RequestParser
from exporter.server.http.response_writer import ResponseWriter
from exporter.server.http.turns import Turns

HEAD_SECONDS = 15.0
"""Time in which a head must arrive."""
BODY_SECONDS = 30.0
"""Time in which a body must arrive."""
IDLE_SECONDS = 75.0
"""Time that a connection may be idle."""
WRITE_SECONDS = 30.0
"""Time that a client may read nothing of its answers."""
LINGER_SECONDS = 2.0
"""Time that a client has to read why its connection is closed."""
MAX_REFUSALS = 100
"""Connections beyond the limit that get an answer at a time; more are closed without one."""
_STEP = 256  # bytes parsed at a time: one of small requests becomes many requests that wait


class BoundedProtocol(RequestParser):
    """One connection.

    Parameters
    ----------
    config, server_state
        Uvicorn's.
    max_connections
        Connections served at a time.
    turns
        Begins the requests of all connections.
    """

    def __init__(self, config: Config, server_state: ServerState, max_connections: int, turns: Turns) -> None:
        super().__init__(config, server_state)
        self._max_connections = max_connections
        self._turns = turns
        self._unparsed = b""
        self._active: RequestResponseCycle | None = None
        self._eof = self._next_waits = False
        self._unread = 0
        now = self.loop.time()
        self._body_since = self._last_write = self._held_since = now
        self._closing_since = math.inf

    def connection_made(self, transport: Any) -> None:
        """Refuse the connection where there are too many."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self)
        self._writer = ResponseWriter(transport)
        beyond = len(self.connections) - self._max_connections
        if beyond > MAX_REFUSALS:
            transport.abort()
        elif beyond > 0:
            self.fail(503, "too many connections")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request under way, and drop every reference that would keep the connection in memory."""
        super().connection_lost(exc)
        if self._active is not None:
            self._disconnect(self._active)
        self.pipeline.clear()
        self._unparsed = b""
        self.cycle = self.flow = self._active = None  # type: ignore[assignment]

    # --- requests -----------------------------------------------------------------------------

    @property
    def must_wait(self) -> bool:
        """Whether nothing more is read: earlier requests are not answered, or earlier answers not read."""
        if self._error is not None:
            return False
        cycle = self._active
        unread_body = cycle is not None and not cycle.response_complete and len(cycle.body) > HIGH_WATER_LIMIT
        return bool(self._unparsed or self.pipeline or self.flow.write_paused or unread_body)

    def data_received(self, data: bytes) -> None:
        """Parse requests; what comes after an error is discarded."""
        if self._error is None:
            self._unparsed = self._unparsed + data if self._unparsed else data
            self._parse()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer what arrived: the client may only have closed its side."""
        if self.scheme == "https" or self._closing_since < math.inf:
            return False
        self._eof = True
        self._parse()
        return True

    def _parse(self) -> None:
        """Parse what arrived, up to one request behind the one being answered."""
        data, self._unparsed = self._unparsed, b""
        start = 0
        while start < len(data) and self._error is None and not (self.pipeline or self.flow.write_paused):
            end = start + max(_STEP, self._body_left)
            self._feed(data[start:end])
            start = end
        if self._error is None:
            self._unparsed = data[start:]
            if self._unparsed:
                self.flow.pause_reading()
            elif self._eof:
                self._finish(400, "the request broke off")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any, pipelined: bool = False) -> None:
        self._active = cycle
        self._body_since = self.loop.time()
        begin = super()._start_asgi_task
        self._turns.add(lambda: None if cycle.disconnected else begin(cycle, app), pipelined)

    @property
    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _finish(self, status: int, detail: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Take no more requests: refuse one that has not arrived, or close once the one that has is answered."""
        if self._in_message:
            self.fail(status, detail, headers)
        elif self._busy:
            self.cycle.keep_alive = False
        else:
            self._writer.close()

    # --- answers ------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """Go on with the next request, once the client reads its answers."""
        self._writer.flush()
        if self.pipeline and self.flow.write_paused and not self.transport.is_closing():
            self._next_waits = True
            return
        if self.transport.is_closing():
            return
        self._head_since = self.loop.time()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop(), pipelined=True)
        elif self._error is not None:
            self._refuse(self._error)
        if self._unparsed or self._eof:
            self._parse()
        self.flow.resume_reading()

    def pause_writing(self) -> None:
        """Read no requests of a client that does not read its answers."""
        super().pause_writing()
        self._writer.pause()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """Go on: the client has read some of its answers."""
        super().resume_writing()
        self._last_write = self.loop.time()
        self._writer.resume()
        if self.flow.write_paused:
            return
        if self._next_waits:
            self._next_waits = False
            self.on_response_complete()
        elif self._unparsed and not self.transport.is_closing():
            self._parse()
        self.flow.resume_reading()

    # --- errors and time limits ---------------------------------------------------------------

    def fail(self, status: int, detail: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Answer with a problem document once earlier requests are answered, and close the connection."""
        if self._error is not None:
            return
        self._error = problem(status, detail, headers=headers)
        self._unparsed = b""
        cycle = self.cycle
        if not self._busy:
            self._refuse(self._error)
        elif cycle.more_body and self.pipeline:
            self.pipeline.popleft()  # the newest request, whose body broke off
        elif cycle.more_body:
            self._disconnect(cycle)
            if cycle.response_started:
                self.transport.close()
            else:
                self._refuse(self._error)

    def _refuse(self, error: Reply) -> None:
        headers = [("content-type", error.content_type), ("content-length", str(len(error.body))), *error.headers]
        lines = [f"{name.lower()}: {value}\r\n".encode("latin-1") for name, value in headers]
        lines += [b"%b: %b\r\n" % pair for pair in self.server_state.default_headers]
        self._closing_since = self.loop.time()
        self._writer.write(b"".join([STATUS_LINE[error.status], *lines, b"connection: close\r\n\r\n", error.body]))
        self._writer.flush()
        if self._eof or self.scheme == "https" or self._writer.waiting:
            self._writer.close()
        else:  # a client that still sends would lose the answer if the connection were closed now
            self.transport.write_eof()
            self.flow.resume_reading()

    @staticmethod
    def _disconnect(cycle: RequestResponseCycle) -> None:
        cycle.disconnected = True
        cycle.waiting_for_100_continue = False
        cycle.message_event.set()

    def shutdown(self) -> None:
        """Finish the requests that arrived and refuse those that have not, so that their senders try again."""
        self._finish(503, "the exporter stops: nothing was taken, try again", (("retry-after", "1"),))

    def check(self, now: float) -> int:
        """Close a connection that takes too long; return the bytes that it holds."""
        unread = self.transport.get_write_buffer_size() + self._writer.waiting
        if unread < self._unread or not unread:
            self._last_write = now
        self._unread = unread
        if self.flow.read_paused:  # it is not the client that is slow
            self._head_since = self._body_since = now
        body = 0 if self._active is None or self._active.response_complete else len(self._active.body)
        held = unread + len(self._unparsed) + body
        if not held:
            self._held_since = now
        if now - self._last_write > WRITE_SECONDS:
            self.transport.abort()
        elif now - self._closing_since > LINGER_SECONDS and not unread:
            self.transport.close()
        elif self._in_head and now - self._head_since > HEAD_SECONDS:
            self.fail(408, f"the head did not arrive within {HEAD_SECONDS:g} seconds")
        elif self._in_message and not self._in_head and now - self._body_since > BODY_SECONDS:
            self.fail(408, f"the body did not arrive within {BODY_SECONDS:g} seconds")
        elif not (self._in_message or self._busy) and now - self._head_since > IDLE_SECONDS:
            self.transport.close()
        return held

    @property
    def idle_since(self) -> float:
        """When the connection became idle; infinite while a request arrives or is answered."""
        return math.inf if self._busy or (self._in_message and not self._in_head) else self._head_since

    def holds_long(self, now: float) -> bool:
        """Return whether the connection has held bytes for longer than a moment."""
        return now - self._held_since > 1


class _Flow(FlowControl):
    """Uvicorn resumes reading for each request; here only once its connection need not wait."""

    def __init__(self, transport: Any, protocol: BoundedProtocol) -> None:
        super().__init__(transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        if self.read_paused and not self._protocol.must_wait:
            super().resume_reading()
