"""Datasets with predictions that users confirmed, and with ground truth: on both databases, with weights."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.review_rows import START, predict, put

from exporter.datasets import FORMATS, stored_pages
from exporter.datasets.release import make_release
from exporter.monitoring.quality import Scorer
from exporter.storage import ADDED, Selection, Store, _review
from exporter.wire.events import LabelEvent

NAME = frozenset({"name"})
BOTH = Selection("digits", include=ADDED)


def fill(store: Store) -> None:
    """Store 100 predictions: 10 corrected, 8 of them accepted, 4 sampled, 20 confirmed and 30 labelled, some twice."""
    stored = [{"time": START + n, "inputs": None if n == 60 else '{"age":1,"name":"Ada"}'} for n in range(1, 101)]
    predict(store, stored)
    predict(store, [{"model": "loans"}] * 5, 500)
    inputs = '{"age":1,"name":"Ada"}'
    rows: list[dict[str, Any]] = [
        {"status": "accepted" if n <= 8 else "pending", "reviewed": START + 500, "prediction_id": f"p-{n}"}
        for n in range(1, 11)
    ]
    rows += [
        {"verdict": "sampled", "sampled": True, "label": '"1"', "status": "accepted", "reviewed": START + 500}
        | {"prediction_id": f"p-{n}"}
        for n in range(11, 15)
    ]
    rows += [{"verdict": "accepted", "label": None, "prediction_id": f"p-{n}", "reviewed": None} for n in range(21, 41)]
    put(store, [{"inputs": inputs, "predicted": START + int(row["prediction_id"][2:]), **row} for row in rows])
    # p-1 to p-10 are corrected, p-11 sampled, p-36 to p-40 confirmed, and p-60 has no inputs.
    truth = [*range(1, 12), *range(36, 61)]
    events = [LabelEvent(f"p-{n}", model="digits", label="7" if n <= 40 else "1") for n in truth]
    assert store.record_labels(events).joined == len(truth)


def test_the_rows_have_the_mix_of_the_traffic(store: Store) -> None:
    """Each prediction is in once; the weights sum to the traffic, with as large a share of mistakes as labels show."""
    fill(store)
    rows = [example for page in stored_pages(store, BOTH, NAME)() for example in page]
    assert Counter(row.source for row in rows) == {"correction": 8, "sampled": 4, "confirmed": 15, "labelled": 26}
    assert len({row.prediction_id for row in rows}) == len({row.id for row in rows}) == len(rows)
    assert sum(row.weight for row in rows) == pytest.approx(100)
    mistakes = 8 + 92 * 7.5 / 27  # 7 of the 26 labelled rows are wrong
    assert {row.weight for row in rows if row.label == "7"} == {round(mistakes / 15, 6)}
    assert {row.weight for row in rows if row.label == "1"} == {round((100 - mistakes) / 38, 6)}
    assert {row.label for row in rows if row.source in {"confirmed", "sampled"}} == {"1"}
    assert {row.label for row in rows if row.source == "correction"} == {"7"}
    assert all(row.inputs == {"age": 1} for row in rows), "redacted inputs are in no row"


@pytest.mark.parametrize(
    ("include", "sources"),
    [
        ((), {"correction": 8, "sampled": 4}),
        (("confirmed",), {"correction": 8, "sampled": 4, "confirmed": 20}),
        (("labelled",), {"correction": 8, "sampled": 4, "labelled": 26}),
    ],
)
def test_a_release_says_what_it_is(store: Store, include: tuple[str, ...], sources: dict[str, int]) -> None:
    """Its lineage has its composition, the traffic and one sentence; its hash covers sources and weights."""
    fill(store)
    row = make_release(store, "digits", None, None, NAME, include=include).row
    lineage = json.loads(row["lineage"])
    assert lineage["sources"] == sources
    assert row["examples"] == sum(sources.values())
    content = b"".join(store.releases.chunks(row))
    assert hashlib.sha256(content).hexdigest() == row["sha256"]
    lines = [json.loads(line) for line in content.splitlines()]
    assert Counter(line["source"] for line in lines) == sources
    assert sum(lineage["weights"].values()) == pytest.approx(100 if include else 12)
    assert lineage["traffic"] == (100 if include else None)
    rows = ", ".join(f"{source} {number}" for source, number in sorted(sources.items()))
    mix = "weights give the mix of the 100 stored predictions; train on them together with earlier data."
    alone = "train on them together with earlier data, not alone."
    assert lineage["use"] == f"Rows: {rows}; {mix if include else alone}"
    with store.reading() as connection:
        released = connection.exec_driver_sql("SELECT count(*) FROM feedback WHERE released").scalar()
    assert released == 12, "only what was reviewed"


def test_without_a_confirmed_row_the_release_says_so(store: Store) -> None:
    """Nothing stands for the traffic, so all weights are 1."""
    predict(store, [{}] * 50)
    put(store, [{"status": "accepted", "reviewed": START}])
    lineage = json.loads(make_release(store, "digits", None, None, NAME, include=ADDED).row["lineage"])
    assert (lineage["weights"], lineage["traffic"]) == ({"correction": 1.0}, None)
    assert lineage["use"].endswith("not alone; there is no prediction to add as confirmed or labelled.")


def test_weights_are_limited(store: Store) -> None:
    """A few rows do not stand for all predictions, and the release says so; corrections do not vanish beside them."""
    predict(store, [{}] * 50)
    confirmed = {"verdict": "accepted", "label": None, "inputs": "{}", "reviewed": None}
    put(store, [{"status": "accepted", "reviewed": START, "inputs": "{}"}, confirmed])
    lineage = json.loads(make_release(store, "digits", None, None, NAME, include=ADDED).row["lineage"])
    assert lineage["weights"] == {"correction": 1.0, "confirmed": 5.0}
    assert "50 stored predictions (roughly, as no weight exceeds 5); train" in lineage["use"]


def test_labels_of_numbers_are_no_mistakes(store: Store) -> None:
    """Of a regression, each labelled row stands for as many predictions as a confirmed one."""
    predict(store, [{"inputs": "{}"}] * 50)
    assert store.record_labels([LabelEvent(f"p-{n}", model="digits", label=n) for n in range(1, 26)]).joined == 25
    store.write(lambda connection: connection.exec_driver_sql("UPDATE labels SET loss = id * 0.5"))
    rows = [example for page in stored_pages(store, BOTH, NAME)() for example in page]
    assert {row.weight for row in rows} == {2.0}


def test_of_very_many_rows_a_part_is_in(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of fewer rows still sum to the traffic."""
    monkeypatch.setattr(_review, "MAX_ADDED", 10)
    monkeypatch.setattr(_review, "MIN_LABELLED", 5)
    fill(store)
    rows = [example for page in stored_pages(store, BOTH, NAME)() for example in page]
    assert len(rows) < 35
    assert sum(row.weight for row in rows) == pytest.approx(100, abs=0.001)


