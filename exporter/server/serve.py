"""Run the server: addresses, TLS, signals, and open connections when it stops."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import ipaddress
import logging
import os
import platform
import resource
import signal
import socket
import ssl
import sys
import time
from collections.abc import Generator
from pathlib import Path

import uvicorn
import uvloop

from exporter.config import ModelConfig, StoreConfig
from exporter.monitoring.registry import MonitorRegistry
from exporter.server import connections as http
from exporter.server.access import WebConfig
from exporter.server.application import Exporter
from exporter.server.asgi import Application
from exporter.storage import shown_archive, shown_url
from exporter.version import version

log = logging.getLogger(__name__)

CONNECTIONS = 16_384
"""Connections served at a time, as far as the limit of open files allows; more are refused."""
SPARE_FILES = 512
"""Open files that are kept for what is no connection: the database, pipes, profiles."""
LISTENERS = 8
"""Listeners on each socket without TLS: libuv accepts one connection of each in a pass of the loop."""
TLS_CONNECTIONS = 4096
"""The same with TLS, of which a connection takes 60 KiB."""
REQUEST_SECONDS = 5
"""Time that requests under way have to end once a stop is asked for."""
CONFIRM_SECONDS = 1
"""Time that TLS clients have after that to confirm the end of their connection."""
MAPPED_BYTES = 2**20
"""Allocations from this size on are mapped each by itself: the system gets them back once they are freed."""
_CHECK_TICKS, _TRIM_TICKS = 5, 300  # uvicorn ticks ten times a second
_M_MMAP_THRESHOLD = -3  # glibc's malloc.h


def serve(exporter: Exporter, host: str, port: int, web: WebConfig, path: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reloads the configuration.

    Parameters
    ----------
    exporter
        What is served.
    host, port
        The address to listen on.
    web
        TLS, users and tokens.
    path
        A Unix socket to listen on, too; users and tokens hold there as well, TLS does not.

    Raises
    ------
    StackError
        When the address or the socket cannot be listened on.
    """
    with http.listen(host, port) as bound:
        if path is None:
            _serve(exporter, web, [bound])
            return
        with http.listen_at(path) as unix:
            try:
                _serve(exporter, web, [bound, unix])
            finally:
                path.unlink(missing_ok=True)


def _serve(exporter: Exporter, web: WebConfig, sockets: list[socket.socket]) -> None:
    # Otherwise it rises to 32 MiB, and large bodies fragment the heap: 50 of 15 MiB took 440 MiB instead of 200.
    _malloc("mallopt", _M_MMAP_THRESHOLD, MAPPED_BYTES)
    sys.setswitchinterval(0.0002)  # each read from a TLS client makes the loop wait for the threads' Python
    app = Application(exporter, web)
    server = Server(exporter, app, web, _max_connections())
    gc.freeze()  # or a full collection looks through the libraries again and again: 40 ms in which nobody is answered
    gc.set_threshold(50_000)  # with 700, the default, it takes four times as long to decode many lists
    gc.enable()
    started = time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.serve(sockets))
        log.info("stopping after %.0f s", time.monotonic() - started)
    app.close()


class Server(uvicorn.Server):
    """Uvicorn's server with bounded connections and certificates that can be renewed.

    Parameters
    ----------
    exporter
        Reloaded by SIGHUP; not ready any more once a stop is asked for.
    app
        The ASGI application.
    web
        TLS.
    max_connections
        Connections that may be open at a time; with TLS, `TLS_CONNECTIONS` of them are served.
    """

    def __init__(self, exporter: Exporter, app: Application, web: WebConfig, max_connections: int) -> None:
        config = uvicorn.Config(
            app,
            interface="asgi3",
            http=http.BoundedProtocol,
            ws="none",
            loop="none",
            lifespan="off",
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_config=None,
            log_level="critical",  # the application logs its faults, and clients' faults are not logged
        )
        super().__init__(config)
        self._exporter = exporter
        self._web = web
        self._acceptors: list[http.Acceptor] = []
        self._files = max_connections
        self._max_connections = min(max_connections, TLS_CONNECTIONS) if web.tls else max_connections

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and take signals."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._exporter.reload_soon)
        bound, *unix = sockets or []
        self._turns = http.Turns()
        self.servers = []
        await self._listen(bound, self._web.context())
        host, port = bound.getsockname()[:2]
        scheme = "https" if self._web.tls else "http"
        browsed = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 (compared, not listened on)
        self._exporter.address = f"{scheme}://{f'[{browsed}]' if ':' in browsed else browsed}:{port}"
        log.info("listening on %s://%s:%d", scheme, f"[{host}]" if ":" in host else host, port)
        for listener in unix:
            await self._listen(listener, None)
            log.info("listening on unix://%s", Path(listener.getsockname()).absolute())
        log_access(self._web, host)

        def renewed() -> None:
            loop.call_soon_threadsafe(self._renew_certificates)

        self._web.renewed = renewed
        self.started = True

    async def _listen(self, bound: socket.socket, context: ssl.SSLContext | None) -> None:
        def protocol() -> http.BoundedProtocol:
            return http.BoundedProtocol(self.config, self.server_state, self._max_connections, self._turns)

        if context:
            files = self._files + http.MAX_REFUSALS
            self._acceptors = [
                http.Acceptor(bound, protocol, context, lambda: files - len(self.server_state.connections))
            ]
            return
        loop = asyncio.get_running_loop()
        for _ in range(LISTENERS):
            self.servers.append(await loop.create_server(protocol, sock=bound.dup(), backlog=http.BACKLOG))

    def _renew_certificates(self) -> None:
        """Take new connections with the certificates of now; those that are open go on."""
        try:
            if context := self._web.context():
                self._acceptors[0].context = context
        except OSError as error:  # SSLError among them
            log.warning("the previous certificates stay in use: %s", error.strerror or error)

    def _stop(self) -> None:
        self._exporter.stop()
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Close connections that take too long, and return free memory to the system."""
        if counter % _CHECK_TICKS == 0:
            self._check_connections()
        if counter % _TRIM_TICKS == 0:
            _malloc("malloc_trim", 0)  # between two peaks, the system gets back what is free
        return await super().on_tick(counter)

    def _check_connections(self) -> None:
        try:
            now = asyncio.get_running_loop().time()
            for acceptor in self._acceptors:
                acceptor.check(now)
            http.check_connections(self.server_state.connections, now, self._max_connections)
        except Exception:  # time limits must hold for the others
            log.exception("checking connections")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        """Answer what has arrived, within bounds, and close all connections."""
        for server in self.servers:
            server.close()
        for acceptor in self._acceptors:
            acceptor.close()
        loop, connections = asyncio.get_running_loop(), self.server_state.connections
        until = loop.time() + REQUEST_SECONDS
        for connection in list(connections):
            connection.shutdown()
        confirmed = until
        while connections and loop.time() < min(until, confirmed):
            await asyncio.sleep(0.02)
            self._check_connections()
            if not http.all_finished(connections):
                confirmed = until
            elif confirmed == until:
                confirmed = loop.time() + CONFIRM_SECONDS
        if confirmed == until and connections:
            log.warning("connections were still open after %g s", REQUEST_SECONDS)
        for connection in list(connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # for the applications to be told

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Take no signals in uvicorn's way, which raises them again in the end."""
        yield


