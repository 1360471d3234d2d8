"""The review queue over HTTP: pages, filters, decisions, and two reviewers at once."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.postgres import Postgres
from support.reviewers import decide, in_parallel, pending, reviewed_by_names
from support.servers import CONFIG, Answer, Served, ask, eventually, write_config

LABELS = 'model="credit",version="3"'


def wrong(number: int) -> dict[str, Any]:
    return {"id": f"c-{number}", "model": "credit", "version": "3", "inputs": {"age": number, "name": "Ada"},
            "prediction": "yes", "confidence": 0.9}  # fmt: skip


def start(folder: Path, database: str) -> Served:
    """Start an exporter with five corrections."""
    write_config(folder, {**CONFIG, "store": {"url": database}})
    served = Served(folder).start()
    served.post("/v1/predictions", [wrong(number) for number in range(5)])
    words = [{"prediction_id": f"c-{n}", "verdict": "corrected", "label": "no", "user": f"u{n}"} for n in range(5)]
    served.post("/v1/feedback", words)
    eventually(lambda: served.samples("model_corrections_total") == {f"model_corrections_total{{{LABELS}}}": 5})
    return served


@pytest.fixture
def corrected(tmp_path: Path, database: str) -> Iterator[Served]:
    """An exporter with five corrections."""
    with start(tmp_path, database) as served:
        yield served


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory, shared_database: str) -> Iterator[Served]:
    """An exporter with five corrections, for tests that change nothing."""
    with start(tmp_path_factory.mktemp("unchanged"), shared_database) as served:
        yield served


def patch(server: Served, correction_id: str, **body: Any) -> Answer:
    return ask(f"{server.url}/v1/corrections/{correction_id}", body, "PATCH")


def test_the_queue_comes_in_pages_newest_first(unchanged: Served) -> None:
    """Following next returns each correction once, with its inputs but without redacted ones."""
    found, path = [], "/v1/corrections?model=credit&limit=2"
    while path:
        page = unchanged.get(path).json
        found += page["corrections"]
        path = page["next"] and page["next"].removeprefix(unchanged.url)
    assert len({one["id"] for one in found}) == len(found) == 5
    assert [one["created"] for one in found] == sorted((one["created"] for one in found), reverse=True)
    assert {one["inputs"]["age"] for one in found} == set(range(5))
    assert all("name" not in one["inputs"] for one in found)
    assert found[0] | {"status": "pending", "prediction": "yes", "label": "no", "revision": 1} == found[0]


def test_a_decision_takes_the_correction_out_of_the_backlog(corrected: Served) -> None:
    """Decisions to accept, relabel, reject and undo show in the queue and in the metric."""
    one, two, three, *_ = corrected.get("/v1/corrections").json["corrections"]
    assert patch(corrected, one["id"], status="accepted", revision=1).json["status"] == "accepted"
    relabelled = patch(corrected, two["id"], status="accepted", revision=1, label="maybe").json
    assert (relabelled["label"], relabelled["user_label"], relabelled["revision"]) == ("maybe", "no", 2)
    patch(corrected, three["id"], status="rejected", revision=1)
    assert corrected.samples("model_corrections_pending")['model_corrections_pending{model="credit"}'] == 2
    assert len(corrected.get("/v1/corrections?status=accepted").json["corrections"]) == 2
    withdrawn, kept = (f"model_corrections_{name}total" for name in ("withdrawn_", ""))
    eventually(lambda: corrected.samples(withdrawn) == {f"{withdrawn}{{{LABELS}}}": 1})
    assert corrected.samples(kept) == {f"{kept}{{{LABELS}}}": 5}
    assert patch(corrected, three["id"], status="rejected", revision=2).status == 200
    assert patch(corrected, three["id"], status="pending", revision=3).status == 200
    assert corrected.samples("model_corrections_pending")['model_corrections_pending{model="credit"}'] == 3
    eventually(lambda: corrected.samples(kept) == {f"{kept}{{{LABELS}}}": 6})  # less the one that was withdrawn
    assert corrected.samples(withdrawn) == {f"{withdrawn}{{{LABELS}}}": 1}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("model=credits", 'no model "credits" is configured; did you mean "credit"?'),
        ("status=done", 'status: expected accepted, pending or rejected, got "done"'),
        ("limit=0", 'limit: expected a whole number from 1 to 1000, got "0"'),
        ("limit=x", 'limit: expected a whole number from 1 to 1000, got "x"'),
        ("cursor=%ff", "cursor: expected the cursor in the URL next of the page before"),
        ("cursor=Y29uZmlkZW50LDAuOSwx", "cursor: it is for the order confident, not newest"),
        ("cursor=bmV3ZXN0LG5hbiwx", "cursor: expected the cursor in the URL next of the page before"),
        ("order=oldest", 'order: expected confident, error, newest, suspect or uncertain, got "oldest"'),
        ("alike=x", 'alike: expected a whole number from 1 to 2147483647, got "x"'),
        ("source=model", 'source: expected all, sample or user, got "model"'),
        (
            "since=yesterday",
            'since: expected an RFC 3339 time with a zone such as "2026-11-24T10:00:00Z", got "yesterday"',
        ),
        (
            "until=2026-11-24T10:00:00",
            'until: expected an RFC 3339 time with a zone such as "2026-11-24T10:00:00Z", got "2026-11-24T10:00:00"',
        ),
        ("confidence_from=2", 'confidence_from: expected a number from 0 to 1, got "2"'),
        ("confidence_to=nan", 'confidence_to: expected a number from 0 to 1, got "nan"'),
        ("q=a%00", "q: expected text without the character NUL"),
        (f"q={'x' * 300}", "q: expected at most 256 characters, got 300"),
        ("modell=credit", 'the parameter "modell" is not known; did you mean "model"?'),
    ],
)
def test_invalid_parameters_are_explained(shared: Served, query: str, message: str) -> None:
    """Each invalid parameter has its own message."""
    answer = shared.get(f"/v1/corrections?{query}")
    assert (answer.status, answer.json["detail"]) == (400, message)


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
def test_an_invalid_decision_names_its_field(shared: Served, body: Any, pointer: str) -> None:
    """An invalid decision is a 400 with the pointer, also in its detail; one on an unknown correction is a 404."""
    answer = ask(f"{shared.url}/v1/corrections/1", body, "PATCH")
    (error,) = answer.json["errors"]
    assert (answer.status, error["pointer"]) == (400, pointer)
    assert answer.json["detail"] == (f"{pointer}: {error['detail']}" if pointer else error["detail"])
    assert patch(shared, "999", status="accepted", revision=1).status == 404


def test_a_correction_has_its_history(corrected: Served) -> None:
    """The history has feedback and review decisions, the earliest first; an unknown correction is a 404."""
    correction_id = corrected.get("/v1/corrections?q=u2").json["corrections"][0]["id"]
    patch(corrected, correction_id, status="rejected", revision=1)
    patch(corrected, correction_id, status="accepted", revision=2, label="maybe")
    corrected.post("/v1/feedback", {"prediction_id": "c-2", "verdict": "corrected", "label": "no", "user": "u9"})
    one = corrected.get(f"/v1/corrections/{correction_id}").json
    assert [step.get("verdict") or step["status"] for step in one["history"]] == [
        "corrected", "rejected", "accepted", "corrected"
    ]  # fmt: skip
    assert [step["label"] for step in one["history"]] == ["no", None, "maybe", "no"]
    assert (one["status"], one["user"], one["revision"], one["label"]) == ("pending", "u9", 4, "no")
    for correction_id in ("999", "9" * 30):
        assert corrected.get(f"/v1/corrections/{correction_id}").status == 404
        assert patch(corrected, correction_id, status="accepted", revision=1).status == 404


def test_a_label_that_the_model_never_had_is_accepted_and_marked(corrected: Served) -> None:
    """``new_label`` is set for a label that is not among the profile's predictions."""
    one = corrected.get("/v1/corrections").json["corrections"][0]
    assert one["new_label"] is False
    assert patch(corrected, one["id"], status="accepted", revision=1, label="maybe").json["new_label"] is True
    assert corrected.get("/v1/corrections?label=maybe").json["corrections"][0]["new_label"] is True
    big = "x" * 100_000
    assert patch(corrected, one["id"], status="accepted", revision=2, label=big).json["label"] == big
    too_big = patch(corrected, one["id"], status="accepted", revision=3, label=big + "x")
    assert (too_big.status, too_big.json["errors"][0]["pointer"]) == (400, "/label")


