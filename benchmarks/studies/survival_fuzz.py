"""Send a number of hostile inputs to a real exporter and to the readers of its files.

``python benchmarks/studies/survival_fuzz.py 1000000`` counts faults: responses with 5xx (except a 503 with
``Retry-After``),
requests without a response, inputs that take longer than `SECONDS`, tracebacks in the log, memory above
``--memory``, files that raise anything other than a message, and metrics or lists that cannot be read at the end.
``--seed`` sets the first seed; each fault prints its own and the request. The seed of an input determines it, except
for a history, which depends on the responses. With ``--threads 1`` a run repeats the run before.
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
from prometheus_client.openmetrics.parser import text_string_to_metric_families

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from fuzzed_files import Files
from hostile import Request, broken
from hostile import request as random_request
from hostile_history import history
from hostile_payloads import PAYLOADS
from support.servers import Served, write_config

SECONDS = 10.0
"""Seconds after which an input counts as hanging."""
FILES = 0.2
"""Share of files among the inputs."""
HISTORIES = 0.02
"""Share of histories, of about ten requests each, among the inputs that are sent."""
RARE = {
    ("/-/reload", "post"), ("/-/reload", "put"), ("/", "get"), ("/drift", "get"), ("/metrics", "get"),
    ("/v1/dataset/releases", "post"), ("/openapi.json", "get"),
}  # fmt: skip
"""Operations that are slow or find little, and therefore run a tenth as often."""
SHOWN = 5
"""Faults of each kind to print."""
NEWLINE = r"\n"  # as the log escapes it
SHOWN_BYTES = 2000
"""Bytes of a request to print."""
READ_AT_END = (
    "/-/healthy",
    "/v1/corrections",
    "/v1/corrections?limit=1000",
    "/review",
    "/",
    "/drift",
    "/v1/dataset?model=credit",
)
"""What must be readable, whatever was stored."""


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
    body = request.body
    if body and rng.random() < 0.03:
        size = rng.choice((1, 7, 1000))
        parts = [body[start : start + size] for start in range(0, len(body), size)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        headers.append((b"Transfer-Encoding", b"chunked"))
    else:
        headers.append((b"Content-Length", str(len(body)).encode()))
    lines = [request.method.encode() + b" " + target + b" HTTP/1.1", *(name + b": " + value for name, value in headers)]
    data = b"\r\n".join(lines) + b"\r\n\r\n" + body
    if rng.random() < 0.01:
        head, _, rest = data.partition(b"\r\n\r\n")
        return broken(rng, head) + b"\r\n\r\n" + rest, False
    return data, True


class Faults:
    """Faults by kind; thread-safe."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.routes: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def add(self, kind: str, seed: int, what: str) -> None:
        """Count a fault, and print it unless many of its kind were printed."""
        with self._lock:
            self.counts[kind] += 1
            if self.counts[kind] <= SHOWN:
                print(f"FAULT {kind}, seed {seed}: {what}", flush=True)

    def answered(self, what: str, route: str = "") -> None:
        """Count a response, and that of a route."""
        with self._lock:
            self.seen[what] += 1
            self.routes[route, what] += 1


def operations(document: Any) -> list[tuple[str, str]]:
    """Return the paths and methods of an OpenAPI document, each repeated by its frequency."""
    routes = [(path, method) for path, methods in document["paths"].items() for method in methods]
    return [route for route in routes for _ in range(1 if route in RARE else 10)]


def ask_one(connection: Connection, seed: int, document: Any, routes: list[tuple[str, str]], faults: Faults) -> None:
    """Send the request of a seed, or its history."""
    rng = Random(seed)
    if rng.random() < HISTORIES:
        history(rng, lambda request: send(connection, rng, seed, request, faults))
    else:
        send(connection, rng, seed, random_request(rng, document, routes, PAYLOADS), faults)


def send(connection: Connection, rng: Random, seed: int, request: Request, faults: Faults) -> tuple[int, bytes]:
    """Send a request and return the status and the body of its response; status 0 without a response."""
    data, valid = encode(rng, request)
    if not valid:
        connection.close()
    try:
        status, head, body = connection.ask(data, request.method == "HEAD")
    except TimeoutError:
        if valid:  # bytes that are not HTTP may be half a request, for which the exporter waits
            faults.add("hang", seed, f"{request.route}: {data[:SHOWN_BYTES]!r}")
        return 0, b""
    if not valid:
        connection.close()  # the exporter would read the rest as another request
    faults.answered(f"{status // 100}xx" if status else "connection ended", request.route)
    if status >= 500 and not _documented(request, status, head, body):
        faults.add(f"status {status}", seed, f"{request.route}: {data[:SHOWN_BYTES]!r} {body[:200]!r}")
    elif not status and valid:
        faults.add("no answer", seed, f"{request.route}: {data[:SHOWN_BYTES]!r}")
    return status, body


