"""One request at the front door: its body in time and in bounded memory, its answer as fast as its client reads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from exporter.errors import QueueFullError
from exporter.server.http1.connection import Front
from exporter.server.http1.handler import Exchange
from exporter.server.http1.headers import CONTINUE, Field, Request, chunk, connection, phrase, response
from exporter.server.ingest import MAX_BODY, ONE_ACCEPTED
from exporter.server.problem import Reply, problem
from exporter.server.streaming import Step, Streamed
from exporter.server.tokens import Caller

if TYPE_CHECKING:
    from exporter.server.http_service import FrontDoor

log = logging.getLogger(__name__)

BODY_SECONDS = 30.0
"""Time a client has to send a body."""
SMALL_BODY = 16 * 1024
"""Bytes up to which a body is not counted: one on each connection is as much again as the bound of all others."""
SEND_SECONDS = 30.0
"""How long a client may take for the next piece of a body."""
SMALL_PARTS = 10_000
"""Parts of a body that may be of a few bytes each: every one costs as much as a kilobyte."""
PIECE = 64 * 1024
"""Bytes of a streamed body that wait for its client at a time."""
_MUCH = 8 * MAX_BODY  # so much of a body that is refused is read, so that its sender hears why


class Call(Exchange):
    """A request and its answer.

    Attributes
    ----------
    method, path, query
        What is asked for; the path is decoded, and both are bytes as Latin-1, as WSGI has it.
    fields
        The header by names in small letters; what came several times is joined with commas.
    caller
        Who asks, where that was asked.
    """

    def __init__(self, door: FrontDoor, front: Front, request: Request) -> None:
        self._door = door
        self.front = front
        self._request = request
        self.method = request.method.decode("latin-1")
        target, _, query = request.target.partition(b"?")
        self.path = (unquote_to_bytes(target) if b"%" in target else target).decode("latin-1")
        self.query = query.decode("latin-1")
        self.fields = request.known
        self.caller: Caller | None = None
        self._admitted = False
        self._body: bytes | bytearray = b""
        self._size = self._held = self._count = 0
        self._fault: Reply | None = None
        self._until = 0.0
        self._working = 0
        self._answering = False
        self._room: asyncio.Future[None] | None = None

    def header(self, name: str) -> str | None:
        """A field of the header as Latin-1, by its name in small letters."""
        value = self.fields.get(name.encode())
        return None if value is None else value.decode("latin-1")

    # --- the request --------------------------------------------------------------------------

    def start(self) -> None:
        """Ask the door who this is."""
        self._door.greet(self)

    @property
    def full(self) -> bool:
        """Whether the rest of the body must wait: nobody knows yet who sends it."""
        return not self._admitted and self._size > SMALL_BODY

    def admit(self, caller: Caller | None) -> None:
        """Let it in: from now on its body is waited for."""
        self.caller = caller
        self._admitted = True
        self._until = self.front.loop.time() + BODY_SECONDS
        request = self._request
        if self.sent_whole:
            self._take()
        elif request.length > MAX_BODY and (request.length > _MUCH or b"expect" in self.fields):
            self.reply(self._door.too_large())
        elif b"expect" in self.fields and not (self._size or request.old):
            if self.fields[b"expect"].lower() == b"100-continue":
                self.front.write(CONTINUE)
        elif self._size:
            self.front.throttle()

    def refuse(self, reply: Reply) -> None:
        """Answer without reading more than is on its way."""
        request = self._request
        if self.sent_whole or b"expect" in self.fields or request.chunked or request.length >= PIECE:
            self.reply(reply)
        else:
            self._fault = reply
            self.admit(None)

    def body(self, part: bytes) -> None:
        """Take a part of the body, if there is room for it; what is refused is read all the same, for a while."""
        if self.done:
            return
        self._size += len(part)
        if self._size > _MUCH:
            self.reply(self._fault or self._door.too_large())
        elif self._fault is not None:
            return
        elif self._size > MAX_BODY:
            self._drop(self._door.too_large())
        elif self._size > SMALL_BODY and not self._hold():
            self._drop(self._door.full(self, QueueFullError("too many bodies arrive at this moment")))
        else:
            self._add(part)

    def _add(self, part: bytes) -> None:
        if not self._body:
            self._body = part
            return
        if isinstance(self._body, bytes):
            self._body = bytearray(self._body)
        self._body += part  # and no list: parts of two bytes would take twenty times the bound
        self._count += 1
        if self._count > SMALL_PARTS and self._size < 64 * self._count:
            self.reply(problem(400, "the body comes in far too many chunks"))

    def _hold(self) -> bool:
        more, self._held = self._size - self._held, self._size
        return self._door.hold(more)

    def _drop(self, fault: Reply) -> None:
        self._fault = fault
        self._body = b""
        self._release()

    def body_end(self, trailers: Sequence[Field]) -> None:  # noqa: ARG002
        """The request is whole; trailers are for nobody."""
        self.sent_whole = True
        if self._admitted and not self.done:
            self._take()

    def _take(self) -> None:
        if self._fault is not None:
            self.reply(self._fault)
            return
        body, self._body = self._body, b""
        self._door.take(self, bytes(body))

    # --- the answer ---------------------------------------------------------------------------

    def work(self, answer: Coroutine[Any, Any, Reply | None]) -> None:
        """Answer what a coroutine says, once it does; None where it has gone on itself."""
        self._working += 1
        self.front.loop.create_task(self._work(answer))

    async def _work(self, answer: Coroutine[Any, Any, Reply | None]) -> None:
        try:
            reply = await answer
            if reply is not None:
                self.reply(reply)
        except Exception as error:
            self.reply(self._door.failed(self, error))
        finally:
            self._working -= 1
            if self.done:
                self._release()

    def reply(self, reply: Reply) -> None:
        """Answer whole."""
        if self.done:
            return
        if self._answering:  # there is another answer on its way, which is not whole
            self.front.cut()
            return
        request = self._request
        keep = request.keep and self.sent_whole and not self._door.draining
        if reply is ONE_ACCEPTED and keep and not request.old:
            self.front.write(self._door.accepted)
        else:
            bare = reply.status in {204, 304}
            unseen = bare or self.method == "HEAD"
            ends = b"" if unseen and (bare or not reply.body) else b"content-length: %d\r\n" % len(reply.body)
            ends += connection(keep, request.old)
            start = head(reply.status, reply.content_type, reply.headers, self._door.date, ends)
            self.front.write(start if unseen else start + reply.body)
        self._finish()
        self.front.over(self, keep)

    async def pour(self, answer: Streamed, step: Step) -> None:
        """Send an answer piece by piece, each made in a thread.

        Should that fail half-way, the connection is cut: nobody may take it for whole.
        """
        sized = any(name.lower() == "content-length" for name, _ in answer.headers)
        old = self._request.old
        chunked = not sized and not old
        keep = self._request.keep and (sized or chunked) and not self._door.draining
        try:
            if self.done:
                return
            self._answering = True
            ends = (b"transfer-encoding: chunked\r\n" if chunked else b"") + connection(keep, old)
            self.front.write(head(answer.status, "", answer.headers, self._door.date, ends))
            made: bytes | None = answer.first
            while made is not None:
                for start in range(0, len(made), PIECE):
                    if self.done:
                        log.info("%s: the client went away", self.path)
                        return
                    piece = made[start : start + PIECE]
                    self.front.write(chunk(piece) if chunked else piece)
                    self.front.flush()
                    if self.front.paused:
                        await self._drained()
                made = await step(lambda: next(answer.rest, None))
            if not self.done:
                if chunked:
                    self.front.write(b"0\r\n\r\n")
                self._finish()
                self.front.over(self, keep)
        except TimeoutError:
            log.warning("%s: the client took nothing for %g s", self.path, SEND_SECONDS)
            self.front.cut()
        except Exception:
            log.exception("%s: the answer broke off", self.path)
            self.front.cut()
        finally:
            with contextlib.suppress(RuntimeError, ValueError):  # the threads have ended, or still make a piece
                await step(answer.close)

    async def _drained(self) -> None:
        self._room = self.front.loop.create_future()
        async with asyncio.timeout(SEND_SECONDS):
            await self._room

    def pause(self) -> None:
        """Nothing: what is sent piece by piece looks itself."""

    def resume(self) -> None:
        """The client reads again, or has gone."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    # --- what goes wrong ----------------------------------------------------------------------

    def check(self, now: float) -> None:
        """End a body that takes too long."""
        if self._admitted and not self.sent_whole and now > self._until:
            self.broken(408, f"the body did not arrive within {BODY_SECONDS:g} seconds")

    def hurry(self) -> None:
        """Refuse what has not arrived: the exporter stops. Its client may go on with the next one."""
        if not self.sent_whole:
            self.reply(self._door.full(self, QueueFullError("the exporter stops")))

    def broken(self, status: int, detail: str) -> None:
        """Say what is wrong with a request of which the rest will not come."""
        self.reply(problem(status, detail))

    def gone(self) -> None:
        """Forget it; what a thread has begun is done nevertheless."""
        self._finish()
        self.resume()

    def _finish(self) -> None:
        self.done = True
        self._body = b""
        if not self._working:
            self._release()

    def _release(self) -> None:
        """Nobody works on the body any more."""
        held, self._held = self._held, 0
        self._door.hold(-held)


def head(status: int, kind: str, headers: Sequence[tuple[str, str]], date: bytes, ends: bytes) -> bytes:
    """The head of an answer.

    Parameters
    ----------
    status, kind, headers
        The status, the media type where it is not among the headers, and these.
    date, ends
        Lines that say when it is, and how it and its connection end.
    """
    lines = [date]
    if kind:
        lines.append(f"content-type: {kind}\r\n".encode("latin-1"))
    for name, value in headers:
        if "\r" in value or "\n" in value:
            raise ValueError(f"a line break in {name}")
        lines.append(f"{name.lower()}: {value}\r\n".encode("latin-1"))
    return response(status, phrase(status), lines, ends)
