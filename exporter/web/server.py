"""The server from start to end: its addresses, TLS, signals, and what is still open when it stops."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from exporter.errors import ConfigError
from exporter.runtime import Exporter
from exporter.web.door import FrontDoor
from exporter.web.sockets import reserved, vacate
from exporter.webconfig import WebConfig

log = logging.getLogger(__name__)

HEADER_MILLISECONDS = 15_000
"""Time a client has to send a request's head, and how long a connection may idle."""
CONNECTIONS = 16_384
"""Connections served at a time, as far as the limit of open files allows; more wait in the kernel's backlog."""
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
    with reserved(host, port) as (address, bound):
        if path is None:
            _serve(exporter, address, bound, web, path)
            return
        vacate(path)
        try:
            _serve(exporter, address, bound, web, path)
        finally:
            path.unlink(missing_ok=True)


def _serve(exporter: Exporter, host: str, port: int, web: WebConfig, path: Path | None) -> None:
    sys.setswitchinterval(0.001)  # the loop must not wait long for the aggregator's Python
    door = FrontDoor(exporter, web)
    common: dict[str, Any] = {
        "interface": Interfaces.RSGI,
        "http": HTTPModes.http1,
        "http1_settings": HTTP1Settings(header_read_timeout=HEADER_MILLISECONDS),
        "websockets": False,
        "backlog": 4096,
        "backpressure": _connections(),
        "log_enabled": False,
    }
    servers = [Server(door, address=host, port=port, **common, **web.granian())]
    if path is not None:
        servers.append(Server(door, uds=path, **common))

    gc.freeze()  # or a full collection looks through the libraries again and again: 40 ms in which nobody is answered
    gc.enable()

    async def run() -> bool:
        loop = asyncio.get_running_loop()

        def renewed() -> None:  # a new worker reads the certificates; the one before ends once its connections have
            loop.call_soon_threadsafe(servers[0].reload)

        web.renewed = renewed
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: threading.Thread(target=_reload, args=(exporter,)).start())
        watch = loop.create_task(door.bodies.watch())
        serving = {loop.create_task(server.serve()) for server in servers}
        waiting = loop.create_task(stopping.wait())
        await asyncio.wait({*serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        exporter.ready = False
        for server in servers:
            server.stop()  # type: ignore[no-untyped-call]
        door.bodies.hurry()
        watch.cancel()
        _, left = await asyncio.wait(serving, timeout=STOP_SECONDS)
        return not left

    import uvloop

    started = time.monotonic()
    log.info("listening on %s://%s:%d", "https" if web.tls else "http", f"[{host}]" if ":" in host else host, port)
    if path is not None:
        log.info("listening on unix://%s", path.absolute())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ended = runner.run(run())
        log.info("stopping after %.0f s", time.monotonic() - started)
        door.close()
        if not ended:
            log.warning("connections were still open after %g s", STOP_SECONDS)
            exporter.close()
            logging.shutdown()
            os._exit(0)  # the server's own threads wait for clients that may never end


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
