"""The proxy in front of a model server that records requests and responses as predictions."""

from __future__ import annotations

import argparse
import asyncio
import base64
import fnmatch
import http
import json
import logging
import re
import resource
import secrets
import signal
import ssl
import string
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple, cast
from urllib.parse import quote, unquote, urlsplit

import aiohttp
from aiohttp import web
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.tracing import Trace
from multidict import CIMultiDict, MultiMapping
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from yarl import URL

from exporter.client.encoding import rfc3339, time_ordered_id
from exporter.client.sender import Sender
from exporter.client.transport import Transport, split_address
from exporter.commands import common
from exporter.errors import ExporterError, UsageError

_log = logging.getLogger("exporter.commands.proxy")

MAX_COPY = 2**20
"""Bytes of a body that are copied at most."""
MAX_HELD = 64 * 2**20
"""Bytes of the copies of all requests under way; as many wait for the exporter at most."""
_NAME = r"(?P<model>[^/:]{1,384})"
_PATHS = [
    re.compile(pattern)
    for pattern in (
        rf"/v2/models/{_NAME}(?:/versions/(?P<version>[^/]+))?/infer$",
        rf"/v1/models/{_NAME}(?:/versions/(?P<version>[^/:]+)|/labels/[^/:]+)?:predict$",
        rf"/predictions/{_NAME}(?:/(?P<version>[^/]+))?$",
        r"/invocations$",
    )
]
_BATCH_BYTES = 128 * 1024  # so many have hardly more rows than the exporter takes in one request
_UNREAD = ("audio/", "image/", "multipart/", "text/event-stream", "text/html", "video/")
_OVERHEAD = 1024  # bytes of what waits beside its bodies


class Record(NamedTuple):
    """An exchange that waits for the exporter; its size comes first, as the sender has it."""

    size: int
    time: int
    document: dict[str, Any]
    bodies: dict[str, bytes | None]


class Copy:
    """A body as it passes, up to a bound."""

    __slots__ = ("_body", "_recorder", "whole")

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._body = bytearray()  # and no list of parts: a byte each would take forty times the bound
        self.whole = True

    def add(self, part: bytes) -> None:
        """Keep a part, or nothing any more where the body is too large."""
        if self.whole:
            self._recorder.held += len(part)
            self._body += part
            if len(self._body) > MAX_COPY:
                self.leave("too_large")
            elif self._recorder.held > MAX_HELD:
                self.leave("no_room")

    def leave(self, why: str) -> None:
        """Do without this body."""
        self.take()
        self.whole = False
        self._recorder.left_out[why] += 1

    def take(self) -> bytes | None:
        """The body, which is kept here no longer; None where it is not known whole, or empty."""
        body, self._body = self._body, bytearray()
        self._recorder.held -= len(body)
        return bytes(body) if body and self.whole else None


