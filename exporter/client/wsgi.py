"""WSGI middleware: time and count a service's requests, and give each an identifier.

Errors in here are logged and never reach the service.
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
"""The key of the identifier: ``exporter.prediction_id`` in the WSGI environment, ``prediction_id`` in the state of the
ASGI scope."""
_ENVIRON = f"exporter.{KEY}"
_HEADER = "X-Request-ID"
_log = logging.getLogger("exporter.client")


@contextlib.contextmanager
def log_errors() -> Iterator[None]:
    """Log errors of the block instead of raising them: monitoring must not break the service."""
    try:
        yield
    except Exception:
        _log.warning("a request could not be recorded", exc_info=True)


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
        with log_errors():
            path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
            if _ENVIRON not in environ and self.records_path(path):
                context = RequestContext(self._sender, environ.get("HTTP_X_REQUEST_ID") if self._trust_ids else None)
                environ[_ENVIRON] = context.id
                current.set(context)
        if context is None:
            return self._app(environ, start_response)  # type: ignore[no-any-return]

        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            with log_errors():
                context.code = int(status[:3])
                headers = add_id_header(headers, context)
            return start_response(status, headers, *error)

        try:
            return _Body(self._app(environ, start), context)
        except BaseException:
            context.code = 500
            finish(context)
            raise


def add_id_header(headers: list[tuple[str, str]], context: RequestContext) -> list[tuple[str, str]]:
    """Return the response's headers with the identifier; one that the service has set itself takes precedence."""
    service_id = next((value for name, value in headers if name.lower() == "x-request-id"), None)
    if service_id is None:
        return [*headers, (_HEADER, context.id)]
    if not context.recorded and 0 < len(service_id) <= 128:
        context.id = service_id
    return headers


def finish(context: RequestContext) -> None:
    """End the request, and send its events."""
    with log_errors():
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
