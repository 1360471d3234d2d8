"""What stands behind the review page: filters, orders, and the queue at a glance."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support.review_rows import START, pick, plans, predict, put, statements

from exporter.config import StoreConfig
from exporter.storage import Decision, Filter, Mix, PageStatistics, Position, Selection, Store, _review
from exporter.storage._database import feedback


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    store = Store(StoreConfig(url=f"sqlite:///{tmp_path}/store.db"), lambda _: None)
    yield store
    store.close()


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, {1, 2, 3, 4, 5, 9}),
        ({"joined": True}, {1, 2, 3, 4, 5}),
        ({"joined": True, "source": "all"}, {1, 2, 3, 4, 5, 6}),
        ({"joined": False}, {8, 9, 10, 11}),
        ({"model": "loans"}, {2}),
        ({"version": "2"}, {3}),
        ({"status": "accepted"}, {3}),
        ({"label": '"9"'}, {4}),
        ({"label": "9"}, {3, 4}),
        ({"predicted": '"4"'}, {4}),
        ({"segment": "NL"}, {5}),
        ({"source": "sample"}, {6}),
        ({"source": "all"}, {1, 2, 3, 4, 5, 6, 9}),
        ({"since": START + 3}, {3, 4, 5, 9}),
        ({"until": START + 3}, {1, 2}),
        ({"confidence_from": 0.95}, {4}),
        ({"confidence_to": 0.9}, {1, 2, 3, 9}),
        ({"q": "ADA"}, {1, 3}),
        ({"q": "100%_"}, {5}),
        ({"q": "%"}, {5}),
        ({"q": "_"}, {5}),
        ({"q": "P-4"}, {4}),
        ({"q": "teacher"}, {2}),
        ({"model": "digits", "status": "pending", "since": START + 2, "q": "ada"}, set()),
    ],
)
def test_each_filter_selects_its_corrections(store: Store, chosen: dict[str, Any], expected: set[int]) -> None:
    """Corrections are filtered by every field; search text is not a pattern."""
    put(
        store,
        [
            {"created": START + 1, "comment": "says Ada"},
            {"created": START + 2, "model": "loans", "user": "teacher-4"},
            {"created": START + 3, "version": "2", "status": "accepted", "label": "9", "inputs": '{"name":"ada"}'},
            {"created": START + 4, "prediction": '"4"', "reviewed_label": '"9"', "confidence": 0.97},
            {"created": START + 5, "segment": "NL", "comment": "100%_", "confidence": None},
            {"created": START + 6, "verdict": "sampled"},
            {"created": START + 7, "verdict": "accepted"},
            {"created": START + 8, "joined": False, "version": None},
            {"created": START + 9, "joined": False},
            {"created": START + 10, "joined": False, "verdict": "accepted", "version": None},
            {"created": time.time() - 60, "joined": False},
        ],
    )
    assert set(pick(store, **chosen)) == expected


@pytest.mark.parametrize("order", ["newest", "confident", "uncertain"])
def test_pages_hold_each_correction_once_in_order(store: Store, order: str) -> None:
    """Across ties and missing confidences, and while others are decided between two pages."""
    rng = random.Random(3)
    rows = [{"created": START + rng.randrange(5), "confidence": rng.choice([None, 0.8, 0.9, 1.0])} for _ in range(57)]
    put(store, rows)
    ids: list[int] = []
    after = None
    while True:
        page, after = store.review.page(Filter(), 10, after, order)
        ids += [int(correction["id"]) for correction in page]
        last = ids[-1]
        store.review.decide([(last, Decision("accepted", None, 1, None))], {}, 0)
        if after is None:
            break
    name = "created" if order == "newest" else "confidence"
    keys = [
        (-1.0 if rows[correction_id - 1][name] is None else rows[correction_id - 1][name], correction_id)
        for correction_id in ids
    ]
    assert len(ids) == 57
    assert keys == sorted(keys, reverse=order != "uncertain")


def test_every_page_uses_an_index(store: Store) -> None:
    """No page of a model's queue reads the whole table, or sorts more than a page, in any of these orders."""
    with statements() as found:
        for after in (None, Position(START, 5)):
            store.review.page(Filter("digits", status="pending"), 100, after, "newest")
            store.review.page(Filter("digits", source="all"), 100, after, "newest")
            store.review.page(Filter("digits", status="pending"), 100, after, "confident")
            store.review.page(Filter("digits"), 100, after, "confident")
            store.review.page(Filter("digits", status="pending"), 100, after, "uncertain")
    of_page = [one for one in found if "suspects" not in one[0]]
    for (statement, _), plan in zip(of_page, plans(store, of_page), strict=True):
        searches = [step for step, after in zip(plan, [*plan[1:], ""], strict=True) if "ORDER BY" not in after]
        small = sum("feedback_described" in step for step in plan)  # feedback without a prediction may be sorted
        indexed = sum("SEARCH feedback USING" in step and "feedback_described" not in step for step in searches)
        assert indexed + small == statement.count("FROM feedback \n")
        assert not any("SCAN feedback" in step for step in plan), plan


