"""Measure searches for slices over a million predictions of 30 features, with SQLite and PostgreSQL.

The predictions go through the exporter's own queue into the database, and so do corrections of 1% of them and labels
of 10%; 60% of the corrections and errors are in 4% of the traffic. Then a served exporter is asked over HTTP: the
elapsed seconds are those of the answer, and the memory is the exporter's highest, less what it had before. At the end,
scrapes and predictions go on beside searches, and without them.

    python benchmarks/bench_slices.py [sqlite|postgresql|all] [PREDICTIONS]
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
from survival import database
from timing import free_port, profile, serving

from exporter.profiles.profile import save
from exporter.server.application import Exporter
from exporter.wire.events import Feedback, LabelEvent

FEATURES, BATCH, RUNS = 30, 1000, 5
SECONDS = 8.0
"""How long scrapes and predictions go on beside searches, and without them."""


class Traffic:
    """Requests of predictions; their inputs repeat after 50,000."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(1)
        self._batches = []
        for _ in range(50):
            values = np.round(self._rng.normal(size=(BATCH, FEATURES)), 4)
            texts = [json.dumps({f"f{n}": value for n, value in enumerate(row)}) for row in values.tolist()]
            self._batches.append((texts, ((values[:, 3] > 0.85) & (values[:, 7] > 0.85)).tolist()))

    def request(self, number: int) -> tuple[bytes, list[str], list[bool]]:
        """Return a body, the identifiers of its predictions, and which of them are in the slice."""
        texts, inside = self._batches[number % len(self._batches)]
        ids = [f"{number:08x}-{row:04x}-{self._rng.bytes(6).hex()}" for row in range(BATCH)]
        rest = '"model":"m","version":"1","prediction":"yes","confidence":0.9,"inputs":'
        events = [f'{{"id":"{id_}",{rest}{text}}}' for id_, text in zip(ids, texts, strict=True)]
        return f"[{','.join(events)}]".encode(), ids, inside