def test_several_corrections_are_decided_in_one_request(corrected: Served) -> None:
    """Each correction has its own result: stored, already decided by another reviewer, or not found."""
    ids = [one["id"] for one in corrected.get("/v1/corrections").json["corrections"]]
    patch(corrected, ids[0], status="rejected", revision=1)
    body = [{"id": correction_id, "status": "accepted", "revision": 1} for correction_id in [*ids, ids[1], "999"]]
    body[2] |= {"id": int(ids[2]), "label": "maybe"}
    answer = ask(f"{corrected.url}/v1/corrections", body, "PATCH")
    results = answer.json["results"]
    assert answer.status == 200
    assert [(one["id"], one["taken"], one["status"]) for one in results] == [
        (ids[0], False, 409), *((correction_id, True, 200) for correction_id in ids[1:]), (ids[1], False, 409),
        ("999", False, 404),
    ]  # fmt: skip
    assert (results[0]["correction"]["status"], results[2]["correction"]["label"]) == ("rejected", "maybe")
    assert corrected.samples("model_corrections_pending")['model_corrections_pending{model="credit"}'] == 0


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"id": "1", "status": "accepted", "revision": 1}, ""),
        ([], ""),
        ([{"id": "1", "status": "accepted", "revision": 1}] * 1001, ""),
        ([{"id": "1", "status": "accepted", "revision": 1}, 7], "/1"),
        ([{"id": "x", "status": "accepted", "revision": 1}], "/0/id"),
        ([{"id": "1", "status": "accepted", "revision": 1}, {"id": "1", "status": "done", "revision": 1}], "/1/status"),
        ([{"status": "accepted", "revision": 1}], "/0/id"),
        ([{"id": "1", "status": "accepted", "revision": 2**80}], "/0/revision"),
    ],
)
def test_invalid_decisions_change_nothing(unchanged: Served, body: Any, pointer: str) -> None:
    """With one invalid decision the request is refused, and the pointer names its index."""
    answer = ask(f"{unchanged.url}/v1/corrections", body, "PATCH")
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (400, pointer)
    assert unchanged.samples("model_corrections_pending")['model_corrections_pending{model="credit"}'] == 5


