"""What stands behind the review page: filters, orders, the queue at a glance, samples and the accuracy they show."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support.servers import eventually

from exporter.config import StoreConfig
from exporter.errors import StoreFullError
from exporter.events import Feedback, Prediction
from exporter.stats.accuracy import estimate_accuracy, wilson
from exporter.storage import CountedFeedback, Store, prediction_rows
from exporter.storage.accepted_examples import Selection, accepted_examples
from exporter.storage.accuracy_counts import accuracy_counts
from exporter.storage.backlog import read_state
from exporter.storage.correction_history import correction_history
from exporter.storage.correction_stats import overview, read_errors
from exporter.storage.corrections import Filter, list_corrections
from exporter.storage.feedback_join import UnjoinedFeedback
from exporter.storage.review_decisions import Decision, decide
from exporter.storage.review_samples import Draw, _with_feedback, sample_for_review
from exporter.storage.schema import draws, feedback, history, predictions
from exporter.tolerance import Tolerance

START = 1_790_000_000.0
_ROW: dict[str, Any] = {
    "joined": True, "model": "digits", "version": "1", "predicted": START, "prediction": '"1"', "confidence": 0.9,
    "confident": True, "inputs": None, "segment": None, "verdict": "corrected", "label": '"7"', "user": None,
    "comment": None, "created": START, "updated": START, "counted": True, "status": "pending", "revision": 1,
    "reviewed_label": None,
}  # fmt: skip


@pytest.fixture
def counted() -> list[CountedFeedback]:
    return []


@pytest.fixture
def store(tmp_path: Path, counted: list[CountedFeedback]) -> Iterator[Store]:
    """An empty store."""
    store = Store(StoreConfig(url=f"sqlite:///{tmp_path}/store.db"), counted.append)
    yield store
    store.close()


def put(store: Store, rows: list[dict[str, Any]]) -> None:
    """Corrections, identified from 1 on."""
    full = [{"prediction_id": f"p-{number}", **_ROW, **row} for number, row in enumerate(rows, 1)]
    store.execute(lambda connection, _: connection.execute(feedback.insert(), full))


def predict(store: Store, rows: list[dict[str, Any]], start: int = 1) -> None:
    """Predictions, by default confident ones."""
    plain = {"day": 1, "model": "digits", "version": "1", "time": START, "received": START, "prediction": '"1"',
             "confidence": 0.9, "code": 200, "confident": True, "inputs": '{"age":1,"name":"Ada"}'}  # fmt: skip
    full = [{**plain, "id": f"p-{number}", **row} for number, row in enumerate(rows, start)]
    store.execute(lambda connection, _: connection.execute(predictions.insert(), full))


def pick(store: Store, order: str = "newest", **chosen: Any) -> list[int]:
    """Identifiers of the corrections that a filter leaves."""
    with store.reading() as connection:
        return [
            int(correction["id"]) for correction in list_corrections(connection, Filter(**chosen), 1000, None, order)[0]
        ]


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


@pytest.mark.parametrize("order", ["newest", "confident"])
def test_pages_hold_each_correction_once_in_order(store: Store, order: str) -> None:
    """Across ties and missing confidences, and while others are decided between two pages."""
    rng = random.Random(3)
    rows = [{"created": START + rng.randrange(5), "confidence": rng.choice([None, 0.8, 0.9, 1.0])} for _ in range(57)]
    put(store, rows)
    ids: list[int] = []
    after = None
    while True:
        with store.reading() as connection:
            page, after = list_corrections(connection, Filter(), 10, after, order)
        ids += [int(correction["id"]) for correction in page]
        last = ids[-1]
        store.execute(
            lambda connection, _, correction_id=last: decide(
                connection, correction_id, Decision("accepted", None, 1, None), {}
            )
        )
        if after is None:
            break
    name = "confidence" if order == "confident" else "created"
    keys = [
        (-1.0 if rows[correction_id - 1][name] is None else rows[correction_id - 1][name], correction_id)
        for correction_id in ids
    ]
    assert len(ids) == 57
    assert keys == sorted(keys, reverse=True)


def test_every_page_uses_an_index(store: Store) -> None:
    """No page of a model's queue reads the whole table, or sorts more than a page, in either order."""
    statements: list[tuple[str, Any]] = []
    with store.reading() as connection:
        sa.event.listen(connection, "before_cursor_execute", lambda *args: statements.append((args[2], args[3])))
        for after in (None, (START, 5)):
            list_corrections(connection, Filter("digits", status="pending"), 100, after, "newest")
            list_corrections(connection, Filter("digits", source="all"), 100, after, "newest")
            list_corrections(connection, Filter("digits", status="pending"), 100, after, "confident")
            list_corrections(connection, Filter("digits"), 100, after, "confident")
        for statement, values in statements.copy():
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
            searches = [step for step, after in zip(plan, [*plan[1:], ""], strict=True) if "ORDER BY" not in after]
            small = sum("feedback_described" in step for step in plan)  # feedback without a prediction may be sorted
            indexed = sum("SEARCH feedback USING" in step and "feedback_described" not in step for step in searches)
            assert indexed + small == statement.count("FROM feedback")
            assert not any("SCAN feedback" in step for step in plan), plan


