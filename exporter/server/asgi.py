"""The ASGI application: authenticate a request, and choose the thread pool that answers it.

``POST /v1/predictions`` and probes are answered on the event loop, and ``POST /v1/feedback`` there, too, once it is
on disk. Scrapes have threads of their own, and equal ones that wait share one response. All other routes are Flask's,
in thread pools of which none can starve another.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import io
import logging
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, unquote_to_bytes

from exporter.errors import EventError, QueueFullError, StoreError
from exporter.server.access import OPEN, SAFE, Sender, Shares, WebConfig, is_own_host, origin_error, scope_error, sender
from exporter.server.api.schemas import parse_ids
from exporter.server.application import Exporter, healthy, metrics, ready
from exporter.server.ingest import LARGE_BODY, NDJSON, ONE_ACCEPTED
from exporter.server.problem import INTERNAL_ERROR, Reply, problem, store_problem
from exporter.server.routes import OTHER, ROUTES, Route, find
from exporter.validation import preview
from exporter.wire.formats import MAX_BODY

if TYPE_CHECKING:
    from flask import Flask


Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Bodies = dict[str, dict["Request", None]]

INFLIGHT_BYTES = 48 * 2**20
"""Bytes of large bodies being received or worked on at a time; see `Shares`."""
HOLD_SECONDS, HOLD_BODIES = 10.0, 50  # that a large body may wait for others of its sender, and how many may wait
SMALL_BODY = 16 * 1024
"""Bytes up to which a body does not count there: one on each connection is as much as the bound of all others."""
COMPRESSED_BODY = 4 * 1024
"""Bytes up to which a body in another server's format is not large: with gzip, it unpacks to 4 MiB at most."""
DISCARDED_BODY = 64 * 1024
"""Bytes of a refused body that are read so that its connection can be used again."""
MAX_DISCARDED = 8 * MAX_BODY
"""Bytes of a body that is too large that are read, so that its sender gets to read why."""
LINGER_SECONDS = 1.5
"""Time in which a client that is still sending gets to read why nobody wants it; less than the connection has."""


class RequestError(Exception):
    """The request is refused; ``reply`` says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


class ClientDisconnectedError(Exception):
    """Nobody waits for an answer any more."""


class Request:
    """A request.

    Parameters
    ----------
    scope, receive
        As ASGI has them.
    inflight, bodies
        Where large bodies are counted, and those of each sender in the order in which they came.

    Attributes
    ----------
    headers
        By names in lower case; values of the same name are joined with commas.
    received
        Whether all of it has arrived.
    route
        Its route, under whose rule it is counted.
    """

    def __init__(self, scope: Scope, receive: Receive, inflight: Shares, bodies: Bodies) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers = join_headers(scope["headers"])
        self.received = False
        self.route = OTHER
        self._receive = receive
        self._inflight, self._bodies = inflight, bodies
        self._held = 0

    @property
    def query(self) -> str:
        """The query string."""
        text: bytes = self.scope["query_string"]
        return text.decode("latin-1")

    def header(self, name: str) -> str | None:
        """Return the value of a header by its name in lower case."""
        value = self.headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    @property
    def length(self) -> int:
        """The announced size of the body in bytes."""
        return int(self.headers.get(b"content-length", 0))

    @property
    def reusable(self) -> bool:
        """Whether what is left of the body is little enough to be read for the sake of the connection."""
        expects = b"expect" in self.headers or b"transfer-encoding" in self.headers
        return self.received or not (expects or self.length > DISCARDED_BODY)

    async def body(self, most: int) -> bytes:
        """Receive the body, which may have so many bytes.

        Raises
        ------
        RequestError
            When it is too large.
        QueueFullError
            When the bodies of its sender, or of all, are too large together.
        ClientDisconnectedError
            When it does not arrive.
        """
        if self.length > most and (self.length > MAX_DISCARDED or b"expect" in self.headers):
            raise _too_large(most)
        body = await self._part()
        if not (self.received and len(body) <= SMALL_BODY):
            body = await self._large_body(bytearray(body), most)
        return body

    async def _large_body(self, body: bytearray, most: int) -> bytes:
        size = len(body)
        try:
            await self._hold(size)
            while not self.received:
                part = await self._part()
                size += len(part)
                await self._hold(len(part))
                if size > most:
                    raise _too_large(most)
                body += part
        except (RequestError, QueueFullError):
            self.release()
            body.clear()
            while not self.received and size <= MAX_DISCARDED:
                size += len(await self._part())
            raise
        return bytes(body)

    async def _part(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError
        self.received = not message.get("more_body", False)
        body: bytes = message.get("body", b"")
        return body

    async def discard(self) -> None:
        """Receive what is left of the body."""
        while not self.received:
            await self._part()

    async def linger(self) -> None:
        """Receive what the client still sends, for a moment."""
        with contextlib.suppress(TimeoutError, ClientDisconnectedError):
            async with asyncio.timeout(LINGER_SECONDS):
                await self.discard()

    async def disconnected(self) -> None:
        """Wait until the client disconnects; the body must have been received."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _hold(self, size: int) -> None:
        """Count bytes; a sender's first body goes on, and while it has its share, others wait and are not read."""
        key, until = sender.get().key, time.monotonic() + HOLD_SECONDS
        bodies = self._bodies.setdefault(key, {})
        bodies[self] = None
        while self._inflight.is_full(key, INFLIGHT_BYTES, MAX_BODY):
            if next(iter(bodies)) is self and self._inflight.total < 2 * INFLIGHT_BYTES:
                break
            if time.monotonic() > until or len(bodies) > HOLD_BODIES:
                raise QueueFullError("too many request bodies are being received")
            await asyncio.sleep(0.2)
        self._held += size
        self._inflight.add(key, size)

    def release(self) -> None:
        """Count the body no longer."""
        key = sender.get().key
        if self in (bodies := self._bodies.get(key, {})):
            del bodies[self]
            if not bodies:
                del self._bodies[key]
            self._inflight.add(key, -self._held)


