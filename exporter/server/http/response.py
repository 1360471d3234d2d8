"""Sends responses over ASGI, as fast as their clients read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from exporter.server.http.problem import Reply
from exporter.server.http.request import Request, Send
from exporter.server.http.streaming import STREAMS, Streamed

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
