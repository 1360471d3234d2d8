"""Measure the false alarms and the power of ModelFeaturesDrifted, which has one budget for all features.

``python benchmarks/studies/many_features_study.py`` writes the tables between the marks of ``docs/studies/drift.md`` in
half
an hour; ``--quick`` prints small ones. Windows of 5 minutes are looked at every 15 seconds, as Prometheus does. All
features of a prediction arrive together; the number of predictions in a window varies by chance. Each feature has a
training set of its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import study_tables
from drift_streams import continued
from study_tables import table

from exporter.config import ModelConfig
from exporter.monitoring.drift_evidence import false_alarm_levels
from exporter.monitoring.noise_floors import NoiseFloors
from exporter.stats.dependence import NoiseRatio, block_sizes, leave_out_divergence, measure_noise
from exporter.stats.divergence import Floats, Ints, Reference, chi2_quantiles
from exporter.stats.multiple_tests import adjusted_p_values

DOCS = Path(__file__).parents[2] / "docs" / "studies" / "drift.md"
LOOKS = 20  # in a window
BINS = 24
DAY = 288  # windows
THRESHOLD = ModelConfig("").threshold("ModelFeatureDrift")
QUANTILES = chi2_quantiles(BINS - 1)


class Stream(NamedTuple):
    """A kind of features: the correlation of any two, and that of successive values."""

    name: str
    correlation: float = 0.0
    memory: float = 0.0


INDEPENDENT = Stream("independent")
STREAMS = (INDEPENDENT, Stream("correlated 0.7", 0.7), Stream("AR(1) 0.9", 0.0, 0.9))


class Model:
    """A model with normally distributed features."""

    def __init__(self, stream: Stream, features: int, rows: int, seed: object) -> None:
        self._rng = np.random.default_rng(zlib.crc32(f"{stream}{features}{rows}{seed}".encode()))
        self._stream, self._last = stream, self._rng.standard_normal((1, features))
        training = self._values(rows)
        self._edges = np.quantile(training, np.linspace(0, 1, BINS - 3), axis=0).T
        sizes = block_sizes(rows) if stream.memory else []
        each = {size: self._count(training, np.arange(rows) // size, rows // size + 1)[:-1] for size in sizes}
        total = self._count(training, np.zeros(rows, np.intp), 1)[0]
        self.reference = Reference.from_counts(total, [BINS] * features, QUANTILES)
        one = NoiseRatio.of_independent_values
        self.floors = NoiseFloors(self.reference, one(features), one(features), one(1), np.ones(features))
        if sizes:
            self._measure(each, total.reshape(features, BINS))

    def counts(self, observations: float, looks: int, shift: float = 0.0, shifted: int = 0) -> Floats:
        """Return the counts that arrive between looks, shape ``(looks, B)``; some features are shifted, in sd."""
        arrivals = self._rng.poisson(observations, looks)
        values = self._values(int(arrivals.sum()))
        values[:, :shifted] += shift
        return self._count(values, np.repeat(np.arange(looks), arrivals), looks)

    def judge(self, counts: Floats) -> tuple[Floats, Floats]:
        """Return the smallest adjusted p-value above the threshold (or 1), and which features are above their floor.

        Windows have the shape ``(looks, B)``, the results ``(looks,)`` and ``(looks, F)``.
        """
        observed = np.add.reduceat(counts, self.reference.starts, axis=-1)
        score = self.reference.kl_divergence(counts)
        high = score > THRESHOLD
        adjusted = np.where(high, adjusted_p_values(self.floors.p_values(score, observed)), 1.0)
        return np.fmin.reduce(adjusted, axis=-1), high & (score > self.floors.training(observed))

    def _values(self, rows: int) -> Floats:
        _, correlation, memory = self._stream
        values = self._rng.standard_normal((rows, self._last.shape[1]))
        if correlation:
            common = self._rng.standard_normal((rows, 1))
            values = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * values
        if memory and rows:
            values = continued(memory, self._last, values)
            self._last = values[-1:].copy()
        return values

    def _count(self, values: Floats, look: Ints, looks: int) -> Floats:
        columns = [
            np.bincount(look * BINS + edges.searchsorted(column, side="right"), minlength=looks * BINS)
            for edges, column in zip(self._edges, values.T, strict=True)
        ]
        return np.stack(columns, axis=1).reshape(looks, BINS, -1).swapaxes(1, 2).reshape(looks, -1).astype(np.float64)

    def _measure(self, each: dict[int, Floats], total: Floats) -> None:
        """Measure the noise floors in training, as a profile does."""
        sizes = list(each)
        noise = []
        for index, all_rows in enumerate(total):
            blocks = [each[size].reshape(-1, *total.shape)[:, index] for size in sizes]
            noise.append(measure_noise([leave_out_divergence(b, all_rows - b) for b in blocks], sizes, all_rows))
        size = np.array(sizes, dtype=np.float64)
        ratio = NoiseRatio.from_quantiles(size, np.array([one.quantiles for one in noise]), self.reference)
        inflation = NoiseRatio(size, size / np.array([one.effective for one in noise]))
        self.floors = NoiseFloors(self.reference, ratio, inflation, self.floors.rows, self.floors.doubt)


def quiet(stream: Stream, features: int, observations: float, rows: int, days: int) -> tuple[Floats, int, int]:
    """Return the smallest adjusted p-values at all looks without drift, and the false alarms of ModelFeatureDrift.

    They are counted without ``for``, and as they are, ``for: 5m``.
    """
    model = Model(stream, features, rows, observations)
    before = model.counts(observations / LOOKS, LOOKS)
    above = np.zeros((LOOKS + 1, features), dtype=np.int32)
    smallest, at_once, lasting = [], 0, 0
    for _ in range(days * 24):
        arriving = np.concatenate((before, model.counts(observations / LOOKS, DAY // 24 * LOOKS)))
        total = np.cumsum(arriving, axis=0)
        adjusted, drifted = model.judge(total[LOOKS:] - total[:-LOOKS])
        smallest.append(adjusted)
        above = np.concatenate((above[-LOOKS - 1 :], drifted))
        at_once += int((above[LOOKS + 1 :] > above[LOOKS:-1]).sum())
        runs = np.lib.stride_tricks.sliding_window_view(above, LOOKS + 1, axis=0).all(axis=-1)
        lasting += int((runs[1:] > runs[:-1]).sum())
        before = arriving[-LOOKS:]
    return np.concatenate(smallest), at_once, lasting


def alarms(adjusted: Floats, interval_days: float) -> int:
    """Return how often ModelFeaturesDrifted fires, if it has windows of 5 minutes alone, and one budget an interval."""
    level = false_alarm_levels([("5m", 1.0)], interval_days * DAY)["5m"]
    at = np.flatnonzero(adjusted <= level)
    return int((np.diff(at, prepend=-LOOKS) > LOOKS * 2 // 5 + 1).sum())  # it lasts 2 minutes longer than its cause


def power(features: int, shifted: int, observations: int, days: float, windows: int) -> str:
    """Return the share of windows that find a shift by one standard deviation: together, and each feature alone."""
    model = Model(INDEPENDENT, features, 10_000, (shifted, observations))
    adjusted, above = model.judge(model.counts(observations, windows, 1.0, shifted))
    level = false_alarm_levels([("5m", 1.0), ("1h", 12.0)], days * DAY)["5m"]
    return f"{(adjusted <= level).mean():.0%}; {above[:, :shifted].any(axis=1).mean():.0%}"


def tables(quick: bool) -> Iterator[tuple[str, str]]:
    """Return the name and the text of each table."""
    days, cases = (2, [(10, 20), (10, 50)]) if quick else (30, [(10, 50), (50, 20), (50, 50), (50, 200), (200, 50)])
    rows: list[list[object]] = []
    for stream in STREAMS:
        for features, observations in cases:
            adjusted, at_once, lasting = quiet(stream, features, observations, 10_000, days)
            cells = [at_once, lasting, *(alarms(adjusted, interval) for interval in (1 / 24, 1, 30))]
            rows.append([f"{stream.name}, {features} features, n = {observations}", *cells])
            print("\t".join(map(str, (stream, features, observations, *cells))), flush=True)
    budgets = ["720 in 30 d (`1h`)", "30 in 30 d (`1d`)", "1 in 30 d (`30d`)"]
    yield (
        "many-false-alarms",
        table([f"no drift, {days} days", "each feature alone, no `for`", "each alone, `for: 5m`", *budgets], rows),
    )
    sizes, windows = (20, 50, 100, 200), 100 if quick else 1000
    found = (
        [f"{shifted} of {features} features", *(power(features, shifted, n, 30.0, windows) for n in sizes)]
        for features, shifted in ((10, 1), (50, 1), (200, 1), (200, 5))
    )
    yield "many-power", table(["mean + 1 sd", *(f"n = {n}" for n in sizes)], found)


if __name__ == "__main__":
    study_tables.run(__doc__, DOCS, tables)
