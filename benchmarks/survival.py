"""Shared by the survival benchmarks: an exporter under load, clients that retry, and the final comparison."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from timing import free_port

from exporter.config import StoreConfig
from exporter.storage._database import feedback, history, open_engine, predictions

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.postgres import Postgres, running

__all__ = ["Clients", "Comparison", "Exporter", "Postgres", "database"]


@contextlib.contextmanager
def database(kind: str, folder: Path) -> Iterator[tuple[str, Postgres | None]]:
    """Yield the URL of an empty database of this kind, and its server."""
    if kind == "postgresql":
        with running() as server:
            yield server.url(), server
    else:
        yield f"sqlite:///{folder / 'store.db'}", None


class Exporter:
    """An exporter with the model m."""

    def __init__(self, folder: Path, url: str, name: str = "one") -> None:
        self.port = free_port()
        folder = folder / name
        folder.mkdir()
        config = {"models": [{"name": "m"}], "store": {"url": url, "replica": name}}
        (folder / "exporter.yml").write_text(json.dumps(config))
        self._folder = folder
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        """Start, and wait until it is ready."""
        command = [sys.executable, "-m", "exporter.cli", "serve", f"--config.file={self._folder}/exporter.yml"]
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, f"--web.listen-address=127.0.0.1:{self.port}"], stdout=log, stderr=log
            )
        while True:
            if self.process.poll() is not None:
                raise SystemExit((self._folder / "log").read_text()[-3000:])
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.ask("GET", "/-/ready")[0] == 200:
                    return
            time.sleep(0.02)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        """Send a request on a new connection."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            client.request(method, path, body, headers or {})
            answer = client.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            client.close()

    def series(self) -> dict[str, float]:
        """Return the samples of the exposition by their series."""
        lines = self.ask("GET", "/metrics")[1].decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {series: float(value) for series, _, value in pairs}

    def metrics(self) -> dict[str, float]:
        """Return the samples of the exposition, summed over labels."""
        samples: Counter[str] = Counter()
        for series, value in self.series().items():
            samples[series.partition("{")[0]] += value  # type: ignore[assignment]
        return dict(samples)


