"""Requests of the dataset commands to a running exporter, and what they write to files."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from exporter.commands.common import Progress
from exporter.errors import ExporterError
from exporter.http_client.client import Client, Response

TIMEOUT = 600.0
"""Seconds to wait for a response: a release of many examples is made before it is answered."""


def send(client: Client, method: str, path: str, document: Any = None, **headers: str) -> Any:
    """Return the document of a successful response."""
    response = client.request(method, path, json=document, headers=headers)
    if response.status >= 400:
        raise ExporterError(f"{client.url}: {response.error_message()}")
    return read_document(client, response)


def read_document(client: Client, response: Response) -> Any:
    """Return the JSON document of a response."""
    try:
        return json.loads(response.body)
    except ValueError:
        raise ExporterError(
            f"{client.url}: expected a JSON document, got another response: is it an exporter?"
        ) from None


def read_release(client: Client, name: str) -> tuple[str, dict[str, Any]]:
    """Return the path of a release, given its identifier or name, and the exporter's document of it."""
    path = f"/v1/dataset/releases/{quote(name, safe='')}"
    return path, send(client, "GET", path, Accept="application/json")


def write_document(output: Path, document: Any) -> None:
    """Write a document to a file, as JSON.

    Raises
    ------
    ExporterError
        When it cannot be written.
    """
    try:
        output.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ExporterError(f"{output}: cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def _open(partial: Path, output: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """Open the file to write; the same content compressed is always the same file."""
    with partial.open("wb") as file:
        if output.suffix.lower() != ".gz":
            yield file
            return
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as compressed:
            yield compressed


def download_content(client: Client, path: str, output: Path, sha256: str | None) -> int:
    """Write a response's body to a file, all of it or nothing, and return its size in bytes."""
    partial = output.with_name(output.name + ".partial")
    size, digest = 0, hashlib.sha256()
    try:
        with client.open("GET", path) as response:
            if response.status != 200:
                raise ExporterError(f"{path}: {Response(response.status, response.read(2**20)).error_message()}")
            if sha256 is not None and response.headers.get("ETag") is None:
                sha256 = None
                print("inputs that were redacted since the release are left out: its SHA-256 differs", file=sys.stderr)
            with _open(partial, output) as file, Progress() as progress:
                for piece in response.stream(2**18):
                    file.write(piece)
                    digest.update(piece)
                    size += len(piece)
                    progress(output.name, None, size, "bytes")
        if sha256 is not None and digest.hexdigest() != sha256:
            raise ExporterError(f"{path}: SHA-256 is {digest.hexdigest()}, not {sha256}: {output} is not written")
        size = partial.stat().st_size
        partial.replace(output)
    except OSError as error:
        raise ExporterError(f"{output}: cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
    return size
