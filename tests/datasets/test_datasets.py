"""Datasets of reviewed corrections: formats, streams, releases, and the way through Label Studio."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import http.client
import io
import json
import re
import socket
import sqlite3
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import bcrypt
import msgspec
import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.servers import Answer, Served, ask, eventually, serving, write_config

from exporter.cli import main
from exporter.datasets import csv_cell
from exporter.version import version

EXAMPLE = {
    "id", "prediction_id", "model", "version", "inputs", "label", "prediction", "confidence", "user_label", "user",
    "reviewer", "reviewed", "predicted", "source", "weight", "revision",
}  # fmt: skip


CORRECTION: dict[str, Any] = {
    "joined": True, "model": "credit", "version": "3", "predicted": 1.7e9, "prediction": "yes", "confidence": 0.9,
    "confident": True, "inputs": None, "verdict": "corrected", "label": "no", "user": "clerk", "created": 1.7e9,
    "updated": 1, "counted": True, "status": "accepted", "revision": 2, "reviewed_label": None, "reviewer": "ada",
    "reviewed": 2, "released": False, "sampled": False,
}  # fmt: skip


def put(served: Served, rows: list[dict[str, Any]]) -> None:
    """Put reviewed corrections, with what they differ in, into the database: reviewing so many takes too long."""
    full = [{"prediction_id": f"x-{number}", **CORRECTION, **row} for number, row in enumerate(rows)]
    for row in full:
        row |= {name: row[name] and json.dumps(row[name]) for name in ("prediction", "label")}
        row["inputs"] = row["inputs"] if isinstance(row["inputs"], str | None) else json.dumps(row["inputs"])
    names = list(full[0])
    statement = f"INSERT INTO feedback ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"
    with closing(sqlite3.connect(served.folder / "data" / "model-exporter.db", timeout=20)) as database, database:
        database.executemany(statement, full)


def fill(served: Served, rows: int, status: str = "accepted", inputs: str = '{{"age": {n}, "country": "NL"}}') -> None:
    """Put as many corrections of two versions, with two labels, into the database."""
    changed = [
        {"version": str(3 + n % 2), "label": "no" if n % 3 else "maybe", "inputs": inputs.format(n=n), "status": status}
        | {"prediction_id": f"f-{n}", "predicted": 1.7e9 + n, "created": 1.7e9 + n}
        for n in range(rows)
    ]
    put(served, changed)


def decide(served: Served, correction_id: str, status: str = "accepted", revision: int = 1, **body: Any) -> Answer:
    """Decide a correction."""
    decision = {"status": status, "revision": revision, **body}
    return ask(f"{served.url}/v1/corrections/{correction_id}", decision, "PATCH")


def correct(served: Served, *corrections: dict[str, Any], accept: bool = True) -> list[str]:
    """Predictions of the model credit, their corrections, all accepted; identifiers in the same order."""
    event = {"model": "credit", "version": "3", "prediction": "yes", "confidence": 0.9}
    events = [{"id": f"d-{n}", **event, **correction.get("event", {})} for n, correction in enumerate(corrections)]
    assert served.post("/v1/predictions", events).status == 202
    feedback = [
        {"prediction_id": f"d-{n}", "verdict": "corrected", "label": "no", **correction.get("feedback", {})}
        for n, correction in enumerate(corrections)
    ]
    eventually(lambda: all(result["joined"] for result in served.post("/v1/feedback", feedback).json["feedback"]))
    found = {one["prediction_id"]: one["id"] for one in served.get("/v1/corrections?limit=1000").json["corrections"]}
    ids = [found[f"d-{n}"] for n in range(len(corrections))]
    decisions = [{"id": one, "status": "accepted", "revision": 1} for one in ids if accept]
    assert not accept or ask(f"{served.url}/v1/corrections", decisions, "PATCH").status == 200
    return ids


def lines(answer: Answer) -> list[dict[str, Any]]:
    assert answer.status == 200, answer.text
    return [json.loads(line) for line in answer.body.splitlines()]


# --- formats ---------------------------------------------------------------------------------


def test_json_lines_hold_what_was_accepted(served: Served) -> None:
    """Each accepted correction is one line with its inputs and the final label, without the redacted input."""
    inputs = {"age": 41, "country": "NL", "name": "Ada", "photo": [[0, 12], [3, 16]]}
    corrected = {"event": {"inputs": inputs}, "feedback": {"user": "clerk"}}
    first, second, _ = correct(served, corrected, {}, {}, accept=False)
    decide(served, first, label="never seen")
    decide(served, second, "rejected")
    answer = served.get("/v1/dataset?model=credit")
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="credit-dataset.jsonl"'
    (example,) = lines(answer)
    assert example.keys() == EXAMPLE
    assert example["inputs"] == {name: value for name, value in inputs.items() if name != "name"}
    expected = {"id": first, "label": "never seen", "user_label": "no", "prediction": "yes", "version": "3"}
    assert example.items() >= {**expected, "confidence": 0.9, "user": "clerk", "source": "correction"}.items()


def test_a_stream_is_longer_than_one_page(served: Served) -> None:
    """Two thousand examples are streamed in order, each once, in every format."""
    fill(served, 2000)
    examples = lines(served.get("/v1/dataset?model=credit"))
    assert [example["inputs"]["age"] for example in examples] == list(range(2000))
    rows = list(csv.DictReader(io.StringIO(served.get("/v1/dataset?model=credit&format=csv").text, newline="")))
    assert [int(row["inputs.age"]) for row in rows] == list(range(2000))
    table = pq.read_table(io.BytesIO(served.get("/v1/dataset?model=credit&format=parquet").body))
    assert table["inputs.age"].to_pylist() == list(range(2000))
    tasks = served.get("/v1/dataset?model=credit&format=label-studio").json
    assert [task["data"]["age"] for task in tasks] == list(range(2000))


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("version=4", 50),
        ("label=maybe", 34),
        ("label=%22no%22", 66),
        ("label=7", 0),
        ("since=2023-11-14T22:13:30Z", 90),
        ("until=2023-11-14T22:13:30Z&version=3", 5),
    ],
)
def test_examples_are_filtered(hundred: Served, query: str, count: int) -> None:
    """Examples are filtered by version, label and time."""
    assert len(lines(hundred.get(f"/v1/dataset?model=credit&{query}"))) == count


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An exporter with a hundred examples."""
    folder = tmp_path_factory.mktemp("hundred")
    write_config(folder)
    with serving(folder) as server:
        fill(server, 100)
        yield server


