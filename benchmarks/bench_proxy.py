"""Measure what the proxy adds to a request, against a bare TCP relay (the floor) and nginx if it is installed.

All are measured in turn, in rounds: one connection for latency, sixteen for throughput. The model server responds at
once, or after five milliseconds like a real model. The exporter runs and accepts what is recorded. Processor time is
that of the measured process per request, which is more reliable than elapsed time on a shared machine. Figures are
medians of the rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import httptools
import uvloop
from timing import exporter, free_port

FEATURES = 30
ROUNDS, REQUESTS = 7, 1500
_ROW = [
    {"name": f"f{index}", "shape": [1], "datatype": "FP32", "data": [index / FEATURES]} for index in range(FEATURES)
]
_BODY = json.dumps({"inputs": _ROW}).encode()
_ANSWER = json.dumps(
    {"model_name": "m", "outputs": [{"name": "predict", "shape": [1], "datatype": "FP32", "data": [0.5]}]}
).encode()


class Model(asyncio.Protocol):
    """A model server with a fixed response, after a pause in milliseconds that the path may set."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._pause = float(url.rpartition(b"?")[2] or 0) if b"?" in url else 0.0

    def on_message_complete(self) -> None:
        if self._pause:
            asyncio.get_running_loop().call_later(self._pause / 1000, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_ANSWER)
        self._transport.write(head + _ANSWER)


class Relay(asyncio.Protocol):
    """Forwards bytes from one connection to another as they arrive."""

    def __init__(self, port: int, other: asyncio.Transport | None = None) -> None:
        self._port, self._other = port, other
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._other is None:
            self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        def back() -> Relay:
            return Relay(0, self._transport)

        self._other, _ = await asyncio.get_running_loop().create_connection(back, "127.0.0.1", self._port)
        self._other.writelines(self._early)

    def data_received(self, data: bytes) -> None:
        if self._other is None:
            self._early.append(data)
        else:
            self._other.write(data)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._other is not None:
            self._other.close()


async def _listen(factory: Callable[[], asyncio.Protocol], port: int) -> None:
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", port)
    await server.serve_forever()


class Client(asyncio.Protocol):
    """Sends a number of requests, each after the previous response is complete."""

    def __init__(self, path: str, count: int) -> None:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: m\r\nContent-Type: application/json\r\nContent-Length: {len(_BODY)}\r\n\r\n"
        )
        self._request = head.encode() + _BODY
        self._left = count
        self.times: list[float] = []
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        self._send()

    def _send(self) -> None:
        self._start = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        assert self._parser.get_status_code() == 200
        self.times.append(time.perf_counter() - self._start)
        self._left -= 1
        if self._left:
            self._send()
        else:
            self._transport.close()
            self.done.set_result(None)


async def _ask(port: int, path: str, connections: int, count: int) -> tuple[list[float], float]:
    loop = asyncio.get_running_loop()
    start = time.perf_counter()
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: Client(path, count), "127.0.0.1", port)
        clients.append(client)
    await asyncio.gather(*(client.done for client in clients))
    return [one for client in clients for one in client.times], time.perf_counter() - start


class Figures(NamedTuple):
    """Figures of one server in one round: microseconds, requests a second, processor microseconds per request."""

    p50: float
    p99: float
    rate: float
    busy: float
    p50_model: float
    p99_model: float


