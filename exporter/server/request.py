"""One request of the ASGI application: its headers, and its body in bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import Any, NamedTuple

from exporter.errors import QueueFullError
from exporter.server.access import Caller
from exporter.server.problem import Reply, problem
from exporter.server.routes import OTHER
from exporter.wire.formats import MAX_BODY

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

INFLIGHT_BYTES = 128 * 2**20
"""Bytes of large bodies being received or worked on at a time."""
SMALL_BODY = 16 * 1024
"""Bytes up to which a body does not count there: one on each connection is as much as the bound of all others."""
DISCARDED_BODY = 64 * 1024
"""Bytes of a refused body that are read so that its connection can be used again."""
MAX_DISCARDED = 8 * MAX_BODY
"""Bytes of a body that is too large that are read, so that its sender gets to read why."""
LINGER_SECONDS = 1.5
"""Time in which a client that is still sending gets to read why nobody wants it; less than the connection has."""


class RequestError(Exception):
    """The request is refused; ``reply`` says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


class ClientDisconnectedError(Exception):
    """Nobody waits for an answer any more."""


class InflightBytes:
    """Bytes of bodies that all requests together hold."""

    def __init__(self) -> None:
        self.total = 0

    def add(self, size: int) -> None:
        """Count bytes.

        Raises
        ------
        QueueFullError
            When there are too many.
        """
        self.total += size
        if self.total > INFLIGHT_BYTES:
            raise QueueFullError("too many request bodies are being received")


