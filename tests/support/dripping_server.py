"""A server whose responses go on and on, for the tests of what waits for them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

DRIPS = [
    (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n", b"x"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
]
"""Responses that take long although none of their bytes does: how they begin, and what then comes again and again."""


@contextlib.contextmanager
def dripping_server(begin: bytes, again: bytes, times: int = 500, pause: float = 0.01) -> Iterator[str]:
    """Answer one request with some bytes, and then with others many times; yield the server's URL."""

    def answer() -> None:
        with contextlib.suppress(OSError), server.accept()[0] as connection:  # the client does not read to the end
            server.close()  # nor must it wait for another connection
            connection.recv(10_000)
            connection.sendall(begin)
            for _ in range(times):
                connection.sendall(again)
                time.sleep(pause)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