def test_csv_has_columns_and_no_formulas(served: Served) -> None:
    """Text that a spreadsheet would run gets an apostrophe, numbers stay numbers, nested values are JSON."""
    bad = '=HYPERLINK("http://x","<b>hi</b>")'
    first = {"age": -5, "country": bad, "photo": [[1]], "own": True}
    second = {"age": 2.5, "country": "'=x", "extra": 'line\nbreak, "quoted"'}
    said = ((first, {"label": "+1", "user": "@me"}), (second, {"label": "-"}))
    correct(served, *({"event": {"inputs": inputs}, "feedback": feedback} for inputs, feedback in said))
    text = served.get("/v1/dataset?model=credit&format=csv").text
    row, other = csv.DictReader(io.StringIO(text, newline=""))
    assert (row["inputs.age"], row["inputs.country"], row["inputs.photo"]) == ("-5", f"'{bad}", "[[1]]")
    assert (row["label"], row["user"], row["inputs.own"], row["inputs.extra"]) == ("'+1", "'@me", "true", "")
    assert (other["inputs.country"], other["label"]) == ("''=x", "'-")
    assert other["inputs.extra"] == 'line\nbreak, "quoted"'
    assert "inputs.name" not in row
    assert list(row)[:4] == ["id", "prediction_id", "model", "version"]


@pytest.mark.parametrize("start", [*"=+-@＝＋－＠\t\r\n", "'＝", "''+"])
def test_csv_defuses_every_start_of_a_formula(start: str) -> None:
    """Full-width forms, too, which Excel takes for the others; one apostrophe less is the original."""
    text = f"{start}HYPERLINK(1)"
    assert csv_cell(text) == f"'{text}"
    assert csv_cell(f"a;{text}") == f"a;'{text}"
    assert re.sub(r"(^|;)'('*[=+\-@＝＋－＠\t\r\n])", r"\1\2", csv_cell(f"{text};{text}")) == f"{text};{text}"


def test_parquet_has_types(served: Served) -> None:
    """Columns have the type of their values; mixed and nested ones contain JSON text."""
    correct(
        served,
        {"event": {"inputs": {"age": 1, "mixed": 1, "photo": [[1]], "flag": True}}, "feedback": {"label": "no"}},
        {"event": {"inputs": {"age": 2**60 + 1, "mixed": "x", "huge": 10**30}}, "feedback": {"label": 3}},
        {"event": {"inputs": {"age": 2.5}}, "feedback": {"label": "no"}},
    )
    table = pq.read_table(io.BytesIO(served.get("/v1/dataset?model=credit&format=parquet").body))
    types = {field.name: str(field.type) for field in table.schema}
    assert (types["inputs.age"], types["inputs.mixed"], types["inputs.flag"]) == ("double", "string", "bool")
    assert (types["reviewed"], types["confidence"]) == ("timestamp[us, tz=UTC]", "double")
    assert table["inputs.mixed"].to_pylist() == ["1", '"x"', None]
    assert table["inputs.photo"].to_pylist() == ["[[1]]", None, None]
    assert table["label"].to_pylist() == ['"no"', "3", '"no"']
    assert table.schema.field("label").metadata == {b"content": b"application/json"}
    assert json.loads(table["inputs.huge"][1].as_py()) == 10**30


