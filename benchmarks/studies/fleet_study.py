"""Kill one of three exporters on one PostgreSQL each minute, and compare what is left with what was acknowledged.

Usage: fleet_study.py [--minutes 10] [--rate 1000]

The exporters share a real PostgreSQL and are behind HAProxy, which sends each request to the next one. Services record
predictions with the client, and users send feedback and labels and repeat what was not acknowledged. A real Prometheus
scrapes the exporters with the rules of this project. In the end, another exporter gets everything that was recorded,
and the drift of all replicas together is compared with its drift. ``docs/studies/scale.md`` has the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import random
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import psutil

sys.path.append(str(Path(__file__).parents[1]))

from study_tables import number, percent, table
from survival import Exporter, Postgres, database
from timing import free_port, profile, serving

from exporter.client import Monitor
from exporter.errors import ExporterError
from exporter.profiles.profile import save

ROOT = Path(__file__).parents[2]
FEATURES = 5
SERVICES = 2
FEEDBACK_RATE, LABEL_RATE = 5.0, 20.0
"""Corrections and labels a second, of each service's users."""
DOWN_SECONDS = 5.0
"""Time until a killed exporter is started again."""
RULES_SECONDS = 60.0
"""Time in which Prometheus scrapes all exporters and evaluates the rules once more."""
BLOCK = 500
LABELS = {"model": "m", "version": "1"}


def values(service: int, block: int) -> list[list[float]]:
    """Return the inputs of a block of predictions: normal, and the further from training, the higher the feature."""
    rng = np.random.default_rng([service, block])
    rows = rng.normal(np.arange(FEATURES) * 0.1, 1 + np.arange(FEATURES) * 0.05, (BLOCK, FEATURES))
    return rows.round(6).tolist()


def inputs(row: Sequence[float]) -> dict[str, float]:
    """Return the inputs of a row by their names."""
    return {f"f{place}": value for place, value in enumerate(row)}


class Acknowledged(NamedTuple):
    """What a service and its users sent: predictions, and labels of predictions by their identifiers.

    Attributes
    ----------
    recorded, sent
        Predictions that were recorded, and of them those that an exporter acknowledged.
    corrections, labels
        Acknowledged corrections and labels, by the identifier of their prediction.
    repeated
        Corrections and labels that were not acknowledged at once, and were sent again.
    """

    recorded: int
    sent: int
    corrections: dict[str, str]
    labels: dict[str, str]
    repeated: int


def serve(service: int, url: str, rate: float, stopped: Event, result: Connection) -> None:
    """Record predictions at this rate a second until the end, with users; send what was acknowledged."""
    monitor = Monitor(url, **LABELS, capacity=1_000_000)
    count = [0]
    users = _Users(monitor, service, count, corrects=True), _Users(monitor, service, count, corrects=False)
    threads = [threading.Thread(target=user.run, args=(stopped,)) for user in users]
    for thread in threads:
        thread.start()
    following = time.monotonic()
    for block in itertools.count():
        rows = values(service, block)
        for row in rows:
            if stopped.is_set():
                break
            monitor.record(id=f"{service}-{count[0]}", inputs=inputs(row), prediction="7", confidence=0.9)
            count[0] += 1
            following += 1 / rate
            if following > time.monotonic():
                time.sleep(max(following - time.monotonic(), 0.005))
        if stopped.is_set():
            break
    for thread in threads:
        thread.join()
    monitor.flush(120)
    monitor.close(60)
    corrections, labels = users
    repeated = corrections.repeated + labels.repeated
    result.send(Acknowledged(count[0], monitor.sent, corrections.acknowledged, labels.acknowledged, repeated))


class _Users:
    """Users who correct predictions, or a job that labels them, until each of their requests is acknowledged."""

    def __init__(self, monitor: Monitor, service: int, count: list[int], corrects: bool) -> None:
        self.acknowledged: dict[str, str] = {}
        self.repeated = 0
        self._monitor = monitor
        self._service = service
        self._count = count
        self._corrects = corrects

    def run(self, stopped: Event) -> None:
        """Send one after the other."""
        chance = random.Random(self._service)
        pause = 1 / (FEEDBACK_RATE if self._corrects else LABEL_RATE)
        while not stopped.wait(pause):
            # Corrections are of predictions with even numbers, labels of the others; each is of a recent one.
            place = max(self._count[0] - chance.randrange(2000), 0) // 2 * 2 + (not self._corrects)
            name, label = f"{self._service}-{place}", str(chance.randrange(7))
            while name not in self.acknowledged:
                try:
                    if self._corrects:
                        self._monitor.feedback(name, "corrected", label=label)
                    else:
                        self._monitor.label(name, label)
                    self.acknowledged[name] = label
                except ExporterError:
                    self.repeated += 1
                    time.sleep(0.2)


