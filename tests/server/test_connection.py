"""Connections of the HTTP server in this process: faults of its own, what it keeps, what it lets go."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import socket
import struct
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import uvloop
from support.servers import CONFIG, write_config

from exporter.server import http_service
from exporter.server.application import Exporter
from exporter.server.http1 import connection, headers
from exporter.server.http1.connection import SLICE, Front
from exporter.server.http1.handler import Exchange, Site
from exporter.server.http_service import FrontDoor
from exporter.server.tokens import user
from exporter.server.web_config import WebConfig

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
OF_16_KIB = b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"


class Reading:
    """A client of its own thread's time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)

    def all(self) -> bytes:
        with self.socket as client:
            return b"".join(iter(lambda: client.recv(65536), b""))


class Plain(Exchange):
    """Answers with the target, or fails where that says so."""

    def __init__(self, site: Simple, front: Front, request: headers.Request) -> None:
        self.front, self.request, self.site = front, request, site
        if request.target == b"/made":
            raise ValueError("made")

    def start(self) -> None:
        if self.request.target == b"/started":
            raise ValueError("started")
        if self.request.target == b"/later":
            self.front.loop.call_later(0.05, self.answer)
        elif self.request.target != b"/whole":
            self.answer()

    def answer(self, status: int = 200) -> None:
        if not self.done:
            self.front.write(headers.response(status, b"", (), b"Content-Length: 0\r\n"))
            self.done = True
            self.front.over(self, self.request.keep)

    def body(self, part: bytes) -> None: ...

    def body_end(self, trailers: Sequence[headers.Field]) -> None:
        self.sent_whole = True
        if self.request.target == b"/whole":
            raise ValueError("whole")

    def broken(self, status: int, detail: str) -> None:
        self.answer(status)

    def gone(self) -> None:
        self.done = True

    def check(self, now: float) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Simple(Site):
    """The least that can be served."""

    def exchange(self, front: Front, request: headers.Request) -> Plain:
        return Plain(self, front, request)

    def refusal(self, status: int, detail: str) -> tuple[str, bytes]:
        return "text/plain", detail.encode()


def served(site: Callable[[], Site], clients: Callable[[int, Site], None]) -> None:
    """Serve in this thread until the clients, which have one of their own, are done."""
    faults: list[object] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: faults.append(context))
        what = site()
        server = await loop.create_server(lambda: Front(what), "127.0.0.1", 0)
        sweeping = loop.create_task(what.sweeping())
        try:
            await asyncio.to_thread(clients, server.sockets[0].getsockname()[1], what)
        finally:
            server.close()
            what.cut()
            sweeping.cancel()
            await asyncio.sleep(0.01)

    uvloop.run(run())
    assert not faults


def simple(most: int = 1000) -> Callable[[], Site]:
    return lambda: Simple(most, patient=True, pause=0.05)


@pytest.mark.parametrize("before", ["", "/later"])
@pytest.mark.parametrize("what", ["/made", "/started", "/whole"])
def test_a_fault_here_is_no_fault_of_the_client(caplog: pytest.LogCaptureFixture, what: str, before: str) -> None:
    """What goes wrong while a request is taken is logged and a 500, not a 400, also behind another one."""
    got: list[bytes] = []

    def client(port: int, _: Site) -> None:
        one = Reading(port)
        first = GET.replace(b"/ ", before.encode() + b" ", 1) if before else b""
        one.socket.sendall(first + GET.replace(b"/ ", what.encode() + b" ", 1))
        one.socket.shutdown(socket.SHUT_WR)
        got.append(one.all())

    served(simple(), client)
    assert [answer[:3] for answer in got[0].split(b"HTTP/1.1 ")[1:]] == [b"200"] * bool(before) + [b"500"]
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.exc_info and str(record.exc_info[1]) == what[1:]


def test_time_limits_outlive_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    """A look for what takes too long that fails is logged, and followed by the next."""
    looks: list[int] = []

    class Failing(Simple):
        def sweep(self) -> None:
            looks.append(1)
            raise ValueError

    served(lambda: Failing(10, pause=0.01), lambda *_: time.sleep(0.2))
    assert len(looks) > 2
    assert caplog.records[0].exc_info


def test_far_too_many_connections_are_cut() -> None:
    """Those that are told why take files, too: so no more than a few are."""
    seen: list[int] = []

    def clients(port: int, site: Site) -> None:
        many = [Reading(port) for _ in range(connection._TOLD + 200)]
        time.sleep(0.3)
        seen.append(len(site.fronts))
        for one in many:
            one.socket.close()

    served(simple(10), clients)
    assert seen[0] <= 10 + connection._TOLD


