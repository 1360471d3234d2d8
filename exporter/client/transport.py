"""Requests to the exporter over HTTP, HTTPS or a Unix socket."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import os
import re
import secrets
import socket
import ssl
import time
import urllib.parse
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from exporter.errors import ExporterError

_PROBE_SECONDS = 1.0
_PLAIN_ANSWERS = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
"""OpenSSL's reasons for a response that is not TLS."""
_CERTIFICATE_EXPIRED, _CERTIFICATE_NOT_YET_VALID = 10, 9
_NAME_MISMATCHES = (62, 64)
"""OpenSSL's codes for a certificate of another host name, and of another address."""


class Failure(NamedTuple):
    """Why events were not sent.

    Attributes
    ----------
    cause
        The same for all failures of one kind.
    detail
        What happened and what to do.
    """

    cause: str
    detail: str


class Server(NamedTuple):
    """A server that requests are sent to, as its URL says; ``socket`` is the path of its socket in the file system."""

    scheme: str
    host: str
    port: int
    socket: str | None = None

    def with_scheme(self, scheme: str) -> str:
        """Return the URL with another scheme."""
        return f"{scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def speaks_tls(self) -> bool:
        """Whether it completes a TLS handshake on its port, with any certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            contextlib.suppress(OSError),
            socket.create_connection((self.host, self.port), _PROBE_SECONDS) as connection,
            context.wrap_socket(connection),
        ):
            return True
        return False


def tls_context(ca_file: str | os.PathLike[str] | None, option: str = "ca_file") -> ssl.SSLContext:
    """Return a context that trusts the certificates in a file, or those of the system.

    Raises
    ------
    ExporterError
        When the file cannot be read.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:  # an OSError, too
        raise ExporterError(f"{option}: {ca_file}: expected certificates in PEM") from None
    except OSError as error:
        raise ExporterError(f"{option}: {ca_file}: cannot be read: {error.strerror or error}") from None


def expects_tls(error: BaseException, server: Server) -> Failure | None:
    """Ask a server that hung up on plain HTTP whether it expects TLS; return that as the failure if it does."""
    closed = isinstance(error, ConnectionError | HTTPException) and not isinstance(error, ConnectionRefusedError)
    return _use_https(server) if closed and server.scheme == "http" and server.speaks_tls() else None


def _explain_network_error(error: OSError, server: Server) -> Failure:
    if isinstance(error, socket.gaierror):
        detail = f"unknown host {server.host!r}: {error.strerror}"
    elif server.socket is not None:
        detail = f"{error.strerror}: does the exporter listen there (--web.unix-socket), and may this user open it?"
    elif isinstance(error, ConnectionRefusedError):
        detail = f"connection refused: is the exporter running, and is {server.port} its port?"
    else:
        detail = f"{error.strerror}: is it the right host and port?"
    return Failure(f"{type(error).__name__} {error.errno}", detail)


