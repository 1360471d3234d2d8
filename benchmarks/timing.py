"""Shared by the benchmarks: medians of several runs, a served exporter, and one line per figure."""

from __future__ import annotations

import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from exporter.profiles.bins import numeric_feature
from exporter.profiles.profile import Profile, save

READY_SECONDS = 180.0
"""How long a server may take until it is ready."""


def median_seconds(call: Callable[[], object], runs: int = 7) -> float:
    """Return the median processor seconds of a call in this thread, after one call that is not counted."""
    call()
    times = []
    for _ in range(runs):
        start = time.thread_time()
        call()
        times.append(time.thread_time() - start)
    return statistics.median(times)


def report(what: str, value: float, unit: str, against: str, other: float) -> None:
    """Print a figure, and its ratio to the one that it is compared with."""
    print(f"{what:52} {value:12,.4g} {unit:9} {value / other:6.2f} x {against} ({other:,.4g})")


def profile(features: int, rows: int = 10_000) -> Profile:
    """Return a profile of this number of normally distributed features, with 24 bins each."""
    rng = np.random.default_rng(1)
    made = {f"f{number}": numeric_feature(rng.normal(size=rows)) for number in range(features)}
    return Profile(name="benchmark", rows=rows, inputs=dict.fromkeys(made, "numeric"), features=dict(made))


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server on a port until the block ends."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_ready(child, port)
        yield child
    finally:
        child.terminate()
        child.wait()


def _wait_until_ready(child: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + READY_SECONDS
    while child.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5).close()
            return
        time.sleep(0.05)
    raise SystemExit(f"the server on port {port} was not ready within {READY_SECONDS:.0f} s")


@contextlib.contextmanager
def exporter(features: int, models: Sequence[str] = ("m",)) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Serve an exporter with this number of features per model; yield its port and process."""
    with tempfile.TemporaryDirectory() as folder:
        save(profile(features), Path(folder) / "profile.json")
        listed = ", ".join(f"{{name: {name}, profile: profile.json}}" for name in models)
        (Path(folder) / "exporter.yml").write_text(f"models: [{listed}]\n")
        port = free_port()
        command = [sys.executable, "-m", "exporter.cli", "serve", f"--config.file={folder}/exporter.yml"]
        with serving([*command, f"--web.listen-address=127.0.0.1:{port}"], port) as child:
            yield port, child
