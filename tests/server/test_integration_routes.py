"""Payload logs of other servers, sent to an exporter as these servers send them."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from support.paths import DATA
from support.servers import CONFIG, Answer, Served, eventually, serving, write_config

from exporter.profiles.builder import build_file
from exporter.profiles.profile import save
from exporter.server.application import Exporter
from exporter.server.asgi import MAX_BODY
from exporter.server.flask_app import create_app
from exporter.storage._database import predictions
from exporter.wire.formats import zstd

FOLDER = DATA / "payloads"
PROTOBUF = "application/x-protobuf"


def recorded(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def log(server: Served, side: str, name: str, body: bytes, **attributes: str) -> Answer:
    """Send one message as KServe's logger does."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": name,
        "ce-source": "http://localhost:9081/",
        "ce-type": f"org.kubeflow.serving.inference.{side}",
        "ce-time": "2026-11-24T10:00:00Z" if side == "request" else "2026-11-24T10:00:00.25Z",
        "ce-inferenceservicename": "credit",
        "ce-namespace": "default",
        **{f"ce-{key}": value for key, value in attributes.items()},
    }
    return server.post("/v1/kserve", body, **headers)


def corrections(server: Served) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.get("/v1/corrections").json["corrections"]
    return found


def test_kserves_logger_without_a_line_of_code(served: Served) -> None:
    """Messages in any order are counted with their duration, and feedback finds the rows by the event's id."""
    messages = {side: recorded(f"kserve_{side}.bin") for side in ("request", "response")}
    for number in range(20):
        for side in ("request", "response") if number % 2 else ("response", "request"):
            answer = log(served, side, f"r-{number}", messages[side])
            assert answer.status == 202
        assert answer.json == {"accepted": 2, "rejected": []}
    samples = served.samples()
    labels = 'model="credit",version="3"'
    assert samples['model_exporter_events_total{source="kserve"}'] == 40
    assert samples[f'model_requests_total{{{labels},code="200"}}'] == 40
    assert samples[f"model_request_duration_seconds_sum{{{labels}}}"] == 10
    assert samples[f'model_feature_mean{{{labels},feature="age",window="5m"}}'] == 45.75
    assert samples["model_exporter_pairs_waiting"] == 0
    feedback = {"prediction_id": "r-7-0", "verdict": "corrected", "label": "no"}
    assert served.post("/v1/feedback", feedback).status == 201
    (correction,) = eventually(lambda: corrections(served))
    assert (correction["prediction"], correction["confidence"]) == ("yes", 0.75)
    assert correction["inputs"] == {"age": 41.5, "country": "NL"}


def test_a_single_row_has_the_id_of_its_event(served: Served) -> None:
    """A request with one row has the id of its events; a structured batch has both request and response."""
    common = {"specversion": "1.0", "id": "one", "source": "s", "inferenceservicename": "credit"}
    common["datacontenttype"] = "application/json"
    events = [
        {**common, "type": f"org.kubeflow.serving.inference.{side}", "data": data}
        for side, data in (("request", {"instances": [{"age": 41}]}), ("response", {"predictions": ["yes"]}))
    ]
    kind = "application/cloudevents-batch+json"
    assert served.post("/v1/kserve", events, Content_Type=kind).json == {"accepted": 1, "rejected": []}
    served.post("/v1/feedback", {"prediction_id": "one", "verdict": "corrected", "label": "no"})
    assert eventually(lambda: corrections(served))[0]["prediction_id"] == "one"


def test_messages_without_counterpart_wait_and_are_not_predictions(served: Served) -> None:
    """A message without its counterpart is acknowledged and waits; for an unknown model the pair is refused."""
    assert log(served, "request", "a", b'{"instances": [1]}').json == {"accepted": 0, "rejected": []}
    assert log(served, "request", "b", b'{"instances": [1]}', inferenceservicename="other").status == 202
    answer = log(served, "response", "b", b'{"predictions": [1]}', inferenceservicename="other")
    assert answer.status == 400
    assert answer.json["errors"][0]["pointer"] == "/model"
    samples = served.samples()
    assert samples["model_exporter_pairs_waiting"] == 1
    assert samples['model_exporter_events_rejected_total{reason="unknown_model"}'] == 1
    assert samples['model_exporter_events_total{source="kserve"}'] == 0


