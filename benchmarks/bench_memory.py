"""Resident memory of a serving exporter, against a process that has imported prometheus_client alone."""

from __future__ import annotations

import subprocess
import sys
import urllib.request

import psutil
from timing import exporter, report

PEER = "import prometheus_client, psutil; print(psutil.Process().memory_info().rss)"


def main() -> None:
    """Print the figures."""
    peer = int(subprocess.run([sys.executable, "-c", PEER], capture_output=True, check=True).stdout) / 2**20
    for features in (10, 50):
        with exporter(features) as (port, child):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read()
            size = psutil.Process(child.pid).memory_info().rss / 2**20
            report(f"resident memory, one model of {features} features", size, "MiB", "prometheus_client alone", peer)


if __name__ == "__main__":
    main()
