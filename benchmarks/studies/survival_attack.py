"""Attack an exporter from 300 connections in ten ways at once, and measure what its other clients notice.

The attackers run in a process of low priority, because they would run on other machines. Meanwhile Prometheus scrapes
each second, a probe asks ``/-/healthy`` on new connections, and a user corrects predictions. Other clients send single
predictions, wait until one is counted and stored, and open a reviewer's page. The run fails if one of the first three
gets no good answer or waits a second, if the exporter takes more memory than `MEMORY`, if its log has a
traceback, if a route answers with an undocumented 5xx, or if an acknowledged correction cannot be read at the end.

With ``--only "a token"`` one token, which may send predictions and feedback, attacks with all that it may send; with
``--in-turn``, in one way after another. Then others may wait for ``SHARED`` seconds at most, and less than 1% of their
predictions may be refused.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import functools
import gzip
import http.client
import json
import logging
import multiprocessing
import os
import random
import re
import ssl
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import bcrypt
import psutil
import yaml

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from support.certificates import certificate
from support.servers import CONFIG, Served, free_port, write_config

from exporter.server.access import digest

MINUTES = 60.0
LONGEST = 1.0
"""Seconds that a scrape or a probe may take."""
MEMORY = 1024
"""MiB of memory that the exporter may take."""
PASSWORD = "correct horse battery staple"
TOKEN = "token-of-the-service"
FLOOD = "token-that-floods"
ATTACKED = 'bare "model"\\ 模型'
"""The model of most of the attackers' events; the user's are of the other."""
DOCUMENTED = {"503", "507"}
"""Documented 5xx."""

USER = {"Authorization": "Basic " + base64.b64encode(f"prometheus:{PASSWORD}".encode()).decode()}
SERVICE = {"Authorization": f"Bearer {TOKEN}"}
FLOODING = {"Authorization": f"Bearer {FLOOD}"}
SHARED = {"prediction": 1.0, "stored": 2.0, "page": 1.0, "probe": 1.0}
"""Seconds that clients wait at the 99th percentile while one token attacks."""
TIMES = (
    "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-05:00", "9999-12-31T23:59:59.99999Z", "1969-12-31T23:59:60Z",
    "2026-02-30T00:00:00Z", "0000-00-00T00:00:00Z", "1677-09-21T00:12:43Z", "2262-04-11T23:47:17Z",
    "2026-11-26T00:00:00+23:59", "+12026-01-01T00:00:00Z",
)  # fmt: skip
PAGES = (
    "/", "/review", "/review?model=credit", "/drift?model=credit", "/v1/corrections?limit=500", "/openapi.json",
    "/v1/corrections?joined=false", "/v1/dataset?model=credit", "/v1/dataset?model=credit&format=csv", "/metrics",
)  # fmt: skip


def request(method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """Return a request as bytes."""
    fields = {"Host": "x", "Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def post(path: str, document: Any, headers: dict[str, str] | None = None) -> bytes:
    """Return a POST request with a JSON body, by default of the service."""
    json_type = {"Content-Type": "application/json"}
    return request(
        "POST", path, json.dumps(document).encode(), {**json_type, **(SERVICE if headers is None else headers)}
    )


@functools.cache
def bomb_image(side: int = 10_900, depth: int = 8) -> str:
    """Return a data URL of a few kilobytes that unpacks to many pixels, 119 million by default."""
    rows = zlib.compress(bytes((side * depth + 7) // 8 + 1) * side, 9)
    header = struct.pack(">IIBBBBB", side, side, depth, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        png += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return "data:image/png;base64," + base64.b64encode(png).decode()


_SPACES, _BRACKETS = gzip.compress(b" " * 100 * 2**20, 1), gzip.compress(b"[" * 100 * 2**20, 1)

# --- ten ways to attack: each yields what one connection sends, and sleeps where it wants ---------------


async def floods_without_credential(number: int) -> AsyncIterator[bytes]:
    """Pipeline requests that nobody may make."""
    requests = request("GET", "/metrics") + post("/v1/predictions", {"model": ATTACKED}, {}) + request("GET", "/")
    for _ in range(100):
        yield requests * 20
    del number


async def versions_without_end(number: int) -> AsyncIterator[bytes]:
    """Pipeline valid predictions, each of a version of its own."""
    for turn in range(1000):
        names = [f"{number}.{turn}.{index}" for index in range(20)]
        yield b"".join(
            post("/v1/predictions", {"model": ATTACKED, "version": name, "confidence": 0.9}) for name in names
        )


async def wrong_passwords(number: int) -> AsyncIterator[bytes]:
    """Guess."""
    for turn in range(100):
        guess = base64.b64encode(f"prometheus:{number}-{turn}".encode()).decode()
        yield request("GET", "/metrics", headers={"Authorization": f"Basic {guess}"})


async def bombs(number: int) -> AsyncIterator[bytes]:
    """Send small bodies that would become large, and correct what was predicted from them."""
    url = bomb_image()
    inside = url.replace("png;", "png;of=numbers;")
    for turn in range(10):
        name = f"bomb-{number}-{turn}-{random.random()}"
        for image in (url, inside):
            yield post(
                "/v1/predictions", {"model": "credit", "id": name, "inputs": {"photo": image}, "prediction": "no"}
            )
        yield post("/v1/feedback", {"prediction_id": name, "verdict": "corrected", "label": "yes"})
        yield request("POST", "/v1/predictions", b"[" * 1_000_000, SERVICE)
        otlp = {"Content-Type": "application/json", "Content-Encoding": "gzip", **SERVICE}
        yield request("POST", "/v1/logs", _SPACES, otlp)
        yield request("POST", "/v1/traces", _BRACKETS, otlp)
        await asyncio.sleep(1)


async def odd_times(number: int) -> AsyncIterator[bytes]:
    """Send predictions of the year 1 and of the year 9999, and correct them."""
    for text in TIMES:
        name = f"odd-{number}-{random.random()}"
        yield post("/v1/predictions", {"model": ATTACKED, "id": name, "time": text, "prediction": "1"})
        yield post("/v1/feedback", {"prediction_id": name, "verdict": "corrected", "label": "2", "time": text})
        await asyncio.sleep(0.1)


async def histories(number: int) -> AsyncIterator[bytes]:
    """Correct the same prediction for ever, and others that nobody made."""
    for turn in range(200):
        label = {"verdict": "corrected", "label": turn, "comment": "x" * 500}
        yield post("/v1/feedback", {"prediction_id": "the-same", **label})
        yield post("/v1/feedback", {"prediction_id": f"never-{number}-{random.random()}", **label})
        await asyncio.sleep(0.2)


async def slowly(number: int) -> AsyncIterator[bytes]:
    """Send a head, or a body of 16 MiB, a byte a second."""
    whole = request("POST", "/v1/predictions", b"", {**SERVICE, "Content-Length": str(2**24)}) + b"[" * 100
    for index in range(0 if number % 2 else whole.index(b"\r\n\r\n") + 4, len(whole)):
        yield whole[index : index + 1]
        await asyncio.sleep(1)


async def pages(number: int) -> AsyncIterator[bytes]:
    """Ask for everything that is expensive."""
    for turn in range(20):
        yield request("GET", PAGES[(number + turn) % len(PAGES)], headers=USER)


# --- ways in which one token attacks --------------------------------------------------------------


def flood(path: str, body: bytes, times: int = 1, **headers: str) -> Callable[[int], AsyncIterator[bytes]]:
    """Return what sends the same request without end, so many at a time."""
    fields = {"Content-Type": "application/json", **FLOODING}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}

    async def sends(_: int) -> AsyncIterator[bytes]:
        for _ in range(100_000):
            yield request("POST", path, body, fields) * times

    return sends


def event(**members: Any) -> dict[str, Any]:
    """Return a prediction of the model with a profile."""
    return {"model": "credit", "version": "3", "prediction": "no", "confidence": 0.9, **members}


def encode(document: Any) -> bytes:
    """Return a document as JSON."""
    return json.dumps(document, separators=(",", ":")).encode()


def large_bodies() -> list[bytes]:
    """Return accepted bodies of almost 16 MiB: many events, events with pictures, and one event of deep arrays."""
    inputs = {"age": 41, "income": 30_000.5, "country": "NL"}
    photo = {"photo": [[x * y % 17 for x in range(40)] for y in range(40)]}
    events = [encode([event(inputs=inputs | more)])[1:-1] for more in ({}, photo)]
    many = [b"[%b]" % b",".join([one] * (15_900_000 // (len(one) + 1))) for one in events]
    return [*many, encode(event(inputs={"photo": [[1.5]] * 500_000}))]


def exchanges() -> bytes:
    """Return a small body of records whose compressed bodies unpack to just below the limit."""
    columns = encode({"inputs": [{"name": "age", "shape": [600_000, 1], "datatype": "FP64", "data": [1.5] * 600_000}]})
    bodies = [base64.b64encode(gzip.compress(columns)).decode(), base64.b64encode(gzip.compress(columns)).decode()]
    record = {"model": "credit", "code": 200, "request": bodies[0], "response": bodies[1]}
    return encode([record] * 5)


def token_attacks() -> dict[str, Attack]:
    """Return the attacks by one token."""
    pictures = [event(id=f"picture-{side}", inputs={"photo": bomb_image(side, 1)}) for side in (3_990, 3_995)]
    feedback = [{"model": "credit", "prediction": "no", "label": "yes", "verdict": "corrected"}] * 100
    lenient = b'{"model":"credit","predicton":"x","label":"yes","prediction":"no","inputs":{"a":[%b]}}'
    lenient %= b",".join([b"{}"] * 600_000)
    alerts = encode(
        {
            "status": "firing",
            "alerts": [
                {"status": "firing", "labels": {"alertname": f"x{n}"}, "startsAt": "2026-11-30T12:00:00Z"}
                for n in range(100)
            ],
        }
    )
    sent: dict[str, tuple[int, Callable[[int], AsyncIterator[bytes]]]] = {
        "predictions": (40, flood("/v1/predictions", encode(event()), 50)),
        "batches": (20, flood("/v1/predictions", encode([event(inputs={"age": 41, "country": "NL"})] * 1000))),
        **{
            f"large bodies, {name}": (2, flood("/v1/predictions", body))
            for name, body in zip(("rows", "pictures", "arrays"), large_bodies(), strict=True)
        },
        "lenient bodies": (3, flood("/v1/feedback", lenient)),
        "feedback": (20, flood("/v1/feedback", encode(feedback))),
        "small pictures": (4, flood("/v1/predictions", encode(pictures * 20))),
        "unpacking": (4, flood("/v1/exchanges", exchanges())),
        "notifications": (4, flood("/v1/notifications", alerts, 20)),
    }
    return {f"a token: {name}": Attack(number, sends) for name, (number, sends) in sent.items()}


class Attack(NamedTuple):
    """A way to attack: its connections, what each sends, and whether it handshakes and reads answers."""

    connections: int
    sends: Callable[[int], AsyncIterator[bytes]] | None
    reads: bool = True


ATTACKS = {
    "half handshakes": Attack(60, None),
    "floods without a credential": Attack(60, floods_without_credential),
    "versions without end": Attack(40, versions_without_end),
    "wrong passwords": Attack(40, wrong_passwords),
    "bombs": Attack(30, bombs),
    "odd times": Attack(20, odd_times),
    "slow requests": Attack(20, slowly),
    "histories": Attack(10, histories),
    "expensive pages": Attack(10, pages),
    "answers that nobody reads": Attack(10, pages, reads=False),
}
TEN = "^(?!a token)"
"""Matches the names of attacks that know no token, or the service's."""
ATTACKS |= token_attacks()


