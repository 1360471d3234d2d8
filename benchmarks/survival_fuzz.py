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
from hostile import Request, broken
from hostile import request as random_request
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
        reused = self._socket is not None
        response = self._once(data, head)
        # The exporter may have closed a persistent connection in the meantime.
        return response if response[0] or not reused else self._once(data, head)

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


def encode(rng: Random, request: Request) -> tuple[bytes, bool]:
    """Return the bytes of a request, and whether they are certainly valid HTTP."""
    target = bytes(byte for byte in request.target if byte > 32 and byte != 127)
    names = {name.lower() for name, _ in request.headers}
    headers = [*request.headers]
    if b"host" not in names:
        headers.append((b"Host", b"127.0.0.1"))
    headers.append((b"Content-Length", str(len(request.body)).encode()))
    lines = [request.method.encode() + b" " + target + b" HTTP/1.1", *(name + b": " + value for name, value in headers)]
    data = b"\r\n".join(lines) + b"\r\n\r\n" + request.body
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
    routes = [(path, method) for path, methods in document["paths"].items() for method in methods]
    return [route for route in routes for _ in range(1 if route in RARE else 10)]


def ask_one(connection: Connection, seed: int, document: Any, routes: list[tuple[str, str]], faults: Faults) -> None:
    """Send the request of a seed."""
    rng = Random(seed)
    request = random_request(rng, document, routes)
    data, valid = encode(rng, request)
    if not valid:
        connection.close()
    try:
        status, head, body = connection.ask(data, request.method == "HEAD")
    except TimeoutError:
        if valid:  # bytes that are not HTTP may be half a request, for which the exporter waits
            faults.add("hang", seed, f"{request.route}: {data[:300]!r}")
        return
    if not valid:
        connection.close()  # the exporter would read the rest as another request
    faults.answered(f"{status // 100}xx" if status else "connection ended")
    if status >= 500 and not (status == 503 and b"retry-after:" in head.lower()) and not _reload(request, body):
        faults.add(f"status {status}", seed, f"{request.route}: {data[:300]!r} {body[:200]!r}")
    elif not status and valid:
        faults.add("no answer", seed, f"{request.route}: {data[:300]!r}")


def _reload(request: Request, body: bytes) -> bool:
    """Return whether a response is the documented 500 of a reload."""
    return request.target.startswith(b"/-/reload") and b"the configuration before stays" in body


def ask(port: int, seeds: range, document: Any, faults: Faults, threads: int = 4) -> None:
    """Send the requests of the seeds on several connections at a time."""
    routes = operations(document)

    def send(thread_seeds: range) -> None:
        connection = Connection(port)
        for seed in thread_seeds:
            ask_one(connection, seed, document, routes, faults)
        connection.close()

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(send, seeds[n::threads]) for n in range(threads)]:
            future.result()


def read(folder: Path, seeds: range, faults: Faults) -> None:
    """Read the files of the seeds."""
    logging.disable(logging.CRITICAL)
    files = Files(folder)
    for seed in seeds:
        kind, content = files.one(Random(seed))
        try:
            taken, seconds = files.read(kind, content)
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            faults.add(f"{kind} file", seed, f"{error!r:.200} in {frame.filename}:{frame.lineno}")
            continue
        faults.answered(f"{kind} file {'taken' if taken else 'refused'}")
        if seconds > SECONDS:
            faults.add("hang", seed, f"{kind} file: {seconds:.1f} s")


def _read_apart(folder: Path, seeds: range, results: Any) -> None:
    faults = Faults()
    read(folder, seeds, faults)
    results.put((faults.counts, faults.seen))


class Run:
    """A run of inputs against one exporter, in steps of requests and files.

    Parameters
    ----------
    folder
        Folder with the configuration of the exporter.
    faults
        Faults found so far.
    first_seed
        Seed of the first input.
    """

    def __init__(self, folder: Path, faults: Faults, first_seed: int) -> None:
        self.faults, self._first_seed = faults, first_seed
        self.requests = self.files = 0
        self.memory: list[int] = []
        self._files_folder = folder / "files"
        self._files_folder.mkdir()
        (self._files_folder / "credit.json").write_bytes((folder / "credit.json").read_bytes())
        self.server = Served(folder).start()
        self._process = psutil.Process(self.server.process.pid)
        self._document = json.loads(self.server.get("/openapi.json").body)
        self._results: Any = multiprocessing.Queue()
        self.started = time.monotonic()

    @property
    def inputs(self) -> int:
        """Number of requests and files so far."""
        return self.requests + self.files

    @property
    def minutes(self) -> float:
        """Minutes since the start."""
        return (time.monotonic() - self.started) / 60

    def run(self, inputs: int, minutes: float) -> None:
        """Send inputs until there are enough, the time is over or the exporter has ended."""
        try:
            while self.inputs < inputs and self.minutes < minutes:
                first = self._first_seed + self.inputs
                self._step(first, min(20_000, inputs - self.inputs))
                rate = self.inputs / (60 * self.minutes)
                print(f"{self.inputs:,} inputs, {rate:,.0f} a second, {self.memory[-1]} MiB", flush=True)
                if self.server.process.poll() is not None:
                    self.faults.add("the exporter ended", first, self.server.log.read_text()[-2000:])
                    break
        finally:
            status = self.server.stop()
        self._check_log()
        if status:
            self.faults.counts["exit status"] += 1

    def _step(self, first: int, size: int) -> None:
        """Read files in another process while requests are sent from this one."""
        files = int(size * FILES)
        reader = multiprocessing.Process(
            target=_read_apart, args=(self._files_folder, range(first, first + files), self._results)
        )
        reader.start()
        ask(self.server.port, range(first + files, first + size), self._document, self.faults)
        counts, seen = self._results.get()
        reader.join()
        self.faults.counts.update(counts)
        self.faults.seen.update(seen)
        self.requests += size - files
        self.files += files
        self.memory.append(self._process.memory_info().rss >> 20)

    def _check_log(self) -> None:
        log = self.server.log.read_text(errors="replace")
        tracebacks = log.count("Traceback (most recent call last)")
        if tracebacks:
            self.faults.counts["traceback in the log"] += tracebacks
            print(*[line[:3000] for line in log.splitlines() if "Traceback" in line][:5], sep="\n")


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
        run = Run(folder, faults, options.seed)
        run.run(options.inputs, options.minutes)
    print(f"{run.requests:,} requests and {run.files:,} files in {run.minutes:.1f} minutes; memory {run.memory} MiB")
    for response, times in sorted(faults.seen.items()):
        print(f"{times:>10,}  {response}")
    print("faults:", dict(faults.counts) or "none")
    sys.exit(bool(faults.counts))


if __name__ == "__main__":
    main()
