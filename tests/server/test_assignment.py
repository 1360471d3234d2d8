"""Several reviewers with names: who is given which corrections, and what becomes of two decisions on one."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.pages import Page as Parsed
from support.postgres import Postgres
from support.reviewers import NAMES, assigned, decide, in_parallel, reviewed_by_names, token
from support.servers import Answer, Served, ask


class Page(Parsed):
    """A page with forms and images, which have no end tags."""

    VOID = Parsed.VOID | {"img", "input"}


@pytest.fixture
def team(tmp_path: Path, database: str) -> Iterator[Served]:
    """An exporter with 60 corrections and three reviewers."""
    server = reviewed_by_names(tmp_path / "team", database, 60)
    yield server
    server.stop()


def leases(server: Served, name: str, **body: Any) -> Answer:
    return ask(f"{server.url}/v1/corrections/leases", body, "PUT", **token(name))


def cards(server: Served, name: str, query: str = "") -> tuple[list[str], str]:
    """The identifiers of the cards on a reviewer's page, and its text."""
    page = Page(server.get(f"/review?{query}", **token(name)))
    return [attrs["data-id"] for _, attrs in page.tags if attrs.get("class") == "card"], page.text


def history(server: Served, correction_id: str) -> list[dict[str, Any]]:
    found = server.get(f"/v1/corrections/{correction_id}").json["history"]
    return [entry for entry in found if "reviewer" in entry]


def test_no_card_is_given_to_two_reviewers(team: Served) -> None:
    """The page leaves out what others look at and says how many; those who may not review see all and take none."""
    anna, _ = cards(team, "anna")
    ben, text = cards(team, "ben")
    assert (len(anna), len(ben), set(anna) & set(ben)) == (50, 10, set())
    assert "50 more are with other reviewers." in text
    assert cards(team, "anna")[0] == anna
    assert "No other corrections are pending." in cards(team, "cleo")[1]
    assert len(cards(team, "service")[0]) == 50
    assert len(cards(team, "cleo", "status=all")[0]) == 50
    assert len(team.get("/v1/corrections").json["corrections"]) == 60
    assert leases(team, "anna", release=anna[:3]).json["held"] == []
    assert set(cards(team, "cleo")[0]) == set(anna[:3])


def test_reviewers_who_open_the_queue_at_once_get_different_cards(team: Served) -> None:
    """Three pages at the same moment share the queue."""
    pages = in_parallel(*[lambda name=name: assigned(team, name, "limit=20") for name in NAMES])
    assert Counter(map(len, pages)) == {20: 3}
    assert len({correction for page in pages for correction in page}) == 60


def test_a_page_that_is_closed_leaves_the_leases_of_the_next_one(team: Served) -> None:
    """Leases that were renewed since are not given back with the earlier page's time."""
    held = assigned(team, "anna", "limit=2")
    earlier = leases(team, "anna", hold=held).json["expires"]
    later = leases(team, "anna", hold=held).json["expires"]
    leases(team, "anna", release=held, expires=earlier)
    assert set(leases(team, "anna", hold=held).json["held"]) == set(held)
    assert not set(assigned(team, "ben", "limit=60")) & set(held)
    leases(team, "ben", release=held, expires=later)
    assert not set(assigned(team, "cleo", "limit=60")) & set(held)


def test_leases_need_a_reviewer(team: Served, served: Served) -> None:
    """Without users there are none; a wrong request is explained."""
    for method, body in (("POST", b""), ("PUT", {"hold": ["1"]})):
        refused = ask(f"{served.url}/v1/corrections/leases", body, method)
        assert refused.status == 403
        assert "a lease belongs to a reviewer" in refused.json["detail"]
        assert ask(f"{team.url}/v1/corrections/leases", body, method, **token("service")).status == 403
    wrong = ask(f"{team.url}/v1/corrections/leases?status=accepted", b"", "POST", **token("anna"))
    assert (wrong.status, wrong.json["detail"][:24]) == (400, "status: expected pending")
    assert leases(team, "anna", hold=["x"]).json["errors"][0]["pointer"] == "/hold/0"
    assert leases(team, "anna", hold=["999999999"]).json["held"] == []


