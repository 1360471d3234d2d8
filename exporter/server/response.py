"""Sends responses over ASGI, as fast as their clients read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from exporter.server.problem import Reply
from exporter.server.request import Request, Send
from exporter.server.streaming import Streamed

log = logging.getLogger(__name__)

SEND_SECONDS = 30.0
"""Time that a client may take to read the next piece of a streamed body."""
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


async def stream(request: Request, streamed: Streamed, send: Send, step: Callable[..., Awaitable[Any]]) -> None:
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
                    log.info("%s: the client went away", request.path)
                    return
                async with asyncio.timeout(SEND_SECONDS):
                    body = chunk[start : start + PIECE]
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            chunk = await step(lambda: next(streamed.rest, None))
        await send({"type": "http.response.body"})
    except TimeoutError:
        log.warning("%s: the client took nothing for %g s", request.path, SEND_SECONDS)
    except Exception:
        log.exception("%s: the answer broke off", request.path)
    finally:
        disconnected.cancel()
        with contextlib.suppress(RuntimeError, ValueError):  # the threads have ended, or still make a piece
            await step(streamed.close)


def _encode(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
