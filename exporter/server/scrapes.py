"""Detect whether a Prometheus scrapes this exporter: repeated scrapes by the same server."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import NamedTuple

from exporter.server.elapsed import duration

SCRAPE_SECONDS = 120.0
"""Prometheus scrapes at least once a minute; after so long without a scrape, alerts are not evaluated."""
MAX_SERVERS = 100
"""Servers that are remembered; new ones replace those that have not scraped for the longest time."""
TIMEOUT_HEADER = b"x-prometheus-scrape-timeout-seconds"
"""Prometheus, its agents and compatible servers send it with each scrape; people's clients do not."""


class Problem(NamedTuple):
    """Why alerts may not be evaluated: a short heading, and a sentence or two."""

    heading: str
    detail: str


class Scrapes:
    """Remembers scrapes; thread-safe.

    A request of ``/metrics`` by a person is no scrape, and a single scrape does not show that alerts are evaluated.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: OrderedDict[Hashable, float] = OrderedDict()
        self._last: float | None = None

    def add(self, client: str, headers: Mapping[bytes, bytes], now: float) -> None:
        """Remember a request of all metrics at the monotonic time ``now``, if it is a scrape.

        Parameters
        ----------
        client
            The address of the client.
        headers
            The request's headers, by names in lower case.
        now
            Monotonic time in seconds.
        """
        if TIMEOUT_HEADER not in headers:
            return
        server = client, headers.get(b"user-agent", b"")[:200]
        with self._lock:
            before = self._times.pop(server, None)
            self._times[server] = now
            if len(self._times) > MAX_SERVERS:
                self._times.popitem(last=False)
            if before is not None and now - before <= SCRAPE_SECONDS:
                self._last = now

    def problem(self, now: float) -> Problem | None:
        """Return why alerts on this exporter's models may not be evaluated; None while it is scraped."""
        with self._lock:
            last = self._last
        if last is None:
            return Problem(
                "Prometheus does not scrape this exporter yet",
                "Alerts on its models cannot fire until it does. This page needs two scrapes by the same server within "
                "two minutes; other requests of /metrics do not count.",
            )
        return overdue(now - last)


def overdue(age: float) -> Problem | None:
    """Return the problem that the last scrape was ``age`` seconds ago; None if that is not long."""
    if age <= SCRAPE_SECONDS:
        return None
    return Problem(
        f"Prometheus has not scraped this exporter for {duration(age)}",
        "Alerts on its models cannot fire until it does. See the targets of Prometheus.",
    )
