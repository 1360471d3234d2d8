"""Run the evidence of slow change, and a fixed threshold of KL, on the benchmark suite of driftfdr.

It has 25 cases of 100 streams, AR(1) 0.5, of 5,000 steps; a tenth of the streams changes after step 1,500. The first
1,000 steps of each stream are its training rows, in order. ``python benchmarks/studies/driftfdr_study.py`` needs the
package driftfdr, prints precision, recall and F1 of both as driftfdr defines them, and those of its own monitor with
``--theirs``. ``--seeds`` are the scenarios of each case, 4 in the whole suite.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

import numpy as np
from driftfdr import BHWindow, MonitorConfig, PageHinkley, benchmark_suite, make_scenario, run_monitor, summarize

from exporter.profiles.bins import numeric_feature
from exporter.profiles.blocks import BlockBuilder
from exporter.stats.change_evidence import ChangeEvidence
from exporter.stats.divergence import Floats, Reference, bin_indices, pad_edges

TRAINING, STEP, WINDOW = 1000, 20, 100
NEVER = 10**9


def alarms(values: Floats, limit: float) -> tuple[Any, Any]:
    """Return the step at which each stream alarms first, by its evidence and by KL above 0.3 in the last 100 values."""
    features = {str(index): numeric_feature(row[:TRAINING]) for index, row in enumerate(values)}
    builder = BlockBuilder(features, TRAINING)
    builder.add({name: values[int(name), :TRAINING] for name in features})
    scores = builder.build()
    sizes = [len(feature.counts) for feature in features.values()]
    counts = np.concatenate([feature.counts for feature in features.values()]).astype(float)
    reference = Reference.from_counts(counts, sizes)
    dispersion = np.array([scores[name].dispersion for name in features])
    detector = ChangeEvidence(reference, np.ones(len(values), dtype=bool), dispersion)
    state = np.zeros(detector.size)
    edges = pad_edges([feature.edges for feature in features.values()])
    found = np.full((2, len(values)), NEVER)
    codes = bin_indices(edges, values[:, TRAINING:]) + reference.starts[:, None]
    width = len(reference.probability)
    for end in range(STEP, codes.shape[1] + 1, STEP):
        detector.update(state, np.bincount(codes[:, end - STEP : end].ravel(), minlength=width).astype(float), limit)
        latest = np.bincount(codes[:, max(end - WINDOW, 0) : end].ravel(), minlength=width).astype(float)
        over = np.nan_to_num(detector.read(state)) > limit, reference.kl_divergence(latest) > 0.3
        for row, condition in zip(found, over, strict=True):
            row[condition & (row == NEVER)] = TRAINING + end
    return found[0], found[1]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--theirs", action="store_true")
    args = parser.parse_args()
    began, totals = time.process_time(), np.zeros((3, 3))  # right alarms, alarms, changes
    limit = math.log(100 * (5000 - TRAINING) / STEP)  # one false alarm in the life of 100 streams
    for _, config, seed in benchmark_suite():
        if seed % 4 >= args.seeds:
            continue
        scenario = make_scenario(config, seed)
        onsets = scenario.changes()[0]
        first = np.where(onsets < NEVER, onsets, NEVER).min(axis=1)
        for index, found in enumerate(alarms(scenario.signal("values").astype(float), limit)):
            right = (found < NEVER) & (found > first)
            totals[index] += right.sum(), (found < NEVER).sum(), (first < NEVER).sum()
        if args.theirs:
            one = summarize(run_monitor(scenario, PageHinkley(), BHWindow(0.1), MonitorConfig(), seed))
            totals[2] += one["detected"], one["alarms"], one["n_drifts"]
    for name, (right, all_alarms, changes) in zip(("evidence", "KL above 0.3", "driftfdr"), totals, strict=True):
        if changes:
            precision, recall = right / max(all_alarms, 1), right / changes
            f1 = 2 * precision * recall / max(precision + recall, 1e-9)
            print(f"| {name} | {precision:.2f} | {recall:.2f} | {f1:.2f} |")
    print(f"{time.process_time() - began:.0f} s of processor time")


if __name__ == "__main__":
    main()
