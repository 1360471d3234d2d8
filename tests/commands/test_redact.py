"""What is redacted after it was stored: gone from every route, and with `model-exporter redact` from the database."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from support.batches import stored_batch
from support.memory import allocating
from support.processes import run_command
from support.servers import Served, ask, eventually, write_config

from exporter.config import StoreConfig
from exporter.errors import StoreError
from exporter.storage._database import feedback, migrate, open_database, open_engine, predictions, retrain_requests
from exporter.storage._predictions import InputsReader, insert_predictions, prediction_rows, store_inputs
from exporter.storage._redaction import redact_rows
from exporter.wire.events import Prediction

SECRET = "Ada Lovelace 1815"
OTHER = "kept-note"
FORMATS = ("jsonl", "csv", "parquet", "label-studio")


def configuration(database: str, *redact: str) -> dict[str, Any]:
    loans = {"name": "loans", "redact": list(redact)}
    return {"store": {"url": database}, "models": [loans, {"name": "other"}]}


@pytest.fixture
def folder(tmp_path: Path, database: str) -> Path:
    """The folder of an exporter that redacts nothing."""
    write_config(tmp_path, configuration(database))
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[Served]:
    """An exporter that stored a name in every way, before that is redacted; it is in a release, too."""
    served = Served(folder).start()
    inputs = [
        json.dumps({"name": SECRET, "note": OTHER, "age": 41}),
        f'{{"n\\u0061me": "{SECRET}", "note": "{OTHER}\\u002e\\n"}}',
        f'{{"name":"{SECRET}","name":"{SECRET}2","note":"{OTHER}"}}',
    ]
    for number, text in enumerate(inputs):
        body = f'{{"id": "p-{number}", "model": "loans", "prediction": "yes", "confidence": 0.9, "inputs": {text}}}'
        assert served.post("/v1/predictions", body.encode()).status == 202
    other = {"id": "o", "model": "other", "prediction": "yes", "confidence": 0.9, "inputs": {"name": SECRET}}
    assert served.post("/v1/predictions", other).status == 202
    feedback = [{"prediction_id": name, "verdict": "corrected", "label": "no"} for name in ("p-0", "p-1", "p-2", "o")]
    feedback.append({"model": "loans", "prediction": "yes", "label": "no", "inputs": {"name": SECRET, "note": OTHER}})
    assert served.post("/v1/feedback", feedback).status == 201
    corrections = eventually(lambda: (found := queue(served)) and len(found) == 5 and found)
    decisions = [{"id": each["id"], "revision": 1, "status": "accepted"} for each in corrections]
    assert ask(f"{served.url}/v1/corrections", decisions, "PATCH").status == 200
    assert served.post("/v1/dataset/releases", {"model": "loans", "name": "before"}).status == 201
    yield served
    served.stop()


def queue(server: Served, query: str = "") -> list[dict[str, Any]]:
    corrections: list[dict[str, Any]] = server.get(f"/v1/corrections?limit=100&{query}").json["corrections"]
    return corrections


def redact(server: Served, *names: str) -> None:
    """Redact inputs in the configuration of a running exporter."""
    path = server.folder / "exporter.yml"
    document = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(configuration(document["store"]["url"], *names)))
    assert server.post("/-/reload", b"").status == 200


def command(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return run_command("redact", f"--config.file={folder / 'exporter.yml'}", *flags)


@pytest.mark.parametrize("whose", [["--user=ada"], ["--prediction=p-1", "--model=loans"]])
def test_a_person_or_a_prediction_is_forgotten(server: Served, folder: Path, whose: list[str]) -> None:
    """Its prediction, label, feedback, history and example go, also while serving; everything else stays."""
    assert server.post("/v1/labels", {"prediction_id": "p-1", "label": "no"}).json["joined"] == 1
    assert server.post("/v1/predictions", {"id": "p-1", "model": "other", "inputs": {"name": OTHER}}).status == 202
    eventually(lambda: server.get("/v1/predictions/p-1?model=other").status == 200)
    replaced = {"prediction_id": "p-1", "model": "loans", "verdict": "accepted", "user": "ada"}
    for feedback_ in (replaced, replaced | {"user": "bob"}):
        assert server.post("/v1/feedback", feedback_).status == 201
    before = server.get("/v1/dataset/releases/before?format=jsonl").text.splitlines()
    config = f"--config.file={folder / 'exporter.yml'}"
    copy_secret(folder)
    counts = ["release before: 1 examples {0}"]
    counts += [f"{table}: 1 rows {{0}}" for table in ("predictions", "feedback", "labels", "requests for retraining")]
    counted = run_command("forget", config, *whose, "--dry-run")
    assert counted.stdout.splitlines() == [line.format("found") for line in counts]
    assert server.get("/v1/predictions/p-1?model=loans").json["feedback"]["user"] == "bob"
    forgotten = run_command("forget", config, *whose)
    assert forgotten.returncode == 0, forgotten.stderr
    removed = [line.partition(",")[0] for line in forgotten.stdout.splitlines()]
    assert removed == [line.format("removed") for line in counts]
    assert "backups" in forgotten.stderr
    assert server.get("/v1/predictions/p-1?model=loans").status == 404
    assert server.get("/v1/predictions/p-1?model=other").json["inputs"] == {"name": OTHER}
    assert {server.get(f"/v1/predictions/p-{n}").status for n in (0, 2)} == {200}
    assert "p-1" not in [one["prediction_id"] for one in queue(server)]
    (release,) = server.get("/v1/dataset/releases").json["releases"]
    assert (release["examples"], release["lineage"]["forgotten"]) == (len(before) - 1, 1)
    after = server.get("/v1/dataset/releases/before?format=jsonl")
    assert after.text.splitlines() == [line for line in before if '"p-1"' not in line]
    assert release["sha256"] in forgotten.stdout
    again = run_command("forget", config, *whose)
    assert again.stdout.splitlines() == [line.format("removed").replace("1", "0") for line in counts[1:]]


def test_a_labelled_example_is_forgotten(server: Served, folder: Path) -> None:
    """A prediction that is in a release for its ground truth goes like a correction; its inputs are redacted there."""
    event = {"id": "p-9", "model": "loans", "prediction": "yes", "inputs": {"name": SECRET, "age": 41}}
    assert server.post("/v1/predictions", event).status == 202
    eventually(lambda: server.post("/v1/labels", {"prediction_id": "p-9", "label": "no"}).json["joined"] == 1)
    redact(server, "name")
    made = server.post("/v1/dataset/releases", {"model": "loans", "name": "more", "include": ["labelled"]}).json
    assert made["lineage"]["sources"] == {"correction": 4, "labelled": 1}
    lines = server.get("/v1/dataset/releases/more?format=jsonl").text.splitlines()
    assert json.loads(lines[-1]).items() >= {"prediction_id": "p-9", "inputs": {"age": 41}, "weight": 1.0}.items()
    forgotten = run_command("forget", f"--config.file={folder / 'exporter.yml'}", "--prediction=p-9", "--model=loans")
    assert "release more: 1 examples removed" in forgotten.stdout
    assert server.get("/v1/dataset/releases/more?format=jsonl").text.splitlines() == lines[:-1]


def responses(server: Served) -> Iterator[bytes]:
    """Everything that the exporter says of the model's rows."""
    for path in (
        "/",
        "/drift",
        "/metrics",
        "/review?status=all&model=loans",
        "/review?status=all&view=table&model=loans",
    ):
        yield server.get(path).body
    yield server.get("/v1/corrections?model=loans").body
    for each in queue(server, "model=loans"):
        yield server.get(f"/v1/corrections/{each['id']}").body
        decision = {"status": "accepted", "revision": each["revision"]}
        for _ in range(2):  # a conflict shows the correction
            yield ask(f"{server.url}/v1/corrections/{each['id']}", decision, "PATCH").body
        decision |= {"id": each["id"], "revision": each["revision"] + 1}
        yield ask(f"{server.url}/v1/corrections", [decision], "PATCH").body
    for form in FORMATS:
        yield server.get(f"/v1/dataset?model=loans&format={form}").body
        yield server.get(f"/v1/dataset/releases/before?format={form}").body
    yield server.post("/v1/dataset/releases", {"model": "loans"}).body
    yield server.get("/v1/dataset/releases?model=loans").body