def glance(store: Store, chosen: Filter | None = None) -> PageStatistics:
    """Return the statistics of what a filter selects."""
    return store.review.statistics(chosen or Filter(), 0.0, None)


def test_the_summary_of_the_queue(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Confusions by the final label, counts over time, and the number of pending corrections; the newest of a model."""
    put(
        store,
        [
            *[{"created": START + 10 * n} for n in range(3)],
            {"created": START + 3600, "label": '"4"', "reviewed_label": '"7"', "status": "accepted"},
            {"created": START + 3600, "label": "true", "prediction": "3.5", "status": "rejected"},
            {"created": START + 3600, "label": json.dumps("long" * 100)},
        ],
    )
    seen = glance(store)
    assert seen.pairs == [("1", "7", 4), (3.5, True, 1)]
    assert [(start % 60, count) for start, count in seen.rates] == [(0, 3), (0, 3)]
    assert seen.rates[1][0] - seen.rates[0][0] == 3600
    assert seen.counts == {"accepted": 1, "pending": 4, "rejected": 1}
    refused = glance(store, Filter(status="rejected"))
    assert (refused.pairs, refused.counts) == ([(3.5, True, 1)], seen.counts)
    chosen = glance(store, Filter(predicted="3.5", label="true"))
    assert (chosen.pairs, sum(chosen.counts.values()), [count for _, count in chosen.rates]) == (seen.pairs, 1, [1])
    nothing = glance(store, Filter("loans"))
    assert nothing == ({"accepted": 0, "pending": 0, "rejected": 0}, [], 60, [], 0, 0, {}, 50_000)
    monkeypatch.setattr("exporter.storage._review.CHARTED", 2)
    newest = glance(store, Filter("digits"))
    assert [[row[-1] for row in rows] for rows in (newest.pairs, newest.rates)] == [[1], [2]]


@pytest.mark.parametrize(("hours", "step"), [(0, 60), (1, 60), (4, 300), (48, 3600), (47 * 24 + 1, 86400)])
def test_a_long_period_is_counted_in_long_steps(store: Store, hours: int, step: int) -> None:
    """A period of years has as many steps as an hour, each of a whole unit, and no correction is lost."""
    times = [START + 0.9 + hours * 3600 * n / 100 for n in range(101)]
    put(store, [{"created": time} for time in times])
    seen = glance(store)
    assert seen.step == step
    assert seen.rates == sorted(Counter(int(time // step) * step for time in times).items())


NUMBERS = [
    ("10.5", "12", None), ("10", "4e0", None), ("3", "2.5", "-7"), ("1", "1", None), ("1e3", "1200.0", None),
    ("7", '"8"', None), ('"yes"', "2", None), ("true", "2", None), (None, "5", None), ("1", "1e300", None),
    ("2026", '"2026-11-24"', None),
]  # fmt: skip
"""Predictions with the labels of a user and of a reviewer; the errors are 1.5, −6, −10, 0 and 200."""


def test_the_errors_of_numbers(database: str) -> None:
    """Label minus prediction: where both are numbers; filtered, ordered and counted on both databases."""
    with closing(Store(StoreConfig(url=database), lambda _: None)) as store:
        put(store, [{"prediction": p, "label": label, "reviewed_label": other} for p, label, other in NUMBERS[:9]])
        assert pick(store, error_from=-6.0) == [5, 4, 2, 1]
        assert pick(store, error_to=0.0) == [3, 2]
        assert pick(store, error_from=0.0, error_to=1.5) == [4]
        assert pick(store, order="error")[:5] == [5, 3, 2, 1, 4]
        assert len(pick(store, order="error")) == 9
        first, after = store.review.page(Filter(), 2, None, "error")
        second, _ = store.review.page(Filter(), 2, after, "error")
        assert [row["id"] for row in (*first, *second)] == ["5", "3", "2", "1"]
        chosen = Filter(error_from=0.0)
        assert sorted(store.review.errors(chosen)) == [-10.0, -6.0, 0.0, 1.5, 200.0]
        assert not len(store.review.errors(Filter("loans")))
        assert glance(store, chosen).counts["pending"] == 3
        put(store, [{"prediction": p, "label": label} for p, label, _ in NUMBERS[9:]])
        assert len(pick(store, order="error")) == 11


def test_undoing_restores_the_users_label(store: Store) -> None:
    """A correction that is pending again has no reviewer's label, and its history has every step."""
    put(store, [{}])

    def decided(status: str, label: str | None, revision: int) -> dict[str, Any]:
        ((stored, correction, _),) = store.review.decide([(1, Decision(status, label, revision, "ann"))], {}, 0)
        assert stored
        return correction or {}

    assert decided("accepted", '"8"', 1)["label"] == "8"
    assert decided("pending", None, 2)["label"] == "7"
    steps = [(step["status"], step["label"], step["reviewer"]) for step in store.review.history(1)[1:]]
    assert steps == [("accepted", "8", "ann"), ("pending", None, "ann")]


def test_a_scrape_reads_accuracy_from_indexes(store: Store) -> None:
    """Neither of its two queries reads the rows of all corrections."""
    predict(store, [{}])
    store.review.draw("digits", None, 1, None)
    with statements() as found:
        store.review.state()
    counts, turned = plans(store, [one for one in found if "feedback.confident" in one[0]])
    assert counts == ["SEARCH feedback USING COVERING INDEX feedback_known (model=? AND version=? AND confident=?)"]
    assert len(turned) == 1
    assert "USING INDEX feedback_relabelled" in turned[0]


def test_rare_rows_have_partial_indexes(store: Store) -> None:
    """Unjoined feedback, released examples and training data are found without reading other feedback."""
    with statements() as found:
        store.review.state()
        list(store.review.examples(Selection("digits"), Mix()))
        with store.reading() as connection:
            connection.execute(sa.select(feedback.c.prediction_id).where(~feedback.c.joined).limit(500))
    _, ready, unjoined, labels, released, _, _, examples, waiting = map(" ".join, plans(store, found))
    assert "feedback_described" in ready
    assert "USING COVERING INDEX feedback_queue (verdict=? AND joined=? AND status=?)" in unjoined
    assert "feedback_released" in released
    assert "COVERING INDEX" in labels
    assert "USING INDEX feedback_dataset (model=? AND id>?)" in examples
    assert "USING COVERING INDEX feedback_waiting" in waiting


def test_sampling_looks_feedback_up_by_prediction(store: Store) -> None:
    """However much feedback the model has, that on other predictions is not read."""
    predict(store, [{}, {}])
    with statements() as found:
        assert store.review.draw("digits", None, 2, None) == 2
    plan = plans(store, [one for one in found if one[0].startswith("SELECT feedback.prediction_id")])[0]
    assert plan == ["SEARCH feedback USING INDEX ix_feedback_prediction_id (prediction_id=?)"]


def alike(store: Store, **chosen: Any) -> dict[int, int]:
    """Return for how many others each correction on the first page stands."""
    page = store.review.page(Filter(**chosen), 1000, None, "uncertain").corrections
    return {int(document["id"]): document["alike"] for document in page}


TWINS: list[dict[str, Any]] = [
    {"confidence": 0.9, "inputs": '{"at":1}'},
    {"confidence": 0.8, "inputs": '{"at":2}'},
    {"confidence": 0.8, "inputs": '{"at":2}'},
    {"confidence": 0.8, "inputs": '{"at":2}', "label": '"3"'},
    {"confidence": 0.8, "inputs": '{"at":2}', "prediction": '"4"'},
    {"confidence": 0.8, "inputs": '{"at":2}', "model": "loans"},
    {"confidence": 0.8, "inputs": '{"at":3}'},
    {"confidence": 0.85, "inputs": '{"at":2}'},
    {"confidence": 0.8, "inputs": '{"at":2}', "version": "2"},
    {"confidence": 0.8, "inputs": None},
    {"confidence": 0.8, "inputs": None},
    {"confidence": None, "inputs": '{"at":2}'},
    {"confidence": 0.8, "inputs": '{"at":2}', "verdict": "sampled"},
    {"confidence": 0.8, "inputs": '{"at":2}', "verdict": "sampled"},
]
"""Of these, 3 and 9 are equal to 2."""


def test_equal_corrections_come_once(store: Store) -> None:
    """They have the same model, prediction, confidence, label and inputs; the first one stands for the others."""
    put(store, TWINS)
    assert alike(store, model="digits") == {12: 0, 2: 2, 4: 0, 5: 0, 7: 0, 10: 0, 11: 0, 8: 0, 1: 0}
    assert list(alike(store)) == [12, 2, 4, 5, 6, 7, 10, 11, 8, 1]
    assert pick(store, alike=2) == [9, 3]
    assert pick(store, alike=12) == []
    assert pick(store, alike=99) == []
    assert pick(store, order="uncertain", source="sample") == [13, 14], "each sample counts"
    assert alike(store, source="sample") == {13: 0, 14: 0}


def test_the_next_one_comes_when_the_first_is_decided(store: Store) -> None:
    """Each correction is seen sooner or later."""
    put(store, TWINS)
    store.review.decide([(2, Decision("accepted", None, 1, None))], {}, 0)
    assert alike(store, status="pending", model="digits")[3] == 1
    store.review.decide([(3, Decision("accepted", None, 1, None))], {}, 0)
    assert alike(store, status="pending", model="digits")[9] == 0
    assert alike(store, status="accepted") == {2: 1}
    assert list(alike(store, version="2")) == [9], "the first one of those that a filter selects"


def test_pages_have_each_group_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However its corrections lie between others; only some of those that follow are counted."""
    put(store, [{"confidence": 0.5, "inputs": f'{{"at":{number % 7}}}'} for number in range(40)])
    found: list[int] = []
    after = None
    while True:
        page, after = store.review.page(Filter(), 3, after, "uncertain")
        found += [int(document["id"]) for document in page]
        if after is None:
            break
    assert found == [1, 2, 3, 4, 5, 6, 7]
    assert alike(store)[1] == 5
    monkeypatch.setattr(_review, "MAX_ALIKE", 14)
    assert alike(store)[1] == 2
