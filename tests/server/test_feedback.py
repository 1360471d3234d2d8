"""What feedback must have, and what it means, over HTTP."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support.servers import CONFIG, Answer, Served, ask, eventually, serving, write_config

from exporter.storage._database import check_url, feedback

CORRECTED = {"prediction_id": "r-1", "verdict": "corrected", "label": "no"}
LABELS = 'model="credit",version="3"'


def predict(server: Served, *ids: str, prediction: Any = "yes", inputs: Any = None) -> None:
    """Send predictions of the model credit."""
    events = [
        {"id": name, "model": "credit", "version": "3", "prediction": prediction, "inputs": inputs or {"age": 41}}
        for name in ids
    ]
    assert server.post("/v1/predictions", events).status == 202


def send(server: Served, **members: Any) -> Answer:
    """Send feedback; None leaves a member out."""
    document = CORRECTED | members
    return server.post("/v1/feedback", {name: value for name, value in document.items() if value is not None})


def verdicts(server: Served) -> dict[str, float]:
    """Counted feedback by verdict."""
    samples = server.samples("model_feedback_total")
    return {name: samples.get(f'model_feedback_total{{{LABELS},verdict="{name}"}}', 0) for name in
            ("accepted", "corrected")}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "pointer", "detail"),
    [
        (b'{"prediction_id": "r-1", "verdict": "corrected"}', "/label", "is required"),
        (b'{"prediction_id": "r-1", "verdict": "corrected", "label": null}', "/label", "is required"),
        (b'{"prediction_id": "r-1", "verdict": "corrected", "label": NaN}', "/label", "is required"),
        (b'{"prediction_id": "r-1", "verdict": "corrected", "label": 1e999}', "/label", "expected a finite number"),
        (b'{"prediction_id": "r-1", "verdict": "corrected", "lable": "no"}', "/lable", 'did you mean "label"?'),
        (b'{"prediction_id": "r-1", "verdict": "corrected", "Label": "no"}', "/Label", 'did you mean "label"?'),
        (b'{"predictionId": "r-1", "verdict": "accepted"}', "/predictionId", 'did you mean "prediction_id"?'),
        (b'{"prediction_id": "r-1", "verdict": "accepted", "coment": "x"}', "/coment", 'did you mean "comment"?'),
        (b'{"prediction_id": "r-1", "verdict": "accepted", "use/r": "x"}', "/use~1r", 'did you mean "user"?'),
        (b'{"model": "credit", "verdict": "rejected", "label": "no"}', "/prediction", "is required"),
        (b'{"model": "credit", "verdict": "corrected", "label": NaN, "prediction": "a"}', "/label", "is required"),
    ],
)  # fmt: skip
def test_a_correction_without_a_label_changes_nothing(shared: Served, body: bytes, pointer: str, detail: str) -> None:
    """No label, null, NaN or a misspelt member is a 400 that names the member; the earlier label stands."""
    predict(shared, "r-1")
    eventually(lambda: send(shared).json["joined"] is True)
    answer = shared.post("/v1/feedback", body)
    assert answer.status == 400, answer.text
    assert answer.json["errors"][0]["pointer"] == pointer
    assert detail in answer.json["errors"][0]["detail"]
    (correction,) = shared.get("/v1/corrections?q=r-1").json["corrections"]
    assert (correction["label"], correction["revision"]) == ("no", 1)


def test_valid_feedback_of_an_array_is_stored_beside_what_is_refused(shared: Served) -> None:
    """The rejected items are named; members that resemble none are ignored."""
    items = [
        {"prediction_id": "a-1", "verdict": "accepted", "session": 3, "kind": None},
        {"prediction_id": "a-2", "verdict": "corrected"},
        {"prediction_id": "a-3", "verdict": "corrected", "label": False, "user_id": 7},
    ]
    answer = shared.post("/v1/feedback", items)
    assert answer.status == 201
    assert [item["prediction_id"] for item in answer.json["feedback"]] == ["a-1", "a-3"]
    assert [(item["index"], item["pointer"]) for item in answer.json["rejected"]] == [(1, "/label")]


SAME = [
    ("7", 7),
    (7, "7"),
    (7, 7.0),
    (0, -0.0),
    (0.5, "0.5"),
    (1e22, 1e22),
    (True, "true"),
    ("yes", "yes"),
    (10**18, str(10**18)),
]
DIFFERENT = [("7", "7.0"), (True, 1), ("yes", "Yes"), (None, "none"), ("", " "), (2, True)]


@pytest.mark.parametrize("first", ["prediction", "feedback"])
def test_the_prediction_as_the_label_accepts_it(served: Served, first: str) -> None:
    """Labels are compared as elsewhere, whichever comes first; a repeat is a repeat; nothing is there to review."""
    pairs = [*SAME, *DIFFERENT]
    names = [f"r-{number}" for number in range(len(pairs))]

    def predict_all() -> None:
        for name, (prediction, _) in zip(names, pairs, strict=True):
            predict(served, name, prediction=prediction)
        eventually(lambda: all(send(served, prediction_id=name, label="other").json["joined"] for name in names))

    def send_all() -> list[tuple[int, str]]:
        answers = [send(served, prediction_id=name, label=label) for name, (_, label) in zip(names, pairs, strict=True)]
        return [(answer.status, answer.json["verdict"]) for answer in answers]

    if first == "prediction":
        predict_all()
        assert {status for status, _ in send_all()} == {201}
    else:
        assert set(send_all()) == {(201, "corrected")}
        for name, (prediction, _) in zip(names, pairs, strict=True):
            predict(served, name, prediction=prediction)
        eventually(lambda: sum(verdicts(served).values()) == len(pairs))
    assert send_all() == [(200, "accepted")] * len(SAME) + [(200, "corrected")] * len(DIFFERENT)
    assert verdicts(served)["accepted"] == len(SAME)
    assert len(served.get("/v1/corrections").json["corrections"]) == len(DIFFERENT)


def test_feedback_without_a_logged_prediction_is_compared_with_its_own(served: Served) -> None:
    """The verdict corrected with the prediction itself as the label is acceptance; a key is of one prediction."""
    described = {"model": "credit", "version": "3", "inputs": {"age": 3}, "prediction": "7", "verdict": "corrected"}
    assert served.post("/v1/feedback", described | {"label": 7}, Idempotency_Key="k").json["verdict"] == "accepted"
    keyed = [described | {"label": 7, "prediction": prediction} for prediction in "78"]
    assert [served.post("/v1/feedback", body, Idempotency_Key="k").status for body in keyed] == [200, 422]
    assert served.post("/v1/feedback", described | {"label": 8}).json["verdict"] == "corrected"
    del described["verdict"]  # it follows from the labels
    assert served.post("/v1/feedback", described | {"label": 9}).json["verdict"] == "corrected"
    assert verdicts(served) == {"accepted": 1, "corrected": 2}


def test_a_prediction_is_returned_with_what_is_known_of_it(stored: Served) -> None:
    """Inputs without redacted ones, its label, and the feedback on it; of the model that is named."""
    predict(stored, "r/1 é", inputs={"age": 41, "name": "Ada"})
    path = "/v1/predictions/r/1%20%C3%A9?model=credit"
    found = eventually(lambda: (answer := stored.get(path)).status == 200 and answer).json
    assert found == found | {"id": "r/1 é", "model": "credit", "version": "3", "inputs": {"age": 41}, "code": 200}
    assert (found["prediction"], found["label"], found["labelled"], found["feedback"]) == ("yes", None, None, None)
    assert send(stored, prediction_id="r/1 é").json["joined"]
    assert stored.post("/v1/labels", {"prediction_id": "r/1 é", "label": "maybe"}).json["joined"] == 1
    found = stored.get(path).json
    page = stored.get(path, Accept="text/html").text
    assert '<h1 class="title">Prediction r/1 é</h1>' in page
    assert '<a href="/review?model=credit&amp;status=all&amp;source=all&amp;q=r/1+%C3%A9">' in page
    assert (found["label"], found["feedback"]["verdict"], found["feedback"]["label"]) == ("maybe", "corrected", "no")
    for other in ("/v1/predictions/r-2", "/v1/predictions/r%00", path.replace("credit", "tickets")):
        assert stored.get(other).status in {400, 404}
    assert "did you mean" in stored.get(path.replace("credit", "credits")).json["detail"]


@pytest.mark.parametrize("first", ["prediction", "feedback"])
def test_a_rejected_prediction_is_a_correction_that_needs_a_label(served: Served, first: str) -> None:
    """It counts and is reviewed, joins in either order, gets its label from a reviewer, and trains nothing before."""
    rejected = {"prediction_id": "r-1", "verdict": "rejected"}
    if first == "prediction":
        predict(served, "r-1")
        eventually(lambda: served.post("/v1/feedback", rejected).json["joined"])
    else:
        assert served.post("/v1/feedback", rejected).json["joined"] is False
        predict(served, "r-1")
    counted = f'model_feedback_total{{{LABELS},verdict="rejected"}}'
    eventually(lambda: served.samples("model_feedback_total")[counted] == 1)
    assert served.post("/v1/feedback", rejected).status == 200
    assert served.samples("model_corrections_total") == {f"model_corrections_total{{{LABELS}}}": 1}
    assert sum(served.samples("model_corrections_pending").values()) == 1
    (correction,) = served.get("/v1/corrections").json["corrections"]
    assert (correction["verdict"], correction["label"]) == ("rejected", None)
    path, decision = f"/v1/corrections/{correction['id']}", {"status": "accepted", "revision": 1}
    refused = ask(served.url + path, decision, "PATCH")
    assert (refused.status, refused.json["correction"]["status"]) == (400, "pending")
    assert "label" in refused.json["detail"]
    assert served.get("/v1/dataset?model=credit").text == ""
    assert ask(served.url + path, decision | {"label": "no"}, "PATCH").status == 200
    (example,) = served.get("/v1/dataset?model=credit").text.splitlines()
    assert json.loads(example)["label"] == "no"
    assert send(served, verdict="accepted", label=None).status == 201
    assert served.get("/v1/corrections").json["corrections"] == []
    assert served.get("/v1/dataset?model=credit").text == ""


def test_a_confident_prediction_that_was_rejected_counts_once(served: Served) -> None:
    """Rejected and then corrected, it is one correction; a label that is the prediction accepts it."""
    event = {"model": "credit", "version": "3", "prediction": "yes", "confidence": 0.9}
    events = [{**event, "id": f"r-{n}"} for n in (1, 2)]
    assert served.post("/v1/predictions", events).status == 202
    eventually(lambda: send(served, verdict="rejected", label=None).json["joined"])
    assert send(served).json["verdict"] == "corrected"
    assert send(served, prediction_id="r-2", verdict="rejected", label="yes").json["verdict"] == "accepted"
    assert served.samples("model_corrections_total") == {f"model_corrections_total{{{LABELS}}}": 1}
    assert [one["label"] for one in served.get("/v1/corrections").json["corrections"]] == ["no"]


DESCRIBED = {"model": "credit", "version": "3", "inputs": {"age": 41, "name": "Ada"}, "prediction": "yes"}


@pytest.fixture
def stored(tmp_path: Path, database: str) -> Iterator[Served]:
    """An exporter with a database of each kind."""
    write_config(tmp_path, {**CONFIG, "store": {"url": database}})
    with serving(tmp_path) as served:
        yield served


def make_older(database: str, seconds: float) -> None:
    """Move all feedback into the past."""
    engine = sa.create_engine(check_url(database))
    with engine.begin() as connection:
        connection.execute(feedback.update().values(created=feedback.c.created - seconds))
    engine.dispose()


def waiting(server: Served) -> dict[str, float]:
    """Feedback that waits for its prediction, by the series' labels."""
    samples = server.samples("model_exporter_feedback_unjoined")
    return {series.partition("{")[2]: value for series, value in samples.items() if value}


