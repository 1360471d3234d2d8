"""The archive: what leaves the retention is in Parquet files first, whatever fails in between."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
import sqlalchemy as sa
import yaml
from pyarrow import parquet
from support.batches import stored_batch
from support.certificates import certificate
from support.fake_exporter import Exporter
from support.postgres import Postgres

from exporter.commands import redact
from exporter.config import StoreConfig
from exporter.errors import StoreError
from exporter.monitoring.model_files import load_monitors
from exporter.monitoring.registry import MonitorRegistry
from exporter.profiles.builder import build_file
from exporter.profiles.profile import save
from exporter.profiles.sources.store import StoreSource
from exporter.server.http.problem import store_problem
from exporter.server.tasks import late_joiner
from exporter.server.tasks.archiver import Archiver
from exporter.server.tasks.late_joiner import LateJoiner
from exporter.slices.drifting_hours import DriftingHours
from exporter.slices.recorder import BinRecorder
from exporter.storage import CountedFeedback, Store
from exporter.storage import _archive as archive
from exporter.storage._archive import HasDrift
from exporter.storage._engine import open_engine
from exporter.storage._retention import Retention, StoreSize
from exporter.storage._schema import feedback, labels, late_labels, predictions
from exporter.wire.events import Feedback, LabelEvent, Prediction

DAY = 86400
TODAY = int(time.time() // DAY)


class Archived:
    """A store with an archive, and what its exporter does in the background."""

    def __init__(self, url: str, folder: Path) -> None:
        self.config = StoreConfig(url=url, retention="36h", archive=str(folder))
        self.folder, self.counts = folder, 0.0
        self.counted: list[CountedFeedback] = []
        self.store = Store(self.config, self.counted.append)
        self.has_drift: HasDrift = lambda *_: False
        self.archiver = self.make_archiver()

    def make_archiver(self, share: float = 1.0) -> Archiver:
        """What archives in the background, with a share."""
        config = msgspec.structs.replace(self.config, archive_share=share)
        return Archiver(config, self.store, lambda _, inputs: inputs, self.has_drift, self._count, redacted=dict)

    def _count(self, number: float) -> None:
        self.counts += number

    def run(self, archiver: Archiver) -> None:
        """Archive until there is nothing more, as the exporter does with pauses between."""
        archiver.seconds = 0.0
        while not archiver.seconds:
            archiver.refresh()

    def archive(self, share: float) -> int:
        """Archive with this share; return the number of predictions."""
        archiver = self.make_archiver(share)
        archiver.start()
        self.run(archiver)
        archiver.close()
        return int(self.counts)

    def predict(self, days_ago: int, *numbers: int, confident: bool = True, model: str = "m") -> None:
        """Store predictions of a model that were received at noon of an earlier day."""
        received = (TODAY - days_ago + 0.5) * DAY if days_ago else time.time()
        self._predict(received, numbers, confident, model)

    def _predict(self, received: float, numbers: Sequence[int], confident: bool, model: str) -> None:
        events = [Prediction(model, id=f"p-{n}", version="1", prediction="7", confidence=0.9) for n in numbers]
        inputs = [f'{{"number": {n}}}'.encode() for n in numbers]
        assert self.store.add(stored_batch(events, [confident] * len(numbers), inputs, received)) == 0
        assert self.store.flush(10)

    def record(self, monitors: MonitorRegistry, received: float, numbers: Sequence[int]) -> None:
        """Store confident predictions of the model ``m`` with their bins."""
        self._predict(received, numbers, True, "m")
        monitor, bins = monitors.get("m", "1", time.time()), BinRecorder(self.store)
        assert monitor.binner is not None
        codes = monitor.binner.bins_of([{"number": number} for number in numbers])
        events = [Prediction("m", id=f"p-{number}", version="1") for number in numbers]
        bins.add(
            monitor, stored_batch(events, [True] * len(numbers), [b"{}"] * len(numbers), received), codes, received
        )
        last = bins.flush()
        assert last is not None
        last.result(10)

    def sweep(self) -> int:
        """Delete what the retention may; return how many predictions are left."""
        engine = open_engine(self.config)
        try:
            while Retention(self.config, StoreSize(None)).sweep(engine, 0):
                pass
            with engine.connect() as connection:
                return connection.execute(sa.select(sa.func.count()).select_from(predictions)).scalar_one()
        finally:
            engine.dispose()

    def files(self) -> dict[str, list[str]]:
        """The identifiers in each file."""
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): parquet.read_table(path)["id"].to_pylist() for path in found}

    def read(self, share: float = 1.0, since: float = 0.0) -> list[Any]:
        """An input of all predictions, as a profile reads them."""
        source = StoreSource(msgspec.structs.replace(self.config, archive_share=share), "m", None, since)
        return [number for batch in source.batches() for number in batch.columns["number"]]


@pytest.fixture
def archived(database: str, tmp_path: Path) -> Iterator[Archived]:
    """A store with an archive."""
    archived = Archived(database, tmp_path / "archive")
    archived.archiver.start()  # its first look is a minute later
    yield archived
    archived.archiver.close()
    archived.store.close()


def day(days_ago: int) -> str:
    """The folder of a day."""
    return f"date={time.strftime('%Y-%m-%d', time.gmtime((TODAY - days_ago) * DAY))}"


def test_predictions_are_archived_before_they_are_deleted(archived: Archived, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each day is a folder, parts are small, nothing is in two of them, and profiles read the archive and the rest."""
    monkeypatch.setattr(archive, "PART_ROWS", 4)
    monkeypatch.setattr(archive, "FETCHED_ROWS", 2)
    archived.predict(5, *range(6))
    archived.predict(3, *range(6, 9))
    archived.predict(0, 9)
    feedback_result = archived.store.record_feedback([Feedback("p-1", verdict="corrected", label="8")], None)
    assert [result.joined for result in feedback_result] == [True]
    assert archived.sweep() == 10
    archived.run(archived.archiver)
    parts = {
        f"{day(5)}/{1:020}.parquet": ["p-0", "p-1", "p-2", "p-3"],
        f"{day(5)}/{5:020}.parquet": ["p-4", "p-5"],
        f"{day(3)}/{5:020}.parquet": ["p-6", "p-7"],
        f"{day(3)}/{9:020}.parquet": ["p-8"],
    }
    assert (archived.files(), archived.counts) == (parts, 9)
    assert archived.read() == list(range(10))  # what is in both is read once
    assert archived.sweep() == 1
    assert archived.read() == list(range(10))
    archived.run(archived.archiver)
    assert (archived.files(), archived.counts) == (parts, 9)
    with archived.store.reading() as connection:
        assert connection.execute(sa.select(feedback.c.inputs)).scalars().all() == ['{"number": 1}']


