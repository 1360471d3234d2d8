"""Pending corrections ranked in the background, over both databases, and pages of the ranking."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from support.review_rows import START, put

from exporter.config import ModelConfig, StoreConfig
from exporter.monitoring.registry import MonitorRegistry
from exporter.server.tasks import input_vectors
from exporter.server.tasks.review_ranker import ReviewRanker
from exporter.storage import Store
from exporter.storage._schema import feedback, ranked
from exporter.storage.review import rankings
from exporter.storage.review.correction_pages import Position, list_corrections
from exporter.storage.review.corrections import Filter
from exporter.storage.review.decision import Decision
from exporter.storage.review.rankings import count_alike
from exporter.storage.review.review_decisions import decide_all


class Queue:
    """A store with a ranker, whose pause is over whenever `rank` is called."""

    def __init__(self, url: str) -> None:
        self.store = Store(StoreConfig(url=url), lambda _: None)
        models = {name: ModelConfig(name, redact=frozenset({"name"})) for name in ("digits", "loans")}
        self.ranker = ReviewRanker(self.store, lambda: MonitorRegistry(models, {}))

    def rank(self) -> None:
        for queue in self.ranker._queues.values():
            queue.due_at = 0.0
        self.ranker.refresh()

    def page(self, limit: int = 1000, after: Position | None = None, **chosen: Any) -> tuple[list[int], Any]:
        with self.store.reading() as connection:
            rows, end = list_corrections(connection, Filter(**chosen), limit, after, "informative")
        return [int(row["id"]) for row in rows], end

    def ids(self, **chosen: Any) -> list[int]:
        return self.page(**chosen)[0]

    def alike(self) -> dict[str, int]:
        with self.store.reading() as connection:
            return count_alike(connection, [{"id": id_} for id_ in self.ids(status="pending")])

    def decide(self, *ids: int, status: str = "accepted") -> None:
        batch = [(id_, Decision(status, None, 1, None)) for id_ in ids]
        self.store.execute(lambda connection, _: decide_all(connection, batch, {}))

    def count(self) -> int:
        with self.store.reading() as connection:
            return connection.execute(sa.select(sa.func.count(sa.distinct(ranked.c.ranking)))).scalar() or 0


@pytest.fixture
def queue(database: str) -> Iterator[Queue]:
    """An empty queue."""
    queue = Queue(database)
    yield queue
    queue.store.close()


def add(queue: Queue, rows: list[dict[str, Any]]) -> None:
    """Corrections whose inputs are a point."""
    put(queue.store, [{**row, "inputs": json.dumps({"at": row["inputs"]})} for row in rows])


def corners(*sizes: int) -> list[dict[str, Any]]:
    """Corrections around a corner each; the earlier a correction, the surer the model was."""
    rng = np.random.default_rng(1)
    points = [np.eye(6)[corner] + rng.normal(0, 0.05, (size, 6)) for corner, size in enumerate(sizes)]
    return [
        {"inputs": point.tolist(), "created": START + index, "confidence": 0.9 - 0.001 * index}
        for index, point in enumerate(np.vstack(points))
    ]


def test_the_first_of_each_cluster_come_first(queue: Queue) -> None:
    """Three clusters of 30, 3 and 2 corrections have one place each among the first three; each comes once."""
    add(queue, corners(30, 3, 2))
    queue.rank()
    ids = queue.ids(status="pending")
    assert {0 if id_ <= 30 else 1 if id_ <= 33 else 2 for id_ in ids[:3]} == {0, 1, 2}
    assert sorted(ids) == list(range(1, 36))
    assert ids != queue.ids(status="pending", model="loans") == []


def test_one_correction_stands_for_those_like_it(queue: Queue) -> None:
    """Equal inputs with the same prediction and label are one group, listed by the correction that stands for it."""
    rows = corners(20, 1)
    twins = [{**rows[0], "created": START + 50 + n} for n in range(4)]
    add(queue, [*rows, *twins, {**rows[0], "label": '"3"'}, {**rows[0], "verdict": "sampled", "label": '"1"'}])
    queue.rank()
    alike = queue.alike()
    (leader,) = (id_ for id_, count in alike.items() if count == 4)
    assert set(alike) == {leader}
    group = {1, 22, 23, 24, 25}
    assert set(queue.ids(alike=int(leader))) | {int(leader)} == group
    ids = queue.ids(status="pending")
    assert set(ids[-4:]) == group - {int(leader)}
    assert 26 in ids, "another label is not like it"
    assert queue.ids(source="sample") == [27]
    queue.decide(*sorted(group - {int(leader)})[:2])
    assert queue.alike() == {leader: 2}


def test_pages_stay_as_they_are_while_others_decide(queue: Queue) -> None:
    """A new ranking and new corrections change no page of the one before; each correction comes once."""
    add(queue, corners(30, 30))
    queue.rank()
    first, after = queue.page(20, status="pending")
    expected = queue.ids(status="pending")
    queue.decide(*first)
    add(queue, [{**row, "prediction_id": f"later-{number}"} for number, row in enumerate(corners(5))])
    queue.rank()
    second, after = queue.page(20, after, status="pending")
    third, after = queue.page(20, after, status="pending")
    fourth, after = queue.page(20, after, status="pending")
    assert second + third == expected[20:]
    assert sorted(fourth) == list(range(61, 66))
    assert after is None
    assert queue.ids(status="pending") != second + third + fourth, "the first page has the new ranking"


def test_a_page_of_a_deleted_ranking_begins_again(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Corrections may come twice then, but none is left out."""
    monkeypatch.setattr(rankings, "KEPT", 1)
    add(queue, corners(30))
    queue.rank()
    _, after = queue.page(20)
    add(queue, [{**row, "prediction_id": "later"} for row in corners(1)])
    queue.rank()
    assert queue.count() == 1
    assert sorted(queue.page(1000, after)[0]) == list(range(1, 32))


