"""Forward one request to the model server, and its response to the client."""

from __future__ import annotations

import asyncio
import http
import json
import re
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from multidict import CIMultiDict, MultiMapping
from yarl import URL

from exporter.client.encoding import time_ordered_id
from exporter.commands.proxy.recorder import Copy, Metrics, Recorder
from exporter.errors import ExporterError, UsageError

_ADDED = ("Content-Type", "Date", "Server")


class PassedResponse(web.StreamResponse):
    """A response of the model server, without the headers that aiohttp adds where it has none.

    Parameters
    ----------
    status, reason, headers
        What it begins with.
    small
        Whether all of its body is here, so that both can be sent at once.
    """

    def __init__(self, status: int, reason: str | None, headers: CIMultiDict[str], *, small: bool) -> None:
        super().__init__(status=status, reason=reason, headers=headers)
        self._send_headers_immediately = not small

    async def _prepare_headers(self) -> None:
        missing = [name for name in _ADDED if name not in self.headers]
        await super()._prepare_headers()
        for name in missing:
            self.headers.pop(name, None)


def document(status: int, detail: str) -> bytes:
    """Return the body of a response of the proxy's own, as ``application/problem+json``."""
    members = {"title": http.HTTPStatus(status).phrase, "status": status, "detail": f"model-exporter proxy: {detail}"}
    return json.dumps(members).encode()


def problem(status: int, detail: str, identifier: str | None = None) -> web.Response:
    """Return a response of the proxy's own; ``identifier`` is the request's."""
    headers = {"Content-Type": "application/problem+json", "Server": "model-exporter proxy"}
    if identifier is not None:
        headers["X-Request-Id"] = identifier
    return web.Response(status=status, body=document(status, detail), headers=headers)


def parser_error(message: str) -> str:
    """Return what aiohttp's parser says, on one line and without the excerpt that follows an empty line."""
    return " ".join(message.partition("\n\n")[0].split()).rstrip(":")


MAX_RESPONSE_FIELD = 64 * 1024
"""Bytes of a line or field in the head of a response."""


class Upstream(NamedTuple):
    """Where the model server is; ``prefix`` is put before the path of every request."""

    scheme: str
    host: str
    port: int
    prefix: str
    tls: ssl.SSLContext | None = None


def parse_upstream(url: str, ca_file: str | None = None) -> Upstream:
    """Return the address of the model server.

    Raises
    ------
    UsageError
        When it cannot be one.
    """
    expected = "expected the model server's address, such as http://127.0.0.1:8080"
    parts = urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError as error:
        raise UsageError(f"--upstream: {error}; {expected}") from None
    if not (port and parts.hostname) or parts.query or parts.fragment or not url.isascii() or not url.isprintable():
        raise UsageError(f"--upstream: {expected}")
    if parts.username is not None:
        raise UsageError("--upstream: a user in the address is not passed on: clients send their own Authorization")
    context = None
    if parts.scheme == "https":
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ExporterError(f"--upstream.ca-file: {ca_file}: {error}") from None
    elif ca_file:
        raise UsageError("--upstream.ca-file: is for an --upstream of https://")
    return Upstream(parts.scheme, parts.hostname, port, parts.path.rstrip("/"), context)


@dataclass(slots=True)
class Attempt:
    """Which connection a request is sent on.

    Attributes
    ----------
    fresh
        Whether to open a new connection.
    reused
        Whether the connection was idle before, so that the model server may just have closed it.
    """

    fresh: bool
    reused: bool = False


ATTEMPT: ContextVar[Attempt] = ContextVar("attempt")
"""The attempt of the current task, in which the connector says whether it reused a connection."""


class Connector(aiohttp.TCPConnector):
    """Connections to the model server, kept open between requests.

    Parameters
    ----------
    upstream
        The model server.
    idle
        Seconds that a connection without a request is kept; 0 for a new connection for every request.
    """

    def __init__(self, upstream: Upstream, idle: float) -> None:
        tls = upstream.tls or True
        if idle:
            super().__init__(ssl=tls, limit=0, keepalive_timeout=idle)
        else:
            super().__init__(ssl=tls, limit=0, force_close=True)

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        """Return an idle connection; none on which the model server sent something that nobody asked for.

        aiohttp would take that for the response to the next request.
        """
        attempt = ATTEMPT.get()
        while not attempt.fresh and (connection := await super()._get(key, traces)) is not None:
            if connection.protocol is not None and not connection.protocol.should_close:
                attempt.reused = True
                return connection
            connection.close()
        return None

    @property
    def count(self) -> int:
        """Open connections, in use or idle."""
        return len(self._acquired) + sum(map(len, self._conns.values()))


