"""A response that must arrive within a time, however slowly its bytes come."""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import Any


class TimedResponse(http.client.HTTPResponse):
    """A response all of which must arrive within the timeout of its socket.

    The socket's timeout itself begins anew with each byte: a server that sends one now and then would hold a thread
    for ever.
    """

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        if (timeout := sock.gettimeout()) is not None:
            self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock, timeout))


class _TimedReader(io.RawIOBase):
    """Reads from a socket until its timeout, counted from now, has passed."""

    def __init__(self, stream: io.RawIOBase, sock: socket.socket, timeout: float) -> None:
        self._stream = stream
        self._socket = sock
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left)
        try:
            return self._stream.readinto(buffer)
        finally:
            self._socket.settimeout(self._timeout)  # that of the next request

    def close(self) -> None:
        self._stream.close()
        super().close()