def test_feedback_without_a_prediction_is_counted_and_listed(stored: Served) -> None:
    """All feedback that waits is in the metric, the list and on the page; none whose prediction is there is."""
    predict(stored, "known")
    eventually(lambda: send(stored, prediction_id="known").json["joined"])
    stored.post("/v1/feedback", DESCRIBED | {"label": "no"})
    assert waiting(stored) == {}
    send(stored, prediction_id="a")
    send(stored, prediction_id="b", verdict="accepted", label=None, model="credit")
    send(stored, prediction_id="c", **DESCRIBED)
    assert waiting(stored) == {'model=""}': 1, 'model="credit"}': 2}
    ages = stored.samples("model_exporter_feedback_unjoined_oldest_seconds")
    assert len(ages) == 2
    assert all(0 <= age < 60 for age in ages.values())
    listed = stored.get("/v1/corrections?joined=false").json["corrections"]
    assert [(row["prediction_id"], row["verdict"], row["model"], row["joined"]) for row in listed] == [
        ("c", "corrected", "credit", False),
        ("b", "accepted", "credit", False),
        ("a", "corrected", None, False),
    ]
    assert len(stored.get("/v1/corrections?joined=true").json["corrections"]) == 2
    found = stored.get("/v1/corrections?joined=false&model=credit").json["corrections"]
    assert [row["prediction_id"] for row in found] == ["c", "b"]
    assert stored.get(f"/v1/corrections/{listed[2]['id']}").json["history"][0]["label"] == "no"
    page = stored.get("/review").text
    assert "Feedback on 3 predictions that were not logged" in page
    page = stored.get("/review?joined=false").text
    assert "the prediction a was not logged" in page
    assert "the prediction c was not logged" in page
    assert "Ada" not in page
    assert page.count("Accept <kbd>") == 0
    predict(stored, "a", "b", "c")
    eventually(lambda: waiting(stored) == {})
    assert stored.get("/v1/corrections?joined=false").json["corrections"] == []


