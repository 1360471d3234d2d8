"""Offer ten times the load that the exporter can accept, and count what it accepts, refuses and delays.

Usage: survival_overload.py [SECONDS]

First it measures the capacity. Then separate processes offer ten times as much, or as much as the machine allows, and
ignore ``Retry-After``. Meanwhile Prometheus scrapes and users send feedback. At the end it compares the counts of both
sides and prints every guarantee that was broken.
"""

from __future__ import annotations

import http.client
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

sys.path.append(str(Path(__file__).parents[1]))

from offered import Load, Sent, batch, capacity
from survival import Exporter
from timing import profile

from exporter.profiles.profile import save

EVENTS = 100
"""Predictions in a request."""
TIMES = 10
"""Load as a multiple of the capacity."""
PROCESSES, CONNECTIONS = 2, 32
"""Processes that send the load, and the connections of each."""
LONGEST = 1.0
"""Seconds that a scrape, feedback or the 99th percentile of accepted requests may take."""
GROWTH = 10.0
"""MiB that memory may rise by from the second quarter to the last."""


class Honest:
    """Repeats the same request, on a new connection each time."""

    def __init__(self, every: float, ask: Callable[[int], int]) -> None:
        self.seconds: list[float] = []
        self.statuses: Counter[str] = Counter()
        self._every, self._ask = every, ask
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            begun = time.monotonic()
            try:
                status = str(self._ask(len(self.seconds)))
            except (OSError, http.client.HTTPException) as error:
                status = repr(error)
            self.statuses[status] += 1
            self.seconds.append(time.monotonic() - begun)

    def stop(self) -> None:
        """Stop it."""
        self._stop.set()
        self._thread.join()


def counted(exporter: Exporter) -> dict[str, float]:
    """Return the samples once everything has been counted."""
    while (samples := exporter.series())["model_exporter_queue_length"]:
        time.sleep(0.2)
    return samples


def waits(seconds: object) -> str:
    """Format the median, the 99th percentile and the maximum, in milliseconds."""
    values = 1000 * np.asarray(seconds, dtype=float)
    if not len(values):
        return "none"
    return (
        f"median {np.median(values):,.0f} ms, p99 {np.percentile(values, 99):,.0f} ms, longest {values.max():,.0f} ms"
    )


