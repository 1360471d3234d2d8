"""Samples of predictions for review, and the accuracy that they show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from support.batches import stored_batch
from support.review_rows import START, pick, predict, put, redact
from support.servers import eventually

from exporter.config import StoreConfig
from exporter.errors import StoreFullError
from exporter.stats.quality import IntervalEstimate, wilson
from exporter.storage import CountedFeedback, Decision, Filter, Store, _review
from exporter.storage._database import draws, feedback, history, predictions
from exporter.validation import Tolerance
from exporter.wire.events import Feedback, Prediction


@pytest.fixture
def counted() -> list[CountedFeedback]:
    return []


@pytest.fixture
def store(database: str, counted: list[CountedFeedback]) -> Iterator[Store]:
    """An empty store."""
    store = Store(StoreConfig(url=database), counted.append, redact=redact)
    yield store
    store.close()


@pytest.fixture
def sampling(database: str) -> Iterator[Store]:
    """An empty store that keeps the inputs of half of the predictions."""
    store = Store(StoreConfig(url=database, inputs="sampled:0.5"), lambda _: None)
    yield store
    store.close()


def test_a_sample_holds_only_confident_predictions_that_have_no_feedback(store: Store) -> None:
    """Predictions of another model, without confidence, not stored, or with feedback are not sampled."""
    predict(store, [{}, {}, {"confident": False}, {"prediction": None}, {"model": "loans"}, {"version": "2"}, {}])
    put(store, [{}, {"model": None, "version": None, "joined": False}])
    assert store.review.draw("digits", None, 1000, "ann") == 2
    corrections, _ = store.review.page(Filter(source="sample"), 10)
    history = store.review.history(int(corrections[0]["id"]))
    with store.reading() as connection:
        sizes = {row.version: row.confident for row in connection.execute(sa.select(draws))}
    assert {correction["prediction_id"] for correction in corrections} == {"p-6", "p-7"}
    assert bytes(corrections[0]["inputs"]) == b'{"age":1}'
    assert (corrections[0]["label"], corrections[0]["user_label"], corrections[0]["source"]) == ("1", None, "sample")
    assert [(step["verdict"], step["user"]) for step in history] == [("sampled", "ann")]
    assert sizes == {"1": 3, "2": 1}
    assert store.review.draw("digits", None, 1000, "ann") == 0
    assert store.review.state().pending == {"digits": 1}


def test_a_sample_can_be_limited_to_a_version_and_stored_inputs(sampling: Store) -> None:
    """Version and stored inputs limit the sample; an empty store gives none."""
    assert sampling.review.draw("digits", None, 5, None) == 0
    predict(sampling, [{"version": "2"}, {"inputs": None}, {}])
    assert sampling.review.draw("digits", "2", 5, None) == 1
    assert sampling.review.draw("digits", None, 5, None) == 1
    assert sampling.review.draw("digits", None, 5, None) == 0


def test_a_sample_for_which_there_is_no_room_is_refused(store: Store) -> None:
    """Nothing of it is stored, not even that it was drawn; with room for it, the same predictions can be drawn."""
    predict(store, [{}, {}])
    store.size.limit = 1000
    with pytest.raises(StoreFullError, match="nothing was stored"):
        store.review.draw("digits", None, 2, None)
    with store.reading() as connection:
        stored = [connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() for table in
                  (feedback, history, draws)]  # fmt: skip
    assert stored == [0, 0, 0]
    store.size.limit = None
    assert store.review.draw("digits", None, 2, None) == 2


def test_each_prediction_has_the_same_chance(store: Store) -> None:
    """Whatever gaps the retention left, the chi-square of 200 draws of 5 among 20 is below its 99.99% quantile."""
    predict(store, [{} for _ in range(400)])
    numbers = [*range(1, 6), 50, *range(200, 206), *range(390, 398)]
    names = [f"p-{number}" for number in numbers]
    store.write(lambda connection: connection.execute(predictions.delete().where(predictions.c.id.not_in(names))))
    drawn: Counter[str] = Counter()
    for _ in range(200):
        store.review.draw("digits", None, 5, None)
        with store.reading() as connection:
            drawn.update(connection.execute(sa.select(feedback.c.prediction_id)).scalars())
        store.write(lambda connection: connection.execute(feedback.delete()))
    assert drawn.total() == 1000
    assert sum((drawn[name] - 50) ** 2 / 50 for name in names) < 50


def test_feedback_on_a_sampled_prediction_counts_as_on_any_other(store: Store, counted: list[CountedFeedback]) -> None:
    """It is the prediction's first feedback, counts as one correction, and is pending; the sample no longer has it."""
    predict(store, [{}])
    store.review.draw("digits", None, 1, None)
    item = Feedback(prediction_id="p-1", verdict="corrected", label="7", user="u")
    result = store.submit_feedback([item], None).result()[0]
    assert (result.id, result.joined, result.repeat) == (1, True, False)
    assert store.submit_feedback([item], None).result()[0].repeat
    store.submit_feedback([Feedback(prediction_id="p-1", verdict="corrected", label="8", user="u")], None).result()
    assert [(feedback.correction, feedback.delay is not None) for feedback in counted] == [(True, True), (False, False)]
    assert store.review.state().pending == {"digits": 1}
    assert (pick(store), pick(store, source="sample")) == ([1], [])
    with store.reading() as connection:
        assert connection.execute(sa.select(feedback.c.sampled)).scalar() is True
    assert [step["verdict"] for step in store.review.history(1)] == ["sampled", "corrected", "corrected"]


