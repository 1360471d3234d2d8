"""The front door: one event loop reads every request, whole and bounded, before a thread sees it.

``POST /v1/predictions`` is answered on the loop itself, without a framework. All other routes go
to the Flask application in threads, in four groups so that none can starve another: scrapes and
health, feedback, datasets, and the rest. A slow client costs a coroutine, never a thread.
"""

from __future__ import annotations

import asyncio
import io
import logging
import math
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from flask import Flask
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]
from granian.server.embed import Server

from exporter.errors import ConfigError, QueueFullError, StackError, StoreError
from exporter.runtime import Exporter
from exporter.tokens import Caller
from exporter.validation import shown
from exporter.web.access import CALLER, OPEN, PREDICTIONS, SAFE, UNSAFE, forbidden, foreign
from exporter.web.api import NDJSON
from exporter.web.app import create_app
from exporter.web.ingest import MAX_BODY, Ingest
from exporter.web.problems import Reply, problem
from exporter.web.sockets import vacate
from exporter.web.streaming import STREAMED, STREAMS, Streamed, pour
from exporter.web.wire import COMPRESSED, PATHS
from exporter.webconfig import WebConfig

log = logging.getLogger(__name__)

BODY_SECONDS = 30.0
"""Time a client has to send a body."""
HEADER_MILLISECONDS = 15_000
"""Time a client has to send a request's head, and how long a connection may idle."""
CONNECTIONS = 16_384
"""Connections served at a time, as far as the limit of open files allows; more wait in the kernel's backlog."""
SPARE_FILES = 512
"""Open files that are kept for what is no connection: the database, pipes, profiles."""
INFLIGHT_BYTES = 256 * 2**20
"""Bytes of large bodies being received or worked on at a time."""
SMALL_BODY = 16 * 1024
"""Bytes up to which a body is not among them: one on each connection is as much again."""
LARGE_BODY = 512 * 1024
"""Bytes from which a body is decoded in a thread: the loop must not wait for it."""
STOP_SECONDS = 5.0
"""Time that requests under way have to end once a stop is asked for."""
WAITING = 1000
"""Requests that may wait for a thread of their group."""

_MEASURED = {"content-type", "content-length"}  # headers that an answer of known length gets anew
_Result = TypeVar("_Result")


