"""Corrections of each kind of model, decided by two annotators of Label Studio, and back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from peer import serving_peer
from support.servers import Served, ask, eventually, serving, write_config

from exporter.cli import main

ADA, BEA = "a" * 40, "b" * 40
"""Tokens of the users 1 and 2."""
IMAGE = [[0, 4], [8, 16]]
KINDS: dict[str, tuple[dict[str, Any], list[dict[str, Any]], list[Any]]] = {
    # The model's settings; the inputs of its predictions; the prediction, the user's label, and a third label.
    "table": ({}, [{"age": 41, "own home": True}, {"debt": 2.5}], ["yes", "no", "maybe"]),
    "text": ({"text": {"type": "text"}}, [{"text": "two\nlines"}, {"age": 3}], ["spam", "ham", "<b>&"]),
    "image": ({"a photo": {"type": "image"}}, [{"a photo": IMAGE}, {"age": 3}, {"a photo": "none"}], [7, 1, 9]),
    "price": ({}, [{"rooms": 3}, {}], [24.31, 30.0, 27.125]),
}


class Studio:
    """Label Studio, with two users."""

    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, method: str, path: str, body: Any = None, token: str = ADA) -> Any:
        """Send a request; the answer's document, or None where there is nothing."""
        answer = ask(f"{self.url}/api/{path}", body, method, Authorization=f"Token {token}")
        assert answer.status < 300 or (answer.status, path[-4:]) == (404, "next"), answer.text
        return answer.json if answer.status < 300 else None


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("studio")
    user = ["--username", "ada@example.org", "--password", "correct-horse", "--user-token", ADA]
    command = ["label-studio", "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", "{port}", *user]
    settings = {"LABEL_STUDIO_BASE_DATA_DIR": str(folder), "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true"}
    settings |= {"COLLECT_ANALYTICS": "false", "LATEST_VERSION_CHECK": "false", "SENTRY_DSN": ""}
    with serving_peer("label-studio", command, "/api/version", folder, **settings) as url:
        studio = Studio(url)
        studio.call("POST", "users/", {"email": "bea@example.org", "username": "bea", "password": "correct-horse"})
        with closing(sqlite3.connect(folder / "label_studio.sqlite3", timeout=20)) as database, database:
            database.execute("INSERT OR REPLACE INTO authtoken_token VALUES (?, datetime(), 2)", (BEA,))
        yield studio


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("exporter")
    models = [{"name": name, "features": features} for name, (features, *_) in KINDS.items()]
    models[-1]["task"] = "regression"
    write_config(folder, {"models": models})
    with serving(folder) as served:
        yield served


def command(served: Served, *arguments: str, status: int = 0) -> str:
    printed = StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        assert main(["dataset", *arguments, f"--exporter={served.url}"]) == status, printed.getvalue()
    return printed.getvalue()


def annotated(answers: list[Any]) -> list[dict[str, Any]]:
    """The result of an annotation."""
    kind = "number" if isinstance(answers[0], float) else "choices"
    value = answers[0] if kind == "number" else [str(answer) for answer in answers]
    return [{"type": kind, "from_name": "label", "to_name": "inputs", "value": {kind: value}}]


def work(studio: Studio, project: int, answers: dict[str, list[Any]], shown: Any) -> dict[str, int]:
    """Let both users answer the next task until there is none; return the annotation of each prediction."""
    worked: dict[str, int] = {}
    for turn in range(20):
        token = (ADA, BEA)[turn % 2]
        if (task := studio.call("GET", f"projects/{project}/next", token=token)) is None:
            break
        (opinion,) = task["predictions"]
        found = opinion["model_version"], opinion["score"], opinion["result"][0]["value"]
        assert found == ("correction", 1.0, shown)
        name = task["data"]["correction_prediction_id"]
        body = {"result": annotated(answers[name])} if answers[name] else {"result": [], "was_cancelled": True}
        worked[name] = studio.call("POST", f"tasks/{task['id']}/annotations/", body, token)["id"]
    return worked


@pytest.mark.parametrize("model", KINDS)
def test_the_queue_is_worked_through(studio: Studio, served: Served, tmp_path: Path, model: str) -> None:
    """Tasks wait with both predictions, also where an input is missing; each decision comes back, under its name."""
    _, inputs, (predicted, corrected, other) = KINDS[model]
    ids = [f"{model}-{number}" for number in range(7)]
    event = {"model": model, "version": "3", "prediction": predicted, "confidence": 0.9}
    events = [{**event, "id": one, "inputs": inputs[number % len(inputs)]} for number, one in enumerate(ids)]
    assert served.post("/v1/predictions", events).status == 202
    said = [{"prediction_id": one, "model": model, "verdict": "corrected", "label": corrected} for one in ids]
    eventually(lambda: all(result["joined"] for result in served.post("/v1/feedback", said).json["feedback"]))

    def stored() -> dict[str, Any]:
        found = served.get(f"/v1/corrections?model={model}&limit=100").json["corrections"]
        return {one["prediction_id"]: one for one in found}

    decisions = [{"id": one["id"], "status": "accepted", "revision": 1} for one in stored().values()]
    assert ask(f"{served.url}/v1/corrections", decisions, "PATCH").status == 200
    config, tasks, export = (tmp_path / name for name in ("config.xml", "tasks.json", "project.json"))
    command(served, "export", f"--model={model}", f"-o={config}")
    command(served, "export", f"--model={model}", f"-o={tasks}", "--format=label-studio")

    project = studio.call("POST", "projects/", {"title": model, "label_config": config.read_text()})["id"]
    studio.call("POST", f"projects/{project}/import", tasks.read_bytes())
    before = studio.call("GET", f"projects/{project}/")
    assert (before["task_number"], before["finished_task_number"], before["total_predictions_number"]) == (7, 0, 14)

    answers: dict[str, list[Any]] = {
        ids[0]: [corrected], ids[1]: [predicted], ids[2]: [other], ids[3]: [], ids[4]: [other],
        ids[5]: [str(corrected), str(other)], ids[6]: ["cannot tell" if predicted in {7, 24.31} else other],
    }  # fmt: skip
    worked = work(studio, project, answers, annotated([corrected])[0]["value"])
    assert worked.keys() == set(ids)
    studio.call("PATCH", f"annotations/{worked[ids[4]]}/", {"result": annotated([predicted])}, BEA)

    answer = studio.call("GET", f"projects/{project}/export?exportType=JSON")
    export.write_text(json.dumps(answer))
    unclear = 2 if predicted in {7, 24.31} else 1
    summary = f"{5 - unclear} accepted, 1 unchanged, {unclear} with an unclear answer"
    output = command(served, "import", str(export), status=1)
    assert summary in output
    assert "expected one answer" in output
    after = stored()
    labels = [after[one]["label"] for one in ids[:5]]
    assert labels == [corrected, predicted, other, corrected, predicted]
    assert after[ids[4]]["reviewer"] == "label-studio:2"
    assert {after[one]["reviewer"] for one in ids[1:3]} <= {"label-studio:1", "label-studio:2"}
    assert f"0 accepted, {6 - unclear} unchanged" in command(served, "import", str(export), status=1)
    small = studio.call("GET", f"projects/{project}/export?exportType=JSON_MIN")
    export.write_text(json.dumps(small))
    assert "JSON_MIN: export the project as JSON" in command(served, "import", str(export), status=1)
