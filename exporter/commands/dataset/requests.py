"""Requests of the dataset commands to a running exporter, and what they write to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

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
