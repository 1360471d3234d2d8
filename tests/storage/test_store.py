"""The store on both databases: feedback, sizes, upgrades, and several exporters on one PostgreSQL."""

from __future__ import annotations

import contextlib
import logging
import re
import resource
import secrets
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from support.batches import stored_batch
from support.postgres import GUARDED, PASSWORD, Postgres
from support.reviewers import in_parallel
from support.servers import CONFIG, eventually, serving, write_config

from exporter.config import StoreConfig
from exporter.errors import StoreError
from exporter.features.json_inputs import pack_image
from exporter.profiles.sources import StoreSource
from exporter.server.model_files import load_monitors
from exporter.storage import CountedFeedback, Decision, Filter, Store, StoredPredictions
from exporter.storage import _database as migrations
from exporter.storage._database import (
    SCHEMA_VERSION,
    feedback,
    history,
    inputs,
    migrate,
    open_engine,
    predictions,
    schema_table,
    shown_url,
    write_beside,
)
from exporter.storage._postgresql import was_committed
from exporter.storage._predictions import InputsReader
from exporter.storage._redaction import open_redaction
from exporter.storage._retention import Retention, StoreSize
from exporter.validation import Tolerance
from exporter.wire.events import Feedback, LabelEvent, Prediction


class Exporter:
    """A store, and what it counted."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.counted: list[CountedFeedback] = []
        self.store = Store(StoreConfig(url=url, **settings), self.counted.append)

    def predict(
        self, *ids: str, inputs: bytes = b"{}", received: float | None = None, model: str = "m", **members: Any
    ) -> None:
        """Hand over predictions of a model."""
        events = [Prediction(model, name, "1", prediction="7", confidence=0.9, **members) for name in ids]
        batch = stored_batch(events, [True] * len(ids), [inputs] * len(ids), received or time.time())
        assert self.store.add(batch) == 0

    def say(self, name: str | None, label: str | None = "1", key: str | None = None, **members: Any) -> Any:
        """Correct a prediction."""
        said = Feedback(name, **{"verdict": "corrected", "label": label, **members})
        return self.store.submit_feedback([said], key).result()[0]

    def count(self, table: sa.Table, *conditions: sa.ColumnElement[bool]) -> int:
        """Rows of a table."""
        with self.store.reading() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(table).where(*conditions)).scalar_one()


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


@pytest.fixture
def pair(postgres: Postgres, start: Start) -> tuple[Exporter, Exporter]:
    """Two exporters on one PostgreSQL."""
    url = postgres.url()
    return start(url, replica="a"), start(url, replica="b")


# --- one exporter ----------------------------------------------------------------------------


def test_feedback_meets_its_prediction_in_either_order(database: str, start: Start) -> None:
    """Before or after, whatever the identifier's characters; each is counted once, for the model that one names."""
    exporter = start(database)
    names = ["late", "late \0 and \ud7ff模'%s\\"]
    assert [exporter.say(name.replace("late", "early")).joined for name in names] == [False, False]
    assert [exporter.say("n's", model=model).repeat for model in (None, "m", "m")] == [False, False, True]
    exporter.predict("n's", model="n")
    exporter.predict(*names, *(name.replace("late", "early") for name in names))
    assert exporter.store.flush(60)
    assert [exporter.say(name).joined for name in names] == [True, True]
    assert all(exporter.say(name).repeat for name in names)
    exporter.say("late", label="2")
    assert sum(verdict.correction for verdict in exporter.counted) == 4
    assert exporter.count(feedback, feedback.c.joined) == exporter.count(feedback) - 1 == 4
    assert exporter.store.review.state().pending == {"m": 4}


