"""Measure what models cost Prometheus and the exporter, by number of models and by their setting ``metrics``.

Runs a real exporter and a real Prometheus with the configuration and rules of this project, each size for a few
minutes, and extrapolates to 1,000 models. Arguments are the numbers of models. ``docs/studies/scale.md`` has the
figures.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import re
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import msgspec
import numpy as np
import psutil
from scipy import stats

sys.path.append(str(Path(__file__).parents[1]))

from timing import free_port, median_seconds, profile, serving

from exporter.config import MetricsLevel, ModelConfig
from exporter.metrics.exposition import render_families
from exporter.metrics.models import ModelsCollector
from exporter.monitoring.binner import Binner
from exporter.monitoring.registry import MonitorRegistry
from exporter.profiles.profile import save
from exporter.wire.batch import Batch
from exporter.wire.events import Prediction

ROOT = Path(__file__).parents[2]
FEATURES = 50
MANY = 1000
"""Number of models for which is extrapolated."""


def ask(port: int, expression: str) -> float:
    """Return the value of an expression with one series."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?query={quote(expression)}") as answer:
        return float(json.load(answer)["data"]["result"][0]["value"][1])


def slowest_groups(port: int, seconds: int) -> list[tuple[float, str]]:
    """Return the shares of their intervals that groups of rules took, and their names, the largest first.

    They are those of the fastest of the last rounds, as other work on the machine makes rounds longer.
    """
    last = f"min_over_time(prometheus_rule_group_last_duration_seconds[{seconds}s])"
    expression = quote(f"{last} / prometheus_rule_group_interval_seconds")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?query={expression}") as answer:
        found = json.load(answer)["data"]["result"]
    return sorted((float(one["value"][1]), one["metric"]["rule_group"].rpartition(";")[2]) for one in found)[::-1]


def send(port: int, models: int) -> None:
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
            for row in rng.normal(size=(100, FEATURES)).tolist()
        ]
        body = msgspec.json.encode(events)
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/predictions", body)
        urllib.request.urlopen(request).close()


def cpu_seconds(process: psutil.Process) -> float:
    """Return the processor time that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


def exposition(port: int) -> tuple[float, int, int]:
    """Return the least seconds of a scrape without compression, and the bytes of the text, plain and compressed."""
    times, text = [], b""
    for _ in range(5):
        start = time.perf_counter()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read()
        times.append(time.perf_counter() - start)
    return min(times), len(text), len(gzip.compress(text, 6))


def scrape_cost(level: MetricsLevel, models: int = 20) -> None:
    """Print the processor time that the lines of a model take in a scrape, and their compression."""
    binner, now = Binner(profile(FEATURES)), time.monotonic()
    monitors = MonitorRegistry(
        {f"m{number}": ModelConfig(f"m{number}", metrics=level) for number in range(models)},
        {f"m{number}": binner for number in range(models)},
    )
    values = np.random.default_rng(3).normal(size=(100, FEATURES)).tolist()
    rows = [msgspec.json.encode({f"f{number}": value for number, value in enumerate(row)}) for row in values]
    for name in monitors.models:
        monitor, events = monitors.get(name, "1", now), [Prediction(name, inputs=msgspec.Raw(row)) for row in rows]
        monitor.observe(monitor.prepare(Batch.of(events, time.time())), now)
    collector = ModelsCollector()

    def render() -> bytes:
        return b"".join(render_families(collector.collect(monitors)))

    text = render()
    seconds, compression = median_seconds(render), median_seconds(lambda: gzip.compress(text, 1))
    print(
        f"a model, {level}: {1e3 * seconds / models:.2f} ms of a scrape, {1e3 * compression / models:.2f} ms to "
        f"compress {len(text) / models / 1e3:.0f} kB",
        flush=True,
    )


@contextlib.contextmanager
def multiplied(port: int, models: int) -> Iterator[int]:
    """Serve the exposition of an exporter that has one model, with so many of it; yield the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                lines = answer.read().decode().splitlines()
            parts = []
            for line in lines:
                parts += [
                    line.replace('model="m0"', f'model="m{n}"') for n in range(models if 'model="m0"' in line else 1)
                ]
            text = gzip.compress(("\n".join(parts) + "\n").encode(), 1)
            self.send_response(200)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()


