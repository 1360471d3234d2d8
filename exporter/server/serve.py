"""The server from start to end: its addresses, TLS, signals, and what is still open when it stops."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import socket
import ssl
import sys
import threading
import time
from pathlib import Path

import uvloop

from exporter.errors import ConfigError
from exporter.server.application import Exporter
from exporter.server.http1.connection import HEAD_SECONDS, Front
from exporter.server.http_service import FrontDoor
from exporter.server.sockets import BACKLOG, listen, listen_at
from exporter.server.web_config import WebConfig

log = logging.getLogger(__name__)

CONNECTIONS = 16_384
"""Connections served at a time, as far as the limit of open files allows; more are told so and closed."""
SPARE_FILES = 512
"""Open files that are kept for what is no connection: the database, pipes, profiles."""
STOP_SECONDS = 5.0
"""Time that requests under way have to end once a stop is asked for."""


def serve(exporter: Exporter, host: str, port: int, web: WebConfig, path: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reloads the configuration.

    Parameters
    ----------
    exporter
        What is served.
    host, port
        Where.
    web
        TLS, users and tokens.
    path
        A Unix socket to listen on, too; users and tokens hold there as well, TLS does not.

    Raises
    ------
    StackError
        When the address or the socket cannot be listened on.
    """
    with listen(host, port) as bound:
        if path is None:
            _serve(exporter, web, bound, None)
            return
        with listen_at(path) as beside:
            try:
                _serve(exporter, web, bound, beside)
            finally:
                path.unlink(missing_ok=True)


def _serve(exporter: Exporter, web: WebConfig, bound: socket.socket, beside: socket.socket | None) -> None:
    sys.setswitchinterval(0.001)  # the loop must not wait long for the aggregator's Python
    door = FrontDoor(exporter, web, _connections())
    gc.freeze()  # or a full collection looks through the libraries again and again: 40 ms in which nobody is answered
    gc.enable()
    started = time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ended = runner.run(_run(exporter, door, web, bound, beside))
        log.info("stopping after %.0f s", time.monotonic() - started)
    door.close()
    if not ended:
        log.warning("connections were still open after %g s", STOP_SECONDS)


async def _run(
    exporter: Exporter, door: FrontDoor, web: WebConfig, bound: socket.socket, beside: socket.socket | None
) -> bool:
    """Serve until a signal; whether all connections ended by themselves."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    renewing = asyncio.Event()

    def renewed() -> None:
        loop.call_soon_threadsafe(renewing.set)

    web.renewed = renewed
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: threading.Thread(target=_reload, args=(exporter,)).start())
    servers = [await _accept(door, bound, web.context())]
    host, port = bound.getsockname()[:2]
    log.info("listening on %s://%s:%d", "https" if web.tls else "http", f"[{host}]" if ":" in host else host, port)
    if beside is not None:
        servers.append(await _accept(door, beside, None))
        log.info("listening on unix://%s", Path(beside.getsockname()).absolute())
    tasks = [loop.create_task(door.sweeping()), loop.create_task(_renew(door, web, bound, servers, renewing))]
    await stopping.wait()
    exporter.ready = False
    for server in servers:
        server.close()
    ended = await door.drain(STOP_SECONDS)
    door.cut()
    for task in tasks:
        task.cancel()
    await asyncio.sleep(0)  # for what was cut to be told
    return ended


async def _accept(door: FrontDoor, bound: socket.socket, context: ssl.SSLContext | None) -> asyncio.Server:
    seconds = None if context is None else HEAD_SECONDS
    return await asyncio.get_running_loop().create_server(
        lambda: Front(door),
        sock=bound.dup(),
        backlog=BACKLOG,
        ssl=context,
        ssl_handshake_timeout=seconds,
        ssl_shutdown_timeout=seconds,
    )


async def _renew(
    door: FrontDoor, web: WebConfig, bound: socket.socket, servers: list[asyncio.Server], renewing: asyncio.Event
) -> None:
    """Take new connections with the certificates of now, whenever they change; those that are open go on."""
    while True:
        await renewing.wait()
        renewing.clear()
        try:
            server = await _accept(door, bound, web.context())
        except OSError as error:  # SSLError among them
            log.warning("the certificates before stay: %s", error.strerror or error)
            continue
        servers[0].close()
        servers[0] = server


def _connections() -> int:
    """How many connections may be open, once the limit of open files is as high as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return CONNECTIONS if soft == resource.RLIM_INFINITY else max(min(CONNECTIONS, soft - SPARE_FILES), 1)


def _reload(exporter: Exporter) -> None:
    try:
        exporter.reload()
    except ConfigError:
        log.warning("the configuration before stays")
    except Exception:
        log.exception("the configuration before stays")
