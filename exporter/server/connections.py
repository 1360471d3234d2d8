"""Listening sockets, TLS handshakes, and bounds on what a client may do with a connection, around uvicorn's protocol.

Uvicorn parses HTTP/1.1 with httptools and runs the application. `BoundedProtocol` adds what uvicorn leaves to a
proxy in front: limits on the time a request takes to arrive, the number of connections, the requests read ahead of
the one being answered, the size of a request, and the answers that wait for a client to read them.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import contextlib
import errno
import heapq
import math
import re
import select
import socket
import ssl
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import httptools
from uvicorn import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from exporter.errors import StackError
from exporter.server.problem import Reply, problem

BACKLOG = 4096
"""Connections that may wait to be accepted."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening TCP socket.

    Raises
    ------
    StackError
        When it cannot listen on the address.
    """
    bound = None
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
    except OSError as error:
        if bound is not None:
            bound.close()
        hint = "; stop what listens there ('make down' if 'make up' started it), or choose another address"
        taken = hint if error.errno == errno.EADDRINUSE else ""
        raise StackError(f"cannot listen on {host}:{port}: {error.strerror}{taken}") from None
    return bound


def listen_at(path: Path) -> socket.socket:
    """Return a listening Unix socket; replace a socket that an ended process left behind.

    Raises
    ------
    StackError
        See `_remove_stale`; also when the path is not valid for a socket.
    """
    _remove_stale(path)
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.bind(str(path))
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise StackError(f"{path}: cannot listen on it: {error.strerror or error}") from None
    return bound


def _remove_stale(path: Path) -> None:
    """Remove a socket that an ended process left behind, and nothing else.

    Raises
    ------
    StackError
        When another process listens on it, the path is not a socket, or its folder does not exist.
    """
    if not path.parent.is_dir():
        raise StackError(f"{path}: cannot listen on it: its folder does not exist")
    if path.exists() and not path.is_socket():
        raise StackError(f"{path}: cannot listen on it: it is a file, not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise StackError(f"{path}: cannot listen on it: {error.strerror or error}") from None
    raise StackError(f"{path}: cannot listen on it: another process already does")


ACCEPTED = 64
"""Connections accepted in a pass of the loop; libuv would accept one, however many wait."""
BEGUN_HANDSHAKES = 4
"""TLS handshakes begun in a pass of the loop: each signs, which takes a millisecond with an RSA key."""
HANDSHAKES = 1000
"""TLS handshakes at a time: each takes 60 KiB."""
ENDED_EVERY_SECONDS = 0.0025
"""Interval at which the oldest handshake makes room for another one when there are so many."""
HANDSHAKE_SECONDS = 10.0
"""Time in which a TLS handshake must be complete once the client has begun it."""
SILENT_SECONDS = 30.0
"""Time in which a client must begin its TLS handshake, and get its turn."""
OLDEST_EVERY = 4
"""One in so many handshakes is that of the client that has waited longest, the others those of the newest."""
CLOSE_SECONDS = 30.0
"""Time that a TLS client may take to read its last response and to confirm the end of the connection."""
_PAUSE_SECONDS = 0.1  # while there is no file descriptor for a connection
_HUNG_UP = getattr(select, "POLLRDHUP", 0)


class Acceptor:
    """Accepts the TLS connections of a listening socket.

    Of the clients that have sent a part of a TLS handshake, mostly the newest is next: those of a flood, who wait
    before it, must not delay it.

    Parameters
    ----------
    bound
        The socket.
    factory
        Returns the protocol of a connection.
    context
        The TLS context of new connections, which may be replaced.
    room
        Returns how many connections may be added to those that have a protocol.
    """

    def __init__(
        self,
        bound: socket.socket,
        factory: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext,
        room: Callable[[], int],
    ) -> None:
        self.context = context
        self._bound = bound
        self._factory = factory
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[socket.socket, float] = {}  # without a handshake, since when
        self._ready: OrderedDict[socket.socket, None] = OrderedDict()  # those of them that have sent something
        self._opening: dict[asyncio.Task[None], socket.socket] = {}
        self._begun = 0
        self._next: asyncio.Handle | None = None
        bound.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Accept nothing more, and end the handshakes under way."""
        self._loop.remove_reader(self._bound)
        if self._next:
            self._next.cancel()
        for client in list(self._waiting):
            self._drop(client)
        for task in self._opening:
            task.cancel()

    def check(self, now: float) -> None:
        """Close the connections that wait too long."""
        for client in [client for client, since in self._waiting.items() if now - since > SILENT_SECONDS]:
            self._drop(client)

    def _listen(self) -> None:
        self._loop.add_reader(self._bound, self._accept)

    def _accept(self) -> None:
        try:
            for _ in range(ACCEPTED):
                client, _address = self._bound.accept()
                self._waiting[client] = self._loop.time()
                self._loop.add_reader(client, self._arrived, client)
        except BlockingIOError:
            pass
        except OSError:
            self._loop.remove_reader(self._bound)
            self._loop.call_later(_PAUSE_SECONDS, self._listen)
        surplus = len(self._waiting) + len(self._opening) - self._room()
        for client in list(self._waiting)[: max(surplus, 0)]:
            self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        del self._waiting[client]
        self._ready.pop(client, None)
        self._loop.remove_reader(client)
        client.close()

    def _arrived(self, client: socket.socket) -> None:
        self._loop.remove_reader(client)
        self._ready[client] = None
        self._begin_soon()

    def _begin_soon(self) -> None:
        if self._ready and not self._next:
            self._next = self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._next = None
        most = self._begun + BEGUN_HANDSHAKES
        while self._ready and self._begun < most:
            if len(self._opening) >= HANDSHAKES:
                self._end_oldest()
                self._next = self._loop.call_later(ENDED_EVERY_SECONDS, self._begin)
                return
            client, _ = self._ready.popitem(last=self._begun % OLDEST_EVERY > 0)
            if _has_hung_up(client):
                self._drop(client)
            else:
                del self._waiting[client]
                self._connect(client)
                self._begun += 1
        self._begin_soon()

    def _end_oldest(self) -> None:
        """End a handshake, but leave its connection open for a while: a hostile client would connect again at once."""
        task, client = next(iter(self._opening.items()))
        del self._opening[task]
        with contextlib.suppress(OSError):  # the handshake may have failed in this pass of the loop
            self._waiting[client.dup()] = self._loop.time()
        task.cancel()

    def _connect(self, client: socket.socket) -> None:
        task = self._loop.create_task(self._open(client))
        self._opening[task] = client
        task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.pop(task, None)
        self._begin_soon()

    async def _open(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._factory,
                client,
                ssl=self.context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=CLOSE_SECONDS,
            )
        except (OSError, asyncio.CancelledError):  # that a client's handshake fails is no fault of the exporter
            client.close()


