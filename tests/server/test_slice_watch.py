"""The metrics of slices: while users correct a version too often, they say where the corrections come from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from support.flights import COUNT, events, is_planted, write_model
from support.servers import eventually

from exporter.errors import StoreError
from exporter.server.application import Exporter
from exporter.server.flask_app import create_app
from exporter.server.tasks import slices


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    """An exporter in this process."""
    exporter = Exporter(write_model(tmp_path))
    yield exporter
    exporter.close()


def send(exporter: Exporter, sent: list[dict[str, Any]], corrected: list[dict[str, Any]]) -> FlaskClient:
    """Send predictions, and corrections of some of them by seven users."""
    client = create_app(exporter).test_client()
    assert client.post("/v1/predictions", json=sent).status_code == 202
    feedback = [
        {"prediction_id": event["id"], "verdict": "corrected", "label": "on time", "user": f"u{number % 7}"}
        for number, event in enumerate(corrected)
    ]
    assert client.post("/v1/feedback", json=feedback).status_code == 201
    eventually(lambda: client.get("/v1/slices?model=flights").json["total"] >= len(corrected))  # type: ignore[index]
    return client


def exported(exporter: Exporter) -> dict[str, dict[tuple[str, ...], float]]:
    """The metrics of slices by the values of their labels."""
    text = exporter.metrics("", ())[0].decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {
        name: {tuple(sample.labels.values()): sample.value for sample in samples if sample.name == name}
        for name in ("model_slice_share", "model_slice_traffic_share")
    }


def test_slices_are_exported_while_a_version_is_corrected_too_often(exporter: Exporter) -> None:
    """They have the numbers of the API, and names that people read; a version that is corrected rarely has none."""
    bad, good = events(COUNT, confidence=0.95), events(COUNT, seed=5, prefix="g", confidence=0.95, version="2")
    client = send(exporter, bad + good, [*filter(is_planted, bad), *bad[:20], *good[:20]])
    assert not any(exported(exporter).values())
    exporter.slice_watch.refresh()
    (found,) = client.get("/v1/slices?model=flights&version=1").json["slices"]  # type: ignore[index]
    labels = ("flights", "1", "corrections", "carrier is MQ and dest is ATL")
    assert exported(exporter) == {
        "model_slice_share": {labels: pytest.approx(found["share"])},
        "model_slice_traffic_share": {labels: pytest.approx(found["traffic_share"])},
    }
    path = exporter.reloader.files.path
    path.write_text(path.read_text().replace("pilot", "carrier"))
    exporter.reloader.reload()
    assert not any(exported(exporter).values()), "no name has a value of an input that is redacted now"


def test_slices_end_with_the_alert(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a share below the threshold there are no series, and none with too few corrections."""
    sent = events(COUNT, confidence=0.95)
    send(exporter, sent, [*filter(is_planted, sent)])
    exporter.slice_watch.refresh()
    assert exported(exporter)["model_slice_share"]
    with monkeypatch.context() as patch:
        patch.setattr(slices, "MIN_MARKED", COUNT)
        exporter.slice_watch.refresh()
        assert not any(exported(exporter).values())
    (monitor,) = exporter.pipeline.monitors
    monitor.config.alerts[slices.ALERT] = 0.9
    exporter.slice_watch.refresh()
    assert not any(exported(exporter).values())


def test_a_failing_store_leaves_no_old_numbers(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector reports the failure, and recovers."""
    sent = events(COUNT, confidence=0.95)
    send(exporter, sent, [*filter(is_planted, sent)])
    exporter.slice_watch.refresh()
    success = b'model_exporter_collector_success{collector="slices"} '

    def fail() -> None:
        raise StoreError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(exporter.store, "reading", fail)
        exporter.slice_watch.refresh()
        assert not any(exported(exporter).values())
        assert success + b"0.0" in exporter.metrics("", ())[0]
    exporter.slice_watch.refresh()
    assert exported(exporter)["model_slice_share"]
    assert success + b"1.0" in exporter.metrics("", ())[0]


def test_long_names_are_cut(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A label has a bounded length."""
    monkeypatch.setattr("exporter.metrics.comparisons.MAX_NAME", 10)
    sent = events(COUNT, confidence=0.95)
    send(exporter, sent, [*filter(is_planted, sent)])
    exporter.slice_watch.refresh()
    assert [labels[3] for labels in exported(exporter)["model_slice_share"]] == ["carrier i…"]


def test_slices_with_the_same_name_are_one_series(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two slices look the same, as cut names or bins of large numbers do, the first one has the series."""
    monkeypatch.setattr("exporter.metrics.comparisons.describe", lambda *_: "the same")
    sent = events(COUNT, confidence=0.95)
    corrected = [event for event in sent if event["inputs"]["carrier"] == "MQ" or event["inputs"]["dest"] == "ATL"]
    client = send(exporter, sent, corrected)
    found = client.get("/v1/slices?model=flights&version=1&limit=3").json["slices"]  # type: ignore[index]
    assert len(found) > 1
    exporter.slice_watch.refresh()
    text = exporter.metrics("", ())[0].decode()
    assert [line for line in text.splitlines() if line.startswith("model_slice_share{")] == [
        f'model_slice_share{{model="flights",version="1",of="corrections",slice="the same"}} {found[0]["share"]!r}'
    ]
