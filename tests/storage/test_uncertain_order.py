"""The queue in the order of the least confident predictions, in which equal corrections come once."""

from __future__ import annotations

from typing import Any

import pytest
from support.review_rows import pick, put

from exporter.storage import Decision, Filter, Store, _review


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
