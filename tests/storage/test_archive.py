"""The archive: what leaves the retention is in Parquet files first, whatever fails in between."""

from __future__ import annotations

import argparse
import contextlib
import itertools
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

import pyarrow as pa
import pytest
import sqlalchemy as sa
import yaml
from pyarrow import parquet
from support.batches import count, stored_batch
from support.certificates import certificate
from support.fake_exporter import Exporter

from exporter.commands import database
from exporter.config import StoreConfig
from exporter.errors import ExporterError, StoreError
from exporter.monitoring.registry import MonitorRegistry
from exporter.profiles.builder import build_file
from exporter.profiles.profile import save
from exporter.profiles.sources import StoreSource
from exporter.server.model_files import load_monitors
from exporter.server.problem import store_problem
from exporter.slices.explain import errors
from exporter.slices.population import BinRecorder, read_population
from exporter.storage import BlockFilter, Forgotten, Store, StoredPredictions, _retention, open_redaction
from exporter.storage import _archive as archive
from exporter.storage._database import feedback, labels, late_labels, open_database, open_engine, predictions
from exporter.storage._retention import Retention, StoreSize
from exporter.wire.events import Feedback, LabelEvent, Prediction

DAY = 86400


def today() -> int:
    return int(time.time() // DAY)


@contextlib.contextmanager
def killed_after_writing() -> Iterator[None]:
    """End the command between a part's first file and the transaction that tells the database of it."""
    write = archive.ArchiveFiles.write

    def killed(*arguments: Any) -> None:
        write(*arguments)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(archive.ArchiveFiles, "write", killed)
        yield


def count_of(connection: sa.Connection, table: sa.Table) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


class Archived:
    """A store with an archive."""

    def __init__(self, url: str, folder: Path) -> None:
        self.config = StoreConfig(url=url, retention="36h", archive=str(folder))
        self.folder = folder
        self.store = Store(self.config, lambda _: None)

    def archive(self) -> tuple[int, int]:
        """Archive as the command does; return the numbers of predictions and of late labels."""
        return archive.archive(self.config, lambda _, inputs: inputs)

    def predict(self, days_ago: int, *numbers: int, confident: bool = True, model: str = "m") -> None:
        """Store predictions of a model that were received at noon of an earlier day."""
        received = (today() - days_ago + 0.5) * DAY if days_ago else time.time()
        self._predict(received, numbers, confident, model)

    def _predict(self, received: float, numbers: Sequence[int], confident: bool, model: str) -> None:
        events = [Prediction(model, f"p-{n}", "1", prediction="7", confidence=0.9, alias=f"a-{n}") for n in numbers]
        inputs = [f'{{"number": {n}}}'.encode() for n in numbers]
        assert self.store.add(stored_batch(events, [confident] * len(numbers), inputs, received)) == 0
        assert self.store.flush(10)

    def record(self, monitors: MonitorRegistry, received: float, numbers: Sequence[int]) -> None:
        """Store confident predictions of the model ``m`` with their bins."""
        self._predict(received, numbers, True, "m")
        monitor, bins = monitors.get("m", "1", time.time()), BinRecorder(self.store)
        assert monitor.binner is not None
        codes = count(monitor.binner, [{"number": number} for number in numbers], [], with_bins=True).bins
        events = [Prediction("m", id=f"p-{number}", version="1") for number in numbers]
        batch = stored_batch(events, [True] * len(numbers), [b"{}"] * len(numbers), received)
        bins.add(monitor, batch, codes, received)
        last = bins.flush()
        assert last is not None
        last.result(10)

    def update(self, table: sa.Table, **values: Any) -> None:
        """Change all rows of a table."""
        self.store.write(lambda connection: connection.execute(table.update().values(**values)))

    def sweep(self) -> int:
        """Delete what the retention may; return how many predictions are left."""
        engine = open_engine(self.config)
        try:
            with contextlib.suppress(StoreError):  # predictions wait for the archive
                while Retention(self.config, StoreSize(None)).sweep(engine, 0):
                    pass
            with engine.connect() as connection:
                return count_of(connection, predictions)
        finally:
            engine.dispose()

    def files(self) -> dict[str, list[str]]:
        """The identifiers in each file."""
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): parquet.read_table(path)["id"].to_pylist() for path in found}

    def read(self, since: float = 0.0) -> list[Any]:
        """An input of all predictions, as a profile reads them."""
        source = StoreSource(StoredPredictions(self.config, "m", None, since), "m")
        return [number for batch in source.batches() for number in batch.columns["number"]]


