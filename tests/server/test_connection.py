"""Connections of the HTTP server in this process: exceptions, limits and released memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import resource
import signal
import socket
import ssl
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import psutil
import pytest
import uvloop
from support.certificates import certificate, serve_tls
from support.paths import ROOT
from support.servers import CONFIG, Served, eventually, unverified, write_config

from exporter.server import access, asgi, serve
from exporter.server import connections as protocol
from exporter.server.access import WebConfig, password_user
from exporter.server.application import Exporter
from exporter.server.asgi import Application
from exporter.server.connections import MAX_REFUSALS, BoundedProtocol, listen
from exporter.server.serve import Server

sys.path.append(str(ROOT / "benchmarks" / "studies"))
from survival_clients import client_hello

T = TypeVar("T")
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
SCRAPE = GET.replace(b"/ ", b"/metrics ")
CLOSING = GET.replace(b"Host", b"Connection: close\r\nHost")
OF_A_MEGABYTE = b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"


class Reading:
    """A client that sends and reads in its own thread."""

    def __init__(self, port: int, sent: bytes = b"") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.sendall(sent)

    def all(self) -> bytes:
        with self.socket as client:
            return b"".join(iter(lambda: client.recv(65536), b""))

    def ended(self, sent: bytes) -> bool:
        """Send more without waiting; return whether the server has ended the connection."""
        self.socket.setblocking(False)
        try:
            self.socket.send(sent)
        except BlockingIOError:
            return False
        except ConnectionError:
            self.socket.close()
            return True
        return False


async def simple(scope: Any, receive: Any, send: Any) -> None:
    """Return an empty 200."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


def served(
    app: Any,
    clients: Callable[[int, Server], T],
    most: int = 1000,
    web: WebConfig = WebConfig(),  # noqa: B008
) -> T:
    """Serve in this thread until the clients, which run in another, are done; return what they do."""
    faults: list[object] = []

    async def run() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        with listen("127.0.0.1", 0) as bound:
            server = Server(SimpleNamespace(reload_soon=lambda: None), app, web, most)  # type: ignore[arg-type]
            serving = asyncio.create_task(server.serve([bound]))
            try:
                return await asyncio.to_thread(clients, bound.getsockname()[1], server)
            finally:
                server.should_exit = True
                await serving

    result = uvloop.run(run())
    assert not faults
    return result


def connections(server: Server) -> list[BoundedProtocol]:
    return [
        connection for connection in list(server.server_state.connections) if isinstance(connection, BoundedProtocol)
    ]


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    config = {**CONFIG, "store": {"url": f"sqlite:///{tmp_path}/store.db"}}
    with contextlib.closing(Exporter(write_config(tmp_path, config))) as exporter:
        yield exporter