class Attackers:
    """All connections, in one event loop."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._numbers = count()
        self.opened: Counter[str] = Counter()
        self.answers: dict[str, Counter[str]] = {name: Counter() for name in ATTACKS}
        self._context = ssl.create_default_context()
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE

    async def run(self, seconds: float, only: str, in_turn: bool) -> None:
        """Attack in all ways whose names match ``only``, at once or in turn."""
        chosen = [name for name in ATTACKS if re.search(only, name)]
        for names in [[name] for name in chosen] if in_turn else [chosen]:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds * len(names) / len(chosen)), asyncio.TaskGroup() as group:
                    for name in names:
                        for _ in range(ATTACKS[name].connections):
                            group.create_task(self._again(name, ATTACKS[name]))

    async def _again(self, name: str, attack: Attack) -> None:
        while True:
            self.opened[name] += 1
            try:
                if attack.sends is None:
                    await self._half_handshake()
                else:
                    await self._connection(name, attack, attack.sends(next(self._numbers)))
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.1)

    async def _half_handshake(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(100))
        async with asyncio.timeout(20):
            await reader.read()
        writer.close()

    async def _connection(self, name: str, attack: Attack, pieces: AsyncIterator[bytes]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._context)
        reading = asyncio.create_task(self._read(name, reader)) if attack.reads else None
        try:
            async with asyncio.timeout(60):
                async for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.01)
                    if writer.is_closing() or (reading and reading.done()):
                        return
                if not attack.reads:
                    await asyncio.sleep(40)
            if reading:
                await asyncio.wait({reading}, timeout=5)
        finally:
            if reading:
                reading.cancel()
            writer.transport.abort()

    async def _read(self, name: str, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while received := await reader.read(65536):
                for part in received.split(b"HTTP/1.1 ")[1:]:
                    self.answers[name][part[:3].decode("latin-1")] += 1


def attack(port: int, seconds: float, only: str, in_turn: bool, results: Connection) -> None:
    """Attack from a process of low priority."""
    os.nice(15)
    logging.disable()  # asyncio logs each write to a connection that the exporter has closed
    bomb_image()
    attackers = Attackers(port)
    asyncio.run(attackers.run(seconds, only, in_turn))
    results.send((attackers.opened, attackers.answers))


# --- everybody else ----------------------------------------------------------------------------------


class Client:
    """Repeats a request every second, on one connection or each time on a new one."""

    def __init__(
        self,
        port: int,
        context: ssl.SSLContext,
        call: Callable[[Client], int],
        kept: bool,
        every: float = 1.0,
        headers: dict[str, str] = USER,
    ) -> None:
        self._port, self._context, self._call, self._kept = port, context, call, kept
        self._every, self._headers = every, headers
        self._connection: http.client.HTTPSConnection | None = None
        self.waits: list[float] = []
        self.bad: Counter[str] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def ask(self, method: str, path: str, document: Any = None) -> tuple[int, bytes]:
        """Send a request and read the answer."""
        if self._connection is None:
            self._connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=30, context=self._context)
        body = None if document is None else json.dumps(document)
        try:
            self._connection.request(method, path, body, {"Content-Type": "application/json", **self._headers})
            answer = self._connection.getresponse()
            result = answer.status, answer.read()
        except BaseException:
            self._close()
            raise
        if not self._kept:
            self._close()
        return result

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            start = time.monotonic()
            try:
                status = self._call(self)
            except (OSError, http.client.HTTPException) as error:
                self.bad[repr(error)] += 1
            else:
                if status >= 300:
                    self.bad[str(status)] += 1
            self.waits.append(time.monotonic() - start)

    def stop(self) -> None:
        """Stop it."""
        self._stop.set()
        self._thread.join()
        self._close()


class Corrections:
    """A user who corrects predictions, and what was acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: set[str] = set()
        self._numbers = count()

    def __call__(self, client: Client) -> int:
        """Send a prediction, and a correction of it."""
        name = f"user-{next(self._numbers)}"
        prediction = {"model": "credit", "version": "3", "id": name, "prediction": "no", "confidence": 0.9}
        status, _ = client.ask("POST", "/v1/predictions", prediction)
        if status != 202:
            return status
        status, _ = client.ask("POST", "/v1/feedback", {"prediction_id": name, "verdict": "corrected", "label": "yes"})
        if status == 201:
            self.acknowledged.add(name)
        return status

    def missing(self, server: Served, context: ssl.SSLContext) -> set[str]:
        """Return the acknowledged corrections that cannot be read."""
        missing = set(self.acknowledged)
        path: str | None = "/v1/corrections?model=credit&limit=500"
        client = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=60, context=context)
        while path:
            client.request("GET", path, headers=USER)
            answer = json.loads(client.getresponse().read())
            missing -= {correction["prediction_id"] for correction in answer["corrections"]}
            path = answer["next"]
        client.close()
        return missing


