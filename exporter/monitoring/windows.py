"""The windows of a model version: a ring of sums for each window, and what a snapshot keeps of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from exporter.monitoring.binner import Binner
from exporter.monitoring.quality import Quality
from exporter.monitoring.ring import Ring, Ticks
from exporter.monitoring.segments import Segments
from exporter.stats.divergence import Floats


class BatchSums(NamedTuple):
    """The sums of a batch for a window: its row of sums, its minima, and the same for each segment.

    The last is the observations in each bin, shape ``(S, B)``.
    """

    row: Floats
    minima: Floats
    by_segment: Floats | None = None


RingRows = tuple[Ticks, Floats, Floats]
"""The rows of a ring, as `Ring.dump` returns them."""


class Windows:
    """The windows of a model version; the caller holds the monitor's lock. Times are monotonic, in seconds.

    Parameters
    ----------
    lengths
        Window lengths in seconds by their spelling, the shortest first.
    binner
        Counts inputs; without one the inputs have no windows.
    segments
        The segments, which have one window, the longest.
    quality
        Has windows of its own.
    """

    def __init__(
        self, lengths: Mapping[str, float], binner: Binner | None, segments: Segments | None, quality: Quality
    ) -> None:
        self._lengths = lengths
        self._quality = quality
        self._rings: dict[str, Ring] = {}
        self._segment_ring: Ring | None = None
        self._offset = 0.0  # the rings' time less the monotonic time: a restart continues the windows
        if binner:
            longest = list(lengths)[-1]
            for name, seconds in lengths.items():
                reach = 2 if name == longest else 1  # each window is compared with the longest one before it
                self._rings[name] = Ring(seconds, binner.width, 2 * len(binner.targets), reach)
            if segments:
                self._segment_ring = Ring(lengths[longest], len(segments.names) * binner.bins)

    def time(self, now: float) -> float:
        """Return the rings' time."""
        return now + self._offset

    def add(self, now: float, sums: BatchSums) -> None:
        """Add the sums of a batch."""
        for ring in self._rings.values():
            ring.add(self.time(now), sums.row, sums.minima)
        if self._segment_ring and sums.by_segment is not None:
            self._segment_ring.add(self.time(now), sums.by_segment.ravel())

    def read(self, now: float) -> dict[str, tuple[Floats, Floats, Floats]]:
        """Return the sums and minima of each window, and the sums of the longest window before it."""
        if not self._rings:
            return {}
        time, longest = self.time(now), list(self._rings.values())[-1]
        return {
            name: (ring.total(time), ring.minima(time), longest.total(time, skip=self._lengths[name]))
            for name, ring in self._rings.items()
        }

    def history(self, now: float, columns: slice) -> Floats:
        """Return some columns of the sub-windows of the longest window and the one before it; see `Ring.history`."""
        return list(self._rings.values())[-1].history(self.time(now), columns)

    def segment_counts(self, now: float) -> Floats | None:
        """Return the counts by segment in the longest window, shape ``(S · (B + H),)``; None without segments."""
        return self._segment_ring.total(self.time(now)) if self._segment_ring else None

    def rings(self) -> list[Ring]:
        """Return the rings of the inputs' windows, the shortest first, and that of the segments, if there are any."""
        return [*self._rings.values(), *([self._segment_ring] if self._segment_ring else [])]

    def dump(self, now: float) -> tuple[float, list[RingRows], list[RingRows]]:
        """Return the rings' time, copies of the rows of `rings`, and those of the windows of the quality."""
        time = self.time(now)
        return time, [ring.dump(time) for ring in self.rings()], self._quality.dump(time)

    def restore(self, now: float, time: float, rings: Sequence[RingRows], quality: Sequence[RingRows]) -> None:
        """Continue with the windows of an older process; see `ModelMonitor.restore`."""
        for ring, rows in zip(self.rings(), rings, strict=True):
            ring.restore(time, *rows)
        self._quality.restore(time, quality)
        self._offset = time - now
