"""``model-exporter consume``: Kafka's protocol by librdkafka's own brokers, a real exporter, and what goes wrong."""

from __future__ import annotations

import itertools
import json
import signal
import time
from pathlib import Path

import pytest
from confluent_kafka import KafkaError
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support.kafka import HEARTBEAT, Cluster, FailingBroker, consuming, prediction, properties
from support.servers import Served, ask, eventually, write_config

from exporter.cli import main

SHORT = "session.timeout.ms=6000", "heartbeat.interval.ms=500"
"""Properties with which a group notices soon who has left; librdkafka's brokers let a member join no sooner, either."""


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    """Three brokers."""
    return Cluster(3)


def test_predictions_feedback_and_labels_reach_the_exporter(tmp_path: Path, cluster: Cluster, shared: Served) -> None:
    """Each topic has its kind; what the exporter took is committed, and its lag is 0."""
    flags = ["--topic=flow", "--topic=flow.feedback=feedback", "--topic=flow.labels=labels", "--group=flow"]
    cluster.produce("flow", (prediction(number) for number in range(3000)))
    feedback = [{"prediction_id": f"k-{n}", "verdict": "corrected", "label": "no", "user": "u"} for n in range(30)]
    cluster.produce("flow.feedback", feedback)
    cluster.produce("flow.labels", [{"prediction_id": f"k-{n}", "label": "yes"} for n in range(500)])
    with consuming(tmp_path, cluster, shared.url, *flags) as consumer:
        eventually(lambda: consumer.count("flow", "accepted") == 3000, 60)
        eventually(lambda: consumer.count("flow.labels", "accepted") == 500, 20)
        eventually(lambda: consumer.count("flow.feedback", "accepted") == 30, 20)
        eventually(lambda: cluster.committed("flow", "flow") == 3000)
        eventually(lambda: consumer.lags() == [0] * 12, 30)
        assert consumer.stop() == 0
    requests = shared.samples("model_requests_total")
    assert sum(count for name, count in requests.items() if 'version="kafka"' in name) == 3000
    corrections = shared.get("/v1/corrections?model=credit&version=kafka&limit=100").json["corrections"]
    assert len(corrections) == 30


def test_unusable_messages_go_to_the_dead_letter_topic(tmp_path: Path, cluster: Cluster, shared: Served) -> None:
    """They keep their value, key and headers, with the reason; good messages beside them are counted."""
    poison = [b"not JSON", b'{"model": "credit"},{"model": "credit"}', b"[]", b"\xff\xfe", b'{"a": "\xff"}']
    poison += [b"[" * 9999, {"model": "somebody else's"}, prediction(1, confidence=7), b" "]
    values = [prediction(1, version="mixed"), *poison, None, prediction(2, version="mixed")]
    cluster.produce("mixed", values, headers={"trace": b"t-1"})
    flags = ["--topic=mixed", "--dead-letter-topic=dead", "--group=mixed"]
    with consuming(tmp_path, cluster, shared.url, *flags) as consumer:
        letters = cluster.read("dead", len(poison))
        eventually(lambda: consumer.count("mixed", "dead_letter") == len(poison))
        eventually(lambda: consumer.count("mixed", "accepted") == 2)
        assert consumer.count("mixed", "empty") == 1
        eventually(lambda: cluster.committed("mixed", "mixed") == len(poison) + 3)
    expected = {value if isinstance(value, bytes) else json.dumps(value).encode() for value in poison}
    assert {letter.value() for letter in letters} == expected
    reasons = {letter.value(): dict(letter.headers() or ()) for letter in letters}
    assert b"confidence" in reasons[json.dumps(prediction(1, confidence=7)).encode()]["model-exporter-error"]
    for headers in reasons.values():
        assert headers["trace"] == b"t-1"
        assert headers["model-exporter-topic"] == b"mixed"
        assert headers["model-exporter-error"]


