"""Measure which drift the windows of single replicas show, and that of all replicas together, in windows of few values.

With ``metrics: summary``, ModelFeatureDrift knows the windows of each replica; with ``metrics: full``, it also knows
the sum of all. Also measure what it costs replicas with ``summary`` to compute the sum themselves. ``docs/scale.md``
has the figures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.append(str(Path(__file__).parents[1]))

from study_tables import percents, table
from timing import median_seconds, profile

from exporter.config import ModelConfig
from exporter.monitoring.binner import Binner
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.snapshots import encode
from exporter.server.tasks.snapshots import of_all_replicas
from exporter.stats.divergence import Floats
from exporter.wire.batch import Batch, Inputs

WINDOWS = 20_000
THRESHOLD = ModelConfig("").threshold("ModelFeatureDrift")


def found(binner: Binner, counts: Floats) -> npt.NDArray[np.bool_]:
    """Return whether the score of a feature's counts, shape ``(..., B)``, is above its noise floor and threshold."""
    score = binner.reference.kl_divergence(counts)[..., 0]
    floor = binner.profile_noise.training(counts.sum(axis=-1, keepdims=True))[..., 0]
    return np.asarray((score > floor) & (score > THRESHOLD))


def cost(features: int = 50, others: int = 2) -> None:
    """Print what adding the windows of other replicas costs for a version, after two hours of traffic."""
    binner, rng = Binner(profile(features)), np.random.default_rng(1)
    monitors = [ModelMonitor(ModelConfig("m", metrics="summary"), "1", binner) for _ in range(others + 1)]
    end = 7200.0
    for monitor in monitors:
        for at in np.arange(0.0, end, 30.0):
            values = {f"f{number}": rng.normal(size=20) for number in range(features)}
            batch = Batch(model="m", rows=20, inputs=Inputs(values, 20))
            monitor.observe(monitor.prepare(batch), float(at))
    own, *rest = monitors
    snapshots = [encode(other, end, 1e9) for other in rest]
    seconds = median_seconds(lambda: of_all_replicas(own, snapshots, end, 1e9))
    size = sum(map(len, snapshots)) / 1e6
    print(f"{features} features on {others + 1} replicas: {1e3 * seconds:.0f} ms, {size:.2f} MB of snapshots")


def main() -> None:
    """Print the figures."""
    cost()
    binner = Binner(profile(1))
    rng = np.random.default_rng(5)
    shares = []
    for shift in (0.0, 1.0):
        values = (rng.normal(size=400_000) + shift).tolist()
        row, *_ = binner.count_columns({"f0": values}, len(values), [])
        shares.append(binner.split(row).counts / len(values))
    rows = []
    for replicas in (2, 3, 10):
        for observed in (3, 5, 10, 20, 50, 100):
            cells = []
            for share in shares:
                counts = rng.multinomial(observed, share, size=(WINDOWS, replicas)).astype(float)
                cells.append((found(binner, counts).any(axis=1).mean(), found(binner, counts.sum(axis=1)).mean()))
            (false, together_false), (right, together) = cells
            rows.append(
                [replicas, observed, *(percents([s]) for s in (right, together, false, together_false))],
            )
    head = ["replicas", "values of each", "any replica", "all together", "any, no drift", "all together, no drift"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
