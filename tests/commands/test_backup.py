"""``model-exporter backup`` and ``restore``: a verified state of a database in use, with all that was acknowledged."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from pathlib import Path

import pytest
import yaml
from support.processes import Run, run_command
from support.servers import CONFIG, Served, ask, eventually, write_config

PREDICTION = {"id": "p-1", "model": "credit", "version": "3", "inputs": {"age": 41}, "prediction": "yes"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_config(tmp_path, {**CONFIG, "store": {"url": "sqlite:///data/store.db"}})
    return tmp_path


def config_of(folder: Path) -> str:
    return f"--config.file={folder / 'exporter.yml'}"


def correct(server: Served, label: str) -> None:
    feedback = {"model": "credit", "prediction": "yes", "verdict": "corrected", "label": label, "inputs": {"age": 41}}
    assert server.post("/v1/feedback", feedback).status == 201


def labels(server: Served) -> set[str]:
    return {row["label"] for row in server.get("/v1/corrections?model=credit&limit=1000").json["corrections"]}


def released(server: Served) -> bytes:
    (release,) = server.get("/v1/dataset/releases?model=credit").json["releases"]
    return server.get(f"/v1/dataset/releases/{release['id']}?format=jsonl").body


def test_a_backup_under_load_is_restored(folder: Path, run: Run) -> None:
    """It has every correction acknowledged before it began, releases and windows; the files before are kept."""
    server = Served(folder).start()
    acknowledged: list[str] = []
    stop = threading.Event()

    def users() -> None:
        while not stop.is_set():
            server.post("/v1/predictions", [{**PREDICTION, "id": f"p-{len(acknowledged)}"}])
            correct(server, f"c-{len(acknowledged)}")
            acknowledged.append(f"c-{len(acknowledged)}")

    users_thread = threading.Thread(target=users)
    try:
        correct(server, "released")
        (first,) = server.get("/v1/corrections").json["corrections"]
        decision = [{"id": first["id"], "revision": first["revision"], "status": "accepted"}]
        assert ask(f"{server.url}/v1/corrections", decision, "PATCH").status == 200
        assert server.post("/v1/dataset/releases", {"model": "credit", "name": "one"}).status == 201
        release = released(server)
        users_thread.start()
        eventually(lambda: len(acknowledged) > 30, 60)
        before = set(acknowledged)
        target = folder / "backup.db"
        name = "model_exporter_last_backup_timestamp_seconds"
        assert server.samples(name) == {name: 0}
        assert "verified: " in run("backup", config_of(folder), target).out
        assert abs(server.samples(name)[name] - time.time()) < 60
        stop.set()
        users_thread.join()
        assert [path.name for path in folder.glob("backup*")] == ["backup.db"]  # neither a log nor a partial file
        assert target.stat().st_mode & 0o077 == 0
        assert "is in use by another exporter, process" in run("restore", config_of(folder), target, status=1).err
    finally:
        stop.set()
        server.stop()
    run("restore", config_of(folder), target)
    assert len(list((folder / "data").glob("store.db.replaced-*"))) == 1
    with server.start():
        restored = labels(server)
        assert before | {"released"} <= restored <= set(acknowledged) | {"released", f"c-{len(acknowledged)}"}
        assert released(server) == release
        assert server.get("/-/ready").text == "model-exporter is ready.\n"


def test_a_backup_of_a_killed_exporter_has_its_log(folder: Path, run: Run) -> None:
    """The backup has what was only in the write-ahead log, and a log beside the database is not applied to it."""
    server = Served(folder).start()
    correct(server, "kept")
    server.stop(9)
    run("backup", config_of(folder), folder / "backup.db")
    server.start()
    correct(server, "later")
    server.stop(9)
    assert (folder / "data" / "store.db-wal").stat().st_size
    run("restore", config_of(folder), folder / "backup.db")
    with server.start():
        assert labels(server) == {"kept"}


def test_a_directory_gets_a_file_named_by_the_time(folder: Path, run: Run) -> None:
    """Backups of a timer do not need a name."""
    Served(folder).start().stop()
    (folder / "backups").mkdir()
    printed = run("backup", config_of(folder), folder / "backups").out
    (file,) = (folder / "backups").iterdir()
    assert printed.startswith(f"{file}: ")


def damage(path: Path) -> str:
    """Overwrite an index entry, so that SQLite still opens the file."""
    data = bytearray(path.read_bytes())
    position = data.rindex(b"p-1")
    data[position : position + 3] = b"q-9"
    path.write_bytes(data)
    return "is damaged: "


def cut(path: Path) -> str:
    os.truncate(path, path.stat().st_size // 2)
    return "malformed"


def foreign(path: Path) -> str:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE schema (version)")
    return "expected a database of model-exporter"


def no_database(path: Path) -> str:
    path.write_text("a text " * 1000)
    return "is not a backup: file is not a database"


def missing(path: Path) -> str:
    path.unlink()
    return "does not exist"


def newer(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE schema SET version = 99")
        database.commit()
    return "has schema 99, newer than this version understands"


def other_release(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE releases SET sha256 = 'other'")
        database.commit()
    return "the content of the release one does not match its SHA-256"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a backup that has a prediction and a release."""
    folder = tmp_path_factory.mktemp("example")
    write_config(folder, {**CONFIG, "store": {"url": "sqlite:///data/store.db"}})
    server = Served(folder).start()
    server.post("/v1/predictions", PREDICTION)
    correct(server, "no")
    (row,) = server.get("/v1/corrections").json["corrections"]
    ask(server.url + "/v1/corrections", [{"id": row["id"], "revision": row["revision"], "status": "accepted"}], "PATCH")
    assert server.post("/v1/dataset/releases", {"model": "credit", "name": "one"}).status == 201
    assert server.stop() == 0
    assert run_command("backup", config_of(folder), str(folder / "backup.db")).returncode == 0
    return folder


