"""What feedback must have, and what it means, over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from support.servers import Answer, Served, eventually

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
        (b'{"prediction_id": "r-1", "verdict": "corrected", "lable": "no"}', "/lable", 'did you mean "label"?'),
        (b'{"prediction_id": "r-1", "verdict": "corrected", "Label": "no"}', "/Label", 'did you mean "label"?'),
        (b'{"predictionId": "r-1", "verdict": "accepted"}', "/predictionId", 'did you mean "prediction_id"?'),
        (b'{"prediction_id": "r-1", "verdict": "accepted", "coment": "x"}', "/coment", 'did you mean "comment"?'),
        (b'{"prediction_id": "r-1", "verdict": "accepted", "use/r": "x"}', "/use~1r", 'did you mean "user"?'),
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


SAME = [("7", 7), (7, "7"), (7, 7.0), (0.5, "0.5"), (1e22, 1e22), (True, "true"), ("yes", "yes"), (10**18, str(10**18))]
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


def test_a_retry_of_a_correction_to_the_prediction_is_a_repeat(served: Served) -> None:
    """With an Idempotency-Key, before and after the join and after other feedback; nothing counts twice."""
    key = {"Idempotency_Key": "k"}
    assert served.post("/v1/feedback", CORRECTED | {"label": "yes"}, **key).status == 201
    assert served.post("/v1/feedback", CORRECTED | {"label": "yes"}, **key).status == 200
    predict(served, "r-1")
    eventually(lambda: verdicts(served) == {"accepted": 1, "corrected": 0})
    assert served.post("/v1/feedback", CORRECTED | {"label": "yes"}, **key).status == 200
    assert send(served).status == 201
    assert served.post("/v1/feedback", CORRECTED | {"label": "yes"}, **key).status == 200
    assert served.post("/v1/feedback", CORRECTED | {"label": "maybe"}, **key).status == 422
    assert verdicts(served) == {"accepted": 1, "corrected": 1}


def test_feedback_without_a_logged_prediction_is_compared_with_its_own(served: Served) -> None:
    """The verdict corrected with the prediction itself as the label is acceptance."""
    described = {"model": "credit", "version": "3", "inputs": {"age": 3}, "prediction": "7", "verdict": "corrected"}
    assert served.post("/v1/feedback", described | {"label": 7}).json["verdict"] == "accepted"
    assert served.post("/v1/feedback", described | {"label": 8}).json["verdict"] == "corrected"
    assert verdicts(served) == {"accepted": 1, "corrected": 1}