def exchange(**members: Any) -> dict[str, Any]:
    """A request that was answered, with its response."""
    return {"model": "credit", "code": 200, **members}


def test_documents_of_requests_and_responses(served: Served) -> None:
    """One object has a request and its response, as the package of another server writes them."""
    sides = {side: json.loads(recorded(f"mlserver_{side}.json")) for side in ("request", "response")}
    answer = served.post("/v1/exchanges?ids=1", exchange(**sides, version="9", duration_seconds=0.5))
    assert (answer.status, answer.json["accepted"]) == (202, 2)
    assert answer.json["ids"] == ["m-1-0", "m-1-1"]
    samples = served.samples()
    assert samples['model_feature_mean{model="credit",version="9",feature="age",window="5m"}'] == 45.5
    assert samples['model_prediction_kl_divergence{model="credit",version="9",window="5m"}'] >= 0
    assert samples['model_request_duration_seconds_count{model="credit",version="9"}'] == 2


def test_ndjson_accepts_valid_lines_and_reports_the_others(served: Served) -> None:
    """An invalid line among valid ones is rejected with its index; a request counts even if its bodies do not fit."""
    tensor = {"name": "age", "shape": [1], "datatype": "FP32", "data": [41]}
    good = exchange(id="a", request={"inputs": [tensor]}, response={"outputs": [{**tensor, "name": "y"}]})
    lies = {**good, "request": {"inputs": [{**tensor, "shape": [2]}]}}
    lines = [json.dumps(good), "nonsense", json.dumps(lies), json.dumps({"model": "credit"}), json.dumps(good)]
    answer = served.post("/v1/exchanges", "\n".join(lines).encode(), Content_Type="application/x-ndjson")
    assert (answer.status, answer.json["accepted"]) == (202, 3)
    rejected = [(one["index"], one["pointer"]) for one in answer.json["rejected"]]
    assert rejected == [(1, ""), (2, "/inputs/0/data"), (3, "/code")]
    samples = served.samples("model_exporter_events_rejected_total")
    assert samples['model_exporter_events_rejected_total{reason="malformed"}'] == 2


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/v1/exchanges", "application/json"),
        ("/v1/exchanges", "application/x-ndjson"),
        ("/v1/kserve", "application/cloudevents-batch+json"),
    ],
)
def test_a_body_without_events_is_refused(served: Served, path: str, content_type: str) -> None:
    """An empty array, or NDJSON without a line, is not acknowledged."""
    answer = served.post(path, b"\n" if "ndjson" in content_type else b"[]", Content_Type=content_type)
    assert (answer.status, answer.json["detail"]) == (400, "the body has no events")


