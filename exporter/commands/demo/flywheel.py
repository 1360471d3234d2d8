"""Corrections become a release, over HTTP: reviewed, frozen, fetched; and the service told of what came out.

The reviewer here is the demo itself, which knows the truth of the images that its users send. Real reviewers
look.
"""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from exporter.commands.common import DIRECT
from exporter.commands.demo import model
from exporter.commands.demo.incidents import Incidents
from exporter.errors import StackError

MOST = 5000
"""Corrections that are reviewed at the most."""
_PAGE = 500


class Release(NamedTuple):
    """A frozen dataset."""

    name: str
    sha256: str
    examples: list[dict[str, Any]]


def review(exporter: str, directory: Path) -> Counter[str]:
    """Decide the corrections that wait: accept the right ones, reject the wrong ones.

    Returns
    -------
    Counter of str
        ``accepted``, ``rejected``; ``left`` are those whose image is not recognised, a noisy one, and those that
        somebody else decided first.

    Raises
    ------
    StackError
        When the exporter is not there or refuses.
    """
    truths = _truths(directory)
    counts: Counter[str] = Counter()
    url: str | None = f"{exporter}/v1/corrections?model={model.NAME}&status=pending&limit={_PAGE}"
    while url and counts.total() < MOST:
        page = json.loads(call(url))
        for waiting in page["corrections"]:
            truth = truths.get(_key((waiting["inputs"] or {}).get("image")))
            if truth is None:
                counts["left"] += 1
                continue
            status = "accepted" if waiting["label"] == truth else "rejected"
            decision = {"status": status, "revision": waiting["revision"]}
            taken = call(f"{exporter}/v1/corrections/{waiting['id']}", decision, "PATCH", unless=409)
            counts[status if taken else "left"] += 1
        url = page["next"]
    return counts


def release(exporter: str) -> Release:
    """Freeze what was accepted so far, and fetch it.

    Raises
    ------
    StackError
        When the exporter is not there or refuses, or the bytes are not those that it promised.
    """
    document = json.loads(call(f"{exporter}/v1/dataset/releases", {"model": model.NAME}))
    frozen = call(f"{exporter}/v1/dataset/releases/{document['id']}")
    if hashlib.sha256(frozen).hexdigest() != document["sha256"]:
        raise StackError(f"the release {document['id']} is not what it was: its SHA-256 differs")
    return Release(document["name"], document["sha256"], [json.loads(line) for line in frozen.splitlines()])


def call(
    url: str, document: object = None, method: str | None = None, *, unless: int | None = None, seconds: float = 30
) -> bytes:
    """Ask a server.

    Returns
    -------
    bytes
        Its answer; empty where it answered the status ``unless``.

    Raises
    ------
    StackError
        When it is not there or refuses; the text has its own words.
    """
    body = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method=method)  # noqa: S310
    try:
        with DIRECT.open(request, timeout=seconds) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            if error.code == unless:
                return b""
            raise StackError(f"{url}: {error.code}: {_said(error.read(10_000))}") from None
    except (OSError, ValueError) as error:
        raise StackError(f"{url}: no answer ({getattr(error, 'reason', error)})") from None


def _said(body: bytes) -> str:
    try:
        problem = json.loads(body)
        return str(problem.get("detail") or problem["error"])
    except (ValueError, LookupError, AttributeError):
        return body[:300].decode(errors="replace")


def _truths(directory: Path) -> dict[bytes, str]:
    """What the held-out images are, as they are and as a camera shows them that errs always alike."""
    images, labels = model.held_out(directory)
    incidents = Incidents()
    truths: dict[bytes, str] = {}
    for incident in ("shifted", "dark", None):
        incidents.begin(incident, 3600)
        truths |= {_key(incidents.seen(image)): str(label) for image, label in zip(images, labels, strict=True)}
    return truths


def _key(image: object) -> bytes:
    try:
        return np.array(image, dtype=np.float64).tobytes()
    except (ValueError, TypeError):
        return b""