class Group:
    """Threads for one kind of requests, and a bound on what waits for them."""

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._waiting = 0

    async def run(self, call: Callable[[], _Result]) -> _Result:
        """Run a call in one of the threads.

        Raises
        ------
        QueueFullError
            When too many wait already.
        """
        if self._waiting >= WAITING:
            raise QueueFullError("too many requests wait")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call)
        finally:
            self._waiting -= 1

    async def step(self, call: Callable[[], _Result]) -> _Result:
        """Go on in one of the threads with what was begun."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def close(self) -> None:
        """End the threads once they have finished what they do."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class FrontDoor:
    """The RSGI application.

    Parameters
    ----------
    exporter
        What it serves.
    web
        TLS, users and tokens.
    """

    def __init__(self, exporter: Exporter, web: WebConfig) -> None:
        self._web = web
        self._health = exporter.health
        self._ingest = Ingest(exporter)
        self._app = create_app(exporter, self._ingest)
        self._operations = Group("operations", 2)
        self._feedback = Group("feedback", 32)
        self._rest = Group("pages", 4)
        self._dataset = Group("dataset", 2)
        self._wire = Group("wire", 2)
        self._passwords = Group("passwords", 1)
        self._large = Group("large", 1)
        self._streams = 0
        self._held: dict[asyncio.Task[Any] | None, int] = {}
        self._reading: dict[asyncio.Task[Any] | None, float] = {}

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """Answer one request."""
        try:
            reply = await self._answer(scope, protocol)
        except QueueFullError as error:
            if scope.method in SAFE:
                reply = problem(503, f"{error}, try again", headers=(("Retry-After", "1"),))
            else:
                reply = self._ingest.overloaded(str(error))
        except Exception:
            log.exception("%s %s", scope.method, scope.path)
            reply = problem(500, "something went wrong here; the exporter's log says what")
        if isinstance(reply, Streamed):
            if self._streams < STREAMS:
                self._streams += 1
                try:
                    await pour(scope, protocol, reply, self._dataset.step)
                finally:
                    self._streams -= 1
                return
            await self._dataset.step(reply.close)
            reply = problem(503, f"{STREAMS} exports are being sent, try again", headers=(("Retry-After", "5"),))
        headers = [("content-type", reply.content_type), *reply.headers]
        body = b"" if scope.method == "HEAD" else reply.body
        protocol.response_bytes(reply.status, headers, body)

    async def _answer(self, scope: Any, protocol: Any) -> Reply | Streamed:
        headers = scope.headers
        if refused := foreign(scope.method, headers):
            return refused
        caller: Caller | None = None
        if self._web.guarded and not (self._web.open_metrics and scope.path in OPEN and scope.method in SAFE):
            authorization = headers.get("authorization")
            known = self._web.remembered(authorization) or await self._caller(authorization)
            if isinstance(known, Reply):
                return known
            caller = known
            if caller.bucket and (wait := caller.bucket.take(time.monotonic())):
                self._health.rejected.labels("rate_limited").inc()
                detail = f"the token {shown(caller.name)} may send {caller.bucket.rate:g} requests a second"
                return problem(429, detail, headers=(("Retry-After", str(math.ceil(wait))),))
        length = headers.get("content-length")
        if length is None and headers.get("transfer-encoding") is None:
            return await self._handle(scope, b"", caller)
        try:
            body = await self._body(protocol, None if length is None else int(length))
            return body if isinstance(body, Reply) else await self._handle(scope, body, caller)
        finally:  # only now: a body that waits for a thread takes memory, too
            self._held.pop(asyncio.current_task(), None)

    async def _handle(self, scope: Any, body: bytes, caller: Caller | None) -> Reply | Streamed:
        headers = scope.headers
        encoding = headers.get("content-encoding", "identity")
        if body and encoding != "identity" and not (encoding == "gzip" and scope.path in COMPRESSED):
            return problem(415, "a body must not be compressed", headers=(("Accept-Encoding", "identity"),))
        if scope.path == "/v1/predictions" and scope.method == "POST":
            if caller and (refused := forbidden(caller, UNSAFE[PREDICTIONS])):
                return refused
            lines = headers.get("content-type", "").partition(";")[0].strip().lower() in NDJSON
            ids = bool(scope.query_string) and ("ids", "1") in parse_qsl(scope.query_string)
            key = headers.get("idempotency-key")
            if len(body) <= LARGE_BODY:
                return self._ingest.predictions(body, lines, key, ids)
            return await self._large.run(lambda: self._ingest.predictions(body, lines, key, ids))
        environ = _environ(scope, body)
        if caller:
            environ[CALLER] = caller
        return await self._group(scope.path).run(lambda: call(self._app, environ))

    async def _caller(self, header: str | None) -> Caller | Reply:
        caller: Caller | Reply | None = None
        if header and header[:6].lower() == "basic ":
            # Passwords are hashed in a thread of their own: a flood of wrong ones delays only new users.
            caller = await self._passwords.run(lambda: self._web.authenticated(header))
        return caller or problem(401, self._web.wanted, headers=self._web.challenges)

    def _group(self, path: str) -> Group:
        if path == "/metrics" or path.startswith("/-/"):
            return self._operations
        if path in {"/v1/feedback", "/v1/seldon/feedback"}:
            return self._feedback
        if path.startswith("/v1/dataset"):
            return self._dataset
        return self._wire if path.startswith(PATHS) else self._rest

    async def _body(self, protocol: Any, length: int | None) -> bytes | Reply:
        """The request's body, or why it is refused; ``length`` is what was announced."""
        task = asyncio.current_task()
        self._reading[task] = time.monotonic() + BODY_SECONDS
        try:
            if length is not None and length <= SMALL_BODY:
                whole: bytes = await protocol()
                return whole
            received = await self._large_body(protocol)
            if length is not None and isinstance(received, bytes) and len(received) != length:
                return problem(400, f"the body broke off after {len(received)} of {length} bytes")
            return received
        except ProtocolClosed:  # nobody will read this
            return problem(400, "the body broke off")
        except asyncio.CancelledError:
            return problem(408, f"the body did not arrive within {BODY_SECONDS:g} seconds, or before a stop")
        finally:
            del self._reading[task]

    async def _large_body(self, protocol: Any) -> bytes | Reply:
        """A body of unknown or great length, counted as it arrives: what is announced takes no memory yet.

        One that is refused is read on for a while, so that its sender hears the answer and not a broken connection.
        """
        task = asyncio.current_task()
        parts, size, empty, room = [], 0, 0, True
        async for part in protocol:
            size += len(part)
            empty += not part
            room = room and sum(self._held.values()) + len(part) <= INFLIGHT_BYTES
            if room and size <= MAX_BODY:
                parts.append(part)
                self._held[task] = size
                continue
            parts.clear()
            self._held.pop(task, None)
            if size > 8 * MAX_BODY:
                break
        if size > MAX_BODY:
            self._health.rejected.labels("too_large").inc()
            return problem(413, f"the body has more than {MAX_BODY} bytes, the most that is taken")
        if not room:
            return self._ingest.overloaded("too many bodies arrive at this moment")
        if empty > 1:  # the server ends each body with one, and says nothing else of an error: half is not the whole
            return problem(400, "the body broke off, or has trailers, which are not taken")
        return b"".join(parts)

    async def watch(self) -> None:
        """End the reading of bodies that take too long; one look a second is cheaper than a timer a request."""
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            for task, deadline in list(self._reading.items()):
                if now > deadline and task:
                    task.cancel()

    def hurry(self) -> None:
        """End the reading of bodies that have not arrived yet: the exporter stops."""
        for task in list(self._reading):
            if task:
                task.cancel()

    def close(self) -> None:
        """End the threads."""
        groups = (self._operations, self._feedback, self._rest, self._dataset, self._wire, self._passwords, self._large)
        for group in groups:
            group.close()