def test_nothing_is_left_of_connections() -> None:
    """Whatever ends a connection, neither it nor its parser stays, and no collection of garbage is needed."""
    refs: list[weakref.ref[Front]] = []
    ways = [GET, GET[:9], b"\x00", GET.replace(b"Host", b"Connection: close\r\nHost"), b"", GET * 300, b"x" * 100_000]

    def clients(port: int, site: Site) -> None:
        for number in range(200):
            one = Reading(port)
            one.socket.sendall(ways[number % len(ways)])
            if number % 3:
                one.socket.shutdown(socket.SHUT_WR)
                one.all()
            else:
                time.sleep(0.001)
                refs.extend(weakref.ref(front) for front in list(site.fronts))
                one.socket.close()
        until = time.monotonic() + 10
        while site.fronts:
            assert time.monotonic() < until
            time.sleep(0.01)

    gc.disable()
    try:
        served(simple(), clients)
        assert len(refs) > 10
        assert not [ref for ref in refs if ref() is not None]
    finally:
        gc.enable()


@pytest.mark.parametrize("count", [1, 2000])
def test_fields_are_read_once(count: int) -> None:
    """The work of joining fields grows with their number, not with its square."""
    asked = [0]

    class Name(bytes):
        def lower(self) -> bytes:
            asked[0] += 1
            return super().lower()

    fields = [(Name(b"%d" % number), b"x") for number in range(count)] + [(Name(b"0"), b"y")]
    assert headers.known(fields)[b"0"] == b"x, y"
    assert asked[0] <= 2 * len(fields)


@pytest.fixture
def exporter(tmp_path: Path) -> Exporter:
    return Exporter(write_config(tmp_path, {**CONFIG, "store": {"url": f"sqlite:///{tmp_path}/store.db"}}))


