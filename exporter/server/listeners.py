"""Create the TCP and Unix sockets on which the server listens."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from exporter.errors import StackError

BACKLOG = 4096
"""Connections that may wait to be accepted."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening TCP socket.

    Raises
    ------
    StackError
        When it cannot listen on the address.
    """
    bound = None
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
    except OSError as error:
        if bound is not None:
            bound.close()
        hint = "; stop what listens there ('make down' if 'make up' started it), or choose another address"
        taken = hint if error.errno == errno.EADDRINUSE else ""
        raise StackError(f"cannot listen on {host}:{port}: {error.strerror}{taken}") from None
    return bound


def listen_at(path: Path) -> socket.socket:
    """Return a listening Unix socket; replace a socket that an ended process left behind.

    Raises
    ------
    StackError
        See `_remove_stale`; also when the path is not valid for a socket.
    """
    _remove_stale(path)
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.bind(str(path))
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise StackError(f"{path}: cannot listen on it: {error.strerror or error}") from None
    return bound


def _remove_stale(path: Path) -> None:
    """Remove a socket that an ended process left behind, and nothing else.

    Raises
    ------
    StackError
        When another process listens on it, the path is not a socket, or its folder does not exist.
    """
    if not path.parent.is_dir():
        raise StackError(f"{path}: cannot listen on it: its folder does not exist")
    if path.exists() and not path.is_socket():
        raise StackError(f"{path}: cannot listen on it: it is a file, not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise StackError(f"{path}: cannot listen on it: {error.strerror or error}") from None
    raise StackError(f"{path}: cannot listen on it: another process already does")


ACCEPTED = 64
"""Connections accepted in a pass of the loop; libuv would accept one, however many wait."""
BEGUN_HANDSHAKES = 4
"""TLS handshakes begun in a pass of the loop: each signs, which takes a millisecond with an RSA key."""
HANDSHAKES = 1000
"""TLS handshakes at a time: each takes 60 KiB."""
ENDED_EVERY_SECONDS = 0.0025
"""Interval at which the oldest handshake makes room for another one when there are so many."""
HANDSHAKE_SECONDS = 10.0
"""Time in which a TLS handshake must be complete once the client has begun it."""
SILENT_SECONDS = 30.0
"""Time in which a client must begin its TLS handshake, and get its turn."""
OLDEST_EVERY = 4
"""One in so many handshakes is that of the client that has waited longest, the others those of the newest."""
CLOSE_SECONDS = 30.0
"""Time that a TLS client may take to read its last response and to confirm the end of the connection."""
_PAUSE_SECONDS = 0.1  # while there is no file descriptor for a connection
_HUNG_UP = getattr(select, "POLLRDHUP", 0)


class Acceptor:
    """Accepts the TLS connections of a listening socket.

    Of the clients that have sent a part of a TLS handshake, mostly the newest is next: those of a flood, who wait
    before it, must not delay it.

    Parameters
    ----------
    bound
        The socket.
    factory
        Returns the protocol of a connection.
    context
        The TLS context of new connections, which may be replaced.
    room
        Returns how many connections may be added to those that have a protocol.
    """

    def __init__(
        self,
        bound: socket.socket,
        factory: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext,
        room: Callable[[], int],
    ) -> None:
        self.context = context
        self._bound = bound
        self._factory = factory
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[socket.socket, float] = {}  # without a handshake, since when
        self._ready: OrderedDict[socket.socket, None] = OrderedDict()  # those of them that have sent something
        self._opening: dict[asyncio.Task[None], socket.socket] = {}
        self._begun = 0
        self._next: asyncio.Handle | None = None
        bound.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Accept nothing more, and end the handshakes under way."""
        self._loop.remove_reader(self._bound)
        if self._next:
            self._next.cancel()
        for client in list(self._waiting):
            self._drop(client)
        for task in self._opening:
            task.cancel()

    def check(self, now: float) -> None:
        """Close the connections that wait too long."""
        for client in [client for client, since in self._waiting.items() if now - since > SILENT_SECONDS]:
            self._drop(client)

    def _listen(self) -> None:
        self._loop.add_reader(self._bound, self._accept)

    def _accept(self) -> None:
        try:
            for _ in range(ACCEPTED):
                client, _address = self._bound.accept()
                self._waiting[client] = self._loop.time()
                self._loop.add_reader(client, self._arrived, client)
        except BlockingIOError:
            pass
        except OSError:
            self._loop.remove_reader(self._bound)
            self._loop.call_later(_PAUSE_SECONDS, self._listen)
        surplus = len(self._waiting) + len(self._opening) - self._room()
        for client in list(self._waiting)[: max(surplus, 0)]:
            self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        del self._waiting[client]
        self._ready.pop(client, None)
        self._loop.remove_reader(client)
        client.close()

    def _arrived(self, client: socket.socket) -> None:
        self._loop.remove_reader(client)
        self._ready[client] = None
        self._begin_soon()

    def _begin_soon(self) -> None:
        if self._ready and not self._next:
            self._next = self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._next = None
        most = self._begun + BEGUN_HANDSHAKES
        while self._ready and self._begun < most:
            if len(self._opening) >= HANDSHAKES:
                self._end_oldest()
                self._next = self._loop.call_later(ENDED_EVERY_SECONDS, self._begin)
                return
            client, _ = self._ready.popitem(last=self._begun % OLDEST_EVERY > 0)
            if _has_hung_up(client):
                self._drop(client)
            else:
                del self._waiting[client]
                self._connect(client)
                self._begun += 1
        self._begin_soon()

    def _end_oldest(self) -> None:
        """End a handshake, but leave its connection open for a while: a hostile client would connect again at once."""
        task, client = next(iter(self._opening.items()))
        del self._opening[task]
        with contextlib.suppress(OSError):  # the handshake may have failed in this pass of the loop
            self._waiting[client.dup()] = self._loop.time()
        task.cancel()

    def _connect(self, client: socket.socket) -> None:
        task = self._loop.create_task(self._open(client))
        self._opening[task] = client
        task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.pop(task, None)
        self._begin_soon()

    async def _open(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._factory,
                client,
                ssl=self.context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=CLOSE_SECONDS,
            )
        except (OSError, asyncio.CancelledError):  # that a client's handshake fails is no fault of the exporter
            client.close()


def _has_hung_up(client: socket.socket) -> bool:
    poll = select.poll()
    poll.register(client, _HUNG_UP)
    return bool(poll.poll(0))
