"""ASGI middleware: time and count a service's requests; imported on demand, because asyncio loads slowly."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from exporter.client.request_context import RequestContext, current
from exporter.client.wsgi import KEY, Middleware, add_id_header, finish, log_errors

_HEADER = b"x-request-id"
_FLUSH_SECONDS = 2.0

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]


class Asgi(Middleware):
    """An ASGI application that records the requests to another one."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; at the end of the lifespan, send the buffered events."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._flush_at_shutdown(send))
            return
        context = None
        with log_errors():
            context = self._begin(scope)
        if context is None:
            await self._app(scope, receive, send)
            return
        token = current.set(context)
        try:
            await self._app(scope, receive, _record_response(send, context))
        except asyncio.CancelledError:
            if not context.ended:
                context.code = context.code or 499
            raise
        except BaseException:
            if not context.ended:
                context.code = 500
            raise
        finally:
            current.reset(token)
            finish(context)

    def _begin(self, scope: Scope) -> RequestContext | None:
        """Return the context of a request to record; None for any other."""
        if scope["type"] != "http" or KEY in scope.get("state", ()) or not self.records_path(scope["path"]):
            return None
        request_id = next((value for name, value in scope["headers"] if name == _HEADER), b"")
        context = RequestContext(self._sender, request_id.decode("latin-1") if self._trust_ids else None)
        scope.setdefault("state", {})[KEY] = context.id
        return context

    def _flush_at_shutdown(self, send: Send) -> Send:
        async def wrapper(message: Any) -> None:
            if message["type"] == "lifespan.shutdown.complete":  # a signal may end the process right after
                with log_errors():
                    await asyncio.get_running_loop().run_in_executor(None, self._sender.flush, _FLUSH_SECONDS)
            await send(message)

        return wrapper


def _record_response(send: Send, context: RequestContext) -> Send:
    async def wrapper(message: Any) -> None:
        is_last = False
        with log_errors():
            if message["type"] == "http.response.start":
                context.code = message["status"]
                message = {**message, "headers": _add_id_header(message.get("headers", ()), context)}
            elif message["type"] == "http.response.body":
                is_last = not message.get("more_body", False)
        await send(message)
        if is_last:
            context.end()

    return wrapper


def _add_id_header(headers: Iterable[tuple[bytes, bytes]], context: RequestContext) -> list[tuple[bytes, bytes]]:
    headers = list(headers)
    texts = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    added = add_id_header(texts, context)[len(headers) :]
    return headers + [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in added]
