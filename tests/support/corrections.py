"""A model's mistakes and the users who correct them, for the tests of the review page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from support.servers import CONFIG, Served, ask, eventually, write_config

CREDIT = CONFIG["models"][0]
CONFIGURATION = {"models": [CREDIT, {"name": "tickets"}, {"name": "many"}]}
EVIL = "<b>no</b>"
"""A label that would be markup if it were not escaped."""
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


def accept_suspects(server: Served) -> None:
    """Accept sixty labels of two groups and three that do not fit their group; wait until these are suspects."""
    rng = np.random.default_rng(1)
    for label, income, count in ((EVIL, 10_000, 30), ("maybe", 90_000, 30), (EVIL, 90_000, 3)):
        events = [
            mistake(f"{label}-{income}-{count}-{number}", "tickets", "1", inputs={"income": income + float(noise)})
            for number, noise in enumerate(rng.normal(0, 1000, count))
        ]
        correct(server, events, label=label)
    decisions = [{"id": one["id"], "revision": one["revision"], "status": "accepted"} for one in queue(server)]
    assert ask(f"{server.url}/v1/corrections", decisions, "PATCH").status == 200
    eventually(lambda: len(queue(server, "suspect=true")) == 3, 60)