def stored(folder: Path, model: str = "loans") -> list[str]:
    """The inputs in the database."""
    url = yaml.safe_load((folder / "exporter.yml").read_text())["store"]["url"]
    engine = open_engine(StoreConfig(url=url))
    with engine.connect() as connection:
        rows = connection.execute(sa.select(predictions).where(predictions.c.model == model)).mappings()
        reader = InputsReader(connection)
        result = [str(reader.text(row)) for row in rows.all()]
        result += map(str, connection.execute(sa.select(feedback.c.inputs).where(feedback.c.model == model)).scalars())
    engine.dispose()
    return result


def copy_secret(folder: Path) -> None:
    """Let a segment and a waiting request for retraining hold a redacted value, as if they came from it."""
    url = yaml.safe_load((folder / "exporter.yml").read_text())["store"]["url"]
    engine = open_engine(StoreConfig(url=url))
    request = {"id": "r", "reason": "manual", "created": 0.0, "context": "{}", "body": SECRET, "attempts": 0}
    with engine.begin() as connection:
        for model in ("loans", "other"):
            connection.execute(retrain_requests.insert().values(request | {"id": model, "model": model}))
        connection.execute(predictions.update().values(segment=SECRET))
        connection.execute(feedback.update().values(segment=SECRET))
    engine.dispose()