def _has_hung_up(client: socket.socket) -> bool:
    poll = select.poll()
    poll.register(client, _HUNG_UP)
    return bool(poll.poll(0))


_PIECE = 64 * 1024
asyncio.sslproto.SSLProtocol.max_size = _PIECE  # read at a time: with TLS, a connection holds several times as much
SECURITY_HEADERS = (
    b"content-security-policy: default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; "
    b"img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'\r\n"
    b"x-content-type-options: nosniff\r\n"
    b"referrer-policy: same-origin\r\n"  # no-referrer would make browsers hide the Origin of our own forms
)
"""Headers of every response, whoever makes it. Uvicorn would check each of them again for each response."""


class ResponseWriter:
    """Send responses as fast as the client reads, and a head together with the body that follows.

    Two system calls cost more than the rest of a small response. A transport with TLS would encrypt all of a large one
    at once, and not count what the client has yet to read.

    Attributes
    ----------
    waiting : int
        Bytes that the transport does not have yet.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._paused = False
        self._head, self._in_response = b"", False
        self._pieces: deque[bytes] = deque()
        self._closing = False
        self.waiting = 0
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Send data; the head of a response gets `SECURITY_HEADERS`, and waits for what follows it."""
        if self._head:
            data, self._head = b"%b%b\r\n%b" % (self._head[:-2], SECURITY_HEADERS, data), b""
        elif not self._in_response and not data.startswith(b"HTTP/1.1 100"):
            self._head, self._in_response = data, True
            return
        if len(data) <= _PIECE and not self._pieces:
            self._transport.write(data)
            return
        self._pieces.extend(data[start : start + _PIECE] for start in range(0, len(data), _PIECE))
        self.waiting += len(data)
        self._send()

    def pause(self) -> None:
        """Send nothing: the transport's buffer is full."""
        self._paused = True

    def resume(self) -> None:
        """Go on: the transport has sent what it had."""
        self._paused = False
        self._send()

    def _send(self) -> None:
        while self._pieces and not self._paused:
            piece = self._pieces.popleft()
            self.waiting -= len(piece)
            self._transport.write(piece)
        if self._closing and not self._pieces:
            self._transport.close()

    def flush(self) -> None:
        """Send a head that waits; what comes next is another head."""
        if self._head:
            self.write(b"")
        self._in_response = False

    def close(self) -> None:
        """Close the connection once everything is sent."""
        self.flush()
        self._closing = True
        self._send()


