"""False alarms and delay of the drift alert as Prometheus runs it: overlapping windows, and `for: 5m`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from drift_bins import THRESHOLD, Bins
from drift_streams import CASES, CHANGES, Case, Change, Rng, averaged, seeded
from drift_windows import ORDERED, SHUFFLED
from study_tables import late, number, percent, table

from exporter.monitoring.noise_floors import NoiseFloors
from exporter.stats.divergence import Floats

Fired = npt.NDArray[np.bool_]
MINUTES = (5, 60)  # the windows
HOLD, KEEP = 5, 2  # minutes of `for: 5m` and of `keep_firing_for: 2m`
MONTH = 30 * 1440  # minutes
_PART = 20_000  # steps that are scored at once


class Traffic(NamedTuple):
    """Values that arrive by chance, and how often the alert is evaluated.

    Attributes
    ----------
    rate
        Mean number of values in 5 minutes.
    step
        Seconds between two evaluations.
    windows
        Lengths of the windows in minutes.
    """

    rate: float
    step: int = 5
    windows: Sequence[int] = MINUTES

    def counts(self, rng: Rng, bins: Bins, case: Case, minutes: int, change: Change | None, onset: int) -> Floats:
        """Return the counts of each step, shape ``(steps, K)``; values change after ``onset`` minutes."""
        steps = minutes * 60 // self.step
        arrivals = rng.poisson(self.rate * self.step / 300, steps)
        values = case.draw(rng, 1, int(arrivals.sum()))
        if change:
            before = int(arrivals[: onset * 60 // self.step].sum())
            values[:, before:] = change(rng, values[:, before:])
        flat = np.repeat(np.arange(steps), arrivals) * bins.size + bins.places(values[0])
        return np.bincount(flat, minlength=steps * bins.size).reshape(steps, bins.size).astype(float)

    def firing(
        self, bins: Bins, counts: Floats, floors: Sequence[NoiseFloors], threshold: float = THRESHOLD
    ) -> list[Fired]:
        """Return whether the alert fires at each step, with each of some noise floors."""
        steps = len(counts)
        total = np.vstack([np.zeros(bins.size), counts.cumsum(axis=0)])
        active = np.zeros((len(floors), steps), dtype=bool)
        for minutes in self.windows:
            length = minutes * 60 // self.step
            for start in range(0, steps, _PART):
                part = np.arange(start, min(start + _PART, steps))
                window = total[part + 1] - total[np.maximum(part + 1 - length, 0)]
                score, size = bins.score(window), window.sum(axis=-1, keepdims=True)
                for fired, floor in zip(active, floors, strict=True):
                    fired[part] |= (score > threshold) & (score > floor.training(size)[..., 0])
        quiet = np.maximum.accumulate(np.where(active, -1, np.arange(steps)), axis=1)  # the last step not active
        return list(np.arange(steps) - quiet > HOLD * 60 // self.step)


class Running:
    """Measure the running alert.

    Attributes
    ----------
    paged
        By order of the rows, number of training rows, stream and values in 5 minutes: the share of periods of 5 minutes
        without drift in which the alert fires, how many times a year it begins to, and how many years were simulated.
    minutes
        By change and values in 5 minutes: the minutes from the change to the alert.
    """

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.rows = [10_000, 1000]
        self.rates = [20, 100] if quick else [5, 20, 100]
        self.months = 1 if quick else 12
        self.minutes_a_month = 1440 if quick else MONTH
        self.onsets = 20 if quick else 300
        self.paged: dict[tuple[str, int, str, int], tuple[float, float, float]] = {}
        self.minutes: dict[tuple[str, int], Floats] = {}

    def measure(self) -> None:
        """Simulate a year of each stream (three months with few training rows), with a training set for each month."""
        for rows in self.rows:
            for name, case in CASES.items():
                for rate in self.rates:
                    rng = seeded("running", rows, name, rate)
                    months = self.months if rows == self.rows[0] else -(-self.months // 4)
                    found = [self.paging(rng, case, rows, Traffic(rate, 60)) for _ in range(months)]
                    for place, order in enumerate((ORDERED, SHUFFLED)):
                        share, pages = np.mean([month[place] for month in found], axis=0)
                        years = months * self.minutes_a_month / 525_600
                        self.paged[order, rows, name, rate] = share, pages * 525_600 / self.minutes_a_month, years
                print(f"running: {name}, {rows} rows", file=sys.stderr, flush=True)

    def paging(
        self, rng: Rng, case: Case, rows: int, traffic: Traffic, threshold: float = THRESHOLD
    ) -> list[tuple[float, int]]:
        """Return the share of periods in which the alert fires, and how often it begins to, in a month.

        For a profile of ordered and for one of shuffled rows.
        """
        training = case.training(rng, rows)
        bins = Bins(training, case)
        floors = [bins.floors, bins.floors_of(rng.permutation(training))]
        counts = traffic.counts(rng, bins, case, MINUTES[-1] + self.minutes_a_month, None, 0)
        result = []
        for fired in traffic.firing(bins, counts, floors, threshold):
            month = fired[MINUTES[-1] * 60 // traffic.step :]
            share = month.reshape(-1, 300 // traffic.step).any(axis=1).mean()
            gaps = np.diff(np.flatnonzero(month), prepend=-np.inf)
            result.append((float(share), int((gaps > KEEP * 60 // traffic.step + 1).sum())))
        return result

    def tables(self) -> dict[str, str]:
        """Return the tables of `measure`."""
        columns = [(order, rate) for order in (ORDERED, SHUFFLED) for rate in self.rates]
        body = []
        for name, case in CASES.items():
            for rows in self.rows:
                found = (
                    self.paged[order, rows, name, rate] if case.dependent or order == ORDERED else None
                    for order, rate in columns
                )
                cells = (f"{percent(cell[0], 2)}, {cell[1]:,.0f}" if cell else "" for cell in found)
                body.append([name, number(rows), *cells])
        return {"running": table(["stream", "training rows", *(f"{order}, {rate}" for order, rate in columns)], body)}

    def correlated(self) -> dict[str, str]:
        """Measure what helps the running alert against dependent values, and the delay that it causes."""
        plain = CASES["AR(1) 0.9"]
        body = []
        for remedy, order, case, together, windows, threshold in (
            ("shuffled rows", SHUFFLED, plain, 1, MINUTES, THRESHOLD),
            ("ordered rows", ORDERED, plain, 1, MINUTES, THRESHOLD),
            ("shuffled rows, `windows: [1h]`", SHUFFLED, plain, 1, MINUTES[1:], THRESHOLD),
            ("ordered rows, `windows: [1h]`", ORDERED, plain, 1, MINUTES[1:], THRESHOLD),
            ("shuffled rows, `ModelFeatureDrift: 1`", SHUFFLED, plain, 1, MINUTES, 1.0),
            (
                "ordered rows, the mean of every 20 values recorded",
                ORDERED,
                averaged(plain, 20),
                20,
                MINUTES,
                THRESHOLD,
            ),
        ):
            cells = []
            for rate in self.rates:
                rng = seeded("correlated", remedy, rate)
                traffic = Traffic(rate / together, 60, windows)
                place = (ORDERED, SHUFFLED).index(order)
                months = [
                    self.paging(rng, case, 10_000, traffic, threshold)[place] for _ in range(-(-self.months // 4))
                ]
                share = float(np.mean([month[0] for month in months]))
                minutes = [
                    self.delay(rng, case, traffic, lambda _, x: x + 1, order, threshold)
                    for _ in range(self.onsets // 3)
                ]
                median = float(np.quantile(minutes, 0.5, method="inverted_cdf"))
                cells.append(f"{percent(share, 2)}, {late(median)}")
            body.append([remedy, *cells])
        return {"correlated": table(["values in 5 minutes", *map(number, self.rates)], body)}

    def delay(
        self,
        rng: Rng,
        case: Case,
        traffic: Traffic,
        change: Change,
        order: str = ORDERED,
        threshold: float = THRESHOLD,
        rows: int = 10_000,
    ) -> float:
        """Return the minutes from a change to the alert, infinite if it does not fire within two hours."""
        training = case.training(rng, rows)
        bins = Bins(training, case)
        floors = bins.floors if order == ORDERED else bins.floors_of(rng.permutation(training))
        counts = traffic.counts(rng, bins, case, 3 * MINUTES[-1], change, MINUTES[-1])
        firing = traffic.firing(bins, counts, [floors], threshold)[0][MINUTES[-1] * 60 // traffic.step :]
        return (int(firing.argmax()) + 1) * traffic.step / 60 if firing.any() else np.inf

    def delays(self) -> dict[str, str]:
        """Measure the minutes from the change to the alert."""
        rates = [50, 100] if self.quick else [5, 20, 50, 100, 1000]
        body = []
        for change in (
            "mean + 0.5 sd",
            "mean + 1 sd",
            "spread x 2",
            "new category, 10%",
            "stuck sensor",
            "metres to feet",
            "missing, 20%",
        ):
            name, alter = CHANGES[change]
            for rate in rates:
                rng = seeded("delays", change, rate)
                onsets = self.onsets if rate <= 100 else self.onsets // 3
                minutes = [self.delay(rng, CASES[name], Traffic(rate), alter) for _ in range(onsets)]
                self.minutes[change, rate] = np.array(minutes)
            found = [np.quantile(self.minutes[change, r], [0.5, 0.95], method="inverted_cdf") for r in rates]
            body.append([change, *(f"{late(median)} ({late(most)})" for median, most in found)])
        return {"delays": table(["values in 5 minutes", *map(number, rates)], body)}

    def dependent_delays(self) -> dict[str, str]:
        """Measure the minutes from a shift of the mean of dependent values to the alert."""
        rates = [50, 100] if self.quick else [5, 20, 50, 100, 1000]
        body = [self._dependent_delays(name, rates) for name in CASES if CASES[name].dependent]
        return {"dependent-delays": table(["values in 5 minutes", *map(number, rates)], body)}

    def _dependent_delays(self, name: str, rates: list[int]) -> list[str]:
        cells = []
        for rate in rates:
            rng = seeded("delays", name, rate)
            minutes = [self.delay(rng, CASES[name], Traffic(rate), lambda _, x: x + 1) for _ in range(self.onsets // 6)]
            median, most = np.quantile(minutes, [0.5, 0.95], method="inverted_cdf")
            cells.append(f"{late(median)} ({late(most)})")
        return [name, *cells]