class Request:
    """A request.

    Parameters
    ----------
    scope, receive
        As ASGI has them.
    inflight
        Where large bodies are counted.

    Attributes
    ----------
    headers
        By names in lower case; values of the same name are joined with commas.
    caller
        Who sends it, where that was asked.
    received
        Whether all of it has arrived.
    route
        Its route, under whose rule it is counted.
    """

    def __init__(self, scope: Scope, receive: Receive, inflight: InflightBytes) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers = join_headers(scope["headers"])
        self.caller: Caller | None = None
        self.received = False
        self.route = OTHER
        self._receive = receive
        self._inflight = inflight
        self._held = 0

    @property
    def client(self) -> str:
        """The address of the client; empty on a Unix socket."""
        client: tuple[str, int] | None = self.scope["client"]
        return client[0] if client else ""

    @property
    def query(self) -> str:
        """The query string."""
        text: bytes = self.scope["query_string"]
        return text.decode("latin-1")

    def header(self, name: str) -> str | None:
        """Return the value of a header by its name in lower case."""
        value = self.headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    @property
    def length(self) -> int:
        """The announced size of the body in bytes."""
        return int(self.headers.get(b"content-length", 0))

    @property
    def reusable(self) -> bool:
        """Whether what is left of the body is little enough to be read for the sake of the connection."""
        expects = b"expect" in self.headers or b"transfer-encoding" in self.headers
        return self.received or not (expects or self.length > DISCARDED_BODY)

    async def body(self, most: int) -> bytes:
        """Receive the body, which may have so many bytes.

        Raises
        ------
        RequestError
            When it is too large.
        QueueFullError
            When all bodies together are too large.
        ClientDisconnectedError
            When it does not arrive.
        """
        if self.length > most and (self.length > MAX_DISCARDED or b"expect" in self.headers):
            raise _too_large(most)
        body = await self._part()
        if not (self.received and len(body) <= SMALL_BODY):
            body = await self._large_body(bytearray(body), most)
        return body

    async def _large_body(self, body: bytearray, most: int) -> bytes:
        size = len(body)
        try:
            self._hold(size)
            while not self.received:
                part = await self._part()
                size += len(part)
                self._hold(len(part))
                if size > most:
                    raise _too_large(most)
                body += part
        except (RequestError, QueueFullError):
            self.release()
            body.clear()
            while not self.received and size <= MAX_DISCARDED:
                size += len(await self._part())
            raise
        return bytes(body)

    async def _part(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError
        self.received = not message.get("more_body", False)
        body: bytes = message.get("body", b"")
        return body

    async def discard(self) -> None:
        """Receive what is left of the body."""
        while not self.received:
            await self._part()

    async def linger(self) -> None:
        """Receive what the client still sends, for a moment."""
        with contextlib.suppress(TimeoutError, ClientDisconnectedError):
            async with asyncio.timeout(LINGER_SECONDS):
                await self.discard()

    async def disconnected(self) -> None:
        """Wait until the client disconnects; the body must have been received."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _hold(self, size: int) -> None:
        self._held += size
        self._inflight.add(size)

    def release(self) -> None:
        """Count the body no longer."""
        self._inflight.total -= self._held
        self._held = 0


def join_headers(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the values of headers by their names, joined with commas where there are several.

    >>> join_headers([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")])
    {b'a': b'1, 3', b'b': b'2'}
    """
    headers = dict(pairs)
    if len(headers) == len(pairs):
        return headers
    several: dict[bytes, list[bytes]] = {}
    for name, value in pairs:
        several.setdefault(name, []).append(value)
    return {name: b", ".join(values) for name, values in several.items()}


def _too_large(most: int) -> RequestError:
    return RequestError(problem(413, f"the body has more than {most} bytes, the most that is taken"))


log = logging.getLogger(__name__)

SEND_SECONDS = 30.0
"""Time that a client may take to read the next piece of a streamed body."""
STALLED_SECONDS = 5.0
"""Time after which a client that takes nothing of a streamed body is disconnected if another one waits for a stream."""
PIECE = 64 * 1024
"""Bytes of a streamed body that wait for its client at a time."""
_CLOSE = (b"connection", b"close")


async def respond(request: Request, reply: Reply, send: Send) -> None:
    """Send a response; what is left of the request is read, or the connection closed."""
    if not request.received and request.reusable:
        await request.discard()
    headers = _encode(reply.headers)
    if reply.content_type:
        headers.append((b"content-type", reply.content_type.encode("latin-1")))
    bare = reply.status in {204, 304}
    if not bare and (reply.body or request.method != "HEAD"):
        headers.append((b"content-length", b"%d" % len(reply.body)))
    body = b"" if bare or request.method == "HEAD" else reply.body
    if not request.received:
        headers.append(_CLOSE)
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    if not request.received:
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await request.linger()  # a client that still sends would lose the response if the connection were closed now
        body = b""
    await send({"type": "http.response.body", "body": body})


class StreamLimit:
    """Limits the responses that are streamed at the same time to `STREAMS`."""

    def __init__(self) -> None:
        self._limits: dict[Request, asyncio.Timeout | None] = {}

    def admit(self, request: Request) -> bool:
        """Return whether a response may be streamed; at the limit, instead of one whose client takes nothing."""
        if len(self._limits) >= STREAMS:
            ends = {other: limit.when() or 0.0 for other, limit in self._limits.items() if limit}
            stalled = min(ends, key=lambda other: ends[other], default=None)
            now = asyncio.get_running_loop().time()
            if stalled is None or ends[stalled] - now > SEND_SECONDS - STALLED_SECONDS:
                return False
            if limit := self._limits.pop(stalled):
                limit.reschedule(now)
        self._limits[request] = None
        return True

    def release(self, request: Request) -> None:
        """Count a response no longer."""
        self._limits.pop(request, None)

    @contextlib.asynccontextmanager
    async def sending(self, request: Request) -> AsyncIterator[None]:
        """Limit the time in which a client takes a piece."""
        async with asyncio.timeout(SEND_SECONDS) as limit:
            if request in self._limits:
                self._limits[request] = limit
            yield
        if request in self._limits:
            self._limits[request] = None


async def stream(
    request: Request, streamed: Streamed, send: Send, step: Callable[..., Awaitable[Any]], limit: StreamLimit
) -> None:
    """Send a response piece by piece, each made in a thread.

    Should that fail half-way, the connection is closed before the end: nobody may take it for the whole.
    """
    disconnected = asyncio.create_task(request.disconnected())
    try:
        headers = _encode(streamed.headers)
        await send({"type": "http.response.start", "status": streamed.status, "headers": headers})
        chunk: bytes | None = streamed.first
        while chunk is not None:
            for start in range(0, len(chunk), PIECE):
                if disconnected.done():
                    log.info("%s: the client disconnected", request.path)
                    return
                async with limit.sending(request):
                    body = chunk[start : start + PIECE]
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            chunk = await step(lambda: next(streamed.rest, None))
        await send({"type": "http.response.body"})
    except TimeoutError:
        log.warning("%s: the client stopped reading the response", request.path)
    except Exception:
        log.exception("%s: the response ended too early", request.path)
    finally:
        disconnected.cancel()
        with contextlib.suppress(RuntimeError, ValueError):  # the threads have ended, or still make a piece
            await step(streamed.close)


def _encode(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


STREAMED = "exporter.streamed"
"""The key in the WSGI environment of a response that is streamed."""
STREAMS = 8
"""Responses that are streamed at the same time."""


class Streamed(NamedTuple):
    """A response whose body is produced while it is sent: ``first`` is its beginning, ``rest`` yields what follows."""

    status: int
    headers: list[tuple[str, str]]
    first: bytes
    rest: Iterator[bytes]
    close: Callable[[], None]
