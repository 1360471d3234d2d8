"""What docs/reliability.md promises and no other test shows: disks, damaged files, clocks, memory that stays."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.postgres import Postgres
from support.servers import CONFIG, Served, eventually, serving, write_config

from exporter.config import StoreConfig
from exporter.server.application import STOP_SECONDS, Exporter
from exporter.server.flask_app import create_app
from exporter.storage import _retention as retention
from exporter.storage import _sqlite as quarantine
from exporter.storage._retention import HOLD_SECONDS, Retention, StoreSize

FEEDBACK = {"prediction_id": "p-1", "verdict": "corrected", "label": "no"}
PREDICTION = {"id": "p-1", "model": "credit", "version": "3", "inputs": {"age": 41}, "prediction": "yes"}
DAMAGED = "model_exporter_store_damaged_files"


def test_versions_that_are_gone_take_no_memory(tmp_path: Path) -> None:
    """However often models change, while they are scraped and drawn, only current versions are in memory."""
    write_config(tmp_path)
    exporter = Exporter(tmp_path / "exporter.yml")
    page = create_app(exporter).test_client()
    seen = []
    try:
        for number in range(5):
            name = f"model-{number}"
            write_config(tmp_path, {"models": [{"name": name, "profile": "credit.json"}]})
            exporter.reloader.reload()
            assert page.post("/v1/predictions", json={"model": name, "version": "1"}).status_code == 202
            exporter.pipeline.settle(5)
            seen += [weakref.ref(monitor) for monitor in exporter.pipeline.monitors]
            exporter.metrics("", [])
            for path in ("/", "/drift", f"/drift?model={name}"):
                assert page.get(path).status_code == 200
        gc.collect()
        assert [reference() is not None for reference in seen] == [False, False, False, False, True]
    finally:
        exporter.close()


# --- damaged files ---------------------------------------------------------------------------


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "no database": lambda _: b"garbage" * 5000,
    "no header": lambda data: b"\0" * 100 + data[100:],
    "overwritten pages": lambda data: data[:8192] + os.urandom(4096 * 4) + data[8192 + 4096 * 4 :],
    "cut": lambda data: data[: len(data) // 2],
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_damaged_database_is_set_aside_and_reported(tmp_path: Path, how: str) -> None:
    """The exporter starts with an empty database, reports it in log and metric, and keeps the damaged one unchanged."""
    write_config(tmp_path, {**CONFIG, "store": {"url": "sqlite:///store.db"}})
    server = Served(tmp_path).start()
    server.post("/v1/predictions", [{**PREDICTION, "id": f"p-{number}"} for number in range(200)])
    assert server.post("/v1/feedback", FEEDBACK).status == 201
    assert server.samples(DAMAGED) == {DAMAGED: 0}
    assert server.stop() == 0
    path = tmp_path / "store.db"
    spoilt = SPOILT[how](path.read_bytes())
    path.write_bytes(spoilt)
    with server.start():
        (aside,) = tmp_path.glob("store.db.damaged-*")
        assert aside.read_bytes() == spoilt
        assert f"it was set aside as {aside}" in server.log.read_text()
        assert server.samples(DAMAGED) == {DAMAGED: 1}
        assert server.post("/v1/feedback", FEEDBACK).status == 201
        aside.unlink()
        assert server.samples(DAMAGED) == {DAMAGED: 0}


def test_an_unclosed_database_is_kept(tmp_path: Path) -> None:
    """After kill -9 the file and its log are used as they are."""
    write_config(tmp_path, {**CONFIG, "store": {"url": "sqlite:///store.db"}})
    with serving(tmp_path) as server:
        assert server.post("/v1/feedback", FEEDBACK).status == 201
        server.stop(signal.SIGKILL)
        assert (tmp_path / "store.db-wal").stat().st_size
        server.start()
        assert server.post("/v1/feedback", FEEDBACK).status == 200
        assert server.samples(DAMAGED) == {DAMAGED: 0}


def _killed_with_feedback(folder: Path, number: int = 10) -> Served:
    """Return an exporter that was killed after this number of commits of feedback, all of them in its log."""
    write_config(folder, {**CONFIG, "store": {"url": "sqlite:///store.db"}})
    server = Served(folder).start()
    for count in range(number):
        feedback = {"model": "credit", "prediction": "yes", "verdict": "corrected", "label": f"no-{count}"}
        assert server.post("/v1/feedback", feedback).status == 201
    server.stop(signal.SIGKILL)
    return server


def _labels(server: Served) -> set[str]:
    return {row["label"] for row in server.get("/v1/corrections?limit=100").json["corrections"]}


@pytest.mark.parametrize("part", ["header", "frame"])
def test_a_damaged_write_ahead_log_is_reported(tmp_path: Path, part: str) -> None:
    """What SQLite cannot read of its log is copied, logged and counted; the transactions before it are kept."""
    server = _killed_with_feedback(tmp_path)
    log = tmp_path / "store.db-wal"
    data = bytearray(log.read_bytes())
    start = 0 if part == "header" else len(data) * 3 // 4
    data[start : start + 64] = os.urandom(64)
    log.write_bytes(data)
    with server.start():
        (aside,) = tmp_path.glob("store.db.damaged-*-wal")
        assert aside.read_bytes() == data
        text = server.log.read_text()
        assert "transactions cannot be read" in text
        assert str(aside) in text
        assert server.samples(DAMAGED) == {DAMAGED: 1}
        assert "warning: a damaged database" in server.get("/-/ready").text
        kept = _labels(server)
        assert kept == {f"no-{count}" for count in range(len(kept))}
        assert len(kept) < 10
        if part == "frame":
            assert kept
        aside.unlink()
        assert server.samples(DAMAGED) == {DAMAGED: 0}
        assert server.get("/-/ready").text == "model-exporter is ready.\n"


@pytest.mark.parametrize("rest", ["nothing", "log"])
def test_an_empty_database_is_reported(tmp_path: Path, rest: str) -> None:
    """A file of zero bytes, or a log without its file, is set aside with its log, which SQLite would delete."""
    server = _killed_with_feedback(tmp_path)
    path, log = tmp_path / "store.db", tmp_path / "store.db-wal"
    data = log.read_bytes()
    if rest == "nothing":
        os.truncate(path, 0)
    else:
        path.unlink()
    with server.start():
        (aside,) = tmp_path.glob("store.db.damaged-*-wal")
        assert aside.read_bytes() == data
        expected = "the file is empty" if rest == "nothing" else "the file is gone, and its write-ahead log is"
        assert expected in server.log.read_text()
        assert server.samples(DAMAGED) == {DAMAGED: 1}
        assert "warning: a damaged database" in server.get("/-/ready").text
        assert server.post("/v1/feedback", FEEDBACK).status == 201


def _move_folder(data: Path) -> None:
    data.rename(data.with_name("moved"))


def _overwrite_log(data: Path) -> None:
    with (data / "store.db-wal").open("r+b") as log:
        log.write(os.urandom(4096))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (shutil.rmtree, "was deleted"),
        (_move_folder, "was deleted"),
        (
            lambda data: Path(shutil.copy(data / "store.db", data / "copy")).rename(data / "store.db"),
            "was replaced by another file",
        ),
        (lambda data: os.truncate(data / "store.db", 0), "was cut to 0 bytes"),
        (lambda data: os.truncate(file := data / "store.db", file.stat().st_size // 8192 * 4096), "was cut to"),
        (lambda data: (data / "store.db-wal").unlink(), "-wal was deleted"),
        (_overwrite_log, "-wal was overwritten or cut"),
    ],
)
def test_a_database_that_is_deleted_or_cut_is_no_longer_used(
    tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    """Without any traffic it is logged, counted and not ready; feedback is refused with the reason."""
    write_config(tmp_path, {**CONFIG, "store": {"url": "sqlite:///data/store.db"}})
    server = Served(tmp_path).start()
    failures = "model_exporter_store_errors_total"
    with server:
        assert server.post("/v1/feedback", FEEDBACK).status == 201
        spoil(tmp_path / "data")
        eventually(lambda: server.get("/-/ready").status == 503)
        eventually(lambda: reason in server.log.read_text())  # it is logged a moment later
        before = server.samples(failures)[failures]
        assert before
        eventually(lambda: server.samples(failures)[failures] > before)
        for _ in range(5):
            refused = server.post("/v1/feedback", {**FEEDBACK, "prediction_id": "p-2"})
            assert refused.status == 503
            assert reason in refused.json["detail"]
        assert server.log.read_text().count("a write failed") == 1
        assert "Traceback" not in server.log.read_text()
        if spoil is _move_folder:
            (tmp_path / "moved").rename(tmp_path / "data")
            eventually(lambda: server.get("/-/ready").status == 200)
            assert server.post("/v1/feedback", {**FEEDBACK, "prediction_id": "p-2"}).status == 201


def test_other_programs_may_use_the_database(tmp_path: Path) -> None:
    """A checkpoint and VACUUM of another program are no faults."""
    write_config(tmp_path, {**CONFIG, "store": {"url": "sqlite:///store.db"}})
    with serving(tmp_path) as server:
        events = [{**PREDICTION, "id": f"p-{number}", "inputs": {"age": "x" * 1000}} for number in range(3000)]
        assert server.post("/v1/predictions", events).status == 202
        with contextlib.closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as other:
            eventually(lambda: other.execute("SELECT count(*) FROM predictions").fetchone() == (3000,))
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            size = (tmp_path / "store.db").stat().st_size
            assert server.post("/v1/feedback", FEEDBACK).status == 201
            other.execute("DELETE FROM predictions")
            for number in range(3):
                other.execute("VACUUM")
                other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                assert server.post("/v1/feedback", {**FEEDBACK, "prediction_id": f"q-{number}"}).status == 201
            assert (tmp_path / "store.db").stat().st_size < size
        assert server.get("/-/ready").status == 200
        assert server.samples("model_exporter_store_errors_total") == {"model_exporter_store_errors_total": 0}


def test_a_second_exporter_on_the_same_file_does_not_start(tmp_path: Path) -> None:
    """It names the file and the process that uses it; the first goes on, and the lock ends with a killed process."""
    write_config(tmp_path, {**CONFIG, "store": {"url": "sqlite:///store.db"}})
    (tmp_path / "link.db").symlink_to(tmp_path / "store.db")
    (tmp_path / "second").mkdir()
    write_config(tmp_path / "second", {**CONFIG, "store": {"url": f"sqlite:///{tmp_path}/link.db"}})
    first, second = Served(tmp_path).start(), Served(tmp_path / "second")
    with first, second:
        in_use = f"{tmp_path}/store.db is in use by another exporter, process {first.process.pid}"
        assert in_use in second.refused()
        assert first.post("/v1/feedback", FEEDBACK).status == 201
        first.stop(signal.SIGKILL)
        second.start()
        assert second.post("/v1/feedback", FEEDBACK).status == 200


def test_the_damage_check_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that is too large to check at the start is used as it is, and so is one in use."""
    path = tmp_path / "large.db"
    with sqlite3.connect(path) as connection:
        rows = "pragma_function_list a, pragma_function_list b LIMIT 9999"
        connection.execute(f"CREATE TABLE t AS SELECT hex(randomblob(500)) FROM {rows}")
    config = StoreConfig(url=f"sqlite:///{path}")
    monkeypatch.setattr(quarantine, "CHECK_SECONDS", 0.0)
    quarantine.quarantine(config)
    with sqlite3.connect(path, isolation_level=None) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        quarantine.quarantine(config)
    assert [file.name for file in tmp_path.iterdir()] == ["large.db"]