def test_label_studio_shows_images(tmp_path: Path) -> None:
    """A task has all that the configuration shows, also where an input is missing, and waits for an annotator.

    What the model and what the user said are predictions of their own.
    """
    features = {"photo": {"type": "image"}, "a note": {"type": "text"}}
    write_config(tmp_path, {"models": [{"name": "credit", "features": features}]})
    png = io.BytesIO()
    Image.new("L", (2, 2)).save(png, "PNG")
    encoded = base64.b64encode(png.getvalue()).decode()
    with serving(tmp_path) as served:
        correction_id, *_ = correct(
            served,
            {"event": {"inputs": {"photo": [[0, 4], [8, 16]], "age": 3}}, "feedback": {"label": "<script>"}},
            {"event": {"inputs": {"photo": encoded, "a note": "two\nlines", "own": True}}},
            {"event": {"inputs": {"photo": "no image", "a note": 7}}},
        )
        first, second, third = served.get("/v1/dataset?model=credit&format=label-studio").json
        configuration = served.get("/v1/dataset?model=credit&format=label-studio-config").text
    data = first["data"]
    assert (data["correction_id"], data["correction_revision"], data["age"]) == (correction_id, 2, 3)
    with Image.open(io.BytesIO(base64.b64decode(data["photo"].removeprefix("data:image/png;base64,")))) as image:
        assert image.size == (128, 128)
        assert [image.getpixel(at) for at in ((0, 0), (127, 0), (0, 127), (127, 127))] == [0, 64, 128, 255]
    assert second["data"]["photo"] == f"data:image/png;base64,{encoded}"
    assert third["data"]["photo"].startswith("data:image/png;base64,")
    notes = [(task["data"]["input_0"], task["data"]["inputs"]) for task in (first, second, third)]
    assert notes == [("", {"age": "3"}), ("two\nlines", {"own": "true"}), ("", {"photo": "no image", "a note": "7"})]
    choice = {"type": "choices", "from_name": "label", "to_name": "inputs"}
    said_by = [(said["model_version"], said["score"]) for said in first["predictions"]]
    assert said_by == [("3", 0.9), ("correction", 1.0)]
    for said, label in zip(first["predictions"], ("yes", "<script>"), strict=True):
        assert said["result"] == [{"id": said["result"][0]["id"], **choice, "value": {"choices": [label]}}]
    assert first["annotations"] == []
    assert (
        configuration
        == """<View>
  <Choices name="label" toName="inputs" choice="single" required="true" showInline="true">
    <Choice value="&lt;script&gt;"/>
    <Choice value="no"/>
    <Choice value="yes"/>
  </Choices>
  <Table name="inputs" value="$inputs"/>
  <Header value="a note"/>
  <Text name="input_0" value="$input_0"/>
  <Header value="photo"/>
  <Image name="photo" value="$photo" maxWidth="400px"/>
</View>
"""
    )


@pytest.mark.parametrize(
    ("form", "body"), [("jsonl", b""), ("label-studio", b"[]\n"), ("csv", None), ("parquet", None)]
)
def test_an_empty_dataset_is_a_valid_file(shared: Served, form: str, body: bytes | None) -> None:
    """Without an accepted correction the file is empty but valid."""
    answer = shared.get(f"/v1/dataset?model=credit&format={form}")
    assert answer.status == 200
    if form == "csv":
        assert list(csv.DictReader(io.StringIO(answer.text, newline=""))) == []
    elif form == "parquet":
        assert pq.read_table(io.BytesIO(answer.body)).num_rows == 0
    else:
        assert answer.body == body


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "model: is required; valid values: bare"),
        ("model=credits", 'no model "credits" is configured; did you mean "credit"?'),
        ("model=credit&format=xml", 'format: "xml" is not a valid format; valid values: jsonl, csv, parquet, label-'),
        ("model=credit&since=yesterday", "since: expected an RFC 3339 time with a zone"),
        ("model=credit&include=confirm", 'include: "confirm" is not a source; did you mean "confirmed"?'),
        ("model=credit&formatt=csv", 'the parameter "formatt" is not known; did you mean "format"?'),
    ],
)
def test_invalid_parameters_are_explained(shared: Served, query: str, message: str) -> None:
    """Each invalid parameter has its own message."""
    answer = shared.get(f"/v1/dataset?{query}")
    assert answer.status == 400
    assert message in answer.json["detail"]