def test_the_summary_of_the_queue(store: Store) -> None:
    """Confusions by the final label, counts over time, and the number of pending corrections."""
    put(
        store,
        [
            *[{"created": START + 10 * n} for n in range(3)],
            {"created": START + 3600, "label": '"4"', "reviewed_label": '"7"', "status": "accepted"},
            {"created": START + 3600, "label": "true", "prediction": "3.5", "status": "rejected"},
            {"created": START + 3600, "label": json.dumps("long" * 100)},
        ],
    )
    with store.reading() as connection:
        seen = overview(connection, Filter())
        assert seen.pairs == [("1", "7", 4), (3.5, True, 1)]
        assert [(start % 60, count) for start, count in seen.rates] == [(0, 3), (0, 3)]
        assert seen.rates[1][0] - seen.rates[0][0] == 3600
        assert seen.counts == {"accepted": 1, "pending": 4, "rejected": 1}
        refused = overview(connection, Filter(status="rejected"))
        assert (refused.pairs, refused.counts) == ([(3.5, True, 1)], seen.counts)
        chosen = overview(connection, Filter(predicted="3.5", label="true"))
        assert (chosen.pairs, chosen.counts["rejected"], sum(chosen.counts.values())) == (seen.pairs, 1, 1)
        assert [count for _, count in chosen.rates] == [1]
        nothing = overview(connection, Filter("loans"))
        assert nothing == ({"accepted": 0, "pending": 0, "rejected": 0}, [], 60, [])


@pytest.mark.parametrize(("hours", "step"), [(0, 60), (1, 60), (4, 300), (48, 3600), (47 * 24 + 1, 86400)])
def test_a_long_period_is_counted_in_long_steps(store: Store, hours: int, step: int) -> None:
    """A period of years has as many steps as an hour, each of a whole unit, and no correction is lost."""
    times = [START + 0.9 + hours * 3600 * n / 100 for n in range(101)]
    put(store, [{"created": time} for time in times])
    with store.reading() as connection:
        seen = overview(connection, Filter())
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
    store = Store(StoreConfig(url=database), lambda _: None)
    try:
        put(store, [{"prediction": p, "label": label, "reviewed_label": other} for p, label, other in NUMBERS[:9]])
        assert pick(store, error_from=-6.0) == [5, 4, 2, 1]
        assert pick(store, error_to=0.0) == [3, 2]
        assert pick(store, error_from=0.0, error_to=1.5) == [4]
        assert pick(store, order="error")[:5] == [5, 3, 2, 1, 4]
        assert len(pick(store, order="error")) == 9
        with store.reading() as connection:
            first, after = list_corrections(connection, Filter(), 2, None, "error")
            second, _ = list_corrections(connection, Filter(), 2, after, "error")
            assert [row["id"] for row in (*first, *second)] == ["5", "3", "2", "1"]
            chosen = Filter(error_from=0.0)
            assert sorted(read_errors(connection, chosen)) == [-10.0, -6.0, 0.0, 1.5, 200.0]
            assert not len(read_errors(connection, Filter("loans")))
            assert overview(connection, chosen).counts["pending"] == 3
        put(store, [{"prediction": p, "label": label} for p, label, _ in NUMBERS[9:]])
        assert len(pick(store, order="error")) == 11
    finally:
        store.close()


