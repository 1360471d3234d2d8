"""Measure a scrape of 10,000 and 100,000 series, against prometheus_client's generate_latest of as many.

Also measure the scrape of a real Prometheus each second, right after predictions, against the same text served from
memory.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import msgspec
import numpy as np
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from timing import exporter, free_port, median_seconds, profile, report, serving

from exporter.config import ModelConfig, StoreConfig
from exporter.metrics.exposition import Exposition
from exporter.monitoring.binner import Binner
from exporter.monitoring.registry import MonitorRegistry
from exporter.storage import Store
from exporter.wire.batch import Batch
from exporter.wire.events import Prediction


def peer(series: int) -> CollectorRegistry:
    """Return as many gauges of prometheus_client."""
    registry = CollectorRegistry()
    gauge = Gauge("model_feature_mean", "Mean.", ["model", "version", "feature", "window"], registry=registry)
    for number in range(series):
        gauge.labels("m", "3", f"f{number}", "5m").set(number / 7)
    return registry


def measure(features: int) -> None:
    """Print the figures of one model with this number of features."""
    rng = np.random.default_rng(2)
    monitors = MonitorRegistry({"m": ModelConfig(name="m")}, {"m": Binner(profile(features, 2000))})
    rows = [{f"f{number}": value for number, value in enumerate(row)} for row in rng.normal(size=(50, features))]
    events = [
        Prediction("m", version="3", confidence=0.9, inputs=msgspec.Raw(msgspec.json.encode(row, enc_hook=float)))
        for row in rows
    ]
    monitor = monitors.get("m", "3", time.monotonic())
    monitor.observe(monitor.prepare(Batch.of(events, time.time())), time.monotonic())
    with TemporaryDirectory() as folder:
        store = Store(StoreConfig(url=f"sqlite:///{Path(folder) / 'bench.db'}"), lambda _: None)
        exposition = Exposition(CollectorRegistry(auto_describe=False), lambda: monitors, store)
        series = sum(not line.startswith(b"#") for line in exposition.render()[0].splitlines())

        def changed() -> None:
            monitor.observe(monitor.prepare(Batch.of(events[:1], time.time())), time.monotonic())
            exposition.render()

        registry = peer(series)
        other = 1e3 * median_seconds(lambda: generate_latest(registry), 5)
        for what, call in (("warm", exposition.render), ("after a change", changed)):
            report(f"scrape of {series:,} series, {what}", 1e3 * median_seconds(call), "ms", "generate_latest", other)
        store.close()


class Memory(BaseHTTPRequestHandler):
    """Responds with a fixed text."""

    protocol_version = "HTTP/1.1"
    text = b""
    content_type = ""

    def do_GET(self) -> None:
        """Respond."""
        self.send_response(200)
        self.send_header("Content-Type", self.content_type)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(self.text)))
        self.end_headers()
        self.wfile.write(self.text)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def seen(features: int) -> None:
    """Print what Prometheus reports about a scrape of one model with this number of features."""
    rng = np.random.default_rng(2)
    with exporter(features) as (port, _), TemporaryDirectory() as folder:

        def send() -> None:
            rows = [
                {f"f{number}": value for number, value in enumerate(row)} for row in rng.normal(size=(20, features))
            ]
            body = json.dumps([{"model": "m", "version": "3", "confidence": 0.9, "inputs": row} for row in rows])
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/predictions", body.encode()).close()

        send()
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept-Encoding": "gzip"})
        with urllib.request.urlopen(asked) as answer:
            Memory.text, Memory.content_type = answer.read(), answer.headers["Content-Type"]
        memory = ThreadingHTTPServer(("127.0.0.1", 0), Memory)
        threading.Thread(target=memory.serve_forever, daemon=True).start()
        config = Path(folder) / "prometheus.yml"
        jobs = "".join(
            f"- job_name: {name}\n  static_configs: [{{targets: ['127.0.0.1:{where}']}}]\n"
            for name, where in (("exporter", port), ("memory", memory.server_port))
        )
        config.write_text(f"global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n{jobs}")
        own_port = free_port()
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/tsdb"]
        with serving([*command, f"--web.listen-address=127.0.0.1:{own_port}"], own_port):
            for _ in range(30):
                send()
                time.sleep(0.7)

            def asked_of(job: str, expression: str) -> float:
                query = quote(expression.replace("JOB", f'{{job="{job}"}}'))
                with urllib.request.urlopen(f"http://127.0.0.1:{own_port}/api/v1/query?query={query}") as answer:
                    return float(json.load(answer)["data"]["result"][0]["value"][1])

            middle = "1e3 * quantile_over_time(0.5, scrape_duration_secondsJOB[15s])"
            series = asked_of("exporter", "scrape_samples_scrapedJOB")
            values = [asked_of(job, middle) for job in ("exporter", "memory")]
            assert asked_of("exporter", "min_over_time(upJOB[15s])") == 1
        memory.shutdown()
    report(f"scrape of {series:,.0f} series as Prometheus sees it", values[0], "ms", "the same from memory", values[1])


def main() -> None:
    """Print the figures."""
    measure(160)
    measure(1600)
    seen(160)
    seen(1600)


if __name__ == "__main__":
    main()
