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

import numpy as np
import psutil
from offered import Load, batch, capacity
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
    while (found := exporter.series())["model_exporter_queue_length"]:
        time.sleep(0.2)
    return found


def waits(seconds: object) -> str:
    """Format the median, the 99th percentile and the maximum, in milliseconds."""
    values = 1000 * np.asarray(seconds, dtype=float)
    if not len(values):
        return "none"
    return (
        f"median {np.median(values):,.0f} ms, p99 {np.percentile(values, 99):,.0f} ms, longest {values.max():,.0f} ms"
    )


def main(seconds: str = "30") -> None:
    """Print the comparison, and return the exit status: 0 if every guarantee held."""
    length = float(seconds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "one"
        exporter = Exporter(Path(name), f"sqlite:///{folder}/store.db")
        save(profile(10), folder / "one.json")
        config = {
            "models": [{"name": "m", "profile": "one.json"}],
            "store": {"url": "sqlite:///store.db", "max_size": "200MB"},
        }
        (folder / "exporter.yml").write_text(json.dumps(config))
        exporter.start()
        process = psutil.Process(exporter.process.pid)
        able = capacity(exporter.port, EVENTS)
        print(f"it takes {able:,.0f} predictions a second, {EVENTS} a request", flush=True)
        before = counted(exporter)

        def correction(number: int) -> int:
            body = {"prediction_id": f"w-{number}", "verdict": "corrected", "label": "1"}
            return exporter.ask("POST", "/v1/feedback", json.dumps(body).encode())[0]

        loads = [Load(exporter.port, CONNECTIONS) for _ in range(PROCESSES)]
        begun = time.monotonic()
        for load in loads:
            load.offer(batch("1", EVENTS), TIMES * able / EVENTS / PROCESSES)
        scraper = Honest(1.0, lambda _: exporter.ask("GET", "/metrics")[0])
        user = Honest(0.1, correction)
        memory = []
        while (passed := time.monotonic() - begun) < length:
            memory.append(process.memory_info().rss / 2**20)
            if len(memory) % 30 == 1:
                print(f"after {passed:4.0f} s {memory[-1]:.0f} MiB", flush=True)
            time.sleep(1)
        results = [load.stop() for load in loads]
        passed = time.monotonic() - begun
        scraper.stop()
        user.stop()
        after = counted(exporter)
        exporter.process.terminate()
        ended = exporter.process.wait()
    statuses = sum((one.statuses for one in results), Counter[int]())
    times = {status: np.concatenate([one.seconds.get(status, []) for one in results]) for status in (202, 503)}
    without = sum(one.without_retry_after for one in results)
    sent, taken, refused = sum(statuses.values()), statuses[202], statuses[503]
    quarter = max(len(memory) // 4, 1)
    growth = float(np.median(memory[-quarter:]) - np.median(memory[quarter : 2 * quarter] or memory))

    def rose(series: str) -> float:
        return after.get(series, 0) - before.get(series, 0)

    events = rose('model_exporter_events_total{source="predictions"}')
    attempts = rose('model_attempts_total{model="m",version="1"}')
    overloaded = rose('model_exporter_events_rejected_total{reason="overloaded"}')
    dropped = rose("model_exporter_events_dropped_total")
    print(f"offered for {passed:.0f} s: {sent:,} requests, {sent * EVENTS / passed:,.0f} predictions a second, "
          f"{sent * EVENTS / passed / able:.1f} times what it takes")  # fmt: skip
    others = {status: times for status, times in statuses.items() if status not in {202, 503}}
    print(f"accepted {taken:,}, {taken * EVENTS / passed:,.0f} predictions a second; refused with 503 {refused:,}, "
          f"of them without Retry-After {without}; other answers {others or 'none'}")  # fmt: skip
    print(f"counted by the exporter: {events:,.0f} predictions accepted ({events - taken * EVENTS:+,.0f}), "
          f"{attempts:,.0f} counted ({attempts - taken * EVENTS:+,.0f}), {overloaded:,.0f} requests refused "
          f"({overloaded - refused:+,.0f}), {dropped:,.0f} predictions not kept")  # fmt: skip
    print(f"answers of 202: {waits(times[202])}")
    print(f"answers of 503: {waits(times[503])}")
    print(f"scrapes {dict(scraper.statuses)}: {waits(scraper.seconds)}")
    print(f"feedback {dict(user.statuses)}: {waits(user.seconds)}")
    print(f"memory: {memory[0]:.0f} MiB at the start, most {max(memory):.0f}, from the second quarter to the last "
          f"{growth:+.1f}")  # fmt: skip
    broken = {
        "an answer is missing, or another one": sent != taken + refused,
        "the counts differ": (events, attempts, overloaded) != (taken * EVENTS, taken * EVENTS, refused),
        "Retry-After is missing": without > 0,
        "p99 of what was accepted": len(times[202]) > 0 and np.percentile(times[202], 99) > LONGEST,
        "a scrape": set(scraper.statuses) != {"200"} or max(scraper.seconds) > LONGEST,
        "feedback": set(user.statuses) != {"201"} or max(user.seconds) > LONGEST,
        "memory": growth > GROWTH,
        "the exit": ended != 0,
    }
    print("broken:", ", ".join(what for what, is_so in broken.items() if is_so) or "nothing")
    sys.exit(any(broken.values()))


if __name__ == "__main__":
    main(*sys.argv[1:])
