"""Measure what the demo's next version learns from the corrections that are reviewed first, by their order.

In each repetition the demo's users send images while its camera is dark, and correct confident mistakes. From then on
there is a copy of the exporter for each order: the demo reviews some corrections in it, the exporter asks the demo's
trainer for a new version over HTTP, and that version is evaluated on dark images of the teachers held back, as in
``python -m demo run --retrain``. The images are the demo's each time; users and random orders differ.

    python benchmarks/demo_retraining.py [--quick]

takes about 20 minutes and writes the table between the marks of ``docs/review.md``; ``--quick`` prints it from two
repetitions.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import study_tables
from scipy.stats import t
from timing import free_port, serving
from werkzeug.serving import make_server

from demo import model, retraining, service
from demo.incidents import Incidents
from demo.retraining import Trainer, count_right, held_back_images, train
from demo.service import Versions
from demo.traffic import Traffic
from exporter.client import Monitor
from exporter.http_client.client import Client

PAGE = Path(__file__).parents[1] / "docs" / "review.md"
REPETITIONS = 10
REQUESTS, RATE = 4000, 100.0
"""What users send, and how many requests a second."""
FEW, MANY = 50, 75
"""Corrections that are reviewed: as many as start the demo's retraining, and half as many again."""
RANKING_SECONDS = 120.0


class Running(NamedTuple):
    """The demo's exporter and its model service with the trainer."""

    exporter: Client
    service: Client
    incidents: Incidents


@contextlib.contextmanager
def demo(folder: Path) -> Iterator[Running]:
    """Run the exporter and the service with the files of a folder."""
    exporter_port, service_port = free_port(), free_port()
    service_url, exporter_url = f"http://127.0.0.1:{service_port}", f"http://127.0.0.1:{exporter_port}"
    model.link(folder, "http://127.0.0.1:9", {}, service_url)
    command = [sys.executable, "-m", "exporter.cli", "serve", f"--config.file={folder / model.CONFIG_FILE}"]
    with serving([*command, f"--web.listen-address=127.0.0.1:{exporter_port}"], exporter_port):
        exporter, incidents = Client(exporter_url, "--exporter", timeout=60), Incidents()
        versions = Versions(folder, lambda version: Monitor(exporter_url, model.NAME, version))
        app = service.create_app(versions, incidents, Trainer(folder, exporter, versions, print), exporter.url)
        server = make_server("127.0.0.1", service_port, app, threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Running(exporter, Client(service_url, "--service", timeout=60), incidents)
        finally:
            server.shutdown()
            server.server_close()
            versions.close()


def fill(folder: Path, seed: int) -> int:
    """Let users send dark images and correct mistakes; wait until all is ranked, and return how many are pending."""
    with demo(folder) as running:
        running.incidents.begin("dark", 3600)
        users = Monitor(running.exporter.url, model.NAME, model.VERSION)
        images, labels = model.held_out(folder)
        traffic = Traffic(running.service.url, users, images, labels, rate=RATE, delay=(0.0, 1.0), seed=seed)
        traffic.start()
        while traffic.counts["requests"] < REQUESTS:
            time.sleep(0.2)
        traffic.stop()
        users.close()
        until = time.monotonic() + RANKING_SECONDS
        while not (ranked := pending(folder)):
            if time.monotonic() > until:
                raise SystemExit(f"the corrections were not ranked within {RANKING_SECONDS:.0f} s")
            time.sleep(0.5)
        return ranked


def pending(folder: Path) -> int:
    """Return how many corrections are pending, 0 until the last of them is ranked."""
    with contextlib.closing(sqlite3.connect(folder / "model-exporter.db")) as connection:
        query = "SELECT count(*), max(id) FROM feedback WHERE status = 'pending' AND verdict = 'corrected' AND joined"
        count, newest = connection.execute(query).fetchone()
        ranked = connection.execute("SELECT newest FROM rankings WHERE source = 'user' ORDER BY id DESC").fetchone()
    return int(count) if ranked and ranked[0] == newest else 0


def retrained(folder: Path, order: str, count: int, seed: int) -> str:
    """Review so many corrections in an order, and return the version that is trained then."""
    with demo(folder) as running:
        if order == "random":
            everything = list(retraining.pending(running.exporter))
            chosen: list[dict[str, Any]] = random.Random(seed).sample(everything, count)
        else:
            chosen = list(itertools.islice(retraining.pending(running.exporter, order), count))
        retraining.review(running.exporter, folder, chosen)
        return train(running.exporter, running.service, lambda _: None)


def repetition(prepared: Path, seed: int) -> dict[str, float]:
    """Return the accuracy on dark images by order and number, that of the first version, and what was pending."""
    images, labels = held_back_images(prepared, "dark")
    with tempfile.TemporaryDirectory() as name:
        live = Path(name) / "live"
        shutil.copytree(prepared, live)
        result = {"pending": float(fill(live, seed))}
        result["before"] = count_right(live, model.VERSION, images, labels) / len(images)
        for order, count in (("newest", FEW), ("random", FEW), ("random", MANY), ("informative", FEW)):
            folder = Path(name) / f"{order}-{count}"
            shutil.copytree(live, folder)
            version = retrained(folder, order, count, seed)
            result[f"{count} {order}"] = count_right(folder, version, images, labels) / len(images)
    return result


def main() -> None:
    """Print the table, and write it into the documentation."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    logging.getLogger("exporter.client").setLevel(logging.ERROR)

    def tables(quick: bool) -> Iterator[tuple[str, str]]:
        runs = []
        with tempfile.TemporaryDirectory() as prepared:
            model.prepare(Path(prepared))
            for seed in range(2 if quick else REPETITIONS):
                runs.append(repetition(Path(prepared), seed))
                print(runs[-1], file=sys.stderr, flush=True)
        yield "demo retraining", table(runs)

    study_tables.run(__doc__, PAGE, tables)


def table(runs: list[dict[str, float]]) -> str:
    """Return the table of the repetitions."""
    mean = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
    few, many, informative = f"{FEW} random", f"{MANY} random", f"{FEW} informative"
    shown = ("before", f"{FEW} newest", few, many, informative)
    cells: list[object] = [f"{mean['pending']:,.0f}", *(study_tables.percent(mean[name]) for name in shown)]
    for other in (few, many):
        gains = 100 * np.array([run[informative] - run[other] for run in runs])
        half = t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / len(gains) ** 0.5
        cells.append(f"{gains.mean():+.1f} ({gains.mean() - half:+.1f} to {gains.mean() + half:+.1f})")
    head = ["pending", "before", f"{FEW} newest", f"{FEW} at random", f"{MANY} at random", f"{FEW} most informative"]
    return study_tables.table([*head, f"gain over {FEW} at random", f"gain over {MANY} at random"], [cells])


if __name__ == "__main__":
    main()