def copies(folder: Path, model: str) -> set[str | None]:
    """The segments of a model in the database, and its requests for retraining."""
    url = yaml.safe_load((folder / "exporter.yml").read_text())["store"]["url"]
    engine = open_engine(StoreConfig(url=url))
    columns = (feedback.c.segment, predictions.c.segment, retrain_requests.c.body)
    queries = (sa.select(column).where(column.table.c.model == model) for column in columns)
    with engine.connect() as connection:
        found = {value for query in queries for value in connection.execute(query).scalars()}
    engine.dispose()
    return found


def test_what_is_redacted_later_is_gone_everywhere(server: Served, folder: Path) -> None:
    """No route returns it, the search does not find it, and the command removes it while the exporter runs."""
    secret = SECRET.encode()
    assert any(secret in body for body in responses(server))
    assert len(queue(server, "q=lovelace")) == 5
    redact(server, "name")
    assert not any(secret in body for body in responses(server))
    assert [each["model"] for each in queue(server, "q=lovelace")] == ["other"]
    assert "name: redacted, never shown" in server.get("/review?status=all&model=loans").text
    frozen = server.get("/v1/dataset/releases/before?format=jsonl")
    assert (frozen.headers["ETag"], frozen.text.count(OTHER)) == (None, 4)
    result = run_command("dataset", "export", "before", "-o", str(folder / "a.jsonl"), f"--exporter={server.url}")
    assert (result.returncode, "are left out" in result.stderr) == (0, True), result.stderr

    before = server.get("/v1/dataset/releases/before", Accept="application/json").json
    copy_secret(folder)
    result = command(folder, "--dry-run")
    assert (result.returncode, result.stdout.splitlines()) == (
        0,
        [
            "loans: name",
            "predictions: 3 rows contain redacted inputs",
            "feedback: 4 rows contain redacted inputs",
            "release before: contains redacted inputs",
            "requests for retraining: 1 rows contain redacted inputs",
            "segments: 7 rows contain redacted inputs",
        ],
    ), result.stderr
    assert SECRET in "".join(stored(folder))
    result = command(folder)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:3] == ["loans: name", "predictions: 3 rows cleaned", "feedback: 4 rows cleaned"]
    assert lines[3].startswith("release before: rewritten, SHA-256 ")
    assert SECRET not in "".join(stored(folder))
    assert SECRET in "".join(stored(folder, "other"))
    assert (copies(folder, "loans"), copies(folder, "other")) == ({None}, {SECRET})
    assert len(queue(server, f"q={OTHER}&model=loans")) == 4

    after = server.get("/v1/dataset/releases/before", Accept="application/json").json
    assert after["lineage"].pop("redacted_from") == before["sha256"]
    unchanged = before | {"sha256": after["sha256"], "bytes": after["bytes"]}
    assert after == unchanged
    frozen = server.get("/v1/dataset/releases/before?format=jsonl")
    assert (frozen.headers["ETag"], len(frozen.body)) == (f'"{after["sha256"]}"', after["bytes"])
    assert server.post("/v1/dataset/releases", {"model": "loans", "name": "before"}).status in {200, 409}
    result = command(folder)
    assert result.stdout.splitlines() == ["loans: name", "predictions: 0 rows cleaned", "feedback: 0 rows cleaned"]
    late = {"prediction_id": "p-0", "verdict": "corrected", "label": "maybe"}
    assert server.post("/v1/feedback", late).status == 201
    assert "Traceback" not in server.log.read_text()