def test_inputs_beyond_the_column_limit_share_one(served: Served) -> None:
    """Input names come from clients: beyond a thousand columns the rest is one column of JSON."""
    fill(served, 1, inputs="{{" + ", ".join(f'"x{n}": {n}' for n in range(1500)) + "}}")
    (row,) = csv.DictReader(io.StringIO(served.get("/v1/dataset?model=credit&format=csv").text, newline=""))
    columns = [name for name in row if name.startswith("inputs.")]
    assert len(columns) == 1000
    names = {name.removeprefix("inputs.") for name in columns}
    assert json.loads(row["other_inputs"]) == {f"x{n}": n for n in range(1500) if f"x{n}" not in names}


# --- streams ---------------------------------------------------------------------------------


@contextmanager
def reading(
    served: Served, query: str = "", unix_socket: Path | None = None, client: str = "127.0.0.1"
) -> Iterator[http.client.HTTPResponse]:
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, 30, (client, 0))) as connection:
        if unix_socket:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(str(unix_socket))
        connection.request("GET", f"/v1/dataset?model=credit{query}")
        yield connection.getresponse()


def fill_slowly(served: Served) -> None:
    """Put more corrections into the database than a connection holds in its buffers."""
    fill(served, 5000, inputs='{{"age": {n}, "words": "' + "word " * 1000 + '"}}')


def is_cut_short(answer: http.client.HTTPResponse) -> bool:
    """Whether an export ends before its end; all of its rows are there otherwise."""
    try:
        assert len(answer.read().splitlines()) == 5000
    except (http.client.IncompleteRead, ConnectionError):
        return True
    return False


def break_database(served: Served) -> None:
    """Let each later query of the corrections fail."""
    with closing(sqlite3.connect(served.folder / "data" / "model-exporter.db", timeout=20)) as database, database:
        database.execute("ALTER TABLE feedback RENAME TO gone")


def test_a_large_dataset_takes_little_memory(served: Served) -> None:
    """Fifty thousand examples, and a release of them, use far less memory than their size."""
    fill(served, 50_000, inputs='{{"age": {n}, "country": "NL", "words": "' + "word " * 200 + '"}}')
    process = psutil.Process(served.process.pid)
    served.get("/v1/dataset?model=credit&until=2023-11-14T22:13:30Z&format=parquet")  # imports pyarrow
    before, grown, sizes = process.memory_info().rss, 0, {}
    for form in ("jsonl", "parquet"):
        sizes[form] = 0
        with reading(served, f"&format={form}") as body:
            while data := body.read(2**20):
                sizes[form] += len(data)
                grown = max(grown, process.memory_info().rss - before)
        assert grown < {"jsonl": 30, "parquet": 80}[form] * 2**20
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)) as connection:
        connection.request("POST", "/v1/dataset/releases", b'{"model": "credit"}')
        assert json.load(connection.getresponse())["examples"] == 50_000
    assert process.memory_info().rss - before < grown + 30 * 2**20
    assert sizes["jsonl"] > 60 * 2**20  # as Python's values several times that