@pytest.mark.parametrize("before", [b"", GET.replace(b"/ ", b"/-/healthy ")])
def test_an_exception_is_logged_and_a_500(
    exporter: Exporter, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    """An exception while a request is handled is logged and becomes a 500, also after another request."""
    monkeypatch.setattr(exporter.ingest, "predictions", lambda *_: 1 / 0)

    def client(port: int, _: Server) -> bytes:
        closing = OF_A_MEGABYTE.replace(b"1000000", b"2").replace(b"Host", b"Connection: close\r\nHost")
        return Reading(port, before + closing + b"{}").all()

    got = served(Application(exporter, WebConfig()), client)
    assert [answer[:3] for answer in got.split(b"HTTP/1.1 ")[1:]] == [b"200"] * bool(before) + [b"500"]
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.exc_info and record.exc_info[0] is ZeroDivisionError


def test_far_too_many_connections_are_closed() -> None:
    """Connections that get a 503 also need files, so that only a few of them get one."""

    def clients(port: int, server: Server) -> None:
        many = [Reading(port) for _ in range(MAX_REFUSALS + 200)]
        time.sleep(0.3)
        eventually(lambda: len(connections(server)) <= 10 + MAX_REFUSALS)
        for connection in many:
            connection.socket.close()

    served(simple, clients, 10)


def test_many_new_connections_are_accepted_in_few_passes_of_the_loop() -> None:
    """Those that wait while the loop is busy do not wait for one pass each, which many open connections make long."""
    opened, seen = threading.Event(), threading.Event()
    passes: list[int] = []
    servers: list[Server] = []

    async def busy(scope: Any, receive: Any, send: Any) -> None:
        seen.set()
        opened.wait(60)
        while len(servers[0].server_state.connections) <= 64:
            passes.append(1)
            await asyncio.sleep(0)
        await simple(scope, receive, send)

    def clients(port: int, server: Server) -> None:
        servers.append(server)
        first = Reading(port, CLOSING)
        assert seen.wait(60)
        many = [Reading(port) for _ in range(64)]
        opened.set()
        assert first.all().startswith(b"HTTP/1.1 200 ")
        for connection in many:
            connection.socket.close()

    served(busy, clients)
    assert len(passes) < 32


def test_closed_connections_are_freed() -> None:
    """However a connection ends, it and its parser are freed without a garbage collection."""
    refs: list[weakref.ref[BoundedProtocol]] = []
    ways = [GET, GET[:9], b"\x00", CLOSING, b"", GET * 300, b"x" * 100_000]

    def clients(port: int, server: Server) -> None:
        for number in range(200):
            connection = Reading(port, ways[number % len(ways)])
            if number % 3:
                connection.socket.shutdown(socket.SHUT_WR)
                connection.all()
            else:
                time.sleep(0.001)
                refs.extend(weakref.ref(connection) for connection in connections(server))
                connection.socket.close()
        eventually(lambda: not server.server_state.connections)

    gc.disable()
    try:
        served(simple, clients)
        assert len(refs) > 10
        assert not [ref for ref in refs if ref() is not None]
    finally:
        gc.enable()


@pytest.mark.parametrize("slowly", [False, True])
def test_clients_must_read(exporter: Exporter, monkeypatch: pytest.MonkeyPatch, slowly: bool) -> None:
    """A client must not read nothing for a while; the limit on unread responses also holds if it reads a few bytes."""
    monkeypatch.setattr(protocol, "HELD_BYTES" if slowly else "WRITE_SECONDS", 0 if slowly else 0.5)

    def client(port: int, server: Server) -> None:
        connection = Reading(port)

        def ended() -> bool:
            for server_connection in (
                connections(server) if slowly else ()
            ):  # as if some bytes had left; the kernel's buffers are large
                server_connection._last_write = time.monotonic()
            return connection.ended(SCRAPE * 1000)

        eventually(ended)

    served(Application(exporter, WebConfig()), client)


def held(server: Server) -> int:
    """Return the bytes that all connections hold."""
    return sum(connection.check(time.monotonic()) for connection in connections(server))


async def large(scope: Any, receive: Any, send: Any) -> None:
    """Return 32 MiB."""
    await receive()
    headers = [(b"content-length", b"%d" % 2**25)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": bytes(2**25)})


@pytest.mark.parametrize("tls", [False, True])
def test_what_a_client_does_not_read_is_counted(tmp_path: Path, tls: bool) -> None:
    """The bytes of a response that wait for their client count, with TLS as without, until it has read them."""
    context = ssl.create_default_context()
    if tls:
        certificate(tmp_path, "server")
        context.load_verify_locations(tmp_path / "server.crt")
        (tmp_path / "web.yml").write_text("tls_server_config: {cert_file: server.crt, key_file: server.key}")

    def client(port: int, server: Server) -> None:
        plain = socket.create_connection(("127.0.0.1", port), 10)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") if tls else plain as connection:
            connection.sendall(GET)
            eventually(lambda: held(server) > 2**20)
            received = 0
            while received < 2**25:
                received += len(connection.recv(2**16) or pytest.fail("closed too early"))
            eventually(lambda: not held(server))

    served(large, client, web=access.load(tmp_path / "web.yml") if tls else WebConfig())


@pytest.mark.parametrize("ends", ["client", "server"])
def test_a_response_under_way_is_sent_whole(ends: str) -> None:
    """A client that has closed its side gets all of a large response, and so does one during a stop."""

    def client(port: int, server: Server) -> int:
        connection = Reading(port, GET)
        eventually(lambda: held(server) > 2**20)
        if ends == "client":
            connection.socket.shutdown(socket.SHUT_WR)
        else:
            server.should_exit = True
        time.sleep(0.5)
        return len(connection.all().partition(b"\r\n\r\n")[2])

    assert served(large, client) == 2**25


@pytest.mark.parametrize(
    ("limit", "sent", "answer"),
    [
        ("HEAD_SECONDS", GET[:9], b"HTTP/1.1 408 "),
        ("BODY_SECONDS", OF_A_MEGABYTE, b"HTTP/1.1 408 "),
        ("IDLE_SECONDS", b"", b""),
        ("IDLE_SECONDS", b"\r\n", b""),
        ("IDLE_SECONDS", GET, b"HTTP/1.1 200 "),
        ("IDLE_SECONDS", GET + b"\r\n", b"HTTP/1.1 200 "),
    ],
)
def test_slow_requests_are_ended(monkeypatch: pytest.MonkeyPatch, limit: str, sent: bytes, answer: bytes) -> None:
    """A head or a body that does not arrive in time gets a 408; a connection without a request is closed."""
    monkeypatch.setattr(protocol, limit, 0.3)
    got = served(simple, lambda port, _: Reading(port, sent).all())
    assert got.startswith(answer) and bool(answer) == bool(got)


def test_a_refused_request_gets_no_100_continue(
    exporter: Exporter, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that is refused while its password is hashed causes no error, even if it expects a 100."""
    web = WebConfig(users={"ada": "$2b$04$" + "a" * 53})
    go_on = threading.Event()
    monkeypatch.setattr(web, "authenticated", lambda _: go_on.wait(60) and password_user("ada"))

    def client(port: int, _: Server) -> tuple[bytes, bytes]:
        connection = Reading(port)
        head = OF_A_MEGABYTE.replace(b"Host", b"Expect: 100-continue\r\nAuthorization: Basic YTpi\r\nHost")
        connection.socket.sendall(head.replace(b"Content-Length: 1000000", b"Transfer-Encoding: chunked") + b"zz\r\n")
        with connection.socket, connection.socket.makefile("rb") as answer:
            first = answer.readline()
            go_on.set()
            return first, answer.read()

    first, rest = served(Application(exporter, web), client)
    assert first.startswith(b"HTTP/1.1 400 ")
    assert b" 100 " not in rest
    assert not [record for record in caplog.records if record.exc_info]


def test_memory_of_bodies_is_released(exporter: Exporter) -> None:
    """After many bodies that are complete, invalid, cut, too large or refused, no memory is counted."""
    chunked = b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    large = b'{"model": "credit", "inputs": {"name": "%b"}}' % (b"x" * 600_000)
    ways = [
        OF_A_MEGABYTE + b" " * 100_000,
        OF_A_MEGABYTE + b" " * 1_000_000 + OF_A_MEGABYTE + b" " * 300_000,
        OF_A_MEGABYTE.replace(b"1000000", b"%d" % len(large)) + large,
        OF_A_MEGABYTE.replace(b"predictions", b"feedback") + b" " * 1_000_000,
        OF_A_MEGABYTE.replace(b"/v1/predictions", b"/nothing") + b" " * 1_000_000,
        OF_A_MEGABYTE.replace(b"1000000", b"17000000") + b" " * 17_000_000 + GET,
        OF_A_MEGABYTE.replace(b"Host", b"Origin: http://y\r\nHost") + b" " * 1_000_000,
        chunked + b"ffff\r\n" + b" " * 65535 + b"\r\nzz\r\n",
        chunked + b"ffff\r\n" + b" " * 65535 + b"\r\n" + b"1\r\n \r\n" * 20_000,
        GET + OF_A_MEGABYTE + b" " * 500_000,
        GET * 20 + OF_A_MEGABYTE + b" " * 1_000_000 + GET,
    ]
    most = [0]
    app = Application(exporter, WebConfig())

    def storm(port: int, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(12):
            connection = Reading(port)
            try:
                connection.socket.sendall(ways[chance.randrange(len(ways))])
                end = chance.randrange(3)
                if end == 0:
                    connection.socket.shutdown(socket.SHUT_WR)
                    connection.all()
                elif end == 1:
                    connection.socket.settimeout(0.05)
                    connection.all()
            except OSError:
                pass
            connection.socket.close()

    def clients(port: int, server: Server) -> None:
        threads = [threading.Thread(target=storm, args=(port, seed)) for seed in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            most[0] = max(most[0], app.inflight.total)
            time.sleep(0.001)
        eventually(lambda: not server.server_state.connections and not app.inflight.total)

    try:
        served(app, clients)
    finally:
        app.close()
    assert most[0] > 16 * 1024


@pytest.mark.parametrize(("seconds", "status"), [(60, b"202"), (0.3, b"503")])
def test_a_body_waits(exporter: Exporter, monkeypatch: pytest.MonkeyPatch, seconds: float, status: bytes) -> None:
    """While a large body fills its sender's share, another is not read; it is read then, or refused after a while."""
    for name, value in {"HOLD_SECONDS": seconds, "INFLIGHT_BYTES": 600_000, "MAX_BODY": 0}.items():
        monkeypatch.setattr(asgi, name, value)
    app, body = Application(exporter, WebConfig()), b'{"model": "credit"}'.ljust(400_000)

    def client(port: int, server: Server) -> bytes:
        head = OF_A_MEGABYTE.replace(b"1000000", b"400000").replace(b"Host", b"Connection: close\r\nHost")
        first = Reading(port, head + body[:-1])
        eventually(lambda: app.inflight.total > 399_000)
        second = Reading(port, head + body)
        time.sleep(0.5)
        assert app.inflight.total < 400_000
        with first.socket:
            first.socket.sendall(body[-1:])
            return second.all()

    assert served(app, client).startswith(b"HTTP/1.1 " + status)


def test_a_body_in_a_thread_counts_until_it_is_processed(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body also counts while it is decoded after its password was hashed and its client has disconnected."""
    web = WebConfig(users={"ada": "$2b$04$" + "a" * 53})
    monkeypatch.setattr(web, "authenticated", lambda _: time.sleep(0.2) or password_user("ada"))
    working, go_on = threading.Event(), threading.Event()
    size = 600_000
    app = Application(exporter, web)

    def predictions(*_: object) -> None:
        working.set()
        go_on.wait(60)

    monkeypatch.setattr(exporter.ingest, "predictions", predictions)

    def client(port: int, server: Server) -> None:
        head = OF_A_MEGABYTE.replace(b"1000000", b"%d" % size).replace(b"Host", b"Authorization: Basic YTpi\r\nHost")
        connection = Reading(port, head + b" " * size)
        assert working.wait(60)
        gone = struct.pack("ii", 1, 0)  # and not silent
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, gone)
        connection.socket.close()
        time.sleep(0.3)
        assert app.inflight.total == size
        go_on.set()
        eventually(lambda: app.inflight.total == 0)

    served(app, client)


def test_bodies_are_not_read_before_authentication(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body is not read while the password of its request is hashed; a client may disconnect meanwhile."""
    web = WebConfig(users={"ada": "$2b$04$" + "a" * 53})
    go_on = threading.Event()
    monkeypatch.setattr(web, "authenticated", lambda _: go_on.wait(60) and password_user("ada"))
    head = OF_A_MEGABYTE.replace(b"Host", b"Authorization: Basic YTpi\r\nHost")
    app = Application(exporter, web)

    def client(port: int, server: Server) -> bytes:
        chunked = head.replace(b"Content-Length: 1000000", b"Transfer-Encoding: chunked")
        large, cut = Reading(port), Reading(port, chunked + b"zz\r\n")
        large.socket.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            large.socket.sendall(head.replace(b"1000000", b"16000000") + b" " * 16_000_000)
        assert app.inflight.total + held(server) < 2**20
        go_on.set()
        large.socket.close()
        return cut.all()

    assert served(app, client).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(("spaces", "seconds"), [(0, 0), (0, 0.2), (160 * 1024, 2.2)])
def test_a_crowded_queue(exporter: Exporter, monkeypatch: pytest.MonkeyPatch, spaces: int, seconds: float) -> None:
    """While more than half of the queue is in use, a client gets each response later, and more so a larger body's."""
    monkeypatch.setattr(asgi, "BACKPRESSURE_SECONDS", 0.1)
    monkeypatch.setattr(type(exporter.pipeline), "is_half_full", seconds > 0)
    body = b'[{"model": "credit"}%b]' % b"".ljust(spaces)

    def clients(port: int, _: Server) -> float:
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            begun = time.monotonic()
            for _turn in range(2):
                client.sendall(OF_A_MEGABYTE.replace(b"1000000", b"%d" % len(body)) + body)
                assert client.recv(1000).startswith(b"HTTP/1.1 202 ")
            return time.monotonic() - begun

    assert (served(Application(exporter, WebConfig()), clients) > max(seconds, 0.15)) == (seconds > 0)


def test_scrapes_that_wait_share_a_response(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many scrapes hang or wait, probes are answered, and equal scrapes that wait are rendered once."""
    app = Application(exporter, WebConfig())
    go_on, rendered = threading.Event(), []
    metrics = exporter.metrics

    def slow(*arguments: Any) -> Any:
        rendered.append(arguments)
        go_on.wait(60)
        return metrics(*arguments)

    monkeypatch.setattr(exporter, "metrics", slow)

    def clients(port: int, _: Server) -> list[bytes]:
        scrape = CLOSING.replace(b"/ ", b"/metrics ")
        waiting = [Reading(port) for _ in range(40)]
        for number, connection in enumerate(waiting):
            connection.socket.sendall(scrape)
            if number < 2:
                eventually(lambda begun=number + 1: len(rendered) == begun)
        probed = Reading(port, scrape.replace(b"/metrics", b"/-/healthy")).all()
        go_on.set()
        return [probed, *(connection.all() for connection in waiting)]

    answers = served(app, clients)
    assert {answer[:13] for answer in answers} == {b"HTTP/1.1 200 "}
    assert len(answers) == 41
    assert 3 <= len(rendered) <= 5  # a scrape that arrives while the third is rendered begins another


def test_idle_connections_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are nearly too many connections, those that have been idle for longest are closed."""
    monkeypatch.setattr(serve, "_CHECK_TICKS", 1)

    def clients(port: int, server: Server) -> None:
        oldest = Reading(port)
        eventually(lambda: connections(server))
        time.sleep(0.1)
        idle = [Reading(port) for _ in range(9)]
        assert oldest.all() == b""
        assert Reading(port, CLOSING).all().startswith(b"HTTP/1.1 200 ")
        for connection in idle:
            connection.socket.close()

    served(simple, clients, 10)


UNFINISHED = 3000


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Served]:
    """An exporter with TLS."""
    write_config(tmp_path)
    certificate(tmp_path, "server")
    server = serve_tls(tmp_path, tmp_path)
    server.url = server.url.replace("http:", "https:")
    yield server
    server.stop()


@pytest.fixture
def many_files() -> Iterator[None]:
    """A limit of open files that is high enough for the clients."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[1], UNFINISHED + 1000), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("sent", [b"", client_hello()], ids=["not begun", "half-way"])
def test_unfinished_handshakes_are_bounded(secured: Served, sent: bytes) -> None:
    """Thousands of unfinished TLS handshakes take little memory, and others get an answer meanwhile."""
    assert secured.get("/metrics").status == 200
    process = psutil.Process(secured.process.pid)
    before = process.memory_info().rss
    with ExitStack() as stack:
        for _ in range(UNFINISHED):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", secured.port), 30))
            client.sendall(sent)
        eventually(lambda: process.num_fds() > UNFINISHED)
        for _ in range(3):
            start = time.monotonic()
            assert secured.get("/-/healthy").status == secured.get("/metrics").status == 200
            assert time.monotonic() - start < 10
            time.sleep(0.3)
        grown = (process.memory_info().rss - before) / 2**20
    assert grown < 110  # 170 MiB when their number had no limit
    assert "Traceback" not in secured.log.read_text()


def test_clients_that_do_not_confirm_the_end_hold_no_stop(secured: Served) -> None:
    """A TLS client that does not answer the server's close_notify delays a stop by a second, not by five."""
    with ExitStack() as stack:
        for _ in range(3):
            raw = socket.create_connection(("127.0.0.1", secured.port), 30)
            client = stack.enter_context(unverified().wrap_socket(raw))
            client.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert secured.stop(signal.SIGTERM) == 0
    assert "still open" not in secured.log.read_text()