@contextlib.contextmanager
def balancer(folder: Path, exporters: Sequence[Exporter]) -> Iterator[str]:
    """Run HAProxy, which sends each request to the next exporter that is ready; yield its address."""
    port = free_port()
    servers = "".join(
        f"  server s{place} 127.0.0.1:{one.port} check inter 1s fall 1 rise 1\n" for place, one in enumerate(exporters)
    )
    (folder / "haproxy.cfg").write_text(
        "defaults\n  mode http\n  timeout connect 1s\n  timeout client 1m\n  timeout server 30s\n"
        "  option redispatch\n  retries 3\n"
        f"listen exporters\n  bind 127.0.0.1:{port}\n  balance roundrobin\n  option httpchk GET /-/ready\n{servers}"
    )
    with serving(["haproxy", "-db", "-f", str(folder / "haproxy.cfg")], port):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def prometheus(folder: Path, exporters: Sequence[Exporter]) -> Iterator[int]:
    """Run Prometheus with the configuration and rules of this project; yield its port."""
    shutil.copytree(ROOT / "prometheus", folder / "prometheus")
    port = free_port()
    targets = json.dumps([{"targets": [f"127.0.0.1:{one.port}" for one in exporters]}])
    for file in (folder / "prometheus/targets").glob("*.yml"):
        file.write_text(targets if file.stem == "model-exporter" else "[]")
    command = ["prometheus", f"--config.file={folder}/prometheus/prometheus.yml"]
    command += [f"--storage.tsdb.path={folder}/tsdb", f"--web.listen-address=127.0.0.1:{port}"]
    with serving(command, port):
        yield port


