"""A run's gauges, to a Pushgateway or into a file for node_exporter."""

from __future__ import annotations

import base64
import contextlib
import os
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from exporter.commands.common import DIRECT
from exporter.commands.ingest.local import NOW
from exporter.errors import BatchError
from exporter.metrics import families as f
from exporter.metrics.exposition import render_families
from exporter.metrics.families import Family, render_lines, series_prefix
from exporter.metrics.models import FamilyLines, window_lines
from exporter.monitoring.model_monitor import ModelMonitor

TIMEOUT = 30.0
"""Seconds that a Pushgateway may take to answer."""
TRIES = 4
"""A Pushgateway that starts anew is asked again: after one second, two and four."""


class Run(NamedTuple):
    """What is said of a run of one model version beside its window."""

    monitor: ModelMonitor
    rows: int
    rejected: int
    seconds: float
    end: float


def exposition(runs: Sequence[Run]) -> bytes:
    """The text format of what a run found."""
    samples = [sample for run in runs for sample in (*window_lines(run.monitor, NOW), *_about(run))]
    return b"".join(line + b"\n" for line in render_families(samples))


def _about(run: Run) -> Iterator[FamilyLines]:
    monitor = run.monitor
    sure = monitor.confidences.counts.sum() > 0
    values: dict[Family, float] = {
        f.BATCH_ROWS: run.rows,
        f.BATCH_REJECTED: run.rejected,
        f.BATCH_CONFIDENT: monitor.counters.confident / run.rows if sure else np.nan,
        f.BATCH_DURATION: run.seconds,
        f.BATCH_SUCCESS: run.end,
    }
    for family, value in values.items():
        yield (
            family,
            render_lines([series_prefix(family.name, model=monitor.config.name, version=monitor.version)], [value]),
        )


class Gateway:
    """A Pushgateway.

    Parameters
    ----------
    url
        Its address, with ``USER:PASSWORD@`` where it asks for them.
    job
        The ``job`` label of what is pushed.

    Raises
    ------
    BatchError
        When the address cannot be right.
    """

    def __init__(self, url: str, job: str) -> None:
        try:
            parts = urllib.parse.urlsplit(url)
            right = parts.port != 0 and parts.scheme in {"http", "https"} and parts.hostname
        except ValueError:  # no port, or half an IPv6 address
            right = None
        if not right or parts.query or parts.fragment:
            raise BatchError("--push: expected the address of a Pushgateway, such as http://127.0.0.1:9091")
        netloc = parts.netloc.rpartition("@")[2]
        self.shown = f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}"
        self._job = job
        self._headers = {"Content-Type": "text/plain; version=0.0.4"}
        if parts.username is not None:
            pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()

    def push(self, run: Run) -> None:
        """Put a run in the place of the one before of the same job, model and version.

        Raises
        ------
        BatchError
            When it is not taken.
        """
        labels = {"job": self._job, "model": run.monitor.config.name, "version": run.monitor.version}
        url = f"{self.shown}/metrics/{'/'.join(_segment(*label) for label in labels.items())}"
        request = urllib.request.Request(url, exposition([run]), self._headers, method="PUT")  # noqa: S310 (see above)
        for wait in (*(2**n for n in range(TRIES - 1)), 0):
            try:
                DIRECT.open(request, timeout=TIMEOUT).close()
            except urllib.error.HTTPError as error:
                with error:
                    text = error.read(1000).decode(errors="replace").strip()
                why = f"{error.code} {text or error.reason}"
                if error.code < 500:
                    wait = 0  # noqa: PLW2901
            except OSError as error:
                why = str(getattr(error, "reason", error))
            else:
                return
            if not wait:
                break
            time.sleep(wait)
        raise BatchError(f"--push: {self.shown} did not take the metrics: {why}")


def _segment(name: str, value: str) -> str:
    """A label of the grouping key in a path; what a path cannot hold goes in base64."""
    if not value or "/" in value:
        return f"{name}@base64/{base64.urlsafe_b64encode(value.encode()).decode() or '='}"
    return f"{name}/{urllib.parse.quote(value, safe='')}"


def write(path: Path, runs: Sequence[Run]) -> None:
    """Write the metrics to a file, all of them or none: a scrape may come at any moment.

    Raises
    ------
    BatchError
        When it cannot be written.
    """
    text = exposition(runs)
    partial: str | None = None
    try:
        handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # node_exporter reads *.prom alone
        with os.fdopen(handle, "wb") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        Path(partial).replace(path)
    except OSError as error:
        if partial is not None:
            with contextlib.suppress(OSError):
                Path(partial).unlink()
        raise BatchError(f"--textfile: {path} cannot be written: {error.strerror}") from None
