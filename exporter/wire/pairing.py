"""Match logged requests with their responses, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from exporter.wire.cloudevents import LoggedMessage

MAX_WAITING = 20_000
"""Messages that wait for their counterpart."""
MAX_WAITING_BYTES = 64 * 2**20
"""Bytes of their bodies."""
MAX_SECONDS = 300.0
"""Seconds that a message waits."""
_OVERHEAD = 500  # bytes of a waiting message beside its body
_OTHER_SIDE = {"request": "response", "response": "request"}
_Key = tuple[str, tuple[str, ...]]


class RequestResponsePairer(Collector):
    """Pairs requests and responses by their key, in whichever order they arrive; thread-safe.

    Parameters
    ----------
    clock
        Monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: OrderedDict[_Key, tuple[float, LoggedMessage]] = OrderedDict()
        self._bytes = 0
        self._unpaired = dict.fromkeys(_OTHER_SIDE, 0)
        self._lock = threading.Lock()

    def pair(self, message: LoggedMessage) -> LoggedMessage | None:
        """Remove and return the counterpart of a message; without one the message waits, and None is returned."""
        with self._lock:
            self._expire()
            if counterpart := self._remove((_OTHER_SIDE[message.side], message.key)):
                return counterpart
            self._remove((message.side, message.key))  # sent again
            self._waiting[message.side, message.key] = (self._clock() + MAX_SECONDS, message)
            self._bytes += _size(message)
            while len(self._waiting) > MAX_WAITING or self._bytes > MAX_WAITING_BYTES:
                self._drop_oldest()
            return None

    def _remove(self, key: _Key) -> LoggedMessage | None:
        if (entry := self._waiting.pop(key, None)) is None:
            return None
        self._bytes -= _size(entry[1])
        return entry[1]

    def _drop_oldest(self) -> None:
        key = next(iter(self._waiting))
        self._remove(key)
        self._unpaired[key[0]] += 1

    def _expire(self) -> None:
        now = self._clock()
        while self._waiting and next(iter(self._waiting.values()))[0] <= now:
            self._drop_oldest()

    def collect(self) -> Iterator[Metric]:
        """Yield how many messages wait, and how many were dropped without a counterpart."""
        with self._lock:
            self._expire()
            unpaired, waiting = dict(self._unpaired), len(self._waiting)
        counter = CounterMetricFamily(
            "model_exporter_unpaired",
            "Logged requests and responses whose counterpart did not arrive.",
            labels=["side"],
        )
        for side, count in unpaired.items():
            counter.add_metric([side], count)
        yield counter
        yield GaugeMetricFamily(
            "model_exporter_pairs_waiting", "Logged requests and responses that wait for their counterpart.", waiting
        )


def _size(message: LoggedMessage) -> int:
    return len(message.body) + sum(map(len, message.key)) + _OVERHEAD