def test_a_prediction_is_found_by_its_alias(database: str, start: Start) -> None:
    """What names it by either, before or after it, is of one prediction, and is forgotten with it.

    An identifier is no alias, nor is what two predictions share; of one identifier, only the first one counts.
    """
    exporter = start(database)

    def label(*items: tuple[str, str]) -> Any:
        return exporter.store.record_labels([LabelEvent(name, text) for name, text in items])

    assert [exporter.say(*said).joined for said in (("b1", "1", "key"), ("a1", "2"), ("b2",))] == [False] * 3
    assert label(("b1", "x")).waiting + label(("a1", "y"), ("b2", "z")).waiting == 3
    for name in ("a1b1m", "a2b2m", "a3a1m", "a1c1m", "a1d1n", "a5s1m", "a4s1m", "a6s1n", "a6s1n"):
        exporter.predict(name[:2], alias=name[2:4], model=name[4])
    assert exporter.store.flush(60)
    assert [one.correction for one in exporter.counted] == [True, False, True]
    said = [exporter.say(*one.split()) for one in ("b1 1 key", "b1 3", "a1 4", "b2", "c1", "s1", "d1")]
    assert [one.prediction_id for one in said] == ["a1", "a1", "a1", "a2", "c1", "s1", "a1"]
    assert [(one.repeat, one.joined) for one in said[:4]] == [(True, True), (False, True), (False, True), (True, True)]
    assert [one.joined for one in said[4:]] == [False, False, True]
    assert (exporter.count(feedback), exporter.count(history)) == (5, 3)
    assert label(("b1", "y"), ("a2", "z")).repeated == 2
    found = [exporter.store.review.prediction(a[:2], a[3:] or None, {}) for a in ("b2", "d1", "s1 n", "c1", "s1 m")]
    known = [one and (one["id"], one["alias"], one["model"], one["label"]) for one in found]
    assert known == [("a2", "b2", "m", "z"), ("a1", "d1", "n", None), ("a6", "s1", "n", None), None, None]
    with open_redaction(StoreConfig(url=database)) as redaction:
        removed = redaction.forget(redaction.find_forgotten(None, "b2", None), dry_run=False)
    assert list(removed.values()) == [1, 1, 1, 0]


@pytest.mark.parametrize(("reviewed", "status"), [(1, "accepted"), (2, "accepted"), (2, "rejected")])
def test_a_decision_holds_for_what_was_reviewed(database: str, start: Start, reviewed: int, status: str) -> None:
    """Of feedback that named one prediction by both names, the later one is current, with its own decision and inputs.

    What a reviewer rejects counts no more, until the user corrects the prediction again.
    """
    exporter, decision = start(database), Decision(status, '"9"', 1, "ann")
    given: Any = {"prediction": "7", "inputs": msgspec.Raw(b"{}")}
    said = [Feedback(name, "m", "1", "corrected", text, **given) for name, text in (("alias", "1"), ("id", "3"))]
    exporter.store.submit_feedback(said, None).result()
    exporter.store.change(feedback.update().values(created=0.0))
    assert exporter.store.review.decide([(reviewed, decision)], {}, 0)[0].stored
    exporter.predict("id", alias="alias", inputs=b"")
    assert exporter.store.flush(60)
    (again,) = exporter.store.review.decide([(1, decision._replace(revision=2))], {}, 0)
    assert (again.stored, again.correction["label"]) == ((True, "9") if reviewed == 2 else (False, "3"))
    assert again.correction["inputs"] == msgspec.Raw(b"{}")
    assert sum(one.correction - bool(one.decided) for one in exporter.counted) == (status == "accepted")
    exporter.say("id", "5")
    assert sum(one.correction - bool(one.decided) for one in exporter.counted) == 1


@pytest.mark.parametrize("first", ["prediction", "feedback"])
def test_a_number_within_the_tolerance_accepts_the_prediction(database: str, first: str) -> None:
    """Whichever comes first, also if it is replaced before it counts; a key still means the same afterwards."""
    counted: list[CountedFeedback] = []
    tolerances = {"price": Tolerance(0.5), "share": Tolerance(share=0.1), "exact": Tolerance()}
    store = Store(StoreConfig(url=database), counted.append, tolerances=tolerances.__getitem__)
    cases: list[tuple[str, Any, Any, str]] = [
        ("price", 10.0, 10.5, "accepted"), ("price", 10, 9.5, "accepted"), ("price", 1.0, 1.50001, "corrected"),
        ("price", 10.0, "10.2", "accepted"), ("price", 10.0, "ten", "corrected"), ("price", None, 0.1, "corrected"),
        ("price", True, 1.2, "corrected"), ("price", "10 or so", 10, "corrected"), ("price", 1e22, 1e22, "accepted"),
        ("share", -200.0, -220, "accepted"), ("share", -200.0, -221, "corrected"), ("share", 0, 0.1, "corrected"),
        ("exact", 10.0, 10.0, "accepted"), ("exact", 10.0, 10.000001, "corrected"),
    ]  # fmt: skip
    expected = [verdict for *_, verdict in cases]

    def predict() -> None:
        for number, (model, prediction, *_) in enumerate(cases):
            event = Prediction(model, id=f"p{number}", version="1", prediction=prediction)
            store.add(stored_batch([event], [True], [b"{}"], time.time()))
        assert store.flush(60)

    def correct(key: str | None = None) -> list[str]:
        items = [Feedback(f"p{n}", verdict="corrected", label=label) for n, (_, _, label, _) in enumerate(cases)]
        results = store.submit_feedback(items, key).result()
        assert not any(result.conflict for result in results)
        return [result.verdict for result in results]

    try:
        if first == "feedback":
            store.submit_feedback([Feedback("p0", verdict="corrected", label=10.4)], None).result()
            correct()
        predict()
        assert correct("key") == expected
        verdicts = [entry.verdict for entry in counted]
        assert Counter(verdicts) == Counter(expected + ["accepted"] * (first == "feedback"))
        assert sum(entry.correction for entry in counted) == expected.count("corrected")
        assert len(store.review.page(Filter(), 100).corrections) == expected.count("corrected")
        if first == "prediction":
            tolerances["price"] = Tolerance()
            assert correct("key") == expected
    finally:
        store.close()