def test_labels_are_archived_with_their_predictions(archived: Archived) -> None:
    """The archive has the label and its loss; the database keeps a label until its prediction is archived."""
    archived.predict(3, *range(4))
    archived.predict(3, 1, model="other")
    archived.predict(3, 1)  # a label is of the first prediction with its identifier
    events = [LabelEvent("p-1", model="m", label="7"), LabelEvent("p-2", label="8"), LabelEvent("never", label="7")]
    assert archived.store.record_labels(events).joined == 2
    old = labels.update().values(received=(TODAY - 3) * DAY, time=(TODAY - 2) * DAY)
    archived.store.execute(lambda connection, _: connection.execute(old))

    def stored() -> list[str]:
        with archived.store.reading() as connection:
            return sorted(connection.execute(sa.select(labels.c.prediction_id)).scalars())

    archived.sweep()
    assert stored() == ["p-1", "p-2"]
    archived.run(archived.archiver)
    table = parquet.read_table(next(archived.folder.rglob("*.parquet")))
    assert table.select(["label", "loss"]).to_pylist() == [
        {"label": None, "loss": None},
        {"label": '"7"', "loss": 0.0},
        {"label": '"8"', "loss": 1.0},
        *[{"label": None, "loss": None}] * 3,
    ]
    assert table["label_time"].drop_null().to_pylist() == [datetime.fromtimestamp((TODAY - 2) * DAY, UTC)] * 2
    archived.sweep()
    assert stored() == []


