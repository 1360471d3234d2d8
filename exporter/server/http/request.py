"""One request of the ASGI application: its headers, and its body in bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from exporter.errors import QueueFullError
from exporter.server.http.problem import Reply, problem
from exporter.server.tokens import Caller

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

INFLIGHT_BYTES = 128 * 2**20
"""Bytes of large bodies being received or worked on at a time."""
SMALL_BODY = 16 * 1024
"""Bytes up to which a body does not count there: one on each connection is as much as the bound of all others."""
DISCARDED_BODY = 64 * 1024
"""Bytes of a refused body that are read so that its connection can be used again."""
MAX_BODY = 16 * 2**20
"""Bytes of a request's body."""
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
    """

    def __init__(self, scope: Scope, receive: Receive, inflight: InflightBytes) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers = join_headers(scope["headers"])
        self.caller: Caller | None = None
        self.received = False
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
