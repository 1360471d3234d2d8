"""The command ``model-exporter proxy``: record the requests to a model server."""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import signal
import sys
from pathlib import Path
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from exporter.client.transport import Transport, split_address
from exporter.commands import logs
from exporter.commands.common import Address, add_log_options, address, seconds
from exporter.commands.proxy.forward import (
    Connector,
    Forwarder,
    Upstream,
    client,
    document,
    parse_upstream,
    parser_error,
    problem,
)
from exporter.commands.proxy.recorder import MAX_COPY, Metrics, ProxyCollector, Recorder, create_app
from exporter.errors import ExporterError, UsageError

IDLE_SECONDS = 75.0
"""How long a connection may be idle, or take to send the head of a request."""
LINGER_SECONDS = 2.0
"""How long the rest of a body is read after the response, so that the client gets to read the response."""
MAX_FIELD = 16 * 1024
"""Bytes of a request line or header field; there may be 128 fields."""


MAX_REFUSING = 100
"""Clients beyond the limit that are told so at a time."""
_BODY = document(503, "too many connections")
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(_BODY), _BODY)
)


class ProxyServer(web.Server):
    """Accepts the connections of clients.

    Parameters
    ----------
    forwarder
        What answers their requests.
    metrics
        Where refused requests are counted.
    limit
        Connections at a time.
    """

    def __init__(self, forwarder: Forwarder, metrics: Metrics, limit: int) -> None:
        super().__init__(
            forwarder.handle,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=LINGER_SECONDS,
            max_line_size=MAX_FIELD,
            max_field_size=MAX_FIELD,
        )
        self._metrics = metrics
        self._limit = limit

        self._refusing = 0

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        if len(self._connections) >= self._limit:
            return cast(web.RequestHandler, _Refusal(self))
        return _Connection(self, self._metrics, loop=self._loop, **self._kwargs)

    def refuse(self, transport: asyncio.Transport) -> None:
        """Close a connection beyond the limit: with the reason, unless too many others are being told."""
        self._metrics.codes[503] += 1
        if self._refusing >= MAX_REFUSING:
            transport.abort()
            return
        self._refusing += 1
        transport.write(_REFUSAL)
        transport.write_eof()
        self._loop.call_later(LINGER_SECONDS, self._refused, transport)

    def _refused(self, transport: asyncio.Transport) -> None:
        self._refusing -= 1
        transport.abort()