def _documented(request: Request, status: int, head: bytes, body: bytes) -> bool:
    """Return whether the documentation has such a response with 5xx."""
    return status == 507 or (status == 503 and b"retry-after:" in head.lower()) or _reload(request, body)


def _reload(request: Request, body: bytes) -> bool:
    """Return whether a response is the documented 500 of a reload."""
    return request.target.startswith(b"/-/reload") and b"the previous configuration stays in use" in body


def ask(port: int, seeds: range, document: Any, faults: Faults, threads: int = 4) -> None:
    """Send the requests of the seeds on several connections at a time."""
    routes = operations(document)

    def send_all(thread_seeds: range) -> None:
        connection = Connection(port)
        for seed in thread_seeds:
            ask_one(connection, seed, document, routes, faults)
        connection.close()

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(send_all, seeds[n::threads]) for n in range(threads)]:
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
    threads
        Connections that send at the same time.
    """

    def __init__(self, folder: Path, faults: Faults, first_seed: int, threads: int) -> None:
        self.faults, self._first_seed, self._threads = faults, first_seed, threads
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

    def run(self, inputs: int, minutes: float, memory: int) -> None:
        """Send inputs until there are enough, the time is over, or the exporter has ended or has too much memory."""
        try:
            while self.inputs < inputs and self.minutes < minutes:
                first = self._first_seed + self.inputs
                self._step(first, min(20_000, inputs - self.inputs))
                rate = self.inputs / (60 * self.minutes)
                print(f"{self.inputs:,} inputs, {rate:,.0f} a second, {self.memory[-1]} MiB", flush=True)
                if self.server.process.poll() is not None:
                    self.faults.add("the exporter ended", first, self.server.log.read_text()[-2000:])
                    break
                if self.memory[-1] > memory:
                    self.faults.add("memory", first, f"{self.memory[-1]} MiB")
                    break
            check_end(self.server, self.faults, first)
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
        ask(self.server.port, range(first + files, first + size), self._document, self.faults, self._threads)
        counts, seen = self._results.get()
        reader.join()
        self.faults.counts.update(counts)
        self.faults.seen.update(seen)
        self.requests += size - files
        self.files += files
        self.memory.append(self._process.memory_info().rss >> 20)

    def _check_log(self) -> None:
        log = self.server.log.read_text(errors="replace")
        for entry in [line for line in log.splitlines() if "Traceback (most recent call last)" in line]:
            self.faults.add(f"traceback: {entry.rpartition(NEWLINE)[2]:.200}", self._first_seed, entry[-3000:])


def check_end(server: Served, faults: Faults, seed: int) -> None:
    """Check that metrics and lists can be read after all that was sent."""
    for path in READ_AT_END:
        answer = server.get(path)
        if answer.status != 200:
            faults.add(f"status {answer.status} at the end", seed, f"{path}: {answer.body[:500]!r}")
    scrape = server.get("/metrics", Accept="application/openmetrics-text; version=1.0.0").text
    try:
        families = [family.name for family in text_string_to_metric_families(scrape)]
    except ValueError as error:
        faults.add("metrics that cannot be read", seed, repr(error))
    else:
        for name in families:
            if not name.startswith(("model_", "process_", "python_")) or "forged" in name:
                faults.add("metric that a client named", seed, name)


def main() -> None:
    """Print the numbers of requests and responses, and the faults."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("inputs", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=4, help="connections that send at the same time")
    parser.add_argument("--memory", type=int, default=1000, help="MiB of the exporter that are a fault")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long, whatever is left")
    options = parser.parse_args()
    faults = Faults()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_config(folder)
        run = Run(folder, faults, options.seed, options.threads)
        run.run(options.inputs, options.minutes, options.memory)
    print(f"seed {options.seed}: {run.requests:,} requests and {run.files:,} files in {run.minutes:.1f} minutes")
    print(f"memory {run.memory} MiB")
    for response, times in sorted(faults.seen.items()):
        print(f"{times:>10,}  {response}")
    routes = sorted({route for route, _ in faults.routes if route})
    print("accepted and refused by route")
    for route in routes:
        accepted = sum(faults.routes[route, what] for what in ("2xx", "3xx"))
        print(f"{accepted:>10,} {faults.routes[route, '4xx']:>10,}  {route}")
    print("faults:", dict(faults.counts) or "none")
    sys.exit(bool(faults.counts))


if __name__ == "__main__":
    main()