def predict(client: Client) -> int:
    """Send a prediction."""
    return client.ask("POST", "/v1/predictions", event())[0]


def store(client: Client) -> int:
    """Send a prediction, and wait until it is counted and stored."""
    name = f"stored-{random.random()}"
    status, _ = client.ask("POST", "/v1/predictions", event(id=name))
    deadline = time.monotonic() + 60
    while status == 202 and client.ask("GET", f"/v1/predictions/{name}?model=credit")[0] != 200:
        time.sleep(0.02)
        if time.monotonic() > deadline:
            return 504
    return status


def write_web_config(folder: Path) -> list[str]:
    """Write a certificate, a user and a token; return the flags that name them."""
    certificate(folder, "server")
    web = {
        "tls_server_config": {"cert_file": str(folder / "server.crt"), "key_file": str(folder / "server.key")},
        "basic_auth_users": {"prometheus": bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(10)).decode()},
    }
    (folder / "web.yml").write_text(yaml.safe_dump(web))
    tokens = {
        "service": (TOKEN, ["ingest", "feedback", "read"]),
        "flood": (FLOOD, ["ingest", "feedback", "notify"]),
    }
    (folder / "tokens.yml").write_text(
        yaml.safe_dump(
            [
                {"name": name, "sha256": digest(token).hex(), "scopes": scopes}
                for name, (token, scopes) in tokens.items()
            ]
        )
    )
    return [f"--web.config.file={folder / 'web.yml'}", f"--web.tokens.file={folder / 'tokens.yml'}"]