def query(port: int, expression: str) -> list[dict[str, Any]]:
    """Return the series of an expression."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?query={quote(expression)}") as answer:
        result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return result


def counted(port: int, name: str) -> float:
    """Return what Prometheus saw of a counter over all replicas: its rises, and its values after each start."""
    total = 0.0
    for series in query(port, f"{name}[2h]"):
        samples = [0.0, *(float(value) for _, value in series["values"])]
        total += sum(after - before if after >= before else after for before, after in itertools.pairwise(samples))
    return total


def by_feature(port: int, name: str) -> dict[str, float]:
    """Return the values of a recording rule by feature."""
    return {one["metric"]["feature"]: float(one["value"][1]) for one in query(port, f'{name}{{feature=~"f.*"}}')}


def windows(exporter: Exporter, name: str) -> dict[str, float]:
    """Return a gauge of the window of an hour, by feature."""
    found = {f"f{place}": 0.0 for place in range(FEATURES)}
    for series, value in exporter.series().items():
        if series.startswith(f"{name}{{") and 'window="1h"' in series:
            feature = series.partition('feature="')[2].partition('"')[0]
            if feature in found:
                found[feature] = value
    return found


def kill_each_minute(exporters: Sequence[Exporter], minutes: int) -> None:
    """Kill an exporter in the middle of each minute, in turn, and start it again."""
    begun = time.monotonic()
    for minute in range(minutes):
        exporter = exporters[minute % len(exporters)]
        time.sleep(max(begun + 60 * minute + 30 - time.monotonic(), 0))
        exporter.process.kill()
        exporter.process.wait()
        time.sleep(DOWN_SECONDS)
        exporter.start()
        print(f"minute {minute + 1}: killed and started again", flush=True)
    time.sleep(max(begun + 60 * minutes - time.monotonic(), 0))


def everything(folder: Path, services: Sequence[Acknowledged]) -> dict[str, float]:
    """Let another exporter count all predictions; return its drift by feature."""
    one = new_exporter(folder, f"sqlite:///{folder}/one.db", "everything")
    one.start()
    for service, said in enumerate(services):
        for block in range(-(-said.recorded // BLOCK)):
            rows = values(service, block)[: said.recorded - block * BLOCK]
            body = json.dumps([{**LABELS, "inputs": inputs(row), "prediction": "7", "confidence": 0.9} for row in rows])
            while one.ask("POST", "/v1/predictions", body.encode())[0] != 202:
                time.sleep(0.1)
    drift = windows(one, "model_feature_kl_divergence")
    stop(one)
    return drift


def stop(exporter: Exporter) -> None:
    """Stop an exporter."""
    exporter.process.terminate()
    exporter.process.wait()


def new_exporter(folder: Path, url: str, name: str) -> Exporter:
    """Return an exporter of the model with its profile, which is not started yet."""
    exporter = Exporter(folder, url, name)
    save(profile(FEATURES), folder / name / "profile.json")
    config = {"models": [{"name": "m", "profile": "profile.json"}], "store": {"url": url, "replica": name}}
    (folder / name / "exporter.yml").write_text(json.dumps(config))
    return exporter


class Row(NamedTuple):
    """What was acknowledged, how many of it are missing, and how many are there twice."""

    what: str
    acknowledged: int
    missing: int
    twice: int | None = None

    def cells(self) -> tuple[str, ...]:
        """Return the cells of the table."""
        share = percent(max(self.missing, 0) / self.acknowledged, 3)
        twice = "" if self.twice is None else number(self.twice)
        return self.what, number(self.acknowledged), number(self.missing), share, twice


def stored(server: Postgres, url: str, services: Sequence[Acknowledged]) -> list[Row]:
    """Compare the database with what was acknowledged."""
    sent = sum(one.sent for one in services)
    with server.connect(url.partition("@/")[2].partition("?")[0]) as connection:
        (total, distinct), *_ = connection.execute("SELECT count(*), count(DISTINCT id) FROM predictions").fetchall()
        rows = [Row("predictions in the database", sent, sent - distinct, total - distinct)]
        for what, name in (("corrections", "feedback"), ("labels", "labels")):
            said = {key: label for one in services for key, label in getattr(one, what).items()}
            kept = connection.execute(f"SELECT prediction_id, label FROM {name}").fetchall()
            found = {key: str(json.loads(label)) for key, label in kept}
            lost = sum(found.get(key) != label for key, label in said.items())
            rows.append(Row(f"{what} in the database", len(said), lost, len(kept) - len(found)))
    return rows


def in_memory(port: int, exporters: Sequence[Exporter], services: Sequence[Acknowledged]) -> list[Row]:
    """Compare what Prometheus saw, and the windows of all replicas, with what was acknowledged."""
    sent = sum(one.sent for one in services)
    corrections, labels = sum(len(one.corrections) for one in services), sum(len(one.labels) for one in services)
    inside = sum(windows(one, "model_feature_window_observations")["f0"] for one in exporters)
    return [
        Row("predictions in Prometheus", sent, round(sent - counted(port, "model_attempts_total"))),
        Row("predictions in the windows of the replicas", sent, round(sent - inside)),
        Row("corrections in Prometheus", corrections, round(corrections - counted(port, "model_corrections_total"))),
        Row("labels in Prometheus", labels, round(labels - counted(port, "model_labelled_predictions_total"))),
    ]


def offer(address: str, rate: float, exporters: Sequence[Exporter], minutes: int) -> list[Acknowledged]:
    """Let services record while exporters are killed; return what each of them sent."""
    context = multiprocessing.get_context("spawn")
    stopped, receivers, processes = context.Event(), [], []
    for service in range(SERVICES):
        receiver, sender = context.Pipe(duplex=False)
        processes.append(context.Process(target=serve, args=(service, address, rate / SERVICES, stopped, sender)))
        processes[-1].start()
        sender.close()
        receivers.append(receiver)
    try:
        kill_each_minute(exporters, minutes)
    finally:
        stopped.set()
    services = [receiver.recv() for receiver in receivers]
    for process in processes:
        process.join()
    return services


def run(minutes: int, rate: float) -> None:
    """Print the tables."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url, server = stack.enter_context(database("postgresql", folder))
        assert server is not None
        exporters = [new_exporter(folder, url, f"replica-{place}") for place in range(3)]
        for exporter in exporters:
            exporter.start()
            stack.callback(stop, exporter)
        address = stack.enter_context(balancer(folder, exporters))
        port = stack.enter_context(prometheus(folder, exporters))
        services = offer(address, rate, exporters, minutes)
        time.sleep(RULES_SECONDS)
        rows = [*stored(server, url, services), *in_memory(port, exporters, services)]
        together = by_feature(port, "model_version_feature:kl_divergence:increase1h")
        alone = everything(folder, services)
        logs = "".join((folder / f"replica-{place}" / "log").read_text() for place in range(3))
    print(f"\n{minutes} kills, load average {psutil.getloadavg()[2]:.0f}; "
          f"{sum(one.recorded for one in services):,} predictions recorded; "
          f"{sum(one.repeated for one in services)} corrections and labels repeated; "
          f"tracebacks in the logs: {logs.count('Traceback')}\n")  # fmt: skip
    print(table(["", "acknowledged", "missing", "share", "twice"], [row.cells() for row in rows]), "\n")
    drifts = [(f, f"{alone[f]:.4f}", f"{together[f]:.4f}", percent(abs(together[f] / alone[f] - 1), 2)) for f in alone]
    print(table(["feature", "one exporter", "three replicas", "difference"], drifts))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--rate", type=float, default=1000.0, help="predictions a second of all services")
    options = parser.parse_args()
    for program in ("haproxy", "prometheus"):
        if shutil.which(program) is None:
            parser.error(f"{program} is not installed")
    run(options.minutes, options.rate)


if __name__ == "__main__":
    main()