def test_predictions_are_stored_completely(database: str, start: Start) -> None:
    """However many fill a statement, each has its own labels, and they are in the order of the index."""
    exporter = start(database)
    moment = datetime(2026, 11, 24, 10, tzinfo=UTC)
    labels = [1, 1.0, True, "1", None, -0.5, 'modèle "é"']
    failed: dict[str, Any] = {"code": 500, "confidence": 0.5}
    events = [
        Prediction("m", f"{99 - n:02}\0", "2", moment if n % 2 else None, prediction=labels[n % 7], **failed)
        for n in range(75)
    ]
    inputs = [b"" if n % 3 else f'{{"n":{n}}}'.encode() for n in range(75)]
    batch = stored_batch(events, [bool(n % 2) for n in range(75)], inputs, 1e9, [f"s{n}" for n in range(75)])
    assert exporter.store.add(batch) == 0
    assert exporter.store.flush(60)
    names = ("id", "time", "received", "prediction", "confident", "inputs", "segment")
    with exporter.store.reading() as connection:
        reader, rows = InputsReader(connection), connection.execute(sa.select(predictions).order_by(predictions.c.seq))
        found = [{**row, "inputs": reader.text(row)} for row in rows.mappings().all()]
        stored = [tuple(row[name] for name in names) for row in found]
    spelt = ["1", "1.0", "true", '"1"', None, "-0.5", '"modèle \\"é\\""']
    assert stored == [
        (
            f"{99 - n:02}\ufffd",
            moment.timestamp() if n % 2 else 1e9,
            1e9,
            spelt[n % 7],
            bool(n % 2),
            None if n % 3 else f'{{"n":{n}}}',
            f"s{n}",
        )
        for n in reversed(range(75))
    ]


def test_a_key_is_taken_once(database: str, start: Start) -> None:
    """A retry is a repeat, before and after the join, other feedback and a restart; any other feedback is refused."""
    first = start(database)
    assert [first.say("p", "7", "k").repeat for _ in range(2)] == [False, True]
    first.predict("p")
    assert first.store.flush(60)
    assert [first.say("p", *said).repeat for said in (("7", "k"), ("1",))] == [True, False]
    first.store.close()
    again = start(database)
    assert again.say("p", "7", "k").repeat
    assert again.say("p", "2", "k").conflict
    assert [one.verdict for one in first.counted + again.counted] == ["accepted", "corrected"]
    assert [again.say("p", None, "v", verdict=one).conflict for one in ("accepted", "rejected")] == [False, True]


def test_a_request_with_a_reused_key_stores_nothing(database: str, start: Start) -> None:
    """Nothing is stored, not even the feedback before the one that differs."""
    exporter = start(database)
    names = [f"p-{number}" for number in range(20)]
    exporter.predict(*names, "new")
    assert exporter.store.flush(60)
    exporter.say(names[0])
    items = [Feedback(name, verdict="corrected", label="1") for name in names]
    assert [item.repeat for item in exporter.store.submit_feedback(items, "k").result()] == [True] + [False] * 19
    for other in (1, 19):
        items = [Feedback(name, verdict="corrected", label="1") for name in ["new", *names[1:]]]
        items[other].label = "2"
        assert [item.conflict for item in exporter.store.submit_feedback(items, "k").result()] == [True]
    assert exporter.count(feedback) == len(exporter.counted) == 20


