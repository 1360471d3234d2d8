"""The front door: one event loop reads every request, whole and bounded, before a thread sees it.

``POST /v1/predictions`` is answered on the loop itself, without a framework, and ``POST /v1/feedback``
without one in a thread, as it waits for the disk. All other routes go to the Flask application in
threads, in groups so that none can starve another: scrapes and health, feedback, datasets, other
servers' formats, and the rest. A slow client costs a coroutine,
never a thread.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Any
from urllib.parse import parse_qsl

from msgspec import structs

from exporter.errors import QueueFullError
from exporter.runtime import Exporter
from exporter.tokens import Caller
from exporter.validation import shown
from exporter.web.access import CALLER, FEEDBACK, OPEN, PREDICTIONS, SAFE, UNSAFE, forbidden, foreign
from exporter.web.api import NDJSON
from exporter.web.app import SECURITY_HEADERS, create_app
from exporter.web.bodies import Bodies
from exporter.web.bridge import call, environment
from exporter.web.groups import Groups
from exporter.web.ingest import Ingest
from exporter.web.problems import Reply, problem
from exporter.web.streaming import STREAMS, Streamed, pour
from exporter.web.wire import COMPRESSED
from exporter.webconfig import WebConfig

log = logging.getLogger(__name__)

LARGE_BODY = 512 * 1024
"""Bytes from which a body is decoded in a thread: the loop must not wait for it."""
_SECURE = tuple(SECURITY_HEADERS.items())


class FrontDoor:
    """The RSGI application.

    Parameters
    ----------
    exporter
        What it serves.
    web
        TLS, users and tokens.
    """

    def __init__(self, exporter: Exporter, web: WebConfig) -> None:
        self._web = web
        self._health = exporter.health
        self._ingest = Ingest(exporter)
        self._app = create_app(exporter, self._ingest)
        self._groups = Groups()
        self.bodies = Bodies(exporter.health)
        self._streams = 0

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """Answer one request."""
        try:
            reply = await self._answer(scope, protocol)
        except QueueFullError as error:
            reply = _busy(error) if scope.method in SAFE else self._ingest.overloaded(error)
        except Exception:
            log.exception("%s %s", scope.method, scope.path)
            reply = problem(500, "something went wrong here; the exporter's log says what")
        if isinstance(reply, Streamed):
            if self._streams < STREAMS:
                self._streams += 1
                try:
                    await pour(scope, protocol, reply, self._groups.dataset.step)
                finally:
                    self._streams -= 1
                return
            await self._groups.dataset.step(reply.close)
            reply = _busy(QueueFullError(f"{STREAMS} exports are being sent"), "5")
        headers = [("content-type", reply.content_type), *reply.headers]
        body = b"" if scope.method == "HEAD" else reply.body
        protocol.response_bytes(reply.status, headers, body)

    async def _answer(self, scope: Any, protocol: Any) -> Reply | Streamed:
        headers = scope.headers
        if refused := foreign(scope.method, headers):
            return refused
        caller: Caller | None = None
        if self._web.guarded and not (self._web.open_metrics and scope.path in OPEN and scope.method in SAFE):
            authorization = headers.get("authorization")
            known = self._web.remembered(authorization) or await self._caller(authorization)
            if isinstance(known, Reply):
                return known
            caller = known
            if caller.bucket and (wait := caller.bucket.take(time.monotonic())):
                self._health.rejected.labels("rate_limited").inc()
                detail = f"the token {shown(caller.name)} may send {caller.bucket.rate:g} requests a second"
                return problem(429, detail, headers=(("Retry-After", str(math.ceil(wait))),))
        length = headers.get("content-length")
        if length is None and headers.get("transfer-encoding") is None:
            return await self._handle(scope, b"", caller)
        try:
            body = await self.bodies.read(protocol, None if length is None else int(length))
            return body if isinstance(body, Reply) else await self._handle(scope, body, caller)
        finally:  # only now: a body that waits for a thread takes memory, too
            self.bodies.release()

    async def _handle(self, scope: Any, body: bytes, caller: Caller | None) -> Reply | Streamed:
        headers = scope.headers
        encoding = headers.get("content-encoding", "identity")
        if body and encoding != "identity" and not (encoding == "gzip" and scope.path in COMPRESSED):
            return problem(415, "a body must not be compressed", headers=(("Accept-Encoding", "identity"),))
        if scope.path == "/v1/predictions" and scope.method == "POST":
            if caller and (refused := forbidden(caller, UNSAFE[PREDICTIONS])):
                return refused
            lines = headers.get("content-type", "").partition(";")[0].strip().lower() in NDJSON
            ids = bool(scope.query_string) and ("ids", "1") in parse_qsl(scope.query_string)
            key = headers.get("idempotency-key")
            if len(body) <= LARGE_BODY:
                return self._ingest.predictions(body, lines, key, ids)
            return await self._groups.large.run(lambda: self._ingest.predictions(body, lines, key, ids))
        if scope.path == "/v1/feedback" and scope.method == "POST":
            if caller and (refused := forbidden(caller, UNSAFE[FEEDBACK])):
                return refused
            key = headers.get("idempotency-key")
            reply = await self._groups.of(scope.path).run(lambda: self._ingest.feedback(body, key))
            return structs.replace(reply, headers=(*reply.headers, *_SECURE))
        environ = environment(scope, body)
        if caller:
            environ[CALLER] = caller
        return await self._groups.of(scope.path).run(lambda: call(self._app, environ))

    async def _caller(self, header: str | None) -> Caller | Reply:
        caller: Caller | Reply | None = None
        if header and header[:6].lower() == "basic ":
            # Passwords are hashed in a thread of their own: a flood of wrong ones delays only new users.
            caller = await self._groups.passwords.run(lambda: self._web.authenticated(header))
        return caller or problem(401, self._web.wanted, headers=self._web.challenges)

    def close(self) -> None:
        """End the threads."""
        self._groups.close()


def _busy(error: QueueFullError, seconds: str = "1") -> Reply:
    return problem(503, f"{error}, try again", headers=(("Retry-After", seconds),))
