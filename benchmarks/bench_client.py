"""Measure what recording costs the thread that answers requests, against appending the same values to a deque.

The exporter is unreachable and the buffer is full, so each event displaces another. Figures are processor time, also
compared with observing 30 numbers with prometheus_client. The last figures are the elapsed time of a call of `record`
while batches are encoded and sent.
"""

from __future__ import annotations

import http.server
import logging
import multiprocessing
import random
import statistics
import time
from collections import deque
from collections.abc import Callable

import numpy as np
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
    stalls()


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


def stalls() -> None:
    """Measure recording while batches are encoded and sent, against a thread that does not record."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Taker)
    exporter = multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True)
    exporter.start()
    monitor = Monitor(f"http://127.0.0.1:{server.server_port}", "m", "3", interval=0.05)
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
    exporter.terminate()


if __name__ == "__main__":
    main()
