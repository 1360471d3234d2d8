"""Labels over HTTP: what each becomes, what is refused, and that an acknowledged label survives a kill."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.servers import CONFIG, Answer, Served, eventually, serving, write_config

from exporter.server.application import Exporter
from exporter.wire.events import LabelEvent, Prediction

BARE = CONFIG["models"][1]["name"]
"""A model without a profile: whether it predicts classes or numbers, each of its predictions says."""


def predict(server: Served, *ids: str, **members: Any) -> None:
    """Send predictions of the model credit."""
    events = [{"id": name, "model": "credit", "version": "3", "prediction": "yes"} | members for name in ids]
    assert server.post("/v1/predictions", events).status == 202


def send(server: Served, *labels: Any, **headers: str) -> Answer:
    """Send labels, each an identifier and a label, as an array."""
    return server.post("/v1/labels", [{"prediction_id": name, "label": label} for name, label in labels], **headers)


def settled(server: Served, *ids: str) -> None:
    """Wait until predictions are on disk."""
    eventually(lambda: send(server, *((name, "probe") for name in ids)).json["joined"] == len(ids))


def test_each_label_has_its_answer(shared: Served) -> None:
    """New, repeated, changed and early ones; all repeats are a 200."""
    predict(shared, "l-1", "l-2")
    settled(shared, "l-1", "l-2")
    before = shared.samples()
    answer = send(shared, ("l-1", "yes"), ("l-2", "probe"), ("l-3", 1), ("l-3", "1"))
    assert (answer.status, answer.json) == (
        201,
        {"accepted": 4, "joined": 2, "waiting": 2, "repeated": 2, "changed": 1, "rejected": []},
    )
    after = shared.samples()
    source = 'model_exporter_events_total{source="labels"}'
    assert after[source] - before[source] == 2
    assert after["model_exporter_labels_unjoined"] == before["model_exporter_labels_unjoined"] + 1
    answer = send(shared, ("l-1", "yes"), ("l-3", 1))
    assert (answer.status, answer.json["repeated"]) == (200, 2)
    predict(shared, "l-3")
    eventually(lambda: shared.samples()["model_exporter_labels_unjoined"] == before["model_exporter_labels_unjoined"])
    one = shared.post("/v1/labels", {"prediction_id": "l-1", "label": False, "model": "credit"})
    assert (one.status, one.json["changed"]) == (201, 1)
    lines = b'{"prediction_id": "l-1", "label": 2}\n\n{"prediction_id": "l-2", "label": 2}'
    answer = shared.post("/v1/labels", lines, Content_Type="application/x-ndjson")
    assert (answer.status, answer.json["changed"]) == (201, 2)


@pytest.mark.parametrize(
    ("body", "pointer", "detail"),
    [
        (b'{"prediction_id": "r"}', "/label", "is required"),
        (b'{"prediction_id": "r", "label": null}', "/label", "is required"),
        (b'{"prediction_id": "r", "label": NaN}', "/label", "is required"),
        (b'{"prediction_id": "r", "label": 1e999}', "/label", "expected a finite number, a string or a boolean"),
        (b'[{"prediction_id": "r", "label": -Infinity}]', "/0/label", "expected a finite number"),
        (b'{"prediction_id": "r", "label": {"a": 1}}', "/label", "a number or a string"),
        (b'{"prediction_id": "r", "label": "%s"}' % (b"x" * 1001), "/label", "1000"),
        (b'{"label": "yes"}', "/prediction_id", "is required"),
        (b'{"prediction_id": "", "label": "yes"}', "/prediction_id", "1"),
        (b'{"prediction_id": "%s", "label": "yes"}' % (b"x" * 129), "/prediction_id", "128"),
        (b'{"prediction_id": "a\\u0000b", "label": "yes"}', "/prediction_id", "no control characters"),
        (b'{"prediction_id": "r", "label": "yes", "model": "kredit"}', "/model", 'did you mean "credit"?'),
        (b'{"prediction_id": "r", "lable": "yes"}', "/lable", 'did you mean "label"?'),
        (b'{"prediction_id": "r", "label": "y", "time": "2200-01-01T00:00:00Z"}', "/time", "not in the future"),
        (b'{"prediction_id": "r", "label": "y", "time": "2026-01-01T00:00:00"}', "/time", ""),
        (b"[", "", "is not JSON"),
        (b"[]", "", "the body has no events"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_label_is_named(shared: Served, body: bytes, pointer: str, detail: str) -> None:
    """The field, and what would be right; nothing is stored."""
    answer = shared.post("/v1/labels", body)
    assert answer.status == 400, answer.text
    assert answer.json["errors"][0]["pointer"] == pointer
    assert detail in answer.json["errors"][0]["detail"]


def test_good_labels_are_stored_beside_refused_ones(shared: Served) -> None:
    """Each refused one has its place in the body, whether it is refused before or at its prediction."""
    predict(shared, "n-1", "n-2", prediction=2.5, model=BARE)
    eventually(lambda: send(shared, ("n-1", 1), ("n-2", 1)).json["joined"] == 2)
    answer = send(shared, ("n-1", None), ("n-1", "abc"), ("n-1", 3), ("n-2", []), ("n-2", True), ("n-2", "4.5"))
    assert (answer.status, answer.json["accepted"], answer.json["changed"]) == (201, 2, 2)
    assert [item["index"] for item in answer.json["rejected"]] == [0, 1, 3, 4]
    assert answer.json["rejected"][1] == {
        "index": 1,
        "pointer": "/label",
        "detail": "expected a number, as its prediction is, got a string",
    }
    answer = send(shared, ("n-1", "abc"))
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (400, "/0/label")


@pytest.mark.parametrize(
    ("prediction", "label", "detail"),
    [
        (True, True, "its model predicts numbers, and its prediction is a boolean"),
        ("high", 3, "its model predicts numbers, and its prediction is a string"),
        ("2.5", "high", "expected a number, as its prediction is, got a string"),
        (2.5, True, "expected a number, as its prediction is, got a boolean"),
        (2.5, 1e300, "is too far from its prediction, or one of the two is not finite"),
    ],
)
def test_why_a_label_of_a_regression_is_refused(tmp_path: Path, prediction: Any, label: Any, detail: str) -> None:
    """The message says which of the two is not a number."""
    write_config(tmp_path, {"models": [{"name": "m", "task": "regression"}]})
    with closing(Exporter(tmp_path / "exporter.yml")) as exporter:
        exporter.pipeline.submit([Prediction("m", id="p", prediction=prediction)], 1)
        assert exporter.pipeline.settle(10)
        assert exporter.store.flush(10)
        result = exporter.store.record_labels([LabelEvent("p", label)])
        assert [event.detail for event in result.rejected] == [detail]


def test_the_last_refusal_says_where_the_exporter_stopped(shared: Served) -> None:
    """After a thousand labels that are not valid; those before are stored, those after are not."""
    predict(shared, "s-1", prediction=2.5, model=BARE)
    eventually(lambda: send(shared, ("s-1", 1)).json["joined"] == 1)
    refused_later = [("s-1", "abc")] * 10
    answer = send(shared, ("s-1", 3), *refused_later, *[("s-2", None)] * 1000, ("s-3", 1), ("s-4", 1))
    assert (answer.status, answer.json["accepted"]) == (201, 1)
    rejected = answer.json["rejected"]
    assert [item["index"] for item in rejected] == [*range(1, 1001), 1011]
    assert rejected[-1]["detail"] == "not checked: 1000 events before it were rejected"


def test_an_early_label_that_cannot_be_compared_is_counted(shared: Served) -> None:
    """As a rejected event, once its prediction arrives."""
    rejected = 'model_exporter_events_rejected_total{reason="wrong_type"}'
    before = shared.samples()[rejected]
    assert send(shared, ("e-1", "abc")).json["waiting"] == 1
    predict(shared, "e-1", prediction=2.5, model=BARE)
    eventually(lambda: shared.samples()[rejected] == before + 1)
    assert "labels cannot be compared with their predictions" in shared.log.read_text()


def test_labels_count_in_the_quality_metrics(shared: Served) -> None:
    """Once for each prediction, whichever of the two came first; a changed label is none more."""
    names = "labelled", "correct"
    labelled, right = (f'model_{name}_predictions_total{{model="credit",version="quality"}}' for name in names)
    assert send(shared, ("q-1", "yes")).json["waiting"] == 1
    predict(shared, "q-1", "q-2", version="quality")
    eventually(lambda: send(shared, ("q-2", "no")).json["joined"] == 1)
    eventually(lambda: shared.samples().get(labelled) == 2)
    send(shared, ("q-1", "yes"), ("q-2", "yes"))
    samples = shared.samples()
    assert (samples[labelled], samples[right]) == (2, 1)


def test_a_time_may_be_slightly_ahead(shared: Served) -> None:
    """Clocks differ by minutes; an hour is a wrong time zone."""
    now = datetime.now(UTC)
    for minutes, status in ((4, 201), (60, 400)):
        moment = (now + timedelta(minutes=minutes)).isoformat()
        body = {"prediction_id": f"t-{minutes}", "label": 1, "time": moment}
        assert shared.post("/v1/labels", body).status == status


def test_a_request_has_at_most_ten_thousand_labels(shared: Served) -> None:
    """So many are stored in several transactions; more are refused, and nothing of them is stored."""
    answer = send(shared, *((f"many-{n}", n % 3) for n in range(10_000)))
    assert (answer.status, answer.json["accepted"]) == (201, 10_000)
    answer = send(shared, *((f"more-{n}", n % 3) for n in range(10_001)))
    assert answer.status == 413
    assert "at most 10,000 labels" in answer.json["detail"]
    assert send(shared, ("more-0", 1)).json["repeated"] == 0
    assert send(shared, *(("one", n) for n in range(10_000))).json["changed"] == 9_999


@pytest.fixture
def server(tmp_path: Path, database: str) -> Iterator[Served]:
    """An exporter of its own, on each database."""
    write_config(tmp_path, {**CONFIG, "store": {"url": database}})
    with serving(tmp_path) as served:
        yield served


def test_acknowledged_labels_survive_a_kill(server: Served) -> None:
    """Those that were joined, and those that wait, which are joined after the restart."""
    names = [f"p-{n}" for n in range(50)]
    predict(server, *names)
    acknowledged: list[str] = []

    def label() -> None:
        for number in range(100_000):
            try:
                answer = send(server, (f"p-{number}", "yes"), (f"early-{number}", "no"))
            except OSError:
                return
            if answer.status == 201:
                acknowledged.append(str(number))

    sender = threading.Thread(target=label)
    sender.start()
    eventually(lambda: len(acknowledged) > 60, 60)
    server.stop(signal.SIGKILL)
    sender.join()
    server.start()
    pairs = [(f"{kind}-{n}", label) for n in acknowledged for kind, label in (("p", "yes"), ("early", "no"))]
    answer = send(server, *pairs)
    assert answer.status == 200, answer.text
    assert answer.json["repeated"] == len(pairs)
    waiting = server.samples()["model_exporter_labels_unjoined"]
    predict(server, *(f"early-{n}" for n in acknowledged))
    eventually(lambda: server.samples()["model_exporter_labels_unjoined"] == waiting - len(acknowledged))


def test_the_age_of_the_oldest_label_that_waits(server: Served) -> None:
    """It is that of the first label that still waits, though that is sent again; without any, it is absent."""

    def age() -> float | None:
        name = "model_exporter_labels_unjoined_oldest_seconds"
        return server.samples(name).get(name)

    assert age() is None
    times = {}
    for name in ("z-1", "a-2"):
        before = time.time()
        assert send(server, (name, "yes")).json["waiting"] == 1
        times[name] = (before, time.time())
        time.sleep(0.3)
    assert send(server, ("z-1", "no")).json["changed"] == 1
    for name, (earliest, latest) in times.items():
        now = time.time()
        assert now - latest - 0.05 <= (age() or -1) <= time.time() - earliest + 0.05
        predict(server, name)
        eventually(lambda found=name: send(server, (found, "yes")).json["joined"] == 1)
    eventually(lambda: age() is None)
