"""Corrections are reviewed, and a release of them is downloaded, over HTTP.

The reviewer is the demo itself, which knows the true labels of the images that its users send. Real reviewers look
at them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from exporter.commands.demo import model
from exporter.commands.demo.incidents import Incidents
from exporter.errors import StackError
from exporter.http_client.client import Client, RequestError

_PAGE = 500


def pending(exporter: Client, order: str = "newest") -> Iterator[dict[str, Any]]:
    """Yield the pending corrections in an order of the API.

    Raises
    ------
    StackError
        When the exporter cannot be reached or refuses a request.
    """
    path: str | None = f"/v1/corrections?model={model.NAME}&status=pending&order={order}&limit={_PAGE}"
    while path:
        page = json.loads(request(exporter, "GET", path))
        yield from page["corrections"]
        path = page["next"] and f"/v1/corrections?{urlsplit(page['next']).query}"


def review(exporter: Client, directory: Path, corrections: Iterable[dict[str, Any]]) -> Counter[str]:
    """Decide corrections: accept the right ones, reject the wrong ones.

    Returns
    -------
    Counter of str
        ``accepted``, ``rejected``, and ``left``: those whose image is not recognised because it is noisy, and those
        that somebody else decided first.

    Raises
    ------
    StackError
        When the exporter cannot be reached or refuses a request.
    """
    labels = _true_labels(directory)
    counts: Counter[str] = Counter()
    for correction in corrections:
        label = labels.get(_key((correction["inputs"] or {}).get("image")))
        if label is None:
            counts["left"] += 1
            continue
        status = "accepted" if correction["label"] == label else "rejected"
        decision = {"status": status, "revision": correction["revision"]}
        decided = request(exporter, "PATCH", f"/v1/corrections/{correction['id']}", decision, empty_on=409)
        counts[status if decided else "left"] += 1
    return counts


def review_sample(exporter: Client, directory: Path, count: int = 100) -> Counter[str]:
    """Draw a random sample of confident predictions without feedback, and judge each.

    Returns
    -------
    Counter of str
        ``right``, ``wrong``, and ``left``: those whose image is not recognised because it is noisy.

    Raises
    ------
    StackError
        When the exporter cannot be reached or refuses a request.
    """
    labels = _true_labels(directory)
    request(exporter, "POST", "/v1/corrections/samples", {"model": model.NAME, "count": count})
    path = f"/v1/corrections?model={model.NAME}&status=pending&source=sample&limit={_PAGE}"
    counts: Counter[str] = Counter()
    for sampled in json.loads(request(exporter, "GET", path))["corrections"]:
        label = labels.get(_key((sampled["inputs"] or {}).get("image")))
        decision = {"status": "accepted", "revision": sampled["revision"]}
        if label is None:
            counts["left"] += 1
            decision["status"] = "rejected"
        elif label == sampled["prediction"]:
            counts["right"] += 1
        else:
            counts["wrong"] += 1
            decision["label"] = label
        request(exporter, "PATCH", f"/v1/corrections/{sampled['id']}", decision, empty_on=409)
    return counts


def download(exporter: Client, release: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the examples of a release.

    Parameters
    ----------
    exporter
        HTTP client of the exporter.
    release
        The release's document, as a request for retraining has it.

    Raises
    ------
    StackError
        When the exporter cannot be reached or refuses a request, or the SHA-256 of the release is wrong.
    """
    content = request(exporter, "GET", f"/v1/dataset/releases/{quote(str(release['id']))}")
    if hashlib.sha256(content).hexdigest() != release["sha256"]:
        raise StackError(f"the release {release['id']} has changed: its SHA-256 differs")
    return [json.loads(line) for line in content.splitlines()]


def request(client: Client, method: str, path: str, document: object = None, *, empty_on: int | None = None) -> bytes:
    """Send a request.

    Returns
    -------
    bytes
        The body of the response; empty where its status is ``empty_on``.

    Raises
    ------
    StackError
        When the server cannot be reached or answers with an error.
    """
    try:
        response = client.request(method, path, json=document)
    except RequestError as error:
        raise StackError(f"{client.url}{path}: no response ({error.reason})") from None
    if response.status == empty_on:
        return b""
    if response.status >= 300:
        raise StackError(f"{client.url}{path}: {response.error_message()}")
    return response.body


def _true_labels(directory: Path) -> dict[bytes, str]:
    """Return the labels of the held-out images: of each as it is, and as the deterministic incidents change it."""
    images, labels = model.held_out(directory)
    incidents = Incidents()
    by_image: dict[bytes, str] = {}
    for incident in ("shifted", "dark", None):
        incidents.begin(incident, 3600)
        by_image |= {_key(incidents.apply(image)): str(label) for image, label in zip(images, labels, strict=True)}
    return by_image


def _key(image: object) -> bytes:
    try:
        return np.array(image, dtype=np.float64).tobytes()
    except (ValueError, TypeError):
        return b""
