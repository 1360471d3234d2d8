"""Measure the resident memory of a serving exporter, against a process that only imported prometheus_client.

Measured at the start, with 10 models of 3 versions and 50 features each, and after the traffic of a day (10 events a
second), sent as fast as the exporter accepts it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
import psutil
from timing import exporter, report

PEER = "import prometheus_client, psutil; print(psutil.Process().memory_info().rss)"
FEATURES = 50
MODELS = [f"m{number}" for number in range(10)]
VERSIONS = ("1", "2", "3")


def bodies(models: Sequence[str], versions: Sequence[str]) -> list[bytes]:
    """Return arrays of 1,000 predictions, distributed over models and versions in turn."""
    rng = np.random.default_rng(3)
    requests = []
    for start in range(0, 10_000, 1000):
        events = [
            {
                "id": f"r-{start + number}",
                "model": models[number % len(models)],
                "version": versions[number // len(models) % len(versions)],
                "inputs": {f"f{n}": value for n, value in enumerate(row)},
                "confidence": 0.9,
            }
            for number, row in enumerate(rng.normal(size=(1000, FEATURES)).round(4).tolist())
        ]
        requests.append(json.dumps(events).encode())
    return requests


def send(port: int, body: bytes) -> None:
    """Post a body until it is accepted."""
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/v1/predictions", body)
        status = connection.getresponse().status
        connection.close()
        if status == 202:
            return
        time.sleep(0.1)


def resident(port: int, process: psutil.Process) -> float:
    """Return the MiB after a scrape, once everything has been counted and written."""
    while process.cpu_percent(0.5) > 20:
        pass
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    connection.getresponse().read()
    connection.close()
    return process.memory_info().rss / 2**20


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=864_000)
    events = parser.parse_args().events
    peer = int(subprocess.run([sys.executable, "-c", PEER], capture_output=True, check=True).stdout) / 2**20
    with exporter(10) as (port, child):
        size = resident(port, psutil.Process(child.pid))
        report("resident after the start, 10 features", size, "MiB", "prometheus_client alone", peer)
    with exporter(FEATURES, MODELS) as (port, child):
        process = psutil.Process(child.pid)
        some = bodies(MODELS, VERSIONS)
        report(
            "10 models x 50 features, before traffic", resident(port, process), "MiB", "prometheus_client alone", peer
        )
        for body in some:
            send(port, body)
        full = resident(port, process)
        report("10 x 3 versions x 50 features, 10,000 events", full, "MiB", "prometheus_client alone", peer)
        for number in range(len(some), events // 1000):
            send(port, some[number % len(some)])
            if number % 288 == 0 or number == events // 1000 - 1:
                report(f"the same after {1000 * (number + 1):,} events", resident(port, process), "MiB", "10,000", full)


if __name__ == "__main__":
    main()
