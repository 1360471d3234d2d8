"""Remember responses by their ``Idempotency-Key``, in bounded memory, so that a repeated POST counts once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from exporter.errors import EventError
from exporter.server.client_log import ClientLog
from exporter.server.problem import Reply, event_problem

MAX_KEYS = 10_000
"""Keys that are remembered; new ones replace the oldest."""
MAX_BYTES = 16 * 2**20
"""Bytes of the bodies that are remembered."""
MAX_KEY_LENGTH = 255


class IdempotencyCache:
    """Successful responses by route and key; thread-safe.

    Parameters
    ----------
    clients
        Counts the requests that are refused for their key.
    """

    def __init__(self, clients: ClientLog) -> None:
        self._clients = clients
        self._replies: OrderedDict[tuple[str, str], Reply] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._route_locks: dict[str, threading.Lock] = {}

    def once(self, route: str, key: str | None, call: Callable[[], Reply]) -> Reply:
        """Return what ``call`` returns; for a key that was used before, return its response instead.

        A retry that arrives while the first request is being processed waits for its response.
        """
        if key is None:
            return call()
        with self._route_locks.setdefault(route, threading.Lock()):
            return self.get(route, key) or self.remember(route, key, call())

    def get(self, route: str, key: str) -> Reply | None:
        """Return the response of the key, or a problem if the key is not valid; None for a new key."""
        try:
            check_key(key)
        except EventError as error:
            self._clients.reject(error)
            return event_problem(error)
        with self._lock:
            return self._replies.get((route, key))

    def remember(self, route: str, key: str, reply: Reply) -> Reply:
        """Remember a response if it is successful, and return it: a request that was refused may be repeated."""
        if reply.status >= 400:
            return reply
        with self._lock:
            self._bytes += len(reply.body)
            if replaced := self._replies.pop((route, key), None):
                self._bytes -= len(replaced.body)
            self._replies[route, key] = reply
            while len(self._replies) > MAX_KEYS or self._bytes > MAX_BYTES:
                self._bytes -= len(self._replies.popitem(last=False)[1].body)
        return reply


def check_key(key: str) -> None:
    """Check an idempotency key.

    Raises
    ------
    EventError
        When it is empty or too long.
    """
    if not 0 < len(key) <= MAX_KEY_LENGTH:
        detail = f"the Idempotency-Key header must have 1 to {MAX_KEY_LENGTH} characters, got {len(key)}"
        raise EventError("", detail, "too_long" if key else "malformed")
