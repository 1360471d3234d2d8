"""The HTTP API of an exporter in its own process."""

from __future__ import annotations

import copy
import functools
import gzip
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from support.paths import ROOT
from support.reviewers import in_parallel
from support.servers import CONFIG, Served, ask, eventually, write_config

from exporter.profiles.builder import build_file
from exporter.profiles.profile import save
from exporter.server.application import Exporter
from exporter.server.flask_app import create_app

GOOD = {
    "id": "r-17",
    "model": "credit",
    "version": "3",
    "time": "2026-11-24T10:00:00Z",
    "inputs": {"age": 41, "income": 30000.5, "country": "NL", "photo": [[0, 12], [3, 16]], "name": "Ada"},
    "prediction": "yes",
    "confidence": 0.93,
    "duration_seconds": 0.012,
    "code": 200,
}
LABELS = 'model="credit",version="3"'


def test_predictions_count_once_acknowledged(served: Served) -> None:
    """A scrape after the acknowledgement has the prediction in the metrics of all three layers."""
    answer = served.post("/v1/predictions", GOOD)
    assert (answer.status, answer.json) == (202, {"accepted": 1, "rejected": []})
    samples = served.samples()
    assert samples[f'model_requests_total{{{LABELS},code="200"}}'] == 1
    assert samples[f"model_request_duration_seconds_sum{{{LABELS}}}"] == 0.012
    assert samples[f'model_request_duration_seconds_bucket{{{LABELS},le="0.025"}}'] == 1
    assert samples[f'model_feature_mean{{{LABELS},feature="age",window="5m"}}'] == 41
    assert samples[f'model_feature_mean{{{LABELS},feature="photo.intensity_mean",window="1h"}}'] == 7.75
    assert samples[f"model_attempts_total{{{LABELS}}}"] == 1
    assert samples[f"model_confident_predictions_total{{{LABELS}}}"] == 1
    assert not [series for series in samples if "Ada" in series or 'feature="name"' in series]


@pytest.mark.parametrize("kind", ["array", "ndjson"])
def test_batches_accept_valid_events_and_report_the_others(served: Served, kind: str) -> None:
    """An invalid event among valid ones is rejected with its index and pointer; the others are accepted."""
    events = [{"model": "credit", "version": "b"}, {"model": "credit", "version": "b", "confidence": 1.7}, 3]
    if kind == "array":
        answer = served.post("/v1/predictions", events)
    else:
        body = "\n".join(map(json.dumps, events)).encode()
        answer = served.post("/v1/predictions", body, Content_Type="application/x-ndjson")
    assert answer.status == 202
    assert answer.json["accepted"] == 1
    assert [(one["index"], one["pointer"]) for one in answer.json["rejected"]] == [(1, "/confidence"), (2, "")]
    samples = served.samples("model_attempts_total", "model_exporter_events_rejected_total")
    assert samples['model_attempts_total{model="credit",version="b"}'] == 1
    assert samples['model_exporter_events_rejected_total{reason="out_of_range"}'] == 1