class Clients:
    """Services that send predictions, and users who correct them, until they are stopped.

    Every user repeats a request with the same key until it is answered, and sometimes once more, like a
    client whose response was lost.

    Parameters
    ----------
    exporters
        The exporters; each request goes to a random one.
    users
        Number of concurrent users.
    rate
        Predictions a second.
    kept
        Whether half of the requests use persistent connections, like those of a client's pool.
    """

    def __init__(self, exporters: Sequence[Exporter], users: int, rate: float, kept: bool = False) -> None:
        self._exporters = exporters
        self._rate = rate
        self._kept = kept
        self._local = threading.local()
        self._stop = threading.Event()
        self._sent = 1
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._user, args=(number,)) for number in range(users)]
        self._threads.append(threading.Thread(target=self._service))
        self.accepted = self.refused = self.requests = self.unanswered = 0
        self.acknowledged: dict[str, tuple[str, str]] = {}
        self.statuses: Counter[int] = Counter()
        self.slowest = 0.0
        self.without_retry_after = 0
        self.last_acknowledged = time.monotonic()

    def start(self) -> None:
        """Start."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop once every correction is answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, path: str, body: Any, key: str | None = None) -> tuple[int, http.client.HTTPMessage]:
        exporter, data = random.choice(self._exporters), json.dumps(body).encode()
        headers = {"Idempotency-Key": key} if key else {}
        try:
            if self._kept and random.random() < 0.5:
                return self._ask_kept(exporter, path, data, headers)
            status, _, answered = exporter.ask("POST", path, data, headers)
        except ConnectionRefusedError:
            raise
        except (OSError, http.client.HTTPException) as error:
            with self._lock:
                self.unanswered += 1
            raise ConnectionError from error
        return status, answered

    def _ask_kept(
        self, exporter: Exporter, path: str, data: bytes, headers: dict[str, str]
    ) -> tuple[int, http.client.HTTPMessage]:
        clients = self._local.__dict__
        client = clients.setdefault(
            str(exporter.port), http.client.HTTPConnection("127.0.0.1", exporter.port, timeout=20)
        )
        try:
            client.request("POST", path, data, headers)
            answer = client.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            client.close()
            raise
        return answer.status, answer.headers

    def _service(self) -> None:
        batch = 50
        following = time.monotonic()
        while not self._stop.is_set():
            events = [
                {"id": f"p-{self._sent + place}", "model": "m", "version": "1", "prediction": "7", "confidence": 0.9}
                for place in range(batch)
            ]
            try:
                status, _ = self._ask("/v1/predictions", events, f"s-{self._sent}")
            except OSError:
                time.sleep(0.02)
                continue
            if status == 202:
                self.accepted += batch
                self._sent += batch
            else:
                self.refused += batch
            following = max(following + batch / self._rate, time.monotonic() - 1)
            time.sleep(max(following - time.monotonic(), 0))

    def _user(self, number: int) -> None:
        chance = random.Random(number)
        said = 0
        while not self._stop.is_set():
            said += 1
            key, label = f"{number}-{said}", str(chance.randrange(10))
            # Usually a recent prediction, sometimes the next one; a few are corrected again.
            name = f"p-{max(self._sent + chance.randrange(-200, 20), 1)}"
            correction = {"prediction_id": name, "verdict": "corrected", "label": label, "user": key}
            again = 1 + (chance.random() < 0.1)
            while again:
                again -= self._send_feedback(key, correction)
            with self._lock:
                self.acknowledged[key] = name, label

    def _send_feedback(self, key: str, correction: dict[str, Any]) -> bool:
        begun = time.monotonic()
        self.requests += 1
        try:
            status, headers = self._ask("/v1/feedback", correction, key)
        except OSError:
            time.sleep(0.02)
            return False
        self.slowest = max(self.slowest, time.monotonic() - begun)
        self.statuses[status] += 1
        if status in {200, 201}:
            self.last_acknowledged = time.monotonic()
            return True
        if status != 503:
            raise AssertionError(f"unexpected answer {status}")
        self.without_retry_after += headers["Retry-After"] is None
        time.sleep(0.2)
        return False


class Comparison:
    """What the database holds, compared with what was acknowledged."""

    def __init__(self, url: str, clients: Clients) -> None:
        engine = open_engine(StoreConfig(url=url), 600)
        with engine.connect() as connection:
            latest = sa.select(feedback.c.idempotency_key, feedback.c.label, feedback.c.prediction_id)
            earlier = sa.select(history.c.idempotency_key, history.c.label, feedback.c.prediction_id).join(
                feedback, feedback.c.id == history.c.feedback_id
            )
            corrections = connection.execute(sa.union_all(latest, earlier)).all()
            ids = connection.execute(sa.select(feedback.c.prediction_id)).scalars().all()
            stored, distinct = connection.execute(
                sa.select(sa.func.count(), sa.func.count(sa.distinct(predictions.c.id)))
            ).one()
            of_unknown = sa.select(sa.func.count()).where(
                ~feedback.c.joined, feedback.c.prediction_id.in_(sa.select(predictions.c.id))
            )
            self.unjoined = connection.execute(of_unknown).scalar_one()
            self.corrected = connection.execute(
                sa.select(sa.func.count()).select_from(feedback).where(feedback.c.counted)
            ).scalar_one()
        engine.dispose()
        keys = Counter(key.removesuffix("/0") for key, _, _ in corrections)
        there = {key.removesuffix("/0"): (name, json.loads(label)) for key, label, name in corrections}
        self.lost = sum(there.get(key) != said for key, said in clients.acknowledged.items())
        self.accepted_twice = sum(times > 1 for times in keys.values())
        self.two_corrections = len(ids) - len(set(ids))
        self.stored, self.stored_twice = stored, stored - distinct