def test_undoing_restores_the_users_label(store: Store) -> None:
    """A correction that is pending again has no reviewer's label, and its history has every step."""
    put(store, [{}])

    def decided(status: str, label: str | None, revision: int) -> dict[str, Any]:
        return (
            store.execute(lambda connection, _: decide(connection, 1, Decision(status, label, revision, "ann"), {}))[1]
            or {}
        )

    assert decided("accepted", '"8"', 1)["label"] == "8"
    assert decided("pending", None, 2)["label"] == "7"
    with store.reading() as connection:
        steps = [(step["status"], step["label"], step["reviewer"]) for step in correction_history(connection, 1)[0][1:]]
    assert steps == [("accepted", "8", "ann"), ("pending", None, "ann")]


def test_a_scrape_reads_accuracy_from_indexes(store: Store) -> None:
    """Neither of its two queries reads the rows of all corrections."""
    predict(store, [{}])
    sample_for_review(store, Draw("digits"), 1, None, redact)
    statements: list[tuple[str, Any]] = []
    with store.reading() as connection:
        sa.event.listen(connection, "before_cursor_execute", lambda *args: statements.append((args[2], args[3])))
        accuracy_counts(connection, lambda _: Tolerance(0.5))
        _, counts, turned = (
            [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
            for statement, values in statements.copy()
        )
    assert counts == ["SEARCH feedback USING COVERING INDEX feedback_known (model=? AND version=? AND confident=?)"]
    assert len(turned) == 1
    assert "USING INDEX feedback_relabelled" in turned[0]


def test_rare_rows_have_partial_indexes(store: Store) -> None:
    """Unjoined feedback, released examples and training data are found without reading other feedback."""
    statements: list[tuple[str, Any]] = []
    with store.reading() as connection:
        sa.event.listen(connection, "before_cursor_execute", lambda *args: statements.append((args[2], args[3])))
        read_state(connection, lambda _: Tolerance())
        list(accepted_examples(connection, Selection("digits")))
        UnjoinedFeedback(connection, redact, lambda _: Tolerance(), store.size)
        _, ready, unjoined, released, _, labels, examples, waiting = (
            " ".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values))
            for statement, values in statements.copy()
        )
    assert "feedback_described" in ready
    assert "USING COVERING INDEX feedback_queue (verdict=? AND joined=? AND status=?)" in unjoined
    assert "feedback_released" in released
    assert "COVERING INDEX" in labels
    assert "USING INDEX feedback_dataset (model=? AND id>?)" in examples
    assert "USING COVERING INDEX feedback_waiting" in waiting


def test_a_correction_without_a_label_is_no_example(store: Store) -> None:
    """An earlier version stored them; with a reviewer's label they are examples."""
    put(store, [{"label": label, "reviewed_label": reviewed, "status": "accepted"}
                for label, reviewed in ((None, None), (None, '"2"'), ('"3"', None))])  # fmt: skip
    with store.reading() as connection:
        assert [row["id"] for row in accepted_examples(connection, Selection("digits"))] == [2, 3]


# --- samples ---------------------------------------------------------------------------------


def redact(_: str, inputs: str | None) -> str | None:
    return inputs and inputs.replace(',"name":"Ada"', "")


def test_a_sample_holds_only_confident_predictions_that_have_no_feedback(store: Store) -> None:
    """Predictions of another model, without confidence, not stored, or with feedback are not sampled."""
    predict(store, [{}, {}, {"confident": False}, {"prediction": None}, {"model": "loans"}, {"version": "2"}, {}])
    put(store, [{}, {"model": None, "version": None, "joined": False}])
    assert sample_for_review(store, Draw("digits"), 1000, "ann", redact) == 2
    with store.reading() as connection:
        corrections, _ = list_corrections(connection, Filter(source="sample"), 10, None)
        history = correction_history(connection, int(corrections[0]["id"]))[0]
        sizes = {row.version: row.confident for row in connection.execute(sa.select(draws))}
    assert {correction["prediction_id"] for correction in corrections} == {"p-6", "p-7"}
    assert bytes(corrections[0]["inputs"]) == b'{"age":1}'
    assert (corrections[0]["label"], corrections[0]["user_label"], corrections[0]["source"]) == ("1", None, "sample")
    assert [(step["verdict"], step["user"]) for step in history] == [("sampled", "ann")]
    assert sizes == {"1": 3, "2": 1}
    assert sample_for_review(store, Draw("digits"), 1000, "ann", redact) == 0
    assert store.review_state().pending == {"digits": 1}