def test_feedback_on_one_prediction_in_one_request_is_recorded_in_order(database: str, start: Start) -> None:
    """Of several in one request the last is current, each is in the history, and they are one correction."""
    exporter = start(database)
    exporter.predict("p", *(f"q-{number}" for number in range(40)))
    assert exporter.store.flush(60)
    corrections = [("p", a) for a in "122"] + [("early", a) for a in "12"] + [(f"q-{n}", "1") for n in range(40)]
    items = [Feedback(name, verdict="corrected", label=label) for name, label in [*corrections, ("p", "3")]]
    results = exporter.store.submit_feedback(items, "key").result()
    assert [item.repeat for item in results] == [False, False, True] + [False] * 43
    assert [item.joined for item in results] == [True] * 3 + [False] * 2 + [True] * 41
    assert len({item.id for item in results}) == exporter.count(feedback) == 42
    assert [results[0].id, results[3].id] == [results[-1].id, results[4].id]
    assert exporter.count(history) == 3  # what others replaced; the current feedback is not in the history
    assert exporter.count(feedback, feedback.c.prediction_id == "p", feedback.c.label == '"3"', feedback.c.counted) == 1
    assert exporter.count(feedback, feedback.c.prediction_id == "early", feedback.c.label == '"2"') == 1
    assert sum(verdict.correction for verdict in exporter.counted) == 41
    again = exporter.store.submit_feedback(items[:2], "key").result()
    assert [(item.id, item.repeat, item.conflict) for item in again] == [(results[0].id, True, False)] * 2
    assert exporter.count(feedback, feedback.c.label == '"3"') == 1


def test_old_predictions_are_deleted_and_feedback_is_kept(database: str, start: Start) -> None:
    """Old predictions are deleted with their inputs, whether newer ones have any or not; feedback keeps its own."""
    exporter = start(database, retention="1h")
    exporter.predict(*(f"old-{number}" for number in range(1500)), inputs=b'{"x":1}', received=time.time() - 7200)
    exporter.predict("new", inputs=b"")
    assert exporter.store.flush(60)
    exporter.say("old-3")
    exporter.store.writer._sweep_at = 0.0
    exporter.say("new")  # wakes the writer
    eventually(lambda: exporter.count(predictions) == 1)
    assert (exporter.count(inputs), exporter.count(feedback, feedback.c.inputs == '{"x":1}')) == (0, 1)


def test_feedback_without_a_prediction_is_deleted_unless_it_describes_it(database: str, start: Start) -> None:
    """After the retention its history is deleted with it, and its key can be used again.

    Feedback that describes its prediction no longer waits then, and stays in the review queue; it does not count.
    """
    exporter = start(database, retention="1s")
    described = Feedback("never", "m", "1", "corrected", "1", prediction="2", inputs=msgspec.Raw(b'{"a":1}'))
    exporter.store.submit_feedback([described], None).result()
    assert exporter.store.review.state().unjoined == {"m": 1}
    exporter.say("lost", key="k")
    exporter.say("lost", "2")
    time.sleep(1.1)
    exporter.store.writer._sweep_at = 0.0
    exporter.predict("new")  # wakes the writer
    eventually(lambda: exporter.count(feedback) == exporter.count(feedback, feedback.c.joined) == 1)
    assert [row["prediction_id"] for row in exporter.store.review.page(Filter(), 9).corrections] == ["never"]
    assert exporter.count(history) == len(exporter.counted) == 0
    assert not exporter.say("lost", key="k").repeat


