"""HTTP requests to other servers: connections kept alive, retries, credentials, and errors that a person can read.

The requests go past any proxy that the environment names: they are for servers of this machine and its neighbours.
"""

from __future__ import annotations

import base64
import os
import socket
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import responses as phrases
from typing import Any, NamedTuple

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError

from exporter.client import transport
from exporter.errors import ExporterError, UsageError
from exporter.secret_file import read_secret_file

MAX_BODY = 64 << 20
"""Bytes of a response that `Client.request` reads."""
NO_RETRY = urllib3.Retry(total=False)
WHEN_BUSY = urllib3.Retry(
    total=5, connect=0, read=0, other=0, allowed_methods=None, raise_on_status=False, retry_after_max=30
)
"""Repeats a request to which the server answered 413, 429 or 503 with ``Retry-After``."""
TRANSIENT = frozenset({408, 425, 429, *range(500, 600)})
"""Statuses of requests that may succeed later."""


class RequestError(ExporterError):
    """No response arrived, or only a part of it.

    Parameters
    ----------
    url
        The server.
    reason
        Cause, such as ``Connection refused``.
    """

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url}: {reason}")
        self.reason = reason


class Response(NamedTuple):
    """A response, whatever its status; ``retry_after`` is the pause in seconds that the server asks for."""

    status: int
    body: bytes
    retry_after: float | None = None

    def error_message(self) -> str:
        """Return the status and the detail of a problem document (RFC 9457), an ``error`` member, or the text."""
        detail = transport.error_detail(self.status, self.body)
        return detail if self.body.strip() else f"{detail} {phrases.get(self.status, '')}".rstrip()


