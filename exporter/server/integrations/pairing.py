"""Requests that wait for their responses, and the reverse, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from exporter.server.integrations.cloudevents import LoggedMessage

MAX_WAITING = 20_000
"""Halves that wait."""
MAX_WAITING_BYTES = 64 * 2**20
"""Bytes of their bodies."""
MAX_SECONDS = 300.0
"""Time that a half waits."""
_OVERHEAD = 500  # bytes of a half beside its body
_OTHER = {"request": "response", "response": "request"}


class RequestResponsePairer(Collector):
    """Pairs halves by their key, whichever comes first; safe between threads.

    Parameters
    ----------
    clock
        Monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: OrderedDict[tuple[str, tuple[str, ...]], tuple[float, LoggedMessage]] = OrderedDict()
        self._bytes = 0
        self._unpaired = dict.fromkeys(_OTHER, 0)
        self._lock = threading.Lock()

    def take(self, half: LoggedMessage) -> LoggedMessage | None:
        """The other half, which waits no longer; None where it is this one that waits now."""
        with self._lock:
            self._expire()
            if other := self._remove((_OTHER[half.side], half.key)):
                return other
            self._remove((half.side, half.key))  # sent again
            self._waiting[half.side, half.key] = (self._clock() + MAX_SECONDS, half)
            self._bytes += _size(half)
            while len(self._waiting) > MAX_WAITING or self._bytes > MAX_WAITING_BYTES:
                self._lose()
            return None

    def _remove(self, place: tuple[str, tuple[str, ...]]) -> LoggedMessage | None:
        if (found := self._waiting.pop(place, None)) is None:
            return None
        self._bytes -= _size(found[1])
        return found[1]

    def _lose(self) -> None:
        place = next(iter(self._waiting))
        self._remove(place)
        self._unpaired[place[0]] += 1

    def _expire(self) -> None:
        now = self._clock()
        while self._waiting and next(iter(self._waiting.values()))[0] <= now:
            self._lose()

    def collect(self) -> Iterator[Metric]:
        """The metrics: how many wait, and how many waited in vain."""
        with self._lock:
            self._expire()
            unpaired, waiting = dict(self._unpaired), len(self._waiting)
        counter = CounterMetricFamily(
            "model_exporter_unpaired", "Logged requests and responses whose other half never came.", labels=["side"]
        )
        for side, count in unpaired.items():
            counter.add_metric([side], count)
        yield counter
        yield GaugeMetricFamily(
            "model_exporter_pairs_waiting", "Logged requests and responses that wait for their other half.", waiting
        )


def _size(half: LoggedMessage) -> int:
    return len(half.body) + sum(map(len, half.key)) + _OVERHEAD