def test_a_dead_letter_that_is_too_large_blocks_no_others(tmp_path: Path, cluster: Cluster, shared: Served) -> None:
    """Of a message that is too large for it, the reason and the origin are kept."""
    large = prediction(1, confidence=7, comment="x" * 3000)
    cluster.produce("large", [large, prediction(2, version="large"), prediction(3, confidence=7)])
    small = properties(tmp_path, "message.max.bytes=2000")
    flags = ["--topic=large", "--dead-letter-topic=small", "--group=large", small]
    with consuming(tmp_path, cluster, shared.url, *flags) as consumer:
        eventually(lambda: consumer.count("large", "dead_letter") == 2, 30)
        eventually(lambda: consumer.count("large", "accepted") == 1, 30)
        eventually(lambda: cluster.committed("large", "large") == 3)
        letters = cluster.read("small", 2)
    values = {letter.value(): dict(letter.headers() or ()) for letter in letters}
    assert set(values) == {None, json.dumps(prediction(3, confidence=7)).encode()}
    error = values[None]["model-exporter-error"]
    assert error.startswith(b"too large for this topic, only its origin is kept: ")
    assert error.endswith(b"/confidence: expected a number of at most 1, got 7; write 0.07 for 7%")
    assert {"model-exporter-topic", "model-exporter-partition", "model-exporter-offset"} <= values[None].keys()


def test_without_that_topic_they_are_logged_and_dropped(tmp_path: Path, cluster: Cluster, shared: Served) -> None:
    """The log names the topic, the partition, the offset and the reason."""
    cluster.produce("dropped", [b"{}"] * 5)
    with consuming(tmp_path, cluster, shared.url, "--topic=dropped", "--group=dropped") as consumer:
        eventually(lambda: consumer.count("dropped", "dropped") == 5, 30)
        assert all(part in consumer.log.read_text() for part in ("at offset 0", "model"))


def test_an_exporter_that_is_away(tmp_path: Path, cluster: Cluster) -> None:
    """Nothing is committed, readiness says why, and the group is served: each message is counted once."""
    write_config(tmp_path)
    server = Served(tmp_path)
    cluster.produce("away", (prediction(number) for number in range(700)))
    flags = ["--topic=away", "--group=away", "--batch-size=10", properties(tmp_path, *SHORT)]
    with consuming(tmp_path, cluster, server.url, *flags) as first:
        url = f"http://127.0.0.1:{first.web}"
        eventually(lambda: sum(first.lags()) == 690, 60)
        assert "refused: the messages are sent again" in ask(f"{url}/-/ready").text
        assert [ask(f"{url}/{path}").status for path in ("-/ready", "-/healthy", "elsewhere")] == [503, 200, 404]
        assert "urllib3" not in first.log.read_text()
        with consuming(tmp_path, cluster, server.url, *flags, name="second") as second:
            eventually(lambda: len(first.lags()) == len(second.lags()) == 2)
            assert first.stop() == 0
            eventually(lambda: len(second.lags()) == 4)
            assert cluster.committed("away", "away") == 0
            with server.start():
                eventually(lambda: cluster.committed("away", "away") == 700, 60)
                assert sum(server.samples("model_requests_total").values()) == 700


def test_a_consumer_that_was_frozen_goes_on(tmp_path: Path, cluster: Cluster, shared: Served) -> None:
    """After its partitions were taken away, messages flow again as soon as it runs."""
    flags = ["--topic=frozen", "--group=frozen", properties(tmp_path, *SHORT, "max.poll.interval.ms=6000")]
    cluster.produce("frozen", (prediction(number, version="frozen") for number in range(100)))
    with consuming(tmp_path, cluster, shared.url, *flags) as consumer:
        eventually(lambda: consumer.count("frozen", "accepted") == 100, 60)
        consumer.process.send_signal(signal.SIGSTOP)
        time.sleep(8)
        consumer.process.send_signal(signal.SIGCONT)
        cluster.produce("frozen", (prediction(number, version="frozen") for number in range(100, 300)))
        eventually(lambda: cluster.committed("frozen", "frozen") == 300, 60)
        assert consumer.stop() == 0


