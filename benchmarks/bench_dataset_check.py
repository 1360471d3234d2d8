"""Measure ``dataset check``: a release of 10,000 examples against 1,000,000 training rows of 30 features.

Run with ``python benchmarks/bench_dataset_check.py``. The numbers of one hundred training rows are moved by 0.009
training standard deviations, and those of one hundred others by 0.05: the first must be found, and nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from exporter.profiles.builder import build_file
from exporter.profiles.profile import save

ROWS, EXAMPLES, NUMBERS, CATEGORIES, COPIES = 1_000_000, 10_000, 25, 5, 100
MEMBERS = {
    "prediction_id": None, "model": "m", "version": "1", "label": "a", "prediction": "b", "confidence": 0.9,
    "user_label": "a", "user": None, "reviewer": None, "reviewed": None, "predicted": None, "source": "user",
    "revision": 1,
}  # fmt: skip


def write(folder: Path) -> None:
    """Write training data, a profile, and a release."""
    rng = np.random.default_rng(3)
    numbers = rng.normal(size=(NUMBERS, ROWS))
    categories = rng.integers(0, 20, (CATEGORIES, ROWS))
    columns = {f"x{n}": values for n, values in enumerate(numbers)}
    columns |= {f"c{n}": values.astype(str) for n, values in enumerate(categories)}
    pq.write_table(pa.table(columns), folder / "training.parquet")
    pq.write_table(pa.table(columns).slice(0, 20_000), folder / "part.parquet")
    save(build_file(folder / "part.parquet", name="m"), folder / "profile.json")
    with (folder / "release.jsonl").open("w") as file:
        for n in range(EXAMPLES):
            row = int(rng.integers(ROWS))
            moved = rng.normal(size=NUMBERS)
            if n < 2 * COPIES:
                moved = numbers[:, row] + rng.choice([-1, 1], NUMBERS) * (0.009 if n < COPIES else 0.05)
            inputs = {f"x{i}": value for i, value in enumerate(moved.tolist())}
            inputs |= {f"c{i}": str(categories[i, row]) for i in range(CATEGORIES)}
            file.write(json.dumps({"id": str(n), "inputs": inputs, **MEMBERS}) + "\n")


def main() -> None:
    """Run the command, and print its time and memory."""
    with tempfile.TemporaryDirectory() as name:
        # A process begins with the peak memory of the one that starts it: another one writes the files.
        subprocess.run([sys.executable, __file__, name], check=True)
        folder = Path(name)
        command = [sys.executable, "-m", "exporter.cli", "dataset", "check", "release.jsonl", "--profile=profile.json"]
        start = time.monotonic()
        process = subprocess.Popen([*command, "--training=training.parquet", "-o", "found.json"], cwd=folder)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        assert not status
        found = json.loads((folder / "found.json").read_text())["training"]
    assert found["examples"] == COPIES
    assert [one["id"] for one in found["found"]] == [str(n) for n in range(COPIES)]
    features = NUMBERS + CATEGORIES
    print(f"{ROWS:,} training rows of {features} features: {seconds:.1f} s, {usage.ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    write(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
