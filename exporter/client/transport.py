"""Where the exporter is: requests to it over HTTP, HTTPS or a Unix socket."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import secrets
import socket
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporter.errors import ExporterError

FAILURES = (OSError, ValueError, http.client.HTTPException)
_TRY_LATER = frozenset({408, 425, 429})
"""What a request raises when there is no answer."""
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750


class Transport:
    """The exporter's address, taken apart once.

    Parameters
    ----------
    url
        ``http://…``, ``https://…`` or ``unix:///path/of/the/socket``.
    timeout
        Seconds one request may take.
    token_file
        A file with a bearer token.

    Raises
    ------
    ExporterError
        When the address or the token cannot be right.
    """

    def __init__(self, url: str, timeout: float, token_file: str | os.PathLike[str] | None) -> None:
        try:
            parts = urllib.parse.urlsplit(url)
        except ValueError as error:
            raise ExporterError(f"the exporter's address: {error}") from None
        local = parts.scheme == "unix" and not parts.netloc and len(parts.path) > 1
        if not (local or (parts.scheme in {"http", "https"} and parts.hostname)) or parts.query or parts.fragment:
            raise ExporterError(
                f"{url}: expected the exporter's address, such as http://127.0.0.1:9877 or unix:///run/exporter.sock"
            )
        try:
            self._port = parts.port
        except ValueError as error:
            raise ExporterError(f"{url}: {error}") from None
        self._host = parts.hostname or "localhost"
        self._socket = urllib.parse.unquote(parts.path) if local else None
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._timeout = timeout
        self._prefix = "" if local else parts.path.rstrip("/")
        self._headers: dict[str, str] = {}
        self.shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        self._token_file = None if token_file is None else Path(token_file)
        if self._token_file is not None:
            if parts.username is not None:
                raise ExporterError(f"{self.shown}: expected a user in the address or a token_file, got both")
            try:
                _token(self._token_file)
            except (OSError, ValueError) as error:
                raise ExporterError(f"the exporter's token: {error}") from None
        elif parts.username is None and (token := os.environ.get("MODEL_EXPORTER_TOKEN")):
            if not _TOKEN.fullmatch(token):
                raise ExporterError("MODEL_EXPORTER_TOKEN: is no bearer token")
            self._headers["Authorization"] = f"Bearer {token}"
        if parts.username is not None:
            pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()

    def connect(self) -> http.client.HTTPConnection:
        """A connection to the exporter, made with its first request."""
        if self._socket is not None:
            return _UnixConnection(self._socket, self._timeout)
        return self._kind(self._host, self._port, timeout=self._timeout)

    def post(
        self, connection: http.client.HTTPConnection, path: str, body: bytes, kind: str, key: str
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of the answer; one of `FAILURES` when there is none."""
        headers = {**self._headers, "Content-Type": kind, "Idempotency-Key": key}
        if self._token_file is not None:
            headers["Authorization"] = f"Bearer {_token(self._token_file)}"
        connection.request("POST", self._prefix + path, body, headers)
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()

    def feedback(self, body: bytes) -> dict[str, Any]:
        """Hand on a user's word: the exporter's answer, or `ExporterError` with the reason why there is none."""
        try:
            with contextlib.closing(self.connect()) as connection:
                status, _, answer = self.post(connection, "/v1/feedback", body, "application/json", new_key())
        except FAILURES as error:
            raise ExporterError(f"{self.shown}: feedback not delivered: {error!r}") from error
        if status not in {200, 201}:
            raise ExporterError(f"{self.shown}: feedback not taken: {reason(status, answer)}")
        try:
            result = json.loads(answer)
        except ValueError:
            raise ExporterError(f"{self.shown}: answered {status} without JSON: no exporter?") from None
        return result if isinstance(result, dict) else {"result": result}


class KeepAliveConnection:
    """A connection to the exporter that is kept from one request to the next.

    Parameters
    ----------
    target
        The exporter.
    """

    def __init__(self, target: Transport) -> None:
        self._target = target
        self._connection: http.client.HTTPConnection | None = None

    def post(self, path: str, body: bytes, kind: str, key: str) -> tuple[int, Mapping[str, str], bytes]:
        """As `Transport.post`; asked again where the server has closed an idle connection: that is no failure yet."""
        kept = self._connection is not None
        try:
            self._connection = self._connection or self._target.connect()
            return self._target.post(self._connection, path, body, kind, key)
        except FAILURES:
            self.close()
            if not kept:
                raise
            return self.post(path, body, kind, key)

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket in the file system."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._path)
        except BaseException:
            self.close()
            raise


def _token(file: Path) -> str:
    """The token in a file; what is none is refused without showing it."""
    token = file.read_text(encoding="ascii", errors="replace").strip()
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"{file}: expected one bearer token and nothing else")
    return token


def new_key() -> str:
    """An ``Idempotency-Key`` that nobody else has."""
    return secrets.token_hex(16)


def accepted(answer: bytes, most: int) -> int:
    """How many events of a request the exporter took."""
    try:
        return min(int(json.loads(answer)["accepted"]), most)
    except (ValueError, TypeError, KeyError):
        return most


def reason(status: int, answer: bytes) -> str:
    """What a problem document (RFC 9457) says, for people."""
    if not status:
        return answer.decode(errors="replace")
    try:
        problem = json.loads(answer)
        details = [f"{error['pointer']}: {error['detail']}" for error in problem.get("errors", [])[:5]]
        return "; ".join([f"{status} {problem['detail']}", *details])
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"{status} {answer[:200].decode(errors='replace')}".rstrip()


def final(status: int) -> bool:
    """Whether to ask again is of no use: neither was there no answer, nor one that speaks of this moment alone."""
    return 0 < status < 500 and status not in _TRY_LATER


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait, at most an hour."""
    text = headers.get("Retry-After", "").strip()
    return min(float(text), 3600.0) if text.isdecimal() else None
