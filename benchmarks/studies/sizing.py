"""Measure the bytes that predictions and feedback take in the database; ``docs/operations.md`` has the table.

python benchmarks/studies/sizing.py [PREDICTIONS]
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from exporter.profiles.builder import build_file
from exporter.profiles.profile import save
from exporter.server.application import Exporter
from exporter.storage._database import feedback, predictions

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from support.postgres import running

BATCH = 500
IMAGE = 28
"""Pixels of an image's side."""
RNG = random.Random(1)


def numbers(count: int) -> dict[str, float]:
    """Return inputs that are numbers of four decimals."""
    return {f"f{number}": round(RNG.gauss(0, 1), 4) for number in range(count)}


def image() -> dict[str, Any]:
    """Return an image whose middle is drawn on, as nested lists, which are stored as PNG."""
    middle = range(IMAGE // 4, 3 * IMAGE // 4)
    return {
        "image": [
            [RNG.randrange(256) if row in middle and column in middle else 0 for column in range(IMAGE)]
            for row in range(IMAGE)
        ]
    }


KINDS: dict[str, Callable[[], dict[str, Any] | None]] = {
    "without inputs": lambda: None,
    "10 numbers": lambda: numbers(10),
    "50 numbers": lambda: numbers(50),
    f"an image of {IMAGE} x {IMAGE}": image,
}


def used(exporter: Exporter) -> float:
    """Return the bytes of the database's pages in use, or of PostgreSQL's tables."""
    with exporter.store.reading() as connection:
        if connection.dialect.name == "postgresql":
            tables = (predictions.name, feedback.name)
            sizes = [connection.execute(sa.select(sa.func.pg_total_relation_size(table))).scalar() for table in tables]
            return float(sum(size or 0 for size in sizes))
        pages, free, size = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar() or 0
            for name in ("page_count", "freelist_count", "page_size")
        )
        return float((pages - free) * size)


def measured(folder: Path, url: str, inputs: Callable[[], dict[str, Any] | None], count: int) -> tuple[float, float]:
    """Return the bytes a prediction and a correction take, with random identifiers."""
    images = [image()["image"] for _ in range(50)]
    np.savez(folder / "training.npz", image=np.array(images))
    save(build_file(folder / "training.npz", name="m"), folder / "profile.json")  # images are known by their profile
    (folder / "exporter.yml").write_text(f"store: {{url: '{url}'}}\nmodels: [{{name: m, profile: profile.json}}]\n")
    exporter = Exporter(folder / "exporter.yml")
    ingest = exporter.ingest
    identifiers = [f"{RNG.getrandbits(128):032x}" for _ in range(count)]
    try:
        empty = used(exporter)
        for start in range(0, count, BATCH):
            events = [event(identifier, inputs()) for identifier in identifiers[start : start + BATCH]]
            reply = ingest.predictions(json.dumps(events).encode(), False, None, False)
            if reply.status != 202 or not exporter.pipeline.settle(60) or not exporter.store.flush(60):
                raise SystemExit(f"not stored: {reply.body.decode()}")
        stored = used(exporter)
        corrected = identifiers[: count // 10]
        for start in range(0, len(corrected), BATCH):
            texts = [
                {"prediction_id": identifier, "verdict": "corrected", "label": "7", "user": "teacher-4"}
                for identifier in corrected[start : start + BATCH]
            ]
            reply = ingest.feedback(json.dumps(texts).encode(), None)
            if reply.status != 201:
                raise SystemExit(f"not stored: {reply.body.decode()}")
        return (stored - empty) / count, (used(exporter) - stored) / len(corrected)
    finally:
        exporter.close()


def event(identifier: str, inputs: dict[str, Any] | None) -> dict[str, Any]:
    """Return a prediction."""
    values = {"prediction": "5", "confidence": 0.9312, "duration_seconds": 0.012, "code": 200}
    return {"id": identifier, "model": "m", "version": "3", **values, **({"inputs": inputs} if inputs else {})}


def main() -> None:
    """Print the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    print(
        f"{'bytes':20} {'SQLite: prediction':>20} {'correction':>12} {'PostgreSQL: prediction':>24} {'correction':>12}"
    )
    with running() as server:
        for name, inputs in KINDS.items():
            row = f"{name:20}"
            for kind, widths in (("sqlite", (20, 12)), ("postgresql", (24, 12))):
                with tempfile.TemporaryDirectory() as folder:
                    url = server.url() if kind == "postgresql" else "sqlite:///store.db"
                    for size, width in zip(measured(Path(folder), url, inputs, count), widths, strict=True):
                        row += f" {size:{width},.0f}"
            print(row)


if __name__ == "__main__":
    main()
