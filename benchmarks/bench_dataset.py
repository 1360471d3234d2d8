"""Measure a release of 100,000 examples and its exports in time and memory, against a bare query to JSON lines.

The floor reads the same rows with sqlite3, and writes and hashes them as JSON lines in this process without storing
them. Memory is the largest growth of the serving process, compared with the size of the JSON lines.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from timing import free_port, report, serving

from exporter.datasets import FORMATS

EXAMPLES = 100_000
COLUMNS = (
    "id, prediction_id, model, version, inputs, label, prediction, confidence, user, reviewer, reviewed, predicted"
)


def fill(path: Path) -> None:
    """Insert accepted corrections of a model of digits, each with an image of 8 × 8 and two more inputs."""
    rng = np.random.default_rng(3)
    images = rng.integers(0, 17, (1000, 8, 8)).tolist()
    rows = (
        (f"r-{n}", 1.7e9 + n, json.dumps({"image": images[n % 1000], "country": "NL", "age": n % 80}), f'"{n % 10}"', n)
        for n in range(EXAMPLES)
    )
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as database, database:
        database.executemany(
            "INSERT INTO feedback (prediction_id, joined, model, version, predicted, prediction, confidence, confident,"
            " inputs, verdict, label, created, updated, counted, status, revision, reviewer, reviewed, released)"
            " VALUES (?, 1, 'm', '3', ?, '\"7\"', .9, 1, ?, 'corrected', ?, ?, 1, 1, 'accepted', 2, 'ada', 2, 0)",
            rows,
        )


def floor(path: Path) -> tuple[float, int]:
    """Return the seconds of a bare query whose rows are written as JSON lines and hashed, and the number of bytes."""
    start = time.perf_counter()
    digest, size = hashlib.sha256(), 0
    names = COLUMNS.split(", ")
    with contextlib.closing(sqlite3.connect(path)) as database:
        for row in database.execute(
            f"SELECT {COLUMNS} FROM feedback WHERE model = 'm' AND status = 'accepted' ORDER BY id"
        ):
            document = dict(zip(names, row, strict=True))
            document["inputs"] = json.loads(document["inputs"])
            line = json.dumps(document).encode() + b"\n"
            digest.update(line)
            size += len(line)
    return time.perf_counter() - start, size


@contextlib.contextmanager
def growth(process: psutil.Process) -> Iterator[list[float]]:
    """Append to the list by how many MiB the process grew at most."""
    before = peak = process.memory_info().rss
    done = threading.Event()
    seconds_taken: list[float] = []

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seconds_taken
    finally:
        done.set()
        thread.join()
        seconds_taken.append((peak - before) / 2**20)


def ask(port: int, method: str, path: str, body: bytes | None = None) -> float:
    """Return the seconds to the end of a response."""
    start = time.perf_counter()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=600)) as connection:
        connection.request(method, path, body)
        answer = connection.getresponse()
        while answer.read(2**18):
            pass
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status}")
    return time.perf_counter() - start


def corrections(port: int, done: threading.Event, first: int) -> list[float]:
    """Send corrections one after the other until it is done, and return their sorted latencies in seconds."""
    seconds_taken = []
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        while not done.is_set() or not seconds_taken:
            correction = {"model": "m", "prediction": 1, "label": 2, "user": f"{first + len(seconds_taken)}"}
            start = time.perf_counter()
            connection.request("POST", "/v1/feedback", json.dumps(correction))
            connection.getresponse().read()
            seconds_taken.append(time.perf_counter() - start)
            time.sleep(0.01)
    return sorted(seconds_taken)


def beside(port: int, call: Callable[[], float]) -> tuple[float, list[float], list[float]]:
    """Return the seconds of a call, and those of corrections before it and during it."""
    done = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        alone = pool.submit(corrections, port, done, 0)
        time.sleep(3)
        done.set()
        before = alone.result()
        done.clear()
        meanwhile = pool.submit(corrections, port, done, 10_000)
        seconds = call()
        done.set()
        return seconds, before, meanwhile.result()


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.db"
        (Path(folder) / "exporter.yml").write_text(f"store: {{url: 'sqlite:///{path}'}}\nmodels: [{{name: m}}]\n")
        port = free_port()
        command = [sys.executable, "-m", "exporter.cli", "serve", f"--config.file={folder}/exporter.yml"]
        with serving([*command, f"--web.listen-address=127.0.0.1:{port}"], port) as child:
            fill(path)
            process = psutil.Process(child.pid)
            floor(path)
            paths = {"release": "/v1/dataset/releases", "GET of the release": "/v1/dataset/releases/r"}
            paths |= {f"export as {name}": f"/v1/dataset?model=m&format={name}" for name in FORMATS}
            for what, address in paths.items():
                bare, size = floor(path)
                with growth(process) as grown:
                    if what == "release":
                        order = b'{"model": "m", "name": "r"}'
                        seconds, before, meanwhile = beside(port, partial(ask, port, "POST", address, order))
                        for name, share in (("median", 0.5), ("99%", 0.99)):
                            alone, late = (1e3 * each[int(share * len(each))] for each in (before, meanwhile))
                            report(f"feedback beside it, {name}", late, "ms", "alone", alone)
                    else:
                        seconds = ask(port, "GET", address)
                report(f"{what}, {EXAMPLES:,} examples", seconds, "s", "bare query to JSON lines", bare)
                report(f"{what}, memory", grown[0], "MiB", "MiB of JSON lines", size / 2**20)


if __name__ == "__main__":
    main()