def test_corrections_without_a_place_come_last_the_newest_first(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are new, decided, or beyond the ranking's length have no place in it."""
    assert queue.ids() == []
    monkeypatch.setattr(rankings, "MAX_ROWS", 5)
    add(queue, corners(9))
    assert queue.ids() == list(range(9, 0, -1)), "before the first ranking"
    queue.rank()
    ids = queue.ids()
    assert ids[5:] == sorted(ids[5:], reverse=True)
    paged, after = [], None
    while True:
        page, after = queue.page(2, after)
        paged += page
        if after is None:
            break
    assert paged == ids


def test_it_is_ranked_again_only_when_it_should(queue: Queue) -> None:
    """New corrections, and decisions on half of the first ones, are a reason; a single decision is none."""
    queue.rank()
    assert queue.count() == 0
    add(queue, corners(20))
    queue.rank()
    queue.rank()
    assert queue.count() == 1
    queue.decide(1)
    queue.rank()
    assert queue.count() == 1
    queue.decide(*range(2, 12))
    queue.rank()
    assert queue.count() == 2
    add(queue, [{**row, "prediction_id": "later"} for row in corners(1)])
    queue.ranker.refresh()
    assert queue.count() == 2, "not before its pause is over"
    queue.rank()
    assert queue.count() == 3


def test_inputs_of_any_size_and_kind_are_ranked(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unreadable, missing and very long inputs have a place as well, and redacted ones have no influence."""
    monkeypatch.setattr(input_vectors, "CHARACTERS", 2000)
    inputs = [None, "{", "[]", '{"at": "x"}', json.dumps({"text": "a" * 1900}), json.dumps({"text": "b" * 3000}),
              '{"name":"Ada","age":1}', '{"name":"Bob","age":1}']  # fmt: skip
    put(queue.store, [{"inputs": text, "created": START + index} for index, text in enumerate(inputs)])
    queue.rank()
    assert sorted(queue.ids()) == list(range(1, 9))
    pair = next(int(leader) for leader in queue.alike() if int(leader) in {7, 8})
    assert {pair, *queue.ids(alike=pair)} >= {7, 8}


def test_what_took_too_long_follows_in_the_next_ranking(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs beyond the time for them have no place in this ranking, and one in a later one."""
    monkeypatch.setattr(input_vectors, "ENCODING_SECONDS", -1.0)
    add(queue, corners(20))
    queue.rank()
    assert queue.count() == 0
    monkeypatch.setattr(input_vectors, "ENCODING_SECONDS", 20.0)
    queue.rank()
    assert queue.count() == 1


def test_decided_corrections_make_those_like_them_less_urgent(queue: Queue) -> None:
    """After decisions in one cluster, the next ranking begins with the others."""
    add(queue, corners(20, 20, 20))
    queue.decide(1, 2, 3, status="rejected")
    queue.rank()
    assert all(id_ > 20 for id_ in queue.ids(status="pending")[:2])
    with queue.store.reading() as connection:
        pending = connection.execute(sa.select(sa.func.count()).where(feedback.c.status == "pending")).scalar()
    assert len(queue.ids(status="pending")) == pending
