"""Send load at a given rate from a separate process, whatever the responses, and report them with their delays."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import selectors
import socket
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

FEATURES = 10
STALE_SECONDS = 30.0
"""Seconds after which a request counts as not answered."""

WAITING = 150_000
"""Predictions that the queue and the writer of the exporter accept before they are full."""


def batch(version: str, events: int) -> bytes:
    """Return a body with this number of predictions of the model m."""
    inputs = {f"f{number}": (number - 4.5) / 5 for number in range(FEATURES)}
    event = {"model": "m", "version": version, "inputs": inputs, "prediction": "7", "confidence": 0.9, "code": 200}
    return json.dumps([event] * events).encode()


class Sent(NamedTuple):
    """Results of a load: requests by status (0: no response), seconds until each response, and requests not sent."""

    statuses: Counter[int]
    seconds: dict[int, Sequence[float]]
    without_retry_after: int


class Load:
    """A load that continues until it is stopped.

    Parameters
    ----------
    port
        Port of the exporter.
    connections
        Requests that may wait for their responses at a time. A request that is due while all wait is sent late.
    """

    def __init__(self, port: int, connections: int) -> None:
        self._ours, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.Process(target=_run, args=(theirs, port, connections), daemon=True)
        self._process.start()

    def offer(self, body: bytes, rate: float) -> None:
        """Start to send a body at this rate per second."""
        self._ours.send((body, rate))

    def stop(self) -> Sent:
        """Wait for the outstanding responses, and return the results of everything sent."""
        self._ours.send(None)
        sent: Sent = self._ours.recv()
        self._process.join()
        return sent


def capacity(port: int, events: int, seconds: float = 20.0) -> float:
    """Measure the predictions a second that the exporter can accept without end, in requests of this size."""
    load = Load(port, 8)
    load.offer(batch("1", events), 1e5)
    time.sleep(seconds)
    taken = load.stop().statuses[202] * events
    return max(taken - WAITING, 1000) / seconds


class _Wire:
    """A connection, and the request on it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.busy = False
        self.open()

    def open(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self.port), STALE_SECONDS)
        self.socket.setblocking(False)
        self.received = b""

    def send(self, data: bytes) -> None:
        self.busy, self.begun, self.rest = True, time.monotonic(), memoryview(data)
        self.go_on()

    def go_on(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.rest:
                self.rest = self.rest[self.socket.send(self.rest) :]

    def answer(self) -> bytes | None:
        """Return the head of the response once it is complete."""
        with contextlib.suppress(BlockingIOError):
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError
            self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]):
            return None
        self.busy, self.received = False, b""
        return head


def _run(control: Connection, port: int, connections: int) -> None:
    statuses: Counter[int] = Counter()
    seconds: dict[int, Any] = {}
    without = 0
    request, rate = b"", 0.0
    start, begun = time.monotonic(), 0
    wires = [_Wire(port) for _ in range(connections)]
    free = list(wires)
    stopping = False
    with selectors.DefaultSelector() as chosen:
        chosen.register(control, selectors.EVENT_READ)
        for wire in wires:
            chosen.register(wire.socket, selectors.EVENT_READ, wire)

        def failed(wire: _Wire) -> None:
            chosen.unregister(wire.socket)
            wire.socket.close()
            statuses[0] += wire.busy
            if wire.busy:
                free.append(wire)
            wire.busy = False
            with contextlib.suppress(OSError):
                wire.open()
                chosen.register(wire.socket, selectors.EVENT_READ, wire)
                return
            free.remove(wire)  # the server no longer listens

        while not (stopping and len(free) >= sum(wire.socket.fileno() >= 0 for wire in wires)):
            now = time.monotonic()
            due = int((now - start) * rate) - begun
            if due > rate:  # a second late: skip what is overdue
                begun += due
                due = 0
            while due > 0 and free and not stopping:
                wire = free.pop()
                begun += 1
                due -= 1
                try:
                    wire.send(request)
                except OSError:
                    failed(wire)
                    continue
                if wire.rest:
                    chosen.modify(wire.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, wire)
            pause = 0.0 if due > 0 and free else 0.001 if rate else 0.05
            for key, events in chosen.select(pause):
                wire = key.data
                if wire is None:
                    order = control.recv()
                    if order is None:
                        stopping = True
                        continue
                    body, rate = order
                    start, begun = time.monotonic(), 0
                    head = f"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
                    request = head.encode() + body
                    continue
                try:
                    if events & selectors.EVENT_WRITE:
                        wire.go_on()
                        if not wire.rest:
                            chosen.modify(wire.socket, selectors.EVENT_READ, wire)
                    answer = wire.answer() if events & selectors.EVENT_READ else None
                except OSError:
                    failed(wire)
                    continue
                if answer:
                    status = int(answer[9:12])
                    statuses[status] += 1
                    seconds.setdefault(status, array("f")).append(time.monotonic() - wire.begun)
                    without += status == 503 and b"retry-after: " not in answer.lower()
                    if wire.rest:  # answered early: the server would read the rest as another request
                        failed(wire)
                    free.append(wire)
            for wire in wires:
                if stopping and wire.busy and time.monotonic() > wire.begun + STALE_SECONDS:
                    failed(wire)
    control.send(Sent(statuses, seconds, without))
