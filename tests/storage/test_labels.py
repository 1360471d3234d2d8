"""Labels in the store, on both databases: they meet their predictions in either order, and count once."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from support.batches import stored_batch
from support.memory import allocating
from support.postgres import Postgres
from support.servers import eventually

from exporter.config import StoreConfig
from exporter.errors import StoreError, StoreFullError
from exporter.monitoring.quality import Scorer
from exporter.storage import Store
from exporter.storage import _predictions as stored_predictions
from exporter.storage._database import WAITING, labels, predictions
from exporter.storage._labels import LabelsResult
from exporter.wire.events import MAX_COMPARED, LabelEvent, LabelledPrediction, Prediction

DAY = 86400.0


class Exporter:
    """A store, and the labels that it counted."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.counted: list[LabelledPrediction] = []
        self.unusable: list[str] = []
        self.store = Store(
            StoreConfig(url=url, **settings),
            lambda _: None,
            on_labelled=self.counted.extend,
            on_unusable=self.unusable.extend,
            loss=lambda _model, _version, prediction, label: Scorer().loss(prediction, label),
        )

    def predict(
        self,
        *ids: str,
        model: str = "m",
        prediction: Any = "7",
        received: float | None = None,
        segment: str = "north",
        flush: bool = True,
    ) -> None:
        """Store predictions."""
        events = [Prediction(model, id=name, version="1", prediction=prediction, confidence=0.9) for name in ids]
        columns = [True] * len(ids), [b"{}"] * len(ids), received or time.time(), [segment] * len(ids)
        batch = stored_batch(events, *columns)
        assert self.store.add(batch) == 0
        if flush:
            assert self.store.flush(10)

    def label(self, *items: Any, model: str | None = None) -> LabelsResult:
        """Record labels, each an identifier and a label."""
        return self.store.record_labels([LabelEvent(name, label, model) for name, label in items])

    def rows(self, *conditions: sa.ColumnElement[bool]) -> list[Any]:
        """Rows of the table."""
        with self.store.reading() as connection:
            return list(connection.execute(sa.select(labels).where(*conditions).order_by(labels.c.id)).all())


Start = Callable[..., Exporter]


@pytest.fixture
def start() -> Iterator[Start]:
    """Makes exporters' stores, and closes them at the end."""
    with contextlib.ExitStack() as stack:

        def made(url: str, **settings: Any) -> Exporter:
            exporter = Exporter(url, **settings)
            stack.callback(exporter.store.close)
            return exporter

        yield made


def numbers(result: LabelsResult) -> tuple[int, ...]:
    """Accepted, joined, waiting, repeated, changed and rejected labels."""
    counts = (result.accepted, result.joined, result.waiting, result.repeated, result.changed)
    return (*counts, len(result.rejected))


def test_a_label_meets_its_prediction_in_either_order(database: str, start: Start) -> None:
    """Before or after, whatever the identifier's characters; each counts once, with what its prediction was."""
    exporter = start(database)
    early, late = "early \0 and \ud7ff模'%s\\", "late \0 and \ud7ff模'%s\\"
    exporter.predict(late)
    assert numbers(exporter.label((late, "7"), (early, "1"), ("never", "7"))) == (3, 1, 2, 0, 0, 0)
    exporter.predict(early)
    assert [(item.prediction, item.label, item.confidence, item.segment) for item in exporter.counted] == [
        ("7", "7", 0.9, "north"),
        ("7", "1", 0.9, "north"),
    ]
    assert all(item.replaced is None and 0 <= item.delay < 60 for item in exporter.counted)
    assert {row.label: row.loss for row in exporter.rows(labels.c.day != WAITING)} == {'"7"': 0.0, '"1"': 1.0}
    (waiting,) = exporter.rows(labels.c.day == WAITING)
    assert (waiting.prediction_id, waiting.model, waiting.loss) == ("never", None, None)
    assert numbers(exporter.label((late, "7"), (early, "1"), ("never", 7))) == (3, 2, 1, 3, 0, 0)
    assert len(exporter.counted) == 2


