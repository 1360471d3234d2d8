"""A profile of 1,000,000 rows of 30 numbers: in memory against sorting, from a Parquet file against reading it.

Each is measured in a process of its own, in seconds of one processor; the most memory is that of the whole process.
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
from timing import report

from exporter.freezing import numeric_feature
from exporter.training import build_file

FEATURES = 30


def column(rows: int, number: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """One feature's training values."""
    return np.random.default_rng(number).normal(size=rows)


def over(columns: int, call: Callable[[int], object]) -> float:
    """Seconds of a processor that a call takes for so many columns."""
    spent = 0.0
    for number in range(columns):
        start = time.process_time()
        call(number)
        spent += time.process_time() - start
    return spent


def read(path: Path) -> None:
    """Every number of a Parquet file as numpy has them."""
    from pyarrow import parquet

    with parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=50_000):
            for values in batch.columns:
                values.to_numpy()


def child(what: str, path: Path) -> None:
    """Print the seconds of a processor and the most MiB of one way through the file."""
    import pyarrow.parquet  # noqa: F401 (not part of the time)

    start = time.process_time()
    read(path) if what == "read" else build_file(path)
    (most,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(time.process_time() - start, int(most) / 1024)


def measured(what: str, path: Path) -> tuple[float, float]:
    """What a child found, the fastest of three."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # as the command has it
    command = [sys.executable, __file__, "--child", what, str(path)]
    runs = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout for _ in range(3)
    ]
    seconds, memory = min(tuple(map(float, run.split())) for run in runs)
    return seconds, memory


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--child", nargs=2, metavar=("WHAT", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], Path(options.child[1]))
        return
    columns = [column(options.rows, number) for number in range(FEATURES)]
    least = over(FEATURES, lambda n: (columns[n].min(), columns[n].max(), columns[n].sum()))
    sort = over(FEATURES, lambda n: np.sort(columns[n]))
    frozen = over(FEATURES, lambda n: numeric_feature(columns[n]))
    size = f"{options.rows:,} x {FEATURES}"
    report(f"{size} in memory, exact", frozen, "s", "numpy.sort of each column", sort)
    report(f"{size} in memory, exact", frozen, "s", "minimum, maximum, sum", least)
    with tempfile.TemporaryDirectory() as folder:
        import pyarrow as pa
        from pyarrow import parquet

        path = Path(folder) / "training.parquet"
        parquet.write_table(pa.table({f"f{n}": values for n, values in enumerate(columns)}), path)
        floor, memory_floor = measured("read", path)
        seconds, memory = measured("build", path)
        report(f"{size} from Parquet, correlation included", seconds, "s", "reading the file once", floor)
        report(f"{size} from Parquet, most memory", memory, "MiB", "reading the file once", memory_floor)


if __name__ == "__main__":
    main()
