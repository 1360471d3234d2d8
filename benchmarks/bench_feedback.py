"""Measure durable corrections, one by one and a thousand at once, in process and over HTTP, with SQLite and PostgreSQL.

The floor in process is an append and `fdatasync` of as many bytes as SQLite's log grows by for one correction. Over
HTTP it is the same server answering from memory, without a store. Each measurement alternates with its floor, so that
other work on the disk slows down both.

    python benchmarks/bench_feedback.py [sqlite|postgresql|all]
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from survival import Exporter, database
from timing import report

from exporter.config import StoreConfig
from exporter.storage import Store
from exporter.wire.events import Feedback, Prediction

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.batches import stored_batch

ROUNDS = 400
MANY, CLIENTS = 1000, 50
PREDICTIONS = 20_000
INPUTS = json.dumps({"age": 41, "country": "NL", "amount": 12.5}).encode()


def events() -> list[Prediction]:
    """Return the predictions that get feedback."""
    made = [Prediction("m", f"p-{n}", prediction="7", confidence=0.9) for n in range(PREDICTIONS)]
    for event in made:
        event.version = "3"
    return made


def fill(store: Store) -> None:
    """Store the predictions, spread over two weeks."""
    found, now = events(), time.time()
    for first in range(0, PREDICTIONS, 1000):
        group = found[first : first + 1000]
        received = now - 14 * 86400 * (1 - first / PREDICTIONS)
        store.add(stored_batch(group, [True] * 1000, [INPUTS] * 1000, received))
    if not store.flush(60):
        raise SystemExit("the predictions were not written")


def timed(call: Callable[[], object]) -> float:
    """Return the seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def percentile(seconds: list[float], share: float) -> float:
    """Return the median in milliseconds."""
    return 1e3 * sorted(seconds)[min(int(share * len(seconds)), len(seconds) - 1)]


def log_bytes(store: Store, folder: Path) -> int:
    """Return the bytes that SQLite's log grows by for one correction, starting with an empty log."""
    with sqlite3.connect(folder / "store.db", timeout=10) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    for number in range(10):
        store.submit_feedback([Feedback(f"p-{number}", verdict="corrected", label="1")], None).result()
    return (folder / "store.db-wal").stat().st_size // 10


