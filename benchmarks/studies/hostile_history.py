"""The history of one prediction as a sequence of hostile requests: recorded, corrected, read, reviewed and released."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from hostile import WORDS, Request, text
from hostile_payloads import IDS, feedback, prediction

Ask = Callable[[Request], tuple[int, bytes]]
"""Sends a request; returns the status and the body of its response."""
PAGES = 3
"""Pages of a list to read."""
_JSON = [(b"Content-Type", b"application/json")]


def history(rng: Random, ask: Ask) -> None:
    """Send the history of a prediction; its identifier is new, or one that other histories have, too."""
    name = rng.choice(IDS) if rng.random() < 0.5 else f"h-{rng.getrandbits(48):x}"
    steps = [("predictions", prediction)] + [("feedback", feedback)] * rng.choice((1, 1, 2, 3, 10))
    if rng.random() < 0.3:
        rng.shuffle(steps)  # feedback may come before its prediction
    for route, make in steps:
        ask(_request("POST", f"/v1/{route}", text(rng, make(rng, name))))
    for correction in _pages(rng, ask, f"/v1/corrections?limit={rng.choice((1, 2, 1000))}&q={quote(name)}")[:3]:
        _review(rng, ask, correction)
    if rng.random() < 0.1:
        _release(rng, ask)
    ask(_request("GET", f"/review?model=credit&q={quote(name)}"))


def _request(method: str, target: str, body: bytes = b"") -> Request:
    return Request(f"history: {method}", method, target.encode(), _JSON if body else [], body)


def _document(body: bytes) -> dict[str, Any]:
    """Return the object in a response; empty for anything else."""
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _pages(rng: Random, ask: Ask, target: str) -> list[Any]:
    """Read the first pages of a list, the cursor of one of them sometimes changed."""
    entries: list[Any] = []
    for _ in range(PAGES):
        document = _document(ask(_request("GET", target))[1])
        entries += document.get("corrections", [])
        following = document.get("next")
        if not following:
            break
        parts = urlsplit(following)
        query = parts.query if rng.random() < 0.9 else parts.query[:-1]
        target = f"{parts.path}?{query}"
    return entries


def _review(rng: Random, ask: Ask, correction: Any) -> None:
    """Read a correction and its image, and decide it, sometimes by an old revision."""
    address = f"/v1/corrections/{correction['id']}"
    revision = _document(ask(_request("GET", address))[1]).get("revision", 0)
    for picture in ("photo", "age"):
        ask(_request("GET", f"{address}/inputs/{picture}.png"))
    decision: dict[str, Any] = {
        "status": rng.choice(("accepted", "accepted", "rejected", "pending")),
        "revision": revision if rng.random() < 0.9 else revision + rng.choice((-1, 1, 2**31)),
    }
    if rng.random() < 0.5:
        decision["label"] = rng.choice(("yes", "no", *WORDS))
    if rng.random() < 0.3:
        form = {**decision, "id": correction["id"], "back": f"model=credit&q={correction['id']}"}
        body = urlencode({name: str(value).encode("utf-8", "replace") for name, value in form.items()}).encode()
        headers = [(b"Content-Type", b"application/x-www-form-urlencoded")]
        ask(Request("history: POST", "POST", b"/review/decide", headers, body))
    else:
        ask(_request("PATCH", address, text(rng, decision)))


def _release(rng: Random, ask: Ask) -> None:
    """Release and export what is accepted."""
    ask(
        _request(
            "POST", "/v1/dataset/releases", text(rng, {"model": "credit", "name": rng.choice(("one", "two", *WORDS))})
        )
    )
    for form in ("jsonl", "csv", "parquet", "label-studio"):
        ask(_request("GET", f"/v1/dataset?model=credit&format={form}"))
    ask(_request("GET", f"/v1/dataset/releases/one?format={rng.choice(('jsonl', 'csv', 'parquet', 'label-studio'))}"))