REQUESTS = 16
"""Requests begun in a pass of the event loop, and answered in the next, if they wait for nothing."""


class Turns:
    """Begins a few requests in each pass of the event loop, and pipelined ones after all others."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = REQUESTS
        self._single: deque[Callable[[], None]] = deque()
        self._pipelined: deque[Callable[[], None]] = deque()

    def add(self, begin: Callable[[], None], pipelined: bool) -> None:
        """Call ``begin`` now, or in a later pass if many requests are begun in this one."""
        if self._left == REQUESTS:
            self._loop.call_soon(self._next_pass)
        if self._left:
            self._left -= 1
            begin()
        else:
            (self._pipelined if pipelined else self._single).append(begin)

    def _next_pass(self) -> None:
        self._left = REQUESTS
        if self._single or self._pipelined:
            self._loop.call_soon(self._next_pass)
        while self._left and (waiting := self._single or self._pipelined):
            self._left -= 1
            waiting.popleft()()


MAX_HEAD = 64 * 1024
"""Bytes of a head, of trailers, or of the lines between chunks."""
SMALL_CHUNKS = 10_000
"""Chunks of a few bytes that a body may have: each costs as much as a kilobyte."""
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
_NO_PATH = re.compile(rb"(https?://[^/?]+)(?=$|\?)", re.IGNORECASE)
_FRAMING = (b"content-length", b"transfer-encoding")


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


class BoundedProtocol(HttpToolsProtocol):
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
        super().__init__(config, server_state, {"answer": self.answer})
        self._max_connections = max_connections
        self._turns = turns
        self._writer: ResponseWriter
        self._error: Reply | None = None  # what the client is told once its earlier requests are answered
        self._in_message = self._in_head = False
        self._framing = b""  # of a body beside an offer to upgrade, which its parser would skip
        self._resuming = False
        self._overhead = self._body_left = self._body_size = self._chunks = 0
        self._unparsed = b""
        self._active: RequestResponseCycle | None = None
        self._eof = self._next_waits = False
        self._unread = 0
        now = self.loop.time()
        self._head_since = self._body_since = self._last_write = self._held_since = now
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
        self.cycle = self.flow = self._active = self.scope = None  # type: ignore[assignment]
        self.app_state = {}

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

    def _feed(self, data: bytes) -> None:
        """Parse bytes, and refuse a request that is not HTTP/1.1 or has too large a head."""
        self._overhead += len(data)
        if not self._in_message and not data.isascii():
            line, end, rest = data.partition(b"\n")  # some clients do not percent-encode what their user typed
            data = _NOT_ASCII.sub(lambda byte: b"%%%02X" % ord(byte[0]), line) + end + rest
        while data and self._error is None:
            try:
                self.parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                data = self._decline_upgrade() + data[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                self.fail(400, f"the request is not valid HTTP/1.1: {error}")
        if self._overhead > MAX_HEAD:
            self.fail(431, f"expected a head of at most {MAX_HEAD} bytes")

    def _decline_upgrade(self) -> bytes:
        """Make a new parser, for that of an offer to upgrade skips the body; return the head it needs to read one."""
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        framing, self._framing = self._framing, b""
        self._resuming = bool(framing)
        return b"POST / HTTP/1.1\r\n%b\r\n" % framing if framing else b""

    # --- what httptools finds ---------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a request."""
        if not self._resuming:
            self._in_message = self._in_head = True
            self._head_since = self.loop.time()
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        if not self._resuming:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers are ignored."""
        if self._in_head:
            super().on_header(name, value)
            if self.headers[-1][0] == b"content-length":
                self._body_left = int(value)

    def on_headers_complete(self) -> None:
        """Start a request, or queue it."""
        if self._resuming:
            self._resuming = False
            return
        self._in_head = False
        self._overhead = self._body_size = self._chunks = 0
        if self._error is not None:
            return
        version = self.parser.get_http_version()
        if version not in {"1.0", "1.1"}:
            self.fail(400, f"the request is not valid HTTP/1.1: its version is {version}")
            return
        if self.url[:1] != b"/":
            self.url = _NO_PATH.sub(rb"\1/", self.url)
        if self.parser.should_upgrade():
            self._framing = b"".join(b"%b: %b\r\n" % pair for pair in self.headers if pair[0] in _FRAMING)
        if version == "1.0":  # which has no interim answers
            self.expect_100_continue = False
        super().on_headers_complete()
        self.cycle.transport = self._writer  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._overhead = 0
        self._body_left -= len(body)
        self._body_size += len(body)
        self._chunks += 1
        if self._error is None:
            super().on_body(body)
            if self._chunks > SMALL_CHUNKS and self._body_size < 64 * self._chunks:
                self.fail(400, "the body comes in far too many chunks")

    def on_message_complete(self) -> None:
        """End a request, unless its body follows an offer to upgrade."""
        self._overhead = 0
        if not self._framing:
            self._in_message = False
            self._body_left = 0
            if self._error is None:
                self.cycle.keep_alive &= self.parser.should_keep_alive()  # trailers can end the connection, too
                super().on_message_complete()

    # --- requests that begin --------------------------------------------------------------------

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

    def answer(self, head: bytes, body: bytes) -> bool:
        """Send a response that is always the same, unless the connection is in another state than usual.

        Uvicorn would take as long to check it as all else takes. The application finds this in ``scope["state"]``.
        """
        cycle = self._active
        if cycle is None or cycle.disconnected or not cycle.keep_alive or self.flow.write_paused:
            return False
        dates = [b"%b: %b\r\n" % pair for pair in self.server_state.default_headers]
        self._writer.write(b"%b%b\r\n" % (head, b"".join(dates)))
        self._writer.write(body)
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        self.on_response_complete()
        return True

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
        self._writer.write(b"".join([STATUS_LINE[error.status], *lines, b"connection: close\r\n\r\n"]))
        self._writer.write(error.body)
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


HELD_BYTES = 128 * 2**20
"""Bytes that all connections together may hold: answers that nobody reads, and requests that wait."""


def check_connections(connections: Collection[Any], now: float, most: int) -> None:
    """Close connections that take too long or hold too much memory and, if there are many, those idle for longest.

    Of ``most`` connections, a tenth stays free for clients that are yet to come.
    """
    held: dict[BoundedProtocol, int] = {connection: connection.check(now) for connection in list(connections)}
    total = sum(held.values())
    for connection in sorted(held, key=lambda one: held[one], reverse=True) if total > HELD_BYTES else ():
        if connection.holds_long(now):
            connection.transport.abort()
            total -= held[connection]
        if total <= HELD_BYTES:
            break
    surplus = len(held) - most * 9 // 10
    for connection in heapq.nsmallest(surplus, held, key=lambda one: one.idle_since) if surplus > 0 else ():
        if connection.idle_since < now:
            connection.transport.abort()


def all_finished(connections: Collection[Any]) -> bool:
    """Return whether all connections are closed, except that clients may have to confirm it."""
    transports = [connection.transport for connection in connections]
    return all(transport.is_closing() and not transport.get_write_buffer_size() for transport in transports)