def call(app: Flask, environ: dict[str, Any]) -> Reply | Streamed:
    """Run a WSGI application to its end; to the first chunk, where the answer is marked to be streamed."""
    answered: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> Callable[[bytes], object]:
        answered[:] = [int(status.split(maxsplit=1)[0]), headers]
        return answered.append

    chunks: Any = app(environ, start_response)
    if environ.get(STREAMED) and environ["REQUEST_METHOD"] != "HEAD":
        return _begun(chunks, *answered)
    try:
        body = b"".join(chunks)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    status, headers = answered
    content_type = next((value for name, value in headers if name.lower() == "content-type"), "text/plain")
    said = {"content-type"} if environ["REQUEST_METHOD"] == "HEAD" and environ.get(STREAMED) else _MEASURED
    rest = tuple((name, value) for name, value in headers if name.lower() not in said)
    return Reply(status, body, rest, content_type)


def _begun(chunks: Any, status: int, headers: list[tuple[str, str]]) -> Reply | Streamed:
    try:
        return Streamed(
            status, [(name.lower(), value) for name, value in headers], next(chunks, b""), chunks, chunks.close
        )
    except StoreError as error:
        chunks.close()
        return problem(503, str(error), headers=(("Retry-After", "5"),))
    except Exception:
        chunks.close()
        raise


def _environ(scope: Any, body: bytes) -> dict[str, Any]:
    host, _, port = scope.server.rpartition(":")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": scope.path.encode("utf-8", "surrogateescape").decode("latin-1"),
        "QUERY_STRING": scope.query_string.encode("utf-8", "surrogateescape").decode("latin-1"),
        "SERVER_NAME": host or "localhost",
        "SERVER_PORT": port or "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": scope.client.rpartition(":")[0],
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.scheme,
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in scope.headers.items():
        if name == "content-type":
            environ["CONTENT_TYPE"] = value
        elif name not in {"content-length", "transfer-encoding"}:
            environ["HTTP_" + name.upper().replace("-", "_")] = value
    return environ


@contextmanager
def reserved(host: str, port: int) -> Iterator[tuple[str, int]]:
    """An address that is free, and stays this process's own: the server would share a taken port silently.

    Raises
    ------
    StackError
        When it cannot be listened on.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            found = probe.getsockname()
    except OSError as error:
        raise StackError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    with socket.socket(socket.AF_UNIX) as claim:  # an abstract name: gone with the process, however it ends
        try:
            claim.bind(f"\0model-exporter:{found[1]}")
        except OSError:
            raise StackError(f"cannot listen on {host}:{port}: another model-exporter does") from None
        yield found[0], found[1]


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

    async def run() -> bool:
        loop = asyncio.get_running_loop()

        def renewed() -> None:  # a new worker reads the certificates; the one before ends once its connections have
            loop.call_soon_threadsafe(servers[0].reload)

        web.renewed = renewed
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: threading.Thread(target=_reload, args=(exporter,)).start())
        watch = loop.create_task(door.watch())
        serving = {loop.create_task(server.serve()) for server in servers}
        waiting = loop.create_task(stopping.wait())
        await asyncio.wait({*serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        exporter.ready = False
        for server in servers:
            server.stop()  # type: ignore[no-untyped-call]
        door.hurry()
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
