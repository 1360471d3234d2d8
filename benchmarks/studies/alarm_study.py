"""Measure how often plain alerts are wrong, and how soon they are right, by simulating the arithmetic of their rules.

Requests arrive independently at a rate; each fails, is corrected, is slow or unconfident with a probability. Counters
are read at the scrape interval, rules are evaluated as in ``prometheus/rules/``, with their windows, their exact tails
and their ``for``. Each cell has the worst of the scrape intervals. Run ``python benchmarks/studies/alarm_study.py``;
``--years`` sets the time that is simulated up to 60 requests a minute; above, it is one. ``--only`` chooses alerts.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
STEP = 15
"""Seconds from one evaluation to the next; errors are judged at each second one."""
INTERVALS = (5, 15, 45, 60)
"""Scrape intervals in seconds; one that is shorter than a step is seen as one step."""
RATES = (1, 5, 20, 60, 200, 1000, 60_000)
YEAR = 365 * 86400 // STEP
CHANCE, CERTAIN = 0.001, 1.576
MOST = 20_000_000
"""Requests between which gaps are drawn."""


def tail(k: Floats, n: Floats, p: float) -> Floats:
    """Return the probability of at least ``k`` of ``n``, as the rules compute it; 1 where they have no result."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        rest = n - k
        log = k * np.log(n / k * p) + rest * np.log(n / np.maximum(rest, 1) * (1 - p))
        root = np.sqrt((2 * np.pi * n + 1.11) / (2 * np.pi * k + 1) / (2 * np.pi * rest + 1))
        result = np.exp(log) * root / (1 - rest / (k + 1) * p / (1 - p))
    return np.where((k >= 2) & (k > n * p), result, 1.0)


