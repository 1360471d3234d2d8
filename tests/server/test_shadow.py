"""Shadow answers over HTTP: they are compared with what users saw, and count nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.servers import Served, eventually, serving, write_config

from exporter import Monitor
from exporter.stats import intervals, sequential


@pytest.fixture(scope="module")
def server(shared_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An exporter that got 400 requests, of which the second version answers 40 in another way, of young people."""
    folder = tmp_path_factory.mktemp("shadow")
    models = [
        {"name": "credit", "profile": "credit.json"},
        {"name": "price", "task": "regression", "correction_tolerance": 0.5},
    ]
    with serving(write_config(folder, {"models": models, "store": {"url": shared_database}}).parent) as served:
        rng = np.random.default_rng(3)
        users = Monitor(served.url, "credit", "3", interval=0.05)
        candidate = Monitor(served.url, "credit", "4", interval=0.05, shadow=True)
        # The first answer tells the exporter that shadow answers arrive.
        candidate.record(id="r-0", prediction="yes")
        assert candidate.flush()
        ages = rng.permutation(np.concatenate([rng.integers(18, 26, 60), rng.integers(26, 90, 340)])).tolist()
        young = [number for number, age in enumerate(ages) if age < 26]
        for number, age in enumerate(ages):
            id_ = users.record(id=f"r-{number}", inputs={"age": age, "country": "NL"}, prediction="yes", confidence=0.9)
            candidate.record(id=id_, prediction="no" if number in young[:40] else "yes", confidence=0.6)
        assert users.flush() and candidate.flush()
        assert (users.sent, candidate.sent, candidate.dropped) == (400, 401, 0)
        users.close()
        candidate.close()
        numbers = [
            {"model": "price", "version": version, "id": f"p-{number}", "prediction": 10.0 + more, "shadow": shadow}
            for number in range(200)
            for version, more, shadow in (("2", number % 4, True), ("1", 0, False))
        ]
        assert served.post("/v1/predictions", numbers).status == 202
        yield served


def test_the_disagreement_is_a_metric(server: Served) -> None:
    """Pairs and disagreements are counted by both versions; the interval holds at every look."""
    samples = server.samples()
    of_pair, of_version = '{model="credit",before="3",after="4"}', '{model="credit",version="4"}'
    assert samples[f"model_shadow_predictions_total{of_version}"] == 401
    assert samples[f"model_shadow_errors_total{of_version}"] == samples[f"model_shadow_unpaired_total{of_version}"] == 0
    assert samples[f"model_shadow_pairs_total{of_pair}"] == 400
    assert samples[f"model_shadow_disagreements_total{of_pair}"] == 40
    expected = sequential.share(40, 400)
    assert [
        samples[f"model_shadow_disagreement_ratio{end}{of_pair}"] for end in ("", "_lower", "_upper")
    ] == pytest.approx([expected.value, *expected.interval()])
    assert not any("difference" in name and "credit" in name and "shadow" in name for name in samples)
    of_numbers = '{model="price",before="1",after="2"}'
    assert samples[f"model_shadow_disagreements_total{of_numbers}"] == 150
    assert samples[f"model_shadow_absolute_difference_total{of_numbers}"] == 300
    assert samples[f"model_shadow_squared_difference_total{of_numbers}"] == 700
    assert samples[f"model_shadow_mean_absolute_difference{of_numbers}"] == 1.5


def test_shadow_answers_count_nowhere_else(server: Served) -> None:
    """Attempts, requests and the store have only what users saw; feedback refers to that, whichever came first."""
    server.samples()
    assert server.post("/v1/feedback", {"prediction_id": "r-5", "verdict": "corrected", "label": "no"}).json["joined"]
    samples = server.samples()
    assert samples['model_attempts_total{model="credit",version="3"}'] == 400
    assert samples['model_requests_total{model="credit",version="3",code="200"}'] == 400
    assert samples['model_corrections_total{model="credit",version="3"}'] == 1
    own = [name for name in samples if 'version="4"' in name and "credit" in name]
    assert {name.partition("{")[0] for name in own} == {
        "model_shadow_predictions_total",
        "model_shadow_errors_total",
        "model_shadow_unpaired_total",
    }
    (correction,) = server.get("/v1/corrections?model=credit").json["corrections"]
    assert (correction["version"], correction["prediction"]) == ("3", "yes")
    # A shadow answer alone: feedback waits for the prediction that the user saw.
    assert server.post(
        "/v1/predictions", {"model": "credit", "version": "4", "id": "z", "prediction": "no", "shadow": True}
    )
    body = {"prediction_id": "z", "verdict": "corrected", "label": "maybe"}
    assert server.post("/v1/feedback", body).json["joined"] is False
    assert (
        server.post("/v1/predictions", {"model": "credit", "version": "3", "id": "z", "prediction": "yes"}).status
        == 202
    )
    waiting = "/v1/corrections?model=credit&joined=true"
    versions = eventually(
        lambda: [c["version"] for c in server.get(waiting).json["corrections"] if c["prediction_id"] == "z"]
    )
    assert versions == ["3"]


def compared(server: Served, query: str) -> dict[str, Any]:
    answer = server.get(f"/v1/compare?{query}")
    assert answer.status == 200, answer.text
    return dict(answer.json)


def test_versions_are_compared_before_users_see_the_second(server: Served) -> None:
    """The comparison has the same requests, although the second version never served."""
    server.samples()
    document = compared(server, "model=price")
    assert [document[side]["version"] for side in ("before", "after")] == ["1", "2"]
    assert document["measures"] == [] and document["before"]["requests"] == 0
    same = document["same_requests"]
    assert (same["pairs"], same["disagreements"], same["from"] <= same["to"]) == (200, 150, True)
    low, high = intervals.share(150, 200).interval()
    assert same["disagreement_ratio"] == pytest.approx({"value": 0.75, "low": low, "high": high})
    low, high = intervals.mean(300.0, 700.0, 200.0).interval()
    assert same["mean_absolute_difference"] == pytest.approx({"value": 1.5, "low": low, "high": high})
    only = "Version 2 compared with version 1: only answers to the same requests."
    assert document["summary"] == f"{only} {same['sentence']}"
    assert same["sentence"].startswith("Of 200 requests that both answered, 75.0% (68.")
    looked_at = compared(server, "model=price&sequential=true&before=1&after=2")
    assert looked_at["decision"] == "wait"
    assert looked_at["same_requests"]["disagreement_ratio"]["low"] < same["disagreement_ratio"]["low"]
    assert looked_at["same_requests"]["mean_absolute_difference"]["high"] > same["mean_absolute_difference"]["high"]
    assert server.get("/v1/compare?model=price&before=2&after=1").status == 404


def test_a_shadow_answer_needs_an_identifier(server: Served) -> None:
    """Without one it could not be compared; the response says so."""
    answer = server.post("/v1/predictions", {"model": "credit", "version": "4", "prediction": "no", "shadow": True})
    assert answer.status == 400
    assert answer.json["errors"] == [
        {"pointer": "/id", "detail": "is required with shadow: the identifier of the prediction that the user saw"}
    ]
    answer = server.post("/v1/predictions", {"model": "credit", "id": "a", "shadow": "yes"})
    assert answer.status == 400 and answer.json["errors"][0]["pointer"] == "/shadow"
