"""kill -9 at random moments under load: is an acknowledged correction ever lost, or counted twice?

Usage: survival_kill.py [sqlite|postgresql] [KILLS] [EXPORTERS]

Several exporters share the PostgreSQL; a random one is killed each time, and every request goes to any of them.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from survival import Books, Clients, Exporter, database


def main(kind: str = "sqlite", kills: str = "200", number: str = "1") -> None:
    """Print the books."""
    chance = random.Random(1)
    shown = 0.0
    with tempfile.TemporaryDirectory() as name, database(kind, Path(name)) as (url, _):
        exporters = [Exporter(Path(name), url, f"exporter-{place}") for place in range(int(number))]
        for exporter in exporters:
            exporter.start()
        clients = Clients(exporters, users=4, rate=1000)
        clients.start()
        begun = time.monotonic()
        for _ in range(int(kills)):
            time.sleep(chance.uniform(0.02, 0.8))
            exporter = chance.choice(exporters)
            counted = [0.0]
            scrape = threading.Thread(target=_scrape, args=(exporter, counted))
            scrape.start()
            time.sleep(chance.uniform(0, 0.03))
            exporter.process.send_signal(signal.SIGKILL)
            exporter.process.wait()
            scrape.join()
            shown += counted[0]
            exporter.start()
        clients.stop()
        passed = time.monotonic() - begun
        for exporter in exporters:
            shown += exporter.metrics().get("model_corrections_total", 0)
            exporter.process.terminate()
            exporter.process.wait()
        books = Books(url, clients)
    print(f"{kind}, {number} exporters: {kills} kills in {passed:.0f} s")
    print(f"predictions accepted {clients.accepted:,}, stored {books.stored:,}")
    print(f"requests of feedback {clients.requests:,}, words acknowledged {len(clients.acknowledged):,}")
    print(f"predictions corrected {books.corrected:,}, of them seen in model_corrections_total {shown:,.0f}")
    print(f"acknowledged words lost {books.lost}")
    print(f"words taken twice {books.said_twice}, predictions with two corrections {books.two_corrections}")
    print(f"words that were not joined although the prediction is there {books.unjoined}")
    print(f"corrections counted twice {max(shown - books.corrected, 0):.0f}")


def _scrape(exporter: Exporter, counted: list[float]) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        counted[0] = exporter.metrics().get("model_corrections_total", 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
