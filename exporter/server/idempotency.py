"""A POST that comes again with its ``Idempotency-Key`` counts once: the answers of before, in bounded memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from exporter.errors import EventError
from exporter.metrics.exporter import ExporterMetrics
from exporter.server.problem import Reply, event_problem

MAX_KEYS = 10_000
"""Keys remembered, the oldest forgotten first."""
MAX_KEPT_BYTES = 16 * 2**20
"""Bytes of answers remembered by their keys."""
MAX_KEY_LENGTH = 255


class IdempotencyCache:
    """Good answers by route and key; safe between threads.

    Parameters
    ----------
    telemetry
        Counts requests that are refused for their key.
    """

    def __init__(self, telemetry: ExporterMetrics) -> None:
        self._telemetry = telemetry
        self._replies: OrderedDict[tuple[str, str], Reply] = OrderedDict()
        self._kept = 0
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}

    def once(self, route: str, key: str | None, call: Callable[[], Reply]) -> Reply:
        """What the call answers; with a key that came before, what it answered then.

        A retry that comes while the first request is worked on waits for its answer.
        """
        if key is None:
            return call()
        with self._turns.setdefault(route, threading.Lock()):
            return self.known(route, key) or self.remember(route, key, call())

    def known(self, route: str, key: str) -> Reply | None:
        """The answer of before, or why the key is none; None for a new one."""
        try:
            check_key(key)
        except EventError as error:
            self._telemetry.rejected.labels(error.reason).inc()
            return event_problem(error)
        with self._lock:
            return self._replies.get((route, key))

    def remember(self, route: str, key: str, reply: Reply) -> Reply:
        """Keep an answer, if it is a good one: what was refused may come again."""
        if reply.status >= 400:
            return reply
        with self._lock:
            self._kept += len(reply.body)
            if before := self._replies.pop((route, key), None):
                self._kept -= len(before.body)
            self._replies[route, key] = reply
            while len(self._replies) > MAX_KEYS or self._kept > MAX_KEPT_BYTES:
                self._kept -= len(self._replies.popitem(last=False)[1].body)
        return reply


def check_key(key: str) -> None:
    """Refuse what cannot be a key.

    Raises
    ------
    EventError
        When it is empty or too long.
    """
    if not 0 < len(key) <= MAX_KEY_LENGTH:
        detail = f"the Idempotency-Key header must have 1 to {MAX_KEY_LENGTH} characters, got {len(key)}"
        raise EventError("", detail, "too_long" if key else "malformed")
