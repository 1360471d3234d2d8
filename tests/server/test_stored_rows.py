"""Rows that nobody can read, and images that take too much memory: refused on the way in, and harmless in the store."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from PIL import Image
from support.corrections import correct, queue
from support.memory import bomb, peak
from support.servers import CONFIG, Answer, Served, ask, serving, write_config

from exporter.config import StoreConfig
from exporter.features.json_inputs import PREFIX
from exporter.server.model_files import load_monitors
from exporter.server.pages import review
from exporter.storage._database import open_engine

ABSURD = [
    "0001-01-01T00:00:00+01:00",
    "0001-01-01T00:00:00Z",
    "1677-12-31T23:59:59Z",
    "2262-01-01T00:00:00Z",
    "9999-12-31T23:59:59-05:00",
    "9999-12-31T23:59:59.99999Z",
]
FORMATS = ("jsonl", "csv", "parquet", "label-studio")


@pytest.fixture
def folder(tmp_path: Path, database: str) -> Path:
    """A folder with the configuration of an exporter on each kind of database."""
    write_config(tmp_path, {**CONFIG, "store": {"url": database}})
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[Served]:
    """An exporter with three accepted corrections, as any version may have stored them."""
    with serving(folder) as served:
        correct(served, [event(number) for number in range(3)])
        yield served


def event(number: int, **changed: Any) -> dict[str, Any]:
    inputs = {"age": number, "country": "NL"}
    return {"id": f"c-{number}", "model": "credit", "prediction": "yes", "confidence": 0.9, "inputs": inputs} | changed


def plant(folder: Path, **values: Any) -> None:
    """Write values into every row of feedback, as another program or version might have done."""
    url = (folder / "exporter.yml").read_text().partition("url: ")[2].split()[0]
    engine = open_engine(StoreConfig(url=url))
    with engine.begin() as connection:
        assignments = ", ".join(f"{name} = :{name}" for name in values)
        connection.execute(sa.text(f"UPDATE feedback SET {assignments}"), values)
    engine.dispose()


def decide_all(server: Served, **body: Any) -> list[Answer]:
    return [
        ask(f"{server.url}/v1/corrections/{each['id']}", {"revision": each["revision"], **body}, "PATCH")
        for each in queue(server)
    ]


def read_everything(server: Served) -> None:
    """Each route that reads stored rows answers, and what it says is JSON where it should be."""
    (first, *_) = queue(server)
    pages = (
        "/",
        "/drift",
        "/review",
        "/review?status=all&view=table",
        "/review?status=all&order=confident",
        "/metrics",
    )
    for path in pages:
        assert server.get(path).status == 200, path
    assert server.get(f"/v1/corrections/{first['id']}").json["history"]
    assert all(answer.status == 200 for answer in decide_all(server, status="accepted"))
    for form in FORMATS:
        assert server.get(f"/v1/dataset?model=credit&format={form}").status == 200, form
    released = server.post("/v1/dataset/releases", {"model": "credit"})
    assert released.status in {200, 201}, released.text
    assert server.get("/v1/dataset/releases").status == 200
    for form in FORMATS:
        assert server.get(f"/v1/dataset/releases/{released.json['id']}?format={form}").status == 200, form
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("time", ABSURD)
def test_a_time_that_others_cannot_represent_is_refused(shared: Served, time: str) -> None:
    """The year must be one that pandas and Arrow hold as nanoseconds: in predictions, feedback and other formats."""
    detail = f'expected a year from 1678 to 2261, got "{time[:19]}'
    feedback = {"prediction_id": "x", "verdict": "accepted", "time": time}
    record = {"model": "credit", "code": 200, "time": time}
    for path, body in (
        ("predictions", {"model": "credit", "time": time}),
        ("feedback", feedback),
        ("exchanges", record),
    ):
        answer = shared.post(f"/v1/{path}", body)
        error = answer.json["errors"][-1]
        assert (answer.status, error["pointer"], detail in error["detail"]) == (400, "/time", True)
    mixed = shared.post("/v1/predictions", [{"model": "credit", "time": time}, {"model": "credit"}]).json
    assert (mixed["accepted"], detail in mixed["rejected"][0]["detail"]) == (1, True)


@pytest.mark.parametrize("time", ["1678-01-01T00:00:00+14:00", "2261-12-31T23:59:59.999999-12:00"])
def test_the_first_and_the_last_time_pass_through_the_review(served: Served, time: str) -> None:
    """Times at the bounds are stored, shown and exported."""
    correct(served, [event(1, time=time)])
    read_everything(served)


def test_a_stored_time_that_cannot_be_read_is_named(server: Served, folder: Path) -> None:
    """A time that an older version accepted is null and named; the correction can be decided and exported."""
    for predicted in (-62135600400.0, 253402318799.0, 253402300800.0, 1e300, float("-inf")):
        plant(folder, predicted=predicted, reviewed=predicted, status="pending")
        for correction in queue(server):
            assert (correction["predicted"], correction["unreadable"]) == (None, ["predicted", "reviewed"])
        assert "Cannot be read: predicted, reviewed." in server.get("/review").text
        read_everything(server)
        (line, *_) = server.get("/v1/dataset?model=credit").text.splitlines()
        assert (json.loads(line)["predicted"], json.loads(line)["inputs"]["country"]) == (None, "NL")


INPUTS: list[tuple[str, dict[str, Any] | None]] = [
    ("{", None),
    ("[1, 2]", None),
    ('"text"', None),
    ('{"age": 1e999}', {"age": "inf"}),
    (f'{{"age": {"9" * 5000}}}', {"age": "9" * 5000}),
    ('{"age": NaN, "a": "\\ud800"}', {"age": None, "a": "?"}),
    ('{"a": "\u0001\t"}', None),
    (f'{{"a": {"[" * 5000}{"]" * 5000}}}', None),
    ('{"photo": "data:image/png;base64,AAAA"}', {"photo": "data:image/png;base64,AAAA"}),
    (f'{{"photo": "{PREFIX}AAAA"}}', {"photo": f"{PREFIX}AAAA"}),
    (f'{{"{PREFIX}": 1, "photo": 7}}', {PREFIX: 1, "photo": 7}),
]


def test_stored_inputs_that_cannot_be_read_break_nothing(server: Served, folder: Path) -> None:
    """Inputs that are no JSON are null and named; numbers that other programs cannot hold are as invalid values are."""
    for inputs, shown in INPUTS:
        plant(folder, inputs=inputs, status="pending")
        for correction in queue(server):
            assert (correction["inputs"], correction.get("unreadable")) == (shown, None if shown else ["inputs"])
        read_everything(server)


def test_feedback_on_a_prediction_that_cannot_be_read_is_stored(server: Served, folder: Path) -> None:
    plant(folder, prediction="{")
    feedback = {"prediction_id": "c-1", "verdict": "corrected", "label": "maybe"}
    assert server.post("/v1/feedback", feedback).status == 201
    assert [each["label"] for each in queue(server) if each["prediction_id"] == "c-1"] == ["maybe"]


def test_labels_that_cannot_be_read_are_left_out_of_datasets(server: Served, folder: Path) -> None:
    """A label that is no JSON is null and named, and the log says what an export leaves out."""
    plant(folder, label="{", prediction="nope")
    assert queue(server)[0]["unreadable"] == ["prediction", "label", "user_label"]
    assert server.get("/review").status == 200
    assert all(answer.status == 200 for answer in decide_all(server, status="accepted"))
    assert server.get("/v1/dataset?model=credit").body == b""
    assert server.post("/v1/dataset/releases", {"model": "credit"}).status == 409
    assert "is left out of the dataset: its label cannot be read" in server.log.read_text()
    assert all(answer.status == 200 for answer in decide_all(server, status="accepted", label="no"))
    assert len(server.get("/v1/dataset?model=credit").text.splitlines()) == 3


def test_a_client_cannot_pretend_that_an_image_is_packed(server: Served, folder: Path) -> None:
    """A string with the prefix of a stored image stays that string, as a value, a name, or nested, on every way in."""
    buffer = io.BytesIO()
    Image.new("L", (2, 2)).save(buffer, "PNG")
    text = PREFIX + base64.b64encode(buffer.getvalue()).decode()
    inputs = {"photo": text, "note": text, "nested": {"a": [text]}, text: 1}
    bare = CONFIG["models"][1]["name"]
    events = [event(10, inputs=inputs), event(11, model=bare, inputs=inputs)]
    correct(server, events)
    alone = {"label": "no", "prediction": "yes", "inputs": inputs}
    assert server.post("/v1/feedback", [{"model": "credit", **alone}, {"model": bare, **alone}]).status == 201
    seen = [each["inputs"] for each in queue(server) if "note" in (each["inputs"] or {})]
    assert seen == [inputs] * 4
    read_everything(server)


def test_a_page_decodes_images_up_to_a_number_of_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The inputs of cards beyond it are not compared with the training data, and the card says so."""
    _, monitors = load_monitors(write_config(tmp_path))
    image = f"data:image/png;base64,{bomb(30)}"
    inputs = msgspec.Raw(msgspec.json.encode({"photo": image, "country": "XX"}))
    prediction = {
        "model": "credit",
        "version": "1",
        "predicted": None,
        "label": "no",
        "prediction": "yes",
        "verdict": "corrected",
    }
    document = {**prediction, "inputs": inputs, "joined": True}
    monkeypatch.setattr(review, "PAGE_PIXELS", 2 * 30 * 30)
    shown = review.cards([document] * 3, monitors)
    assert [card["compared"] for card in shown] == [True, True, False]
    outliers = [{item.name for item in card["rows"] if item.notes} for card in shown]
    assert ["country" in names for names in outliers] == [True, True, False]
    assert [item.name for item in shown[2]["images"]] == ["photo"]


def test_images_of_many_pixels_do_not_fill_the_memory(server: Served, folder: Path) -> None:
    """Neither a small file of 120 million pixels nor one that an older version stored as a packed image is decoded."""
    before = peak(server)
    encoded = bomb(10_900)
    for number, text in enumerate((encoded, f"data:image/png;base64,{encoded}", PREFIX + encoded), 20):
        correct(server, [event(number, inputs={"photo": text})])
    read_everything(server)
    for each in queue(server):
        assert server.get(f"/v1/corrections/{each['id']}/inputs/photo.png").status == 404
    assert peak(server) < before + 300