def test_a_sample_estimates_the_accuracy(corrected: Served) -> None:
    """A decided sample is in the metrics with its interval; the counts of corrections do not change."""
    more = [{**wrong(number), "id": f"s-{number}"} for number in range(15)]
    corrected.post("/v1/predictions", more)
    drawn = eventually(
        lambda: corrected.post("/v1/corrections/samples", {"model": "credit", "count": 100}).json["drawn"]
    )
    while more := corrected.post("/v1/corrections/samples", {"model": "credit", "count": 100}).json["drawn"]:
        drawn += more
    eventually(lambda: len(corrected.get("/v1/corrections?source=sample").json["corrections"]) == drawn)
    assert corrected.samples("model_reviewed_accuracy") == {}
    page = corrected.get("/v1/corrections?source=sample&order=confident").json["corrections"]
    assert {one["source"] for one in page} == {"sample"}
    assert all("name" not in one["inputs"] for one in page)
    body = [{"id": one["id"], "status": "accepted", "revision": 1} for one in page]
    body[0]["label"] = "no"
    ask(f"{corrected.url}/v1/corrections", body, "PATCH")
    names = ("model_reviewed_accuracy", "model_reviewed_accuracy_lower", "model_reviewed_accuracy_upper")
    found = corrected.samples(*names)
    value, lower, upper = (found[f"{name}{{{LABELS}}}"] for name in names)
    assert lower < value < upper
    assert value == pytest.approx(drawn * (1 - 1 / drawn) / (drawn + 5))
    reviewed = corrected.samples("model_reviewed_predictions", "model_corrections_pending", "model_corrections_total")
    assert reviewed[f"model_reviewed_predictions{{{LABELS}}}"] == drawn
    assert reviewed['model_corrections_pending{model="credit"}'] == 5
    assert reviewed[f"model_corrections_total{{{LABELS}}}"] == 5
    delays = corrected.samples("model_feedback_delay_seconds_count")
    assert delays[f"model_feedback_delay_seconds_count{{{LABELS}}}"] == 5


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"count": 5}, "/model"),
        ({"model": "credits", "count": 5}, "/model"),
        ({"model": "credit"}, "/count"),
        ({"model": "credit", "count": 0}, "/count"),
        ({"model": "credit", "count": 1001}, "/count"),
        ({"model": "credit", "count": 5, "versoin": "3"}, "/versoin"),
        ({"model": "credit", "count": 5, "version": "a\0"}, "/version"),
        ([], ""),
    ],
)
def test_an_invalid_sample_request_names_its_field(shared: Served, body: Any, pointer: str) -> None:
    """An invalid sample request is a 400 with the pointer."""
    answer = shared.post("/v1/corrections/samples", body)
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (400, pointer)


