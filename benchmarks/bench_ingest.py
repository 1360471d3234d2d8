"""Measure events a second through POST /v1/predictions: decoded, counted, windowed and stored.

The floor is a server with the same parser and loop that only reads a request and responds. One thread sends, either
sixteen requests at a time on eight connections or one at a time on 64. Latency is measured on a separate connection
while another one keeps the server busy.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
import urllib.request

from timing import exporter, free_port, report, serving

SECONDS = 5.0
LOAD = 5000.0
"""Requests a second that keep the server busy while latency is measured."""
FLOOR = """
import asyncio, httptools, uvloop

class Server(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.parser, self.answers = transport, httptools.HttpRequestParser(self), []

    def data_received(self, data):
        self.parser.feed_data(data)
        self.transport.write(b"".join(self.answers))
        self.answers.clear()

    def on_message_complete(self):
        self.answers.append(b"HTTP/1.1 202 Accepted\\r\\ncontent-type: application/json\\r\\n"
                            b"content-length: 28\\r\\n\\r\\n" b'{"accepted":1,"rejected":[]}')

async def main():
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", PORT)
    await server.serve_forever()

uvloop.run(main())
"""


def request(port: int, body: bytes) -> bytes:
    """Return a POST request as bytes."""
    head = f"POST /v1/predictions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def throughput(port: int, body: bytes, events: int, connections: int, depth: int) -> tuple[float, float]:
    """Return the events acknowledged a second, and the share of refused requests."""
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
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
    """Return the sorted latencies in seconds of single requests while another connection sends ``rate`` a second."""
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
    seconds = []
    with socket.create_connection(("127.0.0.1", port)) as client:
        for _ in range(3000):
            begun = time.perf_counter()
            client.sendall(request(port, body))
            client.recv(65536)
            seconds.append(time.perf_counter() - begun)
            time.sleep(0.0005)
    stop.set()
    thread.join()
    return sorted(seconds)


def main() -> None:
    """Print the figures."""
    inputs = {f"f{number}": number / 10 for number in range(10)}
    event = {"id": "r-17", "model": "m", "version": "3", "inputs": inputs, "prediction": "7"}
    one = json.dumps({**event, "confidence": 0.93, "duration_seconds": 0.012, "code": 200}).encode()
    thousand = b"[" + b",".join([one] * 1000) + b"]"
    many, single, batches = (8, 16), (64, 1), (8, 1)
    port = free_port()
    with serving([sys.executable, "-c", FLOOR.replace("PORT", str(port))], port):
        floor_many, _ = throughput(port, one, 1, *many)
        floor_single, _ = throughput(port, one, 1, *single)
        floor_batches, _ = throughput(port, thousand, 1000, *batches)
        floor_latency = latencies(port, one, LOAD)
    for what, how, floor in (("16 at a time", many, floor_many), ("64 connections", single, floor_single)):
        with exporter(10) as (port, _):
            rate, refused = throughput(port, one, 1, *how)
            report(f"one event a request, {what} ({refused:.1%} refused)", rate, "events/s", "the floor", floor)
    with exporter(10) as (port, _):
        seconds = latencies(port, one, LOAD)
        middle, p99 = len(seconds) // 2, round(0.99 * len(seconds))
        for name, place in (("p50", middle), ("p99", p99)):
            ratio = 1e3 * floor_latency[place]
            report(f"latency {name} beside {LOAD:,.0f} a second", 1e3 * seconds[place], "ms", "the floor", ratio)
    with exporter(10) as (port, _):
        rate, refused = throughput(port, thousand, 1000, *batches)
        report(f"1,000 events a request ({refused:.1%} refused)", rate, "events/s", "the floor", floor_batches)
        text = urllib.request.urlopen(
            f"http://127.0.0.1:{port}/metrics?name[]=model_exporter_events_dropped_total"
        ).read()
        print(f"{'events accepted and not stored':52} {float(re.findall(rb' ([0-9.e+]+)', text)[-1]):12,.0f}")


if __name__ == "__main__":
    main()