def serve(folder: Path) -> Served:
    """Start an exporter with TLS, a user and a token."""
    write_config(folder, {**CONFIG, "store": {"url": f"sqlite:///{folder / 'store.db'}", "max_size": "20GB"}})
    server = Served(folder, *write_web_config(folder))
    server.port = free_port()
    server.launch()
    deadline = time.monotonic() + 60
    while "listening" not in server.log.read_text():
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(server.log.read_text()[-3000:])
        time.sleep(0.1)
    return server


def quantile(waits: list[float], share: float) -> float:
    """Return a quantile of latencies in milliseconds."""
    return 1000 * sorted(waits)[min(int(share * len(waits)), len(waits) - 1)] if waits else float("nan")


def main() -> None:
    """Run the attack and print what the others noticed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--only", default=TEN, help="the ways to attack whose names match this regular expression")
    parser.add_argument("--in-turn", action="store_true", help="attack in one way after another")
    options = parser.parse_args()
    seconds = 60 * options.minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = serve(folder)
        context = ssl.create_default_context(cafile=folder / "server.crt")
        process = psutil.Process(server.process.pid)
        receiver, sender = multiprocessing.Pipe(duplex=False)
        attackers = multiprocessing.get_context("spawn").Process(
            target=attack, args=(server.port, seconds, options.only, options.in_turn, sender)
        )
        attackers.start()
        user = Corrections()
        clients = {
            "scrape": Client(server.port, context, lambda client: client.ask("GET", "/metrics")[0], True),
            "probe": Client(server.port, context, lambda client: client.ask("GET", "/-/healthy")[0], False),
            "correction": Client(server.port, context, user, True),
            "prediction": Client(server.port, context, predict, True, 0.05, SERVICE),
            "stored": Client(server.port, context, store, True, 0.5, SERVICE),
            "page": Client(server.port, context, lambda client: client.ask("GET", "/review?model=credit")[0], True),
        }
        peak, end, shown = 0.0, time.monotonic() + seconds, time.monotonic()
        while time.monotonic() < end and process.is_running():
            peak = max(peak, process.memory_info().rss / 2**20)
            time.sleep(0.2)
            if time.monotonic() - shown > 30:
                shown = time.monotonic()
                slowest = {name: round(max(client.waits, default=0), 2) for name, client in clients.items()}
                print(
                    f"{end - shown:.0f} s left: slowest {slowest}, at most {peak:.0f} MiB", file=sys.stderr, flush=True
                )
        for client in clients.values():
            client.stop()
        opened, answers = receiver.recv() if receiver.poll(60) else ({}, {})
        attackers.join()
        missing = user.missing(server, context)
        deadline = time.monotonic() + 60
        while missing and time.monotonic() < deadline:  # predictions that wait to be stored are not joined yet
            missing = user.missing(server, context)
        ended = server.stop()
        log = server.log.read_text(errors="replace")
    shared = SHARED if opened and all(name.startswith("a token") for name in opened) else {}
    sys.exit(report(clients, user, missing, peak, opened, answers, ended, log, shared))


def report(
    clients: dict[str, Client],
    user: Corrections,
    missing: set[str],
    peak: float,
    opened: Counter[str],
    answers: dict[str, Counter[str]],
    ended: int,
    log: str,
    shared: dict[str, float],
) -> bool:
    """Print the results; return whether the run failed."""
    print("| attack | connections at a time | opened | answers |\n|---|---|---|---|")
    for name in opened:
        print(f"| {name} | {ATTACKS[name].connections} | {opened[name]:,} | {dict(answers.get(name, {}))} |")
    print("\n| client | requests | p50 | p99 | longest | not served |\n|---|---|---|---|---|---|")
    for name, client in clients.items():
        p50, p99 = (f"{quantile(client.waits, share):.0f} ms" for share in (0.5, 0.99))
        longest = f"{quantile(client.waits, 1):.0f} ms"
        print(f"| {name} | {len(client.waits):,} | {p50} | {p99} | {longest} | {dict(client.bad)} |")
    statuses = {status for counter in answers.values() for status in counter if status.startswith("5")}
    faults = {
        "slow": [name for name in ("scrape", "probe") if quantile(clients[name].waits, 1) > 1000 * LONGEST],
        "slow at p99": [name for name, most in shared.items() if quantile(clients[name].waits, 0.99) > 1000 * most],
        "not served": [
            name for name, client in clients.items() if client.bad.total() > 0.01 * len(client.waits) * bool(shared)
        ],
        "acknowledged and not readable": sorted(missing)[:5],
        "undocumented answers": sorted(statuses - DOCUMENTED),
        f"memory above {MEMORY} MiB": [peak] if peak > MEMORY else [],
        "exit status": [ended] if ended else [],
        "tracebacks": log.count("Traceback"),
    }
    print(
        f"\nmemory at most {peak:.0f} MiB; {len(user.acknowledged):,} corrections acknowledged, {len(missing)} missing"
    )
    failed = {fault: what for fault, what in faults.items() if what}
    if failed:
        start = log.find("Traceback")
        print("FAILED:", failed, log[max(start - 500, 0) : start + 2500] if start >= 0 else "", len(opened))
    return bool(failed)


if __name__ == "__main__":
    main()
