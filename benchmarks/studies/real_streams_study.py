"""Count pages of ModelDrift, and fixed thresholds of KL and PSI, on data sets that scikit-learn and statsmodels ship.

Tables of scikit-learn are populations: 1,000 training rows and live ones, 20 a minute for ten days, are drawn from them
with replacement, so there is no drift. Series of statsmodels are split in the middle, in order; each value is a minute.
Those of the climate and of an economy do drift. ``python benchmarks/studies/real_streams_study.py`` needs both
packages.
"""

from __future__ import annotations

import numpy as np
from sklearn import datasets
from statsmodels import datasets as series

from exporter.config import ModelConfig
from exporter.monitoring.binner import Binner
from exporter.monitoring.drift_evidence import evidence_limit, model_evidence
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.profiles.bins import numeric_feature
from exporter.profiles.blocks import BlockBuilder
from exporter.profiles.correlation import CorrelationBuilder
from exporter.profiles.profile import TIME, Blocks, Feature, Profile
from exporter.stats.divergence import Floats
from exporter.wire.batch import Batch, Inputs

LIMIT = evidence_limit(365 * 86400.0)
ROWS, RATE, MINUTES = 1000, 20, 10 * 1440


def monitor_of(training: Floats) -> ModelMonitor:
    """Return the monitor of a table of shape (rows, features), whose rows are in order."""
    columns = {f"f{index:02d}": column for index, column in enumerate(np.ascontiguousarray(training.T))}
    features: dict[str, Feature] = {name: numeric_feature(column) for name, column in columns.items()}
    builder, correlation = BlockBuilder(features, len(training)), CorrelationBuilder(features, len(training))
    builder.add(columns)
    correlation.add(columns)
    found = correlation.build()
    scores = correlation.build_blocks(found) if found else None
    blocks = Blocks(TIME, "at", tuple(builder.sizes), builder.build() if builder.sizes else {}, scores)
    kinds = dict.fromkeys(columns, "numeric")
    profile = Profile("p", len(training), kinds, features, correlation=found, blocks=blocks)
    return ModelMonitor(ModelConfig("m"), "1", Binner(profile))


def run(training: Floats, live: Floats, rate: int) -> str:
    """Return the pages of ModelDrift, the highest evidence over its limit, and the alarms of fixed thresholds."""
    monitor, pages, is_open, highest = monitor_of(training), 0, False, 0.0
    binner = monitor.binner
    assert binner
    looks = kl = psi = 0
    training_share = np.maximum(binner.training / np.repeat(binner.reference.rows, binner.sizes), 1e-4)
    window = np.zeros(binner.bins)
    for minute in range(len(live) // rate):
        rows = live[minute * rate : (minute + 1) * rate]
        inputs = Inputs(dict(zip(binner.names, rows.T, strict=True)), rate)
        before = monitor.observed.copy()
        monitor.observe(Batch(model="m", rows=rate, received=0.0, inputs=inputs), 60.0 * minute)
        window += monitor.observed - before
        evidence = np.nan_to_num(model_evidence(monitor.read_evidence(60.0 * minute + 59.9)))
        pages, is_open = pages + (evidence > LIMIT and not is_open), bool(evidence > LIMIT)
        highest = max(highest, float(evidence))
        if (minute + 1) % 60 == 0:
            share = np.maximum(window / np.repeat(np.add.reduceat(window, binner.starts), binner.sizes), 1e-4)
            log = np.log(share / training_share)
            looks += 1
            kl += bool((np.add.reduceat(share * log, binner.starts) > 0.3).any())
            psi += bool((np.add.reduceat((share - training_share) * log, binner.starts) > 0.2).any())
            window[:] = 0
    return f"{pages} | {highest / LIMIT:.0%} | {kl} of {looks} | {psi} of {looks}"


def main() -> None:
    """Print a table."""
    print("| data | features | training rows | ModelDrift | highest evidence | hours with KL > 0.3 | with PSI > 0.2 |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    rng = np.random.default_rng(1)
    for name in ("diabetes", "breast_cancer", "wine", "digits", "iris"):
        table = getattr(datasets, f"load_{name}")().data.astype(float)
        training, live = (table[rng.integers(0, len(table), size)] for size in (ROWS, RATE * MINUTES))
        print(f"| {name} | {table.shape[1]} | {ROWS} | {run(training, live, RATE)} |", flush=True)
    for name in ("sunspots", "co2", "elnino", "nile", "macrodata", "interest_inflation"):
        frame = getattr(series, name).load_pandas().data.select_dtypes("number").dropna()
        values = frame.to_numpy(float)[:, 1:] if frame.shape[1] > 1 else frame.to_numpy(float)
        half = len(values) // 2
        print(f"| {name} | {values.shape[1]} | {half} | {run(values[:half], values[half:], 1)} |", flush=True)


if __name__ == "__main__":
    main()