class Recorder(Collector):
    """Decides what is recorded, hands it to the client's sender, and collects the proxy's metrics.

    Parameters
    ----------
    target
        The exporter.
    model, version
        What everything recorded is of, whatever paths and bodies say.
    paths
        Patterns of the paths to record in place of the known ones.

    Attributes
    ----------
    in_flight
        Requests that are being answered.
    codes
        Responses to clients, by code.
    failures
        Requests that the model server did not answer, by reason.
    connections
        Returns the number of open connections, of ``client`` and ``upstream``.
    moderation
        Logs.
    """

    def __init__(self, target: Transport, model: str | None, version: str | None, paths: Sequence[str] = ()) -> None:
        self._model = model
        self._version = version
        self._paths = [re.compile(r"\A" + fnmatch.translate(pattern)) for pattern in paths] or _PATHS
        self.held = self.records = self.unnamed = self.in_flight = 0
        self.left_out = dict.fromkeys(("encoding", "no_room", "too_large", "type"), 0)
        self.codes: Counter[int] = Counter()
        self.failures = dict.fromkeys(("closed", "connect", "malformed", "timeout"), 0)
        self.connections: Callable[[], dict[str, int]] = dict
        self.moderation = common.Moderation(_log)
        bounds = {"capacity": 50_000, "capacity_bytes": MAX_HELD, "batch_size": 500, "batch_bytes": _BATCH_BYTES}
        self.sender = Sender(target, line, "proxy", interval=1.0, give_up=300.0, path="/v1/exchanges", **bounds)

    def failure(self, reason: str, detail: str) -> None:
        """Count a failure of the model server, and log it unless the same was logged a moment ago."""
        self.failures[reason] += 1
        self.moderation.warn(reason, "%s (%s, %d so far)", detail, reason, self.failures[reason])

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        counter, gauge, sender = CounterMetricFamily, GaugeMetricFamily, self.sender
        lost = "Records that were lost: the exporter was unavailable, too slow, or refused them."
        unnamed = "Requests that were not recorded because their model is unknown."
        families: tuple[tuple[Any, str, str, str, Mapping[Any, float]], ...] = (
            (counter, "requests", "Responses to clients.", "code", self.codes),
            (gauge, "requests_in_flight", "Requests in progress.", "", {"": self.in_flight}),
            (counter, "upstream_failures", "Failures of the model server.", "reason", self.failures),
            (gauge, "connections", "Open connections.", "side", self.connections()),
            (counter, "records", "Requests recorded for the exporter.", "", {"": self.records}),
            (counter, "records_sent", "Records that the exporter accepted.", "", {"": sender.sent}),
            (counter, "records_dropped", lost, "", {"": sender.dropped}),
            (counter, "unnamed", unnamed, "", {"": self.unnamed}),
            (counter, "bodies_left_out", "Bodies that were not copied.", "reason", self.left_out),
            (gauge, "copies_bytes", "Memory of the copies of bodies in progress.", "", {"": self.held}),
        )
        for kind, name, text, label, values in families:
            family = kind(f"model_proxy_{name}", text, labels=[label] if label else [])
            for value, number in list(values.items()):
                family.add_metric([str(value)] if label else [], number)
            yield family

    def named(self, method: str, path: str) -> tuple[str, str | None] | None:
        """Return model and version of a request; None where it is not recorded."""
        if method != "POST":
            return None
        match = next((match for pattern in self._paths if (match := pattern.search(path))), None)
        if match is None:
            return None
        groups = match.groupdict()
        given, version = groups.get("model"), groups.get("version")
        model = self._model or (unquote(given) if given else None)
        if model is None:
            self.unnamed += 1
            return None
        return model, self._version or (unquote(version)[:128] if version else None)

    def copy(self, headers: Mapping[str, str]) -> Copy:
        """Return a copy of a body that is about to pass; it stays empty where the exporter could not read the body."""
        copy = Copy(self)
        media_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if media_type.startswith(_UNREAD):
            copy.leave("type")
        elif headers.get("Content-Encoding", "identity").strip().lower() not in {"identity", "gzip"}:
            copy.leave("encoding")
        return copy

    def record(self, exchange: _Exchange, named: tuple[str, str | None], seconds: float) -> None:
        """Hand on an exchange: its model and version, and its duration."""
        bodies = {side: copy.take() if copy else None for side, copy in exchange.copies.items()}
        if exchange.code == 404 and self._model is None:
            return  # a model that is not there: anybody may ask for any name
        self.records += 1
        names = dict(zip(("model", "version"), named, strict=True), id=exchange.identifier, alias=exchange.alias)
        document = {**names, "code": exchange.code, "duration_seconds": seconds}
        size = _OVERHEAD + sum(len(body or b"") for body in bodies.values())
        self.sender.add(Record(size, exchange.time, document, bodies))


