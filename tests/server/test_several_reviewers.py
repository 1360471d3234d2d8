"""Several reviewers with names: what becomes of two decisions on one correction."""

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
from support.servers import Served


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