def test_a_slow_client_makes_the_export_wait(served: Served) -> None:
    """An export produces nothing that the client does not read, so it does not fill the memory."""
    fill(served, 20_000, inputs='{{"age": {n}, "words": "' + "word " * 1000 + '"}}')
    process = psutil.Process(served.process.pid)
    lines(served.get("/v1/dataset?model=credit&label=7"))
    before = process.memory_info().rss
    with closing(socket.create_connection(("127.0.0.1", served.port))) as client:
        client.sendall(b"GET /v1/dataset?model=credit HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(100)
        time.sleep(1.0)
        assert process.memory_info().rss - before < 40 * 2**20
        assert served.get("/v1/corrections").status == 200


def test_too_many_exports_at_once_are_refused(served: Served) -> None:
    """Beyond four streams of a client, which may read nothing of them, it gets a 503; another client does not."""
    fill_slowly(served)
    with ExitStack() as stack:
        open_ones = [stack.enter_context(reading(served)) for _ in range(4)]
        refused = served.get("/v1/dataset?model=credit")
        assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
        open_ones.append(stack.enter_context(reading(served, client="127.0.0.2")))
        assert not any(map(is_cut_short, open_ones))
    assert served.get("/v1/dataset?model=credit").status == 200


def test_an_error_half_way_breaks_the_connection(served: Served) -> None:
    """An incomplete file is recognisable as such; the log has the reason."""
    fill_slowly(served)
    with reading(served) as body:
        body.read(1000)
        break_database(served)
        assert is_cut_short(body)
    eventually(lambda: "/v1/dataset: the response ended too early" in served.log.read_text())
    early = served.get("/v1/dataset?model=credit")
    assert (early.status, early.headers["Retry-After"]) == (503, "5")


class Hurried(Served):
    """An exporter that gives a client a second for each piece of an export."""

    def launch(self) -> None:
        program = (
            "import sys; from exporter import cli; from exporter.server import asgi; "
            "asgi.SEND_SECONDS = 1.0; sys.exit(cli.main())"
        )
        flags = [f"--config.file={self.folder / 'exporter.yml'}", f"--web.listen-address=127.0.0.1:{self.port}"]
        flags += self.flags
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-c", program, "serve", *flags], stdout=log, stderr=log)


@pytest.mark.parametrize("unix", [False, True])
def test_an_incomplete_export_is_recognisable(tmp_path: Path, unix: bool) -> None:
    """A client that stops reading loses its connection, over TCP and a Unix socket; an error before is reported.

    A shutdown does not wait for it.
    """
    path = tmp_path / "socket" if unix else None
    write_config(tmp_path)
    with Hurried(tmp_path, *([f"--web.unix-socket={path}"] if unix else [])).start() as served:
        fill_slowly(served)
        with reading(served, unix_socket=path) as body:
            assert not is_cut_short(body)
        with reading(served, unix_socket=path) as body:
            body.read(1000)
            eventually(lambda: "the client stopped reading" in served.log.read_text())
            assert is_cut_short(body)
        break_database(served)
        with reading(served, unix_socket=path) as body:
            assert (body.status, body.headers["Retry-After"]) == (503, "5")
        assert "Traceback" not in served.log.read_text()


def test_a_stop_does_not_wait_for_an_export(served: Served) -> None:
    """A shutdown ends running exports, and what was sent is recognisable as incomplete."""
    fill_slowly(served)
    with reading(served) as body:
        body.read(1000)
        assert served.stop() == 0
        assert is_cut_short(body)


# --- releases --------------------------------------------------------------------------------


def test_a_release_is_frozen_with_its_lineage(served: Served) -> None:
    """A release's bytes match its hash and do not change with later decisions; each example counts once."""
    fill(served, 1500)
    answer = served.post("/v1/dataset/releases", {"model": "credit", "name": "first"})
    made = answer.json
    assert answer.status == 201
    assert answer.headers["Location"].endswith(f"/v1/dataset/releases/{made['id']}")
    bytes_ = served.get(f"/v1/dataset/releases/{made['id']}")
    assert hashlib.sha256(bytes_.body).hexdigest() == made["sha256"]
    assert (bytes_.headers["ETag"], bytes_.headers["Content-Length"]) == (f'"{made["sha256"]}"', str(made["bytes"]))
    assert bytes_.headers["Content-Disposition"] == 'attachment; filename="first.jsonl"'
    assert bytes_.body == served.get("/v1/dataset?model=credit").body
    assert (made["id"], made["name"], made["examples"], made["by"]) == (made["sha256"][:12], "first", 1500, None)
    assert made["lineage"] == {
        "versions": {"3": 750, "4": 750},
        "labels": {"maybe": 500, "no": 1000},
        "reviewers": {"ada": 1500},
        "predictions": {"yes": 1500},
        "outcomes": {"maybe": {"yes": 500}, "no": {"yes": 1000}},
        "sources": {"correction": 1500},
        "weights": {"correction": 1500.0},
        "traffic": None,
        "use": "Rows: correction 1,500; train on them together with earlier data, not alone.",
        "without_inputs": 0,
        "suspects": {"found": 0, "excluded": False, "checked": None},
        "from": "2023-11-14T22:13:20Z",
        "to": "2023-11-14T22:38:19Z",
        "profile": msgspec.json.decode((served.folder / "credit.json").read_bytes())["hash"],
        "parent": None,
        "exporter_version": version(),
    }
    examples = 'model_dataset_examples_total{model="credit"}'
    assert served.samples("model_dataset_examples_total")[examples] == 1500
    for n in ("1", "2"):
        decide(served, n, "rejected", 2)
    assert served.get("/v1/dataset/releases/first").body == bytes_.body
    second = served.post("/v1/dataset/releases", {"model": "credit", "name": "second"}).json
    assert second["examples"] == 1498
    assert second["lineage"]["parent"] == made["id"]
    assert served.samples("model_dataset_examples_total")[examples] == 1500
    listed = served.get("/v1/dataset/releases?model=credit").json
    assert listed == {"releases": [second, made], "next": None}
    newest = served.get("/v1/dataset/releases?limit=1").json
    assert newest["releases"] == [second]
    assert served.get(newest["next"].removeprefix(served.url)).json["releases"] == [made]
    assert served.get("/v1/dataset/releases/first", Accept="application/json").json == made
    page = served.get("/v1/dataset/releases/first", Accept="text/html,*/*;q=0.8").text
    assert f"<p>{made['lineage']['use']}</p>" in page
    rows = list(csv.DictReader(io.StringIO(served.get("/v1/dataset/releases/first?format=csv").text, newline="")))
    assert [row["inputs.age"] for row in rows] == [str(n) for n in range(1500)]


def test_the_same_release_twice_is_one(served: Served) -> None:
    """The same content under the same name is the same release; anything else in conflict is a 409."""
    fill(served, 10)
    first = served.post("/v1/dataset/releases", {"model": "credit", "name": "one"})
    again = served.post("/v1/dataset/releases", {"model": "credit", "name": "one"})
    nameless = served.post("/v1/dataset/releases", {"model": "credit"})
    assert (first.status, again.status, nameless.status) == (201, 200, 200)
    assert first.json == again.json == nameless.json
    renamed = served.post("/v1/dataset/releases", {"model": "credit", "name": "two"})
    assert (renamed.status, renamed.json["release"]) == (409, first.json)
    assert renamed.json["detail"].startswith('there already is a release "one" of the same examples')
    decide(served, "1", "rejected", 2)
    changed = served.post("/v1/dataset/releases", {"model": "credit", "name": "one"})
    assert changed.status == 409
    assert changed.json["detail"].startswith('there already is a release "one" of other examples')
    cached = served.get("/v1/dataset/releases/one", If_None_Match=f'"{first.json["sha256"]}"')
    assert (cached.status, cached.body) == (304, b"")
    with closing(sqlite3.connect(served.folder / "data" / "model-exporter.db")) as database:
        assert database.execute("SELECT count(*) FROM release_chunks").fetchone() == (1,)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"model": "credit"}, 409, "no correction of credit is accepted: review its corrections first"),
        ({"model": "credits"}, 400, "did you mean"),
        ({}, 400, "is required"),
        ({"model": "credit", "name": "../etc"}, 400, "expected 1 to 100 letters"),
        ({"model": "credit", "name": "0123456789ab"}, 400, "not an identifier of a release"),
        ({"model": "credit", "nam": "x"}, 400, "is not known"),
        ({"model": "credit", "include": ["confirm"]}, 400, '"confirm" is not a source; did you mean "confirmed"?'),
        ({"model": "credit", "include": ["confirmed", "labelled", "corrections"]}, 409, "no correction of credit"),
        (b"[", 400, "the body is not JSON"),
    ],
)
def test_an_invalid_release_is_refused(shared: Served, body: Any, status: int, message: str) -> None:
    """An empty release, one of no model and an invalid name are explained."""
    answer = shared.post("/v1/dataset/releases", body)
    assert answer.status == status
    assert message in answer.json["detail"]
    assert shared.get("/v1/dataset/releases").json == {"releases": [], "next": None}
    assert shared.get("/v1/dataset/releases/none").status == 404