class _Refusal(asyncio.Protocol):
    """A connection beyond the limit; what its client sends is ignored."""

    def __init__(self, server: ProxyServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Refuse the connection."""
        self._server.refuse(cast(asyncio.Transport, transport))

    def eof_received(self) -> bool:
        """Leave the end to the server."""
        return True


class _Connection(web.RequestHandler):
    """A client's connection, which answers what is not HTTP with a problem document."""

    __slots__ = ("_metrics",)

    def __init__(self, server: ProxyServer, metrics: Metrics, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._metrics = metrics

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Return the response to a request that could not be read, or that failed unforeseen."""
        if isinstance(exc, LineTooLong):
            status, detail = 431, f"expected a request line and header fields of at most {MAX_FIELD} bytes each"
        elif isinstance(exc, HttpProcessingError):
            detail = f"the request is not valid HTTP/1.1: {parser_error(message or '')}"
        else:
            return super().handle_error(request, status, exc, message)
        self._metrics.codes[status] += 1
        response = problem(status, detail)
        response.force_close()
        return response


DRAIN_SECONDS = 25.0
"""What requests under way get to end in, of the 30 s that Kubernetes gives."""
CUT_SECONDS = 0.5
"""What requests that are cancelled after that get to end in."""
SEND_SECONDS = 3.0
"""What records get to leave in, after that."""
_SWITCH_SECONDS = 0.0005  # so long may the sender's thread keep the interpreter while a request waits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    add("--upstream", required=True, metavar="URL", help="URL of the model server, such as http://127.0.0.1:8080")
    text = "address of the proxy (%(default)s)"
    add("--listen-address", type=address, default="127.0.0.1:9880", metavar="HOST:PORT", help=text)
    text = "address of the proxy's own metrics and probes (%(default)s)"
    add("--web.listen-address", type=address, default="127.0.0.1:9881", metavar="HOST:PORT", help=text)
    text = "URL of the exporter (%(default)s): http://, https:// or unix:///"
    add("--exporter", default="http://127.0.0.1:9877", metavar="URL", help=text)
    add("--exporter.token-file", type=Path, metavar="FILE", help="file with a bearer token for the exporter")
    text = "file with certificates to trust for the exporter instead of the system's"
    add("--exporter.ca-file", metavar="FILE", help=text)
    add("--model", help="model of everything recorded; default: the one in the path")
    add("--version", help="version of everything recorded; default: the one in the path or response")
    text = "record POST requests to these paths instead of the known ones; * matches anything; repeatable"
    add("--record.path", action="append", default=[], metavar="PATTERN", help=text)
    text = "bytes of a body that are copied (%(default)s)"
    add("--record.body-limit", type=_bytes, default=2**20, metavar="BYTES", help=text)
    text = "Host header for the model server; default: the client's"
    add("--upstream.host", type=_host, metavar="HOST", help=text)
    add("--upstream.ca-file", metavar="FILE", help="file with certificates to trust instead of the system's")
    text = "seconds without a byte in either direction (%(default)g)"
    add("--upstream.timeout", type=seconds, default=60.0, metavar="SECONDS", help=text)
    text = "seconds to connect to the model server (%(default)g)"
    add("--upstream.connect-timeout", type=seconds, default=5.0, metavar="SECONDS", help=text)
    text = "seconds that a connection to the model server may be idle (%(default)g)"
    add("--upstream.idle", type=_idle, default=1.0, metavar="SECONDS", help=text)
    add_log_options(parser)


def _idle(text: str) -> float:
    return 0.0 if text == "0" else seconds(text)


def _bytes(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) <= MAX_COPY:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected 0 to {MAX_COPY} bytes, got {text!r}")


def _host(text: str) -> str:
    if text and text.isascii() and text.isprintable() and " " not in text:
        return text
    raise argparse.ArgumentTypeError(f"expected a host such as models.example.com, got {text!r}")


def run(options: argparse.Namespace) -> int:
    """Pass on and record until a signal says to stop."""
    logs.configure(options.log_level, options.log_format)
    if options.record_path and not options.model:
        raise UsageError("--record.path: needs a --model, which such paths do not name")
    to = parse_upstream(options.upstream, options.upstream_ca_file)
    try:
        split_address(options.exporter)
    except ExporterError as error:
        raise UsageError(f"--exporter: {error}") from None
    target = Transport(options.exporter, 5.0, options.exporter_token_file, options.exporter_ca_file)
    recorder = Recorder(target, options.model, options.version, options.record_path, options.record_body_limit)
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        asyncio.run(_serve(options, to, recorder))
    finally:
        recorder.sender.close(SEND_SECONDS)
        _log.info("stopped: %d records sent, %d dropped", recorder.sender.sent, recorder.sender.dropped)
    return 0


def _max_connections() -> int:
    """Return how many clients may be connected: each may need another connection to the model server."""
    return max(16, min(8192, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 128) // 2))


async def _serve(options: argparse.Namespace, to: Upstream, recorder: Recorder) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    metrics = Metrics()
    connector = Connector(to, options.upstream_idle)
    async with client(connector, options.upstream_connect_timeout) as session:
        forwarder = Forwarder(to, session, recorder, metrics, options.upstream_host, options.upstream_timeout)
        server = ProxyServer(forwarder, metrics, _max_connections())

        def connections() -> dict[str, int]:
            return {"client": len(server.connections), "upstream": connector.count}

        app = create_app(ProxyCollector(metrics, recorder, connections), metrics)
        proxy, metrics_runner = web.ServerRunner(server), web.AppRunner(app, access_log=None)
        try:
            await _listen(proxy, options.listen_address, f"a proxy to {options.upstream}")
            await _listen(metrics_runner, options.web_listen_address, "metrics and probes")
            await stop.wait()
            _log.info("stopping: %d requests under way", metrics.in_flight)
            metrics.draining = True
            await _drain(proxy, server)
        finally:
            await metrics_runner.cleanup()


async def _listen(runner: web.BaseRunner, where: Address, what: str) -> None:
    await runner.setup()
    site = web.TCPSite(runner, where.host or None, where.port, backlog=2048)
    try:
        await site.start()
    except OSError as error:
        raise ExporterError(f"cannot listen on {where}: {error.strerror or error}") from None
    _log.info("%s on http://%s", what, Address(*runner.addresses[0][:2]))


async def _drain(runner: web.ServerRunner, server: ProxyServer) -> None:
    """Close idle connections, finish running requests, and abort those that take too long."""
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            await runner.cleanup()
    except TimeoutError:
        await server.shutdown(CUT_SECONDS)