def test_a_text_with_nul_delays_nothing(database: str, start: Start) -> None:
    """PostgreSQL stores no NUL: a prediction from a training column with one, and a label, are stored without it."""
    exporter = start(database)
    exporter.predict("late", segment="no\0rth")
    assert numbers(exporter.label(("late", "a\0b"), ("early", "a\0b"), model="m")) == (2, 1, 1, 0, 0, 0)
    exporter.predict("early", segment="no\0rth")
    assert [(item.label, (item.segment or "")[-3:]) for item in exporter.counted] == [("a\0b", "rth")] * 2
    assert numbers(exporter.label(("late", "a\0b"), ("early", "7"), model="m")) == (2, 2, 0, 1, 1, 0)


def test_another_label_replaces_the_earlier_one(database: str, start: Start) -> None:
    """7, 7.0 and "7" are one label; a change says what it replaces, and in one request the later label wins."""
    exporter = start(database)
    exporter.predict("p")
    result = exporter.label(("p", "7"), ("p", 7.0), ("p", "8"), ("w", 1), ("w", 1), ("w", 2))
    assert numbers(result) == (6, 3, 3, 2, 2, 0)
    assert [(item.label, item.replaced) for item in exporter.counted] == [("8", None)]
    assert numbers(exporter.label(("p", "9"), ("w", "2"))) == (2, 1, 1, 1, 1, 0)
    assert [(item.label, item.replaced) for item in exporter.counted[1:]] == [("9", "8")]
    assert {row.label: row.loss for row in exporter.rows()} == {'"9"': 1.0, "2": None}


def test_a_label_is_of_the_named_model(database: str, start: Start) -> None:
    """Two services may use the same identifiers; without a model, the first prediction is meant."""
    exporter = start(database)
    exporter.predict("1", model="a", prediction="x")
    exporter.predict("1", model="b", prediction="y")
    assert numbers(exporter.label(("1", "y"), model="b")) == (1, 1, 0, 0, 0, 0)
    assert numbers(exporter.label(("1", "x"))) == (1, 1, 0, 0, 0, 0)
    assert numbers(exporter.label(("1", "x"), model="a")) == (1, 1, 0, 1, 0, 0)
    assert numbers(exporter.label(("1", "z"), model="c")) == (1, 0, 1, 0, 0, 0)
    assert [(item.model, item.label) for item in exporter.counted] == [("b", "y"), ("a", "x")]
    exporter.predict("1", model="a", prediction="x")
    assert len(exporter.rows(labels.c.day == WAITING)) == 1
    exporter.predict("1", model="c", prediction="z")
    assert exporter.counted[-1][:2] == ("c", "1")
    # A label that waits gets the model that a later one names.
    assert numbers(exporter.label(("2", "x"))) == (1, 0, 1, 0, 0, 0)
    assert numbers(exporter.label(("2", "x"), model="b")) == (1, 0, 1, 1, 0, 0)
    exporter.predict("2", model="a")
    assert [row.model for row in exporter.rows(labels.c.day == WAITING)] == ["b"]


def test_a_label_that_cannot_be_compared_is_refused(database: str, start: Start) -> None:
    """At once where the prediction is known, and the label before stands; else it does not count at the join."""
    exporter = start(database)
    exporter.predict("number", prediction=2.5)
    exporter.predict("failed", prediction=None)
    assert numbers(exporter.label(("number", "3.5"), ("early", "abc"), ("early failed", 1))) == (3, 1, 2, 0, 0, 0)
    result = exporter.label(("number", "abc"), ("number", "Infinity"), ("number", True), ("failed", 1), ("number", 4))
    assert [(item.index, item.pointer) for item in result.rejected] == [(n, "/label") for n in range(4)]
    assert result.rejected[0].detail == "expected a number, as its prediction is, got a string"
    assert result.rejected[1].detail == "is too far from its prediction, or one of the two is not finite"
    assert result.rejected[2].detail == "expected a number, as its prediction is, got a boolean"
    assert "no value to compare" in result.rejected[3].detail
    far = exporter.label(("number", 1e300), ("number", "1e300"), ("number", 10**400)).rejected
    assert {item.detail for item in far} == {result.rejected[1].detail}
    assert numbers(result) == (1, 1, 0, 0, 1, 4)
    exporter.predict("early", prediction=2.5)
    exporter.predict("early failed", prediction=None)
    assert exporter.unusable == ["early", "early failed"]
    assert [(item.label, item.replaced) for item in exporter.counted] == [("3.5", None), (4, "3.5")]
    assert {row.prediction_id: row.loss for row in exporter.rows()} == {
        "number": 1.5,
        "early": None,
        "early failed": None,
    }
    # A better label then counts as the first one.
    assert numbers(exporter.label(("early", 2.0))) == (1, 1, 0, 0, 1, 0)
    assert (exporter.counted[-1].label, exporter.counted[-1].replaced) == (2.0, None)