def test_a_topic_that_does_not_exist_blocks_no_other(tmp_path: Path, cluster: Cluster, shared: Served) -> None:
    """It is logged, and read once it is there."""
    settings = properties(tmp_path, "allow.auto.create.topics=false", "topic.metadata.refresh.interval.ms=1000")
    flags = ["--topic=there", "--topic=later", "--group=there", settings]
    cluster.produce("there", [prediction(1, version="there")])
    with consuming(tmp_path, cluster, shared.url, *flags) as consumer:
        eventually(lambda: consumer.count("there", "accepted") == 1, 60)
        eventually(
            lambda: "Subscribed topic not available: later" in ask(f"http://127.0.0.1:{consumer.web}/-/ready").text
        )
        cluster.produce("later", [prediction(2, version="there")])
        eventually(lambda: consumer.count("later", "accepted") == 1, 60)


def test_a_consumer_whose_brokers_are_away(tmp_path: Path) -> None:
    """What it has read is taken, it says that no broker is connected, and it stops: the last offsets are lost."""
    brokers = Cluster()
    brokers.produce("gone", [prediction(1)])
    write_config(tmp_path)
    server = Served(tmp_path)
    with consuming(tmp_path, brokers, server.url, "--topic=gone", "--group=gone") as consumer:
        eventually(lambda: "sent again" in consumer.log.read_text(), 60)
        eventually(lambda: consumer.samples().get("model_consumer_connected") == 1, 20)
        brokers.close()
        eventually(lambda: consumer.samples().get("model_consumer_connected") == 0, 30)
        with server.start():
            eventually(lambda: consumer.count("gone", "accepted") == 1)
            assert "no broker is connected; it last took" in ask(f"http://127.0.0.1:{consumer.web}/-/ready").text
            started = time.monotonic()
            assert consumer.stop() == 0
            assert time.monotonic() - started < 20


def test_a_batch_that_is_wholly_refused_is_sent_once(tmp_path: Path, cluster: Cluster, shared: Served) -> None:
    """The exporter says what is wrong with each event."""
    cluster.produce("strangers", [prediction(number, model="nobody's") for number in range(400)])
    reason = 'model_exporter_events_rejected_total{reason="unknown_model"}'
    before = shared.samples("model_exporter_events_rejected_total").get(reason, 0)
    with consuming(tmp_path, cluster, shared.url, "--topic=strangers", "--group=strangers") as consumer:
        eventually(lambda: consumer.count("strangers", "dropped") == 400, 60)
    assert shared.samples("model_exporter_events_rejected_total")[reason] == before + 400


def test_a_consumer_that_is_killed_loses_nothing(tmp_path: Path, cluster: Cluster, shared: Served) -> None:
    """Others take its partitions; what was not committed before the kill may count twice, and no feedback does."""

    def counted() -> float:
        return sum(n for name, n in shared.samples("model_requests_total").items() if 'version="killed"' in name)

    total, last = 20_000, 2000
    flags = ["--topic=killed", "--topic=killed.feedback=feedback", "--group=killed", "--batch-size=100"]
    flags.append(properties(tmp_path, "# so that the others notice soon", *SHORT))
    events = (prediction(number, id=f"x-{number}", version="killed") for number in range(total))
    cluster.produce("killed", itertools.islice(events, total - last))
    feedback = [{"prediction_id": f"x-{n}", "verdict": "corrected", "label": "no"} for n in range(300)]
    cluster.produce("killed.feedback", feedback)
    with (
        consuming(tmp_path, cluster, shared.url, *flags, name="a") as first,
        consuming(tmp_path, cluster, shared.url, *flags, name="b") as second,
    ):
        eventually(lambda: cluster.committed("killed", "killed") == total - last, 60)
        eventually(lambda: [] not in (first.lags(), second.lags()), 60)
        before = counted()  # the group has rebalanced meanwhile
        cluster.produce("killed", events)
        eventually(lambda: counted() > before, 60, 0.01)
        first.stop(signal.SIGKILL)
        eventually(lambda: cluster.committed("killed", "killed") == total, 90)
        eventually(lambda: cluster.committed("killed.feedback", "killed") == 300, 60)
    assert total - last <= before <= counted() - last <= before + last
    eventually(lambda: len(shared.get("/v1/corrections?version=killed&limit=500").json["corrections"]) == 300)
    assert shared.samples("model_corrections_total")['model_corrections_total{model="credit",version="killed"}'] == 300


