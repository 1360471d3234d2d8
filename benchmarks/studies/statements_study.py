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
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from drift_streams import SHARES, seeded
from scipy.signal import lfilter

from exporter.config import ModelConfig
from exporter.monitoring import drift_evidence
from exporter.monitoring.binner import Binner
from exporter.monitoring.drift_evidence import InputChanges, evidence_limit, false_alarm_levels
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.noise_learner import NoiseLearner
from exporter.monitoring.windows import WindowStats
from exporter.profiles.bins import categorical_feature, numeric_feature
from exporter.profiles.blocks import BlockBuilder
from exporter.profiles.profile import SHUFFLED, TIME, Blocks, Feature, Profile
from exporter.stats.dependence import growth
from exporter.stats.divergence import Floats, Reference, bin_indices, pad_edges
from exporter.stats.multiple_tests import adjusted_p_values

Rng = np.random.Generator
Chunks = Callable[[Rng, int, float], Floats]
DAY, YEAR = 1440, 365 * 86400.0
ROWS = 10_000
START = 1_000_020.0  # a whole minute
CHUNK = 300_000
"""Values that are drawn at once."""
LOOK = 2
"""Minutes between two looks at the windows, without a change; one minute after it."""
WARM, WARM_SHUFFLED = 6 * 60, 30 * 60
"""Minutes before a change; shuffled training rows say nothing of dependence, and live ones do so after a day."""


# ---- streams: a class is made for F features; ``next(n, minute)`` returns the next n values, shape (F, n)


class Autoregressive:
    """Each value is correlated with the one before; a part of the variance is independent noise."""

    def __init__(self, rng: Rng, features: int, phi: float = 0.0, noise: float = 0.0) -> None:
        self._rng, self._features, self._phi, self._noise = rng, features, phi, noise
        self._last = rng.normal(size=(features, 1))

    def next(self, n: int, minute: float) -> Floats:  # noqa: ARG002
        """Return the next values."""
        values = self._rng.standard_normal((self._features, n))
        if self._phi and n:
            values *= np.sqrt(1 - self._phi**2)
            values = lfilter([1.0], [1, -self._phi], values, zi=self._phi * self._last)[0]
            self._last = values[:, -1:].copy()
        if self._noise:
            values = np.sqrt(1 - self._noise) * values
            values += np.sqrt(self._noise) * self._rng.standard_normal(values.shape)
        return np.asarray(values)


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


