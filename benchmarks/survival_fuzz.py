"""Send a number of hostile inputs to a real exporter and to the readers of its files.

``python benchmarks/survival_fuzz.py 1000000`` counts faults: responses with 5xx (except a 503 with ``Retry-After``),
requests without a response, inputs that take longer than `SECONDS`, tracebacks in the log, and files that raise
anything other than a message. ``--seed`` sets the first seed; each fault prints its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import psutil

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from fuzzed_files import Files
from hostile import Request, broken, request
from support.servers import Served, write_config

SECONDS = 10.0
"""Seconds after which an input counts as hanging."""
FILES = 0.2
"""Share of files among the inputs."""
RARE = {
    ("/-/reload", "post"), ("/-/reload", "put"), ("/", "get"), ("/drift", "get"), ("/metrics", "get"),
    ("/v1/dataset/releases", "post"), ("/openapi.json", "get"),
}  # fmt: skip
"""Operations that are slow or find little, and therefore run a tenth as often."""
SHOWN = 5
"""Faults of each kind to print."""


class Connection:
    """A persistent connection that reopens when the exporter closes it."""

    def __init__(self, port: int, timeout: float = SECONDS) -> None:
        self._port, self._timeout = port, timeout
        self._socket: socket.socket | None = None

    def ask(self, data: bytes, head: bool) -> tuple[int, bytes, bytes]:
        """Return the status, the head and the body; status 0 if the connection ended without a response."""
        kept = self._socket is not None
        found = self._once(data, head)
        # The exporter may have closed a persistent connection in the meantime.
        return found if found[0] or not kept else self._once(data, head)

    def _once(self, data: bytes, head: bool) -> tuple[int, bytes, bytes]:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), self._timeout)
        try:
            self._socket.sendall(data)
            received = self._until(b"", b"\r\n\r\n")
            while received.startswith(b"HTTP/1.1 100 "):
                received = self._until(received.partition(b"\r\n\r\n")[2], b"\r\n\r\n")
            top, _, body = received.partition(b"\r\n\r\n")
            status, lower = int(top[9:12] or 0), top.lower()
            if not head and status not in {204, 304}:
                if b"transfer-encoding: chunked" in lower:
                    body = self._until(body, b"0\r\n\r\n", ends=True)
                elif b"content-length: " in lower:
                    size = int(lower.partition(b"content-length: ")[2].split(b"\r\n")[0])
                    while len(body) < size and (more := self._socket.recv(65536)):
                        body += more
            if b"connection: close" in lower:
                self.close()
        except (ConnectionError, ValueError):
            self.close()
            return 0, b"", b""
        except TimeoutError:
            self.close()
            raise
        return status, top, body

    def _until(self, received: bytes, mark: bytes, ends: bool = False) -> bytes:
        while not (received.endswith(mark) if ends else mark in received):
            more = self._socket.recv(65536) if self._socket else b""
            if not more:
                raise ConnectionError
            received += more
        return received

    def close(self) -> None:
        """Close the connection."""
        if self._socket:
            self._socket.close()
        self._socket = None


def spelt(rng: Random, one: Request) -> tuple[bytes, bool]:
    """Return the bytes of a request, and whether they are certainly valid HTTP."""
    target = bytes(byte for byte in one.target if byte > 32 and byte != 127)
    names = {name.lower() for name, _ in one.headers}
    headers = [*one.headers]
    if b"host" not in names:
        headers.append((b"Host", b"127.0.0.1"))
    headers.append((b"Content-Length", str(len(one.body)).encode()))
    lines = [one.method.encode() + b" " + target + b" HTTP/1.1", *(name + b": " + value for name, value in headers)]
    data = b"\r\n".join(lines) + b"\r\n\r\n" + one.body
    if rng.random() < 0.01:
        head, _, rest = data.partition(b"\r\n\r\n")
        return broken(rng, head) + b"\r\n\r\n" + rest, False
    return data, True


class Faults:
    """Faults by kind; thread-safe."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, kind: str, seed: int, what: str) -> None:
        """Count a fault, and print it unless many of its kind were printed."""
        with self._lock:
            self.counts[kind] += 1
            if self.counts[kind] <= SHOWN:
                print(f"FAULT {kind}, seed {seed}: {what}", flush=True)

    def answered(self, what: str) -> None:
        """Count a response."""
        with self._lock:
            self.seen[what] += 1


def operations(document: Any) -> list[tuple[str, str]]:
    """Return the paths and methods of an OpenAPI document, each repeated by its frequency."""
    found = [(path, method) for path, methods in document["paths"].items() for method in methods]
    return [one for one in found for _ in range(1 if one in RARE else 10)]


