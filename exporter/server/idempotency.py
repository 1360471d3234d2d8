"""Remember responses by their ``Idempotency-Key``, in bounded memory, so that a repeated POST counts once.

A key that comes with another request than before is a client's mistake and gets a 422, as in the IETF's draft of the
header (draft-ietf-httpapi-idempotency-key-header): else the client would take what was not read for accepted.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable

from exporter.errors import EventError
from exporter.server.client_log import ClientLog
from exporter.server.problem import Reply, event_problem, problem

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
        self._replies: OrderedDict[tuple[str, str], tuple[bytes, Reply]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._route_locks: dict[str, threading.Lock] = {}

    def once(self, route: str, key: str | None, call: Callable[[], Reply], *content: bytes) -> Reply:
        """Return what ``call`` returns; for a key that was used before, return its response instead.

        A retry that arrives while the first request is being processed waits for its response.

        Parameters
        ----------
        route
            What the key is for.
        key
            The ``Idempotency-Key`` header.
        call
            Processes the request.
        content
            The request: its body, and what else it is told by.
        """
        if key is None:
            return call()
        digest = content_digest(*content)
        with self._route_locks.setdefault(route, threading.Lock()):
            return self.get(route, key, digest) or self.remember(route, key, digest, call())

    def get(self, route: str, key: str, digest: bytes) -> Reply | None:
        """Return the response of the key, or a problem if the key is not valid; None for a new key.

        Parameters
        ----------
        route, key
            See `once`.
        digest
            `content_digest` of the request; another one than that of the key's first request is a problem.
        """
        try:
            check_key(key)
        except EventError as error:
            self._clients.reject(error)
            return event_problem(error)
        with self._lock:
            first, reply = self._replies.get((route, key), (digest, None))
        return reply if first == digest else reused_key()

    def remember(self, route: str, key: str, digest: bytes, reply: Reply) -> Reply:
        """Remember a response if it is successful, and return it: a request that was refused may be repeated."""
        if reply.status >= 400:
            return reply
        with self._lock:
            self._bytes += len(reply.body)
            if replaced := self._replies.pop((route, key), None):
                self._bytes -= len(replaced[1].body)
            self._replies[route, key] = digest, reply
            while len(self._replies) > MAX_KEYS or self._bytes > MAX_BYTES:
                self._bytes -= len(self._replies.popitem(last=False)[1][1].body)
        return reply


def content_digest(*content: bytes) -> bytes:
    """Return a digest by which a repeated request is told from another one."""
    digest = hashlib.sha256()
    for part in content:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()


def reused_key() -> Reply:
    """Return the problem for a key that was used before with another request."""
    return problem(422, "this Idempotency-Key was already used with another request: use a new key")


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