def test_sampling_looks_feedback_up_by_prediction(store: Store) -> None:
    """However much feedback the model has, that on other predictions is not read."""
    statements: list[tuple[str, Any]] = []
    with store.reading() as connection:
        sa.event.listen(connection, "before_cursor_execute", lambda *args: statements.append((args[2], args[3])))
        assert _with_feedback(connection, "digits", ["p-1", "p-2"]) == set()
        plan = [
            row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statements[0][0]}", statements[0][1])
        ]
    assert plan == ["SEARCH feedback USING INDEX ix_feedback_prediction_id (prediction_id=?)"]


def test_a_sample_can_be_limited_to_a_version_and_stored_inputs(store: Store) -> None:
    """Version and stored inputs limit the sample; an empty store gives none."""
    assert sample_for_review(store, Draw("digits"), 5, None, redact) == 0
    predict(store, [{"version": "2"}, {"inputs": None}, {}])
    assert sample_for_review(store, Draw("digits", "2"), 5, None, redact) == 1
    assert sample_for_review(store, Draw("digits", None, with_inputs=True), 5, None, redact) == 1
    assert sample_for_review(store, Draw("digits"), 5, None, redact) == 1


def test_a_sample_for_which_there_is_no_room_is_refused(store: Store) -> None:
    """Nothing of it is stored, not even that it was drawn; with room for it, the same predictions can be drawn."""
    predict(store, [{}, {}])
    store.size.limit = 1000
    with pytest.raises(StoreFullError, match="nothing was stored"):
        sample_for_review(store, Draw("digits"), 2, None, redact)
    with store.reading() as connection:
        stored = [connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() for table in
                  (feedback, history, draws)]  # fmt: skip
    assert stored == [0, 0, 0]
    store.size.limit = None
    assert sample_for_review(store, Draw("digits"), 2, None, redact) == 2


def test_each_prediction_has_the_same_chance(store: Store) -> None:
    """Whatever gaps the retention left, the chi-square of 200 draws of 5 among 20 is below its 99.99 % quantile."""
    predict(store, [{} for _ in range(400)])
    numbers = [*range(1, 6), 50, *range(200, 206), *range(390, 398)]
    names = [f"p-{number}" for number in numbers]
    store.execute(lambda connection, _: connection.execute(predictions.delete().where(predictions.c.id.not_in(names))))
    drawn: Counter[str] = Counter()
    for _ in range(200):
        sample_for_review(store, Draw("digits"), 5, None, redact)
        with store.reading() as connection:
            drawn.update(connection.execute(sa.select(feedback.c.prediction_id)).scalars())
        store.execute(lambda connection, _: connection.execute(feedback.delete()))
    assert drawn.total() == 1000
    assert sum((drawn[name] - 50) ** 2 / 50 for name in names) < 50


def test_feedback_on_a_sampled_prediction_counts_as_on_any_other(store: Store, counted: list[CountedFeedback]) -> None:
    """It is the prediction's first feedback, counts as one correction, and is pending; the sample no longer has it."""
    predict(store, [{}])
    sample_for_review(store, Draw("digits"), 1, None, redact)
    item = Feedback(prediction_id="p-1", verdict="corrected", label="7", user="u")
    result = store.record_feedback([item], None)[0]
    assert (result.id, result.joined, result.repeat) == (1, True, False)
    assert store.record_feedback([item], None)[0].repeat
    store.record_feedback([Feedback(prediction_id="p-1", verdict="corrected", label="8", user="u")], None)
    assert [(feedback.correction, feedback.delay is not None) for feedback in counted] == [(True, True), (False, False)]
    assert store.review_state().pending == {"digits": 1}
    assert (pick(store), pick(store, source="sample")) == ([1], [])
    with store.reading() as connection:
        assert connection.execute(sa.select(feedback.c.sampled)).scalar() is True
        assert [step["verdict"] for step in correction_history(connection, 1)[0]] == [
            "sampled",
            "corrected",
            "corrected",
        ]


