"""Counts of pairs of versions over the time in which both served, so that they can be compared fairly."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from exporter.config.types import DURATION_BUCKETS
from exporter.monitoring.binner import Binner
from exporter.monitoring.counters import TOTALS
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import OTHER_VERSION, MonitorRegistry, version_sort_key
from exporter.monitoring.shared_time import GAP_SECONDS, STEP_SECONDS, SharedTime
from exporter.stats.divergence import Floats

MAX_SERVING = 5
"""Versions of a model that are counted in pairs: those that appeared last, of those that serve."""
MAX_PAIRS = MAX_SERVING * (MAX_SERVING - 1) // 2
"""Pairs of a model that are kept."""
_ATTEMPTS = TOTALS.index("attempts")


@dataclass
class Side:
    """A version of a pair.

    Attributes
    ----------
    appeared
        Unix time at which the version appeared.
    binner
        Counts the inputs in the bins of the training profile; None without one.
    counts
        What the version counted in the shared time; see `ModelMonitor.totals`.
    """

    version: str
    appeared: float
    binner: Binner | None
    counts: Floats
    _monitor: Callable[[], ModelMonitor | None] = field(default=lambda: None, repr=False)
    _base: Floats | None = None

    def watch(self, monitor: ModelMonitor) -> bool:
        """Follow a monitor from now on; return whether its counts can be added to the earlier ones."""
        if self._monitor() is not monitor:
            if bins_of(monitor.binner) != bins_of(self.binner):
                return False
            self._monitor, self._base = weakref.ref(monitor), None  # the counters of a new monitor began at 0
        return True

    def since(self) -> Floats:
        """Return what was counted since the last call of `advance`."""
        monitor = self._monitor()
        if monitor is None:
            return np.zeros(len(self.counts))
        return monitor.totals() - (0.0 if self._base is None else self._base)

    def advance(self, *, counted: bool) -> None:
        """Count from this moment on; what was counted since the last call is added if it is ``counted``."""
        monitor = self._monitor()
        if monitor is None:
            return
        totals = monitor.totals()
        if counted:
            self.counts += totals if self._base is None else totals - self._base
        self._base = totals


@dataclass
class Pair:
    """Two versions of a model, the older one first, and the time in which both served.

    Attributes
    ----------
    start, end
        Unix times of the first and the last moment at which both served; equal before there is a second one.
    seconds
        Seconds in which both served.
    """

    before: Side
    after: Side
    start: float = 0.0
    end: float = 0.0
    seconds: float = 0.0
    time: SharedTime = field(default_factory=SharedTime)
    _marked: float = 0.0

    @property
    def key(self) -> tuple[str, str]:
        """The versions."""
        return self.before.version, self.after.version

    def add(self, served: set[str], now: float, unix_time: float) -> None:
        """Add a step that ends at the monotonic time ``now``, given the versions with requests in it."""
        step = self.time.add(self.before.version in served, self.after.version in served)
        if step == "waits":
            return
        extends = step == "extends"
        self.before.advance(counted=extends)
        self.after.advance(counted=extends)
        if extends:
            self.seconds += now - self._marked
            self.end = max(unix_time, self.end)
        elif not self.start:
            self.start = self.end = unix_time
        self._marked = now


class SharedTotals(NamedTuple):
    """The counts of two versions over their shared time: copies, which do not change."""

    before: tuple[str, Binner | None, Floats]
    after: tuple[str, Binner | None, Floats]
    start: float
    end: float
    seconds: float


class SharedCounts:
    """The pairs of all models; safe between threads.

    Memory is `MAX_PAIRS` for each model times four arrays of the model's bins, and none for a model of which only one
    version serves.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[str, _Model] = {}
        self._due = 0.0

    def add_step(self, monitors: MonitorRegistry, now: float, unix_time: float) -> None:
        """End a step at the monotonic time ``now``, unless the last one ended less than `STEP_SECONDS` before."""
        if now < self._due:
            return
        with self._lock:
            self._due = now + STEP_SECONDS
            self._models = {name: self._models.get(name) or _Model() for name in monitors.models}
            for name, model in self._models.items():
                model.add_step(monitors.of_model(name), now, unix_time)

    def versions(self, model: str) -> list[str]:
        """Return the versions of a model in the order in which they appeared."""
        with self._lock:
            return self._models[model].versions() if model in self._models else []

    def read(self, encode: Callable[[Pair], bytes]) -> dict[tuple[str, str, str], bytes]:
        """Return each pair with counts as bytes, by its model and versions."""
        with self._lock:
            return {
                (name, *key): encode(pair)
                for name, model in self._models.items()
                for key, pair in model.pairs.items()
                if pair.seconds
            }

    def totals(self, model: str, before: str, after: str) -> SharedTotals | None:
        """Return the counts of two versions, in either order; None if they never served at the same time.

        Feedback that arrived since both served for the last time counts, as long as neither has served since.
        """
        with self._lock:
            pairs = self._models[model].pairs if model in self._models else {}
            pair = pairs.get((before, after)) or pairs.get((after, before))
            if pair is None or not pair.seconds:
                return None
            pending = [side.since() for side in _sides(pair)]
            if any(counts[_ATTEMPTS] for counts in pending):  # of a step that has not ended, or of one version alone
                pending = [np.zeros(len(counts)) for counts in pending]
            sides = {
                side.version: (side.version, side.binner, side.counts + counts)
                for side, counts in zip(_sides(pair), pending, strict=True)
            }
            return SharedTotals(sides[before], sides[after], pair.start, pair.end, pair.seconds)

    def put(self, model: str, pair: Pair) -> None:
        """Add a pair that an older process counted."""
        with self._lock:
            pairs = self._models.setdefault(model, _Model()).pairs
            if len(pairs) < MAX_PAIRS:
                pairs[pair.key] = pair


