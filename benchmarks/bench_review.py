"""Measure the review page over a million predictions and 100,000 corrections, with SQLite and PostgreSQL.

The store's own writer fills the database; one UPDATE then spreads the corrections over a month. Requests go to a
served exporter over HTTP. Next to each figure is the processor time of the exporter, which depends less on other work
on the machine. The floor is the same with a thousandth of the rows. Actions that change the queue are measured once,
all others are the median of seven.

    python benchmarks/bench_review.py [sqlite|postgresql|all] [PREDICTIONS] [CORRECTIONS]
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import psutil
from survival import Exporter, database
from timing import report

from exporter.config import StoreConfig
from exporter.storage import Store
from exporter.storage._database import feedback, open_engine
from exporter.wire.events import Feedback, Prediction

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.batches import stored_batch

DAYS = 28.0
BATCH = 1000
RUNS = 7
COUNTRIES = ("NL", "BE", "FR", "DE", "IT", "ES", "PL", "PT")
COMMENTS = (None, None, None, "wrong digit", "too dark to read", "this is upside down")


def fill(url: str, many: int, corrections: int) -> None:
    """Write predictions of the last four weeks, and corrections of a part of them, all through the store."""
    rng = np.random.default_rng(3)
    store = Store(StoreConfig(url=url), on_counted=lambda _: None)
    now = time.time()
    inputs = [
        json.dumps({"image": rng.integers(0, 17, (8, 8)).tolist(), "country": COUNTRIES[n % 8], "age": n % 80}).encode()
        for n in range(BATCH)
    ]
    start = time.perf_counter()
    for first in range(0, many, BATCH):
        size = min(BATCH, many - first)
        confidence = np.round(rng.beta(8, 1.5, size), 4).tolist()
        labels = rng.integers(0, 10, size).tolist()
        events = [
            Prediction("m", f"{rng.bytes(8).hex()}-{first + n}", prediction=f"{labels[n]}", confidence=confidence[n])
            for n in range(size)
        ]
        for event in events:
            event.version = "3" if first < many // 2 else "4"
        received = now - DAYS * 86400 * (1 - first / many)
        sure = [value >= 0.8 for value in confidence]
        rows = stored_batch(events, sure, inputs[:size], received, [COUNTRIES[n % 8] for n in range(size)])
        while store.add(rows):
            pass
        if first % (many // max(corrections // BATCH, 1)) == 0 or size < BATCH:
            corrected = min(BATCH, corrections, size)
            store.flush(600)
            store.submit_feedback([_correction(event, rng) for event in events[:corrected]], None).result(600)
    if not store.flush(600) or store.close(600):
        raise SystemExit("not everything was written")
    print(f"{'filled through the store':52} {time.perf_counter() - start:12,.4g} s")
    engine = open_engine(StoreConfig(url=url), 600)
    with engine.begin() as connection:  # as if they had arrived day by day
        place = feedback.c.id * (DAYS * 86400 / max(corrections, 1))
        connection.execute(feedback.update().values(created=now - DAYS * 86400 + place))
    engine.dispose()


def _correction(event: Prediction, rng: np.random.Generator) -> Feedback:
    right, user = rng.random() < 0.1, f"teacher-{int(rng.pareto(1) * 10) % 500}"
    label = event.prediction if right else str((int(str(event.prediction)) + int(rng.integers(1, 10))) % 10)
    verdict: Any = "accepted" if right else "corrected"
    return Feedback(event.id, verdict=verdict, label=label, user=user, comment=COMMENTS[int(rng.integers(0, 6))])


class Asked:
    """An exporter, with one connection to it."""

    def __init__(self, port: int, process: psutil.Process) -> None:
        self._process = process
        self.asked = 0
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)

    def used(self) -> float:
        """Return the processor seconds of the exporter since its start."""
        times = self._process.cpu_times()
        return times.user + times.system

    def once(self, method: str, path: str, body: bytes | None = None) -> tuple[float, bytes]:
        """Return the seconds to the complete response, and the response."""
        self.asked += 1
        start = time.perf_counter()
        self._connection.request(method, path, body)
        answer = self._connection.getresponse()
        found = answer.read()
        seconds = time.perf_counter() - start
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {found[:300]!r}")
        return seconds, found

    def median(self, path: str) -> float:
        """Return the median seconds of a GET, after one that is not counted."""
        self.once("GET", path)
        return statistics.median(self.once("GET", path)[0] for _ in range(RUNS))

    def queue(self, limit: int, **chosen: str) -> list[dict[str, Any]]:
        """Return the corrections of a page."""
        found = self.once("GET", f"/v1/corrections?{urlencode({'limit': limit, 'status': 'pending', **chosen})}")[1]
        corrections: list[dict[str, Any]] = json.loads(found)["corrections"]
        return corrections


def pages(asked: Asked) -> Iterator[tuple[str, Callable[[], float]]]:
    """Measure what a reviewer does."""

    def page(what: str, path: str = "/review", **chosen: str) -> tuple[str, Callable[[], float]]:
        return what, lambda: asked.median(f"{path}?{urlencode(chosen)}")

    def stamp(days: float) -> str:
        return datetime.fromtimestamp(time.time() - days * 86400, UTC).isoformat().replace("+00:00", "Z")

    yield page("the page")
    yield page("most confident first", order="confident")
    yield page("least confident first", order="uncertain")
    yield page("least confident first, of a version", model="m", version="4", order="uncertain")
    yield page("all, whatever their status", status="all")
    yield page("of a model", model="m")
    yield page("of a version", model="m", version="4")
    yield page("of a day", model="m", since=stamp(2), until=stamp(1))
    yield page("of the last hour", model="m", since=stamp(1 / 24))
    yield page("of a label", label="7")
    yield page("a cell of the confusion table", model="m", predicted="7", label="1")
    yield page("above a confidence", confidence_from="0.95", order="confident")
    yield page("of a segment", model="m", segment="NL")
    yield page("a search that finds much", q="wrong")
    yield page("a search that finds nothing", q="no such thing")
    yield page("a search for a user", q="teacher-7")
    yield page("samples", source="sample", status="all")
    following = asked.once("GET", "/review")[1]
    found = re.findall(rb'href="(/review\?cursor=[^"]+)"', following)
    if found:
        address = found[0].decode().replace("&amp;", "&")
        yield "the next page", lambda: asked.median(address)
    following = asked.once("GET", "/review?order=uncertain")[1]
    found = re.findall(rb'href="(/review\?[^"]*cursor=[^"]+)"', following)
    if found:
        next_uncertain = found[0].decode().replace("&amp;", "&")
        yield "the next page of the least confident", lambda: asked.median(next_uncertain)
    yield page("API: 100 corrections", "/v1/corrections", status="pending")
    yield page("API: 1,000 corrections", "/v1/corrections", limit="1000")

    def scrape() -> float:
        times = []
        for number in range(RUNS):  # each after a correction, so that the scrape has to read the queue again
            correction = {"model": "m", "prediction": "1", "label": "1", "user": f"scrape-{number}"}
            asked.once("POST", "/v1/feedback", json.dumps(correction).encode())
            times.append(asked.once("GET", "/metrics")[0])
        return statistics.median(times)

    yield "a scrape right after a correction", scrape
    yield "a scrape", lambda: asked.median("/metrics")

    def decide(count: int) -> float:
        several = asked.queue(count)
        decisions = [{"id": one["id"], "revision": one["revision"], "status": "accepted"} for one in several]
        return asked.once("PATCH", "/v1/corrections", json.dumps(decisions).encode())[0]

    yield "decide one", lambda: statistics.median(decide(1) for _ in range(RUNS))
    yield "decide 1,000 at once", lambda: decide(1000)
    wish = {"model": "m", "count": 100}
    yield "draw a sample of 100", lambda: asked.once("POST", "/v1/corrections/samples", json.dumps(wish).encode())[0]
    wish_many = {"model": "m", "count": 1000}
    yield (
        "draw a sample of 1,000",
        lambda: asked.once("POST", "/v1/corrections/samples", json.dumps(wish_many).encode())[0],
    )
    yield page("the page, with samples to be reviewed")


def measured(url: str, folder: Path) -> tuple[dict[str, tuple[float, float]], float]:
    """Return elapsed and processor seconds of each action with the store at a URL, and the exporter's peak MiB."""
    exporter = Exporter(folder, url)
    exporter.start()
    try:
        process = exporter.process.pid
        asked, found = Asked(exporter.port, psutil.Process(process)), {}
        for what, call in pages(asked):
            before = asked.used(), asked.asked
            seconds = call()
            found[what] = seconds, (asked.used() - before[0]) / (asked.asked - before[1])
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
        return found, int(peak[1]) / 1024 if peak else 0.0
    finally:
        exporter.process.terminate()
        exporter.process.wait()


def main() -> None:
    """Print the figures."""
    arguments = dict(enumerate(sys.argv[1:]))
    kinds = arguments.get(0, "all")
    many, corrections = int(arguments.get(1, "1000000")), int(arguments.get(2, "100000"))
    for kind in ("sqlite", "postgresql") if kinds == "all" else (kinds,):
        if kind == "postgresql" and not shutil.which("psql"):
            print("postgresql: not on this machine")
            continue
        print(f"-- {kind}: {many:,} predictions, {corrections:,} corrections")
        with contextlib.ExitStack() as stack:
            found = []
            for share in (1000, 1):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                url, _ = stack.enter_context(database(kind, folder))
                fill(url, many // share, corrections // share)
                found.append(measured(url, folder))
        (floor, least), (all_rows, peak) = found
        for what, (seconds, used) in all_rows.items():
            if what in floor:
                shown = f"{what} ({1e3 * used:,.0f} ms of a processor)"
                report(shown, 1e3 * seconds, "ms", "a thousandth of the rows", 1e3 * floor[what][0])
        report("most memory of the exporter", peak, "MiB", "a thousandth of the rows", least)


if __name__ == "__main__":
    main()
