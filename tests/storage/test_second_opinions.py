"""Second opinions in the database: who is asked, when two reviewers agree, and what a dispute changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from support.review_rows import put

from exporter.config import StoreConfig
from exporter.stats.tolerance import Tolerance
from exporter.storage import Store
from exporter.storage._schema import decisions, feedback
from exporter.storage.review.accepted_examples import Selection, accepted_examples
from exporter.storage.review.backlog import read_state
from exporter.storage.review.correction_pages import list_corrections
from exporter.storage.review.corrections import Filter, count_among
from exporter.storage.review.decision import Decision
from exporter.storage.review.leases import Assigner, Assignment, Lease
from exporter.storage.review.review_decisions import count_decided, decide, decide_all
from exporter.storage.review.reviewer_agreement import read_agreement
from exporter.storage.review.second_opinions import OpinionRule, in_state, is_chosen, with_second_opinions

ALL = OpinionRule(1.0, lambda model: Tolerance(amount=0.5) if model == "prices" else Tolerance())
PENDING = Filter(status="pending", source="all")


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    """A store with three corrections, one of them of a regression, and a sample."""
    store = Store(StoreConfig(url=database), lambda _: None)
    put(store, [{}, {}, {"model": "prices", "prediction": "10", "label": "20"}, {"verdict": "sampled", "label": '"1"'}])
    yield store
    store.close()


def give(
    store: Store, reviewer: str | None, status: str, revision: int, label: str | None = None, number: int = 1
) -> tuple[bool, dict[str, Any]]:
    """Decide a correction; return whether it is stored, and the correction."""
    decision = Decision(status, label, revision, reviewer)
    stored, document = store.execute(lambda connection, _: decide(connection, number, decision, {}, ALL))
    assert document
    return stored, document


def assign(store: Store, reviewer: str, chosen: Filter = PENDING, limit: int = 10) -> Assignment:
    return Assigner(Lease(reviewer, 60), chosen, limit, None, second_opinions=True).assign(store)


def asked(store: Store, reviewer: str) -> list[int]:
    """The corrections for which a reviewer is asked for a second opinion."""
    return sorted(map(int, assign(store, reviewer).blind))


def opinion(store: Store, number: int = 1) -> dict[str, Any] | None:
    """What the document of a correction says of its second opinion."""
    with store.reading() as connection:
        found, _ = list_corrections(connection, Filter(source="all"), 10, None)
        (document,) = [one for one in with_second_opinions(connection, found) if one["id"] == str(number)]
    return document.get("second_opinion")


def row(store: Store, number: int = 1) -> Any:
    with store.reading() as connection:
        return connection.execute(sa.select(feedback).where(feedback.c.id == number)).one()


def test_the_second_reviewer_does_not_see_the_first_decision(store: Store) -> None:
    """The correction looks as it did. The first reviewer is not asked, nor anybody once the decision was changed."""
    before = next(one for one in assign(store, "ben").corrections if one["id"] == "1")
    give(store, "anna", "accepted", 1, '"9"')
    assert asked(store, "anna") == []
    assigned = assign(store, "ben")
    assert assigned.blind == {"1"}
    assert next(one for one in assigned.corrections if one["id"] == "1") == before
    assert asked(store, "cleo") == []  # ben holds it
    assert give(store, "cleo", "rejected", 2)[0]
    assert opinion(store) is None  # cleo saw the first decision, and so may others have done
    assert asked(store, "anna") == asked(store, "ben") == []
    assert not give(store, "dora", "accepted", 2)[0]  # who saw anna's decision
    assert not give(store, "ben", "accepted", 1)[0]


def test_filters_that_would_show_the_first_decision_ask_for_none(store: Store) -> None:
    """A filter by what the first reviewer does not change applies to second opinions as well."""
    give(store, "anna", "accepted", 1, '"9"')
    assert assign(store, "ben", PENDING._replace(label='"9"')).blind == frozenset()
    assert assign(store, "ben", PENDING._replace(model="prices")).blind == frozenset()
    assert assign(store, "ben", PENDING._replace(model="digits")).blind == {"1"}
    assert Assigner(Lease("ben", 60), PENDING, 10, None).assign(store).blind == frozenset()


def test_opinions_on_another_model_do_not_hide_those_on_the_chosen_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many corrections of another model await a second opinion for longer, a reviewer of one is asked."""
    monkeypatch.setattr("exporter.storage.review.leases.MAX_AWAITED", 1)
    give(store, "anna", "accepted", 1)
    give(store, "anna", "accepted", 1, number=3)
    assert assign(store, "ben", PENDING._replace(model="prices")).blind == {"3"}