def test_long_predictions_are_not_read(database: str, start: Start) -> None:
    """A label is compared with at most 1,000 characters of JSON; an early one does not count at the join."""
    exporter = start(database)
    exporter.predict("longest", prediction="x" * 998)
    exporter.predict("long", prediction="x" * 999)
    exporter.predict(*(f"large-{n}" for n in range(300)), prediction="x" * 99_000)
    result = exporter.label(("longest", "a"), ("long", "a"), ("early", "a"))
    assert (numbers(result), result.rejected[0].index) == ((2, 1, 1, 0, 0, 1), 1)
    assert "longer than 1,000 characters" in result.rejected[0].detail
    exporter.predict("early", prediction="x" * 999)
    assert exporter.unusable == ["early"]
    assert [row.prediction for row in exporter.rows(labels.c.prediction_id == "early")] == [None]
    with allocating(5e6):
        assert len(exporter.label(*((f"large-{n}", "a") for n in range(300))).rejected) == 300


def test_the_longest_labels_that_wait_take_bounded_memory(database: str, start: Start) -> None:
    """The 2,000 labels of a group of predictions have 8 MB of text."""
    exporter = start(database)
    names = [f"p-{n}" for n in range(2000)]
    for first in range(0, 2000, 500):
        exporter.label(*((name, f"{name} ".ljust(MAX_COMPARED, "\U0001f600")) for name in names[first : first + 500]))
    with allocating(5e7):
        exporter.predict(*names)
        eventually(lambda: len(exporter.counted) == 2000, 15)