class _Model:
    """The pairs of a model, and what is known of its versions."""

    def __init__(self) -> None:
        self.pairs: dict[tuple[str, str], Pair] = {}
        self._attempts: dict[str, int] = {}
        self._served_at: dict[str, float] = {}
        self._appeared: dict[str, float] = {}

    def _of_pairs(self) -> dict[str, float]:
        return {side.version: side.appeared for pair in self.pairs.values() for side in _sides(pair)}

    def versions(self) -> list[str]:
        appeared = self._of_pairs() | self._appeared
        return sorted(appeared, key=lambda version: (appeared[version], version_sort_key(version)))

    def add_step(self, monitors: dict[str, ModelMonitor], now: float, unix_time: float) -> None:
        known, served = self._of_pairs(), set()
        for version, monitor in monitors.items():
            attempts = monitor.counters.attempts
            if version != OTHER_VERSION and attempts and attempts != self._attempts.get(version):
                served.add(version)
                self._attempts[version], self._served_at[version] = attempts, now
                self._appeared.setdefault(version, known.get(version, unix_time))
        for version in self._appeared.keys() - monitors.keys() - known.keys():
            del self._appeared[version], self._attempts[version], self._served_at[version]
        self._watch(monitors)
        for pair in self.pairs.values():
            pair.add(served, now, unix_time)
        if served:
            self._begin_pairs(monitors, now, unix_time)

    def _watch(self, monitors: dict[str, ModelMonitor]) -> None:
        """Forget the pairs of which a version has another profile now."""
        for key, pair in list(self.pairs.items()):
            sides = [side for side in _sides(pair) if side.version in monitors]
            if not all(side.watch(monitors[side.version]) for side in sides):
                del self.pairs[key]

    def _begin_pairs(self, monitors: dict[str, ModelMonitor], now: float, unix_time: float) -> None:
        serving = [v for v in self.versions() if now - self._served_at.get(v, -np.inf) <= GAP_SECONDS and v in monitors]
        if len(serving) < 2:
            return
        pairs = itertools.combinations(serving[-MAX_SERVING:], 2)
        # A pair of an older process may have the versions in another order: it goes on.
        wanted = {key[::-1] if key[::-1] in self.pairs else key for key in pairs}
        for before, after in sorted(wanted - self.pairs.keys(), key=lambda key: serving.index(key[1])):
            if len(self.pairs) >= MAX_PAIRS:
                unwanted = self.pairs.keys() - wanted
                del self.pairs[min(unwanted, key=lambda key: self.pairs[key].end)]
            pair = Pair(self._side(monitors[before]), self._side(monitors[after]))
            pair.add({before, after}, now, unix_time)
            self.pairs[before, after] = pair

    def _side(self, monitor: ModelMonitor) -> Side:
        side = Side(
            monitor.version, self._appeared[monitor.version], monitor.binner, np.zeros(totals_size(monitor.binner))
        )
        side.watch(monitor)
        return side


def _sides(pair: Pair) -> tuple[Side, Side]:
    return pair.before, pair.after


def totals_size(binner: Binner | None) -> int:
    """Return the length of `ModelMonitor.totals`."""
    return len(TOTALS) + len(DURATION_BUCKETS) + 1 + (binner.bins if binner else 0)


def bins_of(binner: Binner | None) -> str:
    """Return what decides the meaning of the counts by bin; empty without a profile."""
    return f"{binner.profile.known_hash()} {binner.bins}" if binner else ""