def test_feedback_that_describes_its_prediction_is_reviewed_after_an_hour(stored: Served, database: str) -> None:
    """It is decided and released like any other; other feedback still waits; a late prediction is joined."""
    send(stored, prediction_id="a", model="credit")
    send(stored, prediction_id="b")
    send(stored, prediction_id="b", **DESCRIBED)  # the same, with a description
    send(stored, prediction_id="c", **DESCRIBED | {"label": "yes"})
    assert stored.get("/v1/corrections").json["corrections"] == []
    (listed,) = stored.get("/v1/corrections?joined=false&q=b").json["corrections"]
    decision = {"status": "accepted", "revision": listed["revision"]}
    refused = ask(f"{stored.url}/v1/corrections/{listed['id']}", decision, "PATCH")
    assert refused.status == 404
    assert "can be decided after an hour" in refused.json["detail"]
    make_older(database, 3700)
    send(stored, prediction_id="new", **DESCRIBED)
    (ready,) = stored.get("/v1/corrections").json["corrections"]
    assert (ready["prediction_id"], ready["inputs"], ready["prediction"]) == ("b", {"age": 41}, "yes")
    assert stored.samples("model_corrections_pending")['model_corrections_pending{model="credit"}'] == 1
    (age,) = stored.samples("model_corrections_oldest_pending_seconds").values()
    assert age >= 3700
    assert "Accept" in stored.get("/review").text
    decided = ask(f"{stored.url}/v1/corrections/{ready['id']}", decision, "PATCH")
    assert decided.json["status"] == "accepted"
    assert '"inputs":{"age":41}' in stored.get("/v1/dataset?model=credit").text
    assert waiting(stored) == {'model="credit"}': 4}
    assert verdicts(stored) == {"accepted": 0, "corrected": 0}
    predict(stored, "b", prediction="maybe", inputs={"age": 7})
    eventually(lambda: verdicts(stored) == {"accepted": 0, "corrected": 2})
    joined = stored.get(f"/v1/corrections/{ready['id']}").json
    shown = joined["status"], joined["joined"], joined["inputs"], joined["prediction"]
    assert shown == ("accepted", True, {"age": 7}, "maybe")