def test_opinions_that_are_taken_back_meanwhile_have_no_agreement(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose only second opinion is taken back between two queries has none."""
    give(store, "anna", "accepted", 1)
    give(store, "ben", "accepted", 1)
    with store.reading() as connection:
        assert read_agreement(connection)["digits"].pairs == 1
        monkeypatch.setattr("exporter.storage.review.reviewer_agreement._latest", lambda *_: [])
        assert read_agreement(connection) == {}


def test_labels_of_reviewers_are_compared_where_the_user_gave_none(store: Store) -> None:
    """Earlier versions took corrections without a label; two reviewers who label one differently do not agree."""
    put(store, [{"label": None}])
    give(store, "anna", "accepted", 1, '"8"', 5)
    give(store, "ben", "accepted", 1, '"9"', 5)
    assert opinion(store, 5)["state"] == "disputed"  # type: ignore[index]


def test_a_page_has_some_second_opinions_and_without_others_only_these(store: Store) -> None:
    """They are at most a fifth of a page; when nothing else is pending, a page is full of them."""
    put(store, [{}] * 20)
    for number in range(5, 15):
        give(store, "anna", "accepted", 1, number=number)
    assigned = assign(store, "ben")
    assert (len(assigned.corrections), len(assigned.blind)) == (10, 2)
    following = Assigner(Lease("ben", 60), PENDING, 10, assigned.end, second_opinions=True).assign(store)
    assert len(following.blind) == 2
    assert not following.blind & assigned.blind
    for number in (1, 2, 3, 4, *range(15, 25)):
        give(store, None, "accepted", 1, number=number)
    assert len(assign(store, "cleo").blind) == 6  # ben holds the others


@pytest.mark.parametrize(
    ("number", "first", "second", "agreed"),
    [
        (1, ("accepted", None), ("accepted", None), True),
        (1, ("accepted", None), ("accepted", '"7"'), True),
        (1, ("accepted", "9"), ("accepted", '"9"'), True),
        (1, ("rejected", None), ("rejected", None), True),
        (1, ("accepted", None), ("rejected", None), False),
        (1, ("accepted", '"9"'), ("accepted", None), False),
        (1, ("accepted", '"9"'), ("accepted", '"8"'), False),
        (3, ("accepted", None), ("accepted", "20.4"), True),
        (3, ("accepted", "25"), ("accepted", "25.6"), False),
        (4, ("accepted", None), ("accepted", '"1"'), True),
        (4, ("accepted", None), ("accepted", '"9"'), False),
    ],
)
def test_reviewers_agree_if_status_and_label_are_the_same(
    store: Store, number: int, first: tuple[str, str | None], second: tuple[str, str | None], agreed: bool
) -> None:
    """Numbers may differ by the model's tolerance. The first decision stands until the second differs."""
    give(store, "anna", first[0], 1, first[1], number)
    before = row(store, number)
    assert give(store, "ben", second[0], 1, second[1], number)[0]
    after = row(store, number)
    assert after.revision == 3
    if agreed:
        assert (after.status, after.reviewed_label, after.reviewer) == (first[0], before.reviewed_label, "anna")
    else:
        assert (after.status, after.reviewed_label, after.reviewer) == ("pending", None, None)
    found = opinion(store, number)
    assert found
    assert found["state"] == ("agreed" if agreed else "disputed")
    assert [one["reviewer"] for one in found["decisions"]] == ["anna", "ben"]
    with store.reading() as connection:
        history = connection.execute(sa.select(decisions).where(decisions.c.feedback_id == number)).all()
        in_dataset = [one["id"] for one in accepted_examples(connection, Selection(before.model))]
        pending = read_state(connection, lambda _: Tolerance()).pending
        assert count_decided(connection, 0.0, "ben", None) == 1
    assert [(one.reviewer, one.status, one.revision) for one in history] == [
        ("anna", first[0], 2), ("ben", second[0], 3),
    ]  # fmt: skip
    assert (number in in_dataset) is (agreed and first[0] == "accepted")
    assert sum(pending.values()) == 3 - (agreed and number < 4)


def test_a_dispute_is_settled_by_the_next_decision(store: Store) -> None:
    """A third reviewer is given it, the two are not unless they ask for disputed ones; an undo disputes it again."""
    give(store, "anna", "accepted", 1)
    give(store, "ben", "rejected", 1)
    disputed = PENDING._replace(second_opinion="disputed")
    for name, expected in (("anna", False), ("ben", False), ("cleo", True)):
        assert ("1" in {one["id"] for one in assign(store, name).corrections}) is expected
        store.execute(lambda connection, _: connection.execute(sa.text("DELETE FROM leases")))
        assert [one["id"] for one in assign(store, name, disputed).corrections] == ["1"]
        store.execute(lambda connection, _: connection.execute(sa.text("DELETE FROM leases")))
    give(store, "cleo", "rejected", 3)
    assert (row(store).status, opinion(store)["state"]) == ("rejected", "settled")  # type: ignore[index]
    give(store, "cleo", "pending", 4)
    assert (row(store).status, opinion(store)["state"]) == ("pending", "disputed")  # type: ignore[index]
    give(store, "anna", "accepted", 5)
    assert (row(store).status, opinion(store)["state"]) == ("accepted", "settled")  # type: ignore[index]
    assert asked(store, "dora") == []


@pytest.mark.parametrize("status", ["accepted", "rejected"])
def test_a_second_opinion_can_be_taken_back(store: Store, status: str) -> None:
    """The first decision stands again, and the reviewer still does not see it when deciding anew."""
    give(store, "anna", "accepted", 1, '"9"')
    before = row(store)
    _, document = give(store, "ben", status, 1, '"9"' if status == "accepted" else None)
    stored, document = give(store, "ben", "pending", document["revision"])
    assert stored
    assert (document["status"], document["label"], document["reviewer"]) == ("pending", "7", None)
    after = row(store)
    assert (after.status, after.reviewed_label, after.reviewer) == (before.status, '"9"', "anna")
    assert opinion(store)["state"] == "awaited"  # type: ignore[index]
    assert asked(store, "ben") == [1]
    stored, document = give(store, "ben", "rejected", document["revision"])
    assert (stored, document["status"], document["revision"]) == (True, "pending", 5)
    assert opinion(store)["state"] == "disputed"  # type: ignore[index]


def test_nobody_gives_a_second_opinion_on_a_decision_of_their_own(store: Store) -> None:
    """Neither the first reviewer, nor somebody without a name; both learn what stands, and nothing changes."""
    give(store, "anna", "accepted", 1)
    for reviewer, status in (("anna", "rejected"), (None, "rejected"), (None, "accepted"), ("ben", "pending")):
        stored, document = give(store, reviewer, status, 1)
        assert (stored, document["status"], document["revision"]) == (False, "accepted", 2)
    assert give(store, "anna", "accepted", 1)[0]  # the request was repeated
    assert opinion(store)["state"] == "awaited"  # type: ignore[index]
    give(store, "ben", "rejected", 1)
    assert give(store, "ben", "rejected", 1)[0]
    assert give(store, "cleo", "accepted", 1) == (False, give(store, "cleo", "rejected", 2)[1])
    assert row(store).revision == 3
    give(store, None, "accepted", 1, number=2)  # a decision without a name gets no second opinion
    assert opinion(store, 2) is None


def test_what_the_user_or_the_first_reviewer_changes_is_decided_anew(store: Store) -> None:
    """An opinion on what was changed is refused, and the correction can get another one."""
    give(store, "anna", "accepted", 1)
    give(store, "anna", "pending", 2)
    assert opinion(store) is None
    assert not give(store, "ben", "accepted", 1)[0]
    give(store, "anna", "rejected", 3)
    change = feedback.update().where(feedback.c.id == 1).values(status="pending", revision=5)
    store.execute(lambda connection, _: connection.execute(change))
    assert (opinion(store), asked(store, "ben")) == (None, [])
    assert not give(store, "ben", "accepted", 3)[0]
    give(store, "ben", "accepted", 5)
    assert asked(store, "cleo") == [1]


def test_several_decisions_in_a_transaction_follow_one_another(store: Store) -> None:
    """As if each were a request of its own."""

    def all_at_once(connection: sa.Connection, _: object) -> list[bool]:
        given = ("accepted", 1, "anna"), ("rejected", 1, "ben"), ("pending", 3, "ben"), ("accepted", 3, "ben")
        batch = [(1, Decision(status, None, revision, name)) for status, revision, name in given]
        return [stored for stored, _ in decide_all(connection, batch, {}, ALL)]

    assert store.execute(all_at_once) == [True] * 4
    assert (row(store).status, row(store).revision, opinion(store)["state"]) == ("accepted", 5, "agreed")  # type: ignore[index]


def test_the_share_is_that_of_all_corrections() -> None:
    """A tenth is a tenth, within chance, and a greater share has all of a smaller one."""
    tenth = {number for number in range(20_000) if is_chosen(number, 0.1)}
    assert 1_850 < len(tenth) < 2_150
    assert tenth < {number for number in range(20_000) if is_chosen(number, 0.2)}


def test_second_opinions_are_looked_up_by_their_identifiers(tmp_path: Any) -> None:
    """Neither those that are asked for nor the count of those in a state reads all decided corrections."""
    store = Store(StoreConfig(url=f"sqlite:///{tmp_path}/store.db"), lambda _: None)
    put(store, [{}] * 50)
    plans: list[list[str]] = []

    def explain(connection: sa.Connection, _: Any, text: str, parameters: Any, *__: Any) -> None:
        if text.startswith("SELECT") and "accepted" in map(str, parameters):
            driver: Any = connection.connection.dbapi_connection
            plans.append([step[3] for step in driver.execute(f"EXPLAIN QUERY PLAN {text}", parameters)])

    give(store, "anna", "accepted", 1)
    sa.event.listen(store._engine, "before_cursor_execute", explain)
    assert assign(store, "ben").blind == {"1"}
    with store.reading() as connection:
        assert count_among(connection, PENDING._replace(status="accepted"), in_state("awaited")) == 1
    store.close()
    assert len(plans) == 2
    assert all("rowid=?" in plan[0] for plan in plans), plans
