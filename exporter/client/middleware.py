"""WSGI and ASGI: a service's requests timed, counted, and known by one identifier.

What goes wrong in here is logged and never reaches the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from exporter.client.calls import Call, current

if TYPE_CHECKING:
    from exporter.client.sender import Sender

KEY = "prediction_id"
"""Where a handler finds the identifier: in the WSGI environment as ``model_exporter.prediction_id``, in the
ASGI scope's state as ``prediction_id``."""
_ENVIRON = f"model_exporter.{KEY}"
_HEADER = "X-Request-ID"
_HEADER_BYTES = b"x-request-id"
_FLUSH_SECONDS = 2.0
_log = logging.getLogger("exporter.client")

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]


@contextlib.contextmanager
def _harmless() -> Iterator[None]:
    """Monitoring must not break what it monitors."""
    try:
        yield
    except Exception:
        _log.warning("a request could not be recorded", exc_info=True)


class _Middleware:
    def __init__(self, sender: Sender, app: Any, paths: Sequence[str] | None, trust_ids: bool) -> None:
        self._sender = sender
        self._app = app
        self._paths = None if paths is None else tuple(paths)
        self._trust_ids = trust_ids

    def _watches(self, path: str) -> bool:
        return self._paths is None or any(fnmatchcase(path, pattern) for pattern in self._paths)


class Wsgi(_Middleware):
    """A WSGI application around another one."""

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        call = None
        with _harmless():
            if _ENVIRON not in environ and self._watches(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")):
                call = Call(self._sender, environ.get("HTTP_X_REQUEST_ID") if self._trust_ids else None)
                environ[_ENVIRON] = call.id
                current.set(call)
        if call is None:
            return self._app(environ, start_response)  # type: ignore[no-any-return]

        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            with _harmless():
                call.code = int(status[:3])
                headers = _named(headers, call)
            return start_response(status, headers, *error)

        try:
            return _Body(self._app(environ, start), call)
        except BaseException:
            call.code = 500
            _finish(call)
            raise


def _named(headers: list[tuple[str, str]], call: Call) -> list[tuple[str, str]]:
    """The answer's headers with the identifier; the service's own word goes first."""
    own = next((value for name, value in headers if name.lower() == "x-request-id"), None)
    if own is None:
        return [*headers, (_HEADER, call.id)]
    if not call.recorded and 0 < len(own) <= 128:
        call.id = own
    return headers


def _finish(call: Call) -> None:
    with _harmless():
        if current.get() is call:
            current.set(None)
        call.finish()


class _Body:
    """An answer's body; the request is over when it is closed."""

    def __init__(self, body: Iterable[bytes], call: Call) -> None:
        self._body = body
        self._parts = iter(body)
        self._call = call

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._parts)
        except StopIteration:
            self._call.end()
            raise
        except BaseException:
            self._call.code = 500
            raise

    def close(self) -> None:
        try:
            if close := getattr(self._body, "close", None):
                close()
        finally:
            _finish(self._call)

    def __del__(self) -> None:  # a server that does not close
        if hasattr(self, "_call") and not self._call.done:
            _finish(self._call)


class Asgi(_Middleware):
    """An ASGI application around another one."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; at the end of the lifespan, send what waits."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._flushing(send))
            return
        call = None
        with _harmless():
            if scope["type"] == "http" and KEY not in scope.get("state", ()) and self._watches(scope["path"]):
                given = next((value for name, value in scope["headers"] if name == _HEADER_BYTES), b"")
                call = Call(self._sender, given.decode("latin-1") if self._trust_ids else None)
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
            _finish(call)

    def _flushing(self, send: Send) -> Send:
        async def sending(message: Any) -> None:
            if message["type"] == "lifespan.shutdown.complete":  # the process may end by a signal right after
                with _harmless():
                    await asyncio.get_running_loop().run_in_executor(None, self._sender.flush, _FLUSH_SECONDS)
            await send(message)

        return sending


def _noting(send: Send, call: Call) -> Send:
    async def sending(message: Any) -> None:
        last = False
        with _harmless():
            if message["type"] == "http.response.start":
                call.code = message["status"]
                message = {**message, "headers": _named_bytes(message.get("headers", ()), call)}
            elif message["type"] == "http.response.body":
                last = not message.get("more_body", False)
        await send(message)
        if last:
            call.end()

    return sending


def _named_bytes(headers: Iterable[tuple[bytes, bytes]], call: Call) -> list[tuple[bytes, bytes]]:
    given = [(name, value) for name, value in headers]
    texts = _named([(name.decode("latin-1"), value.decode("latin-1")) for name, value in given], call)
    return given + [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in texts[len(given) :]]