@pytest.mark.parametrize(("encoding", "pack"), [("GZip", gzip.compress), ("zstd", zstd.compress), ("identity", bytes)])
def test_spans_by_protobuf(served: Served, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    """A collector's export is counted once, and the protobuf response has the number of rejected spans."""
    body = pack(recorded("otlp_traces.pb"))
    headers = {"Content_Type": PROTOBUF, "Content_Encoding": encoding}
    answer = served.post("/v1/traces", body, **headers)
    assert (answer.status, answer.headers["Content-Type"]) == (200, PROTOBUF)
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    partial = ExportTraceServiceResponse.FromString(answer.body).partial_success
    assert partial.rejected_spans == 1
    assert 'no model "credits" is configured' in partial.error_message
    assert served.post("/v1/traces", body, **headers).status == 200
    samples = served.samples()
    assert samples['model_exporter_events_total{source="traces"}'] == 3
    assert samples['model_requests_total{model="credit",version="7",code="500"}'] == 1


def test_log_records_by_json_and_protobuf(served: Served) -> None:
    """Log records count in both encodings; the response to a full success is empty."""
    answer = served.post("/v1/logs", recorded("otlp_logs.pb"), Content_Type=PROTOBUF)
    assert (answer.status, answer.body) == (200, b"")
    attributes = [{"key": "model.name", "value": {"stringValue": "credit"}}]
    records = [{"timeUnixNano": "1764000000000000000", "attributes": attributes}, {"attributes": []}]
    answer = served.post("/v1/logs", {"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]})
    assert (answer.status, answer.json) == (200, {})
    assert served.samples()['model_exporter_events_total{source="logs"}'] == 3


def _attributes(**values: Any) -> list[dict[str, Any]]:
    kinds = {str: "stringValue", float: "doubleValue"}
    return [{"key": key.replace("__", "."), "value": {kinds[type(one)]: one}} for key, one in values.items()]


def test_evaluations_count_for_the_version_of_their_prediction(served: Served) -> None:
    """Events of spans and log records join the prediction by its response or its span; none is a prediction."""
    result = {"gen_ai__evaluation__score__value": 0.5, "gen_ai__evaluation__score__label": "pass"}
    event = {"name": "gen_ai.evaluation.result", "attributes": _attributes(gen_ai__evaluation__name="Tone", **result)}
    call = _attributes(model__name="credit", model__version="7", gen_ai__response__id="r-1")
    span = {"traceId": "aa", "spanId": "bb", "attributes": call, "events": [event, {"name": "exception"}]}
    child = {"traceId": "aa", "spanId": "cc", "parentSpanId": "bb", "events": [event]}
    answer = served.post("/v1/traces", {"resourceSpans": [{"scopeSpans": [{"spans": [child, span]}]}]})
    assert (answer.status, answer.json) == (200, {})
    name = "gen_ai.evaluation.result"
    judged = {"gen_ai__evaluation__name": "Judge", "gen_ai__request__model": "gpt"}
    records = [
        {"eventName": name, "attributes": _attributes(**judged, **result, gen_ai__response__id="r-1")},
        {"eventName": name, "attributes": _attributes(**judged, **result), "traceId": "aa", "spanId": "bb"},
        {"eventName": name, "attributes": _attributes(**judged, gen_ai__response__id="r-1")},  # it failed
        {"eventName": name, "attributes": _attributes(**judged, **result)},
    ]
    answer = served.post("/v1/logs", {"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]})
    assert answer.json["partialSuccess"]["rejectedLogRecords"] == "1"
    assert 'no model "gpt" is configured' in answer.json["partialSuccess"]["errorMessage"]
    served.post("/v1/predictions", {"model": "credit", "version": "7"})  # counted after the others
    where = 'model="credit",version="7",evaluation'
    assert served.samples("model_evaluations_total", "model_evaluation_score") == {
        f'model_evaluations_total{{{where}="Judge",label="pass"}}': 2,
        f'model_evaluations_total{{{where}="Tone",label="pass"}}': 2,
        f'model_evaluation_score_sum{{{where}="Judge"}}': 1,
        f'model_evaluation_score_count{{{where}="Judge"}}': 2,
        f'model_evaluation_score_sum{{{where}="Tone"}}': 1,
        f'model_evaluation_score_count{{{where}="Tone"}}': 2,
    }
    assert served.samples()['model_attempts_total{model="credit",version="7"}'] == 2


def test_evaluations_have_a_bounded_number_of_names(served: Served) -> None:
    """A thousand names and labels become 20 of each, and the rest together."""
    texts = ({"name": f"name {number}", "score__label": f"label {number}"} for number in range(1000))
    named = ({f"gen_ai__evaluation__{name}": text for name, text in one.items()} for one in texts)
    records = [{"attributes": _attributes(model__name="credit", **one)} for one in named]
    assert served.post("/v1/logs", {"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}).json == {}
    counted = served.samples("model_evaluations_total")
    assert len(counted) == 21
    other = 'model_evaluations_total{model="credit",version="unknown",evaluation="other",label="other"}'
    assert counted[other] == 980


def test_a_wrong_log_record_is_reported(served: Served) -> None:
    """A record that cannot be read is in the partial success with its field; the others are counted."""
    good = {"attributes": [{"key": "model.name", "value": {"stringValue": "credit"}}]}
    wrong = {"attributes": [{"key": "model.name", "value": "credit"}]}
    answer = served.post("/v1/logs", {"resourceLogs": [{"scopeLogs": [{"logRecords": [good, wrong, good]}]}]})
    message = '/attributes/0/value: expected an object, got "credit"'
    partial = {"partialSuccess": {"rejectedLogRecords": "1", "errorMessage": message}}
    assert (answer.status, answer.json) == (200, partial)
    assert served.samples()['model_exporter_events_total{source="logs"}'] == 2


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"nonsense", {}, 400),
        (b"\xff\xff", {"Content_Type": PROTOBUF}, 400),
        (b"{}", {"Content_Encoding": "gzip"}, 400),
        (gzip.compress(b" " * (MAX_BODY + 1)), {"Content_Encoding": "gzip"}, 413),
        (zstd.compress(b" " * (MAX_BODY + 1)), {"Content_Encoding": "zstd"}, 413),
        (b"{}", {"Content_Encoding": "deflate"}, 415),
    ],
    ids=["no JSON", "no protobuf", "no gzip", "a bomb", "a bomb of zstd", "another compression"],
)
def test_bad_exports_are_refused(shared: Served, body: bytes, headers: dict[str, str], status: int) -> None:
    """A body that is not an export request is refused in its own encoding, as is one that inflates to a huge one."""
    answer = shared.post("/v1/logs", body, **headers)
    assert answer.status == status
    assert b"body" in answer.body
    assert answer.headers["Content-Type"] == headers.get("Content_Type", "application/json")
    if status == 415:
        assert answer.json == {"code": 3, "message": "the body may be compressed with gzip or zstd only"}
        assert answer.headers["Accept-Encoding"] == "gzip, zstd"
        assert shared.samples()['model_exporter_events_rejected_total{reason="malformed"}']


@pytest.mark.parametrize(
    ("path", "body", "pointer", "detail"),
    [
        ("/v1/kserve", b"{}", "/id", "ce-id"),
        ("/v1/exchanges", b'{"model": "credits", "code": 200}', "/model", 'did you mean "credit"'),
        ("/v1/exchanges", b'{"model": "credit"}', "/code", "is required"),
        ("/v1/exchanges", b'{"model": "credit", "code": 200, "version": "9\\n"}', "/version", r'characters, got "9\n"'),
        ("/v1/exchanges", b"[" * 100_000, "", "nested too deeply"),
        ("/v1/exchanges", b"[{}]", "/0/model", "is required"),
    ],
)
def test_bad_bodies_get_a_problem(shared: Served, path: str, body: bytes, pointer: str, detail: str) -> None:
    """A body without a valid event is a 400 with a pointer and what is expected."""
    answer = shared.post(path, body)
    assert (answer.status, answer.headers["Content-Type"]) == (400, "application/problem+json")
    assert answer.json["errors"][0]["pointer"] == pointer
    assert detail in answer.json["errors"][0]["detail"]


def test_many_small_arrays_are_refused_before_they_are_decoded(shared: Served) -> None:
    """A body of millions of empty arrays would take gigabytes decoded: it is a 413."""
    answer = shared.post("/v1/exchanges", b"[" + b"[]," * 2_500_000 + b"[]]")
    assert answer.status == 413


def test_a_full_queue_refuses_and_forgets_nothing(tmp_path: Path) -> None:
    """Every route is a 503 while the queue is full; a waiting message still waits for the sender's next attempt."""
    exporter = Exporter(write_config(tmp_path))
    client = create_app(exporter).test_client()
    headers = {"ce-id": "a", "ce-inferenceservicename": "credit"}
    kind = "org.kubeflow.serving.inference."
    assert client.post("/v1/kserve", data=b"[1]", headers={**headers, "ce-type": f"{kind}request"}).status_code == 202
    exporter.pipeline.close(5)
    answers = [
        client.post("/v1/kserve", data=b"[1]", headers={**headers, "ce-type": f"{kind}response"}),
        client.post("/v1/exchanges", json=exchange(request={"instances": [1]}, response=[1])),
        client.post("/v1/traces", json={}),
        client.post("/v1/logs", data=b"", content_type=PROTOBUF),
    ]
    assert [(answer.status_code, answer.headers["Retry-After"]) for answer in answers] == [(503, "1")] * 4
    assert "model_exporter_pairs_waiting 1.0" in exporter.metrics("", [])[0].decode()
    exporter.close()


def test_the_mapping_of_the_configuration(tmp_path: Path) -> None:
    """The model's mapping translates the names of another service and its tensors."""
    mapping = {"names": ["default/credit-isvc"], "inputs": {"INPUT__0": ["age", "income"]}, "labels": ["no", "yes"]}
    models = [{**CONFIG["models"][0], "mapping": mapping}]
    write_config(tmp_path, {"models": models})
    with serving(tmp_path) as server:
        tensor = {"name": "INPUT__0", "shape": [1, 2], "datatype": "FP32", "data": [41, 1000]}
        log(server, "request", "r", json.dumps({"inputs": [tensor]}).encode(), inferenceservicename="credit-isvc")
        said = {"outputs": [{**tensor, "name": "OUTPUT__0", "shape": [1, 1], "data": [0.9]}]}
        log(server, "response", "r", json.dumps(said).encode(), inferenceservicename="credit-isvc")
        labels = 'model="credit",version="unknown"'
        samples = server.samples()
        assert samples[f'model_feature_mean{{{labels},feature="income",window="5m"}}'] == 1000
        assert samples[f"model_confident_predictions_total{{{labels}}}"] == 1


def test_a_version_with_its_own_profile(tmp_path: Path) -> None:
    """Unnamed tensors of such a version go to the inputs of its own profile."""
    columns = {"age": np.arange(100.0), "income": np.arange(100.0)}
    np.savez(tmp_path / "two.npz", **columns)
    save(build_file(tmp_path / "two.npz", name="credit"), tmp_path / "two.json")
    model = {"name": "credit", "profile": "credit.json", "profiles": {"2": "two.json"}}
    exporter = Exporter(write_config(tmp_path, {"models": [model]}))
    client = create_app(exporter).test_client()
    for version, rejected in (("1", 1), ("2", 0)):
        record = exchange(request={"instances": [[41, 1000]]}, response=[1], version=version)
        assert len(client.post("/v1/exchanges", json=record).json["rejected"]) == rejected
    metrics = exporter.metrics("", [])[0].decode()
    exporter.close()
    assert 'model_feature_mean{model="credit",version="2",feature="income",window="5m"} 1000.0' in metrics
    assert 'model_exporter_unknown_features_total{model="credit"} 0.0' in metrics


def test_an_error_without_a_version_counts_for_the_version_that_served_last(served: Served) -> None:
    """The response of a failed request names no version; before any version is known, it is unknown."""
    good = exchange(request={"instances": [{"age": 41}]}, response={"predictions": [1], "model_version": "3"})
    failed = {**good, "code": 500, "response": {"error": "out of memory"}}
    for record in (failed, good, failed):
        assert served.post("/v1/exchanges", record).status == 202
    requests = {labels: value for labels, value in served.samples("model_requests_total").items() if value}
    assert requests == {
        'model_requests_total{model="credit",version="3",code="200"}': 1,
        'model_requests_total{model="credit",version="3",code="500"}': 1,
        'model_requests_total{model="credit",version="unknown",code="500"}': 1,
    }


PARTS = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**65) | st.floats() | st.sampled_from(["credit", "yes", "a", "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "value"]), inner, max_size=2),
    max_leaves=8,
)
TENSORS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["age", "country", "y"]),
            "shape": st.lists(st.integers(0, 3), max_size=2),
            "datatype": st.sampled_from(["FP32", "BYTES", "BOOL"]),
            "data": PARTS,
        }
    ),
    max_size=2,
)
HALVES = st.dictionaries(
    st.sampled_from(["instances", "predictions", "error", "model_name"]), PARTS, max_size=2
) | st.fixed_dictionaries({"inputs": TENSORS, "outputs": TENSORS})
SENT = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("id", "code", "confidence", "resourceSpans", "resourceLogs"), PARTS),
        **dict.fromkeys(("request", "response"), HALVES | PARTS),
        "type": st.sampled_from(["inference.request", "inference.response"]),
        "inferenceservicename": st.just("credit"),
    },
)


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    exporter = Exporter(write_config(tmp_path_factory.mktemp("application")))
    yield create_app(exporter).test_client()
    exporter.close()