def test_remains_of_an_interrupted_release_are_deleted(served: Served) -> None:
    """Chunks without a release are never listed and deleted later; a published release is marked to the end."""
    fill(served, 10)
    made = served.post("/v1/dataset/releases", {"model": "credit", "name": "one"}).json
    with closing(sqlite3.connect(served.folder / "data" / "model-exporter.db", timeout=20)) as database, database:
        database.executemany(
            "INSERT INTO release_chunks (build, number, created, data) VALUES (?, ?, ?, ?)",
            [(build, n, at, b"x") for build, at in (("old", 1.0), ("new", time.time())) for n in range(20)],
        )
        database.execute("UPDATE releases SET marked = 0")
        database.execute("UPDATE feedback SET released = 0 WHERE id < 5")
    assert served.get("/v1/dataset/releases").json["releases"] == [made]
    assert served.post("/v1/dataset/releases", {"model": "credit", "name": "one"}).status == 200
    with closing(sqlite3.connect(served.folder / "data" / "model-exporter.db")) as database:
        counts = database.execute("SELECT build, count(*) FROM release_chunks GROUP BY build").fetchall()
        assert sorted(count for _, count in counts) == [1, 20]
        assert dict(counts)["new"] == 20
        assert database.execute("SELECT sum(released), sum(marked) FROM feedback, releases").fetchone() == (10, 10)


# --- command line ----------------------------------------------------------------------------


