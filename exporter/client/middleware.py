"""WSGI and ASGI middleware: time and count a service's requests, and give each an identifier.

Errors in here are logged and never reach the service.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from exporter.client.encoding import clamp_confidence, encode_document, rfc3339, time_ordered_id, unwrap_single

if TYPE_CHECKING:
    from exporter.client.sender import Sender


MAX_DEFERRED = 1000
"""Events that wait for the end of their request; further ones are sent without its duration."""
_ID = re.compile(r"[!-~]{1,128}")

current: ContextVar[RequestContext | None] = ContextVar("model_exporter_call", default=None)


Event = tuple[int, str, int | str, Any, Any, Any, float | None, int | None, str | None]
"""Size in bytes, id, time, inputs, prediction, confidence, duration, code, alias. A tuple, as the fastest to create."""
EVENT_BYTES = 256
"""About the size of an event without its inputs."""


def encode_event(event: Event, model: str, version: str | None, shadow: bool = False) -> bytes:
    """Encode an event as the JSON that the exporter expects."""
    _, event_id, moment, inputs, prediction, confidence, seconds, code, alias = event
    return encode_document(
        {
            "id": event_id,
            "model": model,
            "version": version,
            "time": moment if isinstance(moment, str) else rfc3339(moment // 1000 / 1e6),
            "inputs": inputs,
            "prediction": unwrap_single(prediction),
            "confidence": clamp_confidence(confidence),
            "duration_seconds": seconds,
            "code": 200 if code is None else code,
            "alias": alias,
            **({"shadow": True} if shadow else {}),
        }
    )


class RequestContext:
    """A request that is being answered.

    Parameters
    ----------
    sender
        Sends the event of a request in which nothing was recorded.
    request_id
        The identifier in the request, if any; one that the exporter would refuse is not used.
    """

    __slots__ = ("_deferred", "_ended", "_sender", "_started", "_time", "alias", "code", "done", "id")

    def __init__(self, sender: Sender, request_id: str | None = None) -> None:
        self._sender = sender
        self._deferred: list[tuple[Sender, Event]] = []
        self._started = time.perf_counter()
        self._ended: float | None = None
        self._time = time.time_ns()
        self.alias = request_id if request_id and _ID.fullmatch(request_id) else None
        self.id = self.alias or time_ordered_id(self._time)
        self.code: int | None = None
        self.done = False

    @property
    def recorded(self) -> int:
        """The number of events recorded in the request."""
        return len(self._deferred)

    def defer(self, sender: Sender, event: Event) -> None:
        """Keep an event until the request ends: its duration and code are known then."""
        if not self._deferred:
            self.id = event[1]
        if len(self._deferred) < MAX_DEFERRED:
            self._deferred.append((sender, event))
        else:
            sender.add(event)

    def end(self) -> None:
        """Note that the last byte of the response was sent."""
        self._ended = self._ended or time.perf_counter()

    @property
    def ended(self) -> bool:
        """Whether the last byte of the response was sent."""
        return self._ended is not None

    def finish(self) -> None:
        """Send the recorded events with the request's duration and code; if there are none, an event of the request."""
        if self.done:
            return
        self.done = True
        self.end()
        seconds = (self._ended or 0.0) - self._started
        code = 200 if self.code is None else self.code
        alias = self.alias if self.alias != self.id else None
        if not self._deferred:
            self._sender.add((EVENT_BYTES, self.id, self._time, None, None, None, seconds, code, alias))
        for sender, (*values, own_seconds, own_code, _) in self._deferred:
            taken = seconds if own_seconds is None else own_seconds
            sender.add((*values, taken, code if own_code is None else own_code, alias))
            alias = None  # it is of the first
        self._deferred.clear()


def _leave_parents_request() -> None:
    """End the context in a forked process, which does not answer its parent's request."""
    if (context := current.get()) is not None:
        context.done = True
        current.set(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_parents_request)


KEY = "prediction_id"
"""The key of the identifier: ``exporter.prediction_id`` in the WSGI environment, ``prediction_id`` in the state of the
ASGI scope."""
_ENVIRON = f"exporter.{KEY}"
_HEADER = "X-Request-ID"
_log = logging.getLogger("exporter.client")