@pytest.mark.parametrize(
    ("body", "pointer", "detail"),
    [
        (b"nonsense", "", "is not JSON"),
        (b"", "", "is empty"),
        (b"[]", "", "no event"),
        (b"3", "", "expected an object"),
        (b"{}", "/model", "is required"),
        (b'{"model": "nobody"}', "/model", 'no model "nobody" is configured'),
        (b'{"model": "credit", "confidence": 1.7}', "/confidence", "at most 1, got 1.7"),
        (b"[" * 100_000, "", "nested too deeply"),
        (b'{"model": "credit", "inputs": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001, "", "nested too deeply"),
    ],
)
def test_bad_predictions_get_a_problem_that_says_what_is_expected(
    shared: Served, body: bytes, pointer: str, detail: str
) -> None:
    """A body without a valid event is a 400 with a pointer to the field and what is wrong with it."""
    answer = shared.post("/v1/predictions", body)
    assert answer.status == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["status"] == 400
    assert answer.json["title"] == "Bad Request"
    assert answer.json["errors"][0]["pointer"] == pointer
    assert detail in answer.json["errors"][0]["detail"]


def test_wrong_values_among_the_inputs_are_counted_not_refused(served: Served) -> None:
    """Invalid values are monitored, not refused: they are counted as invalid or missing."""
    inputs = [
        b'{"age": "old", "income": NaN, "country": 5, "photo": "no image"}',
        b'{"age": Infinity, "income": null, "country": ["NL"], "photo": [[1, 2], [3]]}',
        b'{"age": 1e999, "country": "XX", "photo": "\xff", "' + b"x" * 1_000_000 + b'": {"deep": [1]}}',
        b'{"age": ' + b"1" * 5000 + b', "country": "NL"}',
    ]
    for one in inputs:
        assert (
            served.post("/v1/predictions", b'{"model": "credit", "version": "3", "inputs": ' + one + b"}").status == 202
        )
    many = {f"unknown {number}": number for number in range(5000)}
    assert served.post("/v1/predictions", {"model": "credit", "version": "3", "inputs": many}).status == 202
    samples = served.samples()
    window = f'{LABELS},feature="%s",window="5m"'
    assert samples[f"model_feature_window_observations{{{window % 'age'}}}"] == 5
    assert samples[f"model_feature_invalid_ratio{{{window % 'age'}}}"] == 4 / 5
    assert samples[f"model_feature_missing_ratio{{{window % 'income'}}}"] == 1
    assert samples[f"model_feature_invalid_ratio{{{window % 'country'}}}"] == 2 / 5
    assert samples[f"model_feature_unseen_ratio{{{window % 'country'}}}"] == 1 / 5
    assert samples[f"model_feature_invalid_ratio{{{window % 'photo.contrast'}}}"] == 3 / 5
    assert samples['model_exporter_unknown_features_total{model="credit"}'] == 5001
    assert f"model_feature_mean{{{window % 'income'}}}" not in samples


def test_a_profile_of_another_model_is_noticed_at_once(served: Served) -> None:
    """All its features are missing and all inputs unknown; both are counted, and every prediction is accepted."""
    config = yaml.safe_load((served.folder / "exporter.yml").read_text())
    config["models"] = [{"name": "loans", "profile": "credit.json"}]
    write_config(served.folder, config)
    assert served.post("/-/reload", b"").status == 200
    event = {"model": "loans", "version": "1", "inputs": {"sqm": 80, "rooms": 3}, "prediction": 310_000.0}
    answer = served.post("/v1/predictions", [event] * 60).json
    detail = "is not in the profile and is not counted; valid values: age, country, income, name, photo"
    warnings = [{"pointer": f"/inputs/{name}", "detail": detail} for name in ("rooms", "sqm")]
    assert answer == {"accepted": 60, "rejected": [], "warnings": warnings}
    samples = served.samples()
    assert samples['model_exporter_unknown_features_total{model="loans"}'] == 120
    of = 'model="loans",version="1"'
    missing = [value for series, value in samples.items() if series.startswith(f"model_feature_missing_ratio{{{of}")]
    assert missing
    assert set(missing) == {1.0}
    scores = [samples[f'model_{what}kl_divergence{{{of},{feature}window="5m"}}'] for what, feature in (
        ("feature_", 'feature="age",'), ("prediction_", ""),
    )]  # fmt: skip
    assert min(scores) > 0.3


def test_ids_are_generated_and_returned_on_request(shared: Served) -> None:
    """``?ids=1`` returns the identifiers of the client and those that were generated."""
    answer = shared.post("/v1/predictions?ids=1", [{"model": "credit", "id": "mine"}, {"model": "credit"}])
    assert answer.json["ids"][0] == "mine"
    assert len(answer.json["ids"][1]) > 10
    assert "ids" not in shared.post("/v1/predictions?ids=0", {"model": "credit"}).json
    for path in ("/v1/predictions?ids=maybe", "/v1/exchanges?ids=maybe"):
        refused = shared.post(path, {"model": "credit"})
        assert (refused.status, refused.json["detail"]) == (400, 'ids: expected 1 or 0, got "maybe"')


REUSED = "this Idempotency-Key was already used with another request: use a new key"


def test_a_key_with_another_body_is_refused(served: Served) -> None:
    """Byte by byte; the path names the model and the query asks for identifiers, so they are compared, too."""
    body = json.dumps(GOOD).encode()
    sent = functools.partial(served.post, "/v1/predictions", Idempotency_Key="k-1")
    assert sent(body).status == 202
    assert sent(body).status == 202
    refused = sent(json.dumps({**GOOD, "version": "4"}).encode())
    assert (refused.status, refused.json["detail"]) == (422, REUSED)
    assert served.post("/v1/predictions?ids=1", body, Idempotency_Key="k-1").status == 422
    assert served.post("/v1/predictions", body, Idempotency_Key="k-2").status == 202
    assert served.samples("model_attempts_total") == {f"model_attempts_total{{{LABELS}}}": 2}
    assert served.post("/v1/exchanges", EXCHANGE, Idempotency_Key="k-1").status == 202
    assert served.post("/v1/exchanges", {**EXCHANGE, "version": "4"}, Idempotency_Key="k-1").status == 422


EXCHANGE = {
    "model": "credit",
    "code": 200,
    "request": {"inputs": [{"name": "age", "shape": [1], "datatype": "FP64", "data": [40]}]},
    "response": {"outputs": [{"name": "y", "shape": [1], "datatype": "BYTES", "data": ["yes"]}]},
}
NOTICE = {"version": "4", "status": "firing", "alerts": [{"status": "firing", "labels": {}}]}


@pytest.mark.parametrize(
    ("path", "body", "metric"),
    [
        ("/v1/events", {"event": "contracts", "model": "credit"}, "model_business_events_total"),
        ("/v1/notifications", NOTICE, "model_exporter_notifications_total"),
        ("/v1/exchanges", EXCHANGE, "model_attempts_total"),
        ("/v1/logs", {"resourceLogs": []}, "model_exporter_events_total"),
    ],
)
def test_every_route_that_counts_accepts_an_idempotency_key(served: Served, path: str, body: Any, metric: str) -> None:
    """A retry gets the response of the first POST and counts nothing; a request that was refused can be repeated."""
    assert served.post(path, b"no", Idempotency_Key="k").status == 400
    before = sum(served.samples(metric).values())
    first = served.post(path, body, Idempotency_Key="k")
    once = sum(served.samples(metric).values())
    again = served.post(path, body, Idempotency_Key="k")
    assert first.status == again.status < 300
    assert first.body == again.body
    assert sum(served.samples(metric).values()) == once
    assert once == before + (path != "/v1/logs")
    reused = served.post(path, json.dumps(body).encode() + b" ", Idempotency_Key="k")
    assert (reused.status, reused.json["detail"]) == (422, REUSED)
    assert sum(served.samples(metric).values()) == once
    assert served.post(path, body, Idempotency_Key="k" * 300).status == 400


def test_too_large_bodies_are_refused(shared: Served) -> None:
    """A body above 16 MiB is a 413, with or without a declared length; a smaller one is accepted."""
    assert shared.post("/v1/predictions", b" " * (16 * 2**20 + 1)).status == 413
    large = json.dumps({"model": "credit", "inputs": {"comment": "x" * 10_000_000}}).encode()
    assert shared.post("/v1/predictions", large).status == 202


def test_slow_clients_do_not_delay_others(shared: Served) -> None:
    """Fifty clients that never finish their bodies do not delay the others."""
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
    slow = [socket.create_connection(("127.0.0.1", shared.port)) for _ in range(50)]
    try:
        for number, client in enumerate(slow):
            client.sendall(head % (b"/v1/predictions", b"/v1/feedback", b"/v1/events")[number % 3])
        eventually(lambda: shared.post("/v1/predictions", {"model": "credit"}).status == 202, 20)
        assert shared.get("/metrics").status == 200  # their bodies may take 30 seconds
    finally:
        for client in slow:
            client.close()


def test_feedback_counts_each_prediction_once(served: Served) -> None:
    """A correction counts for the version that predicted; repeated or further feedback does not count again."""
    served.post("/v1/predictions", GOOD)
    word = {"prediction_id": "r-17", "verdict": "corrected", "label": "no", "user": "teacher-4", "comment": "<b>"}
    first = served.post("/v1/feedback", word)
    assert (first.status, first.json["verdict"]) == (201, "corrected")
    assert served.post("/v1/feedback", word).status == 200
    assert served.post("/v1/feedback", {**word, "label": "maybe"}).status == 201
    eventually(lambda: served.samples("model_corrections_total")[f"model_corrections_total{{{LABELS}}}"] == 1)
    samples = served.samples()
    assert samples[f'model_feedback_total{{{LABELS},verdict="corrected"}}'] == 2
    assert served.post("/v1/feedback", {**word, "verdict": "accepted"}).status == 201
    assert served.samples("model_corrections_total") == {f"model_corrections_total{{{LABELS}}}": 1}
    served.post("/v1/feedback", word)
    samples = served.samples()
    assert samples[f"model_corrections_total{{{LABELS}}}"] == 1
    assert samples['model_corrections_pending{model="credit"}'] == 1
    assert 0 <= samples['model_corrections_oldest_pending_seconds{model="credit"}'] < 60


@pytest.mark.parametrize(
    ("word", "pointer"),
    [
        ({"verdict": "corrected"}, "/prediction_id"),
        ({"prediction_id": "a"}, "/verdict"),
        ({"prediction_id": "a", "verdict": "wrong"}, "/verdict"),
        ({"prediction_id": "a" * 129, "verdict": "accepted"}, "/prediction_id"),
        ({"model": "credit"}, "/label"),
        ({"model": "nobody", "label": "a"}, "/model"),
        ({"prediction_id": "a", "verdict": "corrected", "label": "x" * 1_000_000}, "/label"),
    ],
)
def test_bad_feedback_names_its_field(shared: Served, word: object, pointer: str) -> None:
    """Invalid feedback is a 400 with the pointer to the field."""
    answer = shared.post("/v1/feedback", word)
    assert answer.status == 400
    assert answer.json["errors"][0]["pointer"] == pointer


def test_business_events_are_declared_counters(served: Served) -> None:
    """Declared events are counted, undeclared ones are refused."""
    for value in ({}, {"value": 2.5}):
        assert (
            served.post("/v1/events", {"event": "contracts", "model": "credit", "version": "3", **value}).status == 202
        )
    series = f'model_business_events_total{{{LABELS},event="contracts"}}'
    assert served.samples("model_business_events_total")[series] == 3.5
    assert served.post("/v1/events", {"event": "visits", "model": "credit"}).json["errors"][0]["pointer"] == "/event"
    assert served.post("/v1/events", {"event": "contracts", "model": "credit", "value": -1}).status == 400


def test_health_and_readiness(shared: Served) -> None:
    """``/-/healthy`` and ``/-/ready`` return 200 as Prometheus does; reload is a POST."""
    assert shared.get("/-/healthy").status == 200
    assert shared.get("/-/ready").status == 200
    assert ask(f"{shared.url}/-/reload").status == 405


def test_reload_keeps_the_old_configuration_when_the_new_one_is_wrong(served: Served) -> None:
    """An invalid reload is explained, shows in a metric and changes nothing; a valid one keeps the counters."""
    served.post("/v1/predictions", GOOD)
    good = (served.folder / "exporter.yml").read_text()
    (served.folder / "exporter.yml").write_text(good.replace("redact", "retract"))
    answer = served.post("/-/reload", b"")
    assert answer.status == 500
    assert 'models[0].retract: is not known; did you mean "redact"?' in answer.json["detail"]
    name = "model_exporter_config_last_reload_successful"
    assert served.samples(name) == {name: 0}
    assert "The last reload failed, and the configuration before it stays in use:" in served.get("/").text
    (served.folder / "exporter.yml").write_text(
        good.replace("- contracts", "- contracts\n  - visits").replace("bare", "bald")
    )
    served.process.send_signal(signal.SIGHUP)
    eventually(lambda: served.samples(name) == {name: 1})
    assert "The last reload failed" not in served.get("/").text
    assert served.post("/v1/predictions", {"model": 'bald "model"\\ 模型'}).status == 202
    write_config(served.folder)
    assert served.post("/-/reload", b"").status == 200


def test_an_unexpected_exception_in_a_reload_shows_in_the_metric(tmp_path: Path) -> None:
    """After any exception the metric no longer reports that the last reload succeeded."""
    with closing(Exporter(write_config(tmp_path))) as exporter:
        exporter.reloader.others.append((tmp_path / "gone").unlink)
        with pytest.raises(FileNotFoundError):
            exporter.reloader.reload()
        assert exporter.registry.get_sample_value("model_exporter_config_last_reload_successful") == 0


def test_unknown_routes_and_methods_name_the_valid_ones(shared: Served) -> None:
    """The problem for a wrong path or method names the valid ones."""
    missing, wrong = shared.get("/v1/prediction"), ask(f"{shared.url}/v1/predictions", method="DELETE")
    assert (missing.status, wrong.status) == (404, 405)
    assert set(wrong.headers["Allow"].split(", ")) == {"OPTIONS", "POST"}
    assert missing.json["detail"] == (
        'there is no route "/v1/prediction"; did you mean "/v1/predictions"? /openapi.json lists all routes'
    )
    nothing = shared.get("/nothing/like/it").json["detail"]
    assert nothing == 'there is no route "/nothing/like/it"; /openapi.json lists all routes'
    assert "did you mean ModelFeatureDrift?" in shared.get("/runbooks/ModelFeatureDrif").json["detail"]
    assert wrong.json["detail"] == '"/v1/predictions" takes OPTIONS or POST, not "DELETE"'


def test_reloads_under_load_lose_nothing(served: Served) -> None:
    """During successful and failed reloads every prediction is accepted, counted and in the windows."""
    good = (served.folder / "exporter.yml").read_text()
    stop = threading.Event()
    statuses: list[int] = []

    def send() -> None:
        while not stop.is_set():
            statuses.append(served.post("/v1/predictions", {**GOOD, "id": f"l-{len(statuses)}"}).status)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        for number in range(6):
            changed = good.replace("- contracts", f"- contracts\n  - visits{number}")
            (served.folder / "exporter.yml").write_text(changed if number % 2 else "models: [")
            assert served.post("/-/reload", b"").status == (200 if number % 2 else 500)
    finally:
        stop.set()
        thread.join()
    assert set(statuses) == {202}
    samples = served.samples()
    assert samples[f"model_attempts_total{{{LABELS}}}"] == len(statuses)
    window = f'model_feature_window_observations{{{LABELS},feature="age",window="5m"}}'
    assert samples[window] == len(statuses)
    assert samples["model_exporter_config_last_reload_successful"] == 1


def test_a_new_version_gets_its_profile_without_a_restart(served: Served) -> None:
    """After a reload the new version is compared with its own training data, and the old ones keep their counters."""
    served.post("/v1/predictions", GOOD)
    halves = {"country": np.repeat(["NL", "BE"], 20), "predicted": np.repeat(["yes", "no"], 20)}
    rows = {"age": np.arange(40.0), **halves}
    np.savez(served.folder / "new.npz", **rows)
    trained = build_file(served.folder / "new.npz", name="credit", prediction_column="predicted")
    save(trained, served.folder / "new.json")
    config = copy.deepcopy(CONFIG)
    config["models"][0]["profiles"] = {"9": "new.json"}
    write_config(served.folder, config)
    assert served.post("/-/reload", b"").status == 200
    served.post("/v1/predictions", {**GOOD, "id": "new", "version": "9"})
    served.post("/v1/predictions", {**GOOD, "id": "old"})
    profiles = {re.search(r'version="(.*?)".*profile="(.*?)"', name).groups() for name in served.samples("model_info")}  # type: ignore[union-attr]
    assert len(dict(profiles)) == 2
    assert len({profile for _, profile in profiles}) == 2
    attempts = served.samples("model_attempts_total")
    assert list(attempts.values()) == [2, 1]
    reference = served.samples("model_feature_reference_mean")
    assert reference['model_feature_reference_mean{model="credit",version="9",feature="age"}'] == 19.5
    write_config(served.folder, {"models": [{"name": "credit", "profiles": {"9": "gone.json"}}]})
    answer = served.post("/-/reload", b"")
    assert (answer.status, "models[0].profiles.9:" in answer.json["detail"]) == (500, True)
    write_config(served.folder, {"models": [{"name": "credit", "profiles": {"9": "new.json"}, "segment_by": "age"}]})
    assert "is not a categorical input of the profile" in served.post("/-/reload", b"").json["detail"]


def test_metrics_have_two_formats_and_can_be_compressed_and_filtered(shared: Served) -> None:
    """Accept selects the format, Accept-Encoding the compression, and name[] the metrics."""
    shared.post("/v1/predictions", GOOD)
    plain = shared.get("/metrics")
    assert plain.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    packed = shared.get("/metrics", Accept_Encoding="gzip")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert b"model_attempts_total" in gzip.decompress(packed.body)
    openmetrics = shared.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert openmetrics.text.endswith("# EOF\n")
    assert "# TYPE model_attempts counter" in openmetrics.text
    assert openmetrics.headers["Content-Type"].endswith("; escaping=underscores")
    of_prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;q=0.3"
    answer = shared.get("/metrics", Accept=of_prometheus_3)
    assert answer.headers["Content-Type"].endswith("; escaping=allow-utf-8")
    for accept in ("application/openmetrics-text; version=next", "application/openmetrics-text;q=0.1, text/plain"):
        answer = shared.get("/metrics?name[]=model_info", Accept=accept)
        assert (answer.status, answer.headers["Content-Type"][:25]) == (200, "text/plain; version=0.0.4")
    names = {line.split("{")[0] for line in shared.get("/metrics?name[]=model_info").text.splitlines()[2:]}
    assert names == {"model_info"}


@pytest.mark.parametrize(
    "path", ["/v1/corrections", "/v1/dataset/releases", "/openapi.json", "/nothing", "/review?a=b"]
)
def test_json_ends_with_a_line_end(shared: Served, path: str) -> None:
    """In a terminal, the prompt after curl is on a line of its own."""
    assert shared.get(path).text.endswith(("}\n", "</html>\n"))


def test_notifications_are_counted_and_checked(served: Served) -> None:
    """The layer of the exporter is shown while it has an alert; a body that is no notification names its member."""
    labels = {"alertname": "ModelEventsDropped", "severity": "warning", "layer": "exporter"}
    assert "<b>Exporter</b>" not in served.get("/").text
    for status in ("firing", "resolved"):
        body = {"version": "4", "status": status, "alerts": [{"status": status, "labels": labels}]}
        assert served.post("/v1/notifications", body).status == 200
        assert ('<li class="warning"><b>Exporter</b>' in served.get("/").text) is (status == "firing")
    assert served.samples("model_exporter_notifications_total") == {
        f'model_exporter_notifications_total{{status="{status}"}}': 1 for status in ("firing", "resolved")
    }
    assert served.post("/v1/notifications", b"[]").status == 400
    wrong = served.post("/v1/notifications", {"status": 1, "alerts": []})
    assert (wrong.status, wrong.json["errors"][0]["pointer"]) == (400, "/status")
    for broken in (
        b'{"status": 1, garbage',
        b'{"status": 1, "alerts": "\xff"}',
        b'{"status": 1, "alerts":' + b"[" * 9999,
    ):
        assert served.post("/v1/notifications", broken).json["errors"][0]["pointer"] == ""


def test_notifications_of_grafana_are_shown(served: Served) -> None:
    """The webhook of Grafana's own alerting sends what Alertmanager's does, and more."""
    alert = {
        "status": "firing",
        "labels": {"alertname": "ModelLatencyHigh", "grafana_folder": "M", "severity": "warning", "layer": "system"},
        "annotations": {"summary": "credit version 3 is slow"},
        "startsAt": "2026-11-24T10:00:00.123456789+01:00",
        "endsAt": "0001-01-01T00:00:00Z",
        "panelURL": "",
        "values": {"A": 0.61, "B": 1, "threshold": 0.5},
        "orgId": 1,
    }
    body = {"status": "firing", "alerts": [alert], "version": "1", "truncatedAlerts": 0}
    assert served.post("/v1/notifications", body).status == 200
    assert "credit version 3 is slow" in served.get("/").text
    resolved = {**alert, "status": "resolved", "values": None, "endsAt": "2026-11-24T10:09:00+01:00"}
    assert served.post("/v1/notifications", {**body, "status": "resolved", "alerts": [resolved]}).status == 200
    assert 'id="firing">Alerts do not reach this page' in served.get("/").text


def test_all_runbooks_are_listed_by_layer(shared: Served) -> None:
    """Each alert is in the layer of its rule, with its severity and meaning; each page links to the list."""
    page = shared.get("/runbooks/").text
    listed = {}
    for section in page.split("<section")[1:]:
        layer = re.search(r'<h2 id="(\w+)"', section)
        assert layer
        for name, entry in re.findall(r'<dt><a href="/runbooks/(\w+)">(.*?)</div>', section, re.S):
            severity = re.search(r'class="status (\w+)"', entry)
            listed[name] = layer[1], severity[1] if severity else "none"
    files = (ROOT / "prometheus" / "rules").glob("*.yml")
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    rules = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    severest = reversed(rules)  # of an alert with several severities, the most severe is the first
    assert listed == {rule["alert"]: (rule["labels"]["layer"], rule["labels"]["severity"]) for rule in severest}
    assert "divergence from training has been above 0.3 nats and above its noise floor" in page
    assert "Severity:" not in page
    for path in ("/", "/drift", "/runbooks/Watchdog"):
        link = r'<a href="([^"?]+)[^"]*"(?: aria-current="page")?>\w+</a>$'
        assert re.findall(link, shared.get(path).text, re.M)[:7] == [
            "/", "/drift", "/quality", "/slices", "/review", "/runbooks/", "/docs/",
        ]  # fmt: skip


def test_people_get_a_page_for_an_error(shared: Served) -> None:
    """A browser gets a page in the site's style, any other client a problem document."""
    for path in ("/nothing<b>", "/runbooks/ModelFeatureDrft", "/v1/nothing"):
        page = shared.get(path, Accept="text/html,application/xhtml+xml,*/*;q=0.8")
        assert (page.status, page.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
        assert '<nav aria-label="Pages">' in page.text
        assert "nothing<b>" not in page.text
        problem = shared.get(path)
        assert problem.headers["Content-Type"] == "application/problem+json"
        assert problem.json["status"] == 404
        assert page.headers["Vary"] == problem.headers["Vary"] == "Accept"
    assert "id you mean ModelFeatureDrift?" in shared.get("/runbooks/ModelFeatureDrft", Accept="text/html").text
    refused = shared.post("/v1/predictions", {}, Accept="text/html")
    assert refused.headers["Content-Type"] == "application/problem+json"


def test_a_link_to_a_dashboard_leads_to_grafana_or_to_a_page(tmp_path: Path) -> None:
    """``/d/`` keeps the model, version and feature of a link; without Grafana, another page shows them."""
    query = "?var-model=credit&var-version=3&var-feature=age"
    chosen = query.replace("var-", "")
    pages = {"model-data": f"/drift{chosen}", "model-quality": f"/quality{chosen}"}
    pages["model-system"] = "/?dashboard=model-system&q=credit"
    grafana = {"links": {"grafana": "https://grafana.example/sub/"}}
    store = {"store": {"url": f"sqlite:///{tmp_path}/store.db"}}
    for links, expected in (({}, pages), (grafana, {"model-data": f"https://grafana.example/sub/d/model-data{query}"})):
        exporter = Exporter(write_config(tmp_path, {**CONFIG, **store, **links}))
        client = create_app(exporter).test_client()
        for uid, target in expected.items():
            answer = client.get(f"/d/{uid}{query}")
            assert (answer.status_code, answer.headers["Location"]) == (303, target)
        exporter.close()
    text = client.get("/?dashboard=model-system").text
    assert "the dashboard <code>model-system</code> of Grafana, and no Grafana" in text
    for other in ("/", "/?dashboard=<b>x</b>"):
        assert "no Grafana is configured" not in client.get(other).text


def test_a_runbook_links_to_the_others_it_names(shared: Served) -> None:
    """Each other alert that a runbook names in its text is a link to an existing runbook."""
    page = shared.get("/runbooks/ModelFeatureDrift").text
    links = set(re.findall(r'<a href="(/runbooks/\w+)">', page))
    assert {"/runbooks/ModelFeatureMissing", "/runbooks/ModelCorrectionRatioHigh"} <= links
    assert "/runbooks/ModelFeatureDrift" not in links
    assert all(shared.get(link).status == 200 for link in links)
    assert not re.search(r"<code[^>]*>[^<]*<a ", page)


def test_a_full_queue_is_a_503_with_retry_after(tmp_path: object, served: Served) -> None:
    """Events that arrive faster than they can be counted are refused, and no accepted event is lost."""
    served.stop()
    config = {"queue": {"capacity": 1}, "models": [{"name": "credit"}]}
    write_config(served.folder, config)
    served.start()
    body = json.dumps([{"model": "credit"}] * 20_000).encode()
    answers = in_parallel(*[lambda: served.post("/v1/predictions", body)] * 12)
    refused = [answer for answer in answers if answer.status == 503]
    assert refused
    assert refused[0].headers["Retry-After"] == "1"
    overloaded = 'model_exporter_events_rejected_total{reason="overloaded"}'
    assert served.samples()[overloaded] == len(refused)
    taken = sum(answer.json["accepted"] for answer in answers if answer.status == 202)
    eventually(lambda: sum(served.samples("model_attempts_total").values()) == taken)


def test_sigterm_counts_and_stores_what_was_accepted(served: Served) -> None:
    """On SIGTERM acknowledged predictions are stored: feedback joins them after the restart."""
    served.post("/v1/predictions", [{**GOOD, "id": f"s-{number}"} for number in range(500)])
    assert served.stop() == 0
    served.start()
    answer = served.post("/v1/feedback", {"prediction_id": "s-499", "verdict": "accepted"})
    assert answer.json["joined"] is True


def test_a_port_in_use_is_reported(shared: Served, tmp_path: Path) -> None:
    """A second exporter on the same address ends with a message, not a traceback."""
    write_config(tmp_path)
    second = Served(tmp_path)
    second.port = shared.port
    log = second.refused()
    assert f"cannot listen on 127.0.0.1:{shared.port}" in log
    assert "make down" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("address", ["9877:", "localhost", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:٣"])
def test_an_invalid_address_is_wrong_usage(address: str) -> None:
    """An address that is not HOST:PORT is refused with the flag and the expected form."""
    command = [sys.executable, "-m", "exporter.cli", "serve", f"--web.listen-address={address}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--web.listen-address: expected HOST:PORT such as 127.0.0.1:9877, got" in done.stderr


def test_a_body_of_a_million_invalid_events_does_not_delay_others(shared: Served) -> None:
    """After a thousand rejected events the rest of a request is not checked; others are answered meanwhile."""
    hostile = b"[" + b"1," * 4_000_000 + b"1]"
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(shared.post("/v1/predictions", hostile)))
    process = psutil.Process(shared.process.pid)
    before = process.cpu_times()
    thread.start()
    while thread.is_alive():
        assert shared.get("/-/healthy").status == 200
    assert process.cpu_times().user - before.user < 5
    thread.join()
    assert answers[0].status == 400
    assert answers[0].json["detail"].startswith("the first 1000 events are not valid and are listed in errors")


def test_feedback_names_its_model_if_identifiers_are_not_unique(served: Served) -> None:
    """Corrections of two models that both number their predictions from 1 are kept apart."""
    other = 'bare "model"\\ 模型'
    served.post(
        "/v1/predictions", [{**GOOD, "id": "1"}, {"model": other, "version": "9", "id": "1", "confidence": 0.9}]
    )
    word = {"prediction_id": "1", "model": other, "verdict": "corrected", "label": "x"}
    assert served.post("/v1/feedback", word).status == 201
    assert served.post("/v1/feedback", {**word, "model": "credit"}).status == 201
    assert served.post("/v1/feedback", {**word, "model": "nobody"}).json["errors"][0]["pointer"] == "/model"

    def counted() -> bool:
        found = served.samples("model_corrections_total")
        return sorted(found.values()) == [1, 1]

    eventually(counted)


@pytest.mark.parametrize(
    "sent", [b"POST /v1/feedback HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", b"GET / HTT"]
)
def test_a_stop_does_not_wait_for_slow_clients(served: Served, sent: bytes) -> None:
    """An incomplete head or body does not delay the shutdown, and everything accepted is stored."""
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(sent)
        served.post("/v1/predictions", {**GOOD, "id": "last"})
        start = time.monotonic()
        assert served.stop() == 0
        assert time.monotonic() - start < 14  # its head may take 15 seconds, its body 30
        answer = client.recv(1000)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert not sent.startswith(b"POST") or b"retry-after: 1\r\n" in answer
    assert "still open" not in served.log.read_text()
    served.start()
    assert served.post("/v1/feedback", {"prediction_id": "last", "verdict": "accepted"}).json["joined"] is True


def test_paths_of_any_bytes_are_404(shared: Served) -> None:
    """A path that is not UTF-8 or not ASCII is a 404."""
    for path in ("/%ff", "/%E2%82%AC", "/runbooks/%00"):
        assert shared.get(path).status == 404


def test_many_signals_reload_once_more(tmp_path: Path) -> None:
    """However often SIGHUP arrives during a reload, one thread reloads once more."""
    exporter = Exporter(write_config(tmp_path))
    begun, go_on = threading.Semaphore(0), threading.Semaphore(0)
    exporter.reloader.reload = lambda: begun.release() or go_on.acquire()  # type: ignore[method-assign, func-returns-value]
    try:
        exporter.reload_soon()
        assert begun.acquire(timeout=60)
        for _ in range(1000):
            exporter.reload_soon()
        go_on.release()
        assert begun.acquire(timeout=60)
        go_on.release()
        assert not begun.acquire(timeout=0.2)
    finally:
        exporter.close()
