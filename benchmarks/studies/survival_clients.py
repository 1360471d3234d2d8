"""Run slow and hostile clients against a real exporter, and measure its memory and the latency of other clients.

``python benchmarks/studies/survival_clients.py`` runs each scenario for `SECONDS` or ``--seconds``. Meanwhile four
honest
clients probe, scrape, send predictions and send feedback, each request on a new connection. A scenario fails if one of
them gets no good response or waits a second, or if the exporter's memory grows by more than `GROWTH`.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import json
import resource
import selectors
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import bcrypt
import psutil

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from support.certificates import certificate
from support.servers import Served, unverified, write_config

SECONDS = 8.0
"""Duration of a scenario."""
MANY = 10_000
"""Connections in scenarios about their number."""
LONGEST = 1.0
"""Seconds that an honest client may wait."""
GROWTH = 400
"""MiB that the exporter may grow by: 128 of arriving bodies, and the memory to handle them."""

HONEST = ("probe", "scrape", "prediction", "feedback")
"""The honest clients."""
POST = b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\n"
FEEDBACK = b"POST /v1/feedback HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"
PROBE = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n"
MIB = b" " * 2**20


def endless(piece: bytes) -> Iterator[bytes]:
    """Yield the same bytes for ever."""
    while True:
        yield piece


def then(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    """Yield a beginning, then the rest."""
    yield head
    yield from rest


def dripping(data: bytes) -> Iterator[bytes]:
    """Yield one byte a second; the sender waits after each empty piece."""
    for index in range(len(data)):
        yield data[index : index + 1]
        yield b""


def lying(data: bytes) -> Iterator[bytes]:
    """Yield some bytes, wait a second, then close the connection."""
    yield data
    yield b""
    raise ConnectionError


def broken_off(data: bytes) -> Iterator[bytes]:
    """Yield some bytes, then close the connection."""
    if data:
        yield data
    raise ConnectionError


def announced(size: int, head: bytes = POST) -> bytes:
    """Return the head of a request with a body of this size."""
    return head + b"Content-Length: %d\r\n\r\n" % size


CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LIES = (
    b"Content-Length: -1\r\n\r\n{}",
    b"Content-Length: +2\r\n\r\n{}",
    b"Content-Length: 0x2\r\n\r\n{}",
    b"Content-Length: 2, 2\r\n\r\n{}",
    b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    b"Content-Length: 99999999999999999999999999\r\n\r\n{}",
    b"Content-Length: 9223372036854775807\r\n\r\n{}",
    b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    b"Content-Length: 1\r\n\r\n{}GARBAGE",
    b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: identity\r\n\r\n{}",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}",
    b"Transfer-Encoding: chunked\r\n\r\n-1\r\n{}",
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}X\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * 100_000 + b"\r\n{}\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
    b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n",
    b"\x00\x01\x02\r\n\r\n",
    b"X: " + b"y" * 1_000_000 + b"\r\n\r\n",
    b"X: y\r\n" * 5000 + b"\r\n",
    b" folded: x\r\n\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
)
"""Malformed continuations of a request's first lines."""
FIRST = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET http://evil.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\r\n" * 50_000,
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET /\r\n\r\n",
)
"""Bytes that are not an HTTP request to this server."""
BOMB = gzip.compress(b" " * 200 * 2**20)


class Scenario(NamedTuple):
    """Clients of one kind: their number, what each sends, and whether they reconnect after being disconnected.

    ``web`` is ``tls`` or ``users`` if the exporter has those.
    """

    name: str
    clients: int
    sends: Callable[[int], Iterator[bytes]]
    again: bool = True
    reads: bool = True
    web: str = ""


def client_hello() -> bytes:
    """Return the first message of a TLS handshake."""
    sent = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        unverified().wrap_bio(ssl.MemoryBIO(), sent).do_handshake()
    return sent.read()


def wrong_passwords(client: int) -> Iterator[bytes]:
    """Yield requests of a known user, each with another wrong password."""
    for number in count():
        credentials = base64.b64encode(f"ada:{client}-{number}".encode())
        yield b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Basic %b\r\n\r\n" % credentials


def new_versions(client: int) -> Iterator[bytes]:
    """Yield batches of predictions, each prediction with another version."""
    for number in count():
        version = f"{time.time_ns()}-{client}-{number}"
        events = [{"model": "credit", "version": f"{version}-{row}", "inputs": {"age": 40}} for row in range(100)]
        body = json.dumps(events).encode()
        yield announced(len(body)) + body


