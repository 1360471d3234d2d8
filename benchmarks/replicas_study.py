"""Measure which drift the windows of single replicas show, and that of all replicas together, in windows of few values.

With ``metrics: summary``, ModelFeatureDrift knows the windows of each replica; with ``metrics: full``, it also knows
the sum of all. ``docs/scale.md`` has the table.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from study_tables import percents, table
from timing import profile

from exporter.config import THRESHOLDS
from exporter.monitoring.binner import Binner
from exporter.stats.divergence import Floats

WINDOWS = 20_000
THRESHOLD = THRESHOLDS["ModelFeatureDrift"].default


def found(binner: Binner, counts: Floats) -> npt.NDArray[np.bool_]:
    """Return whether the score of a feature's counts, shape ``(..., B)``, is above its noise floor and threshold."""
    score = binner.reference.kl_divergence(counts)[..., 0]
    floor = binner.profile_noise.training(counts.sum(axis=-1, keepdims=True))[..., 0]
    return np.asarray((score > floor) & (score > THRESHOLD))


def main() -> None:
    """Print the table."""
    binner = Binner(profile(1))
    rng = np.random.default_rng(5)
    shares = []
    for shift in (0.0, 1.0):
        values = (rng.normal(size=400_000) + shift).tolist()
        row, _ = binner.count_columns({"f0": values}, len(values), [])
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