def test_messages_of_other_programs(tmp_path: Path, cluster: Cluster, shared: Served) -> None:
    """KServe's events in both modes and OpenTelemetry's exports go several in a request; a wrong one costs itself."""
    sides = {"request": {"instances": [{"age": 41}]}, "response": {"predictions": ["yes"], "model_version": "kserve"}}
    for side, body in sides.items():
        attributes = {"id": "7", "type": f"org.kubeflow.serving.inference.{side}", "inferenceservicename": "credit"}
        binary = [(f"ce_{name}", value.encode()) for name, value in attributes.items()]
        cluster.produce("kserve", [body], headers=binary)
        cluster.produce("kserve", [attributes | {"id": "8", "data": body}, {"id": "9"}])
    names = {"model.name": "credit", "model.version": "spans"}
    attributes = [{"key": key, "value": {"stringValue": value}} for key, value in names.items()]
    spans = {"resourceSpans": [{"scopeSpans": [{"spans": [{"attributes": attributes}]}]}]}
    cluster.produce("spans", [spans, [spans, {}], {"resourceSpans": 5}], headers=[("Content-Type", b"text/json")])
    strange = {"attributes": [{"key": "model.name", "value": {"stringValue": "nobody's"}}]}
    many = {"resourceSpans": [{"scopeSpans": [{"spans": [strange] * 1100}]}]}  # more than a response lists
    cluster.produce("spans", [many, many, many], headers=[("Content-Type", b"application/json")])
    cluster.produce("spans", [ParseDict(spans, ExportTraceServiceRequest()).SerializeToString(), b"\xff"])
    flags = ["--topic=kserve=kserve", "--topic=spans=traces", "--group=others", "--dead-letter-topic=others.dead"]
    with consuming(tmp_path, cluster, shared.url, *flags) as consumer:
        eventually(lambda: consumer.count("kserve", "accepted") == 4, 30)
        eventually(lambda: consumer.count("spans", "accepted") == 3, 30)
        letters = {letter.value(): dict(letter.headers() or ()) for letter in cluster.read("others.dead", 7)}
    assert letters.keys() == {b'{"id": "9"}', b'{"resourceSpans": 5}', b"\xff", json.dumps(many).encode()}
    assert b"protobuf" in letters[b"\xff"]["model-exporter-error"]
    samples = shared.samples("model_requests_total")
    counts = {version: samples[f'model_requests_total{{model="credit",version="{version}",code="200"}}']
              for version in ("kserve", "spans")}  # fmt: skip
    assert counts == {"kserve": 2, "spans": 3}


SHAPE = """
items: /batch
model: credit
version: /release
id: /key
time: /at
inputs: {age: /person/age, country: /person/tags/0}
prediction: /score
confidence: /p
"""


def test_a_topic_in_the_services_own_shape(tmp_path: Path, cluster: Cluster, shared: Served) -> None:
    """Members are found by their pointers; one that is not there is logged once, and nothing at all is refused."""
    (tmp_path / "shape.yml").write_text(SHAPE)
    people = [{"key": f"s-{n}", "person": {"age": 40 + n, "tags": ["NL"]}, "score": "yes"} for n in range(3)]
    people[0] |= {"at": 1764000000123, "p": 0.9}
    cluster.produce("own", [{"release": "own", "batch": people}], timestamp=1764000001000)
    wrong = [{"secret": {"name": "Ada"}}, {"batch": [{"name": {"last": "Ada"}}]}, {"batch": [{"at": 10**400}]}]
    cluster.produce("own", [*wrong, {"batch": []}])
    flags = [f"--topic=own=predictions:{tmp_path / 'shape.yml'}", "--group=own", "--dead-letter-topic=own.dead"]
    with consuming(tmp_path, cluster, shared.url, *flags) as consumer:
        letters = cluster.read("own.dead", 3)
        eventually(lambda: consumer.count("own", "accepted") == 2, 30)
        assert "shape.yml: found no time at /at, confidence at /p; the message has /key, " in consumer.log.read_text()
        ready = eventually(lambda: ask(f"http://127.0.0.1:{consumer.web}/-/ready"))
        assert "it last took messages at 2" in ready.text
    reasons = [dict(letter.headers() or ())["model-exporter-error"].decode() for letter in letters]
    _, first, second = sorted(reason.partition("shape.yml: ")[2] for reason in reasons)
    assert first == "found no items at /batch; the message has /secret/name"
    assert second.startswith('found no version at /release, id at /key, time at /at, inputs at {"age": "/person/age", ')
    assert second.endswith("; the message has /name/last")
    stored = [eventually(lambda n=n: shared.get(f"/v1/predictions/s-{n}?model=credit").json) for n in range(2)]
    assert [one["time"] for one in stored] == ["2025-11-24T16:00:00.123000Z", "2025-11-24T16:00:01Z"]
    assert (stored[0]["version"], stored[0]["prediction"], stored[0]["confidence"]) == ("own", "yes", 0.9)
    assert stored[1]["inputs"] == {"age": 41, "country": "NL"}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("{model: /m, scroe: /s}", "scroe: is not known; did you mean"),
        ("{prediction: /s}", "model: expected a JSON pointer such as /model, got null"),
        ("{model: m, prediction: score}", 'prediction: expected a JSON pointer such as /prediction, got "score"'),
        ("{model: m, inputs: {age: 7}}", "inputs: expected a JSON pointer such as /inputs, got 7"),
        ("[]", "expected a mapping"),
        (None, "cannot be read"),
    ],
)
def test_a_mistake_in_a_shape_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: str | None, message: str
) -> None:
    """The message names the file and the member."""
    if shape is not None:
        (tmp_path / "shape.yml").write_text(shape)
    with pytest.raises(SystemExit):
        main(["consume", f"--topic=a=predictions:{tmp_path / 'shape.yml'}"])
    error = capsys.readouterr().err
    assert message in error and "shape.yml" in error