_LIES = [POST + lie for lie in LIES] + [FEEDBACK + lie for lie in LIES] + list(FIRST)
_HELLO = client_hello()
_BOMB = POST + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB
SCENARIOS = [
    Scenario("connections that say nothing", MANY, lambda _: iter(())),
    Scenario("connections that send half a head", MANY, lambda _: iter([POST + b"X-Slow: "])),
    Scenario("one byte a second, heads", 500, lambda _: dripping(POST + b"X-Slow: " + b"y" * 1000)),
    Scenario("one byte a second, bodies", 500, lambda _: then(announced(1000), dripping(b"{" * 1000))),
    Scenario(
        "16 MiB announced, one byte a second",
        200,
        lambda n: then(announced(2**24, (POST, FEEDBACK)[n % 2]), dripping(b"{" * 1000)),
    ),
    Scenario("bodies that stop just before their end", 50, lambda _: then(announced(2**24), iter([MIB] * 15))),
    Scenario("bodies without end, announced", 8, lambda _: then(announced(10**15), endless(MIB))),
    Scenario("bodies without end, chunked", 8, lambda _: then(CHUNKED, endless(b"100000\r\n" + MIB + b"\r\n"))),
    Scenario("chunks of one byte", 8, lambda _: then(CHUNKED, endless(b"1\r\n{\r\n" * 1000))),
    Scenario("heads without end", 8, lambda _: then(POST, endless(b"X-Long: " + b"y" * 1000 + b"\r\n"))),
    Scenario("one header without end", 8, lambda _: then(POST + b"X: ", endless(b"y" * 10_000))),
    Scenario("lies about length, and garbage", 20, lambda n: lying(_LIES[n % len(_LIES)])),
    Scenario("compressed bombs", 8, lambda _: iter([_BOMB])),
    Scenario("requests whose answers nobody reads", 50, lambda _: endless((GET + b"\r\n") * 100), reads=False),
    Scenario("small requests without end, answers read", 4, lambda _: endless((announced(2) + b"{}") * 1000)),
    Scenario("bodies that break off", 50, lambda _: broken_off(announced(1000) + b"{")),
    Scenario("connections that are closed at once", 50, lambda _: broken_off(b"")),
    Scenario("scrapes without end, pipelined", 100, lambda _: endless((GET + b"\r\n") * 100)),
    Scenario("probes without end, pipelined", 1000, lambda _: endless((PROBE + b"\r\n") * 100)),
    Scenario("a version for each prediction", 2, new_versions),
    Scenario("without a credential, pipelined", 200, lambda _: endless((GET + b"\r\n") * 100), web="users"),
    Scenario("the same, answers not read", 200, lambda _: endless((GET + b"\r\n") * 100), reads=False, web="users"),
    Scenario("wrong passwords, after a reload", 900, wrong_passwords, web="users"),
    Scenario("TLS handshakes that do not begin", MANY, lambda _: iter(()), web="tls"),
    Scenario("TLS handshakes that stop half-way", MANY, lambda _: iter([_HELLO]), web="tls"),
    Scenario("TLS handshakes that break off", 300, lambda _: broken_off(_HELLO), web="tls"),
]


class Hostile:
    """All clients of a scenario in one thread, without waiting for one another."""

    def __init__(self, port: int, scenario: Scenario) -> None:
        self._port, self._scenario = port, scenario
        self._numbers = count()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.opened = 0
        self.answers: dict[bytes, int] = {}

    def __enter__(self) -> Hostile:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()

    def _open(self, selector: selectors.BaseSelector) -> None:
        client = socket.socket()
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.connect(("127.0.0.1", self._port))
        state = [self._scenario.sends(next(self._numbers)), memoryview(b"")]
        selector.register(client, selectors.EVENT_READ | selectors.EVENT_WRITE, state)
        self.opened += 1

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for _ in range(self._scenario.clients):
                self._open(selector)
            paused: list[tuple[float, Any]] = []
            while not self._stop.is_set():
                for key, events in selector.select(0.05):
                    self._step(selector, key, events, paused)
                now = time.monotonic()
                while paused and paused[0][0] <= now:
                    _, key = paused.pop(0)
                    with contextlib.suppress(KeyError, ValueError):
                        selector.modify(key.fileobj, selectors.EVENT_READ | selectors.EVENT_WRITE, key.data)
            for key in list(selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]

    def _step(self, selector: selectors.BaseSelector, key: Any, events: int, paused: list[tuple[float, Any]]) -> None:
        client = key.fileobj
        try:
            if events & selectors.EVENT_READ and self._scenario.reads:
                self._receive(client)
            if events & selectors.EVENT_WRITE:
                self._send(selector, key, paused)
        except BlockingIOError:
            pass
        except OSError:
            selector.unregister(client)
            client.close()
            if self._scenario.again and not self._stop.is_set():
                self._open(selector)

    def _receive(self, client: socket.socket) -> None:
        received = client.recv(65536)
        if received[:9] == b"HTTP/1.1 ":
            self.answers[received[9:12]] = self.answers.get(received[9:12], 0) + 1
        if not received:
            raise ConnectionError

    def _send(self, selector: selectors.BaseSelector, key: Any, paused: list[tuple[float, Any]]) -> None:
        client, state = key.fileobj, key.data
        if not state[1]:
            piece = next(state[0], None)
            if not piece:  # everything is sent, or a pause of a second
                selector.modify(client, selectors.EVENT_READ, state)
                if piece == b"":
                    paused.append((time.monotonic() + 1, key))
                return
            state[1] = memoryview(piece)
        state[1] = state[1][client.send(state[1]) :]