@pytest.mark.parametrize("spoil", [damage, cut, foreign, no_database, missing, newer, other_release])
def test_a_wrong_backup_is_refused(example: Path, tmp_path: Path, run: Run, spoil: object) -> None:
    """A backup that is damaged or is something else is not restored, and the database stays as it is."""
    file = tmp_path / "backup.db"
    file.write_bytes((example / "backup.db").read_bytes())
    assert callable(spoil)
    expected = spoil(file)
    before = (example / "data" / "store.db").read_bytes()
    assert expected in run("restore", config_of(example), file, status=1).err
    assert (example / "data" / "store.db").read_bytes() == before


def test_a_restore_that_cannot_copy_leaves_the_database(example: Path, run: Run) -> None:
    """The database keeps its name until the copy of the backup is complete."""
    database = example / "data" / "store.db"
    before = database.read_bytes()
    partial, lock = Path(f"{database}.partial"), Path(f"{database}.lock")
    partial.touch()
    if os.geteuid() == 0:  # what root creates must not keep the exporter's user from starting
        lock.unlink()
        os.chown(database, 1234, 1234)
    assert f"{partial} exists" in run("restore", config_of(example), example / "backup.db", status=1).err
    partial.unlink()
    assert database.read_bytes() == before
    assert lock.stat().st_uid == database.stat().st_uid
    assert not list(database.parent.glob("*.replaced-*"))


def test_an_existing_file_is_not_overwritten(example: Path, run: Run) -> None:
    """A second backup needs a name of its own."""
    before = (example / "backup.db").read_bytes()
    command = ("backup", config_of(example))
    assert "exists already; choose another name" in run(*command, example / "backup.db", status=1).err
    assert (example / "backup.db").read_bytes() == before
    refused = run(*command, example / "missing" / "backup.db", status=1).err
    assert "cannot be written: No such file or directory" in refused


def test_a_copy_that_fails_its_check_is_no_backup(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """A source whose release does not fit its hash gives an error and no file."""
    config = {**CONFIG, "store": {"url": "sqlite:///store.db"}}
    write_config(tmp_path, config)
    (tmp_path / "store.db").write_bytes((example / "backup.db").read_bytes())
    other_release(tmp_path / "store.db")
    assert "does not match its SHA-256" in run("backup", config_of(tmp_path), tmp_path / "backup.db", status=1).err
    assert not list(tmp_path.glob("backup.db*"))


def test_postgresql_has_its_own_tool(tmp_path: Path, run: Run) -> None:
    """The message names pg_dump, and shows no password."""
    store = {"url": "postgresql://exporter:secret@db.example/monitoring"}
    (tmp_path / "exporter.yml").write_text(yaml.safe_dump({"models": [{"name": "m"}], "store": store}))
    error = run("backup", config_of(tmp_path), tmp_path / "backup.db", status=1).err
    assert "back it up with pg_dump --format=custom" in error
    assert "secret" not in error
