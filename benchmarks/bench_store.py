"""Measure events a second in process from a body to the disk: decoded, checked, counted, windowed and stored.

Processor time is that of each thread involved. The floor is `sqlite3.executemany` of the same rows into the same
tables on the same disk, in groups of the same size, with ascending identifiers. Both are measured in turn.

    python benchmarks/bench_store.py [events]
"""

from __future__ import annotations

import contextlib
import gc
import json
import random
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from timing import profile, report

from exporter.config import StoreConfig
from exporter.profiles.profile import save
from exporter.server.application import Exporter
from exporter.storage._database import migrate, open_engine, predictions
from exporter.storage._predictions import COLUMNS

FEATURES, BATCH, ROUNDS, GROUP = 10, 1000, 5, 2000
NAMES = ", ".join(COLUMNS)


def bodies(events: int, ordered: bool) -> list[bytes]:
    """Return request bodies. Identifiers are random, or ordered by time like those of the client library."""
    rng = random.Random(1)
    requests: list[bytes] = []
    for first in range(0, events, BATCH):
        batch = [
            {
                "id": f"{number if ordered else rng.getrandbits(32):08x}-{rng.getrandbits(96):024x}",
                "model": "m",
                "version": "3",
                "inputs": {f"f{feature}": round(rng.gauss(0, 1), 4) for feature in range(FEATURES)},
                "prediction": str(rng.randrange(10)),
                "confidence": round(rng.random(), 4),
                "duration_seconds": 0.012,
                "code": 200,
            }
            for number in range(first, first + BATCH)
        ]
        requests.append(json.dumps(batch).encode())
    return requests


def processor(name: str) -> Callable[[], float]:
    """Return a function that reads the processor seconds of the thread with that name."""
    (thread,) = (thread for thread in threading.enumerate() if thread.name == name)
    clock = time.pthread_getcpuclockid(thread.ident or 0)
    return lambda: time.clock_gettime(clock)


def whole_way(folder: Path, texts: list[bytes], events: int) -> dict[str, float]:
    """Return the elapsed seconds and the processor seconds of each thread, for this number of events."""
    exporter = Exporter(folder / "exporter.yml")
    ingest = exporter.ingest
    gc.freeze()  # as in the server, with its interval
    sys.setswitchinterval(0.001)
    clocks = {name: processor(name) for name in ("aggregator", "store-writer")}
    before = {name: clock() for name, clock in clocks.items()}
    decoding = 0.0
    start = time.perf_counter()
    for text in texts:
        used = time.thread_time()
        while ingest.predictions(text, False, None, False).status != 202:
            time.sleep(0.005)
            used = time.thread_time()
        decoding += time.thread_time() - used
    if not exporter.pipeline.settle(60) or not exporter.store.flush(60):
        raise SystemExit("it was not stored within a minute")
    seconds = {"all": time.perf_counter() - start, "decode": decoding}
    seconds |= {name: clock() - before[name] for name, clock in clocks.items()}
    with exporter.store.reading() as connection:
        stored = connection.execute(sa.select(sa.func.count()).select_from(predictions)).scalar()
    if stored != events:
        raise SystemExit(f"{stored} of {events} events were stored")
    exporter.close()
    gc.unfreeze()
    return seconds


def rows_of(path: Path) -> list[tuple[object, ...]]:
    """Return the stored rows, with ascending identifiers."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"SELECT {NAMES} FROM predictions").fetchall()
    index = COLUMNS.index("id")
    return [(*row[:index], f"{number:08x}{row[index][8:]}", *row[index + 1 :]) for number, row in enumerate(rows)]


def floor(path: Path, rows: list[tuple[object, ...]]) -> dict[str, float]:
    """Return the elapsed and processor seconds of `executemany` alone."""
    config = StoreConfig(url=f"sqlite:///{path}")
    migrate(config)
    connection = open_engine(config).raw_connection()
    insert = f"INSERT INTO predictions ({NAMES}) VALUES ({', '.join('?' * len(COLUMNS))})"
    start, used = time.perf_counter(), time.thread_time()
    for first in range(0, len(rows), GROUP):
        connection.cursor().executemany(insert, rows[first : first + GROUP])
        connection.commit()
    seconds = {"all": time.perf_counter() - start, "floor": time.thread_time() - used}
    connection.close()
    return seconds


def middle(runs: list[dict[str, float]], part: str) -> float:
    """Return the median of a part."""
    return statistics.median(run[part] for run in runs)


def measured(events: int, ordered: bool) -> None:
    """Print the figures of identifiers of one kind."""
    texts = bodies(events, ordered)
    ways, floors = [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            save(profile(FEATURES), folder / "profile.json")
            lines = "store: {url: 'sqlite:///store.db'}\nmodels: [{name: m, profile: profile.json}]\n"
            (folder / "exporter.yml").write_text(lines)
            ways.append(whole_way(folder, texts, events))
            floors.append(floor(folder / "floor.db", rows_of(folder / "store.db")))
    least, whole = 1e6 * middle(floors, "floor") / events, 0.0
    for part in ("decode", "aggregator", "store-writer"):
        micros = 1e6 * middle(ways, part) / events
        whole += micros
        report(f"{part}, an event", micros, "µs", "executemany alone", least)
    report("all of it, an event", whole, "µs", "executemany alone", least)
    report("stored", events / middle(ways, "all"), "events/s", "executemany alone", events / middle(floors, "all"))


def main() -> None:
    """Print the figures."""
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    for ordered in (True, False):
        print("-- identifiers in the order of time" if ordered else "-- random identifiers")
        measured(events - events % BATCH, ordered)


if __name__ == "__main__":
    main()
