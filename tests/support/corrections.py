"""A model's mistakes and the users who correct them, for the tests of the review page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from support.servers import CONFIG, Served, eventually, write_config

CREDIT = CONFIG["models"][0]
CONFIGURATION = {"models": [CREDIT, {"name": "tickets"}, {"name": "many"}]}
IMAGE = np.random.default_rng(8).integers(0, 17, (8, 8)).tolist()


def start(folder: Path) -> Served:
    """An exporter of a model with a profile and two without."""
    write_config(folder, CONFIGURATION)
    return Served(folder).start()


def mistake(name: str, model: str = "credit", version: str = "3", **changed: Any) -> dict[str, Any]:
    """A confident prediction that somebody will correct."""
    inputs = {"age": 40, "income": 30000.0, "country": "NL", "photo": IMAGE, "name": "Ada"}
    event = {"id": name, "model": model, "version": version, "inputs": inputs, "prediction": "yes", "confidence": 0.9}
    return event | changed


def correct(server: Served, events: list[dict[str, Any]], **fields: Any) -> None:
    """Send predictions, and a user's correction of each; they are in the queue when this returns."""
    before = pending(server)
    assert server.post("/v1/predictions", events).status == 202
    template = {"verdict": "corrected", "label": "no", "user": "clerk"} | fields
    feedback = [template | {"prediction_id": event["id"]} for event in events]
    assert server.post("/v1/feedback", feedback).status == 201
    eventually(lambda: pending(server) == before + len(events))


def pending(server: Served) -> int:
    """How many corrections wait."""
    return int(sum(server.samples("model_corrections_pending").values()))


def queue(server: Served, query: str = "") -> list[dict[str, Any]]:
    """The corrections that fit a query."""
    corrections: list[dict[str, Any]] = server.get(f"/v1/corrections?limit=1000&{query}").json["corrections"]
    return corrections
