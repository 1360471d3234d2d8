"""Events a second through POST /v1/predictions: decoded, counted, windowed and stored.

The floor is the same server with an application that only reads the body and answers. One thread
sends pipelined requests over eight connections; latency is measured on a connection of its own
while another one keeps the server half busy.
"""

from __future__ import annotations

import json
import re
import socket
import statistics
import sys
import threading
import time
import urllib.request

from timing import exporter, free_port, report, serving

CONNECTIONS = 8
DEPTH = 16
SECONDS = 5.0
FLOOR = """
import asyncio, uvloop
from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server

async def app(scope, protocol):
    await protocol()
    protocol.response_bytes(202, [("content-type", "application/json")], b'{"accepted":1,"rejected":[]}')

async def main():
    await Server(app, port=PORT, interface=Interfaces.RSGI, http=HTTPModes.http1, websockets=False,
                 backpressure=4096, log_enabled=False).serve()

uvloop.run(main())
"""


def request(port: int, body: bytes) -> bytes:
    """A POST as bytes."""
    head = f"POST /v1/predictions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def throughput(port: int, body: bytes, events: int, depth: int) -> tuple[float, float]:
    """Events acknowledged a second, and the share of requests that were refused."""
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
    several = request(port, body) * depth
    good = bad = 0
    start = time.perf_counter()
    for client in clients:
        client.sendall(several)
    while (passed := time.perf_counter() - start) < SECONDS:
        for client in clients:
            answered = 0
            while answered < depth:
                data = client.recv(262144)
                good += data.count(b"HTTP/1.1 202")
                bad += data.count(b"HTTP/1.1 503")
                answered += data.count(b"HTTP/1.1 ")
            client.sendall(several)
    for client in clients:
        client.close()
    return good * events / passed, bad / max(good + bad, 1)


def latencies(port: int, body: bytes, rate: float) -> list[float]:
    """Sorted seconds of single requests while another connection sends ``rate`` a second."""
    stop = threading.Event()

    def background() -> None:
        with socket.create_connection(("127.0.0.1", port)) as client:
            several = request(port, body) * 20
            while not stop.is_set():
                begun = time.perf_counter()
                client.sendall(several)
                answered = 0
                while answered < 20:
                    answered += client.recv(65536).count(b"HTTP/1.1 ")
                time.sleep(max(20 / rate - (time.perf_counter() - begun), 0))

    thread = threading.Thread(target=background)
    thread.start()
    found = []
    with socket.create_connection(("127.0.0.1", port)) as client:
        for _ in range(3000):
            begun = time.perf_counter()
            client.sendall(request(port, body))
            client.recv(65536)
            found.append(time.perf_counter() - begun)
            time.sleep(0.0005)
    stop.set()
    thread.join()
    return sorted(found)


def main() -> None:
    """Print the figures."""
    inputs = {f"f{number}": number / 10 for number in range(10)}
    event = {"id": "r-17", "model": "m", "version": "3", "inputs": inputs, "prediction": "7"}
    one = json.dumps({**event, "confidence": 0.93, "duration_seconds": 0.012, "code": 200}).encode()
    thousand = b"[" + b",".join([one] * 1000) + b"]"
    port = free_port()
    with serving([sys.executable, "-c", FLOOR.replace("PORT", str(port))], port):
        floor_one, _ = throughput(port, one, 1, DEPTH)
        floor_many, _ = throughput(port, thousand, 1000, 1)
        floor_latency = latencies(port, one, floor_one / 4)
    with exporter(10) as (port, _):
        rate, refused = throughput(port, one, 1, DEPTH)
        report(f"one event a request ({refused:.1%} refused)", rate, "events/s", "the server alone", floor_one)
    with exporter(10) as (port, _):
        found = latencies(port, one, floor_one / 4)
        p99 = round(0.99 * len(found))
        report(
            "latency p50 at a quarter of the floor's load",
            1e3 * statistics.median(found),
            "ms",
            "the server alone",
            1e3 * statistics.median(floor_latency),
        )
        report("latency p99", 1e3 * found[p99], "ms", "the server alone", 1e3 * floor_latency[p99])
    with exporter(10) as (port, _):
        rate, refused = throughput(port, thousand, 1000, 1)
        report(f"1,000 events a request ({refused:.1%} refused)", rate, "events/s", "the server alone", floor_many)
        text = urllib.request.urlopen(
            f"http://127.0.0.1:{port}/metrics?name[]=model_exporter_events_dropped_total"
        ).read()
        print(f"{'events accepted and not stored':52} {float(re.findall(rb' ([0-9.e+]+)', text)[-1]):12,.0f}")


if __name__ == "__main__":
    main()
