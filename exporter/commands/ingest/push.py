"""Push the metrics of a run to a Pushgateway, or write them to a file for node_exporter."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import struct
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from exporter.commands.ingest.local import NOW
from exporter.errors import BatchError, UsageError
from exporter.http_client.client import Client, RequestError, retry_for
from exporter.metrics.models import Batch as Run

TIMEOUT = 30.0
"""Seconds that the server may take to answer."""
GIVE_UP_SECONDS = 15.0
"""How long a server that restarts is tried again."""


def exposition(runs: Sequence[Run]) -> bytes:
    """Return the metrics of runs in the text format."""
    from exporter.metrics.exposition import render_families  # which loads the database's libraries

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

    def push(self, runs: Sequence[Run]) -> None:
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
    return Client(url, "--push", example=example, user_in_url=True, ca_file=ca_file, timeout=TIMEOUT)


def send(client: Client, method: str, path: str, body: bytes, *, headers: Mapping[str, str]) -> None:
    """Send metrics.

    Raises
    ------
    BatchError
        When the server does not accept them.
    """
    retries = retry_for(GIVE_UP_SECONDS, lambda _: None)
    try:
        response = client.request(method, path, body, headers=headers, retries=retries)
    except RequestError as error:
        raise BatchError(f"--push: {client.url} did not accept the metrics: {error.reason}") from None
    if response.status >= 300:
        raise BatchError(f"--push: {client.url} did not accept the metrics: {response.error_message()}")


def _segment(name: str, value: str) -> str:
    """Return a label of the grouping key as path segments, in base64 where a path cannot hold the value."""
    if not value or "/" in value:
        return f"{name}@base64/{base64.urlsafe_b64encode(value.encode()).decode() or '='}"
    return f"{name}/{urllib.parse.quote(value, safe='')}"


def write(path: Path, runs: Sequence[Run]) -> None:
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


EXAMPLE = "http://127.0.0.1:9090/api/v1/write"
SERIES = 2000
"""Series in a request: as many as Prometheus itself sends."""
MAX_HEADERS = 64 * 1024
"""Bytes of a file with headers."""
_HEADERS = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "snappy",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([ -~]+)")


class RemoteWrite:
    """A server that receives samples by remote write, such as Prometheus, Mimir or Grafana Cloud.

    Parameters
    ----------
    url
        Its URL with the path, with ``USER:PASSWORD@`` where it requires authentication.
    job
        The ``job`` label of what is pushed.
    headers_file
        File with further headers, ``NAME: VALUE``, one on each line.
    ca_file
        File with the certificates to trust instead of the system's.

    Raises
    ------
    ExporterError
        When the URL, a header or a file is not valid.
    """

    def __init__(self, url: str, job: str, headers_file: Path | None = None, ca_file: str | None = None) -> None:
        self._client = push_client(url, EXAMPLE, ca_file)
        if not urllib.parse.urlsplit(self._client.url).path:
            raise UsageError(
                f"--push: expected a URL with the path of remote write, such as {EXAMPLE}, got {self._client.url}"
            )
        self._headers = _HEADERS | (_read_headers(headers_file) if headers_file else {})
        self.url, self._job = self._client.url, job

    def push(self, runs: Sequence[Run]) -> None:
        """Push the metrics of runs.

        Raises
        ------
        BatchError
            When the server does not accept them.
        """
        import pyarrow as pa  # for snappy

        series = [message for run in runs for message in _series(run, self._job)]
        for start in range(0, len(series), SERIES):
            request = b"".join(_field(1, message) for message in series[start : start + SERIES])
            body = pa.compress(request, codec="snappy", asbytes=True)
            send(self._client, "POST", "", body, headers=self._headers)


def _series(run: Run, job: str) -> Iterator[bytes]:
    """Yield the message ``TimeSeries`` of each sample: labels in field 1, in the order of their names, samples in 2."""
    sample_time = b"\x10" + _varint(round(run.end * 1000))
    for family in text_string_to_metric_families(exposition([run]).decode()):
        for sample in family.samples:
            labels = {"__name__": sample.name, "job": job, **sample.labels}
            value = b"\x09" + struct.pack("<d", sample.value)
            yield b"".join(_label_fields(labels)) + _field(2, value + sample_time)


def _label_fields(labels: Mapping[str, str]) -> Iterator[bytes]:
    for name, value in sorted(labels.items()):
        if value:  # an empty label is none
            yield _field(1, _field(1, name.encode()) + _field(2, value.encode()))


def _field(number: int, content: bytes) -> bytes:
    r"""Return a field of a protobuf message that holds bytes, a text or a message.

    >>> _field(2, b"testing")
    b'\x12\x07testing'
    """
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    r"""
    >>> _varint(150)
    b'\x96\x01'
    """
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _read_headers(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_HEADERS + 1)
        lines = content.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise BatchError(f"--push-headers-file: {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BatchError(f"--push-headers-file: {path}: cannot be read: it is not UTF-8") from None
    if len(content) > MAX_HEADERS:
        raise BatchError(f"--push-headers-file: {path}: expected at most {MAX_HEADERS:,} bytes")
    headers = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            match = _HEADER.fullmatch(line.strip())
            if not match:  # without showing a secret
                raise BatchError(f"--push-headers-file: {path}: line {number}: expected NAME: VALUE in ASCII")
            headers[match[1]] = match[2]
    return headers
