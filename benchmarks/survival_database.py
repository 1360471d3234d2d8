"""PostgreSQL frozen and stopped for a while under load: what waits, what is dropped, what comes back by itself.

Usage: survival_database.py [SECONDS]
"""

from __future__ import annotations

import http.client
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from survival import Books, Clients, Exporter, Postgres, database

RATE = 3000.0
"""Predictions a second."""


class Scraper:
    """Asks for the metrics every second."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.slowest = self.queue = 0.0
        self.failed = 0
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(1):
            begun = time.monotonic()
            try:
                found = self._exporter.metrics()
            except (OSError, http.client.HTTPException):
                self.failed += 1
                continue
            self.slowest = max(self.slowest, time.monotonic() - begun)
            self.queue = max(self.queue, found["model_exporter_queue_length"])

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join()


def outage(what: str, seconds: float, begin: Callable[[Postgres], None], end: Callable[[Postgres], None]) -> None:
    """One outage, from a fresh exporter to its books."""
    with tempfile.TemporaryDirectory() as folder, database("postgresql", Path(folder)) as (url, server):
        assert server is not None
        exporter = Exporter(Path(folder), url)
        exporter.start()
        clients = Clients([exporter], users=4, rate=RATE)
        scraper = Scraper(exporter)
        clients.start()
        time.sleep(5)
        begin(server)
        time.sleep(seconds)
        end(server)
        back = time.monotonic()
        refused = clients.statuses[503]
        while clients.last_acknowledged < back:
            time.sleep(0.01)
        again = clients.last_acknowledged - back
        time.sleep(10)
        clients.stop()
        scraper.stop()
        found = exporter.metrics()
        exporter.process.terminate()
        exporter.process.wait()
        books = Books(url, clients)
        dropped = found["model_exporter_events_dropped_total"]
        print(f"{what} for {seconds:.0f} s")
        print(f"predictions accepted {clients.accepted:,}, refused with 503 {clients.refused:,}")
        print(f"stored {books.stored:,}, dropped and counted {dropped:,.0f}, stored twice {books.stored_twice}")
        print(f"accepted, but neither stored nor counted as dropped {clients.accepted - books.stored - dropped:,.0f}")
        print(f"feedback refused with 503 {refused:,}, of them without Retry-After {clients.without_retry_after}")
        print(f"slowest answer to feedback {clients.slowest:.1f} s; first one taken {again:.1f} s after the end")
        print(f"slowest scrape {scraper.slowest:.1f} s, failed {scraper.failed}")
        print(f"acknowledged words {len(clients.acknowledged):,}, lost {books.lost}, taken twice {books.said_twice}")
        print(f"words that were not joined although the prediction is there {books.unjoined}\n", flush=True)


def main(seconds: str = "60") -> None:
    """Print the books of both."""
    outage("PostgreSQL frozen (SIGSTOP)", float(seconds), Postgres.freeze, Postgres.thaw)
    outage("PostgreSQL stopped", float(seconds), Postgres.stop, Postgres.start)


if __name__ == "__main__":
    main(*sys.argv[1:])
