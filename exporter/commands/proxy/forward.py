"""Forward one request to the model server, and its response to the client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

import aiohttp
from aiohttp import web
from yarl import URL

from exporter.client.ids import time_ordered_id
from exporter.commands.proxy import headers
from exporter.commands.proxy.metrics import Metrics
from exporter.commands.proxy.recorder import Copy, Recorder
from exporter.commands.proxy.responses import PassedResponse, parser_error, problem
from exporter.commands.proxy.upstream import ATTEMPT, Attempt, Upstream

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
        response = problem(status, detail, headers.identifier(request.headers) or time_ordered_id(time.time_ns()))
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
    if headers.PSEUDONYM in ",".join(request.headers.getall("Via", [])):
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
        self._identifier = headers.identifier(request.headers) or time_ordered_id(self._time)
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
            headers=headers.for_upstream(request, self._identifier, forwarder.host),
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
        self._identifier = headers.identifier(answer.headers) or self._identifier
        if self._named:
            self._response_copy = self._forwarder.recorder.copy(answer.headers)
        passed = headers.for_client(answer.raw_headers, answer.headers, self._identifier)
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