def _max_connections() -> int:
    """Return how many connections may be open, once the limit of open files is as high as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return CONNECTIONS if soft == resource.RLIM_INFINITY else max(min(CONNECTIONS, soft - SPARE_FILES), 1)


def _malloc(function: str, *arguments: int) -> None:
    """Call a function of glibc's allocator; other C libraries have none."""
    with contextlib.suppress(AttributeError, OSError):
        getattr(ctypes.CDLL(None), function)(*arguments)


def log_version(config_file: Path) -> None:
    """Log the version, and the configuration that is about to be read."""
    log.info(
        "starting model-exporter %s with Python %s as process %d, configuration %s",
        version(),
        platform.python_version(),
        os.getpid(),
        config_file.absolute(),
    )


def log_state(exporter: Exporter) -> None:
    """Log the database and the models, each with its profiles."""
    log.info("%s", _database(exporter.config.store, exporter.store.replica))
    for model in exporter.config.models:
        if exporter.pipeline.monitors.binners_of(model.name):
            log.info("model %r: %s", model.name, _profiles(model, exporter.pipeline.monitors))
        else:
            log.warning("model %r has no profile: its inputs are not monitored", model.name)
    if not exporter.config.models:
        log.warning("no model is configured yet: %s has no valid file", exporter.reloader.files.folder)
    restored = sum(1 for _ in exporter.pipeline.monitors)
    if restored:
        log.info("versions whose windows were restored from the database: %d", restored)


def log_access(web: WebConfig, host: str) -> None:
    """Log who may send requests; warn where that is anyone on the network.

    Parameters
    ----------
    web
        Users, tokens and TLS.
    host
        The IP address that the exporter listens on.
    """
    needs_certificate = web.tls is not None and web.tls.client_ca_file is not None
    if not web.guarded and not needs_certificate and not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        log.warning(
            "anyone who can reach %s may read and write everything, because there are neither users nor tokens: set "
            "--web.config.file or --web.tokens.file, or listen on 127.0.0.1",
            "any address of this machine" if ipaddress.ip_address(host).is_unspecified else host,
        )
        return
    log.info("%s", _access(web, needs_certificate))


def _database(store: StoreConfig, replica: str) -> str:
    archived = f" and then archived in {shown_archive(store.archive)}" if store.archive else ""
    parts = [
        f"database {shown_url(store.url)}",
        f"predictions are kept for {store.retention}{archived}",
        f"inputs {store.inputs}",
    ]
    if store.max_size:
        parts.append(f"at most {store.max_size}")
    if replica:
        parts.append(f"replica {replica!r}")
    return ", ".join(parts)


def _profiles(model: ModelConfig, monitors: MonitorRegistry) -> str:
    texts = []
    for name, path in ((None, model.profile), *model.profiles.items()):
        if path is not None and (binner := monitors.binner(model.name, name or "")):
            profile = binner.profile
            of_version = "" if name is None else f"version {name!r} "
            texts.append(f"{of_version}profile {path} ({len(profile.inputs)} inputs, {profile.rows} rows)")
    return f"{'; '.join(texts)}; windows {', '.join(model.windows)}"


def _access(web: WebConfig, needs_certificate: bool) -> str:
    parts = []
    if needs_certificate and web.tls:
        parts.append(f"a client needs a certificate from {web.tls.client_ca_file}")
    if web.users:
        parts.append(f"users may do everything: {', '.join(sorted(web.users))}")
    if web.tokens is not None:
        tokens = sorted(f"{token.name} ({', '.join(sorted(token.scopes))})" for token in web.tokens.values())
        parts.append(f"tokens may do what their scopes allow: {', '.join(tokens)}" if tokens else "no token is valid")
    if web.guarded and web.open_metrics:
        parts.append("anyone may read /metrics and the probes")
    if not web.guarded:
        parts.append("there are neither users nor tokens, so each client may read and write everything")
    return "; ".join(parts)