@pytest.fixture
def archived(database: str, tmp_path: Path) -> Iterator[Archived]:
    """A store with an archive."""
    archived = Archived(database, tmp_path / "archive")
    yield archived
    archived.store.close()


def day(days_ago: int) -> str:
    """The folder of a day."""
    return f"date={time.strftime('%Y-%m-%d', time.gmtime((today() - days_ago) * DAY))}"


def test_predictions_are_archived_before_they_are_deleted(archived: Archived, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each day is a folder, parts are small, nothing is in two of them, and profiles read the archive and the rest."""
    monkeypatch.setattr(archive, "PART_ROWS", 4)
    monkeypatch.setattr(archive, "FETCHED_ROWS", 2)
    archived.predict(5, *range(6))
    archived.predict(3, *range(6, 9))
    archived.predict(0, 9)
    feedback_result = archived.store.submit_feedback([Feedback("p-1", verdict="corrected", label="8")], None).result()
    assert [result.joined for result in feedback_result] == [True]
    assert archived.sweep() == 10
    assert archived.archive() == (9, 0)
    parts = {
        f"{day(5)}/{1:020}.parquet": ["p-0", "p-1", "p-2", "p-3"],
        f"{day(5)}/{5:020}.parquet": ["p-4", "p-5"],
        f"{day(3)}/{5:020}.parquet": ["p-6", "p-7"],
        f"{day(3)}/{9:020}.parquet": ["p-8"],
    }
    assert archived.files() == parts
    assert archived.read() == list(range(10))  # what is in both is read once
    assert archived.sweep() == 1
    assert archived.read() == list(range(10))
    assert archived.archive() == (0, 0)
    assert archived.files() == parts
    with archived.store.reading() as connection:
        assert connection.execute(sa.select(feedback.c.inputs)).scalars().all() == ['{"number": 1}']


def test_labels_are_archived_with_their_predictions(archived: Archived) -> None:
    """The archive has the label and its loss; the database keeps a label until its prediction is archived."""
    archived.predict(3, *range(4))
    archived.predict(3, 1, model="other")
    archived.predict(3, 1)  # a label is of the first prediction with its identifier
    events = [LabelEvent("p-1", model="m", label="7"), LabelEvent("p-2", label="8"), LabelEvent("never", label="7")]
    assert archived.store.record_labels(events).joined == 2
    archived.update(labels, received=(today() - 3) * DAY, time=(today() - 2) * DAY)

    def stored() -> list[str]:
        with archived.store.reading() as connection:
            return sorted(connection.execute(sa.select(labels.c.prediction_id)).scalars())

    archived.sweep()
    assert stored() == ["p-1", "p-2"]
    archived.archive()
    table = parquet.read_table(next(archived.folder.rglob("*.parquet")))
    assert table["alias"].to_pylist() == ["a-0", "a-1", "a-2", "a-3", "a-1", "a-1"]
    assert table.select(["label", "loss"]).to_pylist() == [
        {"label": None, "loss": None},
        {"label": '"7"', "loss": 0.0},
        {"label": '"8"', "loss": 1.0},
        *[{"label": None, "loss": None}] * 3,
    ]
    assert table["label_time"].drop_null().to_pylist() == [datetime.fromtimestamp((today() - 2) * DAY, UTC)] * 2
    archived.sweep()
    assert stored() == []
    source = StoreSource(StoredPredictions(archived.config, "m", None, 0.0), "m")
    assert [batch.columns["(label)"] for batch in source.batches()] == [[None, "7", "8", None, None]]


def test_labels_that_come_late_are_archived(archived: Archived) -> None:
    """They are in files of their own once their day is over, each once; after a kill they are written again.

    Who reads the predictions does not see these files.
    """
    archived.predict(3, *range(4))
    archived.archive()
    for label in ("8", "7"):
        archived.store.record_labels([LabelEvent("p-1", model="m", label=label)])
    archived.store.record_labels([LabelEvent("p-3", label="7"), LabelEvent("x", label="7")])
    archived.predict(0, 5)
    archived.store.record_labels([LabelEvent("p-5", label="7")])
    assert archived.archive() == (0, 0)
    predicted = archived.files()
    assert list(predicted) == [f"{day(3)}/{1:020}.parquet"]
    archived.update(late_labels, received=(today() - 0.5) * DAY)
    name = f"_labels/{day(1).removeprefix('date=')}-{1:020}.labels"
    with killed_after_writing():
        archived.archive()
    assert archived.archive() == (0, 3)
    assert archived.archive() == (0, 0)
    assert archived.files() == predicted | {name: ["p-1", "p-1", "p-3"]}
    rows = parquet.read_table(archived.folder / name).drop(["label_time", "received"]).to_pylist()
    shared = {"model": "m", "date": datetime.fromtimestamp((today() - 3) * DAY, UTC).date()}
    assert rows == [
        {"seq": 1, "id": "p-1", "label": '"8"', "loss": 1.0, **shared},
        {"seq": 2, "id": "p-1", "label": '"7"', "loss": 0.0, **shared},
        {"seq": 3, "id": "p-3", "label": '"7"', "loss": 0.0, **shared},
    ]
    assert parquet.read_table(archived.folder)["id"].to_pylist() == [f"p-{n}" for n in range(4)]
    assert archived.sweep() == 1
    assert archived.read() == [0, 1, 2, 3, 5]
    with open_redaction(archived.config) as redaction:
        steps = (({"p-1", "p-2"}, True, 4), ({"p-1", "p-2"}, False, 4), ({"p-0", "p-3"}, False, 3), ({"p-0"}, False, 0))
        for ids, dry_run, number in steps:
            assert redaction.forget(Forgotten(set(), {"m": ids}), dry_run=dry_run)["archive"] == number


def test_labels_whose_prediction_left_the_database_are_archived(archived: Archived) -> None:
    """Nothing that was acknowledged is lost: once it has waited for the retention, a label is archived as it is."""
    archived.predict(3, 1)
    archived.archive()
    assert archived.sweep() == 0
    archived.store.record_labels([LabelEvent("p-1", model="m", label="7")])
    archived.update(labels, received=(today() - 3) * DAY)
    archived.sweep()
    archived.update(late_labels, received=(today() - 0.5) * DAY)
    assert archived.archive() == (0, 1)
    (path,) = archived.folder.rglob("*.labels")
    (row,) = parquet.read_table(path).select(["id", "model", "label", "loss", "date"]).to_pylist()
    assert row == {"id": "p-1", "model": "m", "label": '"7"', "loss": None, "date": None}


def test_every_prediction_of_the_bins_has_its_label_at_each_step(
    archived: Archived, monitors: MonitorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a sweep, without traffic, and where the last block is a whole batch: none hides its labels."""
    monkeypatch.setattr(_retention, "MAX_STEP", 2)
    batches = {5: range(5), 4: range(5, 8), 3: range(8, 17)}
    for days_ago, numbers in batches.items():
        archived.record(monitors, (today() - days_ago + 0.5) * DAY, numbers)
        archived.store.record_labels([LabelEvent(f"p-{n}", model="m", label="8") for n in numbers])
    archived.update(labels, received=labels.c.day * DAY)
    binner = monitors.get("m", "1", time.time()).binner
    assert binner is not None
    retention, engine, seen = Retention(archived.config, StoreSize(None)), open_engine(archived.config), []

    def sweep() -> bool:
        more = False
        with contextlib.suppress(StoreError):  # the first day waits for the archive
            more = retention.sweep(engine, 0)
        population = read_population(archived.store.bins, binner, BlockFilter("m", binner.layout, None, 0.0))
        assert errors(archived.store, population, "m", None, 0.0).marked.sum() == population.rows
        with archived.store.reading() as connection:
            seen.append((count_of(connection, predictions), count_of(connection, labels), population.rows))
        return more

    assert not sweep()
    assert seen == [(17, 17, 17)]
    archived.archive()
    while sweep():
        pass
    engine.dispose()
    assert (seen[-1], {rows for _, _, rows in seen}) == ((0, 0, 0), {17, 12, 9, 0})
    files = [parquet.read_table(path) for path in archived.folder.rglob("*.parquet")]
    assert sorted(number for file in files for number in file["label"].to_pylist()) == ['"8"'] * 17


def test_a_command_that_was_killed_writes_the_same_file(archived: Archived) -> None:
    """A part that the database was not told of is written again to the same name; nothing is deleted meanwhile."""
    archived.predict(3, *range(5))
    with killed_after_writing():
        archived.archive()
    name = f"{day(3)}/{1:020}.parquet"
    assert archived.files() == {name: [f"p-{n}" for n in range(5)]}
    assert archived.sweep() == 5
    archived.predict(3, 5)
    archived.archive()
    assert archived.files() == {name: [f"p-{n}" for n in range(6)]}
    assert archived.sweep() == 0
    assert archived.read() == list(range(6))


@pytest.fixture
def monitors(tmp_path: Path) -> MonitorRegistry:
    """A model whose input ``number`` was from 0 to 999 in training."""
    training, path = tmp_path / "training.csv", tmp_path / "exporter.yml"
    training.write_text("number\n" + "\n".join(map(str, range(1000))))
    save(build_file(training, name="m"), tmp_path / "m.json")
    path.write_text(yaml.safe_dump({"models": [{"name": "m", "profile": "m.json"}]}))
    return load_monitors(path)[1]


def archive_until_killed(url: str, folder: str) -> None:
    """Archive in parts of 20 predictions, and delete what is archived."""
    archive.PART_ROWS, archive.FETCHED_ROWS = 20, 5
    archived = Archived(url, Path(folder))
    threading.Thread(target=lambda: [archived.sweep() for _ in itertools.count()], daemon=True).start()
    archived.archive()
    time.sleep(60)


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
    assert sorted(again.read()) == list(range(400))
    again.archive()
    assert (again.sweep(), sorted(again.read())) == (0, list(range(400)))
    again.store.close()


def test_numbers_of_archived_predictions_are_not_given_again(archived: Archived) -> None:
    """After a time without predictions, those that follow are archived before they are deleted, too."""
    archived.predict(5, *range(5))
    archived.archive()
    assert archived.sweep() == 0
    archived.predict(3, *range(5, 8))
    assert archived.sweep() == 3
    archived.archive()
    assert (archived.sweep(), archived.read()) == (0, list(range(8)))


def test_the_command_says_how_much_it_archived(
    archived: Archived, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It leaves redacted inputs out, and a configuration without an archive is an error."""
    archived.predict(3, *range(5))
    store = {"url": archived.config.url, "archive": str(archived.folder), "retention": "36h"}
    path = tmp_path / "exporter.yml"
    path.write_text(yaml.safe_dump({"store": store, "models": [{"name": "m", "redact": ["number"]}]}))
    assert database.archive(argparse.Namespace(config_file=path)) == 0
    assert capsys.readouterr().out == "5 predictions and 0 late labels were archived\n"
    (file,) = archived.folder.rglob("*.parquet")
    assert parquet.read_table(file)["inputs"].to_pylist() == ["{}"] * 5
    path.write_text(yaml.safe_dump({"models": [{"name": "m"}]}))
    with pytest.raises(ExporterError, match=r"exporter\.yml: has no store\.archive: name the folder or URL"):
        database.archive(argparse.Namespace(config_file=path))


def test_one_command_archives_at_a_time(archived: Archived) -> None:
    """No part is written twice, or recorded in another order."""
    archived.predict(3, *range(5))
    with (
        open_database(archived.config),
        pytest.raises(StoreError, match="another redact or archive command is running"),
    ):
        archived.archive()
    assert archived.archive() == (5, 0)


def test_the_log_tells_of_predictions_that_are_not_archived(archived: Archived) -> None:
    """Days after the retention, each sweep fails, until the archive was written: its timer may have stopped."""
    retention, engine = Retention(archived.config, StoreSize(None)), open_engine(archived.config)
    archived.predict(3, 1)
    assert not retention.sweep(engine, 0)
    archived.update(predictions, received=(today() - 5) * DAY, day=today() - 5)
    with pytest.raises(StoreError, match="are kept until `model-exporter archive` has run"):
        retention.sweep(engine, 0)
    archived.archive()
    assert not retention.sweep(engine, 0)
    engine.dispose()


def test_files_of_another_database_are_not_overwritten(archived: Archived, tmp_path: Path) -> None:
    """Two databases number their predictions alike: with one archive, the second keeps its own, and reports it."""
    archived.predict(3, *range(5))
    archived.archive()
    second = Archived(f"sqlite:///{tmp_path / 'second.db'}", archived.folder)
    second.predict(3, *range(5, 10))
    with pytest.raises(StoreError, match=rf"store\.archive: .*/{1:020}\.parquet: contains predictions of another"):
        second.archive()
    assert second.sweep() == 5
    assert archived.read() == list(range(5))
    archived.folder.joinpath(day(3)).rename(archived.folder / day(4))
    with pytest.raises(StoreError, match=rf"{day(4)}/{1:020}\.parquet: contains predictions of another"):
        second.archive()
    second.store.close()


def test_redact_cleans_the_archive(
    archived: Archived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file holds what is redacted, other predictions stay, and an interrupted command is run again."""
    monkeypatch.setattr(archive, "GROUP_BYTES", 1500)
    for days_ago in (5, 4):
        archived.predict(days_ago, *range(1000 * days_ago, 1000 * days_ago + 3))
    archived.archive()
    models = [{"name": "m", "redact": ["number"]}, {"name": "other"}]
    store = {"url": archived.config.url, "archive": str(archived.folder), "retention": "36h"}
    path = tmp_path / "exporter.yml"
    path.write_text(yaml.safe_dump({"store": store, "models": models}))
    before = archived.files()

    def clean(*, dry_run: bool = False) -> str:
        assert database.redact(argparse.Namespace(config_file=path, dry_run=dry_run)) == 0
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("archive"))

    def stored() -> list[str | None]:
        tables = [parquet.read_table(path) for path in sorted(archived.folder.rglob("*.parquet"))]
        return [text for table in tables for text in table["inputs"].to_pylist()]

    assert clean(dry_run=True) == "archive: 6 predictions in 2 files contain redacted inputs"
    replace = Path.replace
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda self, target: replace(self, target) and 1 / 0)
        with pytest.raises(ZeroDivisionError):
            clean()
    assert stored() == ["{}"] * 3 + [f'{{"number": {n}}}' for n in range(4000, 4003)]
    assert clean() == "archive: 3 predictions in 1 files cleaned"
    assert (stored(), archived.files()) == (["{}"] * 6, before)
    assert clean() == "archive: 0 predictions in 0 files cleaned"
    parquet.write_table(pa.table({"x": [1]}), archived.folder / "mine.parquet")
    with pytest.raises(StoreError, match=r"mine\.parquet cannot be cleaned; .* has no columns id and model"):
        clean()
    damaged = min(archived.folder.rglob("date=*/*.parquet"))
    damaged.write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=rf"{day(5)}/{1:020}\.parquet cannot be cleaned; run the command again"):
        clean()


