"""Real servers for the tests: an exporter in its own process, on a free port, in a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from exporter.profiles.builder import build_file
from exporter.profiles.profile import Profile, save
from support.processes import ForkedCommand


def free_port() -> int:
    """A port that nobody listens on at this moment, and that no connection gets."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            port = 10_000 + time.monotonic_ns() % 22_000
            probe.bind(("127.0.0.1", port))
            return port


def eventually(check: Callable[[], Any], seconds: float = 60.0, every: float = 0.05) -> Any:
    """The first truthy answer of ``check``; fails the test when none came in time."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        assert time.monotonic() < deadline, f"did not happen within {seconds} s: {check}"
        time.sleep(every)
    return answer


@dataclass
class Answer:
    """What a server said."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


def unverified() -> ssl.SSLContext:
    """The TLS context of a client that accepts any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


_UNVERIFIED = unverified()


def ask(url: str, body: Any = None, method: str | None = None, **headers: str) -> Answer:
    """Ask a server; a body that is not bytes is sent as JSON."""
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **names}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60, context=_UNVERIFIED) as answer:
            return Answer(answer.status, answer.read(), answer.headers)
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read(), error.headers)


class Served:
    """An exporter that serves.

    Parameters
    ----------
    folder
        Of its configuration and log.
    flags
        Options of the command.
    forked
        Whether its process is a `ForkedCommand`; a library that is to be loaded before all others needs a new one.
    files
        How many files a forked process may have open; default: as many as the tests.

    Attributes
    ----------
    headers
        Sent with each request.
    """

    def __init__(self, folder: Path, *flags: str, forked: bool = True, files: int | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "log"
        self.headers: dict[str, str] = {}
        self.flags, self._forked, self._files = flags, forked, files
        self.process: ForkedCommand | subprocess.Popen[bytes]

    def launch(self) -> None:
        """Start the process, whatever becomes of it."""
        command = ["serve", f"--config.file={self.folder / 'exporter.yml'}"]
        command += [f"--web.listen-address=127.0.0.1:{self.port}", *self.flags]
        if self._forked:
            self.process = ForkedCommand(command, self.log, files=self._files)
            return
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "exporter.cli", *command], stdout=log, stderr=log)

    def start(self) -> Served:
        """Start the process and wait until it is ready."""
        self.launch()
        deadline = time.monotonic() + 60  # a busy machine takes its time
        while True:
            assert self.process.poll() is None, self.log.read_text()
            try:
                ask(f"{self.url}/-/ready")
            except OSError:
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.05)
            else:
                return self

    def refused(self) -> str:
        """Start a process that must end with an error; return its log."""
        self.launch()
        assert self.process.wait(60) == 1
        return self.log.read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        return self.process.wait(timeout=60)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def get(self, path: str, **headers: str) -> Answer:
        return ask(self.url + path, **{**self.headers, **headers})

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return ask(self.url + path, body, **{**self.headers, **headers})

    def samples(self, *names: str) -> dict[str, float]:
        """Values by series, those of ``names`` if any are given, once all that was accepted is counted."""
        deadline = time.monotonic() + 60
        while any(self._scrape("model_exporter_queue_length").values()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return self._scrape(*names)

    def _scrape(self, *names: str) -> dict[str, float]:
        query = "&".join(f"name[]={name}" for name in names)
        lines = self.get(f"/metrics?{query}").text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {series: float(value) for series, value in pairs}


@contextmanager
def serving(folder: Path, *flags: str, **settings: Any) -> Iterator[Served]:
    """An exporter until the block ends."""
    with Served(folder, *flags, **settings).start() as server:
        yield server


CONFIG: dict[str, Any] = {
    "models": [
        {
            "name": "credit",
            "profile": "credit.json",
            "redact": ["name"],
            "segment_by": "country",
            "segments": ["NL", "DE"],
            "alerts": {"ModelCorrectionRatioHigh": 0.02},
            "features": {"age": {"alerts": {"ModelFeatureDrift": 0.5}}},
            "objectives": {"errors": 0.99, "latency": {"below": 1, "share": 0.9}},
            "events": ["contracts"],
        },
        {"name": 'bare "model"\\ 模型', "windows": ["10m"], "alerts": {"ModelTrafficMissing": "off"}},
    ]
}


def credit_training(labels: bool) -> dict[str, Any]:
    """The columns of the training data of `CONFIG`."""
    rng = np.random.default_rng(7)
    columns = {
        "age": rng.integers(18, 90, 2000).astype(float),
        "income": rng.lognormal(10, 1, 2000),
        "country": rng.choice(["NL", "DE", "FR"], 2000, p=[0.6, 0.3, 0.1]),
        "photo": rng.integers(0, 17, (2000, 8, 8)),
        "name": rng.choice(["Ada", "Bob"], 2000),
        "predicted": rng.choice(["yes", "no"], 2000),
        "confidence": rng.beta(4, 1, 2000),
    }
    if labels:
        columns["predicted"] = np.where((columns["age"] < 50) == (rng.random(2000) < 0.95), "yes", "no")
        right = rng.random(2000) < columns["confidence"]
        columns["label"] = np.where(right, columns["predicted"], np.where(columns["predicted"] == "yes", "no", "yes"))
    return columns


@cache
def credit_profile(labels: bool) -> Profile:
    """The profile of `CONFIG`, which knows the accuracy and weights if there are ``labels``."""
    outputs = {"prediction_column": "predicted", "confidence_column": "confidence"}
    if labels:
        outputs["label_column"] = "label"
    with TemporaryDirectory() as folder:
        training = Path(folder, "training.npz")
        rows = credit_training(labels)
        # With times, the rows tell that they do not depend on each other.
        np.savez(training, **rows, time=1.7e9 + 3.0 * np.arange(len(rows["age"])))
        return build_file(training, name="credit", time_column="time", **outputs)


def write_config(folder: Path, config: Any = None, *, labels: bool = False) -> Path:
    """``exporter.yml`` in a folder, and its profile, which knows the accuracy and weights if there are ``labels``."""
    if not (folder / "credit.json").exists():
        save(credit_profile(labels), folder / "credit.json")
    path = folder / "exporter.yml"
    path.write_text(yaml.safe_dump(CONFIG if config is None else config, allow_unicode=True))
    return path
