"""Models that are added, changed and removed while the exporter runs, by the files of `models_folder`."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from flask.testing import FlaskClient
from support.processes import Run
from support.servers import write_config

from exporter.server.application import MAX_LOOKS, Exporter, ready
from exporter.server.flask_app import create_app
from exporter.wire.events import Prediction

SUCCESSFUL = "model_exporter_config_last_reload_successful"
PIPE = "models: [{name: x, profile: pipe}]"


class Fleet:
    """An exporter in this process and its folder of models."""

    def __init__(self, path: Path) -> None:
        self.exporter = Exporter(path)
        self.exporter.scheduler.close()  # the tests look themselves
        self.folder = path.parent / "models.d"
        self.client: FlaskClient = create_app(self.exporter).test_client()

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def look(self) -> list[str]:
        """Look twice; return the names of the models then."""
        for _ in range(2):
            try:
                self.exporter.file_watch.refresh()
            except Exception as error:
                self.exporter.file_watch.on_error(error)
        return sorted(self.exporter.pipeline.monitors.models)

    def valid(self) -> dict[str, float | None]:
        """The values of the metrics of the files."""
        text = self.exporter.metrics("", ())[0].decode()
        return {name: float(value) for name, value in re.findall(r'model_file_valid{file="(.*?)"} (\d)', text)}

    def successful(self) -> float | None:
        return self.exporter.registry.get_sample_value(SUCCESSFUL)

    def count(self, model: str, events: int) -> float:
        """Count predictions; return the attempts of all so far."""
        self.exporter.pipeline.submit([Prediction(model, version="1") for _ in range(events)], 1)
        assert self.exporter.pipeline.settle(10)
        return self.exporter.pipeline.monitors.get(model, "1", 0.0).counters.attempts


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """An exporter with the models own, of exporter.yml, and loans, of loans.yml in its folder."""
    path = write_config(tmp_path, {"models": [{"name": "own"}], "models_folder": "models.d"})
    (tmp_path / "models.d").mkdir()
    (tmp_path / "credit.json").rename(tmp_path / "models.d" / "credit.json")
    (tmp_path / "models.d" / "loans.yml").write_text("models: [{name: loans, profile: credit.json}]")
    fleet = Fleet(path)
    yield fleet
    fleet.exporter.close()


def test_files_add_change_and_remove_models(fleet: Fleet) -> None:
    """Nothing is read before two looks find the same; models that did not change keep their counters."""
    assert fleet.look() == ["loans", "own"]
    assert fleet.count("loans", 3) == fleet.count("own", 3) == 3
    fleet.write("cards.yml", "models: [{name: cards}]")
    fleet.exporter.file_watch.refresh()
    fleet.write("cards.yml", "models: [{name: cards}, {name: fraud}]")
    fleet.exporter.file_watch.refresh()
    assert "cards" not in fleet.exporter.pipeline.monitors.models
    assert fleet.look() == ["cards", "fraud", "loans", "own"]
    assert fleet.count("cards", 1) == 1 and fleet.count("loans", 1) == 4
    loaded = fleet.exporter.reloader.files
    assert fleet.look() and fleet.exporter.reloader.files is loaded, "a file that did not change is not read again"
    fleet.write("cards.yml", "models: [{name: cards, windows: [1h]}]")
    (fleet.folder / "loans.yml").unlink()
    assert fleet.look() == ["cards", "own"]
    assert fleet.count("cards", 1) == 1 and fleet.count("own", 1) == 4
    assert fleet.valid() == {"cards.yml": 1.0} and fleet.successful() == 1


def test_a_profile_that_is_built_again_is_read(fleet: Fleet) -> None:
    """A file whose profile is missing or invalid is tried again when the profile changes."""
    text = (fleet.folder / "credit.json").read_text()
    (fleet.folder / "credit.json").unlink()
    fleet.look()
    (fault,) = fleet.exporter.reloader.files.faults
    assert fault.kept == ("loans",) and "models[0].profile: " in fault.detail
    (fleet.folder / "credit.json").write_text(text.replace('"credit"', '"debit"'))
    fleet.look()
    (fault,) = fleet.exporter.reloader.files.faults
    assert "its hash does not match" in fault.detail
    (fleet.folder / "credit.json").write_text(text)
    assert fleet.look() == ["loans", "own"]
    assert fleet.valid() == {"loans.yml": 1.0}


def test_an_invalid_file_leaves_all_models_in_use(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """Its last valid version stays; the log, metrics, readiness, home page and a reload tell what is wrong."""
    fleet.count("loans", 3)
    fleet.write("loans.yml", "models: [{name: loans, profil: credit.json}]")
    fleet.write("a.yml", "models: [{name: loans}]")  # would be first by its name
    fleet.write("good.yml", "models: [{name: good}]")
    assert fleet.look() == ["good", "loans", "own"]
    assert fleet.count("loans", 1) == 4 and fleet.count("good", 1) == 1
    wrong = f'{fleet.folder}/loans.yml: models[0].profil: is not known; did you mean "profile"?'
    taken = f'{fleet.folder}/a.yml: models[0].name: "loans" is a model in {fleet.folder}/loans.yml already'
    assert f"{wrong} (models in use from its last valid version: loans)" in caplog.messages
    assert taken in caplog.messages
    assert fleet.valid() == {"a.yml": 0, "good.yml": 1, "loans.yml": 0} and fleet.successful() == 0
    answer = ready(fleet.exporter)
    assert answer.status == 200 and b"warning: loans.yml is not valid: see the home page\n" in answer.body
    page = fleet.client.get("/").text
    assert "models[0].profil: is not known; did you mean &#34;profile&#34;?" in page
    answer = fleet.client.post("/-/reload")
    assert answer.status_code == 500 and wrong in answer.json["detail"] and taken in answer.json["detail"]
    assert fleet.count("loans", 1) == 5
    fleet.write("loans.yml", "models: [{name: loans, profile: credit.json, max_versions: 5}]")
    (fleet.folder / "a.yml").unlink()
    assert fleet.look() == ["good", "loans", "own"]
    assert fleet.count("loans", 1) == 6 and fleet.successful() == 1
    assert fleet.client.post("/-/reload").status_code == 200


def test_of_many_invalid_files_the_first_are_named(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """The log, readiness, the home page and a reload name 20, and tell how many others there are."""
    for number in range(25):
        fleet.write(f"team-{number:02}.yml", "models: [{}]")
    fleet.look()
    others = "5 more files are not valid: model-exporter check-config lists all"
    assert sum("team-" in message for message in caplog.messages) == 20 and others in caplog.messages
    for text in (
        ready(fleet.exporter).body.decode(),
        fleet.client.get("/").text,
        fleet.client.post("/-/reload").json["detail"],
    ):
        assert "team-19.yml" in text and "team-20.yml" not in text and others in text


def test_an_exporter_starts_with_an_invalid_file(fleet: Fleet, run: Run) -> None:
    """Models of other files serve; `check-config` lists what is wrong, and fails."""
    path = fleet.folder.parent / "exporter.yml"
    fleet.write("bad.yml", "models: [{name: bad, windows: [1y]}]")
    fleet.write("worse.yml", "models: [")
    output = run("check-config", path, status=1)
    assert "in models_folder, 1 of 3 files are" in output.out
    assert f"model-exporter: {fleet.folder}/bad.yml: models[0].windows[0]: expected" in output.err
    assert f"model-exporter: {fleet.folder}/worse.yml:1:10: is not YAML" in output.err
    fleet.exporter.close()
    fleet.exporter = Exporter(path)
    assert sorted(fleet.exporter.pipeline.monitors.models) == ["loans", "own"] and fleet.successful() == 0
    fleet.write("bad.yml", "models: [{name: bad}]")
    fleet.write("worse.yml", "models: [{name: worse}]")
    fleet.exporter.scheduler.close()
    assert fleet.look() == ["bad", "loans", "own", "worse"] and fleet.successful() == 1


def test_windows_outlive_a_start_with_an_invalid_file(fleet: Fleet) -> None:
    """They are kept in the database, and are back when the file is valid again."""
    path, text = fleet.folder.parent / "exporter.yml", (fleet.folder / "loans.yml").read_text()
    event = Prediction("loans", version="1", inputs=msgspec.Raw(b'{"age": 40}'))
    fleet.exporter.pipeline.submit([event] * 7, 1)
    fleet.exporter.close()
    fleet.write("loans.yml", "models: [")
    fleet.exporter = Exporter(path)
    fleet.exporter.scheduler.close()
    fleet.exporter.snapshots.save(time.monotonic(), time.time())
    fleet.write("loans.yml", text)
    assert fleet.look() == ["loans", "own"]
    monitor = fleet.exporter.pipeline.monitors.of_model("loans")["1"]
    assert monitor.read(time.monotonic())["1h"].observations[0] == 7


def test_a_volume_of_a_config_map_is_followed(fleet: Fleet) -> None:
    """Kubernetes swaps the link ..data, through which all files are read."""
    for number, windows in (("1", "5m"), ("2", "10m")):
        (fleet.folder / f"..{number}").mkdir()
        (fleet.folder / f"..{number}" / "cards.yml").write_text(f"models: [{{name: cards, windows: [{windows}]}}]")
    (fleet.folder / "..data").symlink_to("..1")
    (fleet.folder / "cards.yml").symlink_to("..data/cards.yml")
    assert fleet.look() == ["cards", "loans", "own"]
    (fleet.folder / "..tmp").symlink_to("..2")
    (fleet.folder / "..tmp").rename(fleet.folder / "..data")
    fleet.look()
    assert fleet.exporter.pipeline.monitors.models["cards"].windows == ("10m",)


def test_a_folder_that_is_gone_changes_no_model(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """It is reported once, and read again when it is back."""
    fleet.folder.rename(fleet.folder.with_name("elsewhere"))
    assert fleet.look() == fleet.look() == ["loans", "own"]
    assert fleet.successful() == 0
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    assert fleet.client.post("/-/reload").status_code == 500
    fleet.folder.with_name("elsewhere").rename(fleet.folder)
    assert fleet.look() == ["loans", "own"] and fleet.successful() == 1


def test_names_of_retrained_models_may_come_from_the_folder(fleet: Fleet) -> None:
    """One that no file has is reported, and everything else is in use."""
    path = fleet.folder.parent / "exporter.yml"
    (path.parent / "secret").write_text("0123456789abcdef")
    retrain = "{url: 'http://127.0.0.1:1/', secret_file: secret, models: [loans, lones]}"
    path.write_text(f"models: [{{name: own}}]\nmodels_folder: models.d\nretrain: {retrain}")
    answer = fleet.client.post("/-/reload")
    assert answer.status_code == 500
    assert 'retrain.models[1]: no model "lones" is configured; did you mean "loans"?' in answer.json["detail"]
    assert fleet.exporter.config.retrain and fleet.valid() == {"loans.yml": 1.0}


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        (b"\xff.yml", lambda path: path.write_text("models: [{name: x}]"), "its name is not UTF-8"),
        (b"pipe.yml", os.mkfifo, "pipe.yml: is not a file"),
        (b"a.yml", lambda path: path.symlink_to(path.name), "a.yml: cannot be read: Too many levels of symbolic links"),
        (b"b.yml", lambda path: path.write_text(PIPE), "/pipe: is not a file"),
        (b"c.yml", lambda path: path.write_text("#" * (2**24 + 1)), "c.yml: has more than 16,777,216 characters"),
    ],
)
def test_no_file_keeps_the_others_from_being_used(
    fleet: Fleet, name: bytes, make: Callable[[Path], None], message: str
) -> None:
    """Pipes, links to themselves, huge files and names that are not UTF-8 are reported, also in metrics and pages."""
    os.mkfifo(fleet.folder / "pipe")
    make(fleet.folder / os.fsdecode(name))
    fleet.write("good.yml", "models: [{name: good}]")
    assert fleet.look() == ["good", "loans", "own"]
    (fault,) = fleet.exporter.reloader.files.faults
    assert fault.detail.endswith(message)
    text = fleet.exporter.metrics("", ())[0].decode()
    assert 'model_exporter_model_file_valid{file="good.yml"} 1.0' in text and '.yml"} 0.0' in text
    assert fleet.client.get("/").status_code == 200 and ready(fleet.exporter).status == 200
    assert message in fleet.client.post("/-/reload").json["detail"]


def test_a_file_that_always_changes_does_not_hold_others_back(fleet: Fleet) -> None:
    """After a minute of changes, all files are read."""
    fleet.write("good.yml", "models: [{name: good}]")
    for number in range(MAX_LOOKS):
        fleet.write("log.yml", "#" * number)
        fleet.exporter.file_watch.refresh()
    assert "good" not in fleet.exporter.pipeline.monitors.models
    fleet.write("log.yml", "models: [")
    fleet.exporter.file_watch.refresh()
    assert sorted(fleet.exporter.pipeline.monitors.models) == ["good", "loans", "own"]
