"""False alarms and power of the drift alert in single windows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from drift_bins import THRESHOLD, Bins
from drift_streams import CASES, seeded
from scipy.stats import norm
from study_tables import number, percent, percents, table

from exporter.stats.divergence import Floats

SHUFFLED, ORDERED = "shuffled", "ordered"
SHOWN = (5, 20, 50, 100, 200, 1000, 10_000)  # sizes of windows in the tables of false alarms


class Sizes(NamedTuple):
    """How much is simulated."""

    windows: int  # of each stream, size and number of training rows
    values: int  # at most, of these windows together
    trainings: int


FULL = Sizes(12_000, 2_000_000, 100)
QUICK = Sizes(200, 20_000, 2)


class Share(NamedTuple):
    """A share of windows, and its standard error from one training set to another."""

    mean: float
    error: float

    @classmethod
    def of(cls, shares: Floats) -> Share:
        """Return the mean over training sets."""
        return cls(float(np.mean(shares)), float(np.std(shares, ddof=1) / np.sqrt(len(shares))))


class Windows:
    """Measure the shares of windows that alarm.

    Attributes
    ----------
    false, above, power
        By order of the rows, number of training rows, stream and window size: the share of windows without drift that
        alarm, and that exceed the noise floor, and the share that alarm after the mean moved by one standard deviation.
        The order `None` has the noise floor of independent values.
    """

    def __init__(self, quick: bool) -> None:
        self.sizes = [5, 50, 100] if quick else [5, 10, 20, 50, 100, 200, 500, 1000, 10_000]
        self.rows = [1000, 10_000] if quick else [200, 1000, 10_000]
        self.quick = quick
        self.amount = QUICK if quick else FULL
        self.false: dict[tuple[str | None, int, str, int], Share] = {}
        self.above: dict[tuple[str | None, int, str, int], Share] = {}
        self.power: dict[tuple[str | None, int, str, int], Share] = {}

    def measure(self) -> None:
        """Measure all streams."""
        for rows in self.rows:
            for name in CASES:
                self._measure(rows, name)
                print(f"windows: {name}, {rows} rows", file=sys.stderr, flush=True)

    def _measure(self, rows: int, name: str) -> None:
        case, rng = CASES[name], seeded("windows", rows, name)
        found: dict[tuple[str | None, int], list[tuple[float, float, float]]] = {}
        for _ in range(self.amount.trainings):
            training = case.training(rng, rows)
            bins = Bins(training, case)
            floors = {
                ORDERED: bins.floors,
                SHUFFLED: bins.floors_of(rng.permutation(training)),
                None: bins.independent,
            }
            for size in self.sizes:
                wanted = min(self.amount.windows, self.amount.values // size) // self.amount.trainings
                windows = case.draw(rng, max(wanted, 1), size)
                score, shifted = (bins.score(bins.counts(part)) for part in (windows, windows + case.sd))
                for order, floor in floors.items():
                    noise = floor.training(np.array([[float(size)]]))[0, 0]
                    shares = [(s > max(noise, THRESHOLD)).mean() for s in (score, shifted)]
                    found.setdefault((order, size), []).append((shares[0], (score > noise).mean(), shares[1]))
        for (order, size), parts in found.items():
            key = (order, rows, name, size)
            for kept, shares in zip((self.false, self.above, self.power), np.transpose(parts), strict=True):
                kept[key] = Share.of(shares)

    def tables(self) -> dict[str, str]:
        """Return the tables of `measure`."""
        sizes = [n for n in self.sizes if n in SHOWN]
        head = list(map(number, sizes))
        alone = [name for name, case in CASES.items() if not case.dependent]
        dependent = [name for name, case in CASES.items() if case.dependent]

        def false(orders: Sequence[str], rows: Sequence[int], name: str, separator: str) -> list[str]:
            return [
                percents((self.false[o, r, name, n].mean for r in rows for o in orders), separator=separator)
                for n in sizes
            ]

        return {
            "false-alarms": table(
                ["values per window", *head], [[name, *false([ORDERED], self.rows, name, " · ")] for name in alone]
            ),
            "dependent-false-alarms": table(
                ["stream", "training rows", *head],
                [
                    [name, number(rows), *false([ORDERED, SHUFFLED], [rows], name, ", ")]
                    for name in dependent
                    for rows in self.rows[-2:]
                ],
            ),
            "dependent-floor": table(
                ["values per window", *head],
                [
                    [name, *(percent(self.above[ORDERED, self.rows[-1], name, n].mean) for n in sizes)]
                    for name in dependent
                ],
            ),
            "dependent-power": self._power_table(dependent),
        }

    def _power_table(self, names: list[str]) -> str:
        rows, sizes = self.rows[-1], [n for n in self.sizes if n >= 20]
        body = []
        for name in names:
            cells = []
            for size in sizes:
                best = self.best(rows, name, size)
                shares = [self.power[ORDERED, rows, name, size].mean, *([] if best is None else [best])]
                cells.append(percents(shares, 0, " of "))
            body.append([name, *cells])
        return table(["values per window", *map(number, sizes)], body)

    def best(self, rows: int, name: str, size: int) -> float | None:
        """Return the power of the two-sided z-test of the mean at the share of false alarms that was found.

        The test knows the mean of the stream and the variance of the mean of a window. None for streams that are not
        normal. Where no window alarmed, the share is taken as half a window.
        """
        variance = CASES[name].variance
        if variance is None:
            return None
        least = 0.5 / min(self.amount.windows, self.amount.values // size)
        level = norm.isf(max(self.false[ORDERED, rows, name, size].mean, least) / 2)
        shift = 1 / np.sqrt(variance(size))
        return float(norm.sf(level - shift) + norm.cdf(-level - shift))

    def remedies(self) -> dict[str, str]:
        """Measure false alarms and remaining power in the hard cases, with other thresholds and bins."""
        settings = [(20, 0.3), (10, 0.3), (20, 0.5), (10, 0.5), (20, 1.0)]
        body = []
        trainings = min(self.amount.trainings, 20)
        for name, rows, size in (
            ("normal", 200, 20),
            ("normal", 200, 50),
            ("normal", 1000, 50),
            ("AR(1) 0.9", 1000, 100),
            ("AR(1) 0.97, half noise", 1000, 100),
            ("sessions", 1000, 100),
            ("sessions", 10_000, 1000),
            ("long memory", 10_000, 100),
        ):
            case, cells = CASES[name], []
            for bins, threshold in settings:
                rng = seeded("remedies", name, rows, size)
                fired = []
                for _ in range(trainings):
                    made = Bins(case.training(rng, rows), case, bins)
                    windows = case.draw(rng, self.amount.windows // trainings, size)
                    fired.append([made.alarms(made.counts(windows + shift), threshold).mean() for shift in (0, 1)])
                false, power = np.mean(fired, axis=0)
                cells.append(f"{percent(false, 2)}, {percent(power, 0)}")
            body.append([f"{name}, {number(rows)} rows, n = {size}", *cells])
        return {"remedies": table(["false alarms, power", *(f"{b} bins, {t:g}" for b, t in settings)], body)}


def score_bands() -> tuple[list[int], dict[str, Floats], Floats]:
    """Return window sizes, the 1%, 50% and 99% quantiles of the score at each, and the noise floor."""
    sizes = [int(n) for n in np.geomspace(5, 10_000, 24).round()]
    found: dict[str, Floats] = {}
    for label, shift in (("no drift", 0.0), ("mean + 0.5 sd", 0.5), ("mean + 1 sd", 1.0)):
        rng = seeded("bands", label)
        bins = Bins(rng.normal(size=10_000), CASES["normal"])
        scores = [bins.score(bins.counts(rng.normal(shift, size=(1000, n)))) for n in sizes]
        found[label] = np.quantile(scores, [0.01, 0.5, 0.99], axis=1).T
    return sizes, found, bins.floors.training(np.array(sizes, dtype=float)[:, None])[:, 0]