def busy(pid: int) -> float:
    """Return the processor seconds that a process and its children have used."""
    seconds = 0.0
    for one in [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]:
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def measure(port: int, pid: int) -> Figures:
    """Measure the server on a port."""
    path = "/v2/models/m/infer"
    uvloop.run(_ask(port, path, 1, 100))
    times, _ = uvloop.run(_ask(port, path, 1, REQUESTS))
    before = busy(pid)
    many, seconds = uvloop.run(_ask(port, path, 16, REQUESTS // 2))
    used = busy(pid) - before
    slow, _ = uvloop.run(_ask(port, path + "?5", 4, REQUESTS // 20))
    cuts, model = statistics.quantiles(times, n=100), statistics.quantiles(slow, n=100)
    micro = [part * 1e6 for part in (cuts[49], cuts[98], model[49], model[98], used / len(many))]
    return Figures(micro[0], micro[1], len(many) / seconds, micro[4], micro[2], micro[3])


@contextlib.contextmanager
def running(command: list[Any], port: int) -> Iterator[int]:
    """Run a process that listens on a port, and yield its process id."""
    child = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(400):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            time.sleep(0.05)
        yield child.pid
    finally:
        child.terminate()
        child.wait()


NGINX = """daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/log;
events {{ worker_connections 512; }}
http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
uwsgi_temp_path {folder}; scgi_temp_path {folder};
upstream model {{ server 127.0.0.1:{model}; keepalive 64; }}
server {{ listen 127.0.0.1:{port}; keepalive_requests 1000000; location / {{ proxy_pass http://model;
proxy_http_version 1.1; proxy_set_header Connection ""; proxy_request_buffering off; proxy_buffering off; }} }} }}
"""


def main() -> None:
    """Print the figures."""
    if len(sys.argv) > 1:
        kind, port, to = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
        uvloop.run(_listen(Model if kind == "model" else lambda: Relay(to), port))
        return
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        exporter_port, _ = stack.enter_context(exporter(FEATURES))
        ports = {name: free_port() for name in ("direct", "relay", "proxy", "nginx", "web")}
        command_prefix = [sys.executable, __file__]
        pids = {"direct": stack.enter_context(running([*command_prefix, "model", ports["direct"], 0], ports["direct"]))}
        pids["relay"] = stack.enter_context(
            running([*command_prefix, "relay", ports["relay"], ports["direct"]], ports["relay"])
        )
        command = [sys.executable, "-m", "exporter.cli", "proxy", f"--exporter=http://127.0.0.1:{exporter_port}"]
        command += [f"--upstream=http://127.0.0.1:{ports['direct']}", f"--listen-address=127.0.0.1:{ports['proxy']}"]
        command += [f"--web.listen-address=127.0.0.1:{ports['web']}"]
        pids["proxy"] = stack.enter_context(running(command, ports["web"]))
        if nginx := shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin"):
            conf = Path(folder) / "nginx.conf"
            conf.write_text(NGINX.format(folder=folder, port=ports["nginx"], model=ports["direct"]))
            pids["nginx"] = stack.enter_context(running([nginx, "-c", conf, "-p", folder], ports["nginx"]))
        rounds: dict[str, list[Figures]] = {name: [] for name in pids}
        for _ in range(ROUNDS):
            for name, pid in pids.items():
                rounds[name].append(measure(ports[name], pid))
        medians = {
            name: Figures(*map(statistics.median, zip(*figures, strict=True))) for name, figures in rounds.items()
        }
        show(medians)
        with urllib.request.urlopen(f"http://127.0.0.1:{ports['web']}/metrics") as answer:
            lines = [line for line in answer.read().decode().splitlines() if line.startswith("model_proxy_records")]
        print("; ".join(lines))


def show(medians: dict[str, Figures]) -> None:
    """Print the table, and what each adds to a direct request to the model server."""
    print(f"{'µs':8} {'p50':>8} {'p99':>8} {'of a 5 ms model':>8} {'p99':>8} {'requests/s':>12} {'processor':>10}")
    for name, found in medians.items():
        print(
            f"{name:8} {found.p50:8.0f} {found.p99:8.0f} {found.p50_model:15.0f} {found.p99_model:8.0f}"
            f" {found.rate:12.0f} {found.busy:10.1f}"
        )
    direct = medians["direct"]
    for name, found in list(medians.items())[1:]:
        added = [f"{mine - its:.0f}" for mine, its in zip(found, direct, strict=True)]
        print(f"{name} adds {added[0]} µs (p99 {added[1]}); to a 5 ms model {added[4]} µs (p99 {added[5]})")


if __name__ == "__main__":
    main()
