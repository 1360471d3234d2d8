"""Measure the bytes that a stored prediction of 30 inputs takes: its row, its inputs, each index, and in the archive.

The store's own writer fills the database. `docs/scale.md` has the sums.

    python benchmarks/bench_predictions_store.py [PREDICTIONS]
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from exporter.config import StoreConfig
from exporter.storage import Store, archive
from exporter.storage._archive import ArchiveFiles, archived_predictions, redact_archive
from exporter.storage._database import predictions
from exporter.wire.events import LabelEvent, Prediction

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.batches import stored_batch
from support.postgres import running

BATCH = 1000
RNG = random.Random(1)
AMOUNTS = ("balance", "average_balance_3m", "average_balance_12m", "max_balance_12m", "income", "rent")
SPENT = ("spend_groceries", "spend_travel", "spend_online", "spend_energy")
COUNTS = ("age", "months_on_book", "late_payments", "inquiries_6m", "accounts_open", "accounts_closed", "salary_day")
SHARES = ("debt_ratio", "utilization", "risk_region", "score_external")
CATEGORIES = {
    "country": ("NL", "DE", "FR", "BE", "ES"),
    "channel": ("web", "app", "branch"),
    "device": ("ios", "android", "desktop"),
    "employment": ("employed", "self-employed", "retired", "student"),
    "region": ("north", "south", "east", "west"),
    "product": ("card", "loan", "mortgage"),
    "segment": ("private", "premium", "business"),
}
FLAGS = ("has_mortgage", "has_car")


def inputs() -> bytes:
    """Return the JSON of 30 inputs, as a credit model has them."""
    values: dict[str, Any] = {name: round(RNG.gauss(1500, 900), 2) for name in AMOUNTS}
    values |= {name: round(RNG.lognormvariate(5, 1), 2) for name in SPENT}
    values |= {name: RNG.randrange(90) for name in COUNTS}
    values |= {name: round(RNG.random(), 4) for name in SHARES}
    values |= {name: RNG.choice(names) for name, names in CATEGORIES.items()}
    values |= {name: RNG.random() < 0.4 for name in FLAGS}
    return json.dumps(values).encode()


def fill(store: Store, count: int) -> None:
    """Store predictions."""
    for _ in range(0, count, BATCH):
        ids = [f"{RNG.getrandbits(128):032x}" for _ in range(BATCH)]
        events = [
            Prediction("credit", id=name, version="3", prediction="approve", confidence=0.93, duration_seconds=0.012)
            for name in ids
        ]
        rows = stored_batch(events, [True] * BATCH, [inputs() for _ in ids], time.time() - 3 * 86400)
        while store.add(rows):
            time.sleep(0.01)
    if not store.flush(600):
        raise SystemExit("not stored")


def label(store: Store) -> None:
    """Record a label of each prediction."""
    with store.reading() as connection:
        ids = list(connection.execute(sa.select(predictions.c.id)).scalars())
    for start in range(0, len(ids), BATCH):
        names = ids[start : start + BATCH]
        store.record_labels([LabelEvent(name, label=RNG.choice(("approve", "reject"))) for name in names])


def show(what: str, found: Iterator[Any], count: int) -> None:
    """Print bytes a prediction."""
    parts = [(name, size / count) for name, size in found]
    detail = ", ".join(f"{name} {size:.0f}" for name, size in parts)
    print(f"{what:44} {sum(size for _, size in parts):6.0f} bytes a prediction: {detail}", flush=True)


def sizes(connection: sa.Connection, table: str) -> Iterator[Any]:
    """Yield the name and the bytes of a table and of each of its indexes."""
    if connection.dialect.name == "sqlite":  # Python's SQLite is usually built with dbstat
        query = "SELECT name, sum(pgsize) FROM dbstat WHERE name = :name OR name = :name || '_day_id' GROUP BY name"
    else:
        query = (
            "SELECT 'table', pg_table_size(CAST(:name AS regclass)) UNION ALL SELECT relname, pg_relation_size(c.oid) "
            "FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE indrelid = CAST(:name AS regclass)"
        )
    yield from connection.execute(sa.text(query), {"name": table})


def measure_archive(config: StoreConfig, folder: Path) -> None:
    """Archive the predictions, and print the bytes, and the time that it takes to write and to read them."""
    start, begin = time.process_time(), time.perf_counter()
    rows = archive(config, lambda _, inputs: inputs).predictions
    seconds, elapsed = time.process_time() - start, time.perf_counter() - begin
    size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    print(f"archive: {size / rows:.0f} bytes a prediction, {1e6 * seconds / rows:,.0f} µs of processor time")
    print(f"archive: {rows / elapsed:,.0f} predictions a second")
    files, chosen = ArchiveFiles(str(folder)), archived_predictions("credit", "3", 0.0, rows)
    ways: dict[str, Callable[[], object]] = {
        "inputs of a version": lambda: sum(map(len, files.batches(["id", "inputs"], chosen))),
        "redact nothing": lambda: redact_archive(str(folder), {"credit": ["none"]}, (), dry_run=False),
        "redact all": lambda: redact_archive(str(folder), {"credit": ["rent"]}, (), dry_run=False),
    }
    for what, read in ways.items():
        start = time.process_time()
        read()
        print(f"archive, {what}: {1e6 * (time.process_time() - start) / rows:.1f} µs of processor time a prediction")


def main() -> None:
    """Print the sizes."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    print(f"{count} predictions; JSON of inputs: {sum(len(inputs()) for _ in range(1000)) / 1000:.0f} bytes")
    with tempfile.TemporaryDirectory() as name, running() as server:
        for url in (f"sqlite:///{name}/store.db", server.url()):
            folder = Path(name) / url.partition(":")[0]
            config = StoreConfig(url=url, retention="36h", archive=str(folder))
            store = Store(config, lambda _: None)
            fill(store, count)
            with store.reading() as connection:
                found = [*sizes(connection, "predictions"), *sizes(connection, "inputs")]
                show(connection.dialect.name, iter(found), count)
            label(store)
            store.close()
            measure_archive(config, folder)


if __name__ == "__main__":
    main()
