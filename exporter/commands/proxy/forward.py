"""One request on its way to the model server, and the answer on its way back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from exporter.client.ids import time_ordered_id
from exporter.commands.proxy import headers
from exporter.commands.proxy.headers import Head
from exporter.commands.proxy.recorder import Copy
from exporter.server.http1 import handler as site
from exporter.server.http1.headers import Field, Request, chunk, connection, phrase, response

if TYPE_CHECKING:
    from exporter.commands.proxy.handler import Site
    from exporter.commands.proxy.upstream import Upstream
    from exporter.server.http1.connection import Front

_BACKLOG = 64 * 1024
"""Bytes of a body that are read before there is a connection to pass them on."""
_AGAIN = frozenset([b"GET", b"HEAD", b"OPTIONS"])
GONE = 499
"""The code of a request whose client went away, as others log it."""


class Exchange(site.Exchange):
    """A request and its response; see `Front` for who calls, and `Upstream` for who answers."""

    def __init__(self, site: Site, front: Front, request: Request) -> None:
        self.method, self._target, self._keep, self._old, fields, _ = self._request = request
        self._site = site
        self.front = front
        self._head = head = headers.read(fields, headers.OF_REQUESTS)
        self._time = time.time_ns()
        self._started = self.touched = front.loop.time()
        given = headers.identifier(head.known.get(b"x-request-id"))
        self._id = time_ordered_id(self._time) if given is None else given
        self._named = site.named(self.method, self._target)
        self._copy = site.recorder.copy(head) if self._named and site.recorder else None
        self._answer_copy: Copy | None = None
        self._pending: list[bytes] = []
        self.backlog = 0
        self.upstream: Upstream | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._begun = False
        self._answering = False
        self._chunking = False

    def touch(self) -> None:
        """Something has moved."""
        self.touched = self.front.loop.time()

    # --- the request --------------------------------------------------------------------------

    def start(self) -> None:
        """Pass the request on, or say why not."""
        self._begun = True
        self._site.in_flight += 1
        known = self._head.known
        if local := self._site.local(self.method, self._target):
            self._reply(*local)
        elif headers.PSEUDONYM in known.get(b"via", b""):
            self._forget()
            self._keep = False
            self._problem(508, "this request has been here before: --upstream leads back to this proxy")
        elif upstream := self._site.pool.take():
            self._use(upstream)
        else:
            self._connecting = self.front.loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            upstream = await self._site.pool.connect()
        except TimeoutError:
            self.failed("timeout", "the model server did not take the connection in time")
        except (OSError, ValueError) as error:
            self.failed("connect", "the model server cannot be reached", str(error))
        else:
            self._use(upstream)
        finally:
            self._connecting = None

    def _use(self, upstream: Upstream) -> None:
        self.upstream = upstream
        upstream.begin(self)
        self.touch()
        to = self._site.pool.to
        asked = self._request._replace(target=to.prefix + self._target)
        head = headers.request(asked, self._head, self._id, self.front.peer, (self._site.host, to.netloc))
        for part in (head, *self._pending):
            upstream.write(part)
        self._pending.clear()
        self.backlog = 0
        if self.front.paused:
            upstream.transport.pause_reading()
        self.front.throttle()

    def _pass(self, data: bytes) -> None:
        if self.upstream is not None:
            self.upstream.write(data)
        elif not self.done:
            self._pending.append(data)
            self.backlog += len(data)

    @property
    def full(self) -> bool:
        """Whether the client must wait with the rest of its body."""
        return self.upstream.paused if self.upstream is not None else self.backlog > _BACKLOG

    def body(self, part: bytes) -> None:
        """A part of the request's body."""
        self.touch()
        if self.done:
            return
        if self._copy is not None:
            self._copy.add(part)
        self._pass(chunk(part) if self._head.chunked else part)

    def body_end(self, trailers: Sequence[Field]) -> None:
        """The request is whole."""
        self.touch()
        self.sent_whole = True
        if self._head.chunked and not self.done:
            self._pass(headers.last_chunk(trailers))

    def try_again(self) -> bool:
        """Take another connection where this one had rested and was closed under a request that changes nothing."""
        if self.method not in _AGAIN or not self.sent_whole or self._head.chunked:
            return False
        if b"content-length" in self._head.known or self._answering:
            return False
        self.upstream = None
        self._connecting = self.front.loop.create_task(self._connect())
        return True

    # --- the response -------------------------------------------------------------------------

    def interim(self, status: int, reason: bytes, head: Head) -> None:
        """Pass on an answer before the answer, such as 100 (Continue)."""
        if not self._old:
            self.front.write(response(status, reason, head.lines, b""))

    def answer(self, status: int, reason: bytes, head: Head, bare: bool) -> None:
        """Begin to answer; ``bare`` is an answer without a body, whatever its head says."""
        self._answering = True
        self.code = status
        self._id = headers.identifier(head.known.get(b"x-request-id")) or self._id  # the model server's own word
        ends = b"X-Request-Id: %b\r\n" % self._id.encode()
        if self._copy is not None and self._site.recorder:
            self._answer_copy = self._site.recorder.copy(head)
        if b"content-length" not in head.known:
            self._chunking = not bare and not self._old
            self._keep = self._keep and (bare or not self._old)
            if self._chunking or (head.chunked and self.method == b"HEAD" and not self._old):
                ends += b"Transfer-Encoding: chunked\r\n"
        self.front.write(response(status, reason, head.lines, ends + self._connection()))

    def _connection(self) -> bytes:
        self._keep = self._keep and not self._site.draining
        return connection(self._keep, self._old)

    def answered(self, part: bytes) -> None:
        """A part of the response's body."""
        if self._answer_copy is not None:
            self._answer_copy.add(part)
        self.front.write(chunk(part) if self._chunking else part)

    def end(self, trailers: Sequence[Field]) -> None:
        """The response is whole."""
        if self._chunking:
            self.front.write(headers.last_chunk(trailers))
        self._finish()
        self.front.over(self, self._keep)

    # --- what goes wrong ----------------------------------------------------------------------

    def _problem(self, status: int, detail: str) -> None:
        title = phrase(status).decode()
        body = json.dumps({"title": title, "status": status, "detail": f"model-exporter proxy: {detail}"}).encode()
        self._reply(status, "application/problem+json", body)

    def _reply(self, status: int, kind: str, body: bytes) -> None:
        self.code = status
        self._answering = True
        ends = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nX-Request-Id: {self._id}\r\n".encode()
        head = response(status, phrase(status), (), ends + self._connection())
        self.front.write(head if self.method == b"HEAD" else head + body)
        self._finish()
        self.front.over(self, self._keep)

    def failed(self, reason: str, detail: str, why: str = "") -> None:
        """The model server did not answer, or not to the end."""
        if self.done:
            return
        self._site.fault(reason, f"{detail}: {why}" if why else detail)
        status = 504 if reason == "timeout" else 502
        if not self._answering:
            self._problem(status, detail)
            return
        self.code = status  # whatever the head said: the model's answer never came
        self._finish()
        self.front.cut()

    def broken(self, status: int, detail: str) -> None:
        """The client's request cannot be passed on to its end."""
        if self.done:
            return
        if self._answering:
            self.gone()
            self.front.cut()
        else:
            self._drop_upstream()
            self._keep = False
            self._problem(status, detail)

    def gone(self) -> None:
        """The client went away."""
        if not self.done:
            self.code = GONE
            self._finish()

    def pause(self) -> None:
        """Slow the model server down: the client does not read."""
        if self.upstream is not None:
            self.upstream.transport.pause_reading()

    def resume(self) -> None:
        """Go on."""
        self.touch()
        if self.upstream is not None:
            self.upstream.transport.resume_reading()

    def check(self, now: float) -> None:
        """End what has not moved for too long."""
        if now - self.touched <= self._site.timeout:
            return
        if self.front.paused:
            self.gone()
            self.front.cut()
        elif not self.sent_whole and not self.full and self._connecting is None:
            self.broken(408, "the rest of the request did not come in time")
        elif self.upstream is not None:
            self.upstream.fail("timeout", "the model server did not answer in time")

    # --- the end ------------------------------------------------------------------------------

    def _drop_upstream(self) -> None:
        if self._connecting is not None and self._connecting is not asyncio.current_task():
            self._connecting.cancel()
        if self.upstream is not None and self.upstream.exchange is self:
            self.upstream.exchange = None
            self.upstream.transport.abort()

    def _finish(self) -> None:
        """Count and record the exchange, once."""
        self.done = True
        if not self._begun:  # it waited for those before
            self._forget()
            return
        self._drop_upstream()
        self._pending.clear()
        seconds = self.front.loop.time() - self._started
        self._site.finished(self.code)
        if self._named and self._copy and self._site.recorder:
            copies = (self._copy, self._answer_copy)
            self._site.recorder.record(self._named, self._id, (self._time, seconds), self.code, copies)

    def _forget(self) -> None:
        """Record nothing."""
        if self._copy is not None:
            self._copy.take()
        self._named = None