def test_the_size_is_bounded(database: str, start: Start) -> None:
    """Beyond max_size the oldest predictions are deleted until the rest fits, and no more; feedback is kept."""
    exporter = start(database, max_size="4MiB")
    for block in range(10):
        noise = [f'{{"x":"{block}{block}{block}{secrets.token_urlsafe(1000)}"}}'.encode() for _ in range(1000)]
        events = [Prediction("m", f"p-{block}-{number}", "1", prediction="7") for number in range(1000)]
        assert exporter.store.add(stored_batch(events, [True] * 1000, noise, time.time())) == 0
        assert exporter.store.flush(60)
        if block == 0:
            exporter.say("p-0-0")
    settled = [-1]

    def steady() -> bool:
        exporter.store.writer._sweep_at = 0.0
        exporter.say("nobody", label=str(len(settled)))
        settled.append(exporter.count(predictions))
        return settled[-1] < 9000 and settled[-1] == settled[-2] == settled[-3]

    eventually(steady, 20, 0.3)
    assert settled[-1] > 1000
    with exporter.store.reading() as connection:
        assert connection.execute(sa.select(predictions.c.id).where(predictions.c.id == "p-9-999")).scalar()
    assert exporter.count(feedback, feedback.c.inputs.like('{"x":"000%')) == 1


def test_stored_predictions_are_read_for_profiling(database: str, start: Start) -> None:
    """Inputs of a model, with images as PNG, are the same in each pass, in the order of sequential identifiers."""
    exporter = start(database)
    images = [pack_image([[0, number % 256], [3, 16]]) for number in range(5000)]
    for first in range(0, 5000, 1000):
        for number in range(first, first + 1000):
            exporter.predict(f"p-{number:04}", inputs=msgspec.json.encode({"n": number, "image": images[number]}))
        assert exporter.store.flush(60)
    source = StoreSource(StoredPredictions(StoreConfig(url=database), "m", "1", time.time() - 3600), "m")
    for _ in range(2):
        batches = [batch.columns for batch in source.batches()]
        assert [n for columns in batches for n in columns["n"]] == list(range(5000))
        assert [image for columns in batches for image in columns["image"]] == images


def test_inputs_are_compressed_and_read_as_they_were_sent(database: str, start: Start) -> None:
    """With what a model's inputs have in common, each row is small; feedback and profiles have the JSON as it came."""
    exporter = start(database)
    texts = [f'{{"age": {number}, "income": {number}.50, "note": "caf\u00e9 é"}}'.encode() for number in range(1000)]
    for number, text in enumerate(texts[:600]):
        exporter.predict(f"p-{number}", inputs=text)
    assert exporter.store.flush(60)
    again = start(database, replica="b") if exporter.store.is_shared else exporter
    for number, text in enumerate(texts[600:], 600):
        again.predict(f"p-{number}", inputs=text)
    assert again.store.flush(10)
    with again.store.reading() as connection:
        size = connection.execute(sa.select(sa.func.sum(sa.func.length(inputs.c.data)))).scalar_one()
        assert connection.execute(sa.select(sa.func.sum(inputs.c.rows))).scalar() == 1000
    assert size < 45 * 1000
    source = StoreSource(StoredPredictions(StoreConfig(url=database), "m", "1", time.time() - 3600), "m")
    assert [age for batch in source.batches() for age in batch.columns["age"]] == list(range(1000))
    assert [exporter.say(f"p-{number}").joined for number in (3, 999)] == [True, True]
    with exporter.store.reading() as connection:
        found = connection.execute(sa.select(feedback.c.inputs).order_by(feedback.c.id)).scalars().all()
    assert found == [texts[3].decode(), texts[999].decode()]


def test_only_the_owner_reads_the_file(tmp_path: Path, start: Start) -> None:
    """The database and the files beside it that hold its data hold what users sent."""
    start(f"sqlite:///{tmp_path / 'new' / 'store.db'}").predict("a")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").glob("store.db*")}
    assert {modes[f"store.db{part}"] for part in ("", "-wal", "-shm")} == {0o600}


def test_a_database_error_does_not_show_the_password(postgres: Postgres) -> None:
    """The error of the profile command names the database, and no secret."""
    url = postgres.url().replace("postgres@", f"{GUARDED}:secret@")
    with pytest.raises(StoreError, match=r"^postgresql://guarded:\*\*\*@/test_\d+: m: cannot be read") as error:
        StoredPredictions(StoreConfig(url=url), "m", None, 0.0)
    assert "secret" not in str(error.value)


# --- upgrades --------------------------------------------------------------------------------


def shape(url: str) -> dict[str, Any]:
    """The columns, keys and indexes of a database's tables."""
    engine = open_engine(StoreConfig(url=url))
    inspector = sa.inspect(engine)
    tables = {}
    for table in inspector.get_table_names():
        columns = {column["name"]: (str(column["type"]), column["nullable"]) for column in inspector.get_columns(table)}
        key = inspector.get_pk_constraint(table)["constrained_columns"]
        tables[table] = columns, key, _indexes(engine, table)
    engine.dispose()
    return tables


