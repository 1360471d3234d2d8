"""Measure how good estimates of quality without labels are: their error and how often the interval covers.

``python benchmarks/quality_study.py --packages FOLDER`` takes some minutes and writes the tables between
the marks of ``docs/quality.md``; ``--quick`` prints small ones in seconds. ``FOLDER`` has the packages
that bring the data, see `quality_data`. ``--nannyml PYTHON`` names an interpreter that can import
NannyML; without it the study runs all the same, and its column is empty.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import quality_data
from quality_data import Case

from exporter.monitoring.binner import Binner
from exporter.profiles.builder import build_file
from exporter.profiles.quality import QualityEstimator

DOCS = Path(__file__).parents[1] / "docs" / "quality.md"
SEED = 15
PARTS = ("simulated", "resampled", "real", "sizes", "cost")


class Result(NamedTuple):
    """What was measured in the windows of a case, and what was estimated; shape ``(W,)``."""

    case: Case
    constant: float
    measured: np.ndarray
    estimates: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    peer: np.ndarray | None


def quality(frame: pd.DataFrame) -> float:
    """Return the accuracy or the mean absolute error of a frame."""
    if "sure" in frame:
        return float((frame.predicted == frame.label).mean())
    return float(abs(frame.predicted - frame.label).mean())


def evaluate(case: Case, peer: Path | None) -> Result:
    """Build a profile of the reference and estimate each window from its bin counts alone."""
    estimator, binner = profiled(case)
    found = [estimator.estimate(window_counts(binner, window)) for window in case.windows]
    columns = np.array([tuple(estimate) if estimate else (np.nan,) * 3 for estimate in found]).T
    measured = np.array([quality(window) for window in case.windows])
    peers = nannyml(case, peer) if peer else None
    return Result(case, quality(case.reference), measured, *columns, peers)


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
    estimator = QualityEstimator.from_profile(profile, binner.names)
    assert estimator
    return estimator, binner


def window_counts(binner: Binner, window: pd.DataFrame) -> np.ndarray:
    """Return the counts of a window, as the exporter has them."""
    inputs = {name: window[name].to_numpy(dtype=float) for name in binner.inputs}
    confidences = window["sure"].to_numpy() if "sure" in window else ()
    row, _ = binner.count_columns(inputs, len(window), window["predicted"].tolist(), confidences=confidences)
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
    """Return the cells of a result."""
    known = np.isfinite(result.estimates)
    error = abs(result.estimates - result.measured)[known].mean()
    constant = abs(result.constant - result.measured)
    covered = (result.lower <= result.measured) & (result.measured <= result.upper)
    unit, digits = (100, ".2f") if result.case.is_classifier else (1, ".3g")
    peer = "–" if result.peer is None else f"{unit * np.nanmean(abs(result.peer - result.measured)):{digits}}"
    return [
        result.case.name,
        f"{len(result.measured)} × {len(result.case.windows[0]):,}",
        f"{unit * result.measured.min():.3g} – {unit * result.measured.max():.3g}",
        f"{unit * constant.mean():{digits}}",
        f"{unit * error:{digits}}",
        f"{error / constant[known].mean():.2f}",
        peer,
        f"{100 * covered[known].mean():.0f} %",
        f"±{unit * np.nanmean(result.upper - result.lower) / 2:{digits}}",
        str((~known).sum()),
    ]


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


def coverage_by_size(count: int) -> Iterator[str]:
    """Yield how often the interval covers without a change, by labelled rows and by the size of a window."""
    sizes = (20, 100, 500, 2000)
    yield f"| labelled rows | {' | '.join(f'n = {size:,}' for size in sizes)} |"
    yield "|---" * (len(sizes) + 1) + "|"
    for classifier, rows in itertools.product((True, False), (50, 200, 1000, 10_000)):
        rng = np.random.default_rng(SEED + rows)
        model = quality_data.fitted(*quality_data.synthetic(rng, 10_000, classifier), classifier)
        covered = np.zeros((count, len(sizes)))
        for repeat in range(count):
            reference = quality_data.predictions(model, *quality_data.synthetic(rng, rows, classifier))
            windows = [
                quality_data.predictions(model, *quality_data.synthetic(rng, size, classifier)) for size in sizes
            ]
            result = evaluate(Case("", reference, windows), None)
            covered[repeat] = (result.lower <= result.measured) & (result.measured <= result.upper)
        cells = [f"{100 * share:.0f} %" for share in covered.mean(axis=0)]
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


def main() -> None:
    """Print the tables, or write them into the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, action="append", default=[], help="folder with the data's packages")
    parser.add_argument("--nannyml", type=Path, help="interpreter that can import NannyML")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; repeatable")
    parser.add_argument("--quick", action="store_true", help="few windows; print, and write nothing")
    options = parser.parse_args()
    for folder in options.packages:
        quality_data.use_packages(folder)
    rng = np.random.default_rng(SEED)
    count = 10 if options.quick else 60
    simulated = list(quality_data.simulated(rng, count, 2000))
    real = list(quality_data.real())
    resampled = [quality_data.resampled(rng, case, count, 1000) for case in real]
    parts = {
        "simulated": table(evaluate(case, options.nannyml) for case in simulated),
        "resampled": table(evaluate(case, options.nannyml) for case in resampled),
        "real": table(evaluate(case, options.nannyml) for case in real),
        "sizes": coverage_by_size(10 if options.quick else 40),
        "cost": (f"- {cost(case)}" for case in (*simulated[1:2], *simulated[-1:], *real)),
    }
    document = DOCS.read_text(encoding="utf-8")
    for name in options.part or PARTS:
        lines = parts[name]  # measured as it is read
        text = "\n".join(lines)
        print(f"\n{name}, seed {SEED}\n{text}", flush=True)
        mark = rf"(<!-- study: {name} -->\n).*?(<!-- end -->)"
        document = re.sub(mark, lambda match, text=text: f"{match[1]}\n{text}\n\n{match[2]}", document, flags=re.S)
    if not options.quick:
        DOCS.write_text(document, encoding="utf-8")


if __name__ == "__main__":
    main()