# --- disks -----------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=False).returncode:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full_or_read_only_is_a_clear_answer(tmp_path: Path, disk: Path) -> None:
    """Feedback is refused with the reason, scrapes continue, waiting data are written once there is space."""
    write_config(tmp_path, {**CONFIG, "store": {"url": f"sqlite:///{disk}/store.db"}})
    server = Served(tmp_path).start()
    feedback = {**FEEDBACK, "label": "x" * 90_000}

    def refused(reason: str) -> None:
        answer = server.post("/v1/feedback", feedback, Idempotency_Key="k")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert reason in answer.json["detail"]
        assert server.samples("model_exporter_store_errors_total")["model_exporter_store_errors_total"] > 0

    with server:
        assert server.post("/v1/feedback", {**FEEDBACK, "prediction_id": "first"}).status == 201
        filler = disk / "filler"
        with filler.open("wb") as file, pytest.raises(OSError, match="No space left"):
            while True:
                os.write(file.fileno(), bytes(4096))
        refused("database or disk is full")
        ready = server.get("/-/ready").text
        assert re.search(r"warning: the database refuses writes since 2\S+Z: .*disk is full", ready), ready
        assert server.samples("model_exporter_store_up") == {"model_exporter_store_up": 0}
        assert server.post("/v1/predictions", PREDICTION).status == 202
        assert any("attempts_total" in series for series in server.samples("model_attempts_total"))
        filler.unlink()
        assert server.post("/v1/feedback", feedback, Idempotency_Key="k").status == 201
        assert "refuses" not in server.get("/-/ready").text
        assert server.samples("model_exporter_store_up") == {"model_exporter_store_up": 1}
        server.stop()
        server.start()
        assert server.post("/v1/feedback", feedback, Idempotency_Key="k").json["joined"] is True
        server.stop()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert "store.url: cannot open" in server.refused().splitlines()[-1]
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        server.start()
        assert server.post("/v1/feedback", {**FEEDBACK, "prediction_id": "last"}).status == 201


