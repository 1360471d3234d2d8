"""Measure false alarms and power of drift windows whose noise floor is learned from live values.

``python benchmarks/studies/live_dependence_study.py`` takes some minutes and writes the table into
``docs/studies/drift.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import study_tables
from drift_streams import Case, autoregressive, sessions
from study_tables import table

from exporter.profiles.bins import numeric_feature
from exporter.stats.dependence import SIZES, NoiseRatio, measure_dependence
from exporter.stats.divergence import Floats, Reference, chi2_quantiles

DOCS = Path(__file__).parents[2] / "docs" / "studies" / "drift.md"
THRESHOLD = 0.3
HOURS, PAST = 4, 120  # of which the first 120 minutes are learned from, where the mean shifts after them
RATES = (20, 50, 100, 1000)


STREAMS = {
    "independent": autoregressive(0.0),
    "AR(1) 0.5": autoregressive(0.5),
    "AR(1) 0.9": autoregressive(0.9),
    "AR(1) 0.97": autoregressive(0.97),
    "sessions of 2–10 equal values": sessions(2, 10),
    "sessions of 10–100 equal values": sessions(10, 100),
}


class Model:
    """One feature with 10,000 standard normal training values."""

    def __init__(self) -> None:
        feature = numeric_feature(np.random.default_rng(1).normal(size=10_000))
        counts = np.array(feature.counts, dtype=np.float64)
        self.edges = np.array(feature.edges)
        self.bins = len(counts)
        self.reference = Reference.from_counts(counts, [self.bins], chi2_quantiles(self.bins))

    def count(self, values: Floats) -> Floats:
        """Return the counts of each minute, shape ``(60 · HOURS, K)``."""
        bins = self.edges.searchsorted(values, side="right").reshape(60 * HOURS, -1)
        return np.stack([np.bincount(minute, minlength=self.bins) for minute in bins]).astype(np.float64)

    def alarms(self, counts: Floats, past: Floats) -> tuple[bool, bool]:
        """Return whether a window is above threshold and floor, without the dependence of the past and with it."""
        total, observed = counts.sum(axis=0), np.array([counts.sum()])
        score, floor = self.reference.kl_divergence(total)[0], self.reference.noise(observed)[0]
        dependence = measure_dependence(past, self.reference.probability)
        ratio = NoiseRatio(SIZES, dependence.ratio[None]).at(observed)[0] if dependence else 1.0
        return score > max(THRESHOLD, floor), score > max(THRESHOLD, floor * ratio)


def cell(model: Model, stream: Case, rate: int, minutes: int, streams: int) -> str:
    """Return the false alarms and the power of windows of some minutes without and with learning."""
    shares = np.zeros((2, 2))
    ends = range(PAST + 60, 60 * HOURS + 1, 10)
    for seed in range(streams):
        values = stream.training(np.random.default_rng(seed), rate // 5 * 60 * HOURS)
        same = model.count(values)
        shifted = model.count(values + (np.arange(len(values)) >= rate // 5 * PAST))
        for end in ends:
            window = slice(end - minutes, end)
            shares[0] += model.alarms(same[window], same[end - PAST : end])
            shares[1] += model.alarms(shifted[window], same[:PAST])
    before, after = 100 * shares.T / (streams * len(ends))
    return f"{before[0]:.1f} → {after[0]:.1f}, {before[1]:.0f} → {after[1]:.0f}"


def tables(quick: bool) -> Iterator[tuple[str, str]]:
    """Return the name and the text of the table."""
    model = Model()
    rows = [
        [name, window, *(cell(model, stream, rate, minutes, 3 if quick else 200) for rate in RATES)]
        for name, stream in STREAMS.items()
        for window, minutes in (("5m", 5), ("1h", 60))
    ]
    yield (
        "live-dependence",
        table(["false alarms, power", "window", *(f"{rate:,} in 5 minutes" for rate in RATES)], rows),
    )


if __name__ == "__main__":
    study_tables.run(__doc__, DOCS, tables)