class OneLongMemory:
    """Every 50th feature has long memory, the others are AR(1) 0.9."""

    def __init__(self, rng: Rng, features: int) -> None:
        self._parts = LongMemory(rng, features // 50), Autoregressive(rng, features, 0.9)

    def next(self, n: int, minute: float) -> Floats:
        """Return the next values."""
        one, found = (part.next(n, minute) for part in self._parts)
        found[::50] = one
        return np.asarray(found)


class Sessions:
    """Each value repeats 10 to 100 times."""

    def __init__(self, rng: Rng, features: int) -> None:
        self._rng, self._value = rng, rng.normal(size=features)
        self._left = rng.integers(1, 100, features)

    def next(self, n: int, minute: float) -> Floats:  # noqa: ARG002
        """Return the next values."""
        features = len(self._value)
        lengths = self._rng.integers(10, 101, (features, n // 30 + 12))
        ends = self._left[:, None] + np.pad(lengths.cumsum(axis=1), ((0, 0), (1, 0)))
        assert (ends[:, -1] > n).all()
        sessions = np.concatenate((self._value[:, None], self._rng.standard_normal(ends[:, 1:].shape)), axis=1)
        begins = np.zeros((features, n + 1), dtype=np.int32)
        row, column = np.nonzero(ends < n)
        begins[row, ends[row, column]] = 1
        current = begins[:, :n].cumsum(axis=1)
        at_end = (ends <= n).sum(axis=1)[:, None]
        self._value = np.take_along_axis(sessions, np.minimum(at_end, sessions.shape[1] - 1), axis=1)[:, 0]
        self._left = np.take_along_axis(ends, at_end, axis=1)[:, 0] - n
        return np.take_along_axis(sessions, current, axis=1)


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
    "one of 50 long memory": OneLongMemory,
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
    features: int = 50
    """Of each model; the first one changes."""


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
        scores = {}
        for first in range(0, len(names), case.features):  # growth is that of all features of a model
            of_model = {name: features[name] for name in names[first : first + case.features]}
            builder = BlockBuilder(of_model, ROWS)
            builder.add({name: columns[name] for name in of_model})
            scores |= builder.build()
        blocks = Blocks(TIME, "at", tuple(builder.sizes), scores)
    kind = "categorical" if case.stream == "categories" else "numeric"
    return Profile("p", ROWS, dict.fromkeys(names, kind), features, hash=str(rng.random()), blocks=blocks)


class MinuteWindows:
    """The windows ``5m`` and ``1h`` of sums by the minute, as `exporter.monitoring.windows.Windows` has them, but fast.

    They are differences of running sums, of which those of 128 minutes are kept.
    """

    def __init__(self, width: int, minima: int) -> None:
        self._running = np.zeros((128, width))
        self._minima = np.full(minima, np.inf)  # not known

    def add(self, now: float, row: Floats) -> None:
        """Add the sums of a minute; each minute is added, the ones without values, too."""
        minute = int(now // 60)
        np.add(self._running[(minute - 1) % 128], row, out=self._running[minute % 128])

    def read(self, now: float) -> dict[str, tuple[Floats, Floats, Floats]]:
        """Return the sums and minima of each window, and the sums of the hour before it."""
        until = [self._running[(int(now // 60) - age) % 128] for age in (0, 5, 60, 65, 120)]
        return {
            "5m": (until[0] - until[1], self._minima, until[1] - until[3]),
            "1h": (until[0] - until[2], self._minima, until[2] - until[4]),
        }

    def history(self, now: float, columns: slice) -> Floats:
        """Return some columns of the complete minutes of two hours."""
        rows = (int(now // 60) - np.arange(121, 0, -1)) % 128
        return np.diff(self._running[rows, columns], axis=0)


def of_each_model(models: int, dispersion: Floats, blocks: int) -> Floats:
    """Return `growth` of the features of each model, for each of its features."""
    found = [growth(part, blocks) for part in np.split(dispersion, models)]
    return np.repeat(found, len(dispersion) // models)


class Fleet:
    """Models in one monitor, and their alerts."""

    def __init__(self, case: Case, seed: int) -> None:
        self.shape = case.models, case.features
        self.case, self.rng = case, seeded(*case, seed)
        self.stream = STREAMS[case.stream](self.rng, case.models * case.features)
        profile = profile_of(case, self.rng, self.stream)
        self.binner = Binner(profile)
        self.monitor = ModelMonitor(ModelConfig("m"), "1", self.binner)
        self.monitor._windows = self.windows = MinuteWindows(self.binner.width, 2 * len(self.binner.targets))  # type: ignore[assignment]
        self.learner = NoiseLearner(lambda: None)  # type: ignore[arg-type,return-value]
        self.changes = InputChanges(self.binner, self.monitor.windows.items(), YEAR)
        self.monthly = false_alarm_levels(self.monitor.windows.items(), YEAR / 365)
        if case.stream != "categories":
            self._edges = pad_edges([feature.edges for feature in profile.features.values()])
        self._known = [
            {int(c): i for i, c in enumerate(getattr(target, "categories", ()))} for target in self.binner.targets
        ]
        drift_evidence.growth = partial(of_each_model, case.models)
        self._held = np.full(case.models * case.features, np.nan)
        self.lowest = np.zeros(case.models, dtype=bool)

    def rows(self, first: int, minutes: int, warm: int) -> Floats:
        """Draw the values of some minutes, and return the sums of each."""
        case, binner = self.case, self.binner
        numbers = self.rng.poisson(case.rate, minutes)
        owner = np.repeat(np.arange(minutes), numbers)
        values = self.stream.next(len(owner), (first + owner).astype(float))
        if case.change and first + minutes > warm:
            changed = np.ix_(np.arange(case.models) * case.features, np.flatnonzero(first + owner >= warm))
            values[changed] = CHANGES[case.change](values[changed])
        codes = bin_indices(self._edges, values) if case.stream != "categories" else self._codes(values)
        flat = codes + binner.starts[:, None] + binner.bins * owner
        found = np.zeros((minutes, binner.width))
        counts = found[:, : binner.bins]
        counts[:] = np.bincount(flat.ravel(), minlength=minutes * binner.bins).reshape(minutes, -1)
        valid, first_moment, _, unseen = np.moveaxis(found[:, binner.bins :].reshape(minutes, 4, -1), 1, 0)
        valid[:] = numbers[:, None]
        first_moment[:] = ((values - binner.centre[:, None]) / binner.scale[:, None] @ np.eye(minutes)[owner]).T
        unseen[:] = counts[:, binner.missing - 1]
        if case.stream != "categories":
            unseen += counts[:, binner.starts]
        return found

    def _codes(self, values: Floats) -> Any:
        return np.array(
            [[one.get(int(v), len(one)) for v in row] for one, row in zip(self._known, values, strict=True)]
        )

    def count(self, row: Floats, now: float) -> None:
        """Count the sums of a minute."""
        monitor, evidence = self.monitor, self.monitor._evidence
        assert evidence
        self.windows.add(now, row)
        if row[self.binner.bins]:
            monitor.counters.attempts += int(row[self.binner.bins])
            evidence.advance(now)
            monitor.observed += row[: self.binner.bins]

    def evidence(self, now: float) -> Floats:
        """Return the evidence of each model, see `exporter.monitoring.drift_evidence.model_evidence`."""
        found = np.nan_to_num(self.monitor.read_evidence(now), nan=-math.inf).reshape(self.shape)
        with np.errstate(divide="ignore"):
            return np.maximum(np.log(np.exp(found).mean(axis=1)), 0.0)

    def stats(self, window: tuple[Floats, Floats, Floats]) -> WindowStats:
        """Return what the alert needs of the statistics of a window, see `exporter.monitoring.windows.compute`."""
        binner, noise = self.binner, self.monitor.noise
        assert noise
        sums = binner.split(window[0])
        recent = Reference.from_counts(binner.split(window[2]).counts, binner.sizes, binner.quantiles)
        observed = np.where(sums.valid > 0, sums.valid, np.nan)
        return SimpleNamespace(  # type: ignore[return-value]
            recent=recent,
            counts=sums.counts,
            observations=observed,
            mean=binner.centre + sums.first / observed * binner.scale,
            invalid=0.0 * observed,
            unseen=sums.unseen / observed,
            kl=binner.reference.kl_divergence(sums.counts) + 0.0 * observed,
            noise=noise.training(sums.valid),
            recent_kl=np.where(recent.rows > 0, recent.kl_divergence(sums.counts) + 0.0 * observed, np.nan),
        )

    def changed(self, now: float) -> tuple[Any, Any, Any]:
        """Return which models have changed inputs by the rules, and which exceed fixed thresholds of KL and PSI."""
        shape = self.shape
        windows = {name: self.stats(window) for name, window in self.windows.read(now).items()}
        assert self.monitor.noise
        found = np.full(shape[0] * shape[1], np.nan)
        above = np.full(shape[0] * shape[1], np.nan)
        self.lowest[:] = False
        for name, stats in reversed(windows.items()):  # the shortest that holds 20 values is the last
            if not stats.observations[0] >= 20:
                continue
            p = self.changes.p_values(self.monitor.noise, name, stats).reshape(shape)
            adjusted = adjusted_p_values(p)
            self.lowest |= (adjusted <= self.monthly[name]).any(axis=1)
            wrong = (adjusted <= self.changes.levels[name]).ravel() | self.changes.obvious(self.monitor.noise, stats)
            above = np.where(stats.kl > stats.noise, stats.kl, np.nan)
            found = np.where(wrong & (above > 0.3), above, np.nan)
        with np.errstate(invalid="ignore"):
            lasting = np.where(self._held <= 2 * above, self._held, np.nan)
        self._held = np.where(np.isnan(found), lasting, above)
        plain = self._plain(windows)
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
    """Return whether the learner runs: often at first, then every two hours, after a day every eight."""
    return minute in {25, 40, 60, 90} or (minute > 0 and minute % (120 if minute <= 1.25 * DAY else 480) == 0)


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
    chunk = int(np.clip(CHUNK / (models * case.features * case.rate), 1, 60))
    for minute in range(minutes + warm):
        now = START + 60.0 * minute
        if minute % chunk == 0:
            rows = fleet.rows(minute, chunk, warm)
        fleet.count(rows[minute % chunk], now)
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
    yield Case("long memory", "ordered", 20, 200, 10, features=1)
    for rate in (20, 2, 0.5, 300):
        for stream in STREAMS if rate == 20 else ("AR(1) 0.9", "sessions", "independent"):
            yield Case(stream, "ordered", rate, 10, 3 if rate < 300 else 0.25)
            if stream != "one of 50 long memory":
                yield Case(stream, "shuffled", rate, 4, 2.5 if rate < 300 else 1.25)
    for change in CHANGES:
        for stream, order in DELAYED if change.startswith("mean") else DELAYED[:1]:
            days = 0.25 if change.startswith("mean") else 0.02
            yield Case(stream, order, 20, 10 if order == "ordered" else 4, days, change)


def tables(path: Path) -> None:
    """Print what the lines of a file add up to."""
    sums: dict[tuple[str, str, float, int], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    delays: dict[tuple[str, str, float, str], list[float]] = defaultdict(list)
    for line in path.read_text().splitlines():
        run = json.loads(line)
        key = run["stream"], run["order"], run["rate"], run["features"]
        if run["change"]:
            delays[(*key[:3], run["change"])] += run["delay"]
            continue
        for name in ("years", "drift", "sharp", "drift_day", "sharp_day", "kl", "psi", "cpu"):
            sums[key][name] += run[name]
        sums[key]["highest"] = max(sums[key]["highest"], run["highest"])
    print(
        "| stream, values a minute, training rows | model-days | ModelDrift | ModelInputsChanged |"
        " ModelDrift at the limit of a day, a day | p-values at the level of a day, a day |"
        " KL > 0.3, pages a year | PSI > 0.2, pages a year |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for (stream, order, rate, features), s in sums.items():
        days = s["years"] * 365
        at_day = [f"{s[name] / days:.2f}" for name in ("drift_day", "sharp_day")]
        plain = [f"{s[name] / s['years']:,.0f}" for name in ("kl", "psi")]
        name = stream if features > 1 else f"{stream}, one input"
        cells = [f"{days:,.0f}", f"{s['drift']:.0f}", f"{s['sharp']:.0f}", *at_day, *plain]
        print(f"| {name}, {rate:g} a minute, {order} | {' | '.join(cells)} |")
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