def command(served: Served, *arguments: str, status: int = 0, **environment: str) -> str:
    """What ``model-exporter dataset`` prints, its errors included."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed), pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        assert main(["dataset", *arguments, f"--exporter={served.url}"]) == status, printed.getvalue()
    return printed.getvalue()


def test_a_release_from_the_command_line(served: Served, tmp_path: Path) -> None:
    """A release is made and written to a file with the right hash; a failure leaves no file."""
    fill(served, 700)
    printed = command(served, "release", "--model=credit", "--name=autumn")
    (listed,) = served.get("/v1/dataset/releases").json["releases"]
    address = f"{served.url}/v1/dataset/releases/{listed['id']}"
    assert printed == f"autumn: {listed['lineage']['use']}\n{address}\nits labels are not checked for mistakes yet\n"
    output = tmp_path / "autumn.jsonl"
    command(served, "export", "autumn", "-o", str(output))
    assert hashlib.sha256(output.read_bytes()).hexdigest() == listed["sha256"]
    command(served, "export", listed["id"], "-o", str(tmp_path / "autumn.parquet"))
    assert pq.read_table(tmp_path / "autumn.parquet").num_rows == 700
    command(served, "export", "--model=credit", "--label=maybe", "-o", str(tmp_path / "maybe.CSV"))
    assert (tmp_path / "maybe.CSV").read_text().count("\n") == 1 + 234
    command(served, "export", "--model=credit", "-o", str(tmp_path / "lines.csv"), "--format=jsonl")
    assert json.loads((tmp_path / "lines.csv").read_text().splitlines()[0])["model"] == "credit"
    command(served, "export", "--model=credit", "-o", str(tmp_path / "lines.json"))
    assert json.loads((tmp_path / "lines.json").read_text().splitlines()[0])["model"] == "credit"
    for name, status in (("a.csv.gz", 0), ("b.csv.gz", 0), ("autumn.jsonl.GZ", 0), ("c.csv.zst", 1)):
        release = "autumn" if "autumn" in name else "--model=credit"
        answer = command(served, "export", release, "-o", str(tmp_path / name), status=status)
    assert f"{tmp_path / 'c.csv.zst'}: cannot be compressed as .zst: expected {tmp_path / 'c.csv'} or " in answer
    assert not (tmp_path / "c.csv.zst").exists()
    assert gzip.decompress((tmp_path / "autumn.jsonl.GZ").read_bytes()) == output.read_bytes()
    assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()).count(b"\n") == 1 + 700
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    missing = command(served, "export", "spring", "-o", str(tmp_path / "spring"), status=1)
    assert 'there is no release "spring"' in missing
    with closing(sqlite3.connect(served.folder / "data" / "model-exporter.db", timeout=20)) as database, database:
        database.execute("UPDATE release_chunks SET data = ?", (zlib.compress(output.read_bytes()[:-2] + b" \n"),))
    assert "SHA-256" in command(served, "export", "autumn", "-o", str(tmp_path / "broken"), status=1)
    assert "expected RELEASE, or --model" in command(served, "export", "-o", str(tmp_path / "broken"), status=2)
    assert sorted(path.name for path in tmp_path.iterdir() if "broken" in path.name or "spring" in path.name) == []


def test_secrets_come_from_files(tmp_path: Path) -> None:
    """A user's password is read from a file, and never shown."""
    write_config(tmp_path)
    hashed = bcrypt.hashpw(b"s3cret", bcrypt.gensalt(4)).decode()
    (tmp_path / "web.yml").write_text(f"basic_auth_users: {{ada: '{hashed}'}}\n")
    (tmp_path / "password").write_text("s3cret\n")
    with serving(tmp_path, f"--web.config.file={tmp_path / 'web.yml'}") as served:
        export = ("export", "--model=credit", "-o", str(tmp_path / "corrections.jsonl"))
        assert "a user with a password is required" in command(served, *export, status=1)
        assert "0 bytes" in command(served, *export, "--user=ada", f"--password-file={tmp_path / 'password'}")
        named = {"MODEL_EXPORTER_USER": "ada", "MODEL_EXPORTER_PASSWORD_FILE": str(tmp_path / "password")}
        assert "0 bytes" in command(served, *export, **named)
        output = command(served, *export, "--exporter=http://ada:s3cret@127.0.0.1", status=1)
        assert "s3cret" not in output


def annotated(task: dict[str, Any], *answers: Any, by: Any = 12, kind: str = "choices", **members: Any) -> None:
    """Add an annotation to a task, as Label Studio exports it."""
    result = [{"type": kind, "from_name": "label", "to_name": "inputs", "value": {kind: list(answers)}}]
    task["annotations"].append({"result": result, "completed_by": 1, "updated_by": by, **members})


