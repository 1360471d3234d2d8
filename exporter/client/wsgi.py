"""WSGI: a service's requests timed, counted, and known by one identifier.

What goes wrong in here is logged and never reaches the service.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from exporter.client.request_context import RequestContext, current

if TYPE_CHECKING:
    from exporter.client.sender import Sender

KEY = "prediction_id"
"""Where a handler finds the identifier: in the WSGI environment as ``exporter.prediction_id``, in the
ASGI scope's state as ``prediction_id``."""
_ENVIRON = f"exporter.{KEY}"
_HEADER = "X-Request-ID"
_log = logging.getLogger("exporter.client")


@contextlib.contextmanager
def harmless() -> Iterator[None]:
    """Monitoring must not break what it monitors."""
    try:
        yield
    except Exception:
        _log.warning("a request could not be recorded", exc_info=True)


class Middleware:
    """What WSGI and ASGI share: which requests, and from where their identifiers."""

    def __init__(self, sender: Sender, app: Any, paths: Sequence[str] | None, trust_ids: bool) -> None:
        self._sender = sender
        self._app = app
        self._paths = None if paths is None else tuple(paths)
        self._trust_ids = trust_ids

    def watches(self, path: str) -> bool:
        return self._paths is None or any(fnmatchcase(path, pattern) for pattern in self._paths)


class Wsgi(Middleware):
    """A WSGI application around another one."""

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        call = None
        with harmless():
            if _ENVIRON not in environ and self.watches(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")):
                call = RequestContext(self._sender, environ.get("HTTP_X_REQUEST_ID") if self._trust_ids else None)
                environ[_ENVIRON] = call.id
                current.set(call)
        if call is None:
            return self._app(environ, start_response)  # type: ignore[no-any-return]

        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            with harmless():
                call.code = int(status[:3])
                headers = named(headers, call)
            return start_response(status, headers, *error)

        try:
            return _Body(self._app(environ, start), call)
        except BaseException:
            call.code = 500
            finish(call)
            raise


def named(headers: list[tuple[str, str]], call: RequestContext) -> list[tuple[str, str]]:
    """The answer's headers with the identifier; the service's own word goes first."""
    own = next((value for name, value in headers if name.lower() == "x-request-id"), None)
    if own is None:
        return [*headers, (_HEADER, call.id)]
    if not call.recorded and 0 < len(own) <= 128:
        call.id = own
    return headers


def finish(call: RequestContext) -> None:
    with harmless():
        if current.get() is call:
            current.set(None)
        call.finish()


class _Body:
    """An answer's body; the request is over when it is closed."""

    def __init__(self, body: Iterable[bytes], call: RequestContext) -> None:
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
            finish(self._call)

    def __del__(self) -> None:  # a server that does not close
        if hasattr(self, "_call") and not self._call.done:
            finish(self._call)