# --- clocks ----------------------------------------------------------------------------------


class Clock:
    """Wall clock and monotonic clock that stand until they are moved."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_800_000_000.0, 1000.0

    def pass_(self, seconds: float) -> None:
        """Let time pass on both."""
        self.wall += seconds
        self.steady += seconds


@pytest.mark.parametrize("jump", [86400.0 * 365, -86400.0 * 365, 61.0, -61.0])
def test_a_clock_that_jumps_deletes_nothing_for_an_hour(monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    """Data that a clock jump makes too old are kept for an hour, so that the clock can be corrected."""
    clock = Clock()
    monkeypatch.setattr(retention.time, "time", lambda: clock.wall)
    monkeypatch.setattr(retention.time, "monotonic", lambda: clock.steady)
    rule = Retention(StoreConfig(retention="1d"), StoreSize(None))
    clock.pass_(86400.0)
    assert rule._oldest_kept() == clock.wall - 86400.0
    clock.wall += jump
    assert rule._oldest_kept() == -float("inf")
    clock.pass_(HOLD_SECONDS / 2)
    assert rule._oldest_kept() == -float("inf")
    clock.pass_(HOLD_SECONDS / 2)
    assert rule._oldest_kept() == clock.wall - 86400.0
    clock.wall += 30
    assert rule._oldest_kept() == clock.wall - 86400.0


def test_a_clock_that_jumps_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock of a real exporter goes back by 400 days and on by 800: windows, store and feedback continue."""
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    now = tmp_path / "now"
    now.write_text("+0")
    for name, value in {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": now,
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }.items():
        monkeypatch.setenv(name, str(value))
    now.write_text("-400d")
    if subprocess.run(
        [sys.executable, "-c", "import time; time.sleep(0.001)"], check=False, capture_output=True
    ).returncode:
        pytest.skip("needs a libfaketime with which time.sleep works: that of Debian 12 refuses it after a jump back")
    now.write_text("+0")
    write_config(tmp_path, {**CONFIG, "store": {"url": "sqlite:///store.db", "max_size": "1GB"}})
    server = Served(tmp_path, forked=False).start()
    monkeypatch.undo()
    window = 'model_feature_window_observations{model="credit",version="3",feature="age",window="5m"}'

    def predict(name: str) -> dict[str, Any]:
        assert server.post("/v1/predictions", {**PREDICTION, "id": name}).status == 202
        return {**FEEDBACK, "prediction_id": name}

    try:
        feedback = [predict("before")]
        for index, offset in enumerate(("-400d", "+400d")):
            (tmp_path / "next").write_text(offset)
            (tmp_path / "next").replace(now)  # at once: the library must not read half of it
            stamp = "model_system_memory_used_bytes"
            assert server.samples(stamp)
            feedback.append(predict(offset))
            assert server.samples()[window] == index + 2
            assert server.post("/v1/feedback", {**FEEDBACK, "prediction_id": f"late-{offset}"}).status == 201
        eventually(lambda: "the clock jumped by" in server.log.read_text())
        for item in feedback:
            assert server.post("/v1/feedback", item).json["joined"] is True
        assert server.post("/v1/feedback", feedback[0]).status == 200
    finally:
        assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()


def test_a_stop_ends_although_the_database_hangs(tmp_path: Path, postgres: Postgres) -> None:
    """Within the 30 s that Kubernetes gives, whatever waits for the database; what was not stored is reported."""
    write_config(tmp_path, {**CONFIG, "store": {"url": postgres.url()}})
    server = Served(tmp_path).start()
    try:
        assert server.post("/v1/feedback", FEEDBACK).status == 201
        postgres.freeze()
        assert server.post("/v1/predictions", [{**PREDICTION, "id": f"p-{n}"} for n in range(100)]).status == 202
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() < begun + STOP_SECONDS + 2
    finally:
        postgres.thaw()
        server.stop()
    assert "100 predictions were not written to the database before the exporter stopped" in server.log.read_text()