def test_annotations_come_back_from_label_studio(served: Served, tmp_path: Path) -> None:
    """What annotators chose becomes the label, under the name of who decided; what is not taken has its reason."""
    numbers = [{"event": {"prediction": 7}, "feedback": {"label": 1}} for _ in range(7)]
    ids = correct(served, *numbers, *({} for _ in range(9)))
    exported = served.get("/v1/dataset?model=credit&format=label-studio").json
    by_id = {task["data"]["correction_id"]: task for task in exported}
    tasks = [{"id": 100 + number} | by_id[correction_id] for number, correction_id in enumerate(ids)]
    annotated(tasks[0], "9", by={"id": 4, "email": "bea@example.org"})
    annotated(tasks[1], "7", was_cancelled=False)
    annotated(tasks[2], "1")
    annotated(tasks[3], "cannot tell")
    annotated(tasks[4], "NaN")
    annotated(tasks[5], "007")
    annotated(tasks[6], 7.5, kind="number")
    annotated(tasks[7], "yes")
    annotated(tasks[7], "maybe", by=13)
    annotated(tasks[8], "yes", was_cancelled=True)
    annotated(tasks[9], "yes")
    annotated(tasks[11], "yes")
    tasks[11]["data"]["correction_id"] = "9999"
    annotated(tasks[12], "yes", "no")
    annotated(tasks[13], "yes")
    tasks[13]["annotations"][0]["result"][0]["from_name"] = "class"
    annotated(tasks[14], "maybe", ground_truth=True)
    annotated(tasks[14], "yes", by=13)
    tasks[15]["annotations"] = [{"result": [{"type": "textarea", "from_name": "label", "value": {"text": ["so"]}}]}]
    decide(served, ids[9], "rejected", 2)
    (tmp_path / "export.json").write_text(json.dumps([*tasks, {"data": {"text": "other"}, "annotations": []}]))
    output = command(served, "import", str(tmp_path / "export.json"), status=1)
    rest = "1 conflicting, 1 unknown, 1 with disagreeing annotators, 5 with an unclear answer, 2 without an answer, "
    assert f"5 accepted, 1 unchanged, {rest}1 not from this exporter" in output
    for line in (
        f'task 107, correction {ids[7]}: 12 says "yes", 13 says "maybe"',
        f"conflicting: task 109, correction {ids[9]}: another reviewer decided first: it is rejected",
        "unknown: task 111, correction 9999: there is no correction 9999",
        f'task 103, correction {ids[3]}: 12 says "cannot tell": expected a number such as 7, as the model predicts',
        f'task 104, correction {ids[4]}: 12 says "NaN": expected a number',
        f'task 105, correction {ids[5]}: 12 says "007": expected a number',
        f'task 112, correction {ids[12]}: 12 says "yes", "no": expected one answer',
        f'task 113, correction {ids[13]}: 12 says nothing: expected an answer named "label"',
    ):
        assert line in output
    decided = {entry["id"]: entry for entry in served.get("/v1/corrections?limit=1000").json["corrections"]}
    found = [(decided[ids[number]]["label"], decided[ids[number]]["reviewer"]) for number in (0, 1, 6, 14, 15)]
    named = [f"label-studio:{name}" for name in ("bea@example.org", "12", "12", "12", "unknown")]
    assert found == list(zip([9, 7, 7.5, "maybe", "so"], named, strict=True))
    assert (decided[ids[7]]["label"], decided[ids[9]]["status"]) == ("no", "rejected")
    assert "0 accepted, 6 unchanged" in command(served, "import", str(tmp_path / "export.json"), status=1)
    after = served.get("/v1/corrections?limit=1000").json["corrections"]
    assert {correction["id"]: correction for correction in after} == decided
    (tmp_path / "export.json").write_text(json.dumps([*tasks[:3], *tasks[4:5] * 30]))
    assert "and 10 more\n0 accepted, 3 unchanged" in command(served, "import", str(tmp_path / "export.json"), status=1)
    (tmp_path / "export.json").write_text(json.dumps(tasks[:3]))
    assert "0 accepted, 3 unchanged" in command(served, "import", str(tmp_path / "export.json"))
    for content, message in (
        ("{}", "is not an export of Label Studio"),
        ('[{"id": 1, "label": "7", "annotator": 1, "annotation_id": 1}]', "JSON_MIN: export the project as JSON"),
    ):
        (tmp_path / "export.json").write_text(content)
        assert message in command(served, "import", str(tmp_path / "export.json"), status=1)


def test_annotator_names_are_reserved(served: Served) -> None:
    """A decision may not use a reviewer name of Label Studio."""
    (correction_id,) = correct(served, {}, accept=False)
    answer = decide(served, correction_id, reviewer="ada")
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (400, "/reviewer")


def test_examples_are_counted_by_label_prediction_and_source(served: Served) -> None:
    """Each example counts once under its label, its prediction, its source and its version."""
    corrected = [{"inputs": {"age": 20 + n, "country": "FR"}, "label": "no" if n % 3 else "maybe"} for n in range(45)]
    sampled = {"verdict": "sampled", "sampled": True, "user": None, "label": "yes"}
    others = [sampled | {"inputs": {"age": 30 + n, "country": "NL"}} for n in range(10)]
    put(served, [*corrected, *others, {"version": "4", "prediction": 0.5}])
    lineage = served.post("/v1/dataset/releases", {"model": "credit"}).json["lineage"]
    assert lineage["labels"] == {"maybe": 15, "no": 31, "yes": 10}
    assert lineage["predictions"] == {"0.5": 1, "yes": 55}
    assert lineage["outcomes"] == {"maybe": {"yes": 15}, "no": {"0.5": 1, "yes": 30}, "yes": {"yes": 10}}
    assert lineage["sources"] == {"correction": 46, "sampled": 10}
    assert lineage["versions"] == {"3": 55, "4": 1}
    assert lineage["without_inputs"] == 1
    (listed,) = served.get("/v1/dataset/releases").json["releases"]
    assert listed["lineage"] == lineage
