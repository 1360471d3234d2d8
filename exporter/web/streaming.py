"""Bodies too large to join: passed on as they are made, no faster than the client reads.

What is handed to the server's own stream waits in memory without a bound. It reads files piece by
piece, though, as the client takes them, and a named pipe is a file: the kernel holds up whoever
writes, and tells when nobody reads any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from flask import Response, request

log = logging.getLogger(__name__)

STREAMED = "exporter.streamed"
"""The key of the WSGI environment that marks an answer to be streamed."""
STREAMS = 8
"""Bodies streamed at a time."""
OPEN_SECONDS = 10.0
"""Time for the server to begin with a body."""
CHUNK = 256 * 1024
"""Bytes that are read at a time of a body on disk."""
SEND_SECONDS = 30.0
"""How long a client may take nothing of a body."""

Step = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a call in a thread."""


class Streamed(NamedTuple):
    """An answer whose body is made while it is sent: ``first`` is its beginning, ``rest`` what follows."""

    status: int
    headers: list[tuple[str, str]]
    first: bytes
    rest: Iterator[bytes]
    close: Callable[[], None]


def streamed(chunks: Iterator[bytes], content_type: str, headers: dict[str, str]) -> Response:
    """Flask's answer with a body that is not joined; its chunks are made in threads, outside the request."""
    request.environ[STREAMED] = True
    return Response(chunks, 200, headers, content_type=content_type)


def whole(status: int, headers: list[tuple[str, str]], chunks: Any) -> Streamed:
    """An answer whose body is on disk before it is sent, and which so has a length.

    Its client's connection cannot be cut, see `_cut`: the length tells a body that broke off from a whole one.
    """
    file = tempfile.TemporaryFile(prefix="model-exporter-")  # noqa: SIM115 (closed with the answer)
    try:
        with contextlib.closing(chunks):
            size = sum(map(file.write, chunks))
        file.seek(0)
    except BaseException:
        file.close()
        raise
    read = iter(functools.partial(file.read, CHUNK), b"")
    return Streamed(status, [*headers, ("content-length", str(size))], b"", read, file.close)


async def pour(scope: Any, protocol: Any, answer: Streamed, step: Step) -> None:
    """Send an answer; should that fail half-way, the connection is cut, so that nobody takes it for whole."""
    try:
        with tempfile.TemporaryDirectory(prefix="model-exporter-") as folder:
            pipe = Path(folder) / "body"
            os.mkfifo(pipe, 0o600)
            protocol.response_file(answer.status, answer.headers, str(pipe))
            writing = await _opened(pipe)
        try:
            await _write_all(writing, answer, step)
        except BrokenPipeError:
            log.info("%s: the client went away", scope.path)
        except BaseException:
            _cut(scope)  # before the pipe's end, which the client would take for the body's
            raise
        finally:
            os.close(writing)
    except TimeoutError:
        log.warning("%s: the client took nothing for %g s", scope.path, SEND_SECONDS)
    except Exception:
        log.exception("%s: the answer broke off", scope.path)
        protocol.response_bytes(500, [], b"")  # to nobody, where the answer had begun
    finally:
        with contextlib.suppress(RuntimeError, ValueError):  # the threads have ended, or still make a chunk
            await step(answer.close)


async def _opened(pipe: Path) -> int:
    """The writing end, once the server reads."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + OPEN_SECONDS
    while loop.time() < deadline:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:  # else nobody reads yet
                raise
        await asyncio.sleep(0.002)
    both = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)  # a reader that came at the very last must not wait forever
    pipe.unlink()
    os.close(both)
    raise TimeoutError


async def _write_all(writing: int, answer: Streamed, step: Step) -> None:
    chunk: bytes | None = answer.first
    while chunk is not None:
        left = memoryview(chunk)
        while left:
            try:
                left = left[os.write(writing, left) :]
            except BlockingIOError:
                await _writable(writing)
        chunk = await step(lambda: next(answer.rest, None))


async def _writable(writing: int) -> None:
    loop = asyncio.get_running_loop()
    room = loop.create_future()

    def ready() -> None:
        if not room.done():
            room.set_result(None)

    loop.add_writer(writing, ready)
    try:
        async with asyncio.timeout(SEND_SECONDS):
            await room
    finally:
        loop.remove_writer(writing)


def _cut(scope: Any) -> None:
    """Cut a client's connection; the server has no call for that. One at a Unix socket has no name to find it by."""
    if not scope.client:
        return
    host, _, port = scope.client.rpartition(":")
    own = int(scope.server.rpartition(":")[2])
    for one in psutil.Process().net_connections("tcp"):
        if one.fd < 0 or not one.raddr or (one.laddr.port, one.raddr.port) != (own, int(port)):
            continue
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(one.fd)) as twin:
            peer = twin.getpeername()  # the number may be another connection's by now
            if (peer[0], peer[1]) == (host.strip("[]"), int(port)):
                twin.shutdown(socket.SHUT_RDWR)
