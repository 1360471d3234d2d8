"""The review queue over HTTP: pages, filters, decisions, and two reviewers at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CONFIG, Answer, Served, ask, eventually, write_config

LABELS = 'model="credit",version="3"'


def wrong(number: int) -> dict[str, Any]:
    return {"id": f"c-{number}", "model": "credit", "version": "3", "inputs": {"age": number, "name": "Ada"},
            "prediction": "yes", "confidence": 0.9}  # fmt: skip


@pytest.fixture
def corrected(tmp_path: Path, database: str) -> Iterator[Served]:
    """An exporter with five corrections."""
    write_config(tmp_path, {**CONFIG, "store": {"url": database}})
    served = Served(tmp_path).start()
    served.post("/v1/predictions", [wrong(number) for number in range(5)])
    words = [{"prediction_id": f"c-{n}", "verdict": "corrected", "label": "no", "user": f"u{n}"} for n in range(5)]
    served.post("/v1/feedback", words)
    eventually(lambda: served.samples("model_corrections_total") == {f"model_corrections_total{{{LABELS}}}": 5})
    yield served
    served.stop()


def patch(server: Served, place: str, **body: Any) -> Answer:
    return ask(f"{server.url}/v1/corrections/{place}", body, "PATCH")


def test_the_queue_comes_in_pages_newest_first(corrected: Served) -> None:
    """Following next gives each correction once; inputs are there, redacted ones are not."""
    found, path = [], "/v1/corrections?model=credit&limit=2"
    while path:
        page = corrected.get(path).json
        found += page["corrections"]
        path = page["next"] and page["next"].removeprefix(corrected.url)
    assert len({one["id"] for one in found}) == len(found) == 5
    assert [one["created"] for one in found] == sorted((one["created"] for one in found), reverse=True)
    assert {one["inputs"]["age"] for one in found} == set(range(5))
    assert all("name" not in one["inputs"] for one in found)
    assert found[0] | {"status": "pending", "prediction": "yes", "label": "no", "revision": 1} == found[0]


def test_a_decision_takes_the_correction_out_of_the_backlog(corrected: Served) -> None:
    """Accepted, relabelled, rejected and taken back: each shows in the queue and in the metric."""
    one, two, three, *_ = corrected.get("/v1/corrections").json["corrections"]
    assert patch(corrected, one["id"], status="accepted", revision=1).json["status"] == "accepted"
    relabelled = patch(corrected, two["id"], status="accepted", revision=1, label="maybe").json
    assert (relabelled["label"], relabelled["user_label"], relabelled["revision"]) == ("maybe", "no", 2)
    patch(corrected, three["id"], status="rejected", revision=1)
    assert corrected.samples("model_corrections_pending")['model_corrections_pending{model="credit"}'] == 2
    assert len(corrected.get("/v1/corrections?status=accepted").json["corrections"]) == 2
    assert patch(corrected, three["id"], status="pending", revision=2).status == 200
    assert corrected.samples("model_corrections_pending")['model_corrections_pending{model="credit"}'] == 3


def test_the_second_reviewer_is_told_what_the_first_decided(corrected: Served) -> None:
    """A decision on an old revision is a 409 with the correction as it stands, and changes nothing."""
    place = corrected.get("/v1/corrections").json["corrections"][0]["id"]
    assert patch(corrected, place, status="accepted", revision=1).status == 200
    late = patch(corrected, place, status="rejected", revision=1)
    assert (late.status, late.json["correction"]["status"], late.json["correction"]["revision"]) == (409, "accepted", 2)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("model=credits", 'no model "credits" is configured; did you mean "credit"?'),
        ("status=done", 'status: expected accepted, pending or rejected, got "done"'),
        ("limit=0", 'limit: expected a whole number from 1 to 1000, got "0"'),
        ("limit=x", 'limit: expected a whole number from 1 to 1000, got "x"'),
        ("cursor=%ff", "cursor: expected what the page before calls next"),
        ("modell=credit", 'the parameter "modell" is not known; did you mean "model"?'),
    ],
)
def test_a_wrong_question_says_what_would_be_right(shared: Served, query: str, said: str) -> None:
    """Parameters are checked, each with its own sentence."""
    answer = shared.get(f"/v1/corrections?{query}")
    assert (answer.status, answer.json["detail"]) == (400, said)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"revision": 1}, "/status"),
        ({"status": "done", "revision": 1}, "/status"),
        ({"status": "accepted"}, "/revision"),
        ({"status": "accepted", "revision": 1, "labl": "x"}, "/labl"),
        (b"nonsense", ""),
    ],
)
def test_a_wrong_decision_names_its_field(shared: Served, body: Any, pointer: str) -> None:
    """A decision that cannot be read is a 400 with the pointer; one on nothing is a 404."""
    answer = ask(f"{shared.url}/v1/corrections/1", body, "PATCH")
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (400, pointer)
    assert patch(shared, "999", status="accepted", revision=1).status == 404
