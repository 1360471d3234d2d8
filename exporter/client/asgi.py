"""ASGI, as `exporter.client.wsgi` is WSGI; apart from it, since asyncio takes long to import."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from exporter.client.request_context import RequestContext, current
from exporter.client.wsgi import KEY, Middleware, finish, harmless, named

_HEADER = b"x-request-id"
_FLUSH_SECONDS = 2.0

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]


class Asgi(Middleware):
    """An ASGI application around another one."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; at the end of the lifespan, send what waits."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._flushing(send))
            return
        call = None
        with harmless():
            if scope["type"] == "http" and KEY not in scope.get("state", ()) and self.watches(scope["path"]):
                given = next((value for name, value in scope["headers"] if name == _HEADER), b"")
                call = RequestContext(self._sender, given.decode("latin-1") if self._trust_ids else None)
                scope.setdefault("state", {})[KEY] = call.id
        if call is None:
            await self._app(scope, receive, send)
            return
        token = current.set(call)
        try:
            await self._app(scope, receive, _noting(send, call))
        except asyncio.CancelledError:
            if not call.ended:
                call.code = call.code or 499
            raise
        except BaseException:
            if not call.ended:
                call.code = 500
            raise
        finally:
            current.reset(token)
            finish(call)

    def _flushing(self, send: Send) -> Send:
        async def sending(message: Any) -> None:
            if message["type"] == "lifespan.shutdown.complete":  # the process may end by a signal right after
                with harmless():
                    await asyncio.get_running_loop().run_in_executor(None, self._sender.flush, _FLUSH_SECONDS)
            await send(message)

        return sending


def _noting(send: Send, call: RequestContext) -> Send:
    async def sending(message: Any) -> None:
        last = False
        with harmless():
            if message["type"] == "http.response.start":
                call.code = message["status"]
                message = {**message, "headers": _named_bytes(message.get("headers", ()), call)}
            elif message["type"] == "http.response.body":
                last = not message.get("more_body", False)
        await send(message)
        if last:
            call.end()

    return sending


def _named_bytes(headers: Iterable[tuple[bytes, bytes]], call: RequestContext) -> list[tuple[bytes, bytes]]:
    given = [(name, value) for name, value in headers]
    texts = named([(name.decode("latin-1"), value.decode("latin-1")) for name, value in given], call)
    return given + [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in texts[len(given) :]]