@pytest.fixture
def team(tmp_path: Path, database: str) -> Iterator[Served]:
    """An exporter with 60 corrections and three reviewers."""
    with reviewed_by_names(tmp_path / "team", database, 60) as server:
        yield server


def history(server: Served, correction_id: str) -> list[dict[str, Any]]:
    found = server.get(f"/v1/corrections/{correction_id}").json["history"]
    return [entry for entry in found if "reviewer" in entry]


def test_the_second_of_two_decisions_learns_the_first(team: Served) -> None:
    """Of decisions at the same moment one is stored; the others get a 409 that says what was decided, and by whom."""
    for correction in pending(team, "limit=10"):
        answers = in_parallel(
            lambda correction=correction: decide(team, "anna", correction, "accepted", label="maybe"),
            lambda correction=correction: decide(team, "ben", correction, "rejected"),
        )
        assert Counter(answer.status for answer in answers) == {200: 1, 409: 1}
        (late,) = [answer for answer in answers if answer.status == 409]
        (stored,) = history(team, correction)
        how = 'accepted as "maybe" by "anna"' if stored["reviewer"] == "anna" else 'rejected by "ben"'
        assert f"another reviewer decided first: it is {how} since revision 2;" in late.json["detail"]
        assert late.json["correction"]["reviewer"] == stored["reviewer"]


def test_a_repeated_decision_is_stored_once(team: Served) -> None:
    """A reviewer whose response was lost sends the decision again and gets 200; another decision is a 409."""
    (correction,) = pending(team, "limit=1")
    first = decide(team, "anna", correction, "accepted", label="maybe")
    again = decide(team, "anna", correction, "accepted", label="maybe")
    assert (again.status, again.json) == (200, first.json)
    assert decide(team, "anna", correction, "accepted").status == 409
    assert decide(team, "anna", correction, "rejected").status == 409
    assert decide(team, "ben", correction, "accepted", label="maybe").status == 409
    assert len(history(team, correction)) == 1


def test_two_exporters_decide_in_one_database(tmp_path: Path, postgres: Postgres) -> None:
    """Reviewers of different replicas make one decision on each correction."""
    database = postgres.url()
    first = reviewed_by_names(tmp_path / "first", database, 10)
    second = reviewed_by_names(tmp_path / "second", database, 0)
    with first, second:
        for correction in pending(second):
            answers = in_parallel(
                lambda correction=correction: decide(first, "anna", correction, "accepted"),
                lambda correction=correction: decide(second, "ben", correction, "rejected"),
            )
            assert Counter(answer.status for answer in answers) == {200: 1, 409: 1}
            assert len(history(first, correction)) == 1


def test_no_acknowledged_decision_is_lost_when_the_exporter_is_killed(team: Served) -> None:
    """After kill -9 while two reviewers decide the same cards, each card has one first decision: the acknowledged one.

    A reviewer who sends a decision again that was not acknowledged learns what was stored.
    """
    corrections = [one["id"] for one in team.get("/v1/corrections").json["corrections"]]
    acknowledged: dict[str, str] = {}
    enough = threading.Event()

    def review(name: str, status: str) -> None:
        for correction in corrections:
            try:
                answer = decide(team, name, correction, status)
            except OSError:
                return
            if answer.status == 200:
                acknowledged[correction] = name
            if len(acknowledged) > 15:
                enough.set()

    threads = [threading.Thread(target=review, args=names) for names in (("anna", "accepted"), ("ben", "rejected"))]
    for thread in threads:
        thread.start()
    assert enough.wait(30)
    team.stop(signal.SIGKILL)
    for thread in threads:
        thread.join(30)
    assert 15 < len(acknowledged) < len(corrections)
    team.start()
    for correction in corrections:
        stored = history(team, correction)
        assert len(stored) <= 1
        assert acknowledged.get(correction) in {None, *(entry["reviewer"] for entry in stored)}
        again = decide(team, "anna", correction, "accepted")
        assert (again.status == 200) is (not stored or stored[0]["reviewer"] == "anna")
        assert len(history(team, correction)) == 1
