"""The front door: one event loop reads every request, whole and bounded, before a thread sees it.

``POST /v1/predictions`` is answered on the loop itself, without a framework, and ``POST /v1/feedback``
there, too, once it is on disk. Scrapes and probes do without one in threads. All other routes go to the
Flask application in threads, in groups so that none can starve another. A slow client costs a few
kilobytes, never a thread.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Awaitable
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from msgspec import structs

from exporter.errors import QueueFullError
from exporter.server.api.probes import Probes
from exporter.server.application import Exporter
from exporter.server.authorization import (
    CALLER,
    FEEDBACK,
    OPEN,
    PREDICTIONS,
    SAFE,
    SECURITY_HEADERS,
    UNSAFE,
    cross_origin_error,
    scope,
    scope_error,
)
from exporter.server.http1.connection import Front
from exporter.server.http1.handler import Site
from exporter.server.http1.headers import Request
from exporter.server.ingest import MAX_BODY, NDJSON, ONE_ACCEPTED, Ingest
from exporter.server.problem import CONTENT_TYPE, WRONG, Reply, problem
from exporter.server.request import SMALL_BODY, Call, head
from exporter.server.streaming import STREAMS, Streamed
from exporter.server.thread_pools import ThreadPools
from exporter.server.tokens import Caller
from exporter.server.web_config import WebConfig
from exporter.server.wsgi_bridge import call as call_app
from exporter.server.wsgi_bridge import environment
from exporter.validation import preview

if TYPE_CHECKING:
    from flask import Flask

log = logging.getLogger(__name__)

COMPRESSED = ("/v1/logs", "/v1/traces")
"""Routes that take gzip, as collectors send it."""
LARGE_BODY = 512 * 1024
"""Bytes from which a body is decoded in a thread: the loop must not wait for it."""
INFLIGHT_BYTES = 256 * 2**20
"""Bytes of large bodies being received or worked on at a time."""
UNREAD_BYTES = 256 * 2**20
"""Bytes of answers that may wait for clients to read them; beyond, those that read nothing are cut."""
_JSON = b"application/json"
_SECURE = tuple(SECURITY_HEADERS.items())


class FrontDoor(Site):
    """What is served.

    Parameters
    ----------
    exporter
        What it serves.
    web
        TLS, users and tokens.
    most
        Connections at a time.
    """

    def __init__(self, exporter: Exporter, web: WebConfig, most: int) -> None:
        super().__init__(most, patient=True)
        self._web = web
        self._health = exporter.health
        self._ingest = Ingest(exporter)
        self._probes = Probes(exporter)
        self._exporter = exporter
        self._app: Flask | None = None
        self._making = threading.Lock()
        self.groups = ThreadPools()
        self._held = 0
        self._streams = 0
        self._tick()

    @property
    def crowded(self) -> bool:
        """Whether the queue is more than half full; see `exporter.server.http1.handler.Site`."""
        return self._exporter.pipeline.crowded

    def exchange(self, front: Front, request: Request) -> Call:
        """What answers a request; see `exporter.server.http1.handler.Site`."""
        return Call(self, front, request)

    def refusal(self, status: int, detail: str) -> tuple[str, bytes]:
        """What a client is told who sends no request."""
        return CONTENT_TYPE, problem(status, detail).body

    def sweep(self) -> None:
        """End what takes too long."""
        super().sweep()
        self._tick()
        if self.unread > UNREAD_BYTES:
            for front in sorted(self.fronts, key=lambda front: front.unread, reverse=True):
                if front.stalled < front.loop.time() - 1:
                    self.unread -= front.unread
                    front.cut()
                if self.unread <= UNREAD_BYTES:
                    break

    def _tick(self) -> None:
        self.date = b"date: %b\r\n" % formatdate(usegmt=True).encode()
        length = b"content-length: %d\r\n" % len(ONE_ACCEPTED.body)
        self.accepted = head(ONE_ACCEPTED.status, ONE_ACCEPTED.content_type, (), self.date, length) + ONE_ACCEPTED.body

    def hold(self, more: int) -> bool:
        """Count bytes of large bodies, or forget them; whether there is room for them."""
        self._held += more
        return self._held <= INFLIGHT_BYTES

    def greet(self, call: Call) -> None:
        """Ask who it is, before its body is read."""
        if refused := cross_origin_error(call.method, call.header):
            call.refuse(refused)
        elif not self._web.guarded or (self._web.open_metrics and call.path in OPEN and call.method in SAFE):
            call.admit(None)
        elif caller := self._web.remembered(authorization := call.header("authorization")):
            self._welcome_back(call, caller)
        elif authorization and authorization[:6].lower() == "basic ":
            call.work(self._introduce(call, authorization))
        else:
            call.refuse(self._unknown())

    async def _introduce(self, call: Call, authorization: str) -> None:
        # Passwords are hashed in a thread of their own: a flood of wrong ones delays only new users.
        caller = await self.groups.passwords.run(lambda: self._web.authenticated(authorization))
        if call.done:  # its client went away, or its body broke off
            return
        if caller is None:
            call.refuse(self._unknown())
        else:
            self._welcome_back(call, caller)

    def _unknown(self) -> Reply:
        return problem(401, self._web.wanted, headers=self._web.challenges)

    def _welcome_back(self, call: Call, caller: Caller) -> None:
        if caller.bucket and (wait := caller.bucket.take(time.monotonic())):
            self._health.rejected.labels("rate_limited").inc()
            detail = f"the token {preview(caller.name)} may send {caller.bucket.rate:g} requests a second"
            call.refuse(problem(429, detail, headers=(("Retry-After", str(math.ceil(wait))),)))
        else:
            call.admit(caller)

    def take(self, call: Call, body: bytes) -> None:
        """Answer a request that is whole."""
        try:
            reply = self._at_once(call, body)
        except Exception as error:
            reply = self.failed(call, error)
        if reply is not None:
            call.reply(reply)

    def _at_once(self, call: Call, body: bytes) -> Reply | None:
        """The answer to what takes no time; None for what a thread is asked."""
        path, fields = call.path, call.fields
        encoding = fields.get(b"content-encoding", b"identity").lower()
        if body and encoding != b"identity" and not (encoding == b"gzip" and path in COMPRESSED):
            return problem(415, "a body must not be compressed", headers=(("Accept-Encoding", "identity"),))
        if path == "/v1/predictions" and call.method == "POST":
            if call.caller and (refused := scope_error(call.caller, UNSAFE[PREDICTIONS])):
                return refused
            kind = fields.get(b"content-type", _JSON)
            lines = kind != _JSON and kind.partition(b";")[0].strip().lower().decode("latin-1") in NDJSON
            ids = bool(call.query) and ("ids", "1") in parse_qsl(call.query)
            key = call.header("idempotency-key")
            if len(body) <= LARGE_BODY:
                return self._ingest.predictions(body, lines, key, ids)
            call.work(self.groups.large.run(lambda: self._ingest.predictions(body, lines, key, ids)))
        elif path == "/v1/feedback" and call.method == "POST":
            if call.caller and (refused := scope_error(call.caller, UNSAFE[FEEDBACK])):
                return refused
            key = call.header("idempotency-key")
            if len(body) <= SMALL_BODY:
                taking = self.groups.feedback.bounded(lambda: self._ingest.small_feedback(body, key))
            else:
                taking = self.groups.feedback.run(lambda: self._ingest.feedback(body, key))
            call.work(_secured(taking))
        elif path in OPEN and call.method in {"GET", "HEAD"}:
            if call.caller and (refused := scope_error(call.caller, scope(call.method, path))):
                return refused
            call.work(_secured(self.groups.of(path).run(lambda: self._probe(call))))
        else:
            call.work(self._page(call, body))
        return None

    def _probe(self, call: Call) -> Reply:
        if call.path == "/-/healthy":
            return self._probes.healthy()
        if call.path == "/-/ready":
            return self._probes.ready()
        names = [value for key, value in parse_qsl(call.query) if key == "name[]"]
        return self._probes.metrics(call.header("accept") or "", call.header("accept-encoding") or "", names)

    async def _page(self, call: Call, body: bytes) -> Reply | None:
        environ = environment(call, body)
        if call.caller:
            environ[CALLER] = call.caller
        reply = await self.groups.of(call.path).run(lambda: call_app(self._pages(), environ))
        if not isinstance(reply, Streamed):
            return reply
        if self._streams >= STREAMS:
            await self.groups.dataset.step(reply.close)
            return _busy(QueueFullError(f"{STREAMS} exports are being sent"), "5")
        self._streams += 1
        try:
            await call.pour(reply, self.groups.dataset.step)
        finally:
            self._streams -= 1
        return None

    def _pages(self) -> Flask:
        """Flask's application, made for the first who asks for a page: without visitors it takes no memory."""
        with self._making:
            if self._app is None:
                from exporter.server.flask_app import create_app

                self._app = create_app(self._exporter, self._ingest)
            return self._app

    def failed(self, call: Call, error: Exception) -> Reply:
        """The answer to a request that could not be worked on."""
        if isinstance(error, QueueFullError):
            return self.full(call, error)
        log.error("%s %s", call.method, call.path, exc_info=error)
        return problem(500, WRONG)

    def full(self, call: Call, error: QueueFullError) -> Reply:
        """The answer to a request for which there is no room."""
        return _busy(error) if call.method in SAFE else self._ingest.overloaded(error)

    def too_large(self) -> Reply:
        """The answer to a body that is too large; it is counted."""
        self._health.rejected.labels("too_large").inc()
        return problem(413, f"the body has more than {MAX_BODY} bytes, the most that is taken")

    async def drain(self, seconds: float) -> bool:
        """End; what has not arrived whole is refused, and its client may go on with the next exporter."""
        self.draining = True
        for front in list(self.fronts):
            if isinstance(front.current, Call):
                front.current.hurry()
            elif front.heading and not front.deaf:
                front.refuse(503, "the exporter stops, try again")
        return await super().drain(seconds)

    def close(self) -> None:
        """End the threads."""
        self.groups.close()


async def _secured(answer: Awaitable[Reply]) -> Reply:
    reply = await answer
    return structs.replace(reply, headers=(*reply.headers, *_SECURE))


def _busy(error: QueueFullError, seconds: str = "1") -> Reply:
    return problem(503, f"{error}, try again", headers=(("Retry-After", seconds),))