def test_those_that_read_a_little_now_and_then_are_cut_too(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound of answers that wait holds against clients that read a few bytes to stay."""
    monkeypatch.setattr(http_service, "UNREAD_BYTES", 0)
    ended: list[bool] = []

    def client(port: int, site: Site) -> None:
        one = Reading(port)
        one.socket.setblocking(False)
        until = time.monotonic() + 20
        while time.monotonic() < until and not ended:
            try:
                one.socket.send(GET.replace(b"/ ", b"/metrics ") * 1000)
            except BlockingIOError:
                pass
            except ConnectionError:
                ended.append(True)
            for front in list(site.fronts):
                front.touched = front.loop.time()  # as if some bytes had left; the kernel's buffers are large
            time.sleep(0.05)
        one.socket.close()

    try:
        served(lambda: FrontDoor(exporter, WebConfig(), 100), client)
    finally:
        exporter.close()
    assert ended


def test_what_bodies_take_is_given_back(exporter: Exporter) -> None:
    """After a storm of bodies that are whole, broken, cut, too large, too many parts or refused nothing is counted."""
    chunked = b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    large = b'{"model": "credit", "inputs": {"name": "%b"}}' % (b"x" * 600_000)
    ways = [
        OF_16_KIB + b" " * 100_000,
        OF_16_KIB + b" " * 1_000_000 + OF_16_KIB + b" " * 300_000,
        OF_16_KIB.replace(b"1000000", b"%d" % len(large)) + large,
        OF_16_KIB.replace(b"predictions", b"feedback") + b" " * 1_000_000,
        OF_16_KIB.replace(b"/v1/predictions", b"/nothing") + b" " * 1_000_000,
        OF_16_KIB.replace(b"1000000", b"17000000") + b" " * 17_000_000 + GET,
        OF_16_KIB.replace(b"Host", b"Origin: http://y\r\nHost") + b" " * 1_000_000,
        chunked + b"ffff\r\n" + b" " * 65535 + b"\r\nzz\r\n",
        chunked + b"ffff\r\n" + b" " * 65535 + b"\r\n" + b"1\r\n \r\n" * 20_000,
        GET + OF_16_KIB + b" " * 500_000,
        GET * 20 + OF_16_KIB + b" " * 1_000_000 + GET,
    ]
    most = [0]
    held: list[int] = []

    def storm(port: int, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(12):
            one = Reading(port)
            try:
                one.socket.sendall(ways[chance.randrange(len(ways))])
                end = chance.randrange(3)
                if end == 0:
                    one.socket.shutdown(socket.SHUT_WR)
                    one.all()
                elif end == 1:
                    one.socket.settimeout(0.05)
                    one.all()
            except OSError:
                pass
            one.socket.close()

    def clients(port: int, site: Site) -> None:
        threads = [threading.Thread(target=storm, args=(port, seed)) for seed in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            most[0] = max(most[0], site._held)  # type: ignore[attr-defined]
            time.sleep(0.001)
        until = time.monotonic() + 10
        while (site.fronts or site._held) and time.monotonic() < until:  # type: ignore[attr-defined]
            time.sleep(0.02)
        held.append(site._held)  # type: ignore[attr-defined]

    door: list[FrontDoor] = []

    def make() -> FrontDoor:
        door.append(FrontDoor(exporter, WebConfig(), 1000))
        return door[0]

    try:
        served(make, clients)
    finally:
        door[0].close()
        exporter.close()
    assert most[0] > SLICE
    assert held == [0]
    assert not door[0].fronts


def test_what_a_thread_works_on_counts_until_it_is_done(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body whose password was hashed first counts, too, while it is decoded and its client has gone."""
    web = WebConfig(users={"ada": "$2b$04$" + "a" * 53})
    monkeypatch.setattr(web, "authenticated", lambda _: time.sleep(0.2) or user("ada"))
    working, go_on = threading.Event(), threading.Event()
    held: list[int] = []
    size = 600_000

    def predictions(*_: object) -> None:
        working.set()
        go_on.wait(10)

    def client(port: int, site: Site) -> None:
        site._ingest.predictions = predictions  # type: ignore[attr-defined]
        one = Reading(port)
        head = OF_16_KIB.replace(b"1000000", b"%d" % size).replace(b"Host", b"Authorization: Basic YTpi\r\nHost")
        one.socket.sendall(head + b" " * size)
        assert working.wait(10)
        one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it is gone, not silent
        one.socket.close()
        until = time.monotonic() + 10
        while site.fronts and time.monotonic() < until:
            time.sleep(0.01)
        held.append(site._held)  # type: ignore[attr-defined]
        go_on.set()
        while site._held and time.monotonic() < until:  # type: ignore[attr-defined]
            time.sleep(0.01)
        held.append(site._held)  # type: ignore[attr-defined]

    try:
        served(lambda: FrontDoor(exporter, web, 1000), client)
    finally:
        exporter.close()
    assert held == [size, 0]


def test_nobody_fills_the_room_for_bodies_before_it_is_known(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a password is hashed the body behind it waits at its sender; one that broke off meanwhile is let go."""
    web = WebConfig(users={"ada": "$2b$04$" + "a" * 53})
    go_on = threading.Event()
    monkeypatch.setattr(web, "authenticated", lambda _: go_on.wait(10) and user("ada"))
    seen: list[int] = []
    answers: list[bytes] = []
    head = OF_16_KIB.replace(b"Host", b"Authorization: Basic YTpi\r\nHost")

    def client(port: int, site: Site) -> None:
        large, cut = Reading(port), Reading(port)
        cut.socket.sendall(head.replace(b"Content-Length: 1000000", b"Transfer-Encoding: chunked") + b"zz\r\n")
        large.socket.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            large.socket.sendall(head.replace(b"1000000", b"16000000") + b" " * 16_000_000)
        seen.append(site._held)  # type: ignore[attr-defined]
        go_on.set()
        answers.append(cut.all())
        large.socket.close()

    try:
        served(lambda: FrontDoor(exporter, web, 1000), client)
    finally:
        exporter.close()
    assert seen[0] < 4 * SLICE
    assert answers[0].startswith(b"HTTP/1.1 400 ")


class Crowded(Simple):
    """One on which too much waits to be worked on."""

    crowded = True


@pytest.mark.parametrize(("site", "slowed"), [(Simple, False), (Crowded, True)])
def test_a_crowded_site_reads_less_of_each_client(
    monkeypatch: pytest.MonkeyPatch, site: Callable[[int], Site], slowed: bool
) -> None:
    """While too much waits, nothing more is read of a client for a while; all it sends is answered nevertheless."""
    monkeypatch.setattr(connection, "CROWDED_SECONDS", 0.2)
    took: list[float] = []

    def clients(port: int, _: Site) -> None:
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            begun = time.monotonic()
            for _turn in range(4):
                client.sendall(GET)
                assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
            took.append(time.monotonic() - begun)

    served(lambda: site(10), clients)
    assert (took[0] > 0.5) is slowed