class Offered(NamedTuple):
    """What was sent to the exporter in a run, and what it reports of it.

    Times are in seconds, memory is in MiB. ``before`` and ``after`` are the exporter's samples.
    """

    capacity: float
    duration: float
    results: list[Sent]
    scraper: Honest
    user: Honest
    memory: list[float]
    before: dict[str, float]
    after: dict[str, float]
    exit_status: int

    @property
    def statuses(self) -> Counter[int]:
        """Requests by status."""
        return sum((result.statuses for result in self.results), Counter[int]())

    def delays(self, status: int) -> np.ndarray:
        """Return the seconds until each response with a status."""
        return np.concatenate([result.seconds.get(status, []) for result in self.results])

    @property
    def without_retry_after(self) -> int:
        """503 responses without ``Retry-After``."""
        return sum(result.without_retry_after for result in self.results)

    @property
    def growth(self) -> float:
        """Increase of the median memory from the second quarter to the last."""
        quarter = max(len(self.memory) // 4, 1)
        return float(np.median(self.memory[-quarter:]) - np.median(self.memory[quarter : 2 * quarter] or self.memory))

    def increase(self, series: str) -> float:
        """Return the increase of a counter."""
        return self.after.get(series, 0) - self.before.get(series, 0)


def start(folder: Path) -> Exporter:
    """Start an exporter of a model with a profile, in a database of limited size."""
    replica = folder / "one"
    exporter = Exporter(folder, f"sqlite:///{replica}/store.db")
    save(profile(10), replica / "one.json")
    config = {
        "models": [{"name": "m", "profile": "one.json"}],
        "store": {"url": "sqlite:///store.db", "max_size": "200MB"},
    }
    (replica / "exporter.yml").write_text(json.dumps(config))
    exporter.start()
    return exporter


def offer(exporter: Exporter, length: float) -> Offered:
    """Offer `TIMES` the capacity for this many seconds, and stop the exporter."""
    process = psutil.Process(exporter.process.pid)
    rate = capacity(exporter.port, EVENTS)
    print(f"it takes {rate:,.0f} predictions a second, {EVENTS} a request", flush=True)
    before = counted(exporter)

    def correct(number: int) -> int:
        body = {"prediction_id": f"w-{number}", "verdict": "corrected", "label": "1"}
        return exporter.ask("POST", "/v1/feedback", json.dumps(body).encode())[0]

    loads = [Load(exporter.port, CONNECTIONS) for _ in range(PROCESSES)]
    begun = time.monotonic()
    for load in loads:
        load.offer(batch("1", EVENTS), TIMES * rate / EVENTS / PROCESSES)
    scraper = Honest(1.0, lambda _: exporter.ask("GET", "/metrics")[0])
    user = Honest(0.1, correct)
    memory = []
    while (passed := time.monotonic() - begun) < length:
        memory.append(process.memory_info().rss / 2**20)
        if len(memory) % 30 == 1:
            print(f"after {passed:4.0f} s {memory[-1]:.0f} MiB", flush=True)
        time.sleep(1)
    results = [load.stop() for load in loads]
    duration = time.monotonic() - begun
    scraper.stop()
    user.stop()
    after = counted(exporter)
    exporter.process.terminate()
    return Offered(rate, duration, results, scraper, user, memory, before, after, exporter.process.wait())


def main(seconds: str = "30") -> None:
    """Print the comparison, and exit with status 0 if every guarantee held."""
    with tempfile.TemporaryDirectory() as name:
        run = offer(start(Path(name)), float(seconds))
    statuses, duration = run.statuses, run.duration
    sent, accepted, refused = sum(statuses.values()), statuses[202], statuses[503]
    events = run.increase('model_exporter_events_total{source="predictions"}')
    attempts = run.increase('model_attempts_total{model="m",version="1"}')
    overloaded = run.increase('model_exporter_events_rejected_total{reason="overloaded"}')
    dropped = run.increase("model_exporter_events_dropped_total")
    print(f"offered for {duration:.0f} s: {sent:,} requests, {sent * EVENTS / duration:,.0f} predictions a second, "
          f"{sent * EVENTS / duration / run.capacity:.1f} times what it takes")  # fmt: skip
    others = {status: count for status, count in statuses.items() if status not in {202, 503}}
    print(f"accepted {accepted:,}, {accepted * EVENTS / duration:,.0f} predictions a second; refused with 503 "
          f"{refused:,}, of them without Retry-After {run.without_retry_after}; "
          f"other answers {others or 'none'}")  # fmt: skip
    print(f"counted by the exporter: {events:,.0f} predictions accepted ({events - accepted * EVENTS:+,.0f}), "
          f"{attempts:,.0f} counted ({attempts - accepted * EVENTS:+,.0f}), {overloaded:,.0f} requests refused "
          f"({overloaded - refused:+,.0f}), {dropped:,.0f} predictions not kept")  # fmt: skip
    delays = run.delays(202)
    print(f"answers of 202: {waits(delays)}")
    print(f"answers of 503: {waits(run.delays(503))}")
    print(f"scrapes {dict(run.scraper.statuses)}: {waits(run.scraper.seconds)}")
    print(f"feedback {dict(run.user.statuses)}: {waits(run.user.seconds)}")
    print(f"memory: {run.memory[0]:.0f} MiB at the start, most {max(run.memory):.0f}, from the second quarter to the "
          f"last {run.growth:+.1f}")  # fmt: skip
    broken = {
        "an answer is missing, or another one": sent != accepted + refused,
        "the counts differ": (events, attempts, overloaded) != (accepted * EVENTS, accepted * EVENTS, refused),
        "Retry-After is missing": run.without_retry_after > 0,
        "p99 of what was accepted": len(delays) > 0 and np.percentile(delays, 99) > LONGEST,
        "a scrape": set(run.scraper.statuses) != {"200"} or max(run.scraper.seconds) > LONGEST,
        "feedback": set(run.user.statuses) != {"201"} or max(run.user.seconds) > LONGEST,
        "memory": run.growth > GROWTH,
        "the exit": run.exit_status != 0,
    }
    print("broken:", ", ".join(guarantee for guarantee, is_broken in broken.items() if is_broken) or "nothing")
    sys.exit(any(broken.values()))


if __name__ == "__main__":
    main(*sys.argv[1:])