def in_process(kind: str, url: str, folder: Path) -> None:
    """Measure corrections one by one, each next to a write of the floor, then a thousand in threads."""
    counted: list[object] = []
    store = Store(StoreConfig(url=url), on_counted=counted.append)
    fill(store)
    size = log_bytes(store, folder) if kind == "sqlite" else 4096
    data = os.urandom(size)
    descriptor = os.open(folder / "floor", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def append() -> None:
        os.write(descriptor, data)
        os.fdatasync(descriptor)

    corrections, floor = [], []
    for number in range(10, 10 + ROUNDS):
        floor.append(timed(append))
        correction = Feedback(f"p-{number}", verdict="corrected", label="1", user="ada")
        corrections.append(timed(lambda correction=correction: store.submit_feedback([correction], None).result()))  # type: ignore[misc]
    os.close(descriptor)
    for name, share in (("p10", 0.1), ("p50", 0.5)):
        what = f"one correction in process, {name}"
        report(what, percentile(corrections, share), "ms", f"fdatasync of {size:,} bytes", percentile(floor, share))

    commits = [0]
    transact = store.writer.transactions.run

    def counting(call: Callable[..., object]) -> object:
        commits[0] += 1
        return transact(call)

    store.writer.transactions.run = counting  # type: ignore[assignment, method-assign]
    begin = threading.Barrier(CLIENTS)

    def say(client: int) -> list[float]:
        begin.wait()
        durations = []
        for number in range(client, MANY, CLIENTS):
            correction = Feedback(f"p-{number + 1000}", verdict="corrected", label="1", user=f"{client}")
            durations.append(timed(lambda correction=correction: store.submit_feedback([correction], None).result()))  # type: ignore[misc]
        return durations

    with ThreadPoolExecutor(CLIENTS) as pool:
        start = time.perf_counter()
        concurrent = [seconds for durations in pool.map(say, range(CLIENTS)) for seconds in durations]
        passed = time.perf_counter() - start
    print_rates(f"{MANY:,} corrections from {CLIENTS} threads", concurrent, passed)
    print(f"{'commits a correction':52} {commits[0] / MANY:12,.3f}")
    several = [Feedback(f"p-{number}", verdict="corrected", label="1") for number in range(5000, 5000 + MANY)]
    seconds = timed(lambda: store.submit_feedback(several, None).result())
    print(f"{f'{MANY:,} corrections in one call':52} {1e3 * seconds:12,.4g} ms")
    store.close()


def print_rates(what: str, seconds: list[float], passed: float) -> None:
    """Print latencies and throughput."""
    print(f"{f'{what}, p50':52} {percentile(seconds, 0.5):12,.4g} ms")
    print(f"{f'{what}, p99':52} {percentile(seconds, 0.99):12,.4g} ms")
    print(f"{f'{what}, rate':52} {len(seconds) / passed:12,.4g} corrections/s")


def over_http(exporter: Exporter) -> None:
    """Measure the same over HTTP, on persistent connections, with a client that reads each response in one piece."""

    def connect() -> socket.socket:
        client = socket.create_connection(("127.0.0.1", exporter.port), timeout=60)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def ask(client: socket.socket, path: str, body: bytes) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        answer = client.recv(65536)
        if answer[:12] not in {b"HTTP/1.1 201", b"HTTP/1.1 202"}:
            raise SystemExit(f"{path}: {answer!r}")

    def correction(number: int) -> bytes:
        feedback = {"prediction_id": f"p-{number}", "verdict": "corrected", "label": "1", "user": "ada"}
        return json.dumps(feedback).encode()

    client = connect()
    corrections, floor = [], []
    for number in range(10_000, 10_000 + ROUNDS):
        floor.append(timed(lambda: ask(client, "/v1/predictions", b'{"model":"m"}')))
        corrections.append(timed(lambda number=number: ask(client, "/v1/feedback", correction(number))))  # type: ignore[misc]
    client.close()
    for name, share in (("p10", 0.1), ("p50", 0.5)):
        what = f"one correction over HTTP, {name}"
        report(what, percentile(corrections, share), "ms", "a prediction, from memory", percentile(floor, share))
    begin = threading.Barrier(CLIENTS)

    def say(client_number: int) -> list[float]:
        connection = connect()
        begin.wait()
        durations = [
            timed(lambda number=number: ask(connection, "/v1/feedback", correction(number + 12_000)))  # type: ignore[misc]
            for number in range(client_number, MANY, CLIENTS)
        ]
        connection.close()
        return durations

    with ThreadPoolExecutor(CLIENTS) as pool:
        start = time.perf_counter()
        concurrent = [seconds for durations in pool.map(say, range(CLIENTS)) for seconds in durations]
        passed = time.perf_counter() - start
    print_rates(f"{MANY:,} corrections over {CLIENTS} connections", concurrent, passed)


def main() -> None:
    """Print the figures."""
    kinds = sys.argv[1] if len(sys.argv) > 1 else "all"
    for kind in ("sqlite", "postgresql") if kinds == "all" else (kinds,):
        if kind == "postgresql" and not shutil.which("psql"):
            print("postgresql: not on this machine")
            continue
        print(f"-- {kind}")
        with tempfile.TemporaryDirectory() as name, database(kind, Path(name)) as (url, _):
            in_process(kind, url, Path(name))
            exporter = Exporter(Path(name), url)
            exporter.start()
            try:
                over_http(exporter)
            finally:
                exporter.process.terminate()
                exporter.process.wait()


if __name__ == "__main__":
    main()
