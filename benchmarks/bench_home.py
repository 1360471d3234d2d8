"""Measure the home page of a fleet: every model has values in its windows, and a quarter of them alerts.

Next to each figure is that of one model. The processor time depends less on other work on the machine.

    python benchmarks/bench_home.py [MODELS] [FEATURES]
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
from timing import exporter, report

RUNS = 9
VALUES = 40
"""Predictions of each model."""


def post(port: int, path: str, body: Any) -> None:
    """Send a body as JSON."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), headers)
    urllib.request.urlopen(request, timeout=60).close()


def predictions(model: str, features: int) -> list[dict[str, Any]]:
    """Return predictions of a model."""
    values = np.random.default_rng(2).normal(size=(VALUES, features)).round(4).tolist()
    common = {"model": model, "version": "1", "confidence": 0.9, "duration_seconds": 0.02}
    return [common | {"inputs": {f"f{number}": value for number, value in enumerate(row)}} for row in values]


def alerts(models: list[str]) -> Iterator[dict[str, Any]]:
    """Return four alerts of every fourth model, and Watchdog."""
    yield {"status": "firing", "labels": {"alertname": "Watchdog", "severity": "none", "layer": "exporter"}}
    for model in models[::4]:
        for number in range(4):
            labels = {"alertname": "ModelFeatureDrift", "severity": "warning", "layer": "data", "model": model}
            labels |= {"version": "1", "feature": f"f{number}"}
            notes = {"summary": f"f{number} of {model} has drifted", "description": "d" * 150}
            yield {"status": "firing", "labels": labels, "annotations": notes, "startsAt": "2026-01-01T00:00:00Z"}


def measured(count: int, features: int) -> tuple[float, float, float]:
    """Return the median elapsed and processor milliseconds of the page of a number of models, and its KiB."""
    models = [f"m{number:03d}" for number in range(count)]
    with exporter(features, models) as (port, child):
        process = psutil.Process(child.pid)
        for model in models:
            post(port, "/v1/predictions", predictions(model, features))
        post(port, "/v1/notifications", {"version": "4", "status": "firing", "alerts": list(alerts(models))})
        elapsed, used, page = [], [], b""
        for run in range(RUNS + 1):
            before, start = process.cpu_times(), time.perf_counter()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
                page = answer.read()
            if run:  # the first request loads the code
                elapsed.append(1e3 * (time.perf_counter() - start))
                after = process.cpu_times()
                used.append(1e3 * (after.user + after.system - before.user - before.system))
        return statistics.median(elapsed), statistics.fmean(used), len(page) / 1024


def main() -> None:
    """Print the figures."""
    arguments = dict(enumerate(sys.argv[1:]))
    count, features = int(arguments.get(0, "200")), int(arguments.get(1, "50"))
    few, many = measured(1, features), measured(count, features)
    for what, unit, one, all_models in zip(
        ("elapsed", "processor", "size"), ("ms", "ms", "KiB"), few, many, strict=True
    ):
        report(f"home page of {count} models of {features} features: {what}", all_models, unit, "one model", one)


if __name__ == "__main__":
    main()
