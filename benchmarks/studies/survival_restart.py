"""Restart exporters under load, and check that SIGTERM loses nothing that was acknowledged.

Usage: survival_restart.py [RESTARTS]

Three exporters that share PostgreSQL are restarted in turn, one with SQLite is restarted alone, and one is stopped
during an overload. Services and users send all the time, half of them over persistent connections, and repeat
unanswered requests with their ``Idempotency-Key``. At the end the counts of both sides are compared.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import signal
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from offered import Load, batch
from survival import Clients, Comparison, Exporter, database

EVENTS = 100


def stopped(exporter: Exporter) -> tuple[float, int]:
    """Stop an exporter; return the seconds from SIGTERM to the end, and the exit status."""
    begun = time.monotonic()
    exporter.process.send_signal(signal.SIGTERM)
    status = exporter.process.wait()
    return time.monotonic() - begun, status


def rolling(kind: str, number: int, restarts: int) -> bool:
    """Restart the exporters of one database in turn, and return whether the guarantee held."""
    with tempfile.TemporaryDirectory() as name, database(kind, Path(name)) as (url, _):
        exporters = [Exporter(Path(name), url, f"exporter-{index}") for index in range(number)]
        for exporter in exporters:
            exporter.start()
        clients = Clients(exporters, users=4, rate=2000, kept=True)
        clients.start()
        seconds, statuses, shown = [], [], 0.0
        for turn in range(restarts):
            time.sleep(random.uniform(0.3, 1.5))
            passed, status = stopped(exporters[turn % number])
            seconds.append(passed)
            statuses.append(status)
            exporters[turn % number].start()
        clients.stop()
        for exporter in exporters:
            shown += exporter.metrics()["model_exporter_events_dropped_total"]
            stopped(exporter)
        log = "".join((Path(name) / f"exporter-{index}" / "log").read_text() for index in range(number))
        result = Comparison(url, clients)
    distinct = result.stored - result.stored_twice
    print(f"{kind}, {number} exporters, {restarts} restarts; a stop took {max(seconds):.1f} s at most, "
          f"exit statuses {sorted(set(statuses))}")  # fmt: skip
    print(f"requests without an answer {clients.unanswered:,} (repeated)")
    print(f"predictions accepted {clients.accepted:,}, stored {distinct:,}, dropped {shown:,.0f}, refused with 503 "
          f"{clients.refused:,}; accepted and not stored {max(clients.accepted - distinct, 0):,}, stored twice "
          f"{result.stored_twice:,}")  # fmt: skip
    print(f"requests of feedback {clients.requests:,}, corrections acknowledged {len(clients.acknowledged):,}; "
          f"lost {result.lost}, accepted twice {result.accepted_twice}, "
          f"predictions corrected twice {result.two_corrections}, not joined {result.unjoined}")  # fmt: skip
    print(f"tracebacks in the logs {log.count('Traceback')}\n", flush=True)
    lost = (
        max(clients.accepted - distinct, 0)
        + result.lost
        + result.accepted_twice
        + result.two_corrections
        + result.unjoined
    )
    return not (lost or any(statuses) or "Traceback" in log)


def overloaded() -> bool:
    """Stop an overloaded exporter, and return whether each accepted prediction is accounted for."""
    with tempfile.TemporaryDirectory() as name:
        exporter = Exporter(Path(name), f"sqlite:///{name}/store.db")
        exporter.start()
        load = Load(exporter.port, 32)
        load.offer(batch("1", EVENTS), 1e5)
        time.sleep(8)
        seconds, status = stopped(exporter)
        sent = load.stop()
        log = (Path(name) / "one" / "log").read_text()
        with contextlib.closing(sqlite3.connect(f"{name}/store.db")) as connection:
            (stored,) = connection.execute("SELECT count(*) FROM predictions").fetchone()
    accepted = sent.statuses[202] * EVENTS
    reported = sum(map(int, re.findall(r"(\d+) (?:events were accepted|predictions were not written)", log)))
    print(f"stopped in an overload: {seconds:.1f} s, exit status {status}")
    print(f"predictions accepted {accepted:,}, stored {stored:,}, lost and said so {reported:,}, neither "
          f"{accepted - stored - reported:,}; requests: {dict(sent.statuses)} (0: no answer)")  # fmt: skip
    print(json.dumps([line for line in log.splitlines() if "error" in line or "warn" in line][:5], indent=1))
    return accepted - stored - reported <= 0 and not status


def hanging() -> bool:
    """Stop an exporter while its database hangs, and return whether it ends in time and reports what is lost."""
    with tempfile.TemporaryDirectory() as name, database("postgresql", Path(name)) as (url, server):
        assert server is not None
        exporter = Exporter(Path(name), url)
        exporter.start()
        clients = Clients([exporter], users=4, rate=2000)
        clients.start()
        time.sleep(2)
        server.freeze()
        time.sleep(3)
        begun = time.monotonic()
        exporter.process.send_signal(signal.SIGTERM)
        while exporter.process.poll() is None:
            time.sleep(0.05)
        seconds = time.monotonic() - begun
        server.thaw()
        exporter.start()
        clients.stop()
        stopped(exporter)
        log = (Path(name) / "one" / "log").read_text()
        result = Comparison(url, clients)
    reported = sum(map(int, re.findall(r"(\d+) predictions were not written", log)))
    lost = clients.accepted - (result.stored - result.stored_twice)
    print(f"stopped while PostgreSQL hangs: {seconds:.1f} s; predictions accepted {clients.accepted:,}, not stored "
          f"{lost:,}, said to be lost {reported:,}; corrections acknowledged {len(clients.acknowledged):,}, "
          f"lost {result.lost}, accepted twice {result.accepted_twice}")  # fmt: skip
    return not (result.lost or result.accepted_twice) and lost <= reported


def main(restarts: str = "30") -> None:
    """Print the comparison, and return the exit status: 0 if the guarantee held."""
    held = [rolling("postgresql", 3, int(restarts)), rolling("sqlite", 1, int(restarts)), overloaded(), hanging()]
    sys.exit(not all(held))


if __name__ == "__main__":
    main(*sys.argv[1:])
