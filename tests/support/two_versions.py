"""Two versions of a model that serve at the same time, counted by an exporter whose clock runs ahead."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from flask.testing import FlaskClient

from exporter.comparison.prometheus import STEP_SECONDS
from exporter.server.application import Exporter
from exporter.server.flask_app import create_app
from exporter.wire.events import Prediction
from support.batches import observe
from support.past import Points, prometheus_of
from support.servers import write_config

STEP = int(STEP_SECONDS)
BEGIN = int(time.time()) // 3600 * 3600 - 3 * 3600
"""When version 1 begins to serve."""
DEPLOYED, END = 80, 112
"""The steps after which version 2 serves, too, and after which nothing comes: it serves for 8 of 28 minutes."""
INCIDENT = range(20, 60)
PER_STEP = 20
MODELS: dict[str, Any] = {"models": [{"name": "credit", "profile": "credit.json"}, {"name": '"><script>'}]}


@contextmanager
def exporter_of(folder: Path, **settings: Any) -> Iterator[Exporter]:
    write_config(folder, MODELS | settings)
    with closing(Exporter(folder / "exporter.yml")) as exporter:
        yield exporter


def serve(exporter: Exporter, version: str, confident: int, failing: int, corrected: int, now: float) -> None:
    """Count the predictions and the feedback of a step."""
    rng = np.random.default_rng(round(now))
    monitor = exporter.pipeline.monitors.get("credit", version, now)
    events = [
        Prediction(
            "credit",
            version=version,
            prediction="yes",
            confidence=0.9 if n < confident else 0.5,
            duration_seconds=0.02 * (1 + n % 3),
            code=503 if n < failing else 200,
        )
        for n in range(PER_STEP)
    ]
    observe(monitor, events, [{"age": int(rng.integers(18, 90)), "income": 20_000.0 + n} for n in range(PER_STEP)], now)
    for n in range(3):
        monitor.count_feedback("corrected" if n < corrected else "accepted", n < corrected, now)


def scene(exporter: Exporter) -> dict[str, Points]:
    """Version 1 serves for 28 minutes, ten of them in an incident, and version 2 for the last eight.

    Returns what Prometheus would have scraped at the end of each step.
    """
    past: dict[str, Points] = {}
    clock = time.monotonic() + 1e6
    for step in range(1, END + 1):
        now = clock + step * STEP
        dark = step in INCIDENT
        serve(exporter, "1", 1 if dark else 18, 8 if dark else 0, 1 if dark else 0, now)
        if step > DEPLOYED:
            serve(exporter, "2", 16, 0, step % 2, now + 0.1)
        scrape(exporter, BEGIN + step * STEP, past)
    return past


def scrape(exporter: Exporter, at: int, past: dict[str, Points]) -> None:
    """Add what Prometheus would have scraped at a time."""
    for line in exporter.exposition.render()[0].decode().splitlines():
        if line.startswith("model_") and not re.match("model_(exporter|system|comparison)", line):
            series, _, value = line.rpartition(" ")
            past.setdefault(series, []).append((at, float(value)))


def asked(client: FlaskClient, query: str = "?model=credit") -> dict[str, Any]:
    answer = client.get(f"/v1/compare{query}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json)


@contextmanager
def seen_by_prometheus(folder: Path) -> Iterator[str]:
    """The URL of a Prometheus that scraped `scene`."""
    for name in ("counted", "prometheus"):
        (folder / name).mkdir()
    with exporter_of(folder / "counted") as exporter:
        past = scene(exporter)
    with prometheus_of(folder / "prometheus", past) as url:
        yield url


def with_margins(folder: Path, url: str, margins: dict[str, float]) -> dict[str, Any]:
    """What an exporter with these margins answers."""
    models = [MODELS["models"][0] | {"release_margins": margins}, MODELS["models"][1]]
    with exporter_of(folder, models=models, prometheus_url=url) as exporter:
        return asked(create_app(exporter).test_client(), "?model=credit&sequential=true")