def test_filters_apply_to_all_rows(store: Store) -> None:
    """A filter by label leaves the weights as they are; a correction is not labelled instead."""
    fill(store)
    chosen = BOTH._replace(labels=('"1"',))
    rows = [example for page in stored_pages(store, chosen, NAME)() for example in page]
    assert Counter(row.source for row in rows) == {"sampled": 4, "confirmed": 15, "labelled": 19}
    assert {row.weight for row in rows} == {round((92 - 92 * 7.5 / 27) / 38, 6)}
    assert not [*stored_pages(store, BOTH._replace(version="2"), NAME)()]


def test_each_format_has_source_and_weight(store: Store) -> None:
    """CSV and Parquet as columns, Label Studio in the data of a task."""
    fill(store)
    written = {name: form.write(stored_pages(store, BOTH, NAME), {}, Scorer()) for name, form in FORMATS.items()}
    files = {name: b"".join(parts) for name, parts in written.items()}
    expected = {"correction": 8, "sampled": 4, "confirmed": 15, "labelled": 26}
    table = pq.read_table(io.BytesIO(files["parquet"]))
    read = [
        [json.loads(line) for line in files["jsonl"].splitlines()],
        [*csv.DictReader(io.StringIO(files["csv"].decode(), newline=""))],
        table.to_pylist(),
    ]
    tasks = [task["data"] for task in json.loads(files["label-studio"])]
    read.append([{name: task[f"correction_{name}"] for name in ("source", "weight")} for task in tasks])
    assert str(table.schema.field("weight").type) == "double"
    for rows in read:
        assert Counter(row["source"] for row in rows) == expected
        assert sum(float(row["weight"]) for row in rows) == pytest.approx(100)
