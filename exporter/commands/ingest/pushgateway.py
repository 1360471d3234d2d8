"""Push the metrics of a run to a Pushgateway, or write them to a file for node_exporter."""

from __future__ import annotations

import base64
import contextlib
import os
import tempfile
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path

from urllib3 import Retry

from exporter.commands.ingest.local import NOW
from exporter.errors import BatchError
from exporter.http_client.client import TRANSIENT, Client, RequestError
from exporter.metrics.exposition import render_families
from exporter.metrics.models import Batch

TIMEOUT = 30.0
"""Seconds that the server may take to answer."""
RETRIES = 4
"""A server that restarts is tried again at once, then after two, four and eight seconds."""


def exposition(runs: Sequence[Batch]) -> bytes:
    """Return the metrics of runs in the text format."""
    lines = (line for run in runs for line in run.lines(NOW))
    return b"".join(line + b"\n" for line in render_families(lines))


class Gateway:
    """A Pushgateway.

    Parameters
    ----------
    url
        Its URL, with ``USER:PASSWORD@`` where it requires authentication.
    job
        The ``job`` label of what is pushed.
    ca_file
        File with the certificates to trust instead of the system's.

    Raises
    ------
    ExporterError
        When the URL is not valid.
    """

    def __init__(self, url: str, job: str, ca_file: str | None = None) -> None:
        self._client = push_client(url, "http://127.0.0.1:9091", ca_file)
        self.url = self._client.url
        self._job = job

    def push(self, runs: Sequence[Batch]) -> None:
        """Replace the metrics of the previous run of the same job, model and version.

        Raises
        ------
        BatchError
            When the Pushgateway does not accept them.
        """
        for run in runs:
            labels = {"job": self._job, "model": run.monitor.config.name, "version": run.monitor.version}
            path = f"/metrics/{'/'.join(_segment(*label) for label in labels.items())}"
            headers = {"Content-Type": "text/plain; version=0.0.4"}
            send(self._client, "PUT", path, exposition([run]), headers=headers)


def push_client(url: str, example: str, ca_file: str | None) -> Client:
    """Return a client of the server of ``--push``; ``example`` is a URL for error messages."""
    retries = Retry(
        RETRIES,
        allowed_methods=None,
        status_forcelist=TRANSIENT,
        backoff_factor=1,
        raise_on_status=False,
        retry_after_max=round(TIMEOUT),
    )
    return Client(url, "--push", example=example, user_in_url=True, ca_file=ca_file, timeout=TIMEOUT, retries=retries)


def send(client: Client, method: str, path: str, body: bytes, *, headers: Mapping[str, str]) -> None:
    """Send metrics.

    Raises
    ------
    BatchError
        When the server does not accept them.
    """
    try:
        response = client.request(method, path, body, headers=headers)
    except RequestError as error:
        raise BatchError(f"--push: {client.url} did not accept the metrics: {error.reason}") from None
    if response.status >= 300:
        raise BatchError(f"--push: {client.url} did not accept the metrics: {response.error_message()}")


def _segment(name: str, value: str) -> str:
    """Return a label of the grouping key as path segments, in base64 where a path cannot hold the value."""
    if not value or "/" in value:
        return f"{name}@base64/{base64.urlsafe_b64encode(value.encode()).decode() or '='}"
    return f"{name}/{urllib.parse.quote(value, safe='')}"


def write(path: Path, runs: Sequence[Batch]) -> None:
    """Write the metrics to a file atomically: node_exporter may read it at any moment.

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
