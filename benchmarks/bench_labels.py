"""Measure labels in bulk: a label for each of many predictions of 30 days, in random order, on SQLite and PostgreSQL.

The floor is an insertion of the same rows into the same table of an empty database with plain `executemany`, 2,000 in a
transaction as the exporter has them: the join with the predictions, and the look for an earlier label, come on top.

    python benchmarks/bench_labels.py [labels] [sqlite|postgresql|all]
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import time
import uuid
from pathlib import Path

import msgspec
import sqlalchemy as sa
from survival import Exporter, database
from timing import report

from exporter.config import StoreConfig
from exporter.server.ingest import CHUNK, MAX_LABELS
from exporter.storage import Store
from exporter.storage._database import labels, migrate, open_engine
from exporter.wire.events import LabelEvent, Prediction

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.batches import stored_batch

LABELS = 100_000
DAYS = 30
INPUTS = json.dumps({"age": 41, "country": "NL", "amount": 12.5}).encode()


def fill(store: Store, count: int) -> list[str]:
    """Store predictions with random identifiers, spread over the days; return the identifiers in random order."""
    random.seed(1)
    now, ids = time.time(), [str(uuid.UUID(int=random.getrandbits(128))) for _ in range(count)]
    for start in range(0, count, 1000):
        group = [
            Prediction("m", id=name, version="3", prediction="7", confidence=0.9) for name in ids[start : start + 1000]
        ]
        received = now - DAYS * 86400 * (1 - start / count)
        if store.add(stored_batch(group, [True] * len(group), [INPUTS] * len(group), received)):
            raise SystemExit("predictions were dropped")
    if not store.flush(600):
        raise SystemExit("the predictions were not written")
    random.shuffle(ids)
    return ids


def record(store: Store, ids: list[str], label: str) -> float:
    """Return the seconds to record a label of each prediction in process."""
    start = time.perf_counter()
    for first in range(0, len(ids), CHUNK):
        store.record_labels([LabelEvent(name, label) for name in ids[first : first + CHUNK]])
    return time.perf_counter() - start


def stored(url: str) -> list[dict[str, object]]:
    """Return the rows of the table."""
    engine = open_engine(StoreConfig(url=url))
    with engine.connect() as connection:
        rows = connection.execute(sa.select(labels).order_by(labels.c.id)).mappings().all()
    engine.dispose()
    return [{name: value for name, value in row.items() if name != "id"} for row in rows]


def floor(url: str, rows: list[dict[str, object]]) -> float:
    """Return the seconds to insert these rows into an empty table."""
    migrate(StoreConfig(url=url))
    engine = open_engine(StoreConfig(url=url))
    start = time.perf_counter()
    for first in range(0, len(rows), CHUNK):
        with engine.begin() as connection:
            connection.execute(labels.insert(), rows[first : first + CHUNK])
    seconds = time.perf_counter() - start
    engine.dispose()
    return seconds


def over_http(exporter: Exporter, ids: list[str], label: str) -> float:
    """Return the seconds to send another label of each prediction, in the largest bodies."""
    start = time.perf_counter()
    for first in range(0, len(ids), MAX_LABELS):
        body = msgspec.json.encode(
            [{"prediction_id": name, "label": label} for name in ids[first : first + MAX_LABELS]]
        )
        status, answer, _ = exporter.ask("POST", "/v1/labels", body)
        if status != 201 or json.loads(answer)["joined"] != len(ids[first : first + MAX_LABELS]):
            raise SystemExit(f"{status}: {answer!r}")
    return time.perf_counter() - start


def print_rate(what: str, count: int, seconds: float) -> None:
    """Print the rate of something without a floor."""
    print(f"{what:52} {1e6 * seconds / count:12,.4g} µs        {count / seconds:,.0f} a second")


def measure(kind: str, folder: Path, count: int) -> None:
    """Print the figures of one database."""
    with database(kind, folder) as (url, _):
        store = Store(StoreConfig(url=url), on_counted=lambda _: None)
        ids = fill(store, count)
        seconds = record(store, ids, "7")
        repeated, changed = record(store, ids, "7"), record(store, ids, "8")
        unknown = record(store, [f"{name}-unknown" for name in ids], "7")
        store.close()
        rows = stored(url)[:count]
        exporter = Exporter(folder, url)
        exporter.start()
        served = over_http(exporter, ids, "9")
        exporter.process.terminate()
        exporter.process.wait()
    (folder / "floor").mkdir()
    with database(kind, folder / "floor") as (url, _):
        least = floor(url, rows)
    report("a label of a known prediction, in process", 1e6 * seconds / count, "µs", "executemany", 1e6 * least / count)
    print_rate("the same", count, seconds)
    print_rate("a repeated label", count, repeated)
    print_rate("a changed label", count, changed)
    print_rate("a label of an unknown prediction", count, unknown)
    print_rate("a changed label, over HTTP", count, served)


def main() -> None:
    """Print the figures."""
    arguments = sys.argv[1:]
    count = int(arguments.pop(0)) if arguments and arguments[0].isdecimal() else LABELS
    kinds = arguments[0] if arguments else "all"
    for kind in ("sqlite", "postgresql") if kinds == "all" else (kinds,):
        if kind == "postgresql" and not shutil.which("psql"):
            print("postgresql: not on this machine")
            continue
        print(f"-- {kind}, {count:,} labels")
        with tempfile.TemporaryDirectory() as name:
            measure(kind, Path(name), count)


if __name__ == "__main__":
    main()