class _LogErrors:
    """Log errors of a block instead of raising them: monitoring must not break the service."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if is_error := isinstance(error, Exception):
            _log.warning("a request could not be recorded", exc_info=error)
        return is_error


_errors_logged = _LogErrors()  # one for all: each request enters it several times


class Middleware:
    """Base of the WSGI and the ASGI middleware: choose the requests to record, and their identifiers."""

    def __init__(self, sender: Sender, app: Any, paths: Sequence[str] | None, trust_ids: bool) -> None:
        self._sender = sender
        self._app = app
        self._paths = None if paths is None else tuple(paths)
        self._trust_ids = trust_ids

    def records_path(self, path: str) -> bool:
        """Whether requests to this path are recorded."""
        return self._paths is None or any(fnmatchcase(path, pattern) for pattern in self._paths)


class Wsgi(Middleware):
    """A WSGI application that records the requests to another one."""

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""

        context = None
        with _errors_logged:
            path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
            if _ENVIRON not in environ and self.records_path(path):
                context = RequestContext(self._sender, environ.get("HTTP_X_REQUEST_ID") if self._trust_ids else None)
                environ[_ENVIRON] = context.id
                current.set(context)
        if context is None:
            return self._app(environ, start_response)  # type: ignore[no-any-return]

        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            with _errors_logged:
                context.code = int(status[:3])
                own = next((value for name, value in headers if name.lower() == "x-request-id"), None)
                if added := use_id(own, context):
                    headers = [*headers, (_HEADER, added)]
            return start_response(status, headers, *error)

        try:
            return _Body(self._app(environ, start), context)
        except BaseException:
            context.code = 500
            finish(context)
            raise


def use_id(service_id: str | None, context: RequestContext) -> str | None:
    """Return the identifier that the response gets; None if the service has set one itself, which takes precedence."""
    if service_id is None:
        return context.id
    if _ID.fullmatch(service_id):
        setattr(context, "alias" if context.recorded else "id", service_id)
    return None


def finish(context: RequestContext) -> None:
    """End the request, and send its events."""
    with _errors_logged:
        if current.get() is context:
            current.set(None)
        context.finish()


class _Body:
    """A response's body; the request ends when it is closed."""

    def __init__(self, body: Iterable[bytes], context: RequestContext) -> None:
        self._body = body
        self._chunks = iter(body)
        self._context = context

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._chunks)
        except StopIteration:
            self._context.end()
            raise
        except BaseException:
            self._context.code = 500
            raise

    def close(self) -> None:
        try:
            if close := getattr(self._body, "close", None):
                close()
        finally:
            finish(self._context)

    def __del__(self) -> None:  # for a server that does not close the body
        if hasattr(self, "_context") and not self._context.done:
            finish(self._context)


_ID_HEADER = b"x-request-id"
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
        with _errors_logged:
            context = self._begin(scope)
        if context is None:
            await self._app(scope, receive, send)
            return
        token = current.set(context)
        try:
            await self._app(scope, receive, _record_response(send, context))
        except BaseException as error:
            if not context.ended:
                # Cancelled: the client left.
                context.code = 500 if isinstance(error, Exception) else context.code or 499
            raise
        finally:
            current.reset(token)
            finish(context)

    def _begin(self, scope: Scope) -> RequestContext | None:
        """Return the context of a request to record; None for any other."""
        if scope["type"] != "http" or KEY in scope.get("state", ()) or not self.records_path(scope["path"]):
            return None
        request_id = _value(scope["headers"]) if self._trust_ids else None
        context = RequestContext(self._sender, request_id)
        scope.setdefault("state", {})[KEY] = context.id
        return context

    def _flush_at_shutdown(self, send: Send) -> Send:
        async def wrapper(message: Any) -> None:
            if message["type"] == "lifespan.shutdown.complete":  # a signal may end the process right after
                with _errors_logged:
                    import asyncio  # which loads slowly, and is loaded where ASGI is used

                    await asyncio.get_running_loop().run_in_executor(None, self._sender.flush, _FLUSH_SECONDS)
            await send(message)

        return wrapper


def _record_response(send: Send, context: RequestContext) -> Send:
    async def wrapper(message: Any) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            with _errors_logged:
                context.code = message["status"]
                headers = message.get("headers", ())
                if own := use_id(_value(headers), context):
                    message = {**message, "headers": [*headers, (_ID_HEADER, own.encode("latin-1"))]}
        await send(message)
        if kind == "http.response.body" and not message.get("more_body"):
            context.end()

    return wrapper


def _value(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the identifier in headers of ASGI."""
    for name, value in headers:
        if len(name) == len(_ID_HEADER) and name.lower() == _ID_HEADER:
            return value.decode("latin-1")
    return None