def _indexes(engine: sa.Engine, table: str) -> list[Any]:
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            query = sa.text("SELECT indexdef FROM pg_indexes WHERE tablename = :table ORDER BY 1")
        else:  # reflection passes over indexes of expressions
            query = sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = :table ORDER BY 1")
        rows = connection.execute(query, {"table": table}).all()
    return [tuple("".join(str(part).split()).lower() for part in row) for row in rows]


def test_a_migration_is_atomic(database: str, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration that fails in the middle leaves the tables unchanged, and the database opens as before."""
    start(database).store.close()

    def failing(connection: sa.Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE feedback ADD COLUMN half TEXT")
        connection.exec_driver_sql("ALTER TABLE nothing ADD COLUMN half TEXT")

    before = shape(database)
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", {SCHEMA_VERSION + 1: failing})
        patch.setattr(migrations, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
        with pytest.raises(StoreError, match="nothing"):
            start(database)
    assert shape(database) == before
    assert not start(database).say("p").joined


def test_a_newer_database_is_refused(database: str, start: Start) -> None:
    """An exporter does not write into tables of a newer version."""
    exporter = start(database)
    exporter.store.write(lambda connection: connection.execute(schema_table.update().values(version=999)))
    exporter.store.close()
    with pytest.raises(StoreError, match="has schema 999, newer than this version understands"):
        start(database)


def test_exporters_that_start_together_migrate_once(
    database: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several exporters one creates the tables and one runs the migration; the others find it done."""
    assert len(in_parallel(*[lambda: migrate(StoreConfig(url=database))] * 4)) == 4
    ran = []

    def adding(connection: sa.Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE feedback ADD COLUMN another TEXT")
        ran.append(1)

    monkeypatch.setattr(migrations, "MIGRATIONS", {SCHEMA_VERSION + 1: adding})
    monkeypatch.setattr(migrations, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    in_parallel(*[lambda: migrate(StoreConfig(url=database))] * 4)
    assert ran == [1]
    assert "another" in shape(database)["feedback"][0]


# --- several exporters on one PostgreSQL -----------------------------------------------------


def test_feedback_may_reach_any_exporter(pair: tuple[Exporter, Exporter]) -> None:
    """Feedback that races with its prediction at another exporter is joined and counted once."""
    first, second = pair
    names = [f"p-{number}" for number in range(300)]

    def predict(exporter: Exporter, ids: list[str]) -> None:
        for name in ids:
            exporter.predict(name)
            time.sleep(0.002)

    in_parallel(
        lambda: predict(first, names[::2]),
        lambda: predict(second, names[1::2]),
        lambda: [second.say(name) for name in names[::2]],
        lambda: [first.say(name) for name in names[1::2]],
    )
    eventually(lambda: first.count(feedback, feedback.c.joined) == len(names))
    eventually(lambda: sum(verdict.correction for verdict in first.counted + second.counted) == len(names))


def test_a_prediction_is_corrected_once_whichever_exporter_records_it(pair: tuple[Exporter, Exporter]) -> None:
    """Two users at two exporters at the same time: one row of feedback, one of history, one correction."""
    first, second = pair
    names = [f"p-{number}" for number in range(40)]
    first.predict(*names)
    assert first.store.flush(60)
    for name in names:
        in_parallel(lambda name=name: first.say(name, "1"), lambda name=name: second.say(name, "2"))
    assert sum(verdict.correction for verdict in first.counted + second.counted) == len(names)
    assert (first.count(feedback), first.count(history)) == (len(names), len(names))


def test_a_key_is_taken_once_by_several_exporters(pair: tuple[Exporter, Exporter]) -> None:
    """The feedback of a request that a balancer sends twice is recorded once."""
    first, second = pair
    for number in range(40):
        answers = in_parallel(
            lambda n=number: first.say(f"p-{n}", key=f"k-{n}"), lambda n=number: second.say(f"p-{n}", key=f"k-{n}")
        )
        assert sorted(item.repeat for item in answers) == [False, True]
    assert (first.count(feedback), first.count(history)) == (40, 0)


def test_a_prediction_that_reaches_two_exporters_joins_once(pair: tuple[Exporter, Exporter]) -> None:
    """Waiting feedback is joined and counted by the first of them."""
    first, second = pair
    names = [f"p-{number}" for number in range(50)]
    for name in names:
        first.say(name)
    for name in names:
        in_parallel(lambda name=name: first.predict(name), lambda name=name: second.predict(name))
    assert first.store.flush(10)
    assert second.store.flush(10)
    assert len(first.counted + second.counted) == len(names)


def test_each_replica_has_its_own_windows(pair: tuple[Exporter, Exporter]) -> None:
    """Snapshots of the same version by two exporters do not overwrite each other, nor does one delete the other's."""
    for exporter, data in zip(pair, (b"a", b"b"), strict=True):
        exporter.store.snapshots.save("m", "1", data)
    pair[0].store.snapshots.delete_others({("m", "1")})
    assert [exporter.store.snapshots.load() for exporter in pair] == [[("m", "1", b"a")], [("m", "1", b"b")]]
    pair[1].store.snapshots.delete_others(set())
    assert [exporter.store.snapshots.load() for exporter in pair] == [[("m", "1", b"a")], []]


# --- addresses and passwords -----------------------------------------------------------------


def test_a_password_comes_from_a_file_and_is_never_shown(
    postgres: Postgres, start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file is read at each connection; neither a good nor a wrong password stands in any message."""
    caplog.set_level(logging.DEBUG)
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    url = postgres.url().replace("postgres@", f"{GUARDED}@")
    exporter = start(url, password_file=str(secret))
    assert not exporter.say("p").joined
    exporter.store._engine.dispose()
    secret.write_text("wrong word")
    with pytest.raises(StoreError, match="password authentication failed") as error:
        exporter.say("q")
    secret.unlink()
    with pytest.raises(StoreError, match=r"password_file: .* cannot be read: No such file"):
        exporter.say("q")
    secret.write_text(PASSWORD)
    assert not exporter.say("q").joined
    with pytest.raises(StoreError, match="password authentication failed") as at_start:
        start(url.replace(f"{GUARDED}@", f"{GUARDED}:wrong word@"))
    assert "wrong" not in f"{error.value}{at_start.value}{caplog.text}"
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ada:secret@db/x?password=secret", "postgresql://ada:***@db/x"),
        ("postgres://ada@db:5433/x", "postgresql://ada@db:5433/x"),
        ("sqlite:////data/x.db", "sqlite:////data/x.db"),
        ("mysql://ada:secret@db/x", "store.url"),
    ],
)
def test_a_shown_address_has_no_secret(url: str, shown: str) -> None:
    """An address in a message names the server and the database only."""
    assert shown_url(url) == shown


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ({"url": "mysql://ada:secret@db/x"}, "or postgresql://USER@HOST/DATABASE, got mysql://…"),
        ({"url": "postgresql+psycopg2://ada:secret@db/x"}, "got postgresql+psycopg2://…"),
        ({"url": "postgresql://ada:secret@db"}, "got no database"),
        ({"url": "secret"}, "store.url: expected sqlite:///PATH or postgresql://USER@HOST/DATABASE"),
        ({"url": "postgresql://a@db/x", "password_file": "no"}, "/no: cannot be read: No such file or directory"),
        ({"url": "postgresql://a@db/x", "password_file": "empty"}, "/empty: is empty; expected one line of text"),
        ({"url": "postgresql://a:secret@db/x", "password_file": "pw"}, "store.url has a password already"),
        ({"password_file": "pw"}, "store.password_file: needs a postgresql:// URL"),
    ],
)
def test_an_invalid_address_is_explained(tmp_path: Path, store: dict[str, str], message: str) -> None:
    """check-config names the key, and shows no password."""
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "pw").write_text("secret\n")
    path = write_config(tmp_path, {"models": [{"name": "m"}], "store": store})
    with pytest.raises(Exception, match="store") as error:
        load_monitors(path)
    assert message in str(error.value)
    assert "secret" not in str(error.value)


def test_a_database_of_another_encoding_is_refused(postgres: Postgres, start: Start) -> None:
    """A database that is not UTF-8 cannot store what clients send."""
    with postgres.connect() as connection:
        connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    with pytest.raises(StoreError, match="expected a database with the encoding UTF8, got LATIN1"):
        start(re.sub(r"/test_\d+", "/latin", postgres.url()))


# --- a database that fails -------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores wait for a server two seconds at most."""
    monkeypatch.setattr(migrations, "open_engine", lambda config, _seconds=0.0: open_engine(config, 2.0))


@pytest.mark.usefixtures("impatient")
def test_a_hanging_database_blocks_no_client(postgres: Postgres, start: Start) -> None:
    """Feedback is refused and a scrape fails in time; predictions wait; all continues when the server does."""
    exporter = start(postgres.url())
    exporter.say("before")
    postgres.freeze()
    try:
        begun = time.monotonic()
        with pytest.raises(StoreError):
            exporter.say("during")
        assert time.monotonic() < begun + 6
        exporter.predict("p")
        begun = time.monotonic()
        with pytest.raises(StoreError):
            exporter.store.review.state()
        assert time.monotonic() < begun + 5
    finally:
        postgres.thaw()
    eventually(lambda: exporter.count(predictions) == 1, 15)
    assert exporter.say("p").joined


def test_a_commit_without_a_response_is_looked_up(postgres: Postgres) -> None:
    """The server reports whether each transaction was committed, or that it does not know yet."""
    engine = open_engine(StoreConfig(url=postgres.url()))
    with engine.begin() as connection:
        committed = write_beside(connection)
        with engine.connect() as other, pytest.raises(StoreError, match="not ended yet"):
            was_committed(other, committed)
    with engine.connect() as connection:
        undone = write_beside(connection)
        connection.rollback()
        assert (was_committed(connection, committed), was_committed(connection, undone)) == (True, False)
    engine.dispose()


@pytest.mark.usefixtures("impatient")
def test_a_group_is_not_written_twice(postgres: Postgres, start: Start) -> None:
    """If the server freezes repeatedly during a write, each prediction is stored once."""
    exporter = start(postgres.url())
    stop = threading.Event()
    names = (f"p-{number}" for number in range(100_000))
    sent = []

    def load() -> None:
        while not stop.is_set():
            some = [next(names) for _ in range(10)]
            exporter.predict(*some)
            sent.extend(some)
            time.sleep(0.01)

    thread = threading.Thread(target=load)
    thread.start()
    for pause in (0.31, 0.37, 0.43):
        time.sleep(pause)
        postgres.freeze()
        time.sleep(3)  # longer than the exporter's patience
        postgres.thaw()
    stop.set()
    thread.join()
    assert exporter.store.flush(20)
    with exporter.store.reading() as connection:
        assert sorted(connection.execute(sa.select(predictions.c.id)).scalars()) == sorted(sent)


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    """Feedback is refused with the reason, losses are counted, and writing continues once there is space."""
    write_config(tmp_path, {**CONFIG, "store": {"url": "sqlite:///store.db"}})
    with serving(tmp_path) as server:
        assert server.post("/v1/feedback", {"prediction_id": "a", "verdict": "corrected", "label": "x"}).status == 201
        full = max(path.stat().st_size for path in tmp_path.glob("store.db*"))
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))
        feedback = [{"prediction_id": name, "verdict": "corrected", "label": "x" * 90_000} for name in "bcd"]
        refused = server.post("/v1/feedback", feedback, Idempotency_Key="b")
        assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
        assert refused.json["detail"].startswith("the database did not store it: d")  # the disk, or the database
        errors = "model_exporter_store_errors_total"
        assert server.samples(errors)[errors] >= 1
        event = {"model": "credit", "inputs": {"age": 41, "note": "x" * 1000}}
        assert server.post("/v1/predictions", [event] * 1000).status == 202
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert server.post("/v1/feedback", feedback, Idempotency_Key="b").status == 201
        with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as database:
            eventually(lambda: database.execute("SELECT count(*) FROM predictions").fetchone() == (1000,), 15)
        assert server.samples("model_exporter_events_dropped_total") == {"model_exporter_events_dropped_total": 0}


def test_deletion_keeps_up_with_what_is_written(database: str, start: Start) -> None:
    """On a busy machine steps are short; one still deletes twice what was written since the step before."""
    exporter = start(database, retention="1d")
    exporter.predict(*(f"p-{number}" for number in range(3000)), received=time.time() - 2 * 86400)
    assert exporter.store.flush(60)
    retention = Retention(StoreConfig(url=database, retention="1d"), StoreSize(None))
    retention._step = 10
    assert retention.sweep(exporter.store._engine, 1000)
    assert exporter.count(predictions) == 1000
