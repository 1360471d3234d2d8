"""Measure profiling 1,000,000 rows of 30 numbers: in memory against sorting, from a Parquet file against reading it.

Each figure comes from separate processes, in seconds of all processors together; the fastest of five counts. Peak
memory is that of the whole process. The environment is that of the command, and the time excludes imports.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from timing import report

from exporter.cli import disable_slow_avx512
from exporter.profiles.bins import numeric_feature
from exporter.profiles.builder import build_file

FEATURES = 30


def column(rows: int, number: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the training values of one feature."""
    return np.random.default_rng(number).normal(size=rows)


def columns(path: Path) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Return all numbers of the file, in memory."""
    return [column.to_numpy() for column in parquet.read_table(path).columns]


def read(path: Path) -> None:
    """Read every number of a Parquet file into numpy, a batch of rows at a time."""
    with parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=50_000):
            for values in batch.columns:
                np.from_dlpack(values)


def read_columns(path: Path) -> None:
    """Read every number of a Parquet file into numpy, a column at a time."""
    with parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
        for name in file.schema_arrow.names:
            for batch in file.iter_batches(batch_size=50_000, columns=[name], use_threads=False):
                np.from_dlpack(batch.column(0))


WAYS: dict[str, Callable[[Path], object]] = {"read": read, "read columns": read_columns, "build": build_file}
"""What to measure with the file."""
STEPS: dict[str, Callable[[np.ndarray[tuple[int], np.dtype[np.float64]]], object]] = {
    "freeze": numeric_feature,
    "sort": np.sort,
    "least": lambda values: (values.min(), values.max(), values.sum()),
}
"""What to measure with each column in memory."""


def child(what: str, path: Path) -> None:
    """Print the processor seconds, the elapsed seconds and the peak MiB of a measurement."""
    held = columns(path) if what in STEPS else []
    spent, passed = time.process_time(), time.perf_counter()
    if what in WAYS:
        WAYS[what](path)
    for values in held:
        STEPS[what](values)
    spent, passed = time.process_time() - spent, time.perf_counter() - passed
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(spent, passed, int(peak) / 1024)


def measured(what: str, path: Path) -> tuple[float, float, float]:
    """Return the figures of a child process, the fastest of five."""
    command = [sys.executable, __file__, "--child", what, str(path)]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(5)]
    seconds, clock, memory = min(tuple(map(float, run.split())) for run in runs)
    return seconds, clock, memory


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--child", nargs=2, metavar=("WHAT", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], Path(options.child[1]))
        return
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # for the child processes, as the command sets it
    disable_slow_avx512()
    size = f"{options.rows:,} x {FEATURES}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "training.parquet"
        parquet.write_table(pa.table({f"f{n}": column(options.rows, n) for n in range(FEATURES)}), path)
        frozen, sort, least = (measured(what, path)[0] for what in STEPS)
        report(f"{size} in memory, exact", frozen, "s", "numpy.sort of each column", sort)
        report(f"{size} in memory, exact", frozen, "s", "minimum, maximum, sum", least)
        seconds, clock, memory = measured("build", path)
        floor, clock_floor, memory_floor = measured("read", path)
        by_columns, _, _ = measured("read columns", path)
        report(f"{size} from Parquet, correlation included", seconds, "s", "reading the file once", floor)
        report(f"{size} from Parquet, correlation included", seconds, "s", "reading it by columns", by_columns)
        report(f"{size} from Parquet, by the clock", clock, "s", "reading the file once", clock_floor)
        report(f"{size} from Parquet, most memory", memory, "MiB", "reading the file once", memory_floor)


if __name__ == "__main__":
    main()