def test_the_second_of_two_decisions_learns_the_first(team: Served) -> None:
    """Of decisions at the same moment one is stored; the others get a 409 that says what was decided, and by whom."""
    for correction in assigned(team, "cleo", "limit=10"):
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
    (correction,) = assigned(team, "anna", "limit=1")
    first = decide(team, "anna", correction, "accepted", label="maybe")
    again = decide(team, "anna", correction, "accepted", label="maybe")
    assert (again.status, again.json) == (200, first.json)
    assert decide(team, "anna", correction, "accepted").status == 409
    assert decide(team, "anna", correction, "rejected").status == 409
    assert decide(team, "ben", correction, "accepted", label="maybe").status == 409
    assert len(history(team, correction)) == 1


def test_two_exporters_decide_and_lease_in_one_database(tmp_path: Path, postgres: Postgres) -> None:
    """Reviewers of different replicas get different cards, and one decision each."""
    database = postgres.url()
    first = reviewed_by_names(tmp_path / "first", database, 20)
    second = reviewed_by_names(tmp_path / "second", database, 0)
    try:
        pages = in_parallel(
            lambda: assigned(first, "anna", "limit=10"),
            lambda: assigned(second, "ben", "limit=10"),
        )
        assert len({*pages[0], *pages[1]}) == 20
        for correction in pages[0]:
            answers = in_parallel(
                lambda correction=correction: decide(first, "anna", correction, "accepted"),
                lambda correction=correction: decide(second, "ben", correction, "rejected"),
            )
            assert Counter(answer.status for answer in answers) == {200: 1, 409: 1}
            assert len(history(first, correction)) == 1
    finally:
        first.stop()
        second.stop()


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


@pytest.fixture
def doubled(tmp_path: Path, database: str) -> Iterator[Served]:
    """An exporter with four corrections, each of which gets a second opinion."""
    server = reviewed_by_names(tmp_path / "doubled", database, 4, second_opinion=1.0)
    yield server
    server.stop()


def test_a_second_reviewer_decides_without_seeing_the_first_decision(doubled: Served) -> None:
    """On the page, in the list of assigned ones, and in the correction itself; others see what was decided."""
    (correction,) = assigned(doubled, "anna", "limit=1")
    path = f"/v1/corrections/{correction}"
    before = doubled.get(path, **token("ben")).json
    assert decide(doubled, "anna", correction, "accepted", label="maybe").status == 200
    assert doubled.get(path, **token("cleo")).json["second_opinion"]["state"] == "awaited"
    ids, text = cards(doubled, "ben")
    assert correction in ids
    assert "anna" not in text
    assert "maybe" not in doubled.get("/review?view=table", **token("ben")).text
    assert doubled.get(path, **token("ben")).json == before
    assert decide(doubled, "anna", correction, "rejected").json["detail"] == (
        'you decided it before: it is accepted as "maybe" since revision 2; decide again on that revision to change it'
    )
    given = decide(doubled, "ben", correction, "rejected").json
    assert (given["status"], given["reviewer"], given["revision"]) == ("pending", None, 3)
    assert [(one["reviewer"], one["status"]) for one in history(doubled, correction)] == [
        ("anna", "accepted"), ("ben", "rejected"),
    ]  # fmt: skip


def test_disputed_corrections_are_in_no_dataset_until_somebody_settles_them(doubled: Served) -> None:
    """They are pending, can be listed, and the cards have both decisions."""
    agreed, disputed, *_ = assigned(doubled, "anna")
    for correction in (agreed, disputed):
        decide(doubled, "anna", correction, "accepted")
        decide(doubled, "ben", correction, "accepted", **({"label": "maybe"} if correction == disputed else {}))
    pending = {'model_corrections_pending{model="credit"}': 3.0}
    assert doubled.samples("model_corrections_pending").items() >= pending.items()
    assert len(doubled.get("/v1/dataset?model=credit").text.splitlines()) == 1
    (listed,) = doubled.get("/v1/corrections?second_opinion=disputed").json["corrections"]
    decisions = listed["second_opinion"]["decisions"]
    assert [(one["reviewer"], one["label"]) for one in decisions] == [("anna", "no"), ("ben", "maybe")]
    assert "1 is disputed: two reviewers decided differently" in cards(doubled, "cleo")[1]
    for view in ("cards", "table"):
        found, text = cards(doubled, "cleo", f"second_opinion=disputed&view={view}")
        assert found == [disputed]
        assert "Disputed: anna accepted no, ben accepted maybe." in text
    release = ask(f"{doubled.url}/v1/dataset/releases", {"model": "credit"}, "POST", **token("anna")).json
    assert release["examples"] == 1
    assert decide(doubled, "cleo", disputed, "accepted", 3).status == 200
    assert len(doubled.get("/v1/dataset?model=credit").text.splitlines()) == 2
    wrong = doubled.get("/v1/corrections?second_opinion=open")
    assert "second_opinion: expected agreed, awaited, disputed or settled" in wrong.json["detail"]