def test_labels_that_come_late_are_archived(archived: Archived) -> None:
    """They are in files of their own once their day is over, each once; a killed exporter writes them again.

    Who reads the predictions does not see these files.
    """
    archived.predict(3, *range(4))
    archived.run(archived.archiver)
    assert archived.sweep() == 1
    for label in ("7", "8"):  # with the deletion of its prediction, the label waits for the archived one
        archived.store.record_labels([LabelEvent("p-1", model="m", label=label)])
    archived.store.join(next(archive.find_archived(archive.Archive(str(archived.folder)), 4, {("p-1", "m")})))
    archived.store.record_labels(
        [LabelEvent("p-3", label="7"), LabelEvent("p-1", label="7"), LabelEvent("x", label="7")]
    )
    archived.predict(0, 5)
    archived.store.record_labels([LabelEvent("p-5", label="7")])
    archived.run(archived.archiver)
    predicted = archived.files()
    assert list(predicted) == [f"{day(3)}/{1:020}.parquet"]
    arrived = late_labels.update().values(received=(TODAY - 0.5) * DAY)
    archived.store.execute(lambda connection, _: connection.execute(arrived))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archived.store, "execute", killed)
        with pytest.raises(KeyboardInterrupt):
            archived.run(archived.archiver)
    for _ in range(2):
        archived.run(archived.archiver)
        name = f"_labels/{day(1).removeprefix('date=')}-{1:020}.labels"
        assert archived.files() == predicted | {name: ["p-1", "p-3", "p-1"]}
    rows = parquet.read_table(archived.folder / name).drop(["label_time", "received"]).to_pylist()
    shared = {"model": "m", "date": datetime.fromtimestamp((TODAY - 3) * DAY, UTC).date()}
    assert rows == [
        {"seq": 1, "id": "p-1", "label": '"8"', "loss": 1.0, **shared},
        {"seq": 2, "id": "p-3", "label": '"7"', "loss": 0.0, **shared},
        {"seq": 3, "id": "p-1", "label": '"7"', "loss": 0.0, **shared},
    ]
    assert parquet.read_table(archived.folder)["id"].to_pylist() == [f"p-{n}" for n in range(4)]
    assert archived.read() == [0, 1, 2, 3, 5]


def test_a_sampled_archive_keeps_what_matters_whole(archived: Archived) -> None:
    """Of confident predictions without feedback a share is archived; weights give back how many there were."""
    archived.predict(3, *range(2000))
    archived.predict(3, *range(2000, 2200), confident=False)
    corrected = [f"p-{n}" for n in range(300)]
    archived.store.record_feedback([Feedback(name, verdict="corrected", label="8") for name in corrected], None)
    assert archived.archive(0.1) < 1000
    (table,) = (parquet.read_table(path) for path in archived.folder.rglob("*.parquet"))
    unsure = [f"p-{n}" for n in range(2000, 2200)]
    assert set(table["id"].to_pylist()) >= {*unsure, *corrected}
    assert set(table["weight"].to_pylist()) == {1.0, 10.0}
    assert sum(table["weight"].to_pylist()) == pytest.approx(2200, rel=0.2)
    archived.predict(0, *range(2200, 4200))
    read = archived.read(0.1)
    assert len(read) == pytest.approx(420, rel=0.25)
    assert sum(n < 2000 for n in read) == pytest.approx(200, rel=0.3)  # corrected predictions are not read more often