def test_the_delay_of_feedback_that_came_before_its_prediction_is_zero(
    store: Store, counted: list[CountedFeedback]
) -> None:
    """Only the first feedback has a delay, and never a negative one."""
    for label in "78":
        store.submit_feedback([Feedback(prediction_id="e-1", verdict="corrected", label=label)], None).result()
    event = Prediction("digits", "e-1", "1", datetime.fromtimestamp(4e9, UTC), prediction="1", confidence=0.9)
    store.add(stored_batch([event], [True], [b""], START))
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
    assert store.review.state().accuracy_counts == {}
    assert store.review.draw("digits", None, 50, None) == 50
    assert store.review.state().accuracy_counts == {}
    ids = pick(store, source="sample")
    right, wrong = Decision("accepted", '"1"', 1, None), Decision("accepted", '"7"', 1, None)
    batch = [*((id_, right) for id_ in ids[:30]), *((id_, wrong) for id_ in ids[30:40])]
    store.review.decide([*batch, (ids[40], Decision("rejected", None, 1, None))], {}, 0)
    counts = store.review.state().accuracy_counts["digits", "1"]
    parts = (counts.population, counts.known, counts.known_right, counts.decided, counts.right, counts.pending)
    assert parts == (100, 7, 3, 40, 30, 9)
    assert counts.estimate().value == pytest.approx((3 + 93 * 0.75) / 100)


@pytest.mark.parametrize(("tolerance", "right"), [(Tolerance(), 2), (Tolerance(0.5), 4), (Tolerance(share=0.2), 5)])
def test_a_sampled_number_is_right_within_the_tolerance(database: str, tolerance: Tolerance, right: int) -> None:
    """A reviewer's label that the tolerance accepts, or that is the same number, makes a sampled prediction right."""
    with closing(Store(StoreConfig(url=database), lambda _: None, tolerances=lambda _: tolerance)) as store:
        labels = [None, "10", "10.5", "9.5", "12.0", "12.5", '"no"']
        predict(store, [{"prediction": "10.0"} for _ in labels])
        assert store.review.draw("digits", None, 50, None) == len(labels)
        ids = pick(store, source="sample")
        decisions = [Decision("accepted", label, 1, None) for label in labels]
        store.review.decide(list(zip(ids, decisions, strict=True)), {}, 0)
        counts = store.review.state().accuracy_counts["digits", "1"]
        assert (counts.decided, counts.right) == (len(labels), right)


CONFIDENCES = 1 - 0.3 * np.random.default_rng(5).beta(0.4, 1.2, 3000)
WRONG = np.random.default_rng(6).random(3000) < 1 - CONFIDENCES


def decided(store: Store) -> None:
    """Decide the pending samples as `WRONG` says."""
    is_wrong = feedback.c.prediction_id.in_([f"p-{n}" for n in np.flatnonzero(WRONG)])
    change = feedback.update().where(feedback.c.verdict == "sampled", feedback.c.status == "pending")
    label = sa.case((is_wrong, sa.literal('"7"')), else_=sa.null())
    store.write(lambda connection: connection.execute(change.values(status="accepted", reviewed_label=label)))