def client(connector: Connector, connect_timeout: float) -> aiohttp.ClientSession:
    """Return a client that sends requests and returns responses as they are."""
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        timeout=aiohttp.ClientTimeout(connect=connect_timeout),
        max_line_size=MAX_RESPONSE_FIELD,
        max_field_size=MAX_RESPONSE_FIELD,
    )


PSEUDONYM = f"model-exporter-{secrets.token_hex(4)}"
"""What this process calls itself in ``Via``, so that it recognizes a request that it has passed on before."""
_HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    )
)
_SET_IN_REQUESTS = frozenset(("expect", "host", "via", "x-forwarded-for", "x-request-id"))
_SET_IN_RESPONSES = frozenset(("x-request-id",))
_END_TO_END = re.compile("content-length|forwarded|host|x-forwarded-.*|x-real-ip|x-request-id")
"""Headers that are passed on even where Connection names them: a client must not remove what a proxy before it set."""
_AUTHORITY = re.compile(r"[a-z][a-z0-9+.-]*://(?:[^/?#@]*@)?([^/?#]+)", re.IGNORECASE)
_IDENTIFIER = re.compile(r"[!-~]{1,120}")  # shorter than the exporter's limit, because rows add their number

RawHeaders = Iterable[tuple[bytes, bytes]]


def identifier(headers: Mapping[str, str]) -> str | None:
    """Return the identifier of a request; None where there is none, or none that the exporter takes."""
    value = headers.get("X-Request-Id")
    return value if value is not None and _IDENTIFIER.fullmatch(value) else None


def for_upstream(request: web.BaseRequest, name: str, host: str | None) -> CIMultiDict[str]:
    """Return the headers with which a request is passed on.

    Parameters
    ----------
    request
        The client's request.
    name
        Its identifier.
    host
        The ``Host`` to send in place of the client's.
    """
    given = request.headers
    headers = _passed_on(_unambiguous(request), given, _SET_IN_REQUESTS)
    url = _AUTHORITY.match(request.raw_path)
    asked = url[1] if url else given.get("Host")  # RFC 9112, section 3.2.2: that of a URL replaces the header
    if host or asked:
        headers["Host"] = host or asked or ""
    headers["X-Request-Id"] = name
    if request.remote:
        headers["X-Forwarded-For"] = ", ".join([*given.getall("X-Forwarded-For", []), request.remote])
    headers.setdefault("X-Forwarded-Proto", "http")
    if asked:
        headers.setdefault("X-Forwarded-Host", asked)
    headers["Via"] = ", ".join([*given.getall("Via", []), f"1.1 {PSEUDONYM}"])
    return headers


def for_client(raw: RawHeaders, headers: MultiMapping[str], name: str) -> CIMultiDict[str]:
    """Return the headers with which a response is passed on; ``name`` identifies the request."""
    passed = _passed_on(raw, headers, _SET_IN_RESPONSES)
    passed["X-Request-Id"] = name
    return passed


def _unambiguous(request: web.BaseRequest) -> RawHeaders:
    """Drop headers that some servers would confuse with meaningful ones, because they read underscores as hyphens.

    WSGI and CGI do not tell ``X_Forwarded_For`` from ``X-Forwarded-For``.
    """
    for name, value in request.raw_headers:
        if b"_" in name:
            twin = name.decode().lower().replace("_", "-")
            if twin in _HOP_BY_HOP | _SET_IN_REQUESTS or twin in request.headers or _END_TO_END.fullmatch(twin):
                continue
        yield name, value


def _passed_on(raw: RawHeaders, headers: MultiMapping[str], replaced: frozenset[str]) -> CIMultiDict[str]:
    """Return the headers that are not for one connection alone, spelled and ordered as they came."""
    named = {part.strip().lower() for value in headers.getall("Connection", []) for part in value.split(",")}
    dropped = _HOP_BY_HOP | replaced | {name for name in named if not _END_TO_END.fullmatch(name)}
    return CIMultiDict((_text(name), _text(value)) for name, value in raw if name.decode().lower() not in dropped)


