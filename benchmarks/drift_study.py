"""Measure false alarms, power and delay of the drift alert, against other monitors on the same streams.

``python benchmarks/drift_study.py`` takes some minutes, writes the plots to ``docs/images/`` and the
tables between the marks of ``docs/drift.md``. ``--quick`` prints small tables in seconds.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from drift_peers import ORIGIN, PEERS, Floats, peer_scores
from scipy.signal import lfilter

from exporter.profiles.bin_edges import categorical_feature, numeric_feature
from exporter.profiles.profile import NumericFeature
from exporter.stats.chi2 import chi2_quantiles, quantile_array
from exporter.stats.divergence import Reference

DOCS = Path(__file__).parents[1] / "docs"
THRESHOLD = 0.3
STEP = 5.0  # seconds between two evaluations of the rules
SHORT, LONG, HOLD = 60, 720, 60  # windows of 5m and 1h, and `for: 5m`, in steps
Rng = np.random.Generator


class Case(NamedTuple):
    """A stream without drift, and how to draw windows of shape ``(W, n)`` from it."""

    draw: Callable[[Rng, int, int], Floats]
    discrete: bool = False
    categorical: bool = False


def autoregressive(phi: float) -> Callable[[Rng, int, int], Floats]:
    """Return a draw of standard normal values, each correlated with the one before by ``phi``."""

    def draw(rng: Rng, windows: int, size: int) -> Floats:
        values = rng.normal(size=(size, windows))
        values[1:] *= np.sqrt(1 - phi**2)
        return np.ascontiguousarray(lfilter([1], [1, -phi], values, axis=0).T)

    return draw


SHARES = np.array([0.4, 0.25, 0.15, 0.08, 0.05, 0.04, 0.02, 0.01])
CASES = {
    "normal": Case(lambda rng, w, n: rng.normal(size=(w, n))),
    "log-normal": Case(lambda rng, w, n: rng.lognormal(size=(w, n))),
    "discrete": Case(lambda rng, w, n: rng.poisson(4, (w, n)).astype(float), discrete=True),
    "zero-heavy": Case(lambda rng, w, n: rng.exponential(size=(w, n)) * (rng.random((w, n)) < 0.4)),
    "categories": Case(
        lambda rng, w, n: SHARES.cumsum()[:-1].searchsorted(rng.random((w, n))).astype(float), True, True
    ),
    "AR(1) 0.5": Case(autoregressive(0.5)),
    "AR(1) 0.9": Case(autoregressive(0.9)),
}


def averaged(case: Case, together: int) -> Case:
    """Return the stream of means of ``size`` successive values, such as one record per session."""
    return case._replace(draw=lambda rng, w, n: case.draw(rng, w, n * together).reshape(w, n, together).mean(axis=-1))


def replaced(share: float, value: float) -> Callable[[Rng, Floats], Floats]:
    """Return a change that replaces a share of the values by one value."""
    return lambda rng, x: np.where(rng.random(x.shape) < share, value, x)


CHANGES: dict[str, tuple[str, Callable[[Rng, Floats], Floats]]] = {
    "mean + 0.25 sd": ("normal", lambda _, x: x + 0.25),
    "mean + 0.5 sd": ("normal", lambda _, x: x + 0.5),
    "mean + 1 sd": ("normal", lambda _, x: x + 1),
    "mean + 1 sd, log-normal": ("log-normal", lambda _, x: x + np.sqrt((np.e - 1) * np.e)),
    "mean + 1 sd, discrete": ("discrete", lambda _, x: x + 2),
    "mean + 1 sd, zero-heavy": ("zero-heavy", lambda _, x: x + np.sqrt(0.64)),
    "spread x 1.5": ("normal", lambda _, x: x * 1.5),
    "spread x 2": ("normal", lambda _, x: x * 2),
    "spread x 0.5": ("normal", lambda _, x: x * 0.5),
    "tail: 5 % ten times as large": ("log-normal", lambda rng, x: np.where(rng.random(x.shape) < 0.05, 10 * x, x)),
    "tail: 5 % at 5 sd": ("normal", replaced(0.05, 5.0)),
    "new category, 10 %": ("categories", replaced(0.1, len(SHARES))),
    "stuck sensor": ("normal", lambda _, x: np.broadcast_to(x[:, :1], x.shape)),
    "metres to feet": ("log-normal", lambda _, x: x * 3.28084),
    "missing, 5 %": ("normal", replaced(0.05, np.nan)),
    "missing, 20 %": ("normal", replaced(0.2, np.nan)),
}


class Bins:
    """The bins of one training set, and the scores of windows, as in the exporter."""

    def __init__(self, training: Floats, case: Case, bins: int = 20) -> None:
        feature = (
            categorical_feature({str(code): int((training == code).sum()) for code in range(len(SHARES))}, 0, 0)
            if case.categorical
            else numeric_feature(training, bins)
        )
        self.size = len(feature.counts)
        quantiles = quantile_array(chi2_quantiles(range(1, self.size)))
        self.reference = Reference.from_counts(np.array(feature.counts, dtype=np.float64), [self.size], quantiles)
        self._feature = feature

    def places(self, values: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
        """Return the bin of each value."""
        if isinstance(self._feature, NumericFeature):
            indices = np.array(self._feature.edges).searchsorted(values, side="right")
        else:
            names = [float(name) for name in self._feature.categories]
            place = np.full(len(SHARES) + 1, len(names))  # the last is the category that training did not have
            place[np.array(names, dtype=int)] = np.arange(len(names))
            indices = place[np.nan_to_num(values).astype(int)]
        return np.where(np.isnan(values), self.size - 2, indices)

    def counts(self, windows: Floats) -> Floats:
        """Return the counts, of shape ``(W, K)``, of windows of shape ``(W, n)``."""
        flat = self.places(windows) + self.size * np.arange(len(windows))[:, None]
        return np.bincount(flat.ravel(), minlength=self.size * len(windows)).reshape(-1, self.size).astype(float)

    def scores(self, counts: Floats) -> tuple[Floats, Floats]:
        """Return the score and the noise floor of each row of counts."""
        noise = self.reference.noise(counts.sum(axis=-1, keepdims=True))
        return self.reference.kl_divergence(counts)[..., 0], noise[..., 0]

    def alarms(self, counts: Floats, threshold: float = THRESHOLD) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Return whether the score of each row exceeds the threshold and its noise floor."""
        score, noise = self.scores(counts)
        return (score > threshold) & (score > noise)