def estimate(store: Store, version: str = "1") -> IntervalEstimate:
    """The accuracy that the samples show."""
    return store.review.state().accuracy_counts["digits", version].estimate()


def confidences(values: Iterable[float | None]) -> list[dict[str, Any]]:
    """Predictions with these confidences, named from p-0 on."""
    return [{"id": f"p-{number}", "confidence": value} for number, value in enumerate(values)]


def test_all_draws_count_together(store: Store) -> None:
    """Their samples are one random sample of the predictions of the last draw."""
    predict(store, confidences(CONFIDENCES.tolist()))
    for count in (50, 100, 250):
        assert store.review.draw("digits", None, count, None, seed=count) == count
        decided(store)
    counts = store.review.state().accuracy_counts["digits", "1"]
    assert (counts.population, counts.known, counts.decided) == (3000, 0, 400)
    assert estimate(store) == pytest.approx(wilson(counts.right, 400))


def test_versions_without_samples_are_not_counted(sampling: Store) -> None:
    """A client may send many; versions that were drawn before keep up with what was predicted since."""
    predict(sampling, [{"version": "1"}, {"version": "2"}])
    assert sampling.review.draw("digits", None, 2, None) == 2
    predict(sampling, [{"version": str(n // 2), "inputs": None} for n in range(2, 40)], start=3)
    predict(sampling, [{"version": "99"}], start=99)
    assert sampling.review.draw("digits", None, 5, None) == 1
    with sampling.reading() as connection:
        sizes = {row.version: row.confident for row in connection.execute(sa.select(draws))}
    assert sizes == {"1": 3, "2": 3, "99": 1}


def test_feedback_that_comes_later_moves_a_prediction_to_the_known_ones(store: Store) -> None:
    """Whether it was sampled or not; decided samples of other predictions stay."""
    predict(store, confidences(CONFIDENCES.tolist()))
    store.review.draw("digits", None, 60, None)
    decided(store)
    before = store.review.state().accuracy_counts["digits", "1"]
    with store.reading() as connection:
        sampled = connection.execute(sa.select(feedback.c.prediction_id).limit(1)).scalar() or ""
        query = sa.select(predictions.c.id).where(predictions.c.id.not_in(sa.select(feedback.c.prediction_id)))
        other = connection.execute(query.limit(1)).scalar() or ""
    said = [Feedback(prediction_id=name, verdict="corrected", label="8") for name in (sampled, other)]
    store.submit_feedback(said, None).result()
    after = store.review.state().accuracy_counts["digits", "1"]
    assert (after.known, after.decided) == (2, before.decided - 1)


def test_a_draw_reads_a_bounded_number_of_rows(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends at the maximum, and with fewer predictions than asked for; the number of confident ones is estimated."""
    predict(store, confidences(CONFIDENCES.tolist()))
    monkeypatch.setattr(_review, "MIN_READ", 500)
    monkeypatch.setattr(_review, "MAX_READ", 1000)
    for count, found in ((90, 90), (700, 700), (2000, 1000)):
        assert store.review.draw("digits", None, count, None, seed=2) == found
        with store.reading() as connection:
            assert connection.execute(sa.select(draws.c.confident)).scalars().all() == [3000]
        store.write(lambda connection: connection.execute(feedback.delete()))


def test_the_estimate_is_unbiased(store: Store) -> None:
    """The mean of 20 estimates from 200 labels each is within four standard errors of the truth."""
    predict(store, confidences(CONFIDENCES.tolist()))
    estimates = []
    for number in range(20):
        for count in (40, 160):
            store.review.draw("digits", None, count, None, seed=count + number)
            decided(store)
        estimates.append(estimate(store))
        for table in (feedback, draws):
            store.write(lambda connection, table=table: connection.execute(table.delete()))
    values, truth = np.array([one.value for one in estimates]), 1 - WRONG.mean()
    assert abs(values.mean() - truth) < 3 * values.std() / np.sqrt(len(values))
    assert sum(one.lower <= truth <= one.upper for one in estimates) >= 15
