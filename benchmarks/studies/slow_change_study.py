"""Measure false alarms of the evidence of slow change, and how long it takes to find changes.

``python benchmarks/studies/slow_change_study.py`` writes the tables between the marks of ``docs/studies/drift.md``;
``--quick``
prints small ones in a minute. Every simulated feature has a training set of its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import study_tables
from slow_change_streams import CHANGES, DAY, STREAMS, Features, Rng
from study_tables import table

from exporter.monitoring.drift_evidence import evidence_limit
from exporter.stats.change_evidence import ChangeEvidence
from exporter.stats.divergence import Floats

LIMIT = evidence_limit(365 * 86400.0)
DOCS = Path(__file__).parents[2] / "docs" / "studies" / "drift.md"


class Run(NamedTuple):
    """What came of a stream without drift.

    These are the alarms that began, the feature-years, and the highest evidence over its limit.
    """

    alarms: int
    years: float
    highest: float

    def __str__(self) -> str:
        return f"{self.alarms} in {self.years:.1f} years; {self.highest:.0%}"


def false_alarms(
    name: str, rows: int, rate: float, years: float, dispersion: float | None = None, every: int = 1
) -> Run:
    """Return the alarms without drift; the evidence is updated every so many minutes.

    The dispersion is what training shows of it, if none is given.
    """
    rng = generator(name, rows, rate, dispersion, every)
    days = 40 if every > 1 else 2
    count = max(round(years * 365 / days), 1)
    features = Features(rng, name, rows, count)
    limit = evidence_limit(365 * 86400.0, 60.0 * every)
    detector = ChangeEvidence(
        features.reference, features.ordered, features.dispersion if dispersion is None else dispersion
    )
    state, above, alarms, highest = np.zeros(detector.size), np.zeros(count, dtype=bool), 0, 0.0
    pending = np.zeros(len(features.reference.probability))
    for minute, counts in enumerate(features.minutes(rng, rate, days * DAY), start=1):
        pending += counts
        if minute % every == 0:
            detector.update(state, pending, limit)
            pending[:] = 0
            evidence = np.nan_to_num(detector.read(state))
            alarms += int((~above & (evidence > limit)).sum())
            above = evidence > limit
            highest = max(highest, float(evidence.max()) / limit)
    return Run(alarms, count * days / 365, highest)


def warmed_up(rng: Rng, name: str, rows: int, rate: float, count: int) -> tuple[Features, ChangeEvidence, Floats]:
    """Return features of a stream, what gathers evidence about them, and its state after six hours without drift."""
    features = Features(rng, name, rows, count)
    detector = ChangeEvidence(features.reference, features.ordered, features.dispersion)
    state = np.zeros(detector.size)
    for counts in features.minutes(rng, rate, DAY // 4):
        detector.update(state, counts, LIMIT)
    return features, detector, state


def delay(change: str, rows: int, rate: float, count: int, longest: int) -> str:
    """Return how long it takes from a change to the alarm."""
    rng = generator(change, rows, rate)
    features, detector, state = warmed_up(rng, CHANGES[change].stream, rows, rate, count)
    found = np.full(count, np.inf)
    for minute, counts in enumerate(features.minutes(rng, rate, longest, CHANGES[change]), start=1):
        detector.update(state, counts, LIMIT)
        found = np.minimum(found, np.where(detector.read(state) > LIMIT, minute, np.inf))
        if np.isfinite(found).all():
            break
    return quantiles(found, longest)


def recovery(change: str, rows: int, rate: float, count: int, changed: int, longest: int) -> str:
    """Return how long it takes from the end of a change to that of the alarm."""
    rng = generator("recovery", change, rows, rate)
    features, detector, state = warmed_up(rng, CHANGES[change].stream, rows, rate, count)
    for counts in features.minutes(rng, rate, changed, CHANGES[change]):
        detector.update(state, counts, LIMIT)
    found = detector.read(state) > LIMIT
    below = np.full(count, np.inf)
    for minute, counts in enumerate(features.minutes(rng, rate, longest), start=1):
        detector.update(state, counts, LIMIT)
        below = np.minimum(below, np.where(detector.read(state) <= LIMIT, minute, np.inf))
        if np.isfinite(below[found]).all():
            break
    return quantiles(below[found], longest)


def generator(*case: object) -> Rng:
    """Return the random numbers of a case."""
    return np.random.default_rng(zlib.crc32(" ".join(map(str, case)).encode()))


def quantiles(minutes: Floats, longest: int) -> str:
    """Return the median and, in brackets, the 95% quantile; more than the longest time where it is not known."""
    values = np.quantile(minutes, (0.5, 0.95), method="higher")
    middle, late = (f"> {duration(longest)}" if np.isinf(value) else duration(value) for value in values)
    return middle if middle == late else f"{middle} ({late})"


def duration(minutes: float) -> str:
    """Return minutes in words."""
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 2 * DAY else f"{minutes / DAY:.0f} d"


def tables(quick: bool) -> Iterator[tuple[str, str]]:
    """Return the name and the text of each table."""
    years, sizes, count = (0.2, [1000, 10_000], 20) if quick else (2.0, [200, 1000, 10_000], 200)
    independent = ["normal", "discrete", "zero-heavy", "categories"]
    labels = [f"{size:,} training rows" for size in sizes]
    yield (
        "slow-false-alarms",
        table(
            ["no drift", *labels],
            (
                [f"{name}, {rate:g} a minute", *(false_alarms(name, size, rate, years) for size in sizes)]
                for name in independent
                for rate in ((20.0,) if quick or name != "normal" else (0.2, 2.0, 20.0, 200.0))
            ),
        ),
    )
    cases: list[list[object]] = [
        [
            f"{name}, D = {stream.dispersion:.0f}",
            *(false_alarms(name, size, 20.0, years) for size in sizes[-2:]),
            false_alarms(name, 10_000, 20.0, years / 10, dispersion=1.0),
        ]
        for name, stream in STREAMS.items()
        if stream.minutes
    ]
    cases.append(["season, D = 300", "", false_alarms("season", 10_000, 20.0, years, dispersion=300.0), ""])
    cases.append(["season, whole days", "", false_alarms("season", 10_000, 20.0, 10 * years, every=DAY), ""])
    yield "slow-dependent", table(["no drift", *(f"D of {label}" for label in labels[-2:]), "D = 1"], cases)
    longest = {0.2: 60 * DAY, 2.0: 14 * DAY, 20.0: 2 * DAY, 200.0: DAY}
    yield (
        "slow-delays",
        table(
            ["20 values a minute", *labels],
            ([change, *(delay(change, size, 20.0, count, longest[20.0]) for size in sizes)] for change in CHANGES),
        ),
    )
    rates = [2.0, 20.0] if quick else [0.2, 2.0, 20.0, 200.0]
    by_rate = ["10,000 training rows", *(f"{rate:g} a minute" for rate in rates)]
    yield (
        "slow-delays-by-rate",
        table(
            by_rate,
            (
                [change, *(delay(change, 10_000, rate, count, longest[rate]) for rate in rates)]
                for change in ("mean + 0.25 sd", "mean + 0.5 sd", "mean + 1 sd")
            ),
        ),
    )
    yield (
        "slow-recovery",
        table(
            by_rate,
            (
                [change, *(recovery(change, 10_000, rate, count, longest[rate], longest[rate]) for rate in rates)]
                for change in ("mean + 0.25 sd", "mean + 1 sd")
            ),
        ),
    )


if __name__ == "__main__":
    study_tables.run(__doc__, DOCS, tables)
