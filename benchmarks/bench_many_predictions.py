"""Measure what takes longer with many predictions on PostgreSQL: reviews, feedback, samples, deletion by age.

SQL fills the table with 30 days of predictions, whose inputs take 120 random bytes, and 100,000 corrections. The index
of identifiers is made after that, which is faster and leaves it smaller than in a table that grows. The last
day is then deleted as the retention does it, and for comparison a day of a copy that is partitioned by day is dropped.
`docs/studies/scale.md` has the table.

    python benchmarks/bench_many_predictions.py [PREDICTIONS]
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from timing import free_port, profile, serving

from exporter.config import StoreConfig
from exporter.profiles.profile import save
from exporter.storage._database import migrate, open_engine
from exporter.storage._predictions import compress_block
from exporter.storage._retention import Retention, StoreSize

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.postgres import running

INPUTS = b'{"f0":1.5,"f1":0.25,"text":"%s"}' % base64.b64encode(random.Random(1).randbytes(72))
DAYS, CORRECTIONS, RUNS, DAY, PART = 30, 100_000, 5, 86400, 1_000_000
FILL_INPUTS = """
INSERT INTO inputs (model, rows, data) SELECT 'm', 64, CAST(:data AS bytea) FROM generate_series(0, :count / 64)
"""
FILL = """
INSERT INTO predictions (day, id, model, version, time, received, prediction, confidence, code, duration_seconds,
    confident, block, place)
SELECT CAST(floor(t / 86400) AS int), md5(CAST(n AS text)), 'm', '3', t, t, '"approve"', 0.9 + mod(n, 100) / 1000.0,
    200, 0.012, true, n / 64 + 1, mod(n, 64)
FROM (SELECT n, :start + n * CAST(:step AS float) AS t FROM generate_series(:first, :last) n) numbers
"""
CORRECT = """
INSERT INTO feedback (prediction_id, joined, model, version, predicted, prediction, confidence, confident, inputs,
    verdict, label, "user", created, updated, counted, status, revision, released, sampled)
SELECT id, true, model, version, time, prediction, confidence, confident, '{"f0"\\: 1.5}', 'corrected',
    '"refuse"', 'user-' || mod(seq, 50), time + 60, time + 60, true, 'pending', 1, false, false
FROM predictions WHERE mod(seq, :every) = 0
"""


def seconds(call: Callable[[], object], runs: int = 1) -> float:
    """Return the median seconds of a call."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def show(what: str, taken: float) -> None:
    """Print a figure."""
    print(f"{what:60} {taken:10.3f} s", flush=True)


def requests(port: int, count: int) -> None:
    """Print how long requests to an exporter take."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(method: str, path: str, body: Any = None) -> None:
        connection.request(method, path, json.dumps(body).encode() if body else None)
        response = connection.getresponse()
        text = response.read()
        if response.status >= 400:
            print(f"{method} {path}: {response.status} {text[:200]!r}")

    for path in (
        "/",
        "/review",
        "/review?view=table",
        "/review?order=uncertain",
        "/v1/corrections?limit=1000",
        "/metrics",
    ):
        ask("GET", path)
        show(f"GET {path}", seconds(lambda path=path: ask("GET", path), RUNS))  # type: ignore[misc]
    rng = random.Random(1)
    for what, ids in (
        ("POST /v1/feedback, a random prediction", [rng.randrange(1, count) for _ in range(50)]),
        ("POST /v1/feedback, a prediction that is not there", [-number for number in range(1, 51)]),
    ):
        texts = [md5(number) for number in ids]
        bodies = [{"prediction_id": text, "verdict": "corrected", "label": "no"} for text in texts]
        show(what, seconds(lambda bodies=bodies: ask("POST", "/v1/feedback", bodies.pop()), 50))  # type: ignore[misc]
    sample = {"model": "m", "count": 100}
    show("POST /v1/corrections/samples, 100 of all", seconds(lambda: ask("POST", "/v1/corrections/samples", sample)))


def md5(number: int) -> str:
    """Return the identifier of a prediction."""
    return hashlib.md5(str(number).encode()).hexdigest()


def deletion(engine: sa.Engine, count: int, oldest: float) -> None:
    """Print what it costs to delete the first day in three ways."""
    rows = count // DAYS
    config = StoreConfig(url=str(engine.url), retention=f"{int(time.time() - oldest - DAY)}s")
    retention, steps = Retention(config, StoreSize(None)), []
    with engine.connect() as connection:
        before = connection.execute(sa.text("SELECT pg_current_wal_lsn()")).scalar()
    start = time.perf_counter()
    while True:
        begun = time.perf_counter()
        more = retention.sweep(engine, 0)
        steps.append(time.perf_counter() - begun)
        if not more:
            break
    show(f"delete a day ({rows:,} rows), as the retention does", time.perf_counter() - start)
    show("  its longest step", max(steps))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        written = sa.text("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), CAST(:before AS pg_lsn))")
        wal = connection.execute(written, {"before": before}).scalar()
        print(f"  its write-ahead log: {float(wal or 0) / 1e6:,.0f} MB")
        show("  then VACUUM", seconds(lambda: connection.exec_driver_sql("VACUUM predictions")))
        connection.exec_driver_sql("CREATE TABLE parted (LIKE predictions INCLUDING DEFAULTS) PARTITION BY LIST (day)")
        first = int(oldest // DAY) + 2
        connection.exec_driver_sql(f"CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN ({first})")
        connection.exec_driver_sql(f"INSERT INTO parted SELECT * FROM predictions WHERE day = {first}")
        connection.exec_driver_sql("CREATE INDEX ON parted_1 (seq); CREATE INDEX ON parted_1 (id)")
        connection.exec_driver_sql("CHECKPOINT")
        show("drop a partition of a day", seconds(lambda: connection.exec_driver_sql("DROP TABLE parted_1")))


def main() -> None:
    """Print the figures."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    with running() as server, tempfile.TemporaryDirectory() as name:
        url, folder = server.url(), Path(name)
        migrate(StoreConfig(url=url))
        engine = open_engine(StoreConfig(url=url), 7200)
        oldest = time.time() - DAYS * DAY + 60
        start = time.perf_counter()
        values = {"start": oldest, "step": DAYS * DAY / count}
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP INDEX predictions_day_id")
            connection.execute(sa.text(FILL_INPUTS), {"data": compress_block([INPUTS] * 64), "count": count})
        for first in range(1, count + 1, PART):
            with engine.begin() as connection:
                connection.execute(sa.text(FILL), {**values, "first": first, "last": min(first + PART - 1, count)})
            print(f"\r{min(first + PART - 1, count):,} predictions", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE INDEX predictions_day_id ON predictions (day, id)")
            connection.execute(sa.text(CORRECT), {"every": max(count // CORRECTIONS, 1)})
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
            size = connection.execute(sa.text("SELECT pg_total_relation_size('predictions')")).scalar_one()
        show(f"to fill {count:,} predictions, {size / count:.0f} bytes each", time.perf_counter() - start)
        save(profile(2), folder / "profile.json")
        (folder / "exporter.yml").write_text(
            f"store: {{url: '{url}', retention: 90d}}\nmodels: [{{name: m, profile: profile.json}}]\n"
        )
        port = free_port()
        command = [sys.executable, "-m", "exporter.cli", "serve", f"--config.file={folder}/exporter.yml"]
        with serving([*command, f"--web.listen-address=127.0.0.1:{port}"], port):
            requests(port, count)
        deletion(engine, count, oldest)
        engine.dispose()


if __name__ == "__main__":
    main()
