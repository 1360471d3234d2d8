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
        self._pipe, child_pipe = multiprocessing.Pipe()
        self._process = multiprocessing.Process(target=_run, args=(child_pipe, port, connections), daemon=True)
        self._process.start()

    def offer(self, body: bytes, rate: float) -> None:
        """Start to send a body at this rate per second."""
        self._pipe.send((body, rate))

    def stop(self) -> Sent:
        """Wait for the outstanding responses, and return the results of everything sent."""
        self._pipe.send(None)
        sent: Sent = self._pipe.recv()
        self._process.join()
        return sent


def capacity(port: int, events: int, seconds: float = 20.0) -> float:
    """Measure the predictions a second that the exporter can accept without end, in requests of this size."""
    load = Load(port, 8)
    load.offer(batch("1", events), 1e5)
    time.sleep(seconds)
    taken = load.stop().statuses[202] * events
    return max(taken - WAITING, 1000) / seconds


class _Connection:
    """A connection, and the request on it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.busy = False
        self.sent_at = 0.0
        self._unsent = memoryview(b"")
        self.open()

    def open(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self._port), STALE_SECONDS)
        self.socket.setblocking(False)
        self._received = b""

    @property
    def sending(self) -> bool:
        """Whether a part of the request is not sent yet."""
        return len(self._unsent) > 0

    def send(self, request: bytes) -> None:
        self.busy, self.sent_at, self._unsent = True, time.monotonic(), memoryview(request)
        self.send_rest()

    def send_rest(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]

    def receive(self) -> bytes | None:
        """Return the head of the response once it is complete."""
        with contextlib.suppress(BlockingIOError):
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError
            self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]):
            return None
        self.busy, self._received = False, b""
        return head


def _run(control: Connection, port: int, connections: int) -> None:
    """Send the load that arrives on the pipe until ``None`` arrives, and return the results on it."""
    with selectors.DefaultSelector() as selector:
        control.send(_Sender(control, selector, port, connections).run())


class _Sender:
    """The event loop of a load.

    Parameters
    ----------
    control
        Pipe with pairs of a body and a rate, and ``None`` at the end.
    selector
        Selector for the pipe and the connections.
    port, connections
        Port of the exporter, and number of connections.
    """

    def __init__(self, control: Connection, selector: selectors.BaseSelector, port: int, connections: int) -> None:
        self._control, self._selector = control, selector
        self._statuses: Counter[int] = Counter()
        self._seconds: dict[int, Any] = {}
        self._without_retry_after = 0
        self._request, self._rate = b"", 0.0
        self._start, self._begun = time.monotonic(), 0
        self._stopping = False
        self._connections = [_Connection(port) for _ in range(connections)]
        self._free = list(self._connections)
        selector.register(control, selectors.EVENT_READ)
        for connection in self._connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)

    def run(self) -> Sent:
        """Send requests until the order to stop arrives and no request waits for its response."""
        while not (self._stopping and len(self._free) >= self._open_connections()):
            pause = self._send_due()
            for key, events in self._selector.select(pause):
                if key.data is None:
                    self._read_order()
                else:
                    self._handle(key.data, events)
            if self._stopping:
                self._fail_stale()
        return Sent(self._statuses, self._seconds, self._without_retry_after)

    def _open_connections(self) -> int:
        return sum(connection.socket.fileno() >= 0 for connection in self._connections)

    def _send_due(self) -> float:
        """Send the requests that are due, and return the seconds to wait for events."""
        due = int((time.monotonic() - self._start) * self._rate) - self._begun
        if due > self._rate:  # a second late: skip what is overdue
            self._begun += due
            due = 0
        while due > 0 and self._free and not self._stopping:
            self._begun += 1
            due -= 1
            self._send(self._free.pop())
        if due > 0 and self._free:
            return 0.0
        return 0.001 if self._rate else 0.05

    def _send(self, connection: _Connection) -> None:
        try:
            connection.send(self._request)
        except OSError:
            self._fail(connection)
            return
        if connection.sending:
            self._selector.modify(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)

    def _read_order(self) -> None:
        order = self._control.recv()
        if order is None:
            self._stopping = True
            return
        body, self._rate = order
        self._start, self._begun = time.monotonic(), 0
        head = f"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body

    def _handle(self, connection: _Connection, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                connection.send_rest()
                if not connection.sending:
                    self._selector.modify(connection.socket, selectors.EVENT_READ, connection)
            head = connection.receive() if events & selectors.EVENT_READ else None
        except OSError:
            self._fail(connection)
            return
        if head:
            self._count(connection, head)

    def _count(self, connection: _Connection, head: bytes) -> None:
        status = int(head[9:12])
        self._statuses[status] += 1
        self._seconds.setdefault(status, array("f")).append(time.monotonic() - connection.sent_at)
        self._without_retry_after += status == 503 and b"retry-after: " not in head.lower()
        if connection.sending:  # answered early: the server would read the rest as another request
            self._fail(connection)
        self._free.append(connection)

    def _fail_stale(self) -> None:
        for connection in self._connections:
            if connection.busy and time.monotonic() > connection.sent_at + STALE_SECONDS:
                self._fail(connection)

    def _fail(self, connection: _Connection) -> None:
        """Count the request of a connection as not answered, and open the connection again."""
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self._statuses[0] += connection.busy
        if connection.busy:
            self._free.append(connection)
        connection.busy = False
        with contextlib.suppress(OSError):
            connection.open()
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
            return
        self._free.remove(connection)  # the server no longer listens