def ask_one(connection: Connection, seed: int, document: Any, routes: list[tuple[str, str]], faults: Faults) -> None:
    """Send the request of a seed."""
    rng = Random(seed)
    one = request(rng, document, routes)
    data, good = spelt(rng, one)
    if not good:
        connection.close()
    try:
        status, head, body = connection.ask(data, one.method == "HEAD")
    except TimeoutError:
        if good:  # bytes that are not HTTP may be half a request, for which the exporter waits
            faults.add("hang", seed, f"{one.route}: {data[:300]!r}")
        return
    if not good:
        connection.close()  # the exporter would read the rest as another request
    faults.answered(f"{status // 100}xx" if status else "connection ended")
    if status >= 500 and not (status == 503 and b"retry-after:" in head.lower()) and not _reload(one, body):
        faults.add(f"status {status}", seed, f"{one.route}: {data[:300]!r} {body[:200]!r}")
    elif not status and good:
        faults.add("no answer", seed, f"{one.route}: {data[:300]!r}")


def _reload(one: Request, body: bytes) -> bool:
    """Return whether a response is the documented 500 of a reload."""
    return one.target.startswith(b"/-/reload") and b"the configuration before stays" in body


def ask(port: int, seeds: range, document: Any, faults: Faults, threads: int = 4) -> None:
    """Send the requests of the seeds on several connections at a time."""
    routes = operations(document)

    def some(own: range) -> None:
        connection = Connection(port)
        for seed in own:
            ask_one(connection, seed, document, routes, faults)
        connection.close()

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(some, seeds[n::threads]) for n in range(threads)]:
            done.result()


def read(folder: Path, seeds: range, faults: Faults) -> None:
    """Read the files of the seeds."""
    logging.disable(logging.CRITICAL)
    files = Files(folder)
    for seed in seeds:
        kind, content = files.one(Random(seed))
        try:
            taken, seconds = files.read(kind, content)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            faults.add(f"{kind} file", seed, f"{error!r:.200} in {place.filename}:{place.lineno}")
            continue
        faults.answered(f"{kind} file {'taken' if taken else 'refused'}")
        if seconds > SECONDS:
            faults.add("hang", seed, f"{kind} file: {seconds:.1f} s")


def _read_apart(folder: Path, seeds: range, results: Any) -> None:
    faults = Faults()
    read(folder, seeds, faults)
    results.put((faults.counts, faults.seen))


def main() -> None:
    """Print the numbers of requests and responses, and the faults."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("inputs", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long, whatever is left")
    options = parser.parse_args()
    faults = Faults()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_config(folder)
        for_files = folder / "files"
        for_files.mkdir()
        (for_files / "credit.json").write_bytes((folder / "credit.json").read_bytes())
        server = Served(folder).start()
        process = psutil.Process(server.process.pid)
        document = json.loads(server.get("/openapi.json").body)
        results: Any = multiprocessing.Queue()
        started = time.monotonic()
        sent = files = 0
        memory = []
        try:
            while sent + files < options.inputs and time.monotonic() - started < 60 * options.minutes:
                step = min(20_000, options.inputs - sent - files)
                ours = int(step * FILES)
                first = options.seed + sent + files
                reading = multiprocessing.Process(
                    target=_read_apart, args=(for_files, range(first, first + ours), results)
                )
                reading.start()
                ask(server.port, range(first + ours, first + step), document, faults)
                counts, seen = results.get()
                reading.join()
                faults.counts.update(counts)
                faults.seen.update(seen)
                sent, files = sent + step - ours, files + ours
                memory.append(process.memory_info().rss >> 20)
                rate = (sent + files) / (time.monotonic() - started)
                print(f"{sent + files:,} inputs, {rate:,.0f} a second, {memory[-1]} MiB", flush=True)
                if server.process.poll() is not None:
                    faults.add("the exporter ended", first, server.log.read_text()[-2000:])
                    break
        finally:
            ended = server.stop()
        log = server.log.read_text(errors="replace")
    tracebacks = log.count("Traceback (most recent call last)")
    if tracebacks:
        faults.counts["traceback in the log"] += tracebacks
        print(*[line[:3000] for line in log.splitlines() if "Traceback" in line][:5], sep="\n")
    if ended:
        faults.counts["exit status"] += 1
    print(
        f"{sent:,} requests and {files:,} files in {(time.monotonic() - started) / 60:.1f} minutes; memory {memory} MiB"
    )
    for what, times in sorted(faults.seen.items()):
        print(f"{times:>10,}  {what}")
    print("faults:", dict(faults.counts) or "none")
    sys.exit(bool(faults.counts))


if __name__ == "__main__":
    main()
