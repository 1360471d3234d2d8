"""Run an hour at half load, and check that nothing grows that should not.

Usage: survival_soak.py [MINUTES]

First it measures the capacity, then it offers half of it. Meanwhile it reloads valid and invalid configurations, adds
and removes versions and a model, sends corrections and review decisions, and requests pages, exports and scrapes.
Retention deletes by size and, in every tenth minute, which has no load, by age.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.append(str(Path(__file__).parents[1]))

from offered import Load, batch, capacity
from survival import Exporter
from timing import profile

from exporter.profiles.profile import save

EVENTS = 100
"""Predictions in a request."""
REST = 10
"""Every this many minutes, one minute has no load."""
RETENTION = {"retention": "30s", "max_size": "100MB"}
NAMES = ("memory, MiB", "threads", "files", "database, MiB", "log of it, MiB")
CORRECTIONS = 5.0
"""Corrections a second."""


class Work:
    """Everything except the load; each action repeats in its own thread."""

    def __init__(self, exporter: Exporter, folder: Path) -> None:
        self._exporter, self._folder = exporter, folder
        self._stop = threading.Event()
        self.done: Counter[str] = Counter()
        self.slowest: dict[str, float] = {}
        self.wrong: Counter[str] = Counter()
        self.generation = self.predictions = 0
        works: list[tuple[float, Callable[[int], None]]] = [
            (1 / CORRECTIONS, self._correct), (20.0, self._reload), (5.0, self._scrape), (10.0, self._look),
            (10.0, self._decide),
        ]  # fmt: skip
        self._threads = [threading.Thread(target=self._often, args=work, daemon=True) for work in works]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop all actions."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _often(self, every: float, call: Callable[[int], None]) -> None:
        number = 0
        while not self._stop.wait(every):
            number += 1
            try:
                call(number)
            except OSError as error:
                self.wrong[repr(error)] += 1

    def _ask(self, method: str, path: str, body: Any = None, *good: int, key: str | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        begun = time.monotonic()
        status, answer, _ = self._exporter.ask(method, path, data, {"Idempotency-Key": key} if key else None)
        what = f"{method} {path.partition('?')[0]}"
        self.done[what] += 1
        self.predictions += status == 202
        self.slowest[what] = max(self.slowest.get(what, 0.0), time.monotonic() - begun)
        if status not in (good or (200,)):
            self.wrong[f"{status} to {what}: {answer[:200]!r}"] += 1
        return answer

    def _correct(self, number: int) -> None:
        name = f"u-{number}"
        event = {"id": name, "model": "m", "version": "1", "inputs": {"f1": 0.1}, "prediction": "7", "confidence": 0.9}
        self._ask("POST", "/v1/predictions", event, 202, 503, key=name)
        correction = {
            "prediction_id": name,
            "verdict": "corrected",
            "label": str(number % 7),
            "user": f"user-{number % 50}",
        }
        self._ask("POST", "/v1/feedback", correction, 201, key=name)

    def _reload(self, number: int) -> None:
        path = self._folder / "exporter.yml"
        good = config(number // 2)
        if number % 2:
            path.write_text(json.dumps(good))
            self._ask("POST", "/-/reload")
            self.generation = number // 2
            if len(good["models"]) > 1:
                self._ask("POST", "/v1/predictions", {"model": good["models"][1]["name"]}, 202, 503)
        else:
            bad: list[Any] = [{**good, "modles": []}, {**good, "models": [{"name": "m", "profile": "no.json"}]}, "{"]
            path.write_text(json.dumps(bad[number // 2 % len(bad)]))
            self._ask("POST", "/-/reload", None, 500)

    def _scrape(self, _: int) -> None:
        self._ask("GET", "/metrics")

    def _look(self, number: int) -> None:
        for path in (
            "/",
            "/drift?model=m",
            "/review?model=m",
            "/v1/corrections?model=m",
        ):
            self._ask("GET", path)
        if number % 6 == 0:
            self._ask("GET", "/v1/dataset?model=m&format=csv")
            self._ask("POST", "/v1/corrections/samples", {"model": "m", "count": 20}, 200, 201)

    def _decide(self, _: int) -> None:
        waiting = json.loads(self._ask("GET", "/v1/corrections?model=m&status=pending&limit=40"))["corrections"]
        decisions = [
            {"id": one["id"], "revision": one["revision"], "status": random.choice(("accepted", "rejected"))}
            for one in waiting
        ]
        if decisions:
            self._ask("PATCH", "/v1/corrections", decisions)


def config(generation: int) -> dict[str, Any]:
    """Return a configuration. Each has other versions with their own profile, and every second one another model."""
    model = {
        "name": "m",
        "profile": "one.json",
        "profiles": {f"{generation}": "two.json"},
        "windows": ["1m", "5m", "1h"],
        "events": [f"event_{generation}"],
    }
    others = [{"name": f"extra{generation}", "profile": "two.json"}] if generation % 2 else []
    return {"models": [model, *others], "store": {"url": "sqlite:///store.db", **RETENTION}}


def look(process: psutil.Process, folder: Path) -> tuple[float, ...]:
    """Return the quantities that must not grow, in the order of `NAMES`."""
    sizes = [(folder / name).stat().st_size / 2**20 for name in ("store.db", "store.db-wal")]
    return process.memory_info().rss / 2**20, process.num_threads(), process.num_fds(), *sizes


def slope(minutes: list[float], values: list[float]) -> float:
    """Return how much a line fitted to the values rises in an hour."""
    return float(np.polyfit(minutes, values, 1)[0] * 60)


def main(minutes: str = "60") -> None:
    """Print the curve, its slopes, and the comparison."""
    length = float(minutes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "one"
        exporter = Exporter(Path(name), "sqlite:///store.db")
        save(profile(10), folder / "one.json")
        save(profile(12), folder / "two.json")
        (folder / "exporter.yml").write_text(json.dumps(config(0)))
        exporter.start()
        process = psutil.Process(exporter.process.pid)
        rate = capacity(exporter.port, EVENTS) / 2
        print(f"half of what it takes: {rate:,.0f} predictions a second", flush=True)
        before = exporter.metrics()["model_exporter_events_total"]
        work = Work(exporter, folder)
        load = Load(exporter.port, 64)
        times: list[float] = []
        samples: list[tuple[float, ...]] = []
        begun = time.monotonic()
        print("minute", *NAMES, sep="  ", flush=True)
        minute = -1
        while (passed := (time.monotonic() - begun) / 60) < length:
            if int(passed) > minute:
                minute = int(passed)
                # Two versions a minute: eventually more than the twenty that the exporter distinguishes.
                rests = minute % REST == REST - 1
                load.offer(batch(f"{work.generation if minute % 2 else minute}", EVENTS), 0 if rests else rate / EVENTS)
            times.append(passed)
            samples.append(look(process, folder))
            if len(samples) % 6 == 1:
                print(f"{passed:6.1f}", *(f"{value:{len(n)}.1f}" for n, value in zip(NAMES, samples[-1], strict=True)),
                      sep="  ", flush=True)  # fmt: skip
            time.sleep(10)
        sent = load.stop()
        work.stop()
        metrics = exporter.metrics()
        exporter.process.terminate()
        status = exporter.process.wait()
        errors = [line for line in (folder / "log").read_text().splitlines() if "Traceback" in line]
    first = len(times) // 4
    for index, what in enumerate(NAMES):
        values = [sample[index] for sample in samples]
        quarter = len(values) // 4
        early, late = np.median(values[first : first + quarter]), np.median(values[-quarter:])
        print(f"{what}: median of the second quarter {early:.1f}, of the last {late:.1f}, most {max(values):.1f}; "
              f"{slope(times[first:], values[first:]):+.2f} an hour")  # fmt: skip
    corrections = work.done["POST /v1/feedback"]
    counted = metrics["model_exporter_events_total"] - before
    print(f"requests of predictions {sum(sent.statuses.values()):,}: {dict(sent.statuses)}, {EVENTS} predictions each")
    print(f"corrections {corrections:,}; other requests: {dict(work.done)}; slowest, s: "
          f"{ {what: round(seconds, 2) for what, seconds in work.slowest.items()} }")  # fmt: skip
    print(f"accepted {sent.statuses[202] * EVENTS + work.predictions + corrections:,}, "
          f"counted by the exporter {counted:,.0f}, "
          f"dropped {metrics['model_exporter_events_dropped_total']:,.0f}")  # fmt: skip
    print(f"wrong: {dict(work.wrong) or 'nothing'}; exit status {status}; errors in the log {len(errors)}", *errors[:5])


if __name__ == "__main__":
    main(*sys.argv[1:])
