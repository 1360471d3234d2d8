"""Count the events that are refused or look wrong, and name their clients in the log, at a bounded rate."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from contextvars import ContextVar

from exporter.errors import EventError
from exporter.metrics.exporter import ExporterMetrics
from exporter.validation import preview
from exporter.wire.events import RejectedEvent

log = logging.getLogger(__name__)

MAX_CLIENTS = 1000
"""Clients that are remembered; new ones replace those that were not heard of for the longest time."""
CLIENT_SECONDS = 60.0
"""Time between two log lines about rejected events of the same client."""
MAX_LINES = 60
"""Log lines about clients within `CLIENT_SECONDS`, of all clients together."""
_MAX_DETAIL = 300
_client: ContextVar[tuple[str, str | None]] = ContextVar("client", default=("", None))


def set_client(address: str, name: str | None = None) -> None:
    """Set who sends the request of this task: the address, empty on a Unix socket, and the name of a user or token."""
    _client.set((address, name))


def _current_client() -> str:
    address, name = _client.get()
    host = address or "a Unix socket"
    return host if name is None else f"{preview(name)} at {host}"


class ClientLog:
    """The log of what clients did wrong; thread-safe.

    Parameters
    ----------
    telemetry
        Counts what is rejected or looks wrong, whether it is logged or not.
    """

    def __init__(self, telemetry: ExporterMetrics) -> None:
        self._telemetry = telemetry
        self._lock = threading.Lock()
        self._pending: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._warned: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._period = 0.0
        self._lines = 0

    def reject(self, error: EventError) -> None:
        """Count and log a request that was rejected as a whole."""
        self.reject_events([RejectedEvent(0, error.pointer, error.detail, error.reason)])

    def reject_events(self, rejected: Sequence[RejectedEvent]) -> None:
        """Count rejected events by their reason, and log the first."""
        if not rejected:
            return
        for reason, count in Counter(event.reason for event in rejected).items():
            self._telemetry.rejected.labels(reason).inc(count)
        client, first = _current_client(), rejected[0]
        total = self._admit(client, len(rejected))
        if total:
            counted = "1 event" if total == 1 else f"{total} events"
            where = f" at {preview(first.pointer, 100)}" if first.pointer else ""
            detail = _without_values(first.detail)
            log.warning("refused %s of client %s: %s%s: %s", counted, client, first.reason, where, detail)

    def warn(self, reason: str, detail: str) -> None:
        """Count an event that is accepted, but looks wrong; log it once for each client."""
        self._telemetry.warnings.labels(reason).inc()
        client = _current_client()
        with self._lock:
            key = (client, reason)
            is_known = key in self._warned
            if not is_known and not self._take_line():
                return
            self._warned[key] = None
            self._warned.move_to_end(key)
            if len(self._warned) > MAX_CLIENTS:
                self._warned.popitem(last=False)
        if not is_known:
            log.warning("client %s: %s (logged once for each client)", client, detail)

    def _admit(self, client: str, count: int) -> int:
        """Return how many events of a client its next log line is about; 0 if none is due."""
        now = time.monotonic()
        with self._lock:
            due, pending = self._pending.pop(client, (now, 0))
            pending += count
            written = now >= due and self._take_line()
            self._pending[client] = (now + CLIENT_SECONDS, 0) if written else (due, pending)
            if len(self._pending) > MAX_CLIENTS:
                self._pending.popitem(last=False)
        return pending if written else 0

    def _take_line(self) -> bool:
        """Return whether a line may be written within the limit of all clients."""
        now = time.monotonic()
        if now - self._period >= CLIENT_SECONDS:
            self._period, self._lines = now, 0
        self._lines += 1
        return self._lines <= MAX_LINES


def _without_values(detail: str) -> str:
    """Return the detail of an error without the value that the client sent, which may be personal data."""
    detail = detail.partition(", got ")[0]
    return detail if len(detail) <= _MAX_DETAIL else detail[: _MAX_DETAIL - 1] + "…"