def test_two_decisions_at_the_same_moment_are_two_opinions(doubled: Served) -> None:
    """Neither reviewer saw the other's, so that both are kept, whoever is first."""
    for correction in assigned(doubled, "cleo"):
        answers = in_parallel(
            lambda correction=correction: decide(doubled, "anna", correction, "accepted"),
            lambda correction=correction: decide(doubled, "ben", correction, "rejected"),
        )
        assert [answer.status for answer in answers] == [200, 200]
        assert {one["reviewer"] for one in history(doubled, correction)} == {"anna", "ben"}
        state = doubled.get(f"/v1/corrections/{correction}").json
        assert (state["status"], state["second_opinion"]["state"]) == ("pending", "disputed")


def test_decisions_without_a_script_are_second_opinions_too(doubled: Served) -> None:
    """The form of a card has the revision that its reviewer was shown."""
    (correction,) = assigned(doubled, "anna", "limit=1")
    decide(doubled, "anna", correction, "accepted")
    form = f"id={correction}&revision=1&status=accepted".encode()
    headers = {**token("ben"), "Content-Type": "application/x-www-form-urlencoded"}
    assert ask(f"{doubled.url}/review/decide", form, "POST", **headers).status in {200, 303}
    assert doubled.get(f"/v1/corrections/{correction}").json["second_opinion"]["state"] == "agreed"


def test_how_far_reviewers_agree(doubled: Served) -> None:
    """In the API by pair, in the metrics, and on the page; kappa is absent while all decisions are the same."""
    path = "/v1/corrections/agreement?model=credit"
    awaiting = "model_corrections_awaiting_second_opinion"
    nothing = doubled.get(path).json
    assert (nothing["corrections"], nothing["kappa"], nothing["reviewers"]) == (0, None, [])
    assert doubled.samples("model_review_agreement_ratio", "model_corrections_disputed", awaiting) == {}
    ids = assigned(doubled, "anna")
    for correction in ids[:2]:
        decide(doubled, "anna", correction, "accepted")
    assert doubled.samples(awaiting, "model_corrections_disputed") == {f'{awaiting}{{model="credit"}}': 2}
    for correction in ids[:2]:
        decide(doubled, "ben", correction, "accepted")
    assert doubled.get(path).json | {"agreed": 2, "kappa": None} == doubled.get(path).json
    names = [f"model_review_agreement_{name}" for name in ("corrections", "ratio", "kappa", "kappa_lower")]
    assert set(doubled.samples(*names)) == {f'{name}{{model="credit"}}' for name in names[:2]}
    text = cards(doubled, "cleo")[1]
    assert "Two reviewers agree in 100 % of 2 cards that both decided; kappa is not defined" in text
    decide(doubled, "ben", ids[2], "rejected")
    decide(doubled, "anna", ids[2], "rejected")
    decide(doubled, "cleo", ids[3], "rejected")
    decide(doubled, "ben", ids[3], "accepted")
    found = doubled.get(path).json
    assert (found["corrections"], found["agreed"], found["disputed"], found["awaited"]) == (4, 3, 1, 0)
    assert found["kappa"] == pytest.approx(0.5)
    assert found["kappa_lower"] < 0.5 < found["kappa_upper"]
    assert [(one["reviewers"], one["agreed"], one["corrections"]) for one in found["reviewers"]] == [
        (["anna", "ben"], 3, 3), (["ben", "cleo"], 0, 1),
    ]  # fmt: skip
    samples = doubled.samples(*names, "model_corrections_disputed", awaiting)
    assert samples == {
        f'{awaiting}{{model="credit"}}': 0,
        'model_corrections_disputed{model="credit"}': 1,
        'model_review_agreement_corrections{model="credit"}': 4,
        'model_review_agreement_ratio{model="credit"}': 0.75,
        'model_review_agreement_kappa{model="credit"}': pytest.approx(found["kappa"]),
        'model_review_agreement_kappa_lower{model="credit"}': pytest.approx(found["kappa_lower"]),
    }
    assert "kappa 0.50 (95 % interval" in cards(doubled, "cleo")[1]
    assert doubled.get("/v1/corrections/agreement").status == 400
