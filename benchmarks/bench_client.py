"""Measure what recording costs the thread that answers requests, against appending the same values to a deque.

The exporter is unreachable and the buffer is full, so each event displaces another. Figures are processor time, also
compared with observing 30 numbers with prometheus_client. Then the elapsed time of a call of `record` while batches are
encoded and sent, and what recording adds to a request of a FastAPI service behind uvicorn whose handler does nothing
else: to the thread that answers, and to all threads of the service, which also encode and send.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import http.server
import logging
import multiprocessing
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Histogram
from timing import free_port, report

from exporter import Monitor

EVENTS = 500
NUMBERS = {f"feature_{number}": random.random() for number in range(30)}


def microseconds(call: Callable[[], object], runs: int = 60) -> float:
    """Return the median processor time of a call, in microseconds."""
    times = []
    for _ in range(runs):
        start = time.thread_time()
        for _ in range(EVENTS):
            call()
        times.append((time.thread_time() - start) / EVENTS * 1e6)
    return statistics.median(times)


def main() -> None:
    """Print the figures."""
    logging.getLogger("exporter.client").setLevel(logging.ERROR)
    texts = NUMBERS | {f"feature_{number}": "NL" for number in range(5)}
    pixels = {"image": [[float(column) for column in range(8)] for _ in range(8)]}
    events: deque[object] = deque(maxlen=EVENTS)
    baseline = microseconds(
        lambda: events.append(("r-17", time.time_ns(), NUMBERS.copy(), "7", 0.93, 0.012, 200)),
    )
    peer = Histogram(
        "seen", "", ["feature"], registry=CollectorRegistry(), buckets=[number / 20 for number in range(20)]
    )
    children = [(peer.labels(name), value) for name, value in NUMBERS.items()]
    report(
        "prometheus_client, 30 numbers",
        microseconds(lambda: [c.observe(v) for c, v in children]),
        "µs",
        "floor",
        baseline,
    )
    nobody = f"http://127.0.0.1:{free_port()}"
    monitor = Monitor(nobody, "m", "3", capacity=EVENTS, interval=3600, batch_size=10**6)

    def record(inputs: dict[str, object]) -> Callable[[], object]:
        return lambda: monitor.record(inputs=inputs, prediction="7", confidence=0.93, duration_seconds=0.012, code=200)

    for what, inputs in (
        ("30 numbers", NUMBERS),
        ("25 numbers and 5 texts", texts),
        ("64 pixels as nested lists", pixels),
        ("224 x 224 x 3 pixels of numpy", {"image": np.zeros((224, 224, 3), np.uint8)}),
    ):
        report(f"record, {what}", microseconds(record(inputs)), "µs", "floor", baseline)
    monitor.close(0)
    with taker() as url:
        stalls(url)
        requests(url)


class _Taker(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(202)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def taker() -> Iterator[str]:
    """Take batches in a process of its own, as the exporter does; yield its URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Taker)
    process = multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True)
    process.start()
    yield f"http://127.0.0.1:{server.server_port}"
    process.terminate()


def stalls(url: str) -> None:
    """Measure recording while batches are encoded and sent, against a thread that does not record."""
    monitor = Monitor(url, "m", "3", interval=0.05)
    percentiles = []
    for recording in (False, True):
        waits = []
        until = time.perf_counter() + 5
        while (begun := time.perf_counter()) < until:
            if recording:
                monitor.record(inputs=NUMBERS, prediction="7", confidence=0.93)
            waits.append(time.perf_counter() - begun)
            time.sleep(0.0005)
        waits.sort()
        percentiles.append((waits[round(0.999 * len(waits)) - 1] * 1e3, waits[-1] * 1e3))
    report("record while others are sent, p99.9", percentiles[1][0], "ms", "not recording", percentiles[0][0])
    report("record while others are sent, longest", percentiles[1][1], "ms", "not recording", percentiles[0][1])
    monitor.close()


KINDS = {"alone": (False, False), "record": (True, False), "record, middleware": (True, True)}
"""Whether the handler records, and whether the middleware is around it."""
REQUESTS, ROUNDS = 3000, 5


def service(url: str, records: bool, wraps: bool) -> FastAPI:
    """Return a service with a trivial handler."""
    app, monitor = FastAPI(), Monitor(url, "m", "3")

    @app.post("/predict")
    async def predict() -> dict[str, str]:
        if records:
            monitor.record(inputs={"age": 41.0, "income": 2500.0, "debts": 2.0, "years": 7.0}, prediction="yes")
        return {"label": "yes"}

    if wraps:
        app.add_middleware(monitor.asgi)
    return app


def serve(url: str, port: int, records: bool, wraps: bool) -> None:
    """Serve it."""
    uvicorn.run(service(url, records, wraps), port=port, log_level="error", access_log=False, timeout_keep_alive=600)


def requests(url: str) -> None:
    """Measure the requests of each kind, on the thread and in the whole process."""
    nobody = f"http://127.0.0.1:{free_port()}"
    thread = {kind: asyncio.run(thread_time(service(nobody, *how))) for kind, how in KINDS.items()}
    process = process_times(url)
    for kind in KINDS:
        report(f"FastAPI, {kind}: the thread", thread[kind], "µs", "alone", thread["alone"])
        report(f"FastAPI, {kind}: the process", process[kind], "µs", "alone", process["alone"])


async def thread_time(app: Any) -> float:
    """Return the processor time of a request on the thread that answers it, in microseconds."""
    scope = {"type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict", "query_string": b""}
    scope |= {"headers": [(b"host", b"x"), (b"content-length", b"0")], "http_version": "1.1", "root_path": ""}

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: Any) -> None:
        pass

    times = []
    for _ in range(ROUNDS):
        begun = time.thread_time()
        for _ in range(REQUESTS):
            await app({**scope, "state": {}}, receive, send)
        times.append((time.thread_time() - begun) / REQUESTS * 1e6)
    return statistics.median(times)


def process_times(url: str) -> dict[str, float]:
    """Return the processor time of all threads for a request of each kind, in microseconds; the kinds take turns."""
    context, times, connections = multiprocessing.get_context("spawn"), {}, {}
    for kind, how in KINDS.items():
        port = free_port()
        child = context.Process(target=serve, args=(url, port, *how), daemon=True)
        child.start()
        connections[kind] = psutil.Process(child.pid), http.client.HTTPConnection("127.0.0.1", port)
        times[kind] = list[float]()
    time.sleep(8)
    for number in range(ROUNDS + 1):
        for kind, (child, connection) in connections.items():
            before = sum(child.cpu_times()[:2])
            for _ in range(REQUESTS):
                connection.request("POST", "/predict")
                connection.getresponse().read()
            time.sleep(1.5)  # until what was recorded is sent
            if number:
                times[kind].append((sum(child.cpu_times()[:2]) - before) / REQUESTS * 1e6)
    return {kind: statistics.median(found) for kind, found in times.items()}


if __name__ == "__main__":
    main()
