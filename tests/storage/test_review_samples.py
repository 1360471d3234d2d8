"""Samples of predictions for review, and the accuracy that they show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
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
from exporter.stats.accuracy import IntervalEstimate, wilson
from exporter.stats.tolerance import Tolerance
from exporter.storage import CountedFeedback, Store
from exporter.storage._schema import draws, feedback, history, predictions
from exporter.storage.review import stratified_draw
from exporter.storage.review.correction_history import correction_history
from exporter.storage.review.correction_pages import list_corrections
from exporter.storage.review.corrections import Filter
from exporter.storage.review.decision import Decision
from exporter.storage.review.review_decisions import decide
from exporter.storage.review.review_samples import sample_for_review, store_sample
from exporter.storage.review.sample_strata import Strata, stored_strata
from exporter.storage.review.stratified_draw import Draw, draw, select_draw
from exporter.wire.events import Feedback, Prediction


@pytest.fixture
def counted() -> list[CountedFeedback]:
    return []


@pytest.fixture
def store(database: str, counted: list[CountedFeedback]) -> Iterator[Store]:
    """An empty store."""
    store = Store(StoreConfig(url=database), counted.append)
    yield store
    store.close()


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
    parts = (counts.population, counts.known, counts.known_right, counts.decided, counts.right, counts.pending)
    assert [sum(part) for part in parts] == [100, 7, 3, 40, 30, 9]
    assert counts.estimate().value == pytest.approx((3 + 93 * 0.75) / 100)


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
        assert (counts.reviewed, sum(counts.right)) == (len(labels), right)
    finally:
        store.close()


# --- strata ----------------------------------------------------------------------------------

CONFIDENCES = 1 - 0.3 * np.random.default_rng(5).beta(0.4, 1.2, 3000)
WRONG = np.random.default_rng(6).random(3000) < 1 - CONFIDENCES


def take(store: Store, count: int, seed: int) -> int:
    """Draw a sample with a seed."""
    with store.reading() as connection:
        sample = draw(connection, Draw("digits"), count, np.random.default_rng(seed), Tolerance())
    return store.execute(lambda connection, _: store_sample(store, connection, sample, None, redact))


def decided(store: Store, of: sa.ColumnElement[bool] | None = None) -> None:
    """Decide the pending samples as `WRONG` says."""
    is_wrong = feedback.c.prediction_id.in_([f"p-{n}" for n in np.flatnonzero(WRONG)])
    change = feedback.update().where(feedback.c.verdict == "sampled", feedback.c.status == "pending")
    change = change if of is None else change.where(of)
    label = sa.case((is_wrong, sa.literal('"7"')), else_=sa.null())
    store.execute(lambda connection, _: connection.execute(change.values(status="accepted", reviewed_label=label)))


def strata_of(store: Store, version: str = "1") -> Strata:
    """The strata of the last draw."""
    with store.reading() as connection:
        return stored_strata(connection.execute(select_draw("digits", version)).one())


def estimate(store: Store, version: str = "1") -> IntervalEstimate:
    """The accuracy that the samples show."""
    return store.review_state().accuracy_counts["digits", version].estimate()


def sampled(store: Store) -> list[float | None]:
    """The confidences of all samples."""
    with store.reading() as connection:
        query = sa.select(feedback.c.confidence).where(feedback.c.verdict == "sampled")
        return list(connection.execute(query).scalars())


def confidences(values: Iterable[float | None]) -> list[dict[str, Any]]:
    """Predictions with these confidences, named from p-0 on."""
    return [{"id": f"p-{number}", "confidence": value} for number, value in enumerate(values)]


def test_a_sample_has_more_of_where_mistakes_are_likely(store: Store) -> None:
    """The estimate weighs that: the accuracy is higher than the share of right samples."""
    predict(store, confidences(CONFIDENCES.tolist()))
    for count in (50, 100, 250):
        assert take(store, count, seed=count) == count
        decided(store)
    strata, counts = strata_of(store), store.review_state().accuracy_counts["digits", "1"]
    assert (sum(strata.confident), strata.seen, sum(counts.decided)) == (3000, 3000, 400)
    assert list(strata.confident) == counts.population
    ratios = np.array(counts.decided[:-1]) / counts.population[:-1]
    assert ratios[0] > 3 * ratios[-1]
    assert counts.decided[-1] == counts.population[-1] == 0
    weights, shares = np.array(counts.population[:-1]) / 3000, np.array(counts.right[:-1]) / counts.decided[:-1]
    assert counts.estimate().value == pytest.approx(weights @ shares)
    assert counts.estimate().value > sum(counts.right) / 400 + 0.015


def test_edges_of_earlier_draws_stay(store: Store) -> None:
    """A larger sample has more strata, each a part of an earlier one, in which earlier samples are random, too."""
    predict(store, confidences(CONFIDENCES.tolist()))
    sample_for_review(store, Draw("digits"), 14, None, redact)
    assert strata_of(store).edges == ()
    sample_for_review(store, Draw("digits"), 20, None, redact)
    few = strata_of(store).edges
    predict(store, [{"confidence": value} for value in np.linspace(0.9, 1, 3000).tolist()], start=4000)
    with store.reading() as connection:
        many = draw(connection, Draw("digits"), 200, np.random.default_rng(3), Tolerance()).versions["1"].edges
    assert few and set(few) < set(many)


def test_two_draws_at_the_same_time_share_their_edges(store: Store) -> None:
    """The second to be stored did not see the first; its strata are divided at the edges of both."""
    predict(store, confidences(CONFIDENCES.tolist()))
    rng = np.random.default_rng(1)
    with store.reading() as connection:
        samples = [draw(connection, Draw("digits"), count, rng, Tolerance()) for count in (300, 50)]
    for sample in samples:
        store.execute(lambda connection, _, one=sample: store_sample(store, connection, one, None, redact))
    edges = [set(sample.versions["1"].edges) for sample in samples]
    assert set(strata_of(store).edges or ()) == edges[0] | edges[1]
    assert sum(strata_of(store).confident) == 3000


@pytest.mark.parametrize("strata", [None, "{", '{"edges":[0.9,0.8],"confident":[1,1,1,1],"seen":4}', "[]"])
def test_the_draw_of_an_older_version_is_one_stratum(store: Store, strata: str | None) -> None:
    """Its samples were a plain random sample, whatever the confidences; what cannot be read is one stratum, too."""
    row = {"model": "digits", "version": "1", "time": START, "since": START, "confident": 1000, "strata": strata}
    store.execute(lambda connection, _: connection.execute(draws.insert().values(row)))
    right = {"verdict": "sampled", "status": "accepted"}
    put(store, [{**right, "confidence": [0.8, 0.99, None][n % 3]} for n in range(45)])
    wrong = {**right, "reviewed_label": '"7"'}
    put(store, [{**wrong, "prediction_id": f"w-{n}"} for n in range(5)])
    assert estimate(store) == pytest.approx(wilson(45, 50))
    predict(store, confidences(CONFIDENCES.tolist()))
    sample_for_review(store, Draw("digits"), 50, None, redact)
    assert len(strata_of(store).edges or ()) > 2
    assert sum(store.review_state().accuracy_counts["digits", "1"].decided) == 50


def test_versions_without_samples_are_not_counted(store: Store) -> None:
    """A client may send many; versions that were drawn before keep up with what was predicted since."""
    predict(store, [{"version": "1"}, {"version": "2"}])
    assert sample_for_review(store, Draw("digits"), 2, None, redact) == 2
    predict(store, [{"version": str(n // 2), "inputs": None} for n in range(2, 40)], start=3)
    predict(store, [{"version": "99"}], start=99)
    assert sample_for_review(store, Draw("digits", with_inputs=True), 5, None, redact) == 1
    with store.reading() as connection:
        sizes = {row.version: row.confident for row in connection.execute(sa.select(draws))}
    assert sizes == {"1": 3, "2": 3, "99": 1}


def test_predictions_without_a_confidence_are_a_stratum(store: Store) -> None:
    """It gets its part of the sample, and its mistakes count with its size; a regression has only this stratum."""
    predict(store, confidences(value if n % 2 else None for n, value in enumerate(CONFIDENCES.tolist())))
    predict(store, [{"id": f"r-{n}", "version": "2", "confidence": None} for n in range(1000)])
    assert sample_for_review(store, Draw("digits", "1"), 100, None, redact) == 100
    assert 20 < sampled(store).count(None) < 80
    assert strata_of(store).confident[-1] == 1500
    assert sample_for_review(store, Draw("digits", "2"), 50, None, redact) == 50
    assert strata_of(store, "2").edges == ()
    decided(store)
    assert estimate(store, "2") == pytest.approx(wilson(50, 50))


def test_deciding_the_surest_first_does_not_look_better_than_it_is(store: Store) -> None:
    """While a stratum has no decided sample, its accuracy may be anything: the interval contains the truth."""
    predict(store, confidences(CONFIDENCES.tolist()))
    sample_for_review(store, Draw("digits"), 100, None, redact)
    decided(store, feedback.c.confidence > np.median(CONFIDENCES))
    first = estimate(store)
    assert first.lower < 1 - WRONG.mean() - 0.1 < 0.9 < first.upper
    decided(store)
    assert estimate(store).lower > first.lower


def test_feedback_that_comes_later_moves_a_prediction_to_the_known_ones(store: Store) -> None:
    """In its stratum, and whether it was sampled or not; decided samples of other predictions stay."""
    predict(store, confidences(CONFIDENCES.tolist()))
    sample_for_review(store, Draw("digits"), 60, None, redact)
    decided(store)
    before = store.review_state().accuracy_counts["digits", "1"]
    with store.reading() as connection:
        query = sa.select(feedback.c.prediction_id).order_by(feedback.c.confidence).limit(1)
        lowest = connection.execute(query).scalar() or ""
        query = sa.select(predictions.c.id).where(predictions.c.id.not_in(sa.select(feedback.c.prediction_id)))
        surest = connection.execute(query.order_by(predictions.c.confidence.desc()).limit(1)).scalar() or ""
    store.record_feedback(
        [Feedback(prediction_id=name, verdict="corrected", label="8") for name in (lowest, surest)], None
    )
    after = store.review_state().accuracy_counts["digits", "1"]
    assert (after.known[0], sum(after.known), after.known[-2]) == (1, 2, 1)
    assert [before.decided[0] - 1, *before.decided[1:]] == after.decided


def test_a_draw_reads_a_bounded_number_of_rows(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more than the maximum, and where a stratum is short of predictions, four times as many as at first."""
    predict(store, confidences(CONFIDENCES.tolist()))
    read: list[int] = []
    monkeypatch.setattr(stratified_draw, "MIN_READ", 100)
    monkeypatch.setattr(stratified_draw, "STEP", 100)
    for most, times, count in ((3000, 1, 90), (3000, 4, 90), (500, 4, 700)):
        monkeypatch.setattr(stratified_draw, "MAX_READ", most)
        monkeypatch.setattr(stratified_draw, "MORE", times)
        with store.reading() as connection:
            sample = draw(connection, Draw("digits"), count, np.random.default_rng(2), Tolerance())
        read.append(len(sample.versions["1"].confidences))
        assert len(sample.versions["1"].seqs) == min(count, most)
    assert read[0] == 100 < read[1] <= 400 < read[2] == 500


def test_the_estimate_is_unbiased(store: Store) -> None:
    """The mean of 20 estimates from 200 labels each is within four standard errors of the truth."""
    predict(store, confidences(CONFIDENCES.tolist()))
    estimates = []
    for number in range(20):
        for count in (40, 160):
            take(store, count, seed=count + number)
            decided(store)
        estimates.append(estimate(store))
        for table in (feedback, draws):
            store.execute(lambda connection, _, table=table: connection.execute(table.delete()))
    values, truth = np.array([one.value for one in estimates]), 1 - WRONG.mean()
    assert abs(values.mean() - truth) < 3 * values.std() / np.sqrt(len(values))
    assert sum(one.lower <= truth <= one.upper for one in estimates) >= 15