def test_beyond_its_size_the_store_refuses_feedback_and_keeps_what_it_has(tmp_path: Path, database: str) -> None:
    """Predictions make room; then new feedback is a 507, a repeat is a 200, and all that was stored is readable."""
    write_config(tmp_path, {**CONFIG, "store": {"url": database, "max_size": "6MB"}})
    with serving(tmp_path) as served:
        predict(served, *(f"p-{number}" for number in range(50)), inputs={"text": secrets.token_hex(50_000)})
        eventually(lambda: send(served, prediction_id="p-49").json["joined"])
        stored: list[str] = []
        first: dict[str, Any] = {}
        for number in range(30):
            inputs = {"text": secrets.token_hex(250_000)}
            body = DESCRIBED | {"inputs": inputs, "label": "no", "user": f"u-{number}"}
            answer = served.post("/v1/feedback", body, Idempotency_Key=f"k-{number}")
            assert answer.status in {201, 507}, answer.text
            if answer.status == 201:
                stored.append(answer.json["id"])
                first = body if number == 0 else first
        assert 3 <= len(stored) <= 12
        assert "store.max_size" in answer.json["detail"]
        assert served.post("/v1/feedback", first, Idempotency_Key="k-0").status == 200
        for correction in stored:
            assert len(served.get(f"/v1/corrections/{correction}").json["inputs"]["text"]) == 500_000

        def bytes_by_part() -> tuple[float, ...]:
            samples = served.samples("model_exporter_store_bytes")
            return tuple(samples[f'model_exporter_store_bytes{{part="{part}"}}'] for part in ("kept", "predictions"))

        eventually(lambda: bytes_by_part()[0] > 4e6 and sum(bytes_by_part()) <= 6e6)
        assert served.samples("model_exporter_store_max_bytes") == {"model_exporter_store_max_bytes": 6e6}
        predict(served, "late")
        log = served.log.read_text()
        assert log.count("component=storage.retention") == 1
        assert "of client 127.0.0.1: overloaded: the store has no room" in log


