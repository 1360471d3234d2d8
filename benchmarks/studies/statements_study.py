"""Measure false pages of ModelDrift and ModelInputsChanged, and how long it takes until they page.

Models of 50 features run minute by minute through the exporter's own code: bins, windows, evidence, the learner of
dependence and the p-values of abrupt changes. All models of a case are one monitor, whose targets are evaluated in
groups of 50, so that numpy is fast. The rules that follow are done here: thresholds, ``for`` and what lasts.

``python benchmarks/studies/statements_study.py OUT.jsonl --seconds 3000`` simulates cases in turn, and appends a line
for each; ``--tables OUT.jsonl`` prints what they add up to.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from drift_streams import SHARES, continued, seeded

from exporter.config import ModelConfig
from exporter.monitoring.binner import Binner
from exporter.monitoring.drift_evidence import InputChanges, evidence_limit, false_alarm_levels, model_evidence
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.noise_learner import NoiseLearner
from exporter.monitoring.windows import BatchSums, WindowStats
from exporter.profiles.bins import categorical_feature, numeric_feature
from exporter.profiles.blocks import BlockBuilder
from exporter.profiles.profile import SHUFFLED, TIME, Blocks, Feature, Profile
from exporter.stats.divergence import Floats, bin_indices, pad_edges
from exporter.stats.multiple_tests import adjusted_p_values

Rng = np.random.Generator
Chunks = Callable[[Rng, int, float], Floats]
FEATURES, DAY, YEAR = 50, 1440, 365 * 86400.0
ROWS = 10_000
LOOK = 2
"""Minutes between two looks at the windows, without a change; one minute after it."""
WARM, WARM_SHUFFLED = 6 * 60, 30 * 60
"""Minutes before a change; shuffled training rows say nothing of dependence, and live ones do so after a day."""


# ---- streams: a class is made for F features; ``next(n, minute)`` returns the next n values, shape (F, n)


class Autoregressive:
    """Each value is correlated with the one before; a part of the variance is independent noise."""

    def __init__(self, rng: Rng, features: int, phi: float = 0.0, noise: float = 0.0) -> None:
        self._rng, self._features, self._phi, self._noise = rng, features, phi, noise
        self._last = rng.normal(size=(1, features))

    def next(self, n: int, minute: float) -> Floats:  # noqa: ARG002
        """Return the next values."""
        values = self._rng.normal(size=(n, self._features))
        if self._phi and n:
            values = continued(self._phi, self._last, values)
            self._last = values[-1:]
        if self._noise:
            values = np.sqrt(1 - self._noise) * values
            values += np.sqrt(self._noise) * self._rng.normal(size=values.shape)
        return values.T


class LongMemory:
    """A sum of autoregressive parts, each four times as slow: correlation falls about as lag to the power of -0.4."""

    def __init__(self, rng: Rng, features: int) -> None:
        scales = 4.0 ** np.arange(1, 9)
        weights = np.concatenate(([0.4], 0.6 * scales**-0.4 / (scales**-0.4).sum()))
        self._weights = np.sqrt(weights)
        self._parts = [Autoregressive(rng, features, phi) for phi in (0.0, *np.exp(-1 / scales))]

    def next(self, n: int, minute: float) -> Floats:
        """Return the next values."""
        found: Floats = sum(w * p.next(n, minute) for w, p in zip(self._weights, self._parts, strict=True))
        return found


class Sessions:
    """Each value repeats 10 to 100 times."""

    def __init__(self, rng: Rng, features: int) -> None:
        self._rng, self._value = rng, rng.normal(size=features)
        self._left = rng.integers(1, 100, features)

    def next(self, n: int, minute: float) -> Floats:  # noqa: ARG002
        """Return the next values."""
        values = np.empty((len(self._value), n))
        for row in range(n):
            ended = np.flatnonzero(self._left == 0)
            if len(ended):
                self._value[ended] = self._rng.normal(size=len(ended))
                self._left[ended] = self._rng.integers(10, 101, len(ended))
            self._left -= 1
            values[:, row] = self._value
        return values


class Rhythm:
    """Normal values around a daily sine of half their standard deviation; the hour of its peak differs."""

    def __init__(self, rng: Rng, features: int) -> None:
        self._rng, self._phase = rng, rng.random((features, 1))

    def next(self, n: int, minute: float | Floats) -> Floats:
        """Return the next values."""
        sine = np.sqrt(0.5) * np.sin(2 * np.pi * (np.asarray(minute) / DAY + self._phase))
        return np.asarray(sine + np.sqrt(0.75) * self._rng.normal(size=(len(self._phase), n)))


class Bursts:
    """With a chance of 0.2% at each value, the next 50 are 2 higher."""

    def __init__(self, rng: Rng, features: int) -> None:
        self._rng, self._begun = rng, rng.random((features, 50)) < 0.002

    def next(self, n: int, minute: float) -> Floats:  # noqa: ARG002
        """Return the next values."""
        begun = np.concatenate((self._begun, self._rng.random((len(self._begun), n)) < 0.002), axis=1)
        self._begun = begun[:, n:]
        total = np.pad(begun.cumsum(axis=1), ((0, 0), (1, 0)))
        high = total[:, 50 : 50 + n] > total[:, :n]
        share = 1 - 0.998**50
        return (self._rng.normal(size=high.shape) + 2 * (high - share)) / np.sqrt(1 + 4 * share * (1 - share))


class Categories:
    """Independent categories, eight with shares of 40% to 1%."""

    def __init__(self, rng: Rng, features: int) -> None:
        self._rng, self._features, self._limits = rng, features, SHARES.cumsum()[:-1]

    def next(self, n: int, minute: float) -> Floats:  # noqa: ARG002
        """Return the next values."""
        return self._limits.searchsorted(self._rng.random((self._features, n))).astype(float)


STREAMS: dict[str, Callable[[Rng, int], Any]] = {
    "independent": Autoregressive,
    "categories": Categories,
    "AR(1) 0.5": lambda rng, f: Autoregressive(rng, f, 0.5),
    "AR(1) 0.9": lambda rng, f: Autoregressive(rng, f, 0.9),
    "AR(1) 0.97, half noise": lambda rng, f: Autoregressive(rng, f, 0.97, 0.5),
    "long memory": LongMemory,
    "sessions": Sessions,
    "daily rhythm": Rhythm,
    "bursts": Bursts,
}
CHANGES: dict[str, Callable[[Floats], Floats]] = {
    "mean + 0.15 sd": lambda x: x + 0.15,
    "mean + 0.25 sd": lambda x: x + 0.25,
    "mean + 0.5 sd": lambda x: x + 0.5,
    "mean + 1 sd": lambda x: x + 1,
    "dark camera": lambda x: -6 + 0.05 * x,
    "stuck value": lambda x: 0.0 * x - 2.5,
    "swapped column": np.exp,
    "changed unit": lambda x: 1.8 * x + 32,
}


DELAYED = (("independent", "ordered"), ("independent", "shuffled"), ("AR(1) 0.5", "ordered"), ("AR(1) 0.9", "ordered"))


class Case(NamedTuple):
    """What is simulated: a stream, the order of the training rows, values a minute, models, days, and a change."""

    stream: str
    order: str
    rate: float
    models: int
    days: float
    change: str = ""
    changed: int = 1
    """Features of each model that change."""


def profile_of(case: Case, rng: Rng, stream: Any) -> Profile:
    """Return a profile of all features of all models. Training rows follow each other, or cover a week evenly."""
    every = 7 * DAY / ROWS
    training = stream.next(ROWS, np.arange(ROWS) * every if case.stream == "daily rhythm" else 0.0)
    names = [f"f{index}" for index in range(len(training))]
    features: dict[str, Feature]
    if case.stream == "categories":
        columns = {name: [str(int(value)) for value in row] for name, row in zip(names, training, strict=True)}
        features = {name: categorical_feature(Counter(column), 0, 0) for name, column in columns.items()}
    else:
        columns = dict(zip(names, training, strict=True))
        features = {name: numeric_feature(column) for name, column in columns.items()}
    blocks = Blocks(SHUFFLED)
    if case.order == "ordered":
        builder = BlockBuilder(features, ROWS)
        builder.add(columns)
        blocks = Blocks(TIME, "at", tuple(builder.sizes), builder.build())
    kind = "categorical" if case.stream == "categories" else "numeric"
    return Profile("p", ROWS, dict.fromkeys(names, kind), features, hash=str(rng.random()), blocks=blocks)


class Fleet:
    """Models in one monitor, and their alerts."""

    def __init__(self, case: Case, seed: int) -> None:
        self.case, self.rng = case, seeded(*case, seed)
        self.stream = STREAMS[case.stream](self.rng, case.models * FEATURES)
        profile = profile_of(case, self.rng, self.stream)
        self.binner = Binner(profile)
        self.monitor = ModelMonitor(ModelConfig("m"), "1", self.binner)
        self.learner = NoiseLearner(lambda: None)  # type: ignore[arg-type,return-value]
        self.changes = InputChanges(self.binner, self.monitor.windows.items(), YEAR)
        self.monthly = false_alarm_levels(self.monitor.windows.items(), YEAR / 365)
        if case.stream != "categories":
            self._edges = pad_edges([feature.edges for feature in profile.features.values()])
        self._held = np.full(case.models * FEATURES, np.nan)
        self.lowest = np.zeros(case.models, dtype=bool)

    def count(self, values: Floats, now: float) -> None:
        """Count values of shape (F, n) at a time in seconds."""
        codes = bin_indices(self._edges, values) if self.case.stream != "categories" else self._codes(values)
        row = np.zeros(self.binner.width)
        flat = (codes + self.binner.starts[:, None]).ravel()
        row[: self.binner.bins] = np.bincount(flat, minlength=self.binner.bins)
        monitor, evidence = self.monitor, self.monitor._evidence
        with monitor._lock:
            monitor.counters.attempts += values.shape[1]
            assert evidence
            evidence.advance(now)
            monitor.observed += row[: self.binner.bins]
            monitor._windows.add(now, BatchSums(row, np.full(2 * len(self.binner.targets), np.inf)))

    def _codes(self, values: Floats) -> Any:
        known = [{int(c): i for i, c in enumerate(t.categories)} for t in self.binner.targets]
        return np.array([[one.get(int(v), len(one)) for v in row] for one, row in zip(known, values, strict=True)])

    def evidence(self, now: float) -> Floats:
        """Return the evidence of each model."""
        found = self.monitor.read_evidence(now).reshape(self.case.models, FEATURES)
        return np.nan_to_num(np.array([model_evidence(part) for part in found]))

    def changed(self, now: float) -> tuple[Any, Any, Any]:
        """Return which models have changed inputs by the rules, and which exceed fixed thresholds of KL and PSI."""
        models, windows = self.case.models, self.monitor.read(now)
        found = np.full(models * FEATURES, np.nan)
        above = np.full(models * FEATURES, np.nan)
        self.lowest[:] = False
        for name, stats in reversed(windows.items()):  # the shortest that holds 20 values is the last
            if not (stats.observations >= 20).any():
                continue
            p = self.changes.p_values(self.monitor.noise, name, stats).reshape(models, FEATURES)
            adjusted = adjusted_p_values(p)
            over = stats.kl > stats.noise
            self.lowest |= (adjusted <= self.monthly[name]).any(axis=1)
            wrong = (adjusted <= self.changes.levels[name]).ravel() & over & (stats.kl > 0.3)
            found = np.where(wrong, stats.kl, np.nan)
            above = np.where(over, stats.kl, np.nan)
        with np.errstate(invalid="ignore"):
            lasting = np.where(self._held <= 2 * above, self._held, np.nan)
        self._held = np.where(np.isnan(found), lasting, above)
        plain = self._plain(windows)
        shape = (models, FEATURES)
        return (~np.isnan(self._held)).reshape(shape).any(axis=1), *(part.reshape(shape).any(axis=1) for part in plain)

    def _plain(self, windows: dict[str, WindowStats]) -> tuple[Any, Any]:
        """Return what a fixed threshold says of the hour: KL above 0.3, PSI above 0.2, zeros replaced by 0.0001."""
        counts = windows["1h"].counts
        starts, owner = self.binner.starts, self.binner.reference.owner
        p, q = (
            np.maximum(c / np.maximum(np.add.reduceat(c, starts), 1)[owner], 1e-4)
            for c in (counts, self.binner.training)
        )
        log = np.log(p / q)
        return np.add.reduceat(p * log, starts) > 0.3, np.add.reduceat((p - q) * log, starts) > 0.2


class Episodes:
    """Counts episodes of a condition of many models: it has to hold for a time, and goes on over short pauses."""

    def __init__(self, models: int, hold: int, pause: int) -> None:
        self._hold, self._pause = hold, pause
        self._held, self._off = np.zeros(models, dtype=int), np.full(models, pause + 1)
        self.open, self.count = np.zeros(models, dtype=bool), 0
        self.first = np.full(models, np.inf)

    def add(self, condition: Any, minute: float) -> None:
        """Add one evaluation."""
        self._held = np.where(condition, self._held + 1, 0)
        self._off = np.where(condition, 0, self._off + 1)
        begun = ~self.open & (self._held >= self._hold)
        self.count += int(begun.sum())
        self.first[begun] = np.minimum(self.first[begun], minute)
        self.open = (self.open | begun) & (self._off <= self._pause)


def learn_now(minute: int) -> bool:
    """Return whether the learner runs: often at first, then every two hours."""
    return minute in {25, 40, 60, 90} or (minute > 0 and minute % 120 == 0)


def simulate(case: Case, seed: int) -> dict[str, Any]:
    """Return what came of a case."""
    began = time.process_time()
    fleet, limit = Fleet(case, seed), evidence_limit(YEAR)
    models, minutes = case.models, round(case.days * DAY)
    look = 1 if case.change else LOOK
    drift, sharp = Episodes(models, 5, 3), Episodes(models, 1 + 2 // look, 3 // look)
    day, monthly = Episodes(models, 1, 60), Episodes(models, 1, 30)
    kl, psi = Episodes(models, 1, 30), Episodes(models, 1, 30)
    recent = np.full(models, -math.inf)
    learning, highest = case.order == "shuffled", 0.0
    warm = (WARM_SHUFFLED if learning else WARM) if case.change else 0
    for minute in range(minutes + warm):
        now = 1e6 + 60.0 * minute
        n = int(fleet.rng.poisson(case.rate))
        values = fleet.stream.next(n, float(minute))
        if case.change and minute >= warm:
            part = values.reshape(models, FEATURES, n)
            part[:, : case.changed] = CHANGES[case.change](part[:, : case.changed])
        if n:
            fleet.count(values, now)
        evidence = fleet.evidence(now + 59.99)
        highest = max(highest, float(evidence.max()))
        if minute % look == 0:
            changed, above_kl, above_psi = fleet.changed(now + 59.0)
            recent[changed] = minute
            if minute >= warm:
                sharp.add(changed, minute - warm + 1)
                monthly.add(fleet.lowest, minute)
                if minute >= 60:
                    kl.add(above_kl, minute - warm)
                    psi.add(above_psi, minute - warm)
        if minute >= warm:
            opens = (evidence > limit) & (drift.open | (recent < minute - 60))
            drift.add(opens, minute - warm + 1)
            day.add(evidence > math.log(DAY), minute)
        if learning and learn_now(minute):
            fleet.learner.learn(fleet.monitor, now + 59.5)
    noise = fleet.monitor.noise
    return {
        **case._asdict(),
        "seed": seed,
        "years": models * minutes / DAY / 365,
        "drift": drift.count,
        "sharp": sharp.count,
        "drift_day": day.count,
        "sharp_day": monthly.count,
        "kl": kl.count,
        "psi": psi.count,
        "highest": round(highest, 1),
        "known": int(np.isfinite(fleet.monitor.dispersion).sum()),
        "dispersion": round(float(np.median(fleet.monitor.dispersion)), 1),
        "learned": len(noise.learned) if noise else 0,
        "delay": sorted(np.minimum(drift.first, sharp.first).tolist()) if case.change else [],
        "delay_drift": sorted(drift.first.tolist()) if case.change else [],
        "delay_sharp": sorted(sharp.first.tolist()) if case.change else [],
        "cpu": round(time.process_time() - began, 1),
    }


def cases() -> Iterator[Case]:
    """Return the cases of one round."""
    for stream in STREAMS:
        if stream != "categories":
            yield Case(stream, "ordered", 20, 10, 2)
            yield Case(stream, "shuffled", 20, 4, 3)
    for rate in (2, 0.5, 300):
        for stream in ("AR(1) 0.9", "sessions", "independent"):
            yield Case(stream, "ordered", rate, 10, 2 if rate < 300 else 0.25)
            yield Case(stream, "shuffled", rate, 4, 2.5 if rate < 300 else 1.5)
    for change in CHANGES:
        for stream, order in DELAYED if change.startswith("mean") else DELAYED[:1]:
            days = 0.25 if change.startswith("mean") else 0.02
            yield Case(stream, order, 20, 10 if order == "ordered" else 4, days, change)


def tables(path: Path) -> None:
    """Print what the lines of a file add up to."""
    sums: dict[tuple[str, str, float], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    delays: dict[tuple[str, str, float, str], list[float]] = defaultdict(list)
    for line in path.read_text().splitlines():
        run = json.loads(line)
        key = run["stream"], run["order"], run["rate"]
        if run["change"]:
            delays[(*key, run["change"])] += run["delay"]
            continue
        for name in ("years", "drift", "sharp", "drift_day", "sharp_day", "kl", "psi", "cpu"):
            sums[key][name] += run[name]
        sums[key]["highest"] = max(sums[key]["highest"], run["highest"])
    print("| stream, training rows, rate | years | ModelDrift | ModelInputsChanged | KL > 0.3 | PSI > 0.2 |")
    print("|---|---:|---:|---:|---:|---:|")
    for (stream, order, rate), s in sums.items():
        cells = [f"{s['years']:.2f}", *(f"{s[name]:.0f}" for name in ("drift", "sharp", "kl", "psi"))]
        extra = f"{s['drift_day']:.0f}, {s['sharp_day']:.0f} at limits of a day; highest {s['highest']:.1f}"
        print(f"| {stream}, {order}, {rate:g} | " + " | ".join(cells) + f" | {extra}")
    for (stream, order, rate, change), found in delays.items():
        middle, late = np.quantile(found, (0.5, 0.9), method="higher")
        print(f"| {change}, {stream}, {order}, {rate:g} | {middle:.0f}, {late:.0f} | {len(found)}")


def main() -> None:
    """Simulate until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="cases whose text has this")
    parser.add_argument("--tables", action="store_true")
    args = parser.parse_args()
    if args.tables:
        return tables(args.out)
    end, seed = time.monotonic() + args.seconds, args.seed
    while True:
        for case in cases():
            if time.monotonic() > end:
                return None
            if args.only in str(tuple(case)):
                with args.out.open("a") as file:
                    file.write(json.dumps(simulate(case, seed)) + "\n")
        seed += 1


if __name__ == "__main__":
    sys.exit(main())