def test_an_exporter_that_was_killed_writes_the_same_file(archived: Archived, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that the database was not told of is written again to the same name; nothing is deleted meanwhile."""
    archived.archiver.refresh()  # begins with labels that will be too late
    archived.predict(3, *range(5))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archived.store, "execute", killed)
        with pytest.raises(KeyboardInterrupt):
            archived.run(archived.archiver)
    name = f"{day(3)}/{1:020}.parquet"
    assert archived.files() == {name: [f"p-{n}" for n in range(5)]}
    assert archived.sweep() == 5
    archived.predict(3, 5)
    archived.run(archived.archiver)
    assert archived.files() == {name: [f"p-{n}" for n in range(6)]}
    assert archived.sweep() == 1
    assert archived.read() == list(range(6))


@pytest.fixture
def monitors(tmp_path: Path) -> MonitorRegistry:
    """A model whose input ``number`` was from 0 to 999 in training."""
    training, path = tmp_path / "training.csv", tmp_path / "exporter.yml"
    training.write_text("number\n" + "\n".join(map(str, range(1000))))
    save(build_file(training, name="m"), tmp_path / "m.json")
    path.write_text(yaml.safe_dump({"models": [{"name": "m", "profile": "m.json"}]}))
    return load_monitors(path)[1]


def test_hours_of_drift_are_archived_whole(archived: Archived, monitors: MonitorRegistry) -> None:
    """While an input had drifted from training, every prediction is archived, with the weight 1."""
    for days_ago, numbers in ((4, range(2000, 3000)), (3, range(1000))):
        archived.record(monitors, (TODAY - days_ago + 0.5) * DAY, numbers)
    archived.has_drift = DriftingHours(lambda: monitors)
    archived.archive(0.1)
    tables = {path.parent.name: parquet.read_table(path) for path in archived.folder.rglob("*.parquet")}
    assert tables[day(4)]["weight"].to_pylist() == [1.0] * 1000
    thinned = tables[day(3)]["weight"].to_pylist()
    assert (set(thinned), len(thinned)) == ({10.0}, pytest.approx(100, rel=0.35))
    drifted = sum(number >= 2000 for number in archived.read(0.1))
    assert drifted == pytest.approx(100, rel=0.35)  # a profile reads the same share of all


def test_an_hour_of_drift_is_whole_after_a_restart(
    archived: Archived, monitors: MonitorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the exporter knows of an hour is not lost with its first predictions, whose bins showed the drift."""
    monkeypatch.setattr(archive, "PART_ROWS", 300)
    archived.config = msgspec.structs.replace(archived.config, archive_share=0.1)
    hour = (TODAY - 4) * DAY
    for minute, numbers in ((10.0, range(2000, 2300)), (20.0, range(100))):
        archived.record(monitors, hour + 60 * minute, numbers)
    for _ in range(2):  # a part, and a restart
        archived.has_drift = DriftingHours(lambda: monitors)
        archiver = archived.make_archiver(0.1)
        archiver.start()
        archiver.refresh()
        archiver.close()
        archived.sweep()
    tables = [parquet.read_table(path) for path in archived.folder.rglob("*.parquet")]
    assert [weight for table in tables for weight in table["weight"].to_pylist()] == [1.0] * 400


def archive_until_killed(url: str, folder: str) -> None:
    """Archive in parts of 20 predictions, and delete what is archived."""
    archive.PART_ROWS, archive.FETCHED_ROWS = 20, 5
    archived = Archived(url, Path(folder))
    while True:
        archived.archiver.refresh()
        archived.sweep()


def test_nothing_is_lost_or_repeated_when_the_process_is_killed(database: str, tmp_path: Path) -> None:
    """SIGKILL while parts are written, recorded and deleted: all predictions are read, each of them once."""
    archived = Archived(database, tmp_path / "archive")
    archived.predict(5, *range(400))
    archived.store.close()
    command = [sys.executable, __file__, database, str(archived.folder)]
    child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        while len(list(archived.folder.rglob("*.parquet"))) < 5:
            assert child.poll() is None
            time.sleep(0.005)
    finally:
        child.kill()
        child.wait()
    again = Archived(database, archived.folder)
    assert len(list(archived.folder.rglob("*.parquet"))) < 20
    assert sorted(again.read()) == list(range(400))
    again.run(again.archiver)
    assert (again.sweep(), sorted(again.read())) == (1, list(range(400)))
    again.archiver.start()
    again.archiver.close()
    again.store.close()


def test_numbers_of_archived_predictions_are_not_given_again(archived: Archived) -> None:
    """After a time without predictions, those that follow are archived before they are deleted, too."""
    archived.predict(5, *range(5))
    archived.run(archived.archiver)
    assert archived.sweep() == 1  # the newest stays until another one arrives
    archived.predict(3, *range(5, 8))
    assert archived.sweep() == 3
    archived.run(archived.archiver)
    assert (archived.sweep(), archived.read()) == (1, list(range(8)))


def test_other_exporters_wait_until_a_part_is_recorded(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No part is written twice, or recorded in another order."""
    archived = Archived(postgres.url(), tmp_path / "archive")
    other = archived.make_archiver()
    other.refresh()  # begins with labels that will be too late
    archived.predict(3, *range(5))
    execute, written = archived.store.execute, []

    def late(*arguments: Any) -> Any:
        monkeypatch.setattr(archived.store, "execute", execute)
        other.refresh()
        written.append(archived.counts)
        return execute(*arguments)

    monkeypatch.setattr(archived.store, "execute", late)
    archived.archiver.refresh()
    assert (written, archived.counts) == ([0.0], 5)
    for archiver in (archived.archiver, other):
        archiver.start()
        archiver.close()
    archived.store.close()


def test_days_with_few_predictions_share_the_memory_of_a_part(
    archived: Archived, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part ends once what waits in memory is too large, although no row group of a day is full."""
    monkeypatch.setattr(archive, "PART_BYTES", 5 * archive.ROW_BYTES)
    monkeypatch.setattr(archive, "FETCHED_ROWS", 2)
    for days_ago in (6, 5, 4, 3):
        archived.predict(days_ago, 2 * days_ago, 2 * days_ago + 1)
    archived.archiver.refresh()
    assert archived.counts == 6
    archived.run(archived.archiver)
    assert archived.counts == 8


def test_files_of_another_database_are_not_overwritten(archived: Archived, tmp_path: Path) -> None:
    """Two databases number their predictions alike: with one archive, the second keeps its own, and reports it."""
    archived.predict(3, *range(5))
    archived.run(archived.archiver)
    second = Archived(f"sqlite:///{tmp_path / 'second.db'}", archived.folder)
    second.predict(3, *range(5, 10))
    with pytest.raises(StoreError, match=rf"store\.archive: .*/{1:020}\.parquet: holds predictions of another"):
        second.run(second.archiver)
    assert second.sweep() == 5
    assert archived.read() == list(range(5))
    archived.folder.joinpath(day(3)).rename(archived.folder / day(4))
    with pytest.raises(StoreError, match=rf"{day(4)}/{1:020}\.parquet: holds predictions of another"):
        second.run(second.archiver)
    second.archiver.start()
    second.archiver.close()
    second.store.close()


def test_late_feedback_is_joined_with_archived_predictions(
    archived: Archived, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A correction gets its inputs from the archive, and a label its prediction, each once and of the named model.

    A search that takes too long is continued.
    """
    monkeypatch.setattr(archive, "PART_ROWS", 4)
    monkeypatch.setattr(late_joiner, "SEARCH_SECONDS", -1.0)
    archived.predict(5, *range(10))
    archived.predict(3, 2, model="other")
    archived.run(archived.archiver)
    assert archived.sweep() == 1
    corrections = [Feedback(name, verdict="corrected", label="8") for name in ("p-1", "p-6", "never")]
    assert [result.joined for result in archived.store.record_feedback(corrections, None)] == [False] * 3
    archived.store.record_labels([LabelEvent("p-2", model="m", label="7")])
    joiner = LateJoiner(archived.config, archived.store)
    joiner.refresh()

    def joined() -> list[tuple[Any, ...]]:
        query = sa.select(feedback.c.prediction_id, feedback.c.inputs, feedback.c.confident).where(feedback.c.joined)
        with archived.store.reading() as connection:
            return [tuple(row) for row in connection.execute(query.order_by(feedback.c.id))]

    assert joined() == []  # their predictions may be on their way
    monkeypatch.setattr(archive, "WAITED", -1.0)
    archived.folder.rename(archived.folder.with_name("away"))
    with pytest.raises(StoreError) as raised:
        joiner.refresh()
    joiner.on_error(raised.value)
    assert f"late feedback was not joined: store.archive: {archived.folder}: cannot be read: there is no" in caplog.text
    archived.folder.with_name("away").rename(archived.folder)
    for _ in range(4):  # files, and the end
        joiner.refresh()
    for _ in range(2):
        joiner.refresh()
        assert joined() == [("p-1", '{"number": 1}', True), ("p-6", '{"number": 6}', True)]
    assert [(counted.verdict, counted.correction) for counted in archived.counted] == [("corrected", True)] * 2
    with archived.store.reading() as connection:
        labelled = connection.execute(sa.select(labels.c.day, labels.c.loss)).one()
    assert tuple(labelled) == (TODAY - 5, 0.0)
    joiner.start()
    joiner.close()


def test_redact_cleans_the_archive(
    archived: Archived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file holds what is redacted, other predictions stay, and an interrupted command is run again."""
    monkeypatch.setattr(archive, "GROUP_ROWS", 2)
    for days_ago in (5, 4):
        archived.predict(days_ago, *range(1000 * days_ago, 1000 * days_ago + 3))
    archived.run(archived.archiver)
    models = [{"name": "m", "redact": ["number"]}, {"name": "other"}]
    store = {"url": archived.config.url, "archive": str(archived.folder), "retention": "36h"}
    path = tmp_path / "exporter.yml"
    path.write_text(yaml.safe_dump({"store": store, "models": models}))
    before = archived.files()

    def clean(*, dry_run: bool = False) -> str:
        assert redact.run(argparse.Namespace(config_file=path, dry_run=dry_run)) == 0
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("archive"))

    def stored() -> list[str | None]:
        tables = [parquet.read_table(path) for path in sorted(archived.folder.rglob("*.parquet"))]
        return [text for table in tables for text in table["inputs"].to_pylist()]

    assert clean(dry_run=True) == "archive: 6 predictions in 2 files hold redacted inputs"
    replace = Path.replace
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda self, target: replace(self, target) and 1 / 0)
        with pytest.raises(ZeroDivisionError):
            clean()
    assert stored() == ["{}"] * 3 + [f'{{"number": {n}}}' for n in range(4000, 4003)]
    assert clean() == "archive: 3 predictions in 1 files cleaned"
    assert (stored(), archived.files()) == (["{}"] * 6, before)
    assert clean() == "archive: 0 predictions in 0 files cleaned"
    unfinished = archived.folder / day(4) / f"{7:020}.parquet"
    unfinished.write_bytes(b"an exporter may write it again at this moment")
    assert redact.run(argparse.Namespace(config_file=path, dry_run=False)) == 0
    assert "model-exporter: 1 files of the archive are not finished, and were left out" in capsys.readouterr().err
    parquet.write_table(pa.table({"x": [1]}), archived.folder / "mine.parquet")
    with pytest.raises(StoreError, match=r"mine\.parquet cannot be cleaned; .* has no columns model and inputs"):
        clean()
    damaged = min(archived.folder.rglob("date=*/*.parquet"))
    damaged.write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=rf"{day(5)}/{1:020}\.parquet cannot be cleaned; run the command again"):
        clean()