class Client:
    """HTTP client of one server; safe to use from many threads.

    Parameters
    ----------
    url
        ``http://…``, ``https://…`` or ``unix:///path/of/the/socket``; a path is a prefix of every request's.
    option
        Name of the option or key that the URL comes from, for error messages.
    example
        A URL that is valid, for error messages.
    authorization
        Returns the ``Authorization`` header, None for none; called for each request, so that a token may be renewed.
    user_in_url
        Whether the URL may hold a user and a password; they are used instead of ``authorization``.
    ca_file
        File with the certificates to trust instead of the system's.
    ca_option
        Name of the option or variable that ``ca_file`` comes from, for error messages.
    timeout
        Seconds that connecting may take, and then a response.
    downloads
        Whether ``timeout`` is that of each wait for a part of a response, however long all of it takes.
    retries
        When a request is repeated: `NO_RETRY` or `WHEN_BUSY`.
    connections
        Connections that are kept open.

    Attributes
    ----------
    url : str
        The URL without the user and the password that it may hold.

    Raises
    ------
    UsageError
        When the URL is not valid.
    ExporterError
        When the file with certificates is not valid.
    """

    def __init__(
        self,
        url: str,
        option: str,
        *,
        example: str = "http://127.0.0.1:9877",
        user_in_url: bool = False,
        authorization: Callable[[], str | None] = lambda: None,
        ca_file: str | None = None,
        ca_option: str = "--ca-file",
        timeout: float = 30.0,
        downloads: bool = False,
        retries: urllib3.Retry = NO_RETRY,
        connections: int = 1,
    ) -> None:
        parts = _split(url, option, example)
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        self._authorization = authorization
        if parts.username is not None:
            if not user_in_url:
                raise UsageError(f"{option}: give the user with --user and the password with --password-file")
            user, password = map(urllib.parse.unquote, (parts.username, parts.password or ""))
            self._authorization = lambda: basic_authorization(user, password)
        self._retries = retries
        self._prefix = "" if parts.scheme == "unix" else parts.path.rstrip("/")
        pools = {"http": urllib3.HTTPConnectionPool, "https": urllib3.HTTPSConnectionPool, "unix": _UnixPool}
        special: dict[str, Any] = {"socket_path": urllib.parse.unquote(parts.path)} if parts.scheme == "unix" else {}
        if parts.scheme == "https" or ca_file:
            context = transport.tls_context(ca_file, ca_option)
            special = {"ssl_context": context} if parts.scheme == "https" else special
        self._pool = pools[parts.scheme](
            parts.hostname or "localhost", parts.port, timeout=timeout, maxsize=connections, **special
        )
        if not downloads:
            timed: Any = type(
                "TimedConnection", (self._pool.ConnectionCls,), {"response_class": transport.TimedResponse}
            )
            self._pool.ConnectionCls = timed
        self._server = transport.Server(parts.scheme, self._pool.host, self._pool.port or 0)
        self._ca_option = ca_option

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def request(
        self, method: str, path: str, body: bytes | None = None, *, max_body: int = MAX_BODY, **options: Any
    ) -> Response:
        """Send a request as `open` does, and return the response.

        Raises
        ------
        RequestError
            When no response arrives, or one of more than ``max_body`` bytes.
        """
        with self.open(method, path, body, **options) as response:
            content = response.read(max_body + 1)
            if len(content) > max_body:
                raise RequestError(self.url, f"the response is larger than {max_body >> 20} MiB")
            pause = self._retries.get_retry_after(response) if response.status in TRANSIENT else None
            return Response(response.status, content, pause)

    def repeat(
        self, seconds: float, on_retry: Callable[[str], None], method: str, path: str, body: bytes, **options: Any
    ) -> Response:
        """Send a request until it succeeds or fails for good, for some seconds; return the last response.

        Parameters
        ----------
        seconds
            From now on; ``Retry-After`` is honoured up to as much.
        on_retry
            Called with the cause before each further attempt, except when the server is busy (503).
        method, path, body, options
            See `request`.

        Raises
        ------
        RequestError
            When no response arrived to the last request.
        InterruptedWait
            At Ctrl-C between two requests.
        """
        deadline, backoff = time.monotonic() + seconds, 0.0
        while True:
            outcome: Response | RequestError
            try:
                outcome = self.request(method, path, body, **options)
            except RequestError as error:
                outcome = error
            is_last = time.monotonic() + backoff > deadline
            if isinstance(outcome, RequestError):
                if is_last:
                    raise outcome
                delay, reason = backoff, outcome.reason
            else:
                if is_last or outcome.status not in TRANSIENT:
                    return outcome
                delay, reason = min(outcome.retry_after or backoff, seconds), outcome._replace(body=b"").error_message()
            try:
                if not reason.startswith("503 "):
                    on_retry(reason)
                time.sleep(delay)
            except KeyboardInterrupt:
                raise InterruptedWait from None
            backoff = min(backoff * 2 or 0.2, 10.0)

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Send a request, with a body or with a document ``json``, and yield the response, whose body is not read yet.

        Raises
        ------
        RequestError
            When no response arrives, or it ends early.
        """
        header, response = self._authorization(), None
        options["headers"] = {**(headers or {}), **({"Authorization": header} if header else {})}
        options |= {"retries": self._retries, "redirect": False, "preload_content": False}
        try:
            response = self._pool.request(method, self._prefix + path, body, **options)
            yield response
        except HTTPError as error:
            early = "" if response is None else "the response ended early; the server's log may say why: "
            raise RequestError(self.url, early + self._reason(error)) from None
        finally:
            if response is not None:
                response.close()

    def _reason(self, error: BaseException) -> str:
        """Return the cause of a failed request in one phrase, without the exceptions around it."""
        while inner := _cause(error):
            error = inner
        if isinstance(error, urllib3.exceptions.TimeoutError | TimeoutError):
            return "timed out"
        if isinstance(error, ssl.SSLError):
            return transport.explain_tls_error(error, self._server, self._ca_option).detail
        if failure := transport.expects_tls(error, self._server):
            return failure.detail
        return getattr(error, "strerror", None) or str(error) or type(error).__name__


class InterruptedWait(KeyboardInterrupt):
    """Ctrl-C between two attempts of a request: none is in progress."""


class _UnixConnection(urllib3.connection.HTTPConnection):
    """HTTP over a socket in the file system."""

    def __init__(self, *args: Any, socket_path: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._socket_path = socket_path

    def _new_conn(self) -> socket.socket:
        return transport.connect_unix(self._socket_path, self.timeout)


class _UnixPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _UnixConnection


def _split(url: str, option: str, example: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url)
        valid = parts.port != 0 and not parts.query and not parts.fragment
        if parts.scheme == "unix":
            valid = valid and not parts.netloc and len(parts.path) > 1
        else:
            valid = valid and parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:  # no port, or half an IPv6 address
        valid = False
    if not valid:
        kind = "a URL without ? and #," if "?" in url or "#" in url else "a URL"
        raise UsageError(f"{option}: expected {kind} such as {example}, got {transport.without_secrets(url)}")
    return parts


def _cause(error: BaseException) -> BaseException | None:
    if isinstance(error, MaxRetryError):
        return error.reason
    return error.__cause__ or next((part for part in error.args if isinstance(part, BaseException)), None)


class Credentials(NamedTuple):
    """Credentials for a server, and the certificates to trust.

    Attributes
    ----------
    user
        User for basic authentication.
    password_file, bearer_token_file
        Files with the user's password, or with a token instead of a user. Each has one line.
    ca_file
        File with the certificates to trust instead of the system's, in PEM.
    setting
        Returns the name of the option or variable that holds an attribute, for messages.
    """

    user: str | None = None
    password_file: str | None = None
    bearer_token_file: str | None = None
    ca_file: str | None = None
    setting: Callable[[str], str] = lambda name: f"--{name.replace('_', '-')}"

    @classmethod
    def from_environment(cls, server: str) -> Credentials:
        """Read the environment variables of a server, such as ``PROMETHEUS_USER`` for ``PROMETHEUS``."""

        names = "user", "password_file", "bearer_token_file", "ca_file"
        values = {name: os.environ.get(f"{server}_{name.upper()}") or None for name in names}
        return cls(**values, setting=lambda name: f"{server}_{name.upper()}")

    def header(self) -> str | None:
        """Return the ``Authorization`` header; None without credentials.

        Raises
        ------
        ExporterError
            When a file cannot be read, or does not hold one line of text.
        """
        if self.bearer_token_file:
            return f"Bearer {self._secret('bearer_token_file', self.bearer_token_file)}"
        if not self.user:
            return None
        if not self.password_file:
            raise ExporterError(f"{self.setting('password_file')}: is required with {self.setting('user')}")
        return basic_authorization(self.user, self._secret("password_file", self.password_file))

    def _secret(self, name: str, path: str) -> str:
        text = read_secret_file(path, self.setting(name)).strip()
        if not (transport.BEARER_TOKEN.fullmatch(text) if name == "bearer_token_file" else text and text.isprintable()):
            raise ExporterError(f"{self.setting(name)}: {path}: expected one line with the secret and nothing else")
        return text


def basic_authorization(user: str, password: str) -> str:
    """
    >>> basic_authorization("Aladdin", "open sesame")
    'Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=='
    """
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