def join_headers(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the values of headers by their names, joined with commas where there are several.

    >>> join_headers([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")])
    {b'a': b'1, 3', b'b': b'2'}
    """
    headers = dict(pairs)
    if len(headers) == len(pairs):
        return headers
    several: dict[bytes, list[bytes]] = {}
    for name, value in pairs:
        several.setdefault(name, []).append(value)
    return {name: b", ".join(values) for name, values in several.items()}


def _too_large(most: int) -> RequestError:
    return RequestError(problem(413, f"the body has more than {most} bytes, the most that is taken"))


log = logging.getLogger(__name__)

SEND_SECONDS = 30.0
"""Time that a client may take to read the next piece of a streamed body."""
PIECE = 64 * 1024
"""Bytes of a streamed body that wait for its client at a time."""
_CLOSE = (b"connection", b"close")


async def respond(request: Request, reply: Reply, send: Send) -> None:
    """Send a response; what is left of the request is read, or the connection closed."""
    if not request.received and request.reusable:
        await request.discard()
    headers = _encode(reply.headers)
    if reply.content_type:
        headers.append((b"content-type", reply.content_type.encode("latin-1")))
    bare = reply.status in {204, 304}
    if not bare and (reply.body or request.method != "HEAD"):
        headers.append((b"content-length", b"%d" % len(reply.body)))
    body = b"" if bare or request.method == "HEAD" else reply.body
    if not request.received:
        headers.append(_CLOSE)
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    if not request.received:
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await request.linger()  # a client that still sends would lose the response if the connection were closed now
        body = b""
    await send({"type": "http.response.body", "body": body})


async def stream(request: Request, streamed: Streamed, send: Send, step: Callable[..., Awaitable[Any]]) -> None:
    """Send a response piece by piece, each made in a thread.

    Should that fail half-way, the connection is closed before the end: nobody may take it for the whole.
    """
    disconnected = asyncio.create_task(request.disconnected())
    try:
        headers = _encode(streamed.headers)
        await send({"type": "http.response.start", "status": streamed.status, "headers": headers})
        chunk: bytes | None = streamed.first
        while chunk is not None:
            for start in range(0, len(chunk), PIECE):
                if disconnected.done():
                    log.info("%s: the client disconnected", request.path)
                    return
                async with asyncio.timeout(SEND_SECONDS):
                    body = chunk[start : start + PIECE]
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            chunk = await step(lambda: next(streamed.rest, None))
        await send({"type": "http.response.body"})
    except TimeoutError:
        log.warning("%s: the client stopped reading the response", request.path)
    except Exception:
        log.exception("%s: the response ended too early", request.path)
    finally:
        disconnected.cancel()
        with contextlib.suppress(RuntimeError, ValueError):  # the threads have ended, or still make a piece
            await step(streamed.close)


def _encode(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    if sender.get().caller and all(name != b"cache-control" for name, _ in encoded):
        encoded.append((b"cache-control", b"no-store"))  # what needs a login is not kept by browsers and proxies
    return encoded


STREAMED = "exporter.streamed"
"""The key in the WSGI environment of a response that is streamed."""
STREAMS = 8
"""Responses that are streamed at the same time; see `Shares`."""


class Streamed(NamedTuple):
    """A response whose body is produced while it is sent: ``first`` is its beginning, ``rest`` yields what follows."""

    status: int
    headers: list[tuple[str, str]]
    first: bytes
    rest: Iterator[bytes]
    close: Callable[[], None]


THREADS = {
    "main": (1, "the event loop: requests, predictions, probes"),
    "aggregator": (1, "counts the events of the queue"),
    "store-writer": (1, "writes to the database"),
    "tasks": (5, "repeated work, a thread for what may wait for the same"),
    "scrapes": (2, "`/metrics`"),
    "bodies": (1, "large bodies: feedback above 16 KiB, predictions above 512 KiB, others above 4 KiB"),
    "labels": (1, "`POST /v1/labels`"),
    "payloads": (2, "`POST /v1/events`, and the formats of other servers"),
    "dataset": (2, "exports and releases"),
    "searches": (3, "`GET /v1/compare`, and slices"),
    "pages": (3, "all other routes"),
    "passwords": (1, "hashes passwords that were not checked before"),
}
"""The kinds of threads of the process, how many there are of each, and what they do."""
POOLS = tuple(THREADS)[4:]
"""The thread pools; the table of routes names the pool of each route."""
WAITING = 2000
"""Requests that may wait for a thread of a pool; see `Shares`."""

_Result = TypeVar("_Result")


class ThreadPool:
    """Threads for one kind of request, with a limit on the requests that wait for them.

    A free thread takes the first request of the sender that has waited longest for its turn.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._free = threads
        self._turns: dict[str, deque[asyncio.Future[None]]] = {}
        self._waiting = Shares()

    async def run(self, call: Callable[[], _Result], kind: str = "") -> _Result:
        """Run a call in one of the threads, within the limits of `bounded`; a sender has a turn for each ``kind``."""
        return await self.bounded(lambda: self.in_turn(call, sender.get().key + kind))

    async def bounded(self, begin: Callable[[], Awaitable[_Result]], weight: int = 1) -> _Result:
        """Call ``begin`` and await its result; a request may count as several.

        Raises
        ------
        QueueFullError
            When too many requests, or too many of this sender, are waiting already.
        """
        key = sender.get().key
        if self._waiting.is_full(key, WAITING):
            raise QueueFullError("too many requests are waiting")
        self._waiting.add(key, weight)
        try:
            return await begin()
        finally:
            self._waiting.add(key, -weight)

    async def in_turn(self, call: Callable[[], _Result], key: str) -> _Result:
        """Run a call in one of the threads, in the turn of a sender."""
        if self._free:
            self._free -= 1
        else:
            turn = asyncio.get_running_loop().create_future()
            self._turns.setdefault(key, deque()).append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():  # the thread was given to it in the same moment
                    self._pass_on()
                raise
        try:
            return await self.step(call)
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        """Give a thread that is free to the next sender."""
        while self._turns:
            key, turns = next(iter(self._turns.items()))
            turn = turns.popleft()
            del self._turns[key]
            if turns:
                self._turns[key] = turns  # behind the others
            if not turn.done():  # otherwise its request was cancelled
                turn.set_result(None)
                return
        self._free += 1

    async def step(self, call: Callable[[], _Result]) -> _Result:
        """Run a further part of a request that was admitted before, in the context of its task."""
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: context.run(call))

    def close(self) -> None:
        """End the threads once they have finished their calls."""
        self._pool.shutdown(wait=False, cancel_futures=True)


_REPLACED = {"content-type", "date"}  # headers that every response gets anew
_REPLACED_WITH_BODY = {*_REPLACED, "content-length"}


def environment(request: Request, body: bytes) -> dict[str, Any]:
    """Return the WSGI environment of a request."""
    scope = request.scope
    host, port = scope["server"] or ("", None)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(scope["raw_path"]).decode("latin-1"),
        "QUERY_STRING": request.query,
        "SERVER_NAME": host if port else "localhost",  # a Unix socket has neither
        "SERVER_PORT": str(port or 80),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": sender.get().address,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in request.headers.items():
        if name == b"content-type":
            environ["CONTENT_TYPE"] = value.decode("latin-1")
        elif name not in {b"content-length", b"transfer-encoding"}:
            environ["HTTP_" + name.decode("latin-1").upper().replace("-", "_")] = value.decode("latin-1")
    return environ


def run(app: Flask, environ: dict[str, Any]) -> Reply | Streamed:
    """Run a WSGI application to its end; to the first chunk, where the response is marked to be streamed."""
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> Callable[[bytes], object]:
        started[:] = [int(status.split(maxsplit=1)[0]), headers]
        return started.append

    chunks: Any = app(environ, start_response)
    status, headers = started[:2]
    head = environ["REQUEST_METHOD"] == "HEAD"
    if environ.get(STREAMED) and not head and status == 200:
        return _stream(chunks, status, headers)
    try:
        body = b"".join(chunks)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    content_type = next((value for name, value in headers if name.lower() == "content-type"), "")
    replaced = _REPLACED if head else _REPLACED_WITH_BODY
    rest = tuple((name, value) for name, value in headers if name.lower() not in replaced)
    return Reply(status, body, rest, content_type)


def _stream(chunks: Any, status: int, headers: list[tuple[str, str]]) -> Reply | Streamed:
    try:
        return Streamed(status, headers, next(chunks, b""), chunks, chunks.close)
    except StoreError as error:
        chunks.close()
        return store_problem(error)
    except Exception:
        chunks.close()
        raise


BACKPRESSURE_SECONDS = 0.005
"""Time that a client waits longer for its answer, for each 16 KiB of body, while the queue is more than half full."""
MAX_HOST = 300
"""Characters of a ``Host`` header: names have 253 at most."""
REFUSAL_SECONDS = 0.1
"""Time that a client without valid credentials waits for its 401, so that a flood of them costs little."""
CLIENT_CLOSED_REQUEST = 499
"""The code of a request whose client went away, as nginx logs it."""
_PREDICTIONS, _FEEDBACK = ROUTES["POST /v1/predictions"], ROUTES["POST /v1/feedback"]
_JSON = b"application/json"
_ONE_ACCEPTED = b"HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % len(
    ONE_ACCEPTED.body
)


class Application:
    """The ASGI application.

    Parameters
    ----------
    exporter
        Its state.
    web
        Users and tokens.
    """

    def __init__(self, exporter: Exporter, web: WebConfig) -> None:
        self._exporter = exporter
        self._web = web
        self._count = exporter.telemetry.requests.count
        self._pools = {name: ThreadPool(name, THREADS[name][0]) for name in POOLS}
        self._scrapes: dict[tuple[str, str, tuple[str, ...]], asyncio.Future[Reply]] = {}
        self._flask: Flask | None = None
        self._loading = threading.Lock()
        self.inflight, self._bodies = Shares(), Bodies()
        self._streams = Shares()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        started, status = time.perf_counter(), CLIENT_CLOSED_REQUEST
        request = Request(scope, receive, self.inflight, self._bodies)
        sender.set(Sender(scope["client"][0] if scope["client"] else ""))
        try:
            reply = await self._reply(request)
            status = reply.status
            if isinstance(reply, Streamed):
                await self._stream(request, reply, send)
            elif not (
                reply is ONE_ACCEPTED and request.received and scope["state"]["answer"](_ONE_ACCEPTED, reply.body)
            ):
                await respond(request, reply, send)
        except (ClientDisconnectedError, asyncio.CancelledError):
            pass  # nobody waits for an answer
        finally:
            request.release()
            self._count(request.route.rule, status, time.perf_counter() - started)

    def close(self) -> None:
        """End the threads."""
        for pool in self._pools.values():
            pool.close()

    async def _reply(self, request: Request) -> Reply | Streamed:
        try:
            _check_framing(request)
            headers = request.headers
            if (b"origin" in headers or b"sec-fetch-site" in headers) and (
                error := origin_error(request.method, request.header)
            ):
                return error
            if self._web.guarded:
                await self._authenticate(request)
            else:
                self._check_host(request)
            route = request.route = find(request.method, request.path)
            if (caller := sender.get().caller) and (error := scope_error(caller, route.scope)):
                return error
            return await self._dispatch(request, route, await request.body(route.max_body))
        except RequestError as error:
            if error.reply.status == 413:
                self._exporter.client_log.reject(EventError("", "the body is too large", "too_large"))
            return error.reply
        except (EventError, QueueFullError) as error:
            return _busy(error) if request.method in SAFE else self._exporter.ingest.refusal(error)
        except ClientDisconnectedError:
            raise
        except Exception as error:
            log.error("%s %s", request.method, request.path, exc_info=error)
            return problem(500, INTERNAL_ERROR)

    def _check_host(self, request: Request) -> None:
        """Refuse a request by a name that is not known to be the exporter's: nothing else keeps a web page away."""
        host = request.headers.get(b"host", b"").decode("latin-1")
        if len(host) > MAX_HOST or not is_own_host(host, self._exporter.config.external_url):
            raise RequestError(
                problem(
                    421,
                    f"the host {preview(host)} is not known to be this exporter's: a web page may have chosen it. Set "
                    "external_url to the address that browsers use, or set up users or tokens",
                )
            )

    # --- who sends it -------------------------------------------------------------------------

    async def _authenticate(self, request: Request) -> None:
        """Find out who sends a request, before its body is read."""
        web = self._web
        if web.open_metrics and request.path in OPEN and request.method in SAFE:
            return
        authorization = request.header("authorization")
        caller = web.remembered(authorization)
        if caller is None and authorization and authorization[:6].lower() == "basic ":
            # Passwords are hashed in a thread of their own: a flood of wrong ones delays only new users.
            caller = await self._pools["passwords"].run(lambda: web.authenticated(authorization))
        if caller is None:
            await asyncio.sleep(REFUSAL_SECONDS)
            raise RequestError(problem(401, web.refusal(authorization), headers=web.challenges))
        sender.set(sender.get()._replace(caller=caller))
        if caller.bucket and (wait := caller.bucket.take(time.monotonic())):
            detail = f"the token {preview(caller.name)} may send {caller.bucket.rate:g} events a second"
            self._exporter.client_log.reject(EventError("", detail, "rate_limited"))
            raise RequestError(problem(429, detail, headers=(("Retry-After", str(math.ceil(wait))),)))

    # --- which route --------------------------------------------------------------------------

    async def _dispatch(self, request: Request, route: Route, body: bytes) -> Reply | Streamed:
        encoding = request.headers.get(b"content-encoding", b"identity").lower()
        if body and encoding != b"identity" and not route.compressed:
            detail = "a body must not be compressed"
            self._exporter.client_log.reject(EventError("", detail, "malformed"))
            return problem(415, detail, headers=(("Accept-Encoding", "identity"),))
        if route is _PREDICTIONS:
            return await self._predictions(request, body)
        if route is _FEEDBACK:
            return await self._feedback(request, body)
        if request.path in OPEN and request.method in {"GET", "HEAD"}:
            return await self._probe(request)
        environ = environment(request, body)
        # Decoded, a body takes many times its size: of the large ones, one is decoded at a time, and small ones go on.
        is_large = len(body) > COMPRESSED_BODY or encoding == b"zstd"  # whose ratio has no bound
        pool = "bodies" if route.pool == "payloads" and is_large else route.pool
        return await self._pools[pool].run(lambda: run(self._flask_app(), environ))

    async def _predictions(self, request: Request, body: bytes) -> Reply:
        kind = request.headers.get(b"content-type", _JSON)
        lines = kind != _JSON and kind.partition(b";")[0].strip().lower().decode("latin-1") in NDJSON
        query = request.scope["query_string"]
        ids = bool(query) and parse_ids(dict(parse_qsl(request.query, keep_blank_values=True)).get("ids"))
        key = request.header("idempotency-key")
        if self._exporter.pipeline.is_half_full:  # whoever counts what has come needs the processor more
            await asyncio.sleep(BACKPRESSURE_SECONDS * (1 + len(body) // SMALL_BODY))
        if len(body) <= LARGE_BODY:
            return self._exporter.ingest.predictions(body, lines, key, ids)
        return await self._pools["bodies"].run(lambda: self._exporter.ingest.predictions(body, lines, key, ids))

    async def _feedback(self, request: Request, body: bytes) -> Reply:
        key, pool, name = request.header("idempotency-key"), self._pools["bodies"], sender.get().key
        decode_in = (lambda call: pool.in_turn(call, name)) if len(body) > SMALL_BODY else None
        # What waits is committed together, and others wait for that: a large request counts as many.
        weight = 1 + min(len(body) // 64, 300)
        return await pool.bounded(lambda: self._exporter.ingest.feedback(body, key, decode_in), weight)

    async def _probe(self, request: Request) -> Reply:
        """Answer a probe or a scrape."""
        if request.path == "/-/healthy":
            return healthy(self._exporter)
        if request.path == "/-/ready":
            return ready(self._exporter)
        names = tuple(value for key, value in parse_qsl(request.query) if key == "name[]")
        key = (request.header("accept") or "", request.header("accept-encoding") or "", names)
        scrape = self._scrapes.get(key)
        if scrape is None:
            scrape = self._scrapes[key] = asyncio.ensure_future(self._scrape(key))
        return await asyncio.shield(scrape)

    async def _scrape(self, key: tuple[str, str, tuple[str, ...]]) -> Reply:
        """Return one response for all scrapes that ask for the same until a thread begins it."""

        def render() -> Reply:
            self._scrapes.pop(key, None)
            return metrics(self._exporter, *key)

        try:
            return await self._pools["scrapes"].run(render, " names" if key[2] else "")
        except QueueFullError:
            self._scrapes.pop(key, None)
            raise

    def _flask_app(self) -> Flask:
        """Return Flask's application. The first request of it makes it: without visitors it takes no memory."""
        with self._loading:
            if self._flask is None:
                from exporter.server.flask_app import create_app

                self._flask = create_app(self._exporter)
            return self._flask

    async def _stream(self, request: Request, streamed: Streamed, send: Send) -> None:
        key, step = sender.get().key, self._pools["dataset"].step
        if self._streams.is_full(key, STREAMS):
            await step(streamed.close)
            await respond(request, _busy(QueueFullError("too many exports are being sent"), "5"), send)
            return
        self._streams.add(key, 1)
        try:
            await stream(request, streamed, send, step)
        finally:
            self._streams.add(key, -1)


def _check_framing(request: Request) -> None:
    """Refuse messages that the parser accepts but that another server might read differently."""
    coding = request.headers.get(b"transfer-encoding")
    if coding is not None and (coding.lower() != b"chunked" or request.scope["http_version"] != "1.1"):
        raise RequestError(problem(501, "expected no Transfer-Encoding, or chunked in HTTP/1.1"))
    if b"," in request.headers.get(b"host", b""):
        raise RequestError(problem(400, "the request is not valid HTTP/1.1: expected one Host header"))


def _busy(error: EventError | QueueFullError, seconds: str = "1") -> Reply:
    return problem(503, f"{error}, try again", headers=(("Retry-After", seconds),))