def _text(raw: bytes) -> str:
    """Decode a name or value; aiohttp writes UTF-8 and would drop bytes that are not."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


CLIENT_CLOSED_REQUEST = 499
"""The code of a request whose client went away, as nginx logs it."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Forwarder(NamedTuple):
    """Passes requests on to a model server.

    Attributes
    ----------
    upstream
        The model server.
    client
        What sends requests to it.
    recorder
        What records them.
    metrics
        Where they are counted.
    host
        The ``Host`` that the model server is asked for, in place of the client's.
    timeout
        Seconds in which a byte must move in either direction.
    """

    upstream: Upstream
    client: aiohttp.ClientSession
    recorder: Recorder
    metrics: Metrics
    host: str | None
    timeout: float

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request of a client."""
        if refusal := _refusal(request):
            return self._refuse(request, *refusal)
        exchange = _Exchange(self, request)
        self.metrics.in_flight += 1
        try:
            return await exchange.run()
        except asyncio.CancelledError:
            exchange.code = CLIENT_CLOSED_REQUEST
            raise
        finally:
            self.metrics.in_flight -= 1
            exchange.finish()

    def _refuse(self, request: web.BaseRequest, status: int, detail: str) -> web.StreamResponse:
        self.metrics.codes[status] += 1
        response = problem(status, detail, identifier(request.headers) or time_ordered_id(time.time_ns()))
        response.force_close()
        return response

    def url(self, request: web.BaseRequest) -> URL:
        """Return where the model server answers a request."""
        scheme, host, port, prefix, _ = self.upstream
        target = request.rel_url
        return URL.build(
            scheme=scheme,
            host=host,
            port=port,
            path=prefix + _ascii(target.raw_path),
            query_string=_ascii(target.raw_query_string),
            encoded=True,
        )


def _ascii(target: str) -> str:
    """Escape the bytes of a target that are not ASCII, which aiohttp would drop."""
    if target.isascii():
        return target
    raw = target.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte < 128 else f"%{byte:02X}" for byte in raw)


def _refusal(request: web.BaseRequest) -> tuple[int, str] | None:
    """Return status and detail where a request is not passed on."""
    coding = request.headers.get("Transfer-Encoding")
    if request.method == "CONNECT":
        return 501, "CONNECT is for proxies of another kind"
    if request.rel_url.raw_path == "*":
        return 501, "OPTIONS * is not passed on: ask for a path"
    if coding is not None and coding.strip().lower() != "chunked":
        return 501, "expected no transfer coding but chunked"
    if coding is not None and request.version < aiohttp.HttpVersion11:
        return 501, "expected a body in chunks in HTTP/1.1 only"
    if PSEUDONYM in ",".join(request.headers.getall("Via", [])):
        return 508, "this request has been here before: --upstream leads back to this proxy"
    return None


class _ClientGoneError(Exception):
    """The client went away in the middle of its response."""


class _Exchange:
    """A request and its response."""

    def __init__(self, forwarder: Forwarder, request: web.BaseRequest) -> None:
        self._forwarder = forwarder
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._time = time.time_ns()
        self._started = self._loop.time()
        self._identifier = identifier(request.headers) or time_ordered_id(self._time)
        self._named = forwarder.recorder.named(request.method, request.rel_url.raw_path)
        self._copy = forwarder.recorder.copy(request.headers) if self._named else None
        self._response_copy: Copy | None = None
        self._response: PassedResponse | None = None
        self._deadline: asyncio.Timeout | None = None
        self._awaits_body = self._awaits_reader = False  # whether the client is what takes time
        self._response_began = False
        self._malformed = ""
        self.code = 500

    # --- the request --------------------------------------------------------------------------

    async def run(self) -> web.StreamResponse:
        """Pass the request on and the response back; return the response."""
        try:
            async with asyncio.timeout(self._forwarder.timeout) as self._deadline:
                return await self._exchange()
        except aiohttp.ConnectionTimeoutError:
            return self._failed("timeout", "the model server did not take the connection in time")
        except TimeoutError:
            return self._timed_out()
        except _ClientGoneError:
            return self._end(CLIENT_CLOSED_REQUEST, "")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return self._broken_off(error)

    async def _exchange(self) -> web.StreamResponse:
        """Send the request, and once more where the model server had closed an idle connection before it came.

        A request whose body is still arriving could not be sent again: it gets a new connection.
        """
        data = self._body()
        attempt = Attempt(fresh=data is not None and not isinstance(data, bytes))
        while True:
            ATTEMPT.set(attempt)
            try:
                async with self._send(data) as answer:
                    return await self._pass_back(answer)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                if not attempt.reused or self._response_began:
                    raise
            attempt = Attempt(fresh=True)

    def _send(self, data: bytes | AsyncIterator[bytes] | None) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        request, forwarder = self._request, self._forwarder
        return forwarder.client.request(
            request.method,
            forwarder.url(request),
            headers=for_upstream(request, self._identifier, forwarder.host),
            data=data,
            chunked=True if data is not None and "Transfer-Encoding" in request.headers else None,
            allow_redirects=False,
        )

    def _body(self) -> bytes | AsyncIterator[bytes] | None:
        """Return the body: at once where all of it is here, else its parts as they come."""
        content = self._request.content
        if not content.is_eof():
            return self._parts()
        data = content.read_nowait()
        if self._copy is not None:
            self._copy.add(data)
        return data or None

    async def _parts(self) -> AsyncIterator[bytes]:
        request = self._request
        if request.headers.get("Expect", "").lower() == "100-continue" and request.version >= aiohttp.HttpVersion11:
            await request.writer.write(_CONTINUE)
            request.writer.output_size = 0  # no response has begun
        while part := await self._next_part():
            yield part
            self._touch()

    async def _next_part(self) -> bytes:
        self._awaits_body = True
        try:
            part = await self._request.content.readany()
        except web.RequestPayloadError as error:
            self._malformed = parser_error(str(error))
            raise
        finally:
            self._awaits_body = False
        self._touch()
        if self._copy is not None:
            self._copy.add(part)
        return part

    def _touch(self) -> None:
        """Put the deadline off: a byte has moved."""
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(self._loop.time() + self._forwarder.timeout)

    # --- the response -------------------------------------------------------------------------

    async def _pass_back(self, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        self._response_began = True
        if not 200 <= answer.status <= 999:
            raise ValueError(f"a status of {answer.status}")
        if answer.headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
            raise ValueError("transfer codings beside chunked")
        self._identifier = identifier(answer.headers) or self._identifier
        if self._named:
            self._response_copy = self._forwarder.recorder.copy(answer.headers)
        passed = for_client(answer.raw_headers, answer.headers, self._identifier)
        response = PassedResponse(answer.status, answer.reason, passed, small=answer.content.is_eof())
        if self._forwarder.metrics.draining:
            response.force_close()
        await self._write(response.prepare(self._request))
        self._response = response
        delimited = "Content-Length" in answer.headers or "Transfer-Encoding" in answer.headers
        protocol = None if delimited or answer.connection is None else answer.connection.protocol
        while part := await answer.content.readany():
            if self._response_copy is not None:
                self._response_copy.add(part)
            await self._write(response.write(part))
        if protocol is not None and isinstance(error := protocol.exception(), OSError):
            raise error  # aiohttp takes a reset for the end
        await self._write(response.write_eof())
        self.code = answer.status
        return response

    async def _write(self, writing: Awaitable[object]) -> None:
        self._awaits_reader = True
        try:
            await writing
        except ConnectionError:
            raise _ClientGoneError from None
        finally:
            self._awaits_reader = False
        self._touch()

    # --- the end ------------------------------------------------------------------------------

    def _timed_out(self) -> web.StreamResponse:
        if self._response is not None and (self._awaits_reader or self._awaits_body):
            return self._end(CLIENT_CLOSED_REQUEST, "")
        if self._awaits_body:
            return self._end(408, "the rest of the request did not come in time")
        return self._failed("timeout", "the model server did not answer in time")

    def _broken_off(self, error: Exception) -> web.StreamResponse:
        if self._malformed:
            return self._end(400, f"the request is not valid HTTP/1.1: {self._malformed}")
        if isinstance(error, aiohttp.ClientConnectorError):
            return self._failed("connect", "the model server cannot be reached", str(error))
        if isinstance(error, (aiohttp.ClientResponseError, ValueError)):
            why = parser_error(getattr(error, "message", "") or str(error))
            return self._failed("malformed", f"the model server's response is not valid HTTP: {why}")
        return self._failed("closed", "the model server closed the connection before its response was complete")

    def _failed(self, reason: str, detail: str, why: str = "") -> web.StreamResponse:
        """Count a failure of the model server, and return what the client gets."""
        self._forwarder.metrics.failure(reason, f"{detail}: {why}" if why else detail)
        return self._end(504 if reason == "timeout" else 502, detail)

    def _end(self, code: int, detail: str) -> web.StreamResponse:
        """Return a problem document; cut the connection where a response has begun, or the client is gone."""
        self.code = code
        if self._response is None and code != CLIENT_CLOSED_REQUEST:
            response = problem(code, detail, self._identifier)
            if code < 500:
                response.force_close()
            return response
        if self._request.transport is not None:
            self._request.transport.abort()
        return self._response or web.Response()

    def finish(self) -> None:
        """Count and record the exchange."""
        self._forwarder.metrics.codes[self.code] += 1
        if self._named and self._copy:
            times = (self._time, self._loop.time() - self._started)
            copies = (self._copy, self._response_copy)
            self._forwarder.recorder.record(self._named, self._identifier, times, self.code, copies)