def fill(folder: Path, many: int) -> None:
    """Send predictions, corrections and labels."""
    rng = np.random.default_rng(1)
    exporter = Exporter(folder / "exporter.yml")
    ingest, traffic = exporter.ingest, Traffic()
    inside: list[str] = []
    others: list[str] = []
    start = time.perf_counter()
    for number in range(many // BATCH):
        body, ids, chosen = traffic.request(number)
        while ingest.predictions(body, False, None, False).status != 202:
            time.sleep(0.01)
        inside += [id_ for id_, is_in in zip(ids, chosen, strict=True) if is_in]
        others += [id_ for id_, is_in in zip(ids, chosen, strict=True) if not is_in]
    if not exporter.pipeline.settle(600) or not exporter.store.flush(600):
        raise SystemExit("it was not stored")
    print(f"{'filled through the queue':52} {time.perf_counter() - start:12,.4g} s")

    def some(count: int) -> list[str]:
        shuffled = (rng.permutation(ids)[: round(count * share)] for ids, share in ((inside, 0.6), (others, 0.4)))
        return [id_ for ids in shuffled for id_ in ids.tolist()]

    ids = some(many // 100)
    for first in range(0, len(ids), BATCH):
        part = [(id_, f"u{rng.integers(0, 50)}") for id_ in ids[first : first + BATCH]]
        words = [Feedback(id_, verdict="corrected", label="no", user=user) for id_, user in part]
        exporter.store.submit_feedback(words, None).result()
    labels = dict.fromkeys(rng.permutation([*inside, *others])[: many // 10].tolist(), "yes")
    labels |= dict.fromkeys(some(many // 50), "no")
    pairs = list(labels.items())
    for first in range(0, len(pairs), BATCH):
        exporter.store.record_labels([LabelEvent(id_, label) for id_, label in pairs[first : first + BATCH]])
    exporter.close()


def ask(port: int, path: str) -> tuple[float, bytes]:
    """Return the elapsed seconds of a request, and the response."""
    start = time.perf_counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=300) as answer:
        body: bytes = answer.read()
    return time.perf_counter() - start, body


def questions(port: int, process: psutil.Process, since: float, middle: float) -> None:
    """Ask for each kind of slices."""
    for of, begin in (("corrections", since), ("errors", since), ("drift", middle)):
        time_text = datetime.fromtimestamp(begin, UTC).isoformat().replace("+00:00", "Z")
        path = f"/v1/slices?model=m&of={of}&since={time_text}"
        before, peak = process.memory_info().rss, [0]
        done = threading.Event()

        def watch(peak: list[int] = peak, done: threading.Event = done) -> None:
            while not done.wait(0.005):
                peak[0] = max(peak[0], process.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        used = process.cpu_times()
        results = [ask(port, path) for _ in range(RUNS)]
        processor = sum(process.cpu_times()[:2]) - sum(used[:2])
        done.set()
        watcher.join()
        document = json.loads(results[0][1])
        slices = "; ".join(str(one["where"]) for one in document["slices"][:2])
        what = f"{of}, {document['predictions']:,} predictions"
        times = [seconds for seconds, _ in results]
        print(
            f"{what:52} {statistics.median(times):8.3f} s (first {times[0]:.3f}, worst {max(times):.3f}), "
            f"processor {processor / RUNS:.3f} s, +{(peak[0] - before) / 2**20:,.0f} MiB; {slices}"
        )


def beside(port: int, since: float) -> None:
    """Send predictions and scrapes, alone and beside searches."""
    traffic = Traffic()
    sent = [traffic.request(2**30 + number)[0] for number in range(20)]
    text = datetime.fromtimestamp(since, UTC).isoformat().replace("+00:00", "Z")

    def scrape(times: list[float]) -> None:
        times.append(ask(port, "/metrics")[0])
        time.sleep(0.05)

    def post(times: list[float]) -> None:
        start = time.perf_counter()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/predictions", sent[len(times) % len(sent)])
        urllib.request.urlopen(request, timeout=60).close()
        times.append(time.perf_counter() - start)
        time.sleep(max(0.05 - times[-1], 0))  # 20,000 predictions a second, if they fit

    def search(times: list[float]) -> None:
        times.append(ask(port, f"/v1/slices?model=m&since={text}")[0])

    for what, calls in (("alone", (scrape, post)), ("beside searches", (scrape, post, search))):
        measured: list[list[float]] = [[] for _ in calls]
        end = time.monotonic() + SECONDS

        def repeat(call: Callable[[list[float]], None], times: list[float], end: float = end) -> None:
            while time.monotonic() < end:
                call(times)

        threads = [
            threading.Thread(target=repeat, args=(call, times)) for call, times in zip(calls, measured, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for name, times in zip(("scrape", "1,000 predictions", "search"), measured, strict=False):
            milliseconds = np.array(times) * 1000
            print(
                f"{f'{name}, {what}':52} {np.median(milliseconds):8.1f} ms, 99% {np.quantile(milliseconds, 0.99):.1f} "
                f"ms, worst {milliseconds.max():.1f} ms, {len(times)} in {SECONDS:.0f} s"
            )


def main() -> None:
    """Measure each database."""
    kind = sys.argv[1] if len(sys.argv) > 1 else "all"
    many = int(float(sys.argv[2])) if len(sys.argv) > 2 else 1_000_000
    for name in ("sqlite", "postgresql") if kind == "all" else (kind,):
        folder = Path(tempfile.mkdtemp(prefix="slices-"))
        try:
            with database(name, folder) as (url, _):
                print(f"-- {name}")
                save(profile(FEATURES), folder / "profile.json")
                config = {"models": [{"name": "m", "profile": "profile.json"}], "store": {"url": url}}
                (folder / "exporter.yml").write_text(json.dumps(config))
                since = time.time() - 1
                fill(folder, many)
                middle = (since + time.time()) / 2
                port = free_port()
                command = [sys.executable, "-m", "exporter.cli", "serve", f"--config.file={folder}/exporter.yml"]
                with serving([*command, f"--web.listen-address=127.0.0.1:{port}"], port) as child:
                    questions(port, psutil.Process(child.pid), since, middle)
                    beside(port, since)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