def test_predictions_stay_while_the_archive_cannot_be_written(archived: Archived) -> None:
    """The error says why, and once it can be written again, nothing is missing."""
    archived.predict(3, *range(5))
    archived.folder.write_text("a file, not a folder")
    with pytest.raises(StoreError, match=rf"^store\.archive: {archived.folder}: cannot be written"):
        archived.archive()
    assert archived.sweep() == 5
    archived.folder.unlink()
    archived.archive()
    assert (archived.sweep(), archived.read()) == (0, list(range(5)))


def test_files_of_earlier_days_are_not_opened(archived: Archived) -> None:
    """What a profile of the last days does not need is not read, and cannot make it fail."""
    archived.predict(5, *range(5))
    archived.predict(3, *range(5, 8))
    archived.archive()
    archived.folder.joinpath(day(5), f"{1:020}.parquet").write_bytes(b"damaged")
    assert archived.read(since=(today() - 4) * DAY) == [5, 6, 7]
    with pytest.raises(StoreError, match="cannot be read"):
        archived.read()


def test_errors_of_the_archive_show_no_key() -> None:
    """The query of a URL may hold one, so messages leave it out."""
    place = archive.ArchiveFiles("s3://bucket/folder?token=s3cret")
    with pytest.raises(StoreError, match=r"^store\.archive: s3://bucket/folder: cannot be read: ") as raised:
        place.count(archive.archived_predictions("m", None, 0.0, 1))
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
            archive.ArchiveFiles(f"s3://bucket/folder?{query}").count(archive.archived_predictions("m", None, 0.0, 1))
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert len(asked) == 3
    reply = store_problem(raised.value)
    assert (reply.status, dict(reply.headers)) == (503, {})  # a client that tries again waits as long each time


def test_options_of_an_object_store_are_kept(
    tmp_path: Path, exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer tries do not cost the option that a private certificate needs."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    certificate(tmp_path, "private")
    exporter.serve_tls(tmp_path / "private.crt", tmp_path / "private.key")
    address = exporter.url.removeprefix("https://")
    query = f"region=x&endpoint_override={address}&tls_verify_certificates=false"
    place = archive.ArchiveFiles(f"s3://bucket/folder?{query}")
    with pytest.raises(StoreError, match="HTTP status 501"):  # what answers is no object store
        place.count(archive.archived_predictions("m", None, 0.0, 1))


if __name__ == "__main__":
    archive_until_killed(*sys.argv[1:])
