"""Measure how often equal versions are called different by someone who looks every minute, and what a verdict costs.

``python benchmarks/studies/sequential_study.py`` takes about ten minutes and writes the tables between the marks of
``docs/studies/compare.md``; ``--quick`` prints small ones. Counts are simulated; measures, intervals and the level of a
verdict are the exporter's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import study_tables

from exporter.comparison.measures import (
    EACH_LEVEL,
    FIXED,
    SEQUENTIAL,
    Comparison,
    Counts,
    Feature,
    Method,
    Period,
    Quality,
    Side,
    compare,
    decide,
)
from exporter.stats.intervals import Difference, difference, excludes_zero, share

PAGE = Path(__file__).parents[2] / "docs" / "studies" / "compare.md"
SEED = 20
WEEK = 7 * 24 * 60
REQUESTS = 20.0
"""Mean number of requests of both versions in a minute; at night a fifth of it."""
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, float("inf"))
BINS = 24
TRAINING = np.full(BINS, 1 / BINS)
TABLES = ("sequential-looks", "sequential-requests")
Rng = np.random.Generator
Array = np.ndarray[Any, Any]


class Version(NamedTuple):
    """What a version does: shares of its requests, mean of its logarithmic latency, tilt of a feature, and error."""

    errors: float = 0.005
    confident: float = 0.8
    corrected: float = 0.02
    accuracy: float = 0.9
    latency: float = -3.0
    tilt: float = 0.5
    absolute_error: float = 0.0

    def buckets(self) -> Array:
        """Return the share of requests in each bucket of the latency, which is lognormal."""
        below = [NormalDist(self.latency, 1.0).cdf(float(np.log(bound))) for bound in BOUNDS[:-1]]
        return np.diff([0.0, *below, 1.0])

    def bins(self) -> Array:
        """Return the share of values in each bin of the feature."""
        live = TRAINING * np.exp(self.tilt * np.linspace(-1, 1, BINS))
        return live / live.sum()


USUAL = Version()


def counted(rng: Rng, version: Version, requests: Array) -> Callable[[int], Counts]:
    """Draw counts of the requests between looks, a fifth with a label; returns those up to a look."""
    confident, labelled = rng.binomial(requests, version.confident), rng.binomial(requests, 0.2)
    drawn = rng.exponential(version.absolute_error, labelled.sum())
    split = np.cumsum(labelled)[:-1]
    totals = {
        "requests": requests,
        "errors": rng.binomial(requests, version.errors),
        "confident": confident,
        "corrections": rng.binomial(confident, version.corrected),
        "durations": np.cumsum(rng.multinomial(requests, version.buckets()), axis=1).astype(float),
        "feature": rng.multinomial(requests, version.bins()).astype(float),
        "labelled": labelled,
        "correct": rng.binomial(labelled, version.accuracy),
        "absolute": np.array([part.sum() for part in np.split(drawn, split)]),
        "squared": np.array([part.sum() for part in np.split(drawn**2, split)]),
    }
    sums = {name: np.cumsum(array, axis=0) for name, array in totals.items()}

    def at(look: int) -> Counts:
        now = {name: array[look].tolist() for name, array in sums.items() if name != "feature"}
        return Counts(
            requests=now["requests"],
            errors=now["errors"],
            attempts=now["requests"],
            confident=now["confident"],
            corrections=now["corrections"],
            feedback=now["confident"],
            bounds=BOUNDS,
            durations=tuple(now["durations"]),
            features={"age": Feature(sums["feature"][look], TRAINING)} if now["requests"] else {},
            changed=(),
            quality=Quality(
                labelled=now["labelled"],
                correct=now["correct"],
                absolute_error=now["absolute"],
                squared_error=now["squared"],
                regression=version.absolute_error > 0,
            ),
        )

    return at


def at_one_level(method: Method) -> Method:
    """Return a method that judges each measure at the level of one of six, without computing exact p-values."""

    def judged(subtract: Callable[..., Difference]) -> Callable[..., Difference]:
        def judge(*sides: Any) -> Difference:
            result = subtract(*sides)
            if result.chance:
                return result
            return dataclasses.replace(result, chance=lambda: 1.0 - excludes_zero(result.within(EACH_LEVEL)))

        return judge

    names = ("share_difference", "quantile_difference", "divergence_difference", "mean_difference")
    differences = {name: judged(getattr(method, name)) for name in names}
    return method._replace(**differences, significant=SEQUENTIAL.significant)


ONE_LOOK, ANY_LOOKS = at_one_level(FIXED), at_one_level(SEQUENTIAL)


# ---- equal versions, looked at every minute


def at_half(minutes: Array) -> Array:
    """Return the share of requests that the new version gets in each minute: always half."""
    return np.full(len(minutes), 0.5)


def in_steps(minutes: Array) -> Array:
    """Return the share in a rollout: 5% for an hour, 20% for a day, then half."""
    return np.select([minutes < 60, minutes < 25 * 60], [0.05, 0.2], 0.5)


SPLITS = {"half": at_half, "5% for an hour, 20% for a day, then half": in_steps}


class Looks(NamedTuple):
    """What someone saw who looked at two equal versions every minute: ever a verdict, by the method; the decision."""

    sequential: bool
    fixed: bool
    decision: str


def equal_versions(rng: Rng, split: str, minutes: int) -> Looks:
    """Look at two equal versions every minute; with intervals for one look, at the correction ratio alone."""
    times = np.arange(minutes)
    requests = rng.poisson(REQUESTS * (1 + 0.8 * np.sin(2 * np.pi * times / 1440)))
    new = rng.binomial(requests, SPLITS[split](times))
    before, after = (counted(rng, USUAL, side) for side in (requests - new, new))
    verdict = fixed = False
    for look in range(minutes):
        old, now = before(look), after(look)
        verdict = verdict or any(measure.significant for measure in compare(old, now, ANY_LOOKS))
        if not fixed and old.confident and now.confident:
            shares = [share(int(side.corrections), int(side.confident)) for side in (old, now)]
            fixed = excludes_zero(difference(*shares).interval)
    period, ends = Period(0, 60 * minutes), (before(minutes - 1), after(minutes - 1))
    sides = Side("1", period, ends[0]), Side("2", period, ends[1])
    comparison = Comparison("model", *sides, compare(*ends, SEQUENTIAL), 60.0 * minutes, sequential=True)
    return Looks(verdict, fixed, decide(comparison, {}).word)


def looks_table(runs: int, minutes: int) -> str:
    """Return the table of equal versions."""
    rows = []
    for number, split in enumerate(SPLITS):
        seen = [equal_versions(np.random.default_rng((SEED, number, run)), split, minutes) for run in range(runs)]
        promoted = [one.decision == "promote" for one in seen]
        shares = [[one.sequential for one in seen], [one.fixed for one in seen], promoted]
        rows.append([split, runs, *(study_tables.percent(sum(each) / runs) for each in shares)])
    head = (
        "requests to the new version", "runs", "any measure ever gets a verdict",
        "with intervals for one look, the correction ratio alone", "`promote` at the end",
    )  # fmt: skip
    return study_tables.table(head, rows)


# ---- versions that differ: the requests until a verdict


class Case(NamedTuple):
    """A measure, how its change is written, and both versions."""

    name: str
    change: str
    before: Version
    after: Version


CASES = (
    Case("error_ratio", "0.5% to 1.5%", USUAL, USUAL._replace(errors=0.015)),
    Case("correction_ratio", "1% to 3%", USUAL._replace(corrected=0.01), USUAL._replace(corrected=0.03)),
    Case("correction_ratio", "3% to 0.5%", USUAL._replace(corrected=0.03), USUAL._replace(corrected=0.005)),
    Case("confident_ratio", "80% to 70%", USUAL, USUAL._replace(confident=0.7)),
    Case("accuracy", "90% to 85%", USUAL, USUAL._replace(accuracy=0.85)),
    Case("accuracy", "90% to 93%", USUAL, USUAL._replace(accuracy=0.93)),
    Case(
        "mean_absolute_error", "1 to 1.2", USUAL._replace(absolute_error=1.0), USUAL._replace(absolute_error=1.2)
    ),
    Case("worst_drift_nats", "0.04 to 0.15 nats", USUAL, USUAL._replace(tilt=1.0)),
)  # fmt: skip


def only(case: Case, counts: Counts) -> Counts:
    """Return the counts without those that only other measures need."""
    kept = {
        "error_ratio": ("requests", "errors"),
        "correction_ratio": ("confident", "corrections", "feedback"),
        "confident_ratio": ("attempts", "confident"),
        "accuracy": ("quality",),
        "mean_absolute_error": ("quality",),
        "worst_drift_nats": ("features",),
    }[case.name]
    empty = Counts(0, 0, 0, 0, 0, 0, (), (), {}, ())
    return empty._replace(**{name: getattr(counts, name) for name in kept})


def found(case: Case, before: Counts, after: Counts, method: Method) -> bool:
    """Return whether the measure of a case has a verdict."""
    measures = compare(only(case, before), only(case, after), method)
    return any(measure.significant for measure in measures if measure.name == case.name)


def fixed_requests(rng: Rng, case: Case, power: float, runs: int) -> int:
    """Return the requests to each version with which the method for one look finds the difference so often."""

    def enough(requests: int) -> bool:
        pairs = ([counted(rng, version, np.array([requests]))(0) for version in case[2:]] for _ in range(runs))
        return sum(found(case, *pair, ONE_LOOK) for pair in pairs) >= power * runs

    low, high = 50, 100
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 0.02 * high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def sequential_requests(rng: Rng, case: Case, step: int) -> int:
    """Return the requests to each version, on average of both, at the first verdict of a look after each step."""
    new = rng.binomial(2 * step, 0.5, 1000)
    before, after = counted(rng, case.before, 2 * step - new), counted(rng, case.after, new)
    return step * next(look + 1 for look in range(1000) if found(case, before(look), after(look), ANY_LOOKS))


def requests_table(cases: tuple[Case, ...], runs: int, fixed_runs: int) -> str:
    """Return the table of requests until a verdict."""
    rows = []
    for number, case in enumerate(cases):
        rng = np.random.default_rng((SEED, number))
        some, most = (fixed_requests(rng, case, power, fixed_runs) for power in (0.8, 0.9))
        seen = np.array([sequential_requests(rng, case, max(some // 50, 1)) for _ in range(runs)])
        late = f"{np.quantile(seen, 0.9):,.0f}"
        ratios = [f"{seen.mean() / fixed:.2f}" for fixed in (some, most)]
        name = case.name.removesuffix("_nats").replace("_", " ")
        rows.append([name, case.change, f"{some:,}", f"{most:,}", f"{seen.mean():,.0f}", late, *ratios])
    head = (
        "measure", "change", "one look, 80% power", "one look, 90% power", "at any time, mean",
        "at any time, in 90% of runs", "mean / 80%", "mean / 90%",
    )  # fmt: skip
    return study_tables.table(head, rows)


def tables(quick: bool) -> Iterator[tuple[str, str]]:
    """Return the name and the text of each table."""
    looks, requests = TABLES
    cases, *runs = ((CASES[1], CASES[4]), 20, 100) if quick else (CASES, 100, 300)
    yield requests, requests_table(cases, *runs)
    yield looks, looks_table(*((4, 240) if quick else (20, WEEK)))


if __name__ == "__main__":
    study_tables.run(__doc__, PAGE, tables)
