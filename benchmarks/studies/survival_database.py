"""Freeze and stop PostgreSQL under load, and report what waits, what is dropped and what recovers.

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

sys.path.append(str(Path(__file__).parents[1]))

from survival import Clients, Comparison, Exporter, Postgres, database

RATE = 3000.0
"""Predictions a second."""


class Scraper:
    """Scrapes the metrics every second."""

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
                samples = self._exporter.metrics()
            except (OSError, http.client.HTTPException):
                self.failed += 1
                continue
            self.slowest = max(self.slowest, time.monotonic() - begun)
            self.queue = max(self.queue, samples["model_exporter_queue_length"])

    def stop(self) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join()


def outage(what: str, seconds: float, begin: Callable[[Postgres], None], end: Callable[[Postgres], None]) -> None:
    """Run one outage with a new exporter, and print the comparison."""
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
        samples = exporter.metrics()
        exporter.process.terminate()
        exporter.process.wait()
        result = Comparison(url, clients)
        dropped = samples["model_exporter_events_dropped_total"]
        print(f"{what} for {seconds:.0f} s")
        print(f"predictions accepted {clients.accepted:,}, refused with 503 {clients.refused:,}")
        print(f"stored {result.stored:,}, dropped and counted {dropped:,.0f}, stored twice {result.stored_twice}")
        print(f"accepted, but neither stored nor counted as dropped {clients.accepted - result.stored - dropped:,.0f}")
        print(f"feedback refused with 503 {refused:,}, of them without Retry-After {clients.without_retry_after}")
        print(f"slowest answer to feedback {clients.slowest:.1f} s; first one taken {again:.1f} s after the end")
        print(f"slowest scrape {scraper.slowest:.1f} s, failed {scraper.failed}")
        print(
            f"acknowledged corrections {len(clients.acknowledged):,}, lost {result.lost}, "
            f"accepted twice {result.accepted_twice}"
        )
        print(f"corrections that were not joined although the prediction is there {result.unjoined}\n", flush=True)


def main(seconds: str = "60") -> None:
    """Run both outages."""
    outage("PostgreSQL frozen (SIGSTOP)", float(seconds), Postgres.freeze, Postgres.thaw)
    outage("PostgreSQL stopped", float(seconds), Postgres.stop, Postgres.start)


if __name__ == "__main__":
    main(*sys.argv[1:])
