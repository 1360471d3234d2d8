"""Measure what models cost Prometheus: series, memory and rule evaluation, by number of models.

Runs a real exporter and a real Prometheus with the configuration and rules of this project, each size
for a bit more than a minute. ``docs/scale.md`` has the figures.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote

import msgspec
import numpy as np
import psutil
from timing import free_port, profile, serving

from exporter.profiles.profile import save

ROOT = Path(__file__).parents[1]
SECONDS = 75
"""Time in which the rules are evaluated about ten times."""


def ask(port: int, expression: str) -> float:
    """Return the value of an expression with one series."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?query={quote(expression)}") as answer:
        return float(json.load(answer)["data"]["result"][0]["value"][1])


def send(port: int, models: int, features: int) -> None:
    """Send a hundred predictions of each model."""
    rng = np.random.default_rng(3)
    for model in range(models):
        events = [
            {
                "model": f"m{model}",
                "version": "1",
                "inputs": {f"f{number}": value for number, value in enumerate(row)},
                "prediction": "yes",
                "confidence": 0.9,
                "duration_seconds": 0.01,
            }
            for row in rng.normal(size=(100, features)).tolist()
        ]
        body = msgspec.json.encode(events)
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/predictions", body)
        urllib.request.urlopen(request).close()


def measure(models: int, features: int) -> None:
    """Measure one size, and print its line."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(profile(features), folder / "profile.json")
        names = ", ".join(f"{{name: m{number}, profile: profile.json}}" for number in range(models))
        (folder / "exporter.yml").write_text(f"models: [{names}]\n")
        shutil.copytree(ROOT / "prometheus", folder / "prometheus")
        port, prometheus = free_port(), free_port()
        for target in (folder / "prometheus/targets").glob("*.yml"):
            where = port if target.stem == "model-exporter" else prometheus
            target.write_text(f"[{{targets: ['127.0.0.1:{where}']}}]\n" if target.stem != "alertmanager" else "[]\n")
        exporter = [sys.executable, "-m", "exporter.cli", "serve", f"--config.file={folder}/exporter.yml"]
        scraper = [
            "prometheus",
            f"--config.file={folder}/prometheus/prometheus.yml",
            f"--storage.tsdb.path={folder}/tsdb",
        ]
        with (
            serving([*exporter, f"--web.listen-address=127.0.0.1:{port}"], port),
            serving([*scraper, f"--web.listen-address=127.0.0.1:{prometheus}"], prometheus) as child,
        ):
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                send(port, models, features)
                time.sleep(5)
            scraped = ask(prometheus, 'scrape_samples_scraped{job="model-exporter"}')
            head = ask(prometheus, "prometheus_tsdb_head_series")
            rules = ask(prometheus, "sum(max_over_time(prometheus_rule_group_last_duration_seconds[30s]))")
            samples = ask(prometheus, "rate(prometheus_tsdb_head_samples_appended_total{type='float'}[30s])")
            memory = psutil.Process(child.pid).memory_info().rss / 2**20
            took = ask(prometheus, 'scrape_duration_seconds{job="model-exporter"}')
            print(
                f"{models:4} models x {features} features: {scraped:9,.0f} series scraped in {1e3 * took:5.0f} ms, "
                f"{head:9,.0f} in the head, {samples:8,.0f} samples/s, rules {rules:6.3f} s a round, {memory:6.0f} MiB",
                flush=True,
            )


def main() -> None:
    """Print the figures."""
    for models, features in ((1, 10), (1, 50), (10, 50), (30, 50)):
        measure(models, features)


if __name__ == "__main__":
    main()
