"""What a store without room refuses, what it still takes, and that nothing else depends on it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.servers import CONFIG, Answer, Served, ask, eventually, serving, write_config

SIZES = (250_000, 50_000, 10_000, 1_000, 10)
"""Halves of the bytes of feedback that fills the store, the largest first."""


def predict(server: Served, name: str, **members: Any) -> None:
    event = {"id": name, "model": "credit", "version": "3", "prediction": "yes", "inputs": {"age": 41}} | members
    assert server.post("/v1/predictions", event).status == 202


def correct(server: Served, **members: Any) -> Answer:
    return server.post("/v1/feedback", {"verdict": "corrected", "label": "no"} | members)


def described(size: int) -> dict[str, Any]:
    """Feedback without a logged prediction, of about twice this size."""
    return {
        "model": "credit",
        "version": "3",
        "prediction": "yes",
        "inputs": {"text": secrets.token_hex(size)},
        "user": f"u-{secrets.token_hex(4)}",
    }


@pytest.fixture
def full(tmp_path: Path, database: str) -> Iterator[Served]:
    """An exporter with two corrections, one of them released, one waiting, and feedback that leaves no room."""
    write_config(tmp_path, {**CONFIG, "store": {"url": database, "max_size": "6MB"}})
    with serving(tmp_path) as server:
        prepare(server)
        assert server.post("/v1/dataset/releases", {"model": "credit", "name": "first"}).status == 201
        fill(server)
        yield server


def prepare(server: Served) -> None:
    """Store what the tests need."""
    for name in ("accepted", "pending"):
        predict(server, name)
        eventually(lambda name=name: correct(server, prediction_id=name).json["joined"])
    assert correct(server, prediction_id="late").json["joined"] is False
    assert decide(server, "accepted").status == 200


def fill(server: Served) -> None:
    """Store feedback until none is accepted."""
    for size in SIZES:
        while (status := correct(server, **described(size)).status) != 507:
            assert status == 201


def correction(server: Served, name: str) -> dict[str, Any]:
    """The correction of a prediction, once that is joined."""
    page = server.get(f"/v1/corrections?limit=1000&q={name}").json["corrections"]
    return next((one for one in page if one["prediction_id"] == name), {})


def decide(server: Served, name: str, **members: Any) -> Answer:
    one = correction(server, name)
    decision = {"status": "accepted", "revision": one["revision"]} | members
    return ask(f"{server.url}/v1/corrections/{one['id']}", decision, "PATCH")


def test_decisions_and_releases_are_refused(full: Served) -> None:
    """Feedback leaves room for them. Without any, each is a 507 that names the key and does not make the store fail."""
    assert "the rest is for other senders and for reviewers" in correct(full, prediction_id="another").json["detail"]
    labels = map(secrets.token_hex, [45_000] * 10 + [4_500] * 20)
    assert [decide(full, "pending", label=label).status for label in labels][::29] == [200, 507]
    before = correction(full, "pending")
    several = [
        {"id": before["id"], "status": "rejected", "revision": before["revision"], "label": secrets.token_hex(4_500)}
    ]
    answers = {
        "decision": decide(full, "pending", label=secrets.token_hex(4_500)),
        "decisions": ask(f"{full.url}/v1/corrections", several, "PATCH"),
        "release": full.post("/v1/dataset/releases", {"model": "credit"}),
    }
    for name, answer in answers.items():
        assert answer.status == 507, (name, answer.status, answer.text)
        assert "store.max_size" in answer.json["detail"] and "nothing was stored" in answer.json["detail"]
    assert correction(full, "pending") == before
    assert [one["name"] for one in full.get("/v1/dataset/releases").json["releases"]] == ["first"]
    assert full.get("/-/ready").status == 200
    assert set(full.samples("model_exporter_store_errors_total").values()) == {0}


def test_a_repeated_release_needs_no_room(full: Served) -> None:
    """The same examples again are the release that exists, or a conflict with its name."""
    (release,) = full.get("/v1/dataset/releases").json["releases"]
    for body in ({"model": "credit", "name": "first"}, {"model": "credit"}):
        answer = full.post("/v1/dataset/releases", body)
        assert (answer.status, answer.json) == (200, release)
    answer = full.post("/v1/dataset/releases", {"model": "credit", "name": "second"})
    assert (answer.status, answer.json["release"]) == (409, release)
    content = full.get(f"/v1/dataset/releases/{release['id']}", Accept="application/x-ndjson")
    assert content.status == 200
    assert len(content.text.splitlines()) == 1


def test_a_late_prediction_joins_without_its_inputs(full: Served) -> None:
    """Feedback that was acknowledged is joined and counted; the inputs for which there is no room are left out."""
    predict(full, "late", inputs={"text": secrets.token_hex(20_000)})
    eventually(lambda: correction(full, "late").get("joined"))
    joined = correction(full, "late")
    assert (joined["prediction"], joined["label"], joined["version"]) == ("yes", "no", "3")
    assert joined.get("inputs") is None
    eventually(lambda: not any(full.samples("model_exporter_feedback_unjoined").values()))
    assert full.get("/review?model=credit&status=all").status == 200
    assert set(full.samples("model_exporter_store_errors_total").values()) == {0}
