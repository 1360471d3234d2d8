"""The order in which training rows arrived, and the blocks of consecutive rows in that order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from exporter.features.extract import as_list
from exporter.features.timestamp import unix_seconds
from exporter.profiles.block_builder import BlockBuilder
from exporter.profiles.block_record import FILE, GROUPED, SHUFFLED, TIME, UNSORTED, Blocks, Times
from exporter.profiles.options import Options
from exporter.profiles.profile import Feature, NumericFeature
from exporter.profiles.type_inference import Column
from exporter.stats.digitize import BinIndices
from exporter.stats.divergence import Floats

MEMORY = 256 * 2**20
"""Bytes of the rows that are sorted by time in memory."""
_ROW_BYTES = 40  # of the time, and of what sorting takes
_MAX_LABELS = 1000
_ROWS = 50_000


class RowOrder:
    """Follow the order of the rows through one pass, and count blocks of them.

    Parameters
    ----------
    targets
        Frozen bins of features, of the prediction and of the confidence.
    rows
        Number of rows.
    options
        Name the column of times and that of labels, or say that the rows are shuffled.
    arriving
        Targets that grow with time in any traffic, such as the age of a time. Rows sorted by them are in order.
    """

    def __init__(self, targets: Mapping[str, Feature], rows: int, options: Options, arriving: Iterable[str]) -> None:
        self._targets, self._rows, self._options = targets, rows, options
        self._arriving = set(arriving)
        self._blocks = BlockBuilder(targets, rows)
        self._labels = _Labels()
        self._latest = {1: -np.inf, -1: -np.inf}  # the last time in either direction
        self._times: Times | None = None
        self.follows = bool(self._blocks.sizes) and not options.shuffled
        """Whether blocks are counted: not for few rows, for shuffled ones, and once a time is before the one before."""
        self.needs_sorting = False

    def add(self, columns: Mapping[str, Any], times: Floats, labels: Column) -> dict[str, BinIndices]:
        """Add a batch: values by target, times in Unix seconds where rows have a time, and labels.

        Returns the bins of the values, where they were needed.
        """
        if not self.follows:
            return {}
        if self._options.time_column:
            self._follow(times)
        elif self._options.label_column:
            self._labels.add(as_list(labels))
        return self._blocks.add(columns) if self.follows else {}

    def _follow(self, times: Floats) -> None:
        for direction in [*self._latest]:
            signed = direction * times
            if not np.isfinite(times).all() or (np.diff(signed, prepend=self._latest[direction]) < 0).any():
                del self._latest[direction]
            elif len(times):
                self._latest[direction] = float(signed[-1])
        if not self._latest:
            self.follows, self.needs_sorting = False, True
        elif len(times):
            self._times = _measure(times, self._times)

    def sort(self, batches: Iterable[tuple[Mapping[str, Any], Floats]]) -> None:
        """Count blocks in the order of time, where the rows are not sorted; see `needs_sorting`.

        Rows without a time are left out.

        Parameters
        ----------
        batches
            Values by target, and times in Unix seconds, of a second pass.
        """
        if self._rows * (_ROW_BYTES + 2 * len(self._targets)) > MEMORY:
            return
        seconds = np.empty(self._rows)
        indices = np.empty((len(self._targets), self._rows), dtype=np.int16)
        start = 0
        for columns, times in batches:
            part = slice(start, start + len(times))
            seconds[part], indices[:, part] = times, self._blocks.indices(columns)
            start = part.stop
        order = np.argsort(seconds, kind="stable")
        order = order[np.isfinite(seconds[order])]
        self._times = _measure(seconds[order], None, len(seconds) - len(order)) if len(order) else None
        blocks = BlockBuilder(self._targets, len(order))
        for start in range(0, len(order), _ROWS):
            rows = order[start : start + _ROWS]
            blocks.add_indices(indices[:, rows])
        self._blocks, self.follows = blocks, True

    def build(self) -> Blocks:
        """Return the scores of the blocks."""
        options = self._options
        if options.shuffled:
            return Blocks(SHUFFLED)
        if self.needs_sorting and not self.follows:
            return Blocks(UNSORTED, options.time_column)
        if options.time_column:
            blocks, times = self._blocks, self._times
            return Blocks(TIME, options.time_column, tuple(blocks.sizes), blocks.build(), times=times)
        grouped = [name for name in self._blocks.grouped() if not self._arrives(name)]
        if self._labels.are_grouped():
            grouped.insert(0, options.label_column or "")
        if grouped:
            return Blocks(GROUPED, grouped[0])
        return Blocks(FILE, None, tuple(self._blocks.sizes), self._blocks.build())

    def _arrives(self, name: str) -> bool:
        """Return whether rows sorted by a target are in the order of arrival: by a time, or by an identifier."""
        target = self._targets[name]
        if name in self._arriving or not isinstance(target, NumericFeature) or target.min is None or target.max is None:
            return name in self._arriving
        whole = target.min.is_integer() and target.max.is_integer()
        return whole and target.max - target.min + 1 >= self._rows


class _Labels:
    """Whether rows are grouped by a column that is not among the targets."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._last: Any = None
        self._changes = self._rows = 0

    def add(self, values: Sequence[Any]) -> None:
        if len(self._seen) > _MAX_LABELS:
            return
        texts = [str(value) for value in values]
        self._changes += sum(one != other for one, other in zip([self._last, *texts], texts, strict=False))
        self._rows += len(texts)
        self._last = texts[-1] if texts else self._last
        self._seen.update(texts)

    def are_grouped(self) -> bool:
        distinct = len(self._seen)
        return 1 < distinct <= _MAX_LABELS and self._changes <= 2 * distinct and self._rows > 20 * distinct


def time_seconds(times: Column) -> Floats:
    """Return a column of times in Unix seconds: NaN for none, an infinity for a value that is not a time."""
    if isinstance(times, np.ndarray) and times.dtype.kind in "iuf":
        return times.astype(np.float64)
    return np.array([unix_seconds(value) for value in as_list(times)], dtype=np.float64)


def _measure(seconds: Floats, before: Times | None, unreadable: int = 0) -> Times:
    """Return the range of some times, at least one, together with that of those before."""
    both = [before.earliest, before.latest] if before else []
    return Times(unreadable, min([float(seconds.min()), *both]), max([float(seconds.max()), *both]))