def measure(models: int, level: str, options: argparse.Namespace) -> dict[str, float]:
    """Measure one size and level, and print its line."""
    served = models
    models = 1 if options.multiplied else models
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        save(profile(FEATURES), folder / "profile.json")
        names = ", ".join(f"{{name: m{number}, profile: profile.json, metrics: {level}}}" for number in range(models))
        (folder / "exporter.yml").write_text(f"models: [{names}]\n")
        shutil.copytree(ROOT / "prometheus", folder / "prometheus")
        configuration = folder / "prometheus/prometheus.yml"
        settings = configuration.read_text().replace("_interval: 5s", f"_interval: {options.interval}s")
        # A large exposition takes longer than the default of 10 s on a busy machine.
        timeout = f"global:\n  scrape_timeout: {options.interval}s"
        configuration.write_text(settings.replace("global:", timeout, 1))
        for rules in (folder / "prometheus/rules").glob("*.yml"):
            rules.write_text(
                re.sub(
                    r"(?m)^    interval: (15|30)s$",
                    lambda match: f"    interval: {max(int(match[1]), options.rules)}s",
                    rules.read_text(),
                )
            )
        port, prometheus = free_port(), free_port()
        scraped = stack.enter_context(multiplied(port, served)) if options.multiplied else port
        for target in (folder / "prometheus/targets").glob("*.yml"):
            where = scraped if target.stem == "model-exporter" else prometheus
            target.write_text(f"[{{targets: ['127.0.0.1:{where}']}}]\n" if target.stem != "alertmanager" else "[]\n")
        exporter = [sys.executable, "-m", "exporter.cli", "serve", f"--config.file={folder}/exporter.yml"]
        scraper = [
            "prometheus",
            f"--config.file={folder}/prometheus/prometheus.yml",
            f"--storage.tsdb.path={folder}/tsdb",
        ]
        with (
            serving([*exporter, f"--web.listen-address=127.0.0.1:{port}"], port) as server,
            serving([*scraper, f"--web.listen-address=127.0.0.1:{prometheus}"], prometheus) as child,
        ):
            end, memory, since = time.monotonic() + options.seconds, 0, (0.0, 0.0)
            process = psutil.Process(child.pid)
            sent = -options.interval
            while (now := time.monotonic()) < end:
                if now - sent >= options.interval:
                    send(port, models)
                    sent = now
                time.sleep(1)
                if end - now < 2 * options.interval:  # between collections of garbage it rises and falls
                    memory = max(memory, process.memory_info().rss)
                    since = since if since[0] else (now, cpu_seconds(process))
            used = (cpu_seconds(process) - since[1]) / (time.monotonic() - since[0])
            took, size, compressed = exposition(port)
            found = {
                "scraped": ask(prometheus, 'scrape_samples_scraped{job="model-exporter"}'),
                "head": ask(prometheus, "prometheus_tsdb_head_series"),
                "cores": used,
                "slowest": (groups := slowest_groups(prometheus, options.seconds // 2))[0][0],
                "memory": memory / 2**20,
            }
            of_server = psutil.Process(server.pid).memory_info().rss / 2**20
    print(
        f"{served:4} models, {level:7}: {found['scraped']:9,.0f} series scraped, {found['head']:9,.0f} in the head, "
        f"Prometheus {found['memory']:6,.0f} MiB and {found['cores']:5.2f} processors, the slowest groups "
        f"{', '.join(f'{name} {share:.0%}' for share, name in groups[:4])} of its interval; "
        f"a scrape {1e3 * took:5.0f} ms, {size / 1e6:6.2f} MB, "
        f"{compressed / 1e6:5.2f} MB compressed, exporter {of_server:5.0f} MiB",
        flush=True,
    )
    return found


def extrapolate(sizes: list[int], values: list[float]) -> tuple[float, float]:
    """Return the value of the line through those of the sizes at `MANY` models, and half its 95% prediction interval.

    The interval is that of least squares with normal errors of the same variance.
    """
    x, y = np.array(sizes, dtype=float), np.array(values)
    fit = stats.linregress(x, y)
    spread = np.sqrt(np.sum((y - fit.intercept - fit.slope * x) ** 2) / (len(x) - 2))
    error = spread * np.sqrt(1 + 1 / len(x) + (MANY - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2))
    return float(fit.intercept + fit.slope * MANY), float(stats.t.ppf(0.975, len(x) - 2) * error)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=int, nargs="*", default=[10, 30, 60, 100])
    parser.add_argument("--interval", type=int, default=30, help="seconds between scrapes and between predictions")
    parser.add_argument("--rules", type=int, default=0, help="least seconds between evaluations of a group of rules")
    parser.add_argument("--seconds", type=int, default=150, help="time for each size")
    parser.add_argument("--multiplied", action="store_true", help="scrape the series of one model so many times")
    parser.add_argument("--level", choices=["full", "summary"], action="append")
    options = parser.parse_args()
    for level in options.level or ["full", "summary"]:
        scrape_cost(level)
        measured = [measure(models, level, options) for models in options.models]
        for what, unit in (
            ("head", "series"),
            ("memory", "MiB"),
            ("cores", "processors"),
            ("slowest", "intervals of the slowest group"),
        ):
            if len(measured) > 2:
                value, error = extrapolate(options.models, [found[what] for found in measured])
                print(f"{MANY} models, {level}: {value:,.1f} ± {error:,.1f} {unit}", flush=True)


if __name__ == "__main__":
    main()
