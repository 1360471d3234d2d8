"""``GET /v1/slices``: which combinations of bins hold more than their share, on both databases."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.flights import COUNT, correct, events, is_planted, running, write_model
from support.servers import Served, eventually, serving


@pytest.fixture(scope="module")
def flights(shared_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An exporter whose users corrected the planted slice, and a few others."""
    sent = events(COUNT)
    confident = [event for event in sent if event["confidence"] > 0.8]
    corrected = [*filter(is_planted, confident), *[event for event in confident if not is_planted(event)][:40]]
    folder = tmp_path_factory.mktemp("flights")
    with running(folder, sent, corrected, labelled=True, url=shared_database) as server:
        yield server


def ask(server: Served, **parameters: Any) -> Any:
    """Ask for slices of the model."""
    query = "&".join(f"{name}={value}" for name, value in {"model": "flights", **parameters}.items())
    answer = server.get(f"/v1/slices?{query}")
    assert answer.status == 200, answer.text
    return answer.json


def plain(where: dict[str, str]) -> dict[str, str]:
    """Return the names of bins without their numbers."""
    return {feature: name.partition(" ")[2] for feature, name in where.items()}


def test_the_slice_of_the_corrections_comes_first(flights: Served) -> None:
    """It has its share, its ratio and its size, and a sentence; what is redacted or a confidence is in no slice."""
    confident = [e for e in events(COUNT) if e["confidence"] > 0.8]
    planted = sum(map(is_planted, confident))
    answer = eventually(lambda: (a := ask(flights))["total"] == planted + 40 and a)
    assert (answer["predictions"], answer["users"], answer["truncated"]) == (len(confident), 7, False)
    first = answer["slices"][0]
    assert plain(first["where"]) == {"carrier": "MQ", "dest": "ATL"}
    assert (first["size"], first["held"]) == (planted, planted)
    assert first["share"] == pytest.approx(planted / (planted + 40))
    assert first["ratio"] == pytest.approx(first["share"] / (planted / len(confident)))
    assert first["q_value"] < 1e-6
    assert first["segment_by"] == "carrier"
    assert first["sentence"] == (
        f"{100 * first['share']:.0f}% of the corrections are where carrier is MQ and dest is ATL, "
        f"{100 * first['traffic_share']:.2g}% of the traffic."
    )
    assert len(answer["slices"]) == 1


def test_the_names_of_bins_are_those_of_the_bin_label(flights: Served) -> None:
    """A slice's bins are found in the metrics as they stand."""
    (first,) = ask(flights)["slices"]
    series = flights.samples("model_feature_observations_total")
    for feature, name in first["where"].items():
        assert any(f'feature="{feature}"' in key and f'bin="{name}"' in key for key in series)


def test_errors_are_of_labels(flights: Served) -> None:
    """All labelled predictions are looked at, whatever the confidence."""
    planted = sum(map(is_planted, events(COUNT)))
    answer = ask(flights, of="errors", version="1")
    assert (answer["predictions"], answer["total"], answer["users"]) == (COUNT, planted, None)
    assert plain(answer["slices"][0]["where"]) == {"carrier": "MQ", "dest": "ATL"}
    assert answer["slices"][0]["share"] == 1


def test_estimated_loss_needs_no_labels(flights: Served) -> None:
    """The profile knows how often such confidences are wrong; here, no slice has more of them."""
    answer = ask(flights, of="estimated_loss")
    wrong = sum(0.05 if e["confidence"] > 0.8 else 0.45 for e in events(COUNT))
    assert answer["predictions"] == COUNT
    assert answer["total"] == pytest.approx(wrong, rel=0.25)
    assert answer["slices"] == []


def test_drift_without_a_time_before_is_that_since_training(flights: Served) -> None:
    """Nothing has drifted."""
    answer = ask(flights, of="drift")
    assert answer["slices"] == []
    assert "training" in answer["remarks"][0]


