"""Measure how often the burn-rate alerts are wrong, and how soon they fire, with few requests.

``python benchmarks/studies/objectives_study.py`` takes about eight minutes and writes the tables between the marks of
``docs/studies/objectives.md``. ``--quick`` prints them from few repetitions. Requests are a Poisson process, and each
fails independently. The arithmetic is that of ``prometheus/rules/system.yml``, which a test compares with this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import study_tables
from study_tables import table

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
PAGE = Path(__file__).parents[2] / "docs" / "studies" / "objectives.md"
STEPS = 2
"""Evaluations of the rules in a minute."""
PENDING = 2 * STEPS
"""Evaluations in the two minutes for which the condition must hold."""
PAIRS = ((5, 60, 14.4, False), (30, 360, 6.0, True))
"""The short and the long window in minutes, how many times the budget's share must fail, and whether one failure in the
short window is enough if nothing succeeds in it."""
HIGHEST_SHARE = 0.9
CHANCE = 0.001
YEAR = 365 * 24 * 60 * STEPS
HISTORY = 6 * 60 * STEPS
SEED = 1


def chance(failures: Floats, requests: Floats, budget: float) -> Floats:
    """Return the upper bound of the probability of at least so many failures, as the rules have it; 1 below ``n p``.

    Parameters
    ----------
    failures, requests
        Whole numbers, shape ``(n,)`` each.
    budget
        The probability that a request fails.
    """
    k, n, p = failures, requests, budget
    good = n - k
    with np.errstate(all="ignore"):
        exponent = k * np.log(n / k * p) + good * np.log(n / np.maximum(good, 1) * (1 - p))
        term = np.exp(exponent) * np.sqrt((2 * np.pi * n + 1.11) / (2 * np.pi * k + 1) / (2 * np.pi * good + 1))
        tail: Floats = term / (1 - good / (k + 1) * (p / (1 - p)))
    return np.where((k > n * p) & (k >= 2), tail, 1.0)


def burning(requests: Floats, failures: Floats, budget: float, rates_alone: bool = False) -> Flags:
    """Return whether the condition of the alert holds at each evaluation.

    Parameters
    ----------
    requests, failures
        Counts between one evaluation and the next, shape ``(evaluations,)`` each.
    rates_alone
        Whether to compare burn rates alone, without chance and the least number of failures.
    """
    result = np.zeros(len(requests), dtype=bool)
    for short, long, times, one in PAIRS:
        k, n = (_window(column, short) for column in (failures, requests))
        k_long, n_long = (_window(column, long) for column in (failures, requests))
        share = min(times * budget, HIGHEST_SHARE)
        burns = (k > share * n) & (k_long > share * n_long)
        if rates_alone:
            result |= burns
            continue
        places = np.flatnonzero(burns & ((k >= 2) | ((k == n) & one)))
        result[places] |= chance(k_long[places], n_long[places], budget) <= CHANCE
    return result


def _window(counts: Floats, minutes: int) -> Floats:
    """Return the sums of the last ``minutes`` at each evaluation."""
    total, steps = np.cumsum(counts), minutes * STEPS
    return np.concatenate([total[:steps], total[steps:] - total[:-steps]])


def firing(condition: Flags) -> Flags:
    """Return whether the alert fires at each evaluation: its condition has held for two minutes."""
    held = np.convolve(condition, np.ones(PENDING + 1), "full")[: len(condition)]
    return held > PENDING


def pages(alert: Flags) -> int:
    """Return how many times the alert begins to fire."""
    return int(np.count_nonzero(alert[1:] & ~alert[:-1])) + int(alert[0])


class Incident(NamedTuple):
    """Requests a minute, and the share of them that fails from a moment on."""

    objective: float
    rate: float
    share: float


RATES = (1 / 60, 0.1, 1, 5, 60, 6000)
OBJECTIVES = (0.999, 0.99, 0.95)
INCIDENTS = (
    *(Incident(0.999, rate, 1.0) for rate in (1 / 60, 0.1, 1, 5, 60)),
    *(Incident(0.999, rate, 0.1) for rate in (1, 5, 60, 6000)),
    *(Incident(0.999, rate, 0.02) for rate in (5, 60, 6000)),
    *(Incident(0.95, rate, 1.0) for rate in (0.1, 1, 5, 60)),
    *(Incident(0.95, rate, 0.5) for rate in (5, 60)),
)


def false_alarms(rng: np.random.Generator, years: int) -> str:
    """Return the table of alarms in a year in which exactly the budget's share of requests fails."""
    columns = [*((objective, False) for objective in OBJECTIVES), (OBJECTIVES[0], True)]
    titles = [f"objective {objective:.4g}{', burn rates alone' if alone else ''}" for objective, alone in columns]
    rows = []
    for rate in RATES:
        cells = [_traffic(rate)]
        for objective, alone in columns:
            count = 0
            for _ in range(years):
                requests = rng.poisson(rate / STEPS, YEAR)
                failures = rng.binomial(requests, 1 - objective)
                counts = requests.astype(float), failures.astype(float)
                count += pages(firing(burning(*counts, 1 - objective, alone)))
            cells.append(f"{count / years:.3g}")
        rows.append(cells)
    return table(["requests", *titles], rows)


def delays(rng: np.random.Generator, repetitions: int) -> str:
    """Return the table of minutes from the beginning of an incident until the alert fires."""
    rows = []
    for incident in INCIDENTS:
        budget = 1 - incident.objective
        times = []
        for _ in range(repetitions):
            requests = rng.poisson(incident.rate / STEPS, 3 * HISTORY)
            shares = np.where(np.arange(len(requests)) < HISTORY, budget / 10, incident.share)
            failures = rng.binomial(requests, shares)
            alert = firing(burning(requests.astype(float), failures.astype(float), budget))[HISTORY:]
            times.append((np.argmax(alert) + 1) / STEPS if alert.any() else np.inf)
        half, most = (_minutes(float(np.quantile(times, share, method="higher"))) for share in (0.5, 0.9))
        shares_shown = f"{incident.objective:.4g}", _traffic(incident.rate), f"{incident.share * 100:.3g}%"
        rows.append([*shares_shown, half, most])
    return table(["objective", "requests", "share that fails", "half within", "9 of 10 within"], rows)


def _traffic(rate: float) -> str:
    return f"{rate:,.0f} a minute" if rate >= 1 else f"{60 * rate:.0f} an hour"


def _minutes(value: float) -> str:
    if np.isinf(value):
        return "never"
    return f"{value:.0f} min" if value < 120 else f"{value / 60:.1f} h"


def tables(quick: bool) -> Iterator[tuple[str, str]]:
    """Return the name and the text of each table."""
    rng = np.random.default_rng(SEED)
    yield "false-alarms", false_alarms(rng, 1 if quick else 50)
    yield "delays", delays(rng, 20 if quick else 1000)


if __name__ == "__main__":
    study_tables.run(__doc__, PAGE, tables)