def line(record: Record) -> bytes:
    """A record as ``POST /v1/exchanges`` takes it; bodies are spliced in, for base64 needs no quoting."""
    text = json.dumps(record.document | {"time": rfc3339(record.time // 1000 / 1e6)}).encode()[:-1]
    for member, body in record.bodies.items():
        if body is not None:
            text += b', "%b": "%b"' % (member.encode(), base64.b64encode(body))
    return text + b"}"


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


def problem(status: int, detail: str, identifier: str | None = None, *, close: bool = True) -> web.Response:
    """Return a response of the proxy's own; ``identifier`` is the request's. The last one of its connection, or not."""
    document = {"title": http.HTTPStatus(status).phrase, "status": status, "detail": f"model-exporter proxy: {detail}"}
    headers = {"Content-Type": "application/problem+json", "Server": "model-exporter proxy"}
    if identifier is not None:
        headers["X-Request-Id"] = identifier
    response = web.Response(status=status, body=json.dumps(document), headers=headers)
    if close:
        response.force_close()
    return response


def parser_error(message: str) -> str:
    """Return what aiohttp's parser says, on one line and without the excerpt that follows an empty line."""
    return " ".join(message.partition("\n\n")[0].split()).rstrip(":")


CONNECT_SECONDS = 5.0
"""How long connecting to the model server may take."""
MAX_RESPONSE_FIELD = 64 * 1024
"""Bytes of a line or field in the head of a response."""


def parse_upstream(url: str, ca_file: str | None = None) -> tuple[str, ssl.SSLContext | bool]:
    """Return the address of the model server, which begins the URL of every request, and how to check its certificate.

    Raises
    ------
    UsageError
        When it cannot be one.
    """
    expected = "expected the model server's address, such as http://127.0.0.1:8080"
    parts = urlsplit(url)
    try:
        is_known = parts.port != 0 and parts.scheme in {"http", "https"}
    except ValueError as error:
        raise UsageError(f"--upstream: {error}; {expected}") from None
    if not (is_known and parts.hostname) or parts.query or parts.fragment or not url.isascii() or not url.isprintable():
        raise UsageError(f"--upstream: {expected}")
    if parts.username is not None:
        raise UsageError("--upstream: a user in the address is not passed on: clients send their own Authorization")
    address = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    if parts.scheme == "http":
        if ca_file:
            raise UsageError("--upstream.ca-file: is for an --upstream of https://")
        return address, True
    try:
        return address, ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ExporterError(f"--upstream.ca-file: {ca_file}: {error}") from None


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
    tls
        How to check the certificate of the model server.
    idle
        Seconds that a connection without a request is kept; 0 for a new connection for every request.
    """

    def __init__(self, tls: ssl.SSLContext | bool, idle: float) -> None:
        keep: dict[str, Any] = {"keepalive_timeout": idle} if idle else {"force_close": True}
        super().__init__(ssl=tls, limit=0, **keep)

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
        return len(self._acquired) + sum(map(len, list(self._conns.values())))


PSEUDONYM = f"model-exporter-{secrets.token_hex(4)}"
"""What this process calls itself in ``Via``, so that it recognizes a request that it has passed on before."""
_HOP_BY_HOP = frozenset(("connection", "keep-alive", "te", "transfer-encoding", "upgrade"))
_HOP_BY_HOP |= {"proxy-authenticate", "proxy-authorization", "proxy-connection"}
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


def _ascii(target: str) -> str:
    """Escape the bytes of a target that are not ASCII, which aiohttp would drop."""
    return target if target.isascii() else quote(target.encode("utf-8", "surrogateescape"), safe=string.punctuation)


def _refusal(request: web.BaseRequest) -> tuple[int, str] | None:
    """Return status and detail where a request is not passed on."""
    coding = request.headers.get("Transfer-Encoding", "chunked").strip().lower()
    is_old = "Transfer-Encoding" in request.headers and request.version < aiohttp.HttpVersion11
    is_loop = PSEUDONYM in ",".join(request.headers.getall("Via", []))
    reasons = (
        (cast(_Connection, request.protocol).excess >= 0, 503, "too many connections"),
        (request.method == "CONNECT", 501, "CONNECT is for proxies of another kind"),
        (request.rel_url.raw_path == "*", 501, "OPTIONS * is not passed on: ask for a path"),
        (coding != "chunked", 501, "expected no transfer coding but chunked"),
        (is_old, 501, "expected a body in chunks in HTTP/1.1 only"),
        (is_loop, 508, "this request has been here before: --upstream leads back to this proxy"),
    )
    return next(((status, detail) for is_refused, status, detail in reasons if is_refused), None)


class _ClientGoneError(Exception):
    """The client went away in the middle of its response."""


class _Exchange:
    """A request and its response."""

    def __init__(self, server: ProxyServer, request: web.BaseRequest) -> None:
        self._server = server
        self._request = request
        self._loop = asyncio.get_running_loop()
        self.time = time.time_ns()
        self._started = self._loop.time()
        self.identifier = identifier(request.headers) or time_ordered_id(self.time)
        self.alias: str | None = None  # what the model server calls the request
        self._named = server.recorder.named(request.method, request.rel_url.raw_path)
        self.copies = {"request": server.recorder.copy(request.headers)} if self._named else {}
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
            async with asyncio.timeout(self._server.timeout) as self._deadline:
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
        request, server = self._request, self._server
        return server.client.request(
            request.method,
            URL(server.upstream + _ascii(request.rel_url.raw_path_qs), encoded=True),
            headers=for_upstream(request, self.identifier, server.host),
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
        self._keep("request", data)
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
        self._keep("request", part)
        return part

    def _keep(self, side: str, part: bytes) -> None:
        if side in self.copies:
            self.copies[side].add(part)

    def _touch(self) -> None:
        """Put the deadline off: a byte has moved."""
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(self._loop.time() + self._server.timeout)

    # --- the response -------------------------------------------------------------------------

    async def _pass_back(self, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        self._response_began = True
        if not 200 <= answer.status <= 999:
            raise ValueError(f"a status of {answer.status}")
        if answer.headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
            raise ValueError("transfer codings other than chunked")
        self.alias = identifier(answer.headers)
        self.identifier = identifier(self._request.headers) or self.alias or self.identifier
        if self._named:
            self.copies["response"] = self._server.recorder.copy(answer.headers)
        passed = _passed_on(answer.raw_headers, answer.headers, _SET_IN_RESPONSES)
        passed["X-Request-Id"] = self.identifier
        response = PassedResponse(answer.status, answer.reason, passed, small=answer.content.is_eof())
        if self._server.draining:
            response.force_close()
        await self._write(response.prepare(self._request))
        self._response = response
        delimited = "Content-Length" in answer.headers or "Transfer-Encoding" in answer.headers
        protocol = None if delimited or answer.connection is None else answer.connection.protocol
        while part := await answer.content.readany():
            self._keep("response", part)
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
        self._server.recorder.failure(reason, f"{detail}: {why}" if why else detail)
        return self._end(504 if reason == "timeout" else 502, detail)

    def _end(self, code: int, detail: str) -> web.StreamResponse:
        """Return a problem document; cut the connection where a response has begun, or the client is gone."""
        self.code = code
        if self._response is None and code != CLIENT_CLOSED_REQUEST:
            return problem(code, detail, self.identifier, close=code < 500)
        if self._request.transport is not None:
            self._request.transport.abort()
        return self._response or web.Response()

    def finish(self) -> None:
        """Count and record the exchange."""
        self._server.recorder.codes[self.code] += 1
        if self._named:
            self._server.recorder.record(self, self._named, self._loop.time() - self._started)


IDLE_SECONDS = 75.0
"""How long a connection may be idle, or take to send the head of a request."""
LINGER_SECONDS = 2.0
"""How long the rest of a body is read after the response, so that the client gets to read the response."""
MAX_FIELD = 16 * 1024
"""Bytes of a request line or header field; there may be 128 fields."""


MAX_REFUSING = 100
"""Clients beyond the limit that are told so at a time; others are cut off."""


class ProxyServer(web.Server):
    """Accepts the connections of clients, and passes their requests on to a model server.

    Parameters
    ----------
    upstream
        Begins the URL of every request.
    client
        What sends requests to it.
    recorder
        What records and counts them.
    options
        Of the command.
    """

    def __init__(
        self, upstream: str, client: aiohttp.ClientSession, recorder: Recorder, options: argparse.Namespace
    ) -> None:
        super().__init__(
            self._answer,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=LINGER_SECONDS,
            max_line_size=MAX_FIELD,
            max_field_size=MAX_FIELD,
        )
        self.upstream, self.client, self.recorder = upstream, client, recorder
        self.host, self.timeout, self.draining = options.upstream_host, options.upstream_timeout, False
        # each client may need another connection to the model server
        self._limit = max(16, min(8192, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 128) // 2))

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        excess = len(self._connections) - self._limit
        return _Connection(self, excess, loop=self._loop, **self._kwargs)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if refusal := _refusal(request):
            self.recorder.codes[refusal[0]] += 1
            return problem(*refusal, identifier(request.headers) or time_ordered_id(time.time_ns()))
        exchange = _Exchange(self, request)
        self.recorder.in_flight += 1
        try:
            return await exchange.run()
        except asyncio.CancelledError:
            exchange.code = CLIENT_CLOSED_REQUEST
            raise
        finally:
            self.recorder.in_flight -= 1
            exchange.finish()


class _Connection(web.RequestHandler):
    """A client's connection, which answers what is not HTTP with a problem document."""

    __slots__ = ("_recorder", "excess")

    def __init__(self, server: ProxyServer, excess: int, **settings: Any) -> None:
        super().__init__(server, **settings)
        self.excess, self._recorder = excess, server.recorder

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Cut off a connection that is far beyond the limit."""
        super().connection_made(transport)
        if self.excess >= MAX_REFUSING:
            cast(asyncio.Transport, transport).abort()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Return the response to a request that could not be read, or that failed unforeseen."""
        if isinstance(exc, LineTooLong):
            status, detail = 431, f"expected a request line and header fields of at most {MAX_FIELD} bytes each"
        elif isinstance(exc, HttpProcessingError) and "PRI/Upgrade" in (message or ""):  # the preface of HTTP/2
            detail = "HTTP/2, and so gRPC, is not passed on: connect to the model server"
            self._recorder.moderation.warn("http2", detail)
        elif isinstance(exc, HttpProcessingError):
            detail = f"the request is not valid HTTP/1.1: {parser_error(message or '')}"
        else:
            return super().handle_error(request, status, exc, message)
        self._recorder.codes[status] += 1
        return problem(status, detail)


DRAIN_SECONDS = 25.0
"""What requests under way get to end in, of the 30 s that Kubernetes gives."""
CUT_SECONDS = 0.5
"""What requests that are cancelled after that get to end in."""
SEND_SECONDS = 3.0
"""What records get to leave in, after that."""
_SWITCH_SECONDS = 0.0005  # so long may the sender's thread keep the interpreter while a request waits


def proxy_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    add("--upstream", required=True, metavar="URL", help="URL of the model server, such as http://127.0.0.1:8080")
    add(
        "--listen-address",
        type=common.address,
        default="127.0.0.1:9880",
        metavar="HOST:PORT",
        help="address of the proxy",
    )
    text = "address of the proxy's own metrics and probes"
    add("--web.listen-address", type=common.address, default="127.0.0.1:9881", metavar="HOST:PORT", help=text)
    text = "URL of the exporter (%(default)s): http://, https:// or unix:///"
    add("--exporter", default="http://127.0.0.1:9877", metavar="URL", help=text)
    add("--exporter.token-file", metavar="FILE", help="file with a bearer token for the exporter")
    text = "file with certificates to trust for the exporter instead of the system's"
    add("--exporter.ca-file", metavar="FILE", help=text)
    add("--model", help="model of everything recorded; default: the one in the path")
    add("--version", help="version of everything recorded; default: the one in the path or response")
    text = "record POST requests to these paths instead of the known ones; * matches anything; repeatable"
    add("--record.path", action="append", default=[], metavar="PATTERN", help=text)
    add("--upstream.host", type=_host, metavar="HOST", help="Host header for the model server; default: the client's")
    add("--upstream.ca-file", metavar="FILE", help="file with certificates to trust instead of the system's")
    text = "give up after this many seconds without a byte in either direction (%(default)g)"
    add("--upstream.timeout", type=common.seconds, default=60.0, metavar="SECONDS", help=text)
    text = "seconds that a connection to the model server may be idle (%(default)g)"
    add("--upstream.idle", type=_idle, default=1.0, metavar="SECONDS", help=text)
    common.add_log_options(parser)


def _idle(text: str) -> float:
    return 0.0 if text == "0" else common.seconds(text)


def _host(text: str) -> str:
    if text and text.isascii() and text.isprintable() and " " not in text:
        return text
    raise argparse.ArgumentTypeError(f"expected a host such as models.example.com, got {text!r}")


def proxy(options: argparse.Namespace) -> int:
    """Run a proxy in front of a model server that records its requests and responses as predictions.

    Example::

        model-exporter proxy --upstream=http://127.0.0.1:8080 --exporter=http://127.0.0.1:9877

    See docs/proxy.md.
    """
    common.configure_logging(options.log_level, options.log_format)
    if options.record_path and not options.model:
        raise UsageError("--record.path: needs a --model, which such paths do not name")
    upstream = parse_upstream(options.upstream, options.upstream_ca_file)
    try:
        split_address(options.exporter)
    except ExporterError as error:
        raise UsageError(f"--exporter: {error}") from None
    target = Transport(options.exporter, 5.0, options.exporter_token_file, options.exporter_ca_file)
    recorder = Recorder(target, options.model, options.version, options.record_path)
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        asyncio.run(_serve(options, *upstream, recorder))
    finally:
        recorder.sender.close(SEND_SECONDS)
        _log.info("stopped: %d records sent, %d dropped", recorder.sender.sent, recorder.sender.dropped)
    return 0


async def _serve(options: argparse.Namespace, upstream: str, tls: ssl.SSLContext | bool, recorder: Recorder) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    connector = Connector(tls, options.upstream_idle)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        timeout=aiohttp.ClientTimeout(connect=CONNECT_SECONDS),
        max_line_size=MAX_RESPONSE_FIELD,
        max_field_size=MAX_RESPONSE_FIELD,
    ) as session:
        server = ProxyServer(upstream, session, recorder, options)
        recorder.connections = lambda: {"client": len(server.connections), "upstream": connector.count}
        runner, registry, where = web.ServerRunner(server), CollectorRegistry(), options.listen_address
        registry.register(recorder)
        await runner.setup()
        try:
            await web.TCPSite(runner, where.host or None, where.port, backlog=2048).start()
        except OSError as error:
            raise ExporterError(f"cannot listen on {where}: {error.strerror or error}") from None
        _log.info("a proxy to %s on http://%s", options.upstream, common.Address(*runner.addresses[0][:2]))
        ready = {True: (False, "stopping"), False: (True, "ready")}
        metrics = common.serve_metrics(options.web_listen_address, registry, lambda: ready[stop.is_set()])
        await stop.wait()
        _log.info("stopping: %d requests under way", recorder.in_flight)
        server.draining = True
        await _drain(runner, server)
        metrics.shutdown()


async def _drain(runner: web.ServerRunner, server: ProxyServer) -> None:
    """Close idle connections, finish running requests, and abort those that take too long."""
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            await runner.cleanup()
    except TimeoutError:
        await server.shutdown(CUT_SECONDS)
