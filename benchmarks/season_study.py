"""Measure the drift alerts of features that follow the time of day, without and with a season in the profile.

``python benchmarks/season_study.py`` writes the tables between the marks of ``docs/drift-study.md``; ``--quick`` prints
small ones. Every simulated feature has training values and a phase of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import study_tables
from study_tables import percents, table

from exporter.config import ModelConfig
from exporter.monitoring.binner import Binner
from exporter.monitoring.drift_evidence import LIMIT
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.prediction_columns import PredictionColumns
from exporter.profiles.builder import build_file
from exporter.stats.divergence import Floats

DOCS = Path(__file__).parents[1] / "docs" / "drift-study.md"
DAY = 86400.0
START = 20_000 * DAY
THRESHOLD = 0.3
RATE = 20
"""Values of each feature in a minute."""
WINDOWS = ("5m", "1h", "1d")
SHIFTS = (0.5, 1.0)
"""In standard deviations of the values of an hour."""
_EVERY = 30  # minutes between two looks at the windows
_WEEKEND = 4 * DAY  # 20,000 days after the beginning of Unix time it was a Friday: days 1 and 2 are the weekend


class Stream(NamedTuple):
    """Features that follow the time.

    Attributes
    ----------
    name
        What they do.
    days, rows
        Time that training covers, and its number of rows.
    weekly
        Whether the mean is higher at the weekend, instead of in some hours of the day.
    """

    name: str
    days: int
    rows: int
    weekly: bool = False

    def draw(self, rng: np.random.Generator, seconds: Floats, phases: Floats) -> Floats:
        """Draw values with a standard deviation of 1 around a mean with the same, shape ``(F, n)``."""
        noise = rng.normal(size=(len(phases), len(seconds)))
        if self.weekly:
            weekend = (seconds - START) % (7 * DAY) // DAY
            return noise + 7 / np.sqrt(10) * ((weekend == 1) | (weekend == 2))
        return noise + np.sqrt(2) * np.sin(2 * np.pi * seconds / DAY + phases[:, None])


class Profiled(NamedTuple):
    """A profile of many features of a stream, and their phases."""

    stream: Stream
    binner: Binner
    phases: Floats


def profiled(stream: Stream, count: int, **options: Any) -> Profiled:
    """Return the profile of some features; the same training rows for any options."""
    rng = np.random.default_rng(7)
    phases = rng.uniform(0, 2 * np.pi, count)
    seconds = np.sort(START - stream.days * DAY * rng.random(stream.rows))
    values = stream.draw(rng, seconds, phases)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "training.npz"
        np.savez(path, time=seconds, **{f"f{number:03}": column for number, column in enumerate(values)})
        profile = build_file(path, time_column="time", **options)
    return Profiled(stream, Binner(profile), phases)


class Alarms(NamedTuple):
    """What came of live traffic: shares of the looks, by window, and evidence.

    Attributes
    ----------
    drifted
        Share above threshold and noise floor, of all features and looks.
    begun
        Alarms of the evidence that began.
    years
        Feature-years.
    found
        Minutes until the evidence of each feature was first above its limit, infinite if it never was.
    """

    drifted: dict[str, float]
    begun: int
    years: float
    found: Floats


def observe(model: Profiled, days: int, shift: float = 0.0, warm_up: float = 1.0) -> Alarms:
    """Return the alarms in so many days, with a shift, after a warm-up in days without one."""
    monitor = ModelMonitor(ModelConfig("m", windows=WINDOWS), "1", model.binner)
    rng = np.random.default_rng(int(10 * shift) + 100)
    names, count = model.binner.names, len(model.phases)
    drifted: dict[str, list[float]] = {window: [] for window in WINDOWS}
    above, begun, found = np.zeros(count, dtype=bool), 0, np.full(count, np.inf)
    for minute in range(-round(1440 * warm_up), 1440 * days):
        now = START + 60.0 * minute
        seconds = now + 60 * np.sort(rng.random(RATE))
        values = model.stream.draw(rng, seconds, model.phases) + (shift if minute >= 0 else 0.0)
        monitor.observe_columns(PredictionColumns(RATE, dict(zip(names, values, strict=True)), times=seconds), now)
        evidence = np.nan_to_num(monitor.read_evidence(now + 59)) > LIMIT
        if minute < 0:
            continue
        begun += int((evidence & ~above).sum())
        above = evidence
        found = np.minimum(found, np.where(evidence, minute + 1, np.inf))
        if (minute + 1) % _EVERY == 0:
            for window, stats in monitor.read(now + 59).items():
                drifted[window].append(float((stats.kl > np.maximum(THRESHOLD, stats.noise)).mean()))
    shares = {name: float(np.mean(looks)) for name, looks in drifted.items()}
    return Alarms(shares, begun, count * days / 365, found)


def delay(minutes: Floats) -> str:
    """Format the median and, in brackets, the 95 % quantile of a delay of up to a day."""
    parts = [
        f"{value:.0f} min" if np.isfinite(value) else "> 1 d"
        for value in np.quantile(minutes, (0.5, 0.95), method="higher")
    ]
    return f"{parts[0]} ({parts[1]})"


def tables(quick: bool) -> Iterator[tuple[str, str]]:
    """Return the name and the text of each table."""
    count, warm_up = (4, 0.05) if quick else (50, 1.0)
    day = Stream("day", 14, 10_000)
    cases: list[tuple[str, Stream, dict[str, Any]]] = [
        ("day, shuffled, no season", day, {"shuffled": True}),
        ("day, 10,000 rows of 14 days, `--season=day`", day, {"season": "day"}),
    ]
    if not quick:
        more, week = Stream("day", 56, 100_000), Stream("week", 56, 100_000, weekly=True)
        cases.insert(1, ("day, ordered, no season", day, {}))
        cases += [
            ("day, 100,000 rows of 56 days, `--season=day`", more, {"season": "day"}),
            ("weekend, 100,000 rows of 56 days, shuffled, no season", week, {"shuffled": True}),
            ("weekend, 100,000 rows of 56 days, `--season=week`", week, {"season": "week"}),
        ]
    shares, evidence = [], []
    for name, stream, options in cases:
        model = profiled(stream, count, **options)
        still = observe(model, 1 if quick else 28 if options.get("season") else 7, warm_up=warm_up)
        shifted = [observe(model, 1, shift, warm_up) for shift in SHIFTS]
        shares.append(
            [
                name,
                *(percents([still.drifted[w], *(moved.drifted[w] for moved in shifted)]) for w in WINDOWS),
            ]
        )
        evidence.append(
            [name, f"{still.begun:,} in {still.years:.1f} years", *(delay(moved.found) for moved in shifted)]
        )
    shift_names = [f"+{shift:g} sd" for shift in SHIFTS]
    yield (
        "season-windows",
        table(["%: no drift · " + " · ".join(shift_names), *WINDOWS], shares),
    )
    yield "season-evidence", table(["evidence", "false alarms", *shift_names], evidence)


if __name__ == "__main__":
    study_tables.run(__doc__, DOCS, tables)