def test_a_profile_of_stored_predictions_leaves_it_out(server: Served, folder: Path) -> None:
    """The categories of a profile are values, so a redacted input is in none, cleaned or not."""
    redact(server, "name")
    arguments = ["profile", "--from-store", f"--config.file={folder / 'exporter.yml'}", "--model=loans"]
    profile = folder / "profile.json"
    result = run_command(*arguments, f"--output={profile}")
    assert result.returncode == 0, result.stderr
    assert set(json.loads(profile.read_text())["inputs"]) == {"note", "age"}
    assert SECRET not in profile.read_text()


def test_nothing_is_left_in_the_file(tmp_path: Path) -> None:
    """After the command, the file of SQLite and its write-ahead log hold no copy."""
    path = tmp_path / "store.db"
    write_config(tmp_path, configuration(f"sqlite:///{path}"))
    server = Served(tmp_path).start()
    for first in (0, 100, 200):
        numbers = range(first, first + 100)
        events = [{"model": "loans", "inputs": {"name": f"{SECRET}-{n}", "note": "x" * 3000}} for n in numbers]
        assert server.post("/v1/predictions", events).status == 202
        eventually(lambda: len(stored(tmp_path)) == numbers.stop)  # noqa: B023 (called at once)
    redact(server, "name")
    result = command(tmp_path)
    assert result.returncode == 0, result.stderr
    assert "predictions: 300 rows cleaned" in result.stdout
    assert SECRET not in "".join(stored(tmp_path))
    server.stop()
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    for file in tmp_path.glob("store.db*"):
        assert SECRET.encode() not in file.read_bytes(), file


def test_rows_are_cleaned_in_bounded_memory(tmp_path: Path) -> None:
    """However small inputs are compressed, not all of a step are decompressed at the same time."""
    config = StoreConfig(url=f"sqlite:///{tmp_path / 'store.db'}")
    migrate(config)
    events = [Prediction("loans", id=f"p-{n}") for n in range(60)]
    batch = stored_batch(events, [True] * 60, [b'{"name": "Ada", "note": "%b"}' % (b"x" * 10**6)] * 60, 0.0)
    with open_database(config) as connection:
        with connection.begin():
            rows = [prediction_rows(batch)]
            store_inputs(connection, rows)
            insert_predictions(connection, rows)
        with allocating(15e6):
            assert redact_rows(connection, "predictions", {"loans": ["name"]}, dry_run=False) == (60, 60)


def test_a_second_command_is_refused(database: str, tmp_path: Path) -> None:
    """Two commands at once would write the same rows and files; those of another database are others."""
    config = StoreConfig(url=database)
    migrate(config)
    second = open_database(config)
    with open_database(config), pytest.raises(StoreError, match="another redact or archive command is running"):
        second.__enter__()
    other = StoreConfig(url=f"sqlite:///{tmp_path / 'other.db'}")
    migrate(other)
    with open_database(config), open_database(other):
        pass


def test_rows_that_are_stored_meanwhile_are_cleaned(server: Served, folder: Path) -> None:
    """The exporter goes on storing while the command runs, and nothing of either is lost."""
    redact(server, "name")
    for number in range(200):
        event = {"id": f"m-{number}", "model": "loans", "prediction": "yes", "inputs": {"name": SECRET, "note": OTHER}}
        assert server.post("/v1/predictions", event).status == 202
        if number in {50, 100}:
            assert command(folder).returncode == 0
    eventually(lambda: len(stored(folder)) == 3 + 200 + 4)
    assert SECRET not in "".join(stored(folder))
    assert "".join(stored(folder)).count(OTHER) == 3 + 200 + 4


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"models": [{"name": "loans"}]}, "no model has redact: there is nothing to remove"),
        ({"models": [{"name": "loans", "redact": ["name"]}]}, "store.url: there is no database sqlite:///"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, document: dict[str, Any], message: str) -> None:
    """Without anything to redact, or without a database, the command says so and makes none."""
    write_config(tmp_path, document)
    result = command(tmp_path)
    assert (result.returncode, message in result.stderr) == (1, True), result.stderr
    assert not (tmp_path / "data").exists()
