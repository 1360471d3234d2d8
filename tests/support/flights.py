"""An exporter with a model of delayed flights, whose users correct it where one carrier flies to one airport."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from exporter.profiles.builder import build_file
from exporter.profiles.profile import save
from support.servers import Served, serving, write_config

CARRIERS, AIRPORTS = ["UA", "AA", "DL", "MQ"], ["ATL", "ORD", "LAX", "BOS", "MIA"]
COUNT = 3000


def rows(count: int, seed: int) -> dict[str, Any]:
    """Columns of inputs."""
    rng = np.random.default_rng(seed)
    return {
        "carrier": rng.choice(CARRIERS, count, p=[0.3, 0.3, 0.25, 0.15]),
        "dest": rng.choice(AIRPORTS, count),
        "distance": rng.normal(1000, 200, count).round(1),
        "pilot": rng.choice(["Ada", "Bob"], count),
    }


def write_model(folder: Path, *, retrain: dict[str, Any] | None = None, **store: Any) -> Path:
    """Write the profile and the configuration, with the keys of ``store``."""
    training = rows(4000, 1)
    rng = np.random.default_rng(2)
    confidence = rng.choice([0.95, 0.55], 4000, p=[0.9, 0.1])
    label = np.where(rng.random(4000) < confidence, "late", "on time")
    outputs = {"predicted": np.full(4000, "late"), "confidence": confidence, "label": label}
    np.savez(folder / "training.npz", **training, **outputs)
    columns = {f"{name}_column": name for name in ("confidence", "label")} | {"prediction_column": "predicted"}
    save(build_file(folder / "training.npz", name="flights", **columns), folder / "flights.json")
    models = [{"name": "flights", "profile": "flights.json", "redact": ["pilot"]}, {"name": "bare"}]
    return write_config(folder, {"store": store, "models": models} | ({"retrain": retrain} if retrain else {}))


def events(count: int, seed: int = 3, prefix: str = "f", **members: Any) -> list[dict[str, Any]]:
    """Return predictions."""
    columns = rows(count, seed)
    rng = np.random.default_rng(seed + 100)
    return [
        {
            "id": f"{prefix}-{number}",
            "model": "flights",
            "version": "1",
            "inputs": {name: values[number].item() for name, values in columns.items()},
            "prediction": "late",
            "confidence": 0.95 if rng.random() < 0.9 else 0.55,
        }
        | members
        for number in range(count)
    ]


def is_planted(event: dict[str, Any]) -> bool:
    """Whether an event is in the slice where the model is wrong: about 3% are."""
    return bool(event["inputs"]["carrier"] == "MQ" and event["inputs"]["dest"] == "ATL")


@contextmanager
def running(
    folder: Path, sent: list[dict[str, Any]], corrected: list[dict[str, Any]], *, labelled: bool = False, **store: Any
) -> Iterator[Served]:
    """An exporter that was sent predictions, of which several users corrected some; their labels may be known."""
    write_model(folder, **store)
    with serving(folder) as server:
        assert server.post("/v1/predictions", sent).status == 202
        correct(server, corrected, users=7)
        if labelled:
            labels = [{"prediction_id": e["id"], "label": "on time" if is_planted(e) else "late"} for e in sent]
            assert server.post("/v1/labels", labels).status in {200, 201}
        yield server


def correct(server: Served, chosen: list[dict[str, Any]], users: int) -> None:
    """Send corrections of events, from several users in turn."""
    feedback = [
        {"prediction_id": e["id"], "verdict": "corrected", "label": "on time", "user": f"u{number % users}"}
        for number, e in enumerate(chosen)
    ]
    for start in range(0, len(feedback), 500):
        assert server.post("/v1/feedback", feedback[start : start + 500]).status == 201