def test_other_versions_and_times_have_nothing(flights: Served) -> None:
    """A version that nobody sent, and a time in which nothing came, have no slices."""
    assert ask(flights, version="2")["predictions"] == 0
    time.sleep(1)
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert ask(flights, since=now)["predictions"] == 0
    assert ask(flights, since="0001-01-01T00:00:00%2B01:00")["since"] == "0001-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("query", "status", "detail"),
    [
        ("of=corrections", 400, 'model: is required, one of "flights" or "bare"'),
        ("model=flight", 400, 'no model "flight" is configured; did you mean "flights"?'),
        ("model=flights&of=speed", 400, "of: expected corrections, drift, errors or estimated_loss"),
        ("model=flights&since=yesterday", 400, "since: expected an RFC 3339 time with a zone"),
        ("model=flights&since=2999-01-01T00:00:00Z", 400, "since: expected a time in the past"),
        ("model=flights&limit=0", 400, "limit: expected a whole number from 1 to 50"),
        ("model=flights&q=7", 400, 'the parameter "q" is not known'),
        ("model=bare", 404, '"bare" has no profile'),
    ],
)
def test_what_is_wrong_with_a_question_is_named(flights: Served, query: str, status: int, detail: str) -> None:
    """A wrong parameter, and a model without a profile, get an error that says what would be right."""
    answer = flights.get(f"/v1/slices?{query}")
    assert answer.status == status
    assert detail in answer.json["detail"]


def test_bins_outlive_the_process(database: str, tmp_path: Path) -> None:
    """What was recorded before a stop is found after the next start; a drift since then is found, too."""
    write_model(tmp_path, url=database)
    server = Served(tmp_path).start()
    assert server.post("/v1/predictions", events(500)).status == 202
    assert server.stop() == 0
    with server.start():
        assert ask(server, of="drift")["predictions"] == 500
        time.sleep(1)
        since = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        changed = events(500, seed=9, prefix="g")
        for event in changed[::3]:
            event["inputs"] |= {"carrier": "MQ", "dest": "ATL"}
        assert server.post("/v1/predictions", changed).status == 202
        # The time before is as long as the time since then.
        answer = eventually(lambda: (a := ask(server, of="drift", since=since))["predictions"] == 1000 and a)
        assert answer["total"] == 500
        first = answer["slices"][0]
        assert plain(first["where"]) == {"carrier": "MQ", "dest": "ATL"}
        assert first["size"] == sum(map(is_planted, changed))
        assert first["sentence"].endswith("before.")


@pytest.mark.parametrize("users", [1, 6])
def test_one_user_makes_no_slice(tmp_path: Path, users: int) -> None:
    """Corrections of one user alone are no slice, however many they are, and the answer says so; those of six are."""
    write_model(tmp_path)
    with serving(tmp_path) as server:
        sent = events(COUNT, confidence=0.95)
        assert server.post("/v1/predictions", sent).status == 202
        correct(server, [e for e in sent if is_planted(e)], users)
        answer = eventually(lambda: (a := ask(server))["total"] and a)
        assert answer["largest_user_share"] == pytest.approx(1 / users, rel=0.1)
        if users == 1:
            assert answer["slices"] == []
            assert answer["remarks"] == [
                "One user gave 100% of the corrections: slices that only this user shows are left out."
            ]
        else:
            assert len(answer["slices"]) == 1
            assert answer["remarks"] == []


def test_only_stored_inputs_have_bins(tmp_path: Path) -> None:
    """Without stored inputs the answer says what to do; with a sample of them, that sample is looked at."""
    write_model(tmp_path, inputs="none")
    with serving(tmp_path) as server:
        assert server.post("/v1/predictions", events(100)).status == 202
        answer = server.get("/v1/slices?model=flights")
        assert (answer.status, answer.json["detail"].partition(",")[0]) == (404, "store.inputs is none")
    write_model(tmp_path, inputs="sampled:0.5")
    with server.start():
        assert server.post("/v1/predictions", events(400)).status == 202
        assert 100 < eventually(lambda: ask(server, of="estimated_loss")["predictions"]) < 300


def test_bad_inputs_have_their_bins(tmp_path: Path) -> None:
    """Missing, invalid and unknown values are bins like others; events without inputs are in none."""
    write_model(tmp_path)
    with serving(tmp_path) as server:
        sent = events(600, confidence=0.95)
        for number, event in enumerate(sent):
            if number % 10 == 0:
                event["inputs"] = {"distance": "far", "carrier": f"X{number}", "dest": None}
            if number % 10 == 1:
                del event["inputs"]
            if number % 10 == 2:
                event["inputs"] = {}
        assert server.post("/v1/predictions", sent).status == 202
        correct(server, sent[::10], users=5)
        answer = eventually(lambda: (a := ask(server))["total"] and a)
        assert answer["predictions"] == 540
        (first,) = answer["slices"]
        assert first["size"] == 60
        assert set(plain(first["where"]).values()) <= {"invalid", "other", "missing"}