def window(counts: Floats, seconds: int) -> Floats:
    """Return the sum of a window at each evaluation."""
    total = np.concatenate(([0.0], np.cumsum(counts)))
    steps = min(seconds // STEP, len(counts))
    return total[steps:] - total[:-steps]


def scraped(counts: Floats, interval: int) -> Floats:
    """Return counts as they are seen: those since the last scrape arrive with the next."""
    every = max(interval // STEP, 1)
    whole = counts[: len(counts) // every * every].reshape(-1, every)
    seen = np.zeros_like(whole)
    seen[:, -1] = whole.sum(axis=1)
    return seen.ravel()


def each_half_minute(condition: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return a condition as a group of rules sees it that is evaluated at each second step."""
    return np.repeat(condition[::2], 2)[: len(condition)]


def fires(condition: npt.NDArray[np.bool_], seconds: int) -> tuple[int, float]:
    """Return how often an alert fires whose condition has to hold for a time, and when it does so first, in minutes."""
    steps = seconds // STEP + 1
    held = np.convolve(condition.astype(np.int32), np.ones(steps, dtype=np.int32))[: len(condition)] == steps
    # Alerts that end for less than three minutes go on firing.
    starts = np.flatnonzero(held[1:] & ~held[:-1]) + 1
    ends = np.flatnonzero(~held[1:] & held[:-1]) + 1
    again = sum(1 for start in starts[1:] if any(0 < start - end <= 180 // STEP for end in ends[ends < start][-1:]))
    first = float(np.argmax(held)) * STEP / 60 if held.any() else math.inf
    return len(starts) - again + int(held[0]), first


def errors(n: Floats, k: Floats, limit: float) -> tuple[int, float]:
    """ModelErrorRatioHigh."""
    found = np.zeros(len(n) - 1800 // STEP + 1, dtype=bool)
    for seconds in (180, 300, 600, 1800):
        requests, failures = window(n, seconds)[-len(found) :], window(k, seconds)[-len(found) :]
        found |= (failures >= 7) & (tail(failures, requests, limit) <= CHANCE)
    requests, failures = window(n, 300)[-len(found) :], window(k, 300)[-len(found) :]
    return fires(each_half_minute(found & ((failures > limit * requests) | (requests * limit < 1))), 60)


def corrections(n: Floats, k: Floats, limit: float) -> tuple[int, float]:
    """ModelCorrectionRatioHigh."""
    predictions, corrected = window(n, 3600), window(k, 3600)
    return fires((corrected >= 3) & (tail(corrected, predictions, limit) <= CHANCE / 5), 300)


def unconfident(n: Floats, k: Floats, limit: float) -> tuple[int, float]:
    """ModelConfidentRatioLow, of its own mean of 90%: 72% are the limit."""
    return fires(tail(window(k, 3600), window(n, 3600), limit) <= CHANCE, 900)


def slow(n: Floats, k: Floats, limit: float) -> tuple[int, float]:
    """ModelLatencyHigh: the share of slow requests is known by a few quantiles."""
    requests, late = window(n, 300), window(k, 300)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.nan_to_num(late / requests)
    levels = (0.9, 0.5, 0.3, 0.2, 0.1, 0.08, 0.06)
    least = np.select([share > level for level in levels], levels)
    timed = np.floor(0.8 * requests)
    return fires((share > limit) & (tail(np.floor(least * timed + 1e-3), timed, limit) <= CHANCE), 300)


def burn(n: Floats, k: Floats, budget: float) -> tuple[int, float]:
    """ModelErrorBudgetBurn."""
    length = len(n) - 6 * 3600 // STEP + 1
    found = np.zeros(length, dtype=bool)
    for short, long, factor in ((300, 3600, 14.4), (1800, 6 * 3600, 6.0)):
        requests, failures = window(n, short)[-length:], window(k, short)[-length:]
        of_long, failed = window(n, long)[-length:], window(k, long)[-length:]
        limit = min(factor * budget, 0.9)
        found |= (
            (failures > limit * requests)
            & (failures >= 2)
            & (failed > limit * of_long)
            & (tail(failed, of_long, budget) <= CHANCE)
        )
    return fires(each_half_minute(found), 120)


def inaccurate(n: Floats, k: Floats, limit: float) -> tuple[int, float]:
    """ModelAccuracyLow: each prediction has a label at once, and the windows are those of a model without its own."""
    length = max(len(n) - 7 * 86400 // STEP, LONGEST)
    found, ended = np.zeros(length, dtype=bool), np.zeros(length, dtype=bool)
    for seconds in (300, 3600, 86400, 7 * 86400):
        labels, wrong = (window(np.pad(counts, (seconds // STEP - 1, 0)), seconds)[-length:] for counts in (n, k))
        with np.errstate(divide="ignore", invalid="ignore"):
            right = 1 - wrong / labels
            middle = (labels * right + 1.92073) / (labels + 3.841459)
            half = 1.959964 * np.sqrt(labels * right * (1 - right) + 0.960365) / (labels + 3.841459)
        found |= (labels >= 20) & (CERTAIN * (middle + half) - (CERTAIN - 1) * right < 1 - limit) & ~ended
        ended |= (labels >= 20) & (middle - half >= 1 - limit)
    return fires(found, 900)


class Kind(NamedTuple):
    """An alert: its function, its limit, and the shares of what it counts that are simulated."""

    judge: Callable[[Floats, Floats, float], tuple[int, float]]
    limit: float
    quiet: tuple[float, ...]
    bad: tuple[float, ...]


KINDS = {
    "ModelErrorRatioHigh": Kind(errors, 0.01, (0.001, 0.005), (0.02, 0.05, 0.10)),
    "ModelErrorBudgetBurn": Kind(burn, 0.001, (0.001,), (0.02, 0.05, 0.10)),
    "ModelLatencyHigh": Kind(slow, 0.05, (0.01, 0.03), (0.10, 0.25, 0.50)),
    "ModelCorrectionRatioHigh": Kind(corrections, 0.01, (0.005, 0.008), (0.02, 0.05, 0.10)),
    "ModelConfidentRatioLow": Kind(unconfident, 0.28, (0.10, 0.20), (0.56, 0.84)),
    "ModelAccuracyLow": Kind(inaccurate, 0.15, (0.10, 0.125), (0.20, 0.30, 0.50)),
}
INCIDENTS = 200
BEFORE, LONGEST = 6 * 3600 // STEP, 2 * 3600 // STEP
"""Steps before an incident, and those in which it is to be found; whole numbers of scrapes."""


def drawn(rng: np.random.Generator, rate: float, share: float, steps: int) -> tuple[Floats, Floats]:
    """Return what is counted and what fails in each step."""
    n = rng.poisson(rate * STEP / 60, steps)
    return n.astype(float), rng.binomial(n, share).astype(float)


def silence(rng: np.random.Generator, rate: float, years: float) -> float:
    """Return how often a year ModelTrafficMissing fires: 10 minutes, and 14 requests expected at the hour's rate."""
    events = int(min(rate * 60 * 24 * 365 * years, MOST))
    gaps, before = rng.exponential(60 / rate, events), rng.poisson(60 * rate, events)
    found = int(((gaps >= 600 + 120) & ((gaps - 120) * before / 3600 >= 14)).sum())
    return found * rate * 60 * 24 * 365 / events


def drop(rng: np.random.Generator, rate: float, years: float) -> float:
    """Return how often a year ModelAttemptsDrop fires without a change."""
    steps = int(YEAR * years)
    now, past = (window(rng.poisson(rate * STEP / 60, steps).astype(float), 3600) for _ in range(2))
    found, _ = fires((now < 0.5 * past) & (tail(past, now + past, 1 / 1.5) <= CHANCE), 1800)
    return found / years


def fastest(rng: np.random.Generator, rate: float, usual: float, share: float) -> tuple[float, float]:
    """Return the minutes, median and 90%, that the fastest test needs which is wrong once a year at a usual share.

    It is Page's CUSUM, for a share that it knows in advance, at each step. How often it is wrong follows from its
    cycles from 0 to 0: that one reaches the limit is as probable as with the other share, weighted by the likelihood.
    """
    failure, success = math.log(share / usual), math.log((1 - share) / (1 - usual))

    def moved(sums: Floats, p: float) -> Floats:
        n = rng.poisson(rate * STEP / 60, len(sums))
        k = rng.binomial(n, p)
        return sums + failure * k + success * (n - k)

    def cycles(limit: float, p: float) -> tuple[float, float]:
        """Return the mean weight of those that reach the limit, and the mean number of steps."""
        sums, weights, steps, number = np.zeros(100_000), 0.0, 0, 100_000
        while len(sums):
            steps += len(sums)
            sums = moved(sums, p)
            weights += float(np.exp(-sums[sums >= limit]).sum())
            sums = sums[(sums > 0) & (sums < limit)]
        return weights / number, steps / number

    length, low, high = cycles(math.inf, usual)[1], 2.0, 25.0
    while high - low > 0.01:
        limit = (low + high) / 2
        low, high = (limit, high) if cycles(limit, share)[0] / length * YEAR > 1 else (low, limit)
    sums, times = np.zeros(4000), np.full(4000, math.inf)
    for _ in range(BEFORE):
        sums = np.clip(moved(sums, usual), 0, high - 1e-9)
    for step in range(1, 10 * LONGEST):
        sums = np.maximum(moved(sums, share), 0)
        times[(sums >= high) & np.isinf(times)] = step * STEP / 60
        if np.isfinite(times).all():
            break
    middle, late = np.quantile(times, (0.5, 0.9))
    return float(middle), float(late)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--years", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    args = parser.parse_args()
    rng, began = np.random.default_rng(args.seed), time.process_time()
    kinds = {name: KINDS[name] for name in args.only}
    print(f"False firings a year, {args.years} years simulated, the worst of the scrape intervals {INTERVALS}.")
    print("| alert, true share | " + " | ".join(f"{rate:,} a minute" for rate in RATES) + " |")
    print("|---|" + "---|" * len(RATES))
    for name, kind in kinds.items():
        for share in kind.quiet:
            cells = []
            for rate in RATES:
                found, years = np.zeros(len(INTERVALS)), args.years if rate <= 60 else 1
                for _ in range(years):
                    n, k = drawn(rng, rate, share, YEAR)
                    found += [kind.judge(scraped(n, every), scraped(k, every), kind.limit)[0] for every in INTERVALS]
                cells.append(f"{found.max() / years:.2g}")
            print(f"| {name}, {share:.1%} of {kind.limit:.1%} | " + " | ".join(cells) + " |")
    of_traffic = (("ModelTrafficMissing", silence), ("ModelAttemptsDrop", drop))
    for name, judge in of_traffic if len(kinds) == len(KINDS) else ():
        cells = [f"{judge(rng, rate, args.years):.2g}" for rate in RATES]
        print(f"| {name}, nothing changed | " + " | ".join(cells) + " |")
    print_times(kinds, rng)
    print(f"\n{time.process_time() - began:.0f} s of processor time")


def print_times(kinds: dict[str, Kind], rng: np.random.Generator) -> None:
    """Print how soon alerts fire."""
    print(f"\nMinutes until it fires, median and 90% of {INCIDENTS} incidents; a dash: not within two hours.")
    print("| alert, share | " + " | ".join(f"{rate:,} a minute" for rate in RATES) + " |")
    print("|---|" + "---|" * len(RATES))
    for name, kind in kinds.items():
        for share in kind.bad:
            cells = []
            for rate in RATES:
                times = []
                for _ in range(INCIDENTS):
                    quiet, wrong = (
                        drawn(rng, rate, one, length) for one, length in ((kind.quiet[0], BEFORE), (share, LONGEST))
                    )
                    n, k = (np.concatenate(parts) for parts in zip(quiet, wrong, strict=True))
                    times.append([_after(kind, scraped(n, every), scraped(k, every)) for every in INTERVALS])
                middle, high = np.quantile(times, (0.5, 0.9), axis=0, method="higher").max(axis=1)
                cells.append("–" if math.isinf(middle) else f"{middle:.1f}, {high:.1f}".replace("inf", "–"))
            print(f"| {name}, {share:.0%} | " + " | ".join(cells) + " |")
    print("\nMinutes that the fastest test of errors needs which is wrong once a year at 0.5%, median and 90%:")
    for rate, share in ((60, 0.05), (5, 0.10)):
        middle, late = fastest(rng, rate, 0.005, share)
        print(f"{share:.0%} of {rate} a minute: {middle:.1f}, {late:.1f}")


def _after(kind: Kind, n: Floats, k: Floats) -> float:
    """Return the minutes from the beginning of an incident: the last two hours of the counts."""
    before = {errors: 1800, corrections: 3600, unconfident: 3600, slow: 300, burn: 6 * 3600, inaccurate: 6 * 3600}
    lead = before[kind.judge] // STEP
    return kind.judge(n[-LONGEST - lead + 1 :], k[-LONGEST - lead + 1 :], kind.limit)[1]


if __name__ == "__main__":
    main()