def test_labels_of_many_days_are_found(database: str, start: Start) -> None:
    """Whatever day the prediction arrived on; of several with one identifier, the first counts."""
    exporter = start(database)
    now = time.time()
    for day in (20, 7, 0):
        exporter.predict(f"p-{day}", "same", prediction=str(day), received=now - day * DAY)
    assert numbers(exporter.label(("p-20", "20"), ("p-7", "7"), ("p-0", "0"), ("same", "20"))) == (4, 4, 0, 0, 0, 0)
    assert [row.loss for row in exporter.rows()] == [0.0] * 4
    delays = sorted(item.delay // DAY for item in exporter.counted)
    assert delays == [0, 7, 20, 20]
    assert numbers(exporter.label(("same", "20"), ("p-7", "1"))) == (2, 2, 0, 1, 1, 0)


def test_the_time_of_a_label_gives_its_delay(database: str, start: Start) -> None:
    """From the prediction to the label's own time; a label before its prediction has none."""
    exporter = start(database)
    received = datetime(2026, 11, 24, 10, tzinfo=UTC).timestamp()
    exporter.predict("p", "q", received=received)
    times = [datetime(2026, 11, 25, 10, tzinfo=UTC), datetime(2026, 11, 24, 9, tzinfo=UTC)]
    exporter.store.record_labels([LabelEvent(name, "7", time=at) for name, at in zip("pq", times, strict=True)])
    assert [(item.predicted, item.delay) for item in exporter.counted] == [(received, DAY), (received, 0.0)]


def test_labels_outlive_their_predictions(database: str, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are deleted when they are as old as the retention themselves; until then they may be repeated or changed."""
    exporter = start(database, retention="1s")
    exporter.predict("old", prediction="7")
    assert numbers(exporter.label(("old", "7"), ("wait", "1"))) == (2, 1, 1, 0, 0, 0)
    with exporter.store.reading() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(predictions)).scalar() == 1
    exporter.store.write(lambda connection: connection.execute(predictions.delete()))
    assert numbers(exporter.label(("old", 7), ("old", "8"), ("wait", "1"))) == (3, 2, 1, 2, 1, 0)
    assert exporter.counted[-1][3:8] == ("7", 0.9, "north", "8", "7")
    yesterday = labels.update().where(labels.c.day > 0).values(day=labels.c.day - 1)
    exporter.store.write(lambda connection: connection.execute(yesterday))
    exporter.store.writer._sweep_at = 0.0
    time.sleep(1.1)
    exporter.predict("new")
    eventually(lambda: not exporter.rows())


def test_a_million_predictions_with_one_identifier_are_not_read(database: str, start: Start) -> None:
    """Nor do a thousand labels for it take more than one row."""
    exporter = start(database)
    for _ in range(10):
        exporter.predict(*["same"] * 1000)
    assert numbers(exporter.label(*(("same", str(n % 2)) for n in range(1000)))) == (1000, 1000, 0, 0, 999, 0)
    assert [(item.label, item.replaced) for item in exporter.counted] == [("1", None)]
    assert len(exporter.rows()) == 1


def test_many_waiting_labels_are_joined(database: str, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also more than are read for each group of predictions, and after a restart."""
    monkeypatch.setattr(stored_predictions, "SCANNED", 50)
    exporter = start(database)
    names = [f"p-{n}" for n in range(600)]
    assert numbers(exporter.label(*((name, "7") for name in names))) == (600, 0, 600, 0, 0, 0)
    exporter.predict(*names[:300])
    assert len(exporter.counted) == 300
    exporter.store.close()
    again = start(database)
    again.predict(*names[300:])
    assert len(again.counted) == 300
    assert not again.rows(labels.c.day == WAITING)


def test_labels_need_room_and_repeats_do_not(database: str, start: Start) -> None:
    """New labels are refused as a whole at the maximum size."""
    exporter = start(database, max_size="1MB")
    exporter.label(("p", "7"))
    sent = 0
    with pytest.raises(StoreFullError, match="the store has no room"):
        for sent in range(200):
            exporter.label(*((f"{sent}-{n}", "x" * 50) for n in range(500)))
    assert 0 < sent < 199
    assert not exporter.rows(labels.c.prediction_id == f"{sent}-0")
    assert numbers(exporter.label(("p", "7"), ("p", "8"))) == (2, 0, 2, 1, 1, 0)


def test_labels_of_a_failed_transaction_count_once(
    database: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A label counts when its commit is on disk, however often its call ran."""
    exporter = start(database)
    exporter.predict("p")

    def fail(_: sa.Connection) -> None:
        raise ValueError("this call fails")

    started, gate = threading.Event(), threading.Event()
    exporter.store.submit(lambda _: started.set() or gate.wait(5))
    assert started.wait(5)
    with ThreadPoolExecutor() as pool:
        good = pool.submit(exporter.store.record_labels, [LabelEvent("p", "7")])
        eventually(lambda: exporter.store.writer._jobs)
        bad = exporter.store.submit(fail)  # they share a commit, which fails; then each has its own
        gate.set()
        assert numbers(good.result(5)) == (1, 1, 0, 0, 0, 0)
    with pytest.raises(StoreError):
        bad.result(5)
    assert [(item.label, item.replaced) for item in exporter.counted] == [("7", None)]


def test_several_exporters_join_a_label_once(postgres: Postgres, start: Start) -> None:
    """A prediction may reach two exporters, and its label a third one."""
    url = postgres.url()
    first, second = start(url, replica="a"), start(url, replica="b")
    names = [f"p-{n}" for n in range(200)]
    first.label(*((name, "7") for name in names))
    for exporter in (first, second):
        exporter.predict(*names, flush=False)
    assert first.store.flush(10) and second.store.flush(10)
    assert len(first.counted) + len(second.counted) == 200
    assert numbers(second.label(*((name, "7") for name in names))) == (200, 200, 0, 200, 0, 0)
    assert len(second.rows()) == 200