class Honest:
    """A client that repeats the same request, on a new connection each time."""

    def __init__(self, name: str, ask: Callable[[int], int], good: int, every: float = 0.1) -> None:
        self.name = name
        self.waits: list[float] = []
        self.bad: list[str] = []
        self._ask, self._good, self._every = ask, good, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for number in count():
            if self._stop.wait(self._every):
                return
            start = time.monotonic()
            try:
                status = self._ask(number)
            except OSError as error:
                self.bad.append(repr(error))
            else:
                if status != self._good:
                    self.bad.append(str(status))
            self.waits.append(time.monotonic() - start)

    def stop(self) -> None:
        """Stop it."""
        self._stop.set()
        self._thread.join()


def honest(server: Served) -> list[Honest]:
    """Return a probe, a scraper, a service and a user."""
    started = time.time_ns()

    def correction(number: int) -> int:
        body = {"prediction_id": f"{started}-{number}", "verdict": "corrected", "label": "no"}
        return server.post("/v1/feedback", body).status

    def prediction(number: int) -> int:
        body = {"model": "credit", "version": "3", "id": f"{number}", "prediction": "yes"}
        return server.post("/v1/predictions", body).status

    return [
        Honest("probe", lambda _: server.get("/-/healthy").status, 200, 0.3),
        Honest("scrape", lambda _: server.get("/metrics").status, 200, 0.3),
        Honest("prediction", prediction, 202),
        Honest("feedback", correction, 201),
    ]


class Outcome(NamedTuple):
    """The result of a scenario."""

    longest: dict[str, float]
    bad: list[str]
    before: float
    most: float
    opened: int
    answers: dict[str, int]

    @property
    def good(self) -> bool:
        """Return whether the honest clients were served and memory stayed bounded."""
        return not self.bad and max(self.longest.values()) < LONGEST and self.most - self.before < GROWTH


def start(folder: Path, web: str = "") -> Served:
    """Return an exporter that serves, with TLS or a user where ``web`` says so."""
    write_config(folder)
    if not web:
        return Served(folder).start()
    if web == "tls":
        certificate(folder, "server")
        text = "tls_server_config: {cert_file: server.crt, key_file: server.key}"
    else:
        text = f"basic_auth_users: {{ada: {bcrypt.hashpw(b'right', bcrypt.gensalt(10)).decode()}}}"
    (folder / "web.yml").write_text(text)
    server = Served(folder, f"--web.config.file={folder / 'web.yml'}")
    if web == "tls":
        server.url = server.url.replace("http:", "https:")
    else:
        server.headers["Authorization"] = "Basic " + base64.b64encode(b"ada:right").decode()
    return server.start()


def run(server: Served, scenario: Scenario, seconds: float) -> Outcome:
    """Run one scenario against a server."""
    if scenario.web == "users":
        server.get("/-/healthy")  # or the password would be new
        server.process.send_signal(signal.SIGHUP)
    process = psutil.Process(server.process.pid)
    before = peak = process.memory_info().rss / 2**20
    with Hostile(server.port, scenario) as hostile:
        time.sleep(min(1.0, seconds / 4))
        others = honest(server)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            peak = max(peak, process.memory_info().rss / 2**20)
            time.sleep(0.05)
        for one in others:
            one.stop()
    longest = {one.name: max(one.waits, default=seconds) for one in others}
    bad = [f"{one.name}: {what}" for one in others for what in one.bad]
    answers = {status.decode("latin-1"): times for status, times in sorted(hostile.answers.items())}
    return Outcome(longest, bad, before, peak, hostile.opened, answers)


def main() -> None:
    """Print a row for each scenario."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--connections", type=int, default=MANY)
    parser.add_argument("--only", default="", help="scenarios whose name has this")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, options.connections + 1000), hard))
    failed = False
    print(f"| clients | opened | longest wait: {' | '.join(HONEST)} | memory before, at most, MiB | answers |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for one in SCENARIOS:
            if options.only not in one.name:
                continue
            scenario = one._replace(clients=options.connections) if one.clients == MANY else one
            (folder / "log").unlink(missing_ok=True)
            server = start(folder, scenario.web)
            try:
                outcome = run(server, scenario, options.seconds)
            finally:
                ended = server.stop()
            waits = " | ".join(f"{1000 * outcome.longest[who]:.0f} ms" for who in HONEST)
            memory = f"{outcome.before:.0f}, {outcome.most:.0f}"
            print(
                f"| {scenario.name} | {outcome.opened:,} | {waits} | {memory} | {json.dumps(outcome.answers)} |",
                flush=True,
            )
            if not outcome.good or ended or "Traceback" in server.log.read_text(errors="replace"):
                failed = True
                print(
                    "FAILED:",
                    outcome.bad[:5],
                    len(outcome.bad),
                    "exit",
                    ended,
                    server.log.read_text()[:3000],
                    flush=True,
                )
    sys.exit(failed)


if __name__ == "__main__":
    main()
