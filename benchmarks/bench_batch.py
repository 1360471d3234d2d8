"""Measure counting a file of a million rows of 30 features, against only reading it or only binning its values."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet
from timing import median_seconds, profile, report

from exporter.commands.batch import NOW, WINDOW, choose_monitor, count_table, monitors_of_profile
from exporter.commands.common import Progress
from exporter.commands.tables import Refused, Roles, Table, cell_types
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.profiles.profile import NumericFeature, save
from exporter.profiles.sources.files import FileSource

ROWS = 1_000_000
FEATURES = 30
RUNS = 3


def main() -> None:
    """Print the figures."""
    rng = np.random.default_rng(11)
    columns = {f"f{number}": rng.normal(size=ROWS) for number in range(FEATURES)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(profile(FEATURES), folder / "profile.json")
        parquet.write_table(pa.table(columns), folder / "rows.parquet")
        csv.write_csv(pa.table(columns), folder / "rows.csv")
        binner = run(folder, "parquet").binner
        edges = [np.array(t.edges) for t in binner.targets if isinstance(t, NumericFeature)] if binner else []

        def binned() -> None:
            for column, edge in zip(columns.values(), edges, strict=True):
                np.bincount(edge.searchsorted(column, side="right"), minlength=len(edge) + 1)

        def parquet_read() -> None:
            with parquet.ParquetFile(folder / "rows.parquet") as file:
                for batch in file.iter_batches():
                    assert batch.num_rows

        def csv_read() -> None:
            with csv.open_csv(folder / "rows.csv") as reader:
                for batch in reader:
                    assert batch.num_rows

        floor = ROWS / median_seconds(binned, RUNS)
        for kind, read in (("parquet", parquet_read), ("csv", csv_read)):
            took = ROWS / median_seconds(lambda kind=kind: run(folder, kind), RUNS)  # type: ignore[misc]
            what = f"a million rows of {FEATURES} features from {kind}"
            report(what, took, "rows/s", "pyarrow reading it alone", ROWS / median_seconds(read, RUNS))
            report("", took, "rows/s", "searchsorted + bincount alone", floor)


def run(folder: Path, kind: str) -> ModelMonitor:
    """Count a file as ``model-exporter ingest`` does, and read its window."""
    monitor, binner = choose_monitor(monitors_of_profile(folder / "profile.json", None), None, None)
    types = cell_types(binner.profile, Roles())
    table = Table(FileSource(folder / f"rows.{kind}", types, others="text"), Roles(), Refused())
    count_table(table, monitor, binner.inputs, Progress())
    assert monitor.read(NOW)[WINDOW].observations[0] == ROWS
    return monitor


if __name__ == "__main__":
    main()