def test_a_part_is_read_again_if_more_is_redacted_meanwhile(archived: Archived) -> None:
    """The command that redacts does not know of a part that is not written yet."""
    archived.predict(3, *range(5))
    redacted = [False]

    def redact_from_now_on(_: str, inputs: str | None) -> str | None:
        shown = "{}" if redacted[0] else inputs
        redacted[0] = True
        return shown

    parts = (archived.config, archived.store, redact_from_now_on, archived.has_drift, archived._count)
    archiver = Archiver(*parts, redacted=lambda: [*redacted])
    archiver.start()
    archived.run(archiver)
    archiver.close()
    (path,) = archived.folder.rglob("*.parquet")
    assert (parquet.read_table(path)["inputs"].to_pylist(), archived.counts) == (["{}"] * 5, 5)


def test_predictions_stay_while_the_archive_cannot_be_written(
    archived: Archived, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says why, and once it can be written again, nothing is missing."""
    archived.predict(3, *range(5))
    archived.folder.write_text("a file, not a folder")
    with caplog.at_level(logging.ERROR), pytest.raises(Exception, match=r"store\.archive") as caught:
        archived.run(archived.archiver)
    archived.archiver.on_error(caught.value)
    assert f"kept until they can be archived: store.archive: {archived.folder}: cannot be written" in caplog.text
    assert archived.sweep() == 5
    archived.folder.unlink()
    archived.run(archived.archiver)
    assert (archived.sweep(), archived.read()) == (1, list(range(5)))


def test_files_of_earlier_days_are_not_opened(archived: Archived) -> None:
    """What a profile of the last days does not need is not read, and cannot make it fail."""
    archived.predict(5, *range(5))
    archived.predict(3, *range(5, 8))
    archived.run(archived.archiver)
    archived.folder.joinpath(day(5), f"{1:020}.parquet").write_bytes(b"damaged")
    assert archived.read(since=(TODAY - 4) * DAY) == [5, 6, 7]
    with pytest.raises(StoreError, match="cannot be read"):
        archived.read()


def test_errors_of_the_archive_show_no_key() -> None:
    """The query of a URL may hold one, so messages leave it out."""
    place = archive.Archive("s3://bucket/folder?token=s3cret")
    with pytest.raises(StoreError, match=r"^store\.archive: s3://bucket/folder: cannot be read: ") as raised:
        place.count(archive.ArchiveFilter("m", None, 0.0, 1))
    assert "s3cret" not in str(raised.value)


def test_an_object_store_that_does_not_answer_is_asked_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that gets no answer holds a search or a command for seconds, not for minutes."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    with socket.create_server(("127.0.0.1", 0)) as server:
        query = f"scheme=http&region=x&endpoint_override=127.0.0.1:{server.getsockname()[1]}"
        asked = []

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].close()
                    asked.append(True)

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        with pytest.raises(StoreError, match="NETWORK_CONNECTION") as raised:
            archive.Archive(f"s3://bucket/folder?{query}").count(archive.ArchiveFilter("m", None, 0.0, 1))
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert len(asked) == 3
    reply = store_problem(raised.value)
    assert (reply.status, dict(reply.headers)) == (503, {})  # a client that tries again waits as long each time


def test_an_object_store_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the store, and however often it is asked, a list of its files has a limit of time."""
    monkeypatch.setattr(archive, "LIST_SECONDS", 0.1)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    with socket.create_server(("127.0.0.1", 0)) as server:
        query = f"scheme=http&region=x&endpoint_override=127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(StoreError, match=r"s3://bucket/folder: cannot be read: it does not answer$"):
            archive.Archive(f"s3://bucket/folder?{query}").count(archive.ArchiveFilter("m", None, 0.0, 1))


def test_options_of_an_object_store_are_kept(
    tmp_path: Path, exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer tries do not cost the option that a private certificate needs."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    certificate(tmp_path, "private")
    exporter.serve_tls(tmp_path / "private.crt", tmp_path / "private.key")
    address = exporter.url.removeprefix("https://")
    place = archive.Archive(f"s3://bucket/folder?region=x&endpoint_override={address}&tls_verify_certificates=false")
    with pytest.raises(StoreError, match="HTTP status 501"):  # what answers is no object store
        place.count(archive.ArchiveFilter("m", None, 0.0, 1))


if __name__ == "__main__":
    archive_until_killed(*sys.argv[1:])