def test_the_delay_of_feedback_that_came_before_its_prediction_is_zero(
    store: Store, counted: list[CountedFeedback]
) -> None:
    """Only the first feedback has a delay, and never a negative one."""
    for label in "78":
        store.record_feedback([Feedback(prediction_id="e-1", verdict="corrected", label=label)], None)
    event = Prediction("digits", "e-1", "1", datetime.fromtimestamp(4e9, UTC), prediction="1", confidence=0.9)
    store.add(prediction_rows([event], [True], [b""], START))
    eventually(lambda: len(counted) == 2)
    assert [feedback.delay for feedback in counted] == [0.0, None]


def test_accuracy_from_feedback_and_a_decided_sample(store: Store) -> None:
    """Predictions with feedback count by their decision, the others by the sample; later ones do not count."""
    predict(store, [{} for _ in range(100)])
    put(
        store,
        [
            *[{} for _ in range(4)],  # wrong
            {"status": "rejected"},  # the user was wrong
            {"status": "accepted", "reviewed_label": '"1"'},  # and here, too
            {"verdict": "accepted"},
            {"verdict": "accepted", "predicted": 4e9},  # later than the draw
            {"verdict": "accepted", "confident": False},
        ],
    )
    assert store.review_state().accuracy_counts == {}
    assert sample_for_review(store, Draw("digits"), 50, None, redact) == 50
    assert store.review_state().accuracy_counts == {}
    ids = pick(store, source="sample")
    for correction_id in ids[:30]:
        store.execute(
            lambda c, _, correction_id=correction_id: decide(c, correction_id, Decision("accepted", '"1"', 1, None), {})
        )
    for correction_id in ids[30:40]:
        store.execute(
            lambda c, _, correction_id=correction_id: decide(c, correction_id, Decision("accepted", '"7"', 1, None), {})
        )
    store.execute(lambda c, _: decide(c, ids[40], Decision("rejected", None, 1, None), {}))
    counts = store.review_state().accuracy_counts["digits", "1"]
    assert (counts.population, counts.known, counts.known_right, counts.decided, counts.right) == (100, 7, 3, 40, 30)
    estimate = estimate_accuracy(counts.population, counts.known, counts.known_right, counts.decided, counts.right)
    assert estimate.value == pytest.approx((3 + 93 * 0.75) / 100)


@pytest.mark.parametrize(("tolerance", "right"), [(Tolerance(), 2), (Tolerance(0.5), 4), (Tolerance(share=0.2), 5)])
def test_a_sampled_number_is_right_within_the_tolerance(database: str, tolerance: Tolerance, right: int) -> None:
    """A reviewer's label that the tolerance accepts, or that is the same number, makes a sampled prediction right."""
    store = Store(StoreConfig(url=database), lambda _: None, tolerances=lambda _: tolerance)
    try:
        labels = [None, "10", "10.5", "9.5", "12.0", "12.5", '"no"']
        predict(store, [{"prediction": "10.0"} for _ in labels])
        assert sample_for_review(store, Draw("digits"), 50, None, redact) == len(labels)
        for correction_id, label in zip(pick(store, source="sample"), labels, strict=True):
            decision = Decision("accepted", label, 1, None)
            store.execute(lambda c, _, id_=correction_id, decision=decision: decide(c, id_, decision, {}))
        counts = store.review_state().accuracy_counts["digits", "1"]
        assert (counts.decided, counts.right) == (len(labels), right)
    finally:
        store.close()


def test_the_interval_covers_the_truth() -> None:
    """Of 2,000 samples of 50 from a model with 95 % accuracy, the nominal share of intervals covers it."""
    rng = random.Random(11)
    population, corrected = 10_000, 100  # the users found 100 of the mistakes
    wrong = 400
    truth = 1 - (corrected + wrong) / population
    hits = 0
    for _ in range(2000):
        right = sum(rng.random() >= wrong / (population - corrected) for _ in range(50))
        estimate = estimate_accuracy(population, corrected, 0, 50, right)
        hits += estimate.lower <= truth <= estimate.upper
    assert 0.92 < hits / 2000 < 0.99


def test_the_interval_at_its_ends() -> None:
    """With all right or all wrong, all known or none known, the interval stays within 0 to 1."""
    assert wilson(10, 10).upper == pytest.approx(1.0)
    assert wilson(0, 10).lower == pytest.approx(0.0)
    assert estimate_accuracy(5, 10, 7, 3, 3) == pytest.approx((0.7, 0.7, 0.7))
    assert estimate_accuracy(0, 0, 0, 4, 2)[0] == 0.5