def test_another_consumer_with_the_same_id_ends_the_consumer(tmp_path: Path, shared: Served) -> None:
    """Brokers tell the earlier one at its next heartbeat; without the end it would wait for ever."""
    broker = FailingBroker("t", HEARTBEAT, KafkaError.FENCED_INSTANCE_ID)
    settings = properties(tmp_path, "group.instance.id=a", "heartbeat.interval.ms=100")
    with consuming(tmp_path, broker, shared.url, "--topic=t", settings) as consumer:
        assert consumer.process.wait(30) == 1
    assert "another consumer has the same group.instance.id: give each one its own" in consumer.log.read_text()


def test_a_refused_token_ends_the_consumer(tmp_path: Path, cluster: Cluster, shared: Served) -> None:
    """The message says what the exporter said; nothing is committed."""
    cluster.produce("refused", [prediction(1)])
    with consuming(tmp_path, cluster, f"{shared.url}/elsewhere", "--topic=refused", "--group=refused") as consumer:
        assert consumer.process.wait(60) == 1
    assert "404" in consumer.log.read_text()
    assert cluster.committed("refused", "refused") == 0


@pytest.mark.parametrize(
    ("flags", "text", "message"),
    [
        (["--topic=a=b"], "", "--topic: expected one of predictions, feedback"),
        (["--topic=a=logs:x"], "", "--topic: messages of the kind logs have a fixed structure, so there is no file"),
        (["--topic=a b"], "", "--topic: expected up to 249 letters"),
        (["--topic=a"], "", "--bootstrap-servers: name the brokers"),
        (["--topic=a", "--topic=a=labels", "--bootstrap-servers=x:1"], "", "--topic: a is named twice"),
        (["--topic=a", "--dead-letter-topic=a", "--bootstrap-servers=x:1"], "", "a is also a --topic"),
        (["--topic=a"], "bootstrap.servers", "line 1: expected key=value"),
        (["--topic=a"], "bootstrap.servers=x:1\nenable.auto.commit=true", "enable.auto.commit: it must not be set"),
        (["--topic=a"], "bootstrap.servers=x:1\ngroup.id=g", "group.id: set it with --group"),
        (["--topic=a"], "bootstrap.servers=x:1\nno.such=1", 'No such configuration property: "no.such"'),
    ],
)
def test_a_mistake_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], text: str, message: str
) -> None:
    """The message names the option or the file, what is wrong and what would be right."""
    given = [properties(tmp_path, text)] if text else []
    try:
        assert main(["consume", *flags, *given]) == (1 if text else 2)
    except SystemExit as error:
        assert error.code == 2
    assert message in capsys.readouterr().err