def explain_tls_error(error: ssl.SSLError, server: Server, ca_option: str = "ca_file") -> Failure:
    """Explain why no TLS connection could be made.

    Parameters
    ----------
    error
        The cause.
    server
        Where it was to be connected to.
    ca_option
        Name of the option with the certificates to trust.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _NAME_MISMATCHES:
            advice = "use a host in the URL that the certificate names"
        elif error.verify_code in {_CERTIFICATE_EXPIRED, _CERTIFICATE_NOT_YET_VALID}:
            advice = "renew the certificate, or correct the clock of this machine"
        else:
            advice = f"if a private authority issued it, set {ca_option} to the authority's certificate"
        message = error.verify_message.rstrip(".")
        return Failure("certificate", f"the certificate is not trusted ({message}): {advice}")
    reason = error.reason or str(error)
    if reason in _PLAIN_ANSWERS:
        return Failure("plain", f"the port does not speak TLS: use {server.with_scheme('http')}")
    text = reason.replace("_", " ").lower()
    return Failure("tls", f"the TLS handshake failed ({text}): is it an https port?")


def _use_https(server: Server) -> Failure:
    return Failure("tls expected", f"the port expects TLS: use {server.with_scheme('https')}")


def error_detail(status: int, response: bytes) -> str:
    """Return the text of a problem document (RFC 9457), else the beginning of the response."""
    try:
        problem = json.loads(response)
        summary = f"{status} {problem.get('detail') or problem['error']}"
        errors = problem.get("errors", [])[:5]
        details = [f"{error['pointer']}: {error['detail']}".removeprefix(": ") for error in errors]
        return "; ".join([summary, *(detail for detail in details if detail not in summary)])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"{status} {response[:300].decode(errors='replace').strip()}".rstrip()


class TimedResponse(http.client.HTTPResponse):
    """A response all of which must arrive within the timeout of its socket.

    The socket's timeout itself begins anew with each byte: a server that sends one now and then would hold a thread
    for ever.
    """

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        if (timeout := sock.gettimeout()) is not None:
            self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock, timeout))


class _TimedReader(io.RawIOBase):
    """Reads from a socket until its timeout, counted from now, has passed."""

    def __init__(self, stream: io.RawIOBase, sock: socket.socket, timeout: float) -> None:
        self._stream = stream
        self._socket = sock
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left)
        try:
            return self._stream.readinto(buffer)
        finally:
            self._socket.settimeout(self._timeout)  # that of the next request

    def close(self) -> None:
        self._stream.close()
        super().close()


FAILURES = (OSError, ValueError, HTTPException, ExporterError)
"""What a request raises when there is no response."""
_MAX_RESPONSE = 4 << 20
"""Bytes of a response, more than an exporter sends."""
BEARER_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750


class Transport:
    """Sends requests to one exporter.

    Parameters
    ----------
    url
        ``http://…``, ``https://…`` or ``unix:///path/of/the/socket``.
    timeout
        Seconds that connecting may take, and then sending, and then the response.
    token_file
        A file with a bearer token.
    ca_file
        A file with the certificates to trust instead of the system's; it is read for every connection.

    Raises
    ------
    ExporterError
        When the address, the token or the file with certificates is not valid.

    Attributes
    ----------
    display_url : str
        The address without user and password, for messages.
    """

    def __init__(
        self,
        url: str,
        timeout: float,
        token_file: str | os.PathLike[str] | None,
        ca_file: str | os.PathLike[str] | None = None,
    ) -> None:
        parts, port = split_address(url)
        is_local = parts.scheme == "unix"
        port = port or (443 if parts.scheme == "https" else 80)
        path = urllib.parse.unquote(parts.path) if is_local else None
        self._server = Server(parts.scheme, parts.hostname or "localhost", port, path)
        self._ca_file = ca_file
        self._timeout = timeout
        self._prefix = "" if is_local else parts.path.rstrip("/")
        self.display_url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        self._token_file = None if token_file is None else Path(token_file)
        if self._token_file is not None:
            if parts.username is not None:
                raise ExporterError(f"{self.display_url}: expected a user in the address or a token_file, got both")
            try:
                _read_token(self._token_file)
            except ValueError as error:
                raise ExporterError(f"the exporter's token: {error}") from None
        self._headers = _authorization(parts) if self._token_file is None else {}
        if ca_file is not None:
            tls_context(ca_file)

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection to the exporter, which opens with its first request."""
        scheme, host, port, path = self._server
        connection: http.client.HTTPConnection
        if path is not None:
            connection = _UnixConnection(path, self._timeout)
        elif scheme == "https":
            context = tls_context(self._ca_file)
            connection = http.client.HTTPSConnection(host, port, timeout=self._timeout, context=context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=self._timeout)
        connection.response_class = TimedResponse
        return connection

    def post(
        self, connection: http.client.HTTPConnection, path: str, body: bytes, content_type: str, key: str
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send a request and return status, headers and body of its response; raise one of `FAILURES` without one."""
        headers = {**self._headers, "Content-Type": content_type, "Idempotency-Key": key}
        if self._token_file is not None:
            headers["Authorization"] = f"Bearer {_read_token(self._token_file)}"
        connection.request("POST", self._prefix + path, body, headers)
        response = connection.getresponse()
        content = response.read(_MAX_RESPONSE)
        if response.length or len(content) == _MAX_RESPONSE:  # it ended early, or does not end
            raise http.client.IncompleteRead(content[:0], response.length)
        return response.status, dict(response.headers), content

    def explain_error(self, error: Exception) -> Failure:
        """Explain why there was no response, one of `FAILURES`; see `expects_tls`."""
        if isinstance(error, ssl.SSLError):
            return explain_tls_error(error, self._server)
        if failure := expects_tls(error, self._server):
            return failure
        if isinstance(error, OSError) and error.errno is not None:
            return _explain_network_error(error, self._server)
        if isinstance(error, TimeoutError):
            detail = f"timed out after {self._timeout:g} s: is it the right host and port, does a firewall block it?"
            return Failure("timeout", detail)
        if isinstance(error, OSError | HTTPException):
            return Failure("closed", f"no HTTP response ({error!r}): is it an exporter?")
        return Failure("error", str(error))

    def explain_response(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        """Explain a response that is not the one for success."""
        detail, advice = error_detail(status, body), ""
        if status == 400 and self._server.scheme == "http" and b"HTTPS" in body:  # nginx, and servers in Go
            return _use_https(self._server)
        if status == 401 and (self._token_file or self._headers):
            advice = "the exporter does not know the token, or the user and password"
        elif status == 401:
            advice = "set token_file or MODEL_EXPORTER_TOKEN, or a user and password in the URL"
        elif status == 413:
            advice = "record smaller inputs, or raise the limit of the proxy in front of the exporter"
        elif 300 <= status < 400:
            advice = f"use the URL that it redirects to, {headers.get('Location', '')[:200]!r}"
        elif status in {404, 405, 501} or 200 <= status < 300:
            advice = "is the URL an exporter's, with the right port and path?"
        return Failure(str(status), f"{detail}: {advice}" if advice else detail)

    def store(self, what: str, path: str, body: bytes) -> dict[str, Any]:
        """Send what the exporter stores before it responds, and return its response.

        Parameters
        ----------
        what
            Its name in errors.
        path
            The route.
        body
            A JSON document.

        Raises
        ------
        ExporterError
            When it was not delivered or not stored, with the reason.
        """
        try:
            with contextlib.closing(self.connect()) as connection:
                status, headers, response = self.post(connection, path, body, "application/json", secrets.token_hex(16))
        except FAILURES as error:
            detail = self.explain_error(error).detail
            raise ExporterError(f"{self.display_url}: {what} not delivered: {detail}") from error
        if status not in {200, 201}:
            detail = self.explain_response(status, headers, response).detail
            raise ExporterError(f"{self.display_url}: {what} refused: {detail}")
        try:
            result = json.loads(response)
        except ValueError:
            raise ExporterError(f"{self.display_url}: answered {status} without JSON; is it an exporter?") from None
        return result if isinstance(result, dict) else {"result": result}


class KeepAliveConnection:
    """A connection that stays open from one request to the next.

    Parameters
    ----------
    transport
        Opens the connection.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._connection: http.client.HTTPConnection | None = None

    def post(self, path: str, body: bytes, content_type: str, key: str) -> tuple[int, Mapping[str, str], bytes]:
        """Send a request as `Transport.post` does; once more if the server has closed the idle connection."""
        was_open = self._connection is not None
        try:
            self._connection = self._connection or self._transport.connect()
            return self._transport.post(self._connection, path, body, content_type, key)
        except FAILURES:
            self.close()
            if not was_open:
                raise
            return self.post(path, body, content_type, key)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def close_in_child(self) -> None:
        """Close a forked process's copy of the socket; the parent's stays open.

        Do not close the response: the parent's thread may have held the lock of its buffer, which nobody releases here.
        """
        if self._connection is not None and self._connection.sock is not None:
            os.close(self._connection.sock.detach())
        self._connection = None


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket in the file system."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = connect_unix(self._path, self.timeout)


def connect_unix(path: str, timeout: float | None) -> socket.socket:
    """Return a connection to a socket in the file system."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def without_secrets(url: str) -> str:
    """Return a URL for messages, valid or not, without its user, password and query.

    >>> without_secrets("http://me:secret@host/path?token=secret")
    'http://…@host/path?…'
    """
    return re.sub(r"\?.+", "?…", re.sub(r"^(\w+://)?.*@", r"\1…@", url))


def split_address(url: str) -> tuple[urllib.parse.SplitResult, int | None]:
    """Split the exporter's address, and return its port, too.

    Raises
    ------
    ExporterError
        When it is not valid. The text has no password.
    """
    shown = without_secrets(url)
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError as error:
        raise ExporterError(f"the exporter's address: {error}") from None
    is_local = parts.scheme == "unix" and not parts.netloc and len(parts.path) > 1
    is_remote = parts.scheme in {"http", "https"} and bool(parts.hostname)
    if not (is_local or is_remote) or parts.query or parts.fragment:
        examples = "http://127.0.0.1:9877 or unix:///run/exporter.sock"
        raise ExporterError(f"{shown}: expected the exporter's address, such as {examples}")
    try:
        return parts, parts.port
    except ValueError as error:
        raise ExporterError(f"{shown}: {error}") from None


def _authorization(parts: urllib.parse.SplitResult) -> dict[str, str]:
    """Return the header with the address's user, or with the token in the environment."""
    if parts.username is not None:
        pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
    token = os.environ.get("MODEL_EXPORTER_TOKEN")
    if token and not BEARER_TOKEN.fullmatch(token):
        raise ExporterError("MODEL_EXPORTER_TOKEN: is not a valid bearer token")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _read_token(file: Path) -> str:
    """Read the token in a file; the error for anything else does not show it."""
    try:
        token = file.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror or error}") from None
    if not BEARER_TOKEN.fullmatch(token):
        raise ValueError(f"{file}: expected one bearer token and nothing else")
    return token