@settings(max_examples=300, deadline=2000)
@given(
    path=st.sampled_from(["/v1/kserve", "/v1/exchanges", "/v1/logs", "/v1/traces"]),
    body=SENT | st.lists(SENT, max_size=3),
    kind=st.sampled_from(["", "-batch"]),
)
def test_no_body_causes_a_500(application: FlaskClient, path: str, body: Any, kind: str) -> None:
    """Every body is accepted or refused as the client's error, never a 500."""
    kind = f"application/cloudevents{kind}+json" if path == "/v1/kserve" else "application/json"
    answer = application.post(path, data=json.dumps(body).encode(), content_type=kind)
    assert answer.status_code in {200, 201, 202, 400, 413}, answer.get_data()


EVENTS = 2000


def test_a_version_for_each_prediction_costs_no_more(tmp_path: Path) -> None:
    """Predictions beyond the limit of versions are counted together, and stored with the version that each has."""
    exporter = Exporter(write_config(tmp_path, {**CONFIG, "store": {"url": f"sqlite:///{tmp_path}/store.db"}}))
    ingest = exporter.ingest

    def seconds(version: Callable[[int], str]) -> float:
        """Return the processor seconds that it takes to count and store predictions."""
        inputs = {"age": 30, "income": 1e4, "country": "NL"}
        body = json.dumps([{"model": "credit", "version": version(n), "inputs": inputs} for n in range(EVENTS)])
        start = time.process_time()
        assert ingest.predictions(body.encode(), False, None, False).status == 202
        assert exporter.pipeline.settle(60) and exporter.store.flush(60)
        return time.process_time() - start

    try:
        seconds(lambda n: f"known-{n % 20}")
        same = min(seconds(lambda _: "other") for _ in range(3))
        different = min(seconds(lambda n, turn=turn: f"{turn}-{n}") for turn in range(3))
        with exporter.store.reading() as connection:
            stored = connection.execute(sa.select(sa.func.count(predictions.c.version.distinct()))).scalar()
        (other,) = (monitor for monitor in exporter.pipeline.monitors if monitor.version == "other")
    finally:
        exporter.close()
    assert different < 5 * same  # 50 times when each version was a batch of its own
    assert stored == 20 + 1 + 3 * EVENTS
    assert other.counters.attempts == 6 * EVENTS


def test_close_ends_every_thread(tmp_path: Path) -> None:
    """No thread of a closed exporter goes on working."""
    before = set(threading.enumerate())
    exporter = Exporter(write_config(tmp_path, {**CONFIG, "store": {"url": f"sqlite:///{tmp_path}/store.db"}}))
    assert {"aggregator", "tasks"} <= {thread.name for thread in set(threading.enumerate()) - before}
    exporter.close()
    assert not [thread.name for thread in set(threading.enumerate()) - before if thread.is_alive()]
