"""Slices of archived predictions: those of the same predictions while they were in the database."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from support.batches import stored_batch
from support.flights import COUNT, events, is_planted, write_model

from exporter.config import ModelConfig, StoreConfig
from exporter.monitoring.binner import Binner
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.profiles.profile import load
from exporter.slices import Of, population
from exporter.slices.explain import Explanation, SliceQuery, explain
from exporter.slices.population import ArchivedPredictions, Population, read_population
from exporter.slices.recorder import BinRecorder
from exporter.storage import Archive, ArchiveFilter, Store, archive
from exporter.storage import _archive as parquet_buffer
from exporter.storage._bins import BlockFilter
from exporter.storage._schema import bin_codes, labels, late_labels
from exporter.wire.events import Feedback, LabelEvent, Prediction

DAYS = 86400.0


class Flights:
    """Predictions of two earlier days whose bins were recorded; the planted slice, and 40 others, were corrected."""

    def __init__(self, folder: Path) -> None:
        self.config = StoreConfig(url=f"sqlite:///{folder / 'store.db'}", retention="36h", archive=str(folder / "a"))
        write_model(folder)
        self.binner = Binner(load(folder / "flights.json"), redacted=("pilot",))
        self.store = Store(self.config, lambda _: None)
        sent = events(COUNT)
        self.since = (time.time() // DAYS - 5) * DAYS
        monitor, bins = ModelMonitor(ModelConfig(name="flights"), "1", self.binner), BinRecorder(self.store)
        for part, received in ((sent[:2000], self.since + 10.0), (sent[2000:], self.since + DAYS)):
            predictions = [Prediction("flights", e["id"], "1", prediction="late", confidence=0.9) for e in part]
            confident, inputs = [e["confidence"] > 0.8 for e in part], [json.dumps(e["inputs"]).encode() for e in part]
            batch = stored_batch(predictions, confident, inputs, received)
            assert self.store.add(batch) == 0
            bins.add(monitor, batch, self.binner.bins_of([e["inputs"] for e in part], received), received)
            last = bins.flush()
            assert last is not None
            last.result(10)
        assert self.store.flush(10)
        self.confident = [e for e in sent if e["confidence"] > 0.8]
        self.planted = [e["id"] for e in self.confident if is_planted(e)]
        wrong = [*self.planted, *[e["id"] for e in self.confident if not is_planted(e)][:40]]
        feedback = [
            Feedback(id_, verdict="corrected", label="on time", user=f"u{n % 7}") for n, id_ in enumerate(wrong)
        ]
        self.store.record_feedback(feedback, None)

    def explain(self, of: Of = "corrections") -> Explanation:
        """Ask for slices."""
        query = SliceQuery("flights", None, of, self.since)
        return explain(self.store, self.binner, query, ArchivedPredictions(self.store, self.files(), 36 * 3600.0))

    def files(self) -> Archive:
        """The archive."""
        return Archive(str(self.config.archive), self.store.reading)

    def archive(self) -> None:
        """Write the archive, and delete the bins as the retention does."""
        archive(self.config, lambda _, inputs: inputs)
        self.store.write(lambda connection: connection.execute(bin_codes.delete()))

    def read(self) -> Population:
        """All predictions, ordered by identifier."""
        query = BlockFilter("flights", self.binner.layout, "1", self.since)
        stored = read_population(self.store.bins, self.binner, query)
        found = ArchivedPredictions(self.store, self.files(), 36 * 3600.0).before(stored, self.binner, query)
        order = np.argsort(found.ids)
        return found._replace(
            codes=found.codes[:, order],
            ids=found.ids[order],
            confident=found.confident[order],
            times=found.times[order],
        )


@pytest.fixture
def flights(tmp_path: Path) -> Flights:
    """A store with an archive."""
    return Flights(tmp_path)


def test_archived_predictions_have_the_same_slices(flights: Flights, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bin of every prediction is the same, whether it was recorded or computed again; the newest come first."""
    monkeypatch.setattr(parquet_buffer, "GROUP_ROWS", 300)
    before, stored = flights.explain(), flights.read()
    flights.archive()
    after, read = flights.explain(), flights.read()
    assert before.slices == after.slices
    assert (before.predictions, before.total, after.remarks) == (after.predictions, after.total, ())
    for expected, found in zip(stored[:4], read[:4], strict=True):
        assert np.array_equal(expected, found)
    monkeypatch.setattr(population, "MAX_ARCHIVED", 1500)
    newest = flights.read()
    assert (newest.rows, newest.truncated) == (1500, True)
    assert np.count_nonzero(newest.times >= flights.since + DAYS) == COUNT - 2000
    chosen = ArchiveFilter("flights", None, 0.0, COUNT)
    parts = population.read_bins(flights.files(), flights.binner, chosen, 1500)
    assert 1500 < sum(part.rows for part in parts) <= 1800  # of the older file, the last parts alone are kept
    flights.store.close()


def test_errors_of_archived_predictions_have_the_same_slices(flights: Flights) -> None:
    """Labels are archived with their predictions, and late ones after them; the database's count first."""
    planted = set(flights.planted)
    events = [LabelEvent(e["id"], label="on time" if e["id"] in planted else "late") for e in flights.confident]
    assert flights.store.record_labels(events).joined == len(events)
    before = flights.explain(of="errors")
    flights.archive()
    flights.store.write(lambda connection: connection.execute(labels.delete()))
    after = flights.explain(of="errors")
    assert (before.slices, before.total) == (after.slices, len(planted)) == (after.slices, after.total)
    row = {"day": 0, "prediction_id": flights.planted[0], "model": "flights", "label": '"late"', "loss": 0.0}
    row |= {"version": "1", "predicted": flights.since, "time": 0.0, "received": 0.0}
    flights.store.write(lambda connection: connection.execute(labels.insert().values(row)))
    assert flights.explain(of="errors").total == len(planted) - 1
    flights.store.write(lambda connection: connection.execute(labels.delete()))
    row = {"day": flights.since // DAYS, "model": "flights", "label": '"late"', "received": flights.since + 2 * DAYS}
    changes = [(flights.planted[0], 0.0), (flights.planted[1], 0.0), (flights.planted[0], 1.0), ("never", 0.0)]
    late = [row | {"id": id_, "loss": loss} for id_, loss in changes]
    flights.store.write(lambda connection: connection.execute(late_labels.insert(), late))
    flights.archive()
    assert flights.explain(of="errors").total == len(planted) - 1
    flights.store.close()


def test_predictions_without_bins_between_the_archive_and_the_bins_are_named(flights: Flights) -> None:
    """After a change of the profile or of what is redacted, the answer says which predictions it leaves out."""
    flights.archive()
    event = Prediction("flights", "new", "1", prediction="late", confidence=0.9)
    assert flights.store.add(stored_batch([event], [True], [b"{}"], time.time() - 3600)) == 0
    assert flights.store.flush(10)
    remark = "Bins of the present profile are not recorded yet: only archived predictions are looked at."
    assert flights.explain().remarks == (remark,)
    row = {"model": "flights", "version": "1", "layout": flights.binner.layout, "rows": 0, "data": b""}
    row |= {"first": 1.8e9, "last": 1.8e9}
    flights.store.write(lambda connection: connection.execute(bin_codes.insert().values(row)))
    (remark,) = flights.explain().remarks
    assert remark.startswith("Bins of the present profile are recorded since 2027-01-15T08:00:00Z: earlier predictions")
    flights.store.close()
