"""Sends the responses of a connection in pieces, as fast as the client reads."""

from __future__ import annotations

import asyncio
from collections import deque

_PIECE = 64 * 1024


class ResponseWriter:
    """Send responses as fast as the client reads, and a head together with the body that follows.

    Two system calls cost more than the rest of a small response. A transport with TLS would encrypt all of a large one
    at once, and not count what the client has yet to read.

    Attributes
    ----------
    waiting : int
        Bytes that the transport does not have yet.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._paused = False
        self._head = b""
        self._pieces: deque[bytes] = deque()
        self._closing = False
        self.waiting = 0
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Send data; the head of a response waits for what follows it."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 100"):
            self._head = data
            return
        if len(data) <= _PIECE and not self._pieces:
            self._transport.write(data)
            return
        self._pieces.extend(data[start : start + _PIECE] for start in range(0, len(data), _PIECE))
        self.waiting += len(data)
        self._send()

    def pause(self) -> None:
        """Send nothing: the transport's buffer is full."""
        self._paused = True

    def resume(self) -> None:
        """Go on: the transport has sent what it had."""
        self._paused = False
        self._send()

    def _send(self) -> None:
        while self._pieces and not self._paused:
            piece = self._pieces.popleft()
            self.waiting -= len(piece)
            self._transport.write(piece)
        if self._closing and not self._pieces:
            self._transport.close()

    def flush(self) -> None:
        """Send a head that waits."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        """Close the connection once everything is sent."""
        self.flush()
        self._closing = True
        self._send()
