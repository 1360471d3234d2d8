"""Measure how good estimates of quality without labels are: their error and how often the interval covers.

``python benchmarks/studies/quality_study.py --packages FOLDER`` takes some minutes and writes the tables between
the marks of ``docs/studies/quality.md``; ``--quick`` prints small ones in seconds. ``FOLDER`` has the packages
that bring the data, see `quality_real`. ``--nannyml PYTHON`` names an interpreter that can import
NannyML; without it the study runs all the same, and its column is empty. A part of the study gives the
same numbers alone as together with the others.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import quality_data
import quality_real
import study_tables
from quality_data import Case

from exporter.monitoring.binner import Binner
from exporter.monitoring.quality import PERIODS, miss_variance
from exporter.profiles.builder import build_file
from exporter.profiles.quality import QualityEstimator
from exporter.stats.quality import Z

DOCS = Path(__file__).parents[2] / "docs" / "studies" / "quality.md"
SEED = 2026
REFERENCES = 5
"""Drawn windows are those of so many independent sets of labelled rows: one set may be unlike the data by chance."""
DELAY = 2
"""A window's labels are known when the next one has ended, so those of two windows before it widen an interval."""


class Result(NamedTuple):
    """What was measured in the windows of a case, what was estimated, and the variance by chance; shape ``(W,)``."""

    case: Case
    constant: np.ndarray
    measured: np.ndarray
    estimates: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    chance: np.ndarray
    peer: np.ndarray | None

    @property
    def covered(self) -> np.ndarray:
        """Whether the interval of each window with an estimate has what was measured."""
        return ((self.lower <= self.measured) & (self.measured <= self.upper))[np.isfinite(self.estimates)]

    @property
    def half(self) -> float:
        """Half of the mean width of the intervals."""
        return float(np.nanmean(self.upper - self.lower)) / 2


def losses(frame: pd.DataFrame) -> pd.Series:
    """Return whether each prediction of a frame is right, or its absolute error."""
    return (frame.predicted == frame.label).astype(float) if "sure" in frame else abs(frame.predicted - frame.label)


def evaluate(case: Case, peer: Path | None) -> Result:
    """Build a profile of the reference and estimate each window from its bin counts alone."""
    estimator, binner = profiled(case)
    found = [estimator.estimate(window_counts(binner, window)) for window in case.windows]
    columns = np.array([tuple(estimate) if estimate else (np.nan,) * 3 for estimate in found]).T
    measured = np.array([losses(window).mean() for window in case.windows])
    chance = np.array([losses(window).var() / len(window) for window in case.windows])
    peers = nannyml(case, peer) if peer else None
    return Result(case, np.full(len(measured), losses(case.reference).mean()), measured, *columns, chance, peers)


def pooled(results: Iterable[Result]) -> Iterator[Result]:
    """Yield one result for all cases of the same name, whose labelled rows were drawn independently."""
    by_name: dict[str, list[Result]] = {}
    for result in results:
        by_name.setdefault(result.case.name, []).append(result)
    for same in by_name.values():
        case = same[0].case._replace(windows=[window for result in same for window in result.case.windows])
        columns = zip(*(result[1:] for result in same), strict=True)
        yield Result(case, *(None if column[0] is None else np.concatenate(column) for column in columns))