def test_a_history_has_the_newest_events(served: Served) -> None:
    """At most a hundred, the earliest of them first, and decisions stand where they were made."""
    predict(served, "r-1")
    eventually(lambda: send(served, label="0").json["joined"])
    for start in (1, 101):
        items = [CORRECTED | {"label": str(number)} for number in range(start, start + 100)]
        assert served.post("/v1/feedback", items).status == 201
        (correction,) = served.get("/v1/corrections").json["corrections"]
        address = f"{served.url}/v1/corrections/{correction['id']}"
        decision = {"status": "rejected", "revision": correction["revision"]}
        assert ask(address, decision, "PATCH").status == 200
    entries = ask(address).json["history"]
    assert [entry["label"] for entry in entries] == [*map(str, range(102, 201)), None]
    assert entries[-1]["status"] == "rejected"
    assert send(served, label="last").status == 201
    entries = ask(address).json["history"]
    assert [entry.get("status") for entry in entries[-3:]] == [None, "rejected", None]


@pytest.mark.parametrize(("settings", "confident"), [({}, 1), ({"confidence_threshold": 0.8}, 0)])
def test_corrections_of_a_regression_count(tmp_path: Path, settings: dict[str, float], confident: int) -> None:
    """A prediction without a confidence is confident, unless the configuration sets a threshold."""
    write_config(tmp_path, {"models": [{"name": "price", **settings}]})
    with serving(tmp_path) as server:
        failed = {"model": "price", "version": "1", "code": 500}
        price = {"id": "p", "model": "price", "version": "1", "prediction": 250_000}
        assert server.post("/v1/predictions", [price, failed]).status == 202
        correction = {"prediction_id": "p", "verdict": "corrected", "label": 200_000}
        assert server.post("/v1/feedback", correction).status == 201

        def count(name: str) -> float:
            series = f"model_{name}_total"
            return server.samples(series).get(f'{series}{{model="price",version="1"}}', 0)

        eventually(lambda: count("attempts") == 2 and server.samples("model_feedback_total"))
        eventually(lambda: (count("confident_predictions"), count("corrections")) == (confident, confident))
