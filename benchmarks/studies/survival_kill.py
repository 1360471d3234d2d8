"""Run kill -9 at random moments under load, and check that no acknowledged correction is lost or duplicated.

Usage: survival_kill.py [sqlite|postgresql] [KILLS] [EXPORTERS]

Several exporters share PostgreSQL. A random one is killed each time, and every request goes to a random one.
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

sys.path.append(str(Path(__file__).parents[1]))

from survival import Clients, Comparison, Exporter, database


def main(kind: str = "sqlite", kills: str = "200", number: str = "1") -> None:
    """Print the comparison."""
    chance = random.Random(1)
    shown = 0.0
    with tempfile.TemporaryDirectory() as name, database(kind, Path(name)) as (url, _):
        exporters = [Exporter(Path(name), url, f"exporter-{index}") for index in range(int(number))]
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
        result = Comparison(url, clients)
    print(f"{kind}, {number} exporters: {kills} kills in {passed:.0f} s")
    print(f"predictions accepted {clients.accepted:,}, stored {result.stored:,}")
    print(f"requests of feedback {clients.requests:,}, corrections acknowledged {len(clients.acknowledged):,}")
    print(f"predictions corrected {result.corrected:,}, of them seen in model_corrections_total {shown:,.0f}")
    print(f"acknowledged corrections lost {result.lost}")
    print(
        f"corrections accepted twice {result.accepted_twice}, predictions with two corrections {result.two_corrections}"
    )
    print(f"corrections that were not joined although the prediction is there {result.unjoined}")
    print(f"corrections counted twice {max(shown - result.corrected, 0):.0f}")


def _scrape(exporter: Exporter, counted: list[float]) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        counted[0] = exporter.metrics().get("model_corrections_total", 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