def profiled(case: Case) -> tuple[QualityEstimator, Binner]:
    """Return the estimator of a case, and the binner that counts its windows, as ``profile`` would make them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reference.npz"
        frame = case.reference.drop(columns=[name for name in ("positive",) if name in case.reference])
        np.savez(path, **{str(name): frame[name].to_numpy(dtype=float) for name in frame})
        types = {"predicted": "categorical" if case.is_classifier else "numeric"}
        profile = build_file(
            path,
            prediction_column="predicted",
            confidence_column="sure" if case.is_classifier else None,
            label_column="label",
            time_column="time",
            types=types,
        )
    binner = Binner(profile)
    assert binner.quality
    return binner.quality, binner


def window_counts(binner: Binner, window: pd.DataFrame) -> np.ndarray:
    """Return the counts of a window, as the exporter has them."""
    inputs = {name: window[name].to_numpy(dtype=float) for name in binner.inputs}
    confidences = window["sure"].to_numpy() if "sure" in window else ()
    row, *_ = binner.count_columns(inputs, len(window), window["predicted"].tolist(), confidences=confidences)
    return binner.split(row).counts


def nannyml(case: Case, python: Path) -> np.ndarray:
    """Return the estimates of NannyML's CBPE or DLE, by its own code in another interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        case.reference.drop(columns="time").to_csv(Path(folder) / "reference.csv", index=False)
        windows = pd.concat([frame.assign(window=index) for index, frame in enumerate(case.windows)])
        windows.drop(columns=["time", "label"]).to_csv(Path(folder) / "windows.csv", index=False)
        script = Path(__file__).with_name("quality_peers.py")
        subprocess.run([python, script, folder], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return np.loadtxt(Path(folder) / "estimates.csv", ndmin=1)


def row(result: Result) -> list[str]:
    """Return the cells of a result; all errors are those of the windows that have an estimate."""
    known = np.isfinite(result.estimates)
    peers = np.full(len(known), np.nan) if result.peer is None else result.peer
    error, constant, peer = (
        float(abs(values - result.measured)[known].mean()) for values in (result.estimates, result.constant, peers)
    )
    unit, digits = form(result)
    return [
        result.case.name,
        f"{len(result.measured)} × {len(result.case.windows[0]):,}",
        f"{unit * result.measured.min():.3g} – {unit * result.measured.max():.3g}",
        f"{unit * constant:{digits}}",
        f"{unit * error:{digits}}",
        f"{error / constant:.2f}",
        "–" if result.peer is None else f"{unit * peer:{digits}}",
        f"{100 * result.covered.mean():.0f}%",
        f"±{unit * result.half:{digits}}",
        str((~known).sum()),
    ]


def form(result: Result) -> tuple[int, str]:
    """Return the unit and the format of a case's accuracies, in percentage points, or of its errors."""
    return (100, ".2f") if result.case.is_classifier else (1, ".3g")


HEADER = [
    "data",
    "windows × rows",
    "measured",
    "error of a constant",
    "error",
    "ratio",
    "NannyML's error",
    "covered",
    "interval",
    "absent",
]


def table(results: Iterable[Result]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield f"| {' | '.join(HEADER)} |"
    yield "|---" * len(HEADER) + "|"
    for result in results:
        print(row(result), file=sys.stderr)
        yield f"| {' | '.join(row(result))} |"


def widened(result: Result) -> Result:
    """Widen each interval by how far earlier estimates were off beyond chance, as late labels show it."""
    misses, lower, upper = result.measured - result.estimates, result.lower.copy(), result.upper.copy()
    known = np.isfinite(result.estimates)
    for index in np.flatnonzero(known):
        past = np.flatnonzero(known[: max(index - DELAY + 1, 0)])[-PERIODS:]
        added = Z**2 * miss_variance(misses[past], result.chance[past])
        value = result.estimates[index]
        lower[index] = value - np.sqrt((value - lower[index]) ** 2 + added)
        upper[index] = value + np.sqrt((upper[index] - value) ** 2 + added)
    return result._replace(lower=lower, upper=upper)


def with_labels(results: Iterable[Result]) -> Iterator[str]:
    """Yield the table of intervals that late labels widen."""
    yield "| data | windows | covered | interval | covered with past labels | interval with past labels |"
    yield "|---" * 6 + "|"
    for result in results:
        unit, digits = form(result)
        cells = [f"{100 * r.covered.mean():.0f}% | ±{unit * r.half:{digits}}" for r in (result, widened(result))]
        yield f"| {result.case.name} | {len(result.measured)} | {' | '.join(cells)} |"


def coverage_by_size(seed: int, count: int) -> Iterator[str]:
    """Yield how often the interval covers without a change, by labelled rows and by the size of a window."""
    sizes = (20, 100, 500, 2000)
    yield f"| labelled rows | {' | '.join(f'n = {size:,}' for size in sizes)} |"
    yield "|---" * (len(sizes) + 1) + "|"
    for classifier, rows in itertools.product((True, False), (50, 200, 1000, 10_000)):
        rng = np.random.default_rng(seed + rows)
        model = quality_data.fitted(*quality_data.synthetic(rng, 10_000, classifier), classifier)
        covered = np.zeros((count, len(sizes)))
        for repeat in range(count):
            reference = quality_data.predictions(model, *quality_data.synthetic(rng, rows, classifier))
            windows = [
                quality_data.predictions(model, *quality_data.synthetic(rng, size, classifier)) for size in sizes
            ]
            result = evaluate(Case("", reference, windows), None)
            covered[repeat] = result.covered
        cells = [f"{100 * share:.0f}%" for share in covered.mean(axis=0)]
        yield f"| {rows:,}, {'classifier' if classifier else 'regression'} | {' | '.join(cells)} |"


def cost(case: Case) -> str:
    """Return how long an estimate takes."""
    estimator, binner = profiled(case)
    counts = window_counts(binner, case.windows[0])
    value, whole = (
        min(timeit.repeat(lambda call=call: call(counts), number=2000, repeat=5)) / 2000 * 1e6
        for call in (estimator.value, estimator.estimate)
    )
    return f"{case.name}: {value:.1f} µs for the estimate, {whole:.1f} µs with its interval ({binner.bins} bins)"


def parts(options: argparse.Namespace) -> dict[str, Callable[[], Iterator[str]]]:
    """Return the parts of the study by name: what measures each and yields its lines."""
    count = 10 if options.quick else 60
    real = functools.cache(lambda: [*quality_real.cases(quality_real.REAL)])
    held_out = functools.cache(lambda: [*quality_real.cases(quality_real.HELD_OUT)])

    def simulated(windows: int, references: int) -> Iterator[Case]:
        rng = np.random.default_rng(options.seed)
        for _ in range(references):
            yield from quality_data.simulated(rng, windows, 2000)

    def resampled(cases: list[Case]) -> Iterator[Case]:
        rng = np.random.default_rng(options.seed + 1)
        for case in cases * REFERENCES:
            yield quality_data.resampled(rng, case, count // REFERENCES, 1000)

    def results(cases: Iterable[Case], peer: Path | None = options.nannyml) -> Iterator[Result]:
        return (evaluate(case, peer) for case in cases)

    def measured_for_cost() -> list[Case]:
        chosen = [*simulated(1, 1)]
        return [chosen[1], chosen[-1], *real()]

    return {
        "simulated": lambda: table(pooled(results(simulated(count // REFERENCES, REFERENCES)))),
        "resampled": lambda: table(pooled(results(resampled(real())))),
        "resampled_held_out": lambda: table(pooled(results(resampled(held_out())))),
        "real": lambda: table(results(real())),
        "real_held_out": lambda: table(results(held_out())),
        "past_labels": lambda: with_labels(results([*real(), *held_out(), *simulated(count, 1)], None)),
        "sizes": lambda: coverage_by_size(options.seed, 10 if options.quick else 40),
        "cost": lambda: (f"- {cost(case)}" for case in measured_for_cost()),
    }


def main() -> None:
    """Print the tables, or write them into the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, action="append", default=[], help="folder with the data's packages")
    parser.add_argument("--nannyml", type=Path, help="interpreter that can import NannyML")
    parser.add_argument("--part", action="append", help="only this part; repeatable")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--quick", action="store_true", help="few windows; print, and write nothing")
    options = parser.parse_args()
    for folder in options.packages:
        quality_real.use_packages(folder)
    study = parts(options)
    if unknown := {*(options.part or ())} - {*study}:
        parser.error(f"--part: no {', '.join(sorted(unknown))}; there are {', '.join(study)}")
    tables = {}
    for name in options.part or study:
        tables[name] = "\n".join(study[name]())
        print(f"\n{name}, seed {options.seed}\n{tables[name]}", flush=True)
    if not options.quick:
        study_tables.write(DOCS, tables)


if __name__ == "__main__":
    main()