class Study:
    """The study, at full or small size."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.sizes = [5, 50, 100] if quick else [5, 10, 20, 50, 100, 200, 500, 1000, 10_000]
        self.change_sizes = [50, 100] if quick else [20, 50, 100, 200, 1000]
        self.rows = [1000, 10_000] if quick else [200, 1000, 10_000]
        self.windows = 200 if quick else 20_000
        self.peer_windows = 20 if quick else 600
        self.change_windows = 100 if quick else 4000
        self.days = 1 if quick else 60
        self.onsets = 20 if quick else 300
        self.trainings = 2 if quick else 20
        self.false: dict[tuple[int, str, int], tuple[float, float]] = {}
        self.paged: dict[tuple[int, str, int], float] = {}
        self.peer_false: dict[tuple[str, str, int], float] = {}
        self.null_scores: dict[tuple[str, str, int], Floats] = {}
        self.power: dict[tuple[str, str, int], float] = {}
        self.even_power: dict[tuple[str, str, int], float] = {}
        self.tables: dict[str, str] = {}

    # ---- measurements

    def training(self, rng: Rng, name: str, rows: int) -> Floats:
        """Draw a training set from the stream."""
        return CASES[name].draw(rng, 1, rows)[0]

    def parts(self, total: int, size: int) -> Iterator[int]:
        """Yield the windows of each training set, in parts that fit into memory."""
        left = total // self.trainings
        most = max(1, 2_000_000 // size)
        while left > 0:
            yield min(left, most)
            left -= most

    def false_alarms(self) -> None:
        """Measure the share of windows without drift that alarm, and that exceed the noise floor."""
        for rows in self.rows:
            for name, case in CASES.items():
                for size in self.sizes:
                    rng = seeded("false", rows, name, size)
                    wanted = max(self.trainings, min(self.windows, 20_000_000 // size))
                    both = floor = done = 0
                    for _ in range(self.trainings):
                        bins = Bins(self.training(rng, name, rows), case)
                        for part in self.parts(wanted, size):
                            score, noise = bins.scores(bins.counts(case.draw(rng, part, size)))
                            floor += int((score > noise).sum())
                            both += int(((score > noise) & (score > THRESHOLD)).sum())
                            done += part
                    self.false[rows, name, size] = both / done, floor / done
        head = ["values per window", *map(number, self.sizes)]
        blocks = []
        for rows in self.rows:
            body = [[name, *(percent(self.false[rows, name, n][0]) for n in self.sizes)] for name in CASES]
            blocks.append(f"{number(rows)} training rows:\n\n{table(head, body)}")
        self.tables["false-alarms"] = "\n\n".join(blocks)

    def many_features(self) -> None:
        """Measure the share of windows in which at least one of many features alarms."""
        sizes = [n for n in self.sizes if n <= 1000]
        features = [1, 10, 50, 200]
        alarms = {}
        for size in sizes:
            rng = seeded("many", size)
            rounds = 20 if self.quick else int(np.clip(40_000_000 // (200 * size), 100, 2000))
            fired = np.zeros((200, rounds), dtype=bool)
            for feature in range(200):
                bins = Bins(rng.normal(size=10_000), CASES["normal"])
                fired[feature] = bins.alarms(bins.counts(rng.normal(size=(rounds, size))))
            alarms[size] = {n: float(fired[:n].any(axis=0).mean()) for n in features[1:]} | {1: float(fired.mean())}
        body = [[f"{count}", *(percent(alarms[size][count]) for size in sizes)] for count in features]
        self.tables["many-features"] = table(["features", *(f"n = {number(n)}" for n in sizes)], body)

    def remedies(self) -> None:
        """Measure false alarms and remaining power in the hard cases, with other thresholds and bins."""
        settings = [(20, 0.3), (10, 0.3), (20, 0.5), (10, 0.5), (20, 1.0)]
        body = []
        for name, rows, size in (
            ("normal", 200, 20),
            ("normal", 200, 50),
            ("normal", 1000, 50),
            ("AR(1) 0.5", 10_000, 50),
            ("AR(1) 0.9", 10_000, 100),
            ("AR(1) 0.9", 10_000, 500),
        ):
            case, cells = CASES[name], []
            for bins, threshold in settings:
                rng = seeded("remedies", name, rows, size)
                fired = []
                for _ in range(self.trainings):
                    made = Bins(self.training(rng, name, rows), case, bins)
                    windows = case.draw(rng, self.windows // self.trainings, size)
                    fired.append([made.alarms(made.counts(windows + shift), threshold).mean() for shift in (0, 1)])
                false, power = np.mean(fired, axis=0)
                cells.append(f"{percent(false, 2)}, {percent(power, 0)}")
            body.append([f"{name}, {number(rows)} rows, n = {size}", *cells])
        self.tables["remedies"] = table(["false alarms, power", *(f"{b} bins, {t:g}" for b, t in settings)], body)

    def beside_peers(self) -> None:
        """Measure false alarms and power of every monitor on the same windows."""
        for name, case in CASES.items():
            for size in self.sizes:
                self._beside(("null", name, size), case, lambda _, x: x)
        for change, (name, alter) in CHANGES.items():
            for size in self.change_sizes:
                self._beside((change, name, size), CASES[name], alter)

    def _beside(self, key: tuple[str, str, int], case: Case, alter: Callable[[Rng, Floats], Floats]) -> None:
        what, name, size = key
        null = what == "null"
        rng = seeded("peers", name, size, what)
        wanted = min(self.change_windows, 4_000_000 // size)
        most = max(self.trainings, min(self.peer_windows, 1_000_000 // size))
        found: dict[str, list[Floats]] = {}
        fired: dict[str, list[Floats]] = {}
        for _ in range(self.trainings):
            training = self.training(rng, name, max(10_000, 10 * size))
            bins = Bins(training, case)
            windows = alter(rng, case.draw(rng, wanted // self.trainings, size))
            counts = bins.counts(windows)
            score = bins.scores(counts)[0]
            found.setdefault("model-exporter", []).append(score)
            fired.setdefault("model-exporter", []).append(bins.alarms(counts))
            fired.setdefault("threshold 0.1", []).append(bins.alarms(counts, 0.1))
            for peer in PEERS:
                part = windows[: most // self.trainings]
                scores, threshold = peer_scores(peer, training, part, case.discrete)
                found.setdefault(peer.name, []).append(scores)
                fired.setdefault(peer.name, []).append(scores > threshold)
        for monitor, values in fired.items():
            share = float(np.concatenate(values).mean())
            if null:
                self.peer_false[monitor, name, size] = share
            else:
                self.power[monitor, what, size] = share
        for monitor, values in found.items():
            if null:
                self.null_scores[monitor, name, size] = np.concatenate(values)
            elif (monitor, name, size) in self.null_scores:
                level = np.quantile(self.null_scores[monitor, name, size], 0.99)
                self.even_power[monitor, what, size] = float((np.concatenate(values) > level).mean())

    def peer_tables(self) -> None:
        """Write the tables of `beside_peers`, and where a peer is better on both axes."""
        names = ["model-exporter", *(peer.name for peer in PEERS)]
        sizes = [n for n in self.sizes if ("boxkite", "categories", n) in self.peer_false]
        chosen = [n for n in (20, 50, 100, 1000, 10_000) if n in sizes]
        body = []
        for name in CASES:
            for monitor in names:
                shares = (percent(self.peer_false[monitor, name, n]) for n in chosen)
                body.append([name if monitor == names[0] else "", monitor, *shares])
        self.tables["peers-false-alarms"] = table(["no drift", "monitor", *(f"n = {number(n)}" for n in chosen)], body)
        body = []
        for change in CHANGES:
            shares = [
                " · ".join(percent(self.power[monitor, change, n], 0) for n in self.change_sizes) for monitor in names
            ]
            body.append([change, *shares])
        self.tables["power"] = table(["change", *names], body)
        size = 100
        body = [[c, *(percent(self.even_power[monitor, c, size], 0) for monitor in names)] for c in CHANGES]
        self.tables["even-power"] = table(["change", *names], body)
        for title, own in (("better", "model-exporter"), ("better-at-0.1", "threshold 0.1")):
            better = [self._better(change, own) for change in CHANGES]
            rows = [[c, *found] for c, found in zip(CHANGES, better, strict=True) if any(f != "" for f in found)]
            self.tables[title] = table(["change", *names[1:]], rows) if rows else "None in any case."

    def _better(self, change: str, own: str) -> list[str]:
        """Return for each peer the sizes at which it has no more false alarms and clearly more power."""
        name = CHANGES[change][0]
        found = []
        for peer in PEERS:
            where = []
            for size in self.change_sizes:
                if (own, name, size) not in self.peer_false:
                    continue
                ours, theirs = self.power[own, change, size], self.power[peer.name, change, size]
                error = 2 * np.sqrt(max(theirs * (1 - theirs), 1e-4) / min(self.peer_windows, 1_000_000 // size))
                quiet = self.peer_false[peer.name, name, size] <= self.peer_false[own, name, size]
                if quiet and theirs > ours + error:
                    where.append(f"n = {number(size)}: {percent(ours, 0)} to {percent(theirs, 0)}")
            found.append("; ".join(where))
        return found

    def running(self) -> None:
        """The alert as Prometheus runs it: two overlapping windows, every 5 seconds, `for: 5m`."""
        blocks = []
        rates = [20, 100] if self.quick else [5, 20, 50, 100, 1000]
        for rows in (self.rows[0], self.rows[-1]):
            for name, case in CASES.items():
                for rate in rates:
                    rng = seeded("running", rows, name, rate)
                    self.paged[rows, name, rate] = self._paged(rng, case, rows, rate)
            body = [[name, *(percent(self.paged[rows, name, rate], 2) for rate in rates)] for name in CASES]
            blocks.append(
                f"{number(rows)} training rows:\n\n{table(['values in 5 minutes', *map(number, rates)], body)}"
            )
        self.tables["running"] = "\n\n".join(blocks)

    def correlated(self) -> None:
        """Measure what helps the running alert against values correlated in time, and the delay that it causes."""
        rates = [100] if self.quick else [20, 50, 100, 1000]
        plain = CASES["AR(1) 0.9"]
        body = []
        for remedy, case, together, lengths, threshold in (
            ("default", plain, 1, (SHORT, LONG), THRESHOLD),
            ("`windows: [1h]`", plain, 1, (LONG,), THRESHOLD),
            ("`ModelFeatureDrift: 1`", plain, 1, (SHORT, LONG), 1.0),
            ("`windows: [1h]`, `ModelFeatureDrift: 0.5`", plain, 1, (LONG,), 0.5),
            ("the mean of every 20 values recorded", averaged(plain, 20), 20, (SHORT, LONG), THRESHOLD),
        ):
            cells = []
            for rate in rates:
                rng = seeded("correlated", remedy, rate)
                false = self._paged(rng, case, 10_000, rate / together, lengths, threshold)
                minutes = []
                for _ in range(self.onsets // 3):
                    bins = Bins(case.draw(rng, 1, 10_000)[0], case)
                    firing = self._firing(
                        rng, bins, case, rate / together, 3 * LONG, lambda _, x: x + 1, LONG, lengths, threshold
                    )[LONG:]
                    minutes.append((int(firing.argmax()) + 1) * STEP / 60 if firing.any() else np.inf)
                median = np.quantile(minutes, 0.5, method="inverted_cdf")
                cells.append(f"{percent(false, 2)}, {late(median)}")
            body.append([remedy, *cells])
        self.tables["correlated"] = table(["values in 5 minutes", *map(number, rates)], body)

    def _paged(
        self,
        rng: Rng,
        case: Case,
        rows: int,
        rate: float,
        lengths: tuple[int, ...] = (SHORT, LONG),
        threshold: float = THRESHOLD,
    ) -> float:
        """Measure the share of 5-minute periods without drift in which the running alert fires."""
        windows = fired = 0
        for _ in range(max(1, self.days if rate <= 100 else self.days // 10)):
            bins = Bins(case.draw(rng, 1, rows)[0], case)
            steps = LONG + 288 * SHORT
            firing = self._firing(rng, bins, case, rate, steps, lengths=lengths, threshold=threshold)
            shares = firing[-288 * SHORT :].reshape(-1, SHORT).any(axis=1)
            fired, windows = fired + int(shares.sum()), windows + len(shares)
        return fired / windows

    def delays(self) -> None:
        """Measure the minutes from the change to the alert."""
        rates = [50, 100] if self.quick else [5, 20, 50, 100, 1000]
        self.minutes: dict[tuple[str, int], Floats] = {}
        body = []
        for change in (
            "mean + 0.5 sd",
            "mean + 1 sd",
            "spread x 2",
            "new category, 10 %",
            "stuck sensor",
            "metres to feet",
            "missing, 20 %",
        ):
            name, alter = CHANGES[change]
            case = CASES[name]
            for rate in rates:
                rng = seeded("delays", change, rate)
                minutes = []
                for _ in range(self.onsets if rate <= 100 else self.onsets // 3):
                    bins = Bins(self.training(rng, name, 10_000), case)
                    firing = self._firing(rng, bins, case, rate, 3 * LONG, alter, LONG)[LONG:]
                    minutes.append((int(firing.argmax()) + 1) * STEP / 60 if firing.any() else np.inf)
                self.minutes[change, rate] = np.array(minutes)
            found = [np.quantile(self.minutes[change, r], [0.5, 0.95], method="inverted_cdf") for r in rates]
            body.append([change, *(f"{late(median)} ({late(most)})" for median, most in found)])
        self.tables["delays"] = table(["values in 5 minutes", *map(number, rates)], body)

    def _firing(
        self,
        rng: Rng,
        bins: Bins,
        case: Case,
        rate: float,
        steps: int,
        alter: Callable[[Rng, Floats], Floats] = lambda _, x: x,
        onset: int | None = None,
        lengths: tuple[int, ...] = (SHORT, LONG),
        threshold: float = THRESHOLD,
    ) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Return whether the alert fires at each step of ``rate`` values in 5 minutes that change at ``onset``."""
        arrivals = rng.poisson(rate / SHORT, steps)
        values = case.draw(rng, 1, int(arrivals.sum()))
        if onset is not None:
            before = int(arrivals[:onset].sum())
            values[:, before:] = alter(rng, values[:, before:])
        step = np.repeat(np.arange(steps), arrivals)
        flat = step * bins.size + bins.places(values[0])
        counts = np.bincount(flat, minlength=steps * bins.size).reshape(steps, bins.size)
        total = np.vstack([np.zeros(bins.size), counts.cumsum(axis=0)])
        active = np.zeros(steps, dtype=bool)
        for length in lengths:
            begin = np.maximum(np.arange(1, steps + 1) - length, 0)
            active |= bins.alarms(total[1:] - total[begin], threshold)
        quiet = np.maximum.accumulate(np.where(active, -1, np.arange(steps)))  # the last step that was not active
        return np.asarray(np.arange(steps) - quiet > HOLD)

    def score_bands(self) -> tuple[list[int], dict[str, Floats], list[float]]:
        """Return window sizes, the 1 %, 50 % and 99 % quantiles of the score at each, and the noise floor."""
        sizes = [int(n) for n in np.geomspace(5, 10_000, 24).round()]
        found: dict[str, Floats] = {}
        for label, shift in (("no drift", 0.0), ("mean + 0.5 sd", 0.5), ("mean + 1 sd", 1.0)):
            rng = seeded("bands", label)
            bins = Bins(rng.normal(size=10_000), CASES["normal"])
            scores = [bins.scores(bins.counts(rng.normal(shift, size=(1000, n))))[0] for n in sizes]
            found[label] = np.quantile(scores, [0.01, 0.5, 0.99], axis=1).T
        return sizes, found, [float(bins.reference.noise(np.array([float(n)]))[0]) for n in sizes]

    # ---- output

    def goals(self) -> None:
        """Write the table of the goals, and whether they were met."""
        one = {k: v[0] for k, v in self.false.items()}
        rows = []
        for title, cells, goal in (
            ("windows of at least 50 values", {k: v for k, v in one.items() if k[2] >= 50}, 1 / 1000),
            ("windows of fewer values", {k: v for k, v in one.items() if k[2] < 50}, 1 / 100),
            ("with `for: 5m`, at least 50 values", {k: v for k, v in self.paged.items() if k[2] >= 50}, 1 / 1000),
            ("with `for: 5m`, fewer values", {k: v for k, v in self.paged.items() if k[2] < 50}, 1 / 100),
        ):
            for kind, among in (
                ("independent values", [k for k in cells if not k[1].startswith("AR")]),
                ("values correlated in time", [k for k in cells if k[1].startswith("AR")]),
            ):
                worst = max(among, key=lambda k: cells[k])
                missed = sum(cells[k] > goal for k in among)
                where = f"{worst[1]}, {number(worst[0])} rows, n = {worst[2]}"
                verdict = "met" if not missed else f"missed in {missed} of {len(among)} cases"
                rows.append(
                    [
                        f"false alarms, {title}, {kind}",
                        f"at most {100 * goal:g} %",
                        f"{percent(cells[worst], 2)} ({where})",
                        verdict,
                    ]
                )
        for change in [name for name in CHANGES if name.startswith("mean + 1 sd")]:
            power = self.power["model-exporter", change, 100]
            rows.append(
                [f"{change}, windows of 100", "at least 95 %", percent(power, 2), "met" if power >= 0.95 else "missed"]
            )
        self.tables["goals"] = table(["goal", "target", "worst result", "outcome"], rows)

    def run(self) -> None:
        """Measure everything."""
        for part in (
            self.false_alarms,
            self.many_features,
            self.remedies,
            self.beside_peers,
            self.peer_tables,
            self.running,
            self.correlated,
            self.delays,
            self.goals,
        ):
            start = time.perf_counter()
            part()
            print(f"{part.__name__}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
        self.tables["peers"] = "; ".join(f"{name}: {origin}" for name, origin in ORIGIN.items()) + "."


def seeded(*key: object) -> Rng:
    """Return a separate generator for each part, so that no part depends on what ran before."""
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def number(value: int) -> str:
    """Format an integer as in the documents."""
    return f"{value:,}"


def percent(share: float, digits: int = 1) -> str:
    """Format a share in percent. Only an exact 0 or 1 is printed as 0 or 100 %."""
    least = 10.0**-digits
    if 0 < 100 * share < least:
        return f"< {least:g} %"
    if 100 - least < 100 * share < 100:
        return f"> {100 - least:g} %"
    return f"{100 * share:.{digits}f} %" if 0 < share < 1 else f"{100 * share:.0f} %"


def late(minutes: float) -> str:
    """Format a delay in minutes, up to two hours."""
    return f"{minutes:.0f}" if np.isfinite(minutes) else "> 120"


def table(head: list[str], body: list[list[str]]) -> str:
    """Return a Markdown table with names aligned left and figures right."""
    rule = ["---", *("---:" if re.match(r"[\d<>]", body[0][i]) else "---" for i in range(1, len(head)))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *body])


def write(path: Path, tables: dict[str, str]) -> None:
    """Put each table between its marks in a document."""
    text = path.read_text(encoding="utf-8")
    for name, content in tables.items():
        pattern = rf"(<!-- study: {re.escape(name)} -->\n).*?(<!-- end -->)"
        text, found = re.subn(pattern, lambda m, new=content: f"{m[1]}\n{new}\n\n{m[2]}", text, flags=re.S)
        if found != 1:
            raise SystemExit(f"{path}: expected the marks of the table {name} once, found them {found} times")
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, printed and not written")
    arguments = parser.parse_args()
    study = Study(arguments.quick)
    study.run()
    for name, content in study.tables.items():
        print(f"\n<!-- study: {name} -->\n\n{content}")
    if not arguments.quick:
        from drift_plots import draw

        draw(study, DOCS / "images")
        write(DOCS / "drift.md", study.tables)


if __name__ == "__main__":
    main()
