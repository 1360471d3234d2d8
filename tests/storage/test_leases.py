"""Leases of corrections in the database: one reviewer each, until they expire, whatever the clock does."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from support.review_rows import put
from support.reviewers import in_parallel

from exporter.config import StoreConfig
from exporter.errors import StoreError
from exporter.storage import Store
from exporter.storage.review import leases
from exporter.storage.review.corrections import Filter, count_among
from exporter.storage.review.decision import Decision
from exporter.storage.review.leases import Assigner, Lease, give_back, held_by_others, take_leases
from exporter.storage.review.review_decisions import decide

PENDING = Filter(status="pending")


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    """A store with ten corrections."""
    store = Store(StoreConfig(url=database), lambda _: None)
    put(store, [{}] * 10)
    yield store
    store.close()


def assign(store: Store, reviewer: str, limit: int = 4, seconds: float = 60.0) -> list[int]:
    lease = Lease(reviewer, seconds)
    return [int(document["id"]) for document in Assigner(lease, PENDING, limit, None).assign(store).corrections]


def test_each_reviewer_gets_other_corrections(store: Store) -> None:
    """A reviewer who asks again gets the same ones; others get the rest, and are told how many are left out."""
    assert assign(store, "anna") == assign(store, "anna") == [10, 9, 8, 7]
    assert assign(store, "ben") == [6, 5, 4, 3]
    assert assign(store, "cleo") == [2, 1]
    assert assign(store, "dora") == []
    with store.reading() as connection:
        others = held_by_others(connection, Lease("anna", 60))
        assert count_among(connection, PENDING, others) == 6
        assert count_among(connection, PENDING._replace(model="loans"), others) == 0


def test_reviewers_who_ask_at_the_same_moment_get_different_ones(store: Store) -> None:
    """Of five reviewers at once nobody gets what another has, and nothing is left over."""
    for _ in range(5):
        taken = in_parallel(*[lambda name=str(number): assign(store, name, 2) for number in range(5)])
        found = [correction for page in taken for correction in page]
        assert sorted(found) == list(range(1, 11)), taken
        store.execute(lambda connection, _: connection.execute(leases.leases.delete()))


def test_a_lease_ends_when_it_is_given_back_or_expires(store: Store) -> None:
    """One reviewer cannot end another's lease; a decision ends it, too."""
    held = assign(store, "anna")
    store.execute(lambda connection, _: give_back(connection, held, "ben"))
    assert not set(assign(store, "ben")) & set(held)
    store.execute(lambda connection, _: give_back(connection, held[:2], "anna"))
    assert set(held[:2]) <= set(assign(store, "cleo", 10))
    decision = Decision("accepted", None, 1, "anna")
    store.execute(lambda connection, _: decide(connection, held[2], decision, {}))
    with store.reading() as connection:
        assert held[2] not in connection.execute(sa.select(leases.leases.c.feedback_id)).scalars().all()
    assert assign(store, "anna", seconds=0.05) == [held[3]]
    time.sleep(0.1)
    assert held[3] in assign(store, "dora")


def test_a_renewal_returns_what_is_still_held(store: Store) -> None:
    """What another reviewer was given meanwhile, or decided, is not renewed; what nobody holds is taken."""
    held = assign(store, "anna", seconds=0.05)
    time.sleep(0.1)
    others = assign(store, "ben", 2)
    store.execute(lambda connection, _: decide(connection, held[3], Decision("rejected", None, 1, "ben"), {}))
    renewed, _ = store.execute(lambda connection, _: take_leases(connection, [*held, 99], Lease("anna", 60)))
    assert renewed == set(held) - set(others) - {held[3]}


@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_a_clock_that_is_set_never_keeps_corrections_from_others(
    store: Store, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    """After the clock is set forward or back, a lease lasts no longer than its time, and is never taken twice."""
    held = assign(store, "anna")
    now = leases._now
    monkeypatch.setattr(leases, "_now", lambda connection: now(connection) + step)
    assert assign(store, "ben") == held
    assert not set(assign(store, "anna")) & set(held)


def test_corrections_are_shown_though_nothing_can_be_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reviewer can read while the database takes no writes."""

    def fail(*_: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(store, "execute", fail)
    assert assign(store, "anna") == assign(store, "ben") == [10, 9, 8, 7]
