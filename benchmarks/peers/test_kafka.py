"""``model-exporter consume`` and the brokers of a Kafka distribution: what goes wrong, and that nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from brokers import HOME, READER, Brokers
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)
from support.kafka import Consuming, consuming, prediction, properties
from support.paths import ROOT
from support.servers import ask, eventually, serving, write_config

pytestmark = pytest.mark.skipif(not (HOME / "bin").exists(), reason="KAFKA_HOME names no Kafka distribution")

_SESSION = "session.timeout.ms=6000\n"
PROTOCOLS = {
    "classic": _SESSION,
    "cooperative": f"partition.assignment.strategy=cooperative-sticky\n{_SESSION}",
    "consumer": "group.protocol=consumer\n",
}
"""Properties for each way in which a group shares partitions."""

TWICE = 400
"""Predictions of two seconds: as many may be counted twice after a fault."""

protocols = pytest.mark.parametrize("protocol", PROTOCOLS)


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    """Three brokers."""
    cluster = Brokers(tmp_path_factory.mktemp("kafka"), 3)
    yield cluster
    cluster.close()


class Taken:
    """An exporter that takes everything, once for each ``Idempotency-Key``, and knows how often it has each id.

    Attributes
    ----------
    ids
        How often it has each.
    refused
        The routes that are not available.
    """

    def __init__(self) -> None:
        taken = self.ids = Counter[str]()
        refused = self.refused = set[str]()
        keys = set[str | None]()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

            def do_POST(self) -> None:
                events = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                is_taken = self.path not in refused
                if is_taken and (key := self.headers["Idempotency-Key"]) not in keys:
                    keys.add(key)
                    taken.update(event["id"] for event in events)
                self.send_response(202 if is_taken else 503)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def taken() -> Iterator[Taken]:
    """An exporter."""
    exporter = Taken()
    yield exporter
    exporter.close()


class Traffic:
    """Writes 200 predictions a second to a topic until it is ended."""

    def __init__(self, brokers: Brokers, topic: str, taken: Taken, name: str = "") -> None:
        options = {"bootstrap.servers": brokers.servers, "linger.ms": 5, "log_level": 0, "acks": "all"}
        self._producer = Producer(options | {"topic.metadata.refresh.interval.ms": 1000})
        self._topic, self._taken, self._name, self.written = topic, taken, name or topic, list[str]()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        number = 0
        while not self._ended.wait(0.05):
            for _ in range(10):
                number += 1
                name = f"{self._name}-{number}"

                def on_delivery(error: object, _: object, name: str = name) -> None:
                    if error is None:
                        self.written.append(name)

                self._producer.produce(
                    self._topic, json.dumps(prediction(number, id=name)), str(number), on_delivery=on_delivery
                )
            self._producer.poll(0)

    def arrive(self, seconds: float = 60) -> None:
        """Wait until messages that are written from now on are taken."""
        start = len(self.written)
        eventually(lambda: len(self.written) > start + 50, 90)
        names = self.written[start : start + 50]
        eventually(lambda: set(names) <= self._taken.ids.keys(), seconds)

    def end(self) -> int:
        """Wait until all is taken; return how many predictions were counted more than once."""
        self._ended.set()
        self._thread.join()
        self._producer.flush(60)
        del self._producer
        eventually(lambda: set(self.written) <= self._taken.ids.keys(), 60)
        return sum(self._taken.ids[name] - 1 for name in self.written)


def protocol_of(folder: Path, text: str) -> str:
    """The option with a file of properties, those of a protocol among them."""
    return properties(folder, "allow.auto.create.topics=false", "max.poll.interval.ms=6000", text)


def ready(consumer: Consuming) -> str:
    """What a consumer says about itself, once it does."""
    assert eventually(consumer.samples)
    return ask(f"http://127.0.0.1:{consumer.web}/-/ready").text


def create(brokers: Brokers, *topics: str, **config: str) -> None:
    """Make topics with two partitions, a copy of each on each broker."""

    def are_made() -> bool:
        with contextlib.suppress(KafkaException):  # the connection to a bootstrap address may end before the answer
            brokers.wait(brokers.admin.create_topics([NewTopic(topic, 2, 3, config=config) for topic in topics]))
        return set(topics) <= brokers.admin.list_topics(timeout=60).topics.keys()

    eventually(lambda: not brokers.admin.list_topics(timeout=60).topics.keys() & set(topics))
    eventually(are_made)
    time.sleep(1)  # until all brokers know them: librdkafka assigns nothing if only some do while a group begins


@protocols
def test_a_consumer_that_is_frozen_or_killed(tmp_path: Path, brokers: Brokers, taken: Taken, protocol: str) -> None:
    """It goes on; others join, leave and take its partitions."""
    topic = f"frozen-{protocol}"
    create(brokers, topic)
    traffic = Traffic(brokers, topic, taken)
    flags = [f"--topic={topic}", f"--group={topic}", protocol_of(tmp_path, PROTOCOLS[protocol])]
    with consuming(tmp_path, brokers, taken.url, *flags) as first:
        traffic.arrive()
        for seconds in (3, 12):
            first.process.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            first.process.send_signal(signal.SIGCONT)
            traffic.arrive()
        frozen = sum(taken.ids.values()) - len(taken.ids)
        with consuming(tmp_path, brokers, taken.url, *flags, name="second") as second:
            eventually(lambda: len(first.lags()) == len(second.lags()) == 1)
            with consuming(tmp_path, brokers, taken.url, *flags, name="third") as third:
                eventually(third.samples)
                assert second.stop() == 0
                traffic.arrive()
                first.stop(signal.SIGKILL)
                traffic.arrive()
                twice = traffic.end()
    assert frozen <= 15 * 200  # what was written meanwhile
    assert twice - frozen <= TWICE


@protocols
def test_an_exporter_that_refuses_a_topic(tmp_path: Path, brokers: Brokers, taken: Taken, protocol: str) -> None:
    """Others are read meanwhile, consumers join and leave the group, and nothing counts twice."""
    taken_, refused = f"taken-{protocol}", f"refused-{protocol}"
    create(brokers, taken_, refused)
    others, traffic = Traffic(brokers, taken_, taken), Traffic(brokers, refused, taken)
    flags = [f"--topic={taken_}", f"--topic={refused}=feedback", f"--group={refused}", "--batch-size=10"]
    flags.append(protocol_of(tmp_path, PROTOCOLS[protocol]))
    with consuming(tmp_path, brokers, taken.url, *flags) as first:
        traffic.arrive()
        taken.refused.add("/v1/feedback")
        for _ in range(10):
            others.arrive(10)
            time.sleep(1)
        assert "503" in ready(first)
        with consuming(tmp_path, brokers, taken.url, *flags, name="second") as second:
            eventually(lambda: len(first.lags()) == len(second.lags()) == 2)
            others.arrive(10)
            assert first.stop() == 0
            eventually(lambda: len(second.lags()) == 4)
            others.arrive(10)
            assert len(taken.ids) == sum(taken.ids.values())
            second.process.send_signal(signal.SIGSTOP)
            time.sleep(12)
            second.process.send_signal(signal.SIGCONT)
            others.arrive()
            taken.refused.clear()
            traffic.arrive()
            eventually(lambda: ready(second).startswith("ready"))
            assert traffic.end() == 0
            assert others.end() <= 15 * 200  # what was written meanwhile


@protocols
def test_a_topic_that_is_deleted_and_made_again(tmp_path: Path, brokers: Brokers, taken: Taken, protocol: str) -> None:
    """Others are read meanwhile."""
    stays, goes = f"stays-{protocol}", f"goes-{protocol}"
    create(brokers, stays, goes)
    others, traffic = Traffic(brokers, stays, taken), Traffic(brokers, goes, taken)
    flags = [f"--topic={stays}", f"--topic={goes}", f"--group={goes}", protocol_of(tmp_path, PROTOCOLS[protocol])]
    with consuming(tmp_path, brokers, taken.url, *flags) as consumer:
        traffic.arrive()
        assert traffic.end() == 0
        brokers.wait(brokers.admin.delete_topics([goes]))
        for _ in range(10):
            others.arrive(10)
            time.sleep(1)
        create(brokers, goes)
        again = Traffic(brokers, goes, taken, "again")
        again.arrive()
        assert (again.end(), others.end()) == (0, 0)
        assert consumer.stop() == 0


def allow(kind: ResourceType, name: str, operation: AclOperation) -> AclBinding:
    """A right of the reader."""
    return AclBinding(kind, name, ResourcePatternType.LITERAL, "User:reader", "*", operation, AclPermissionType.ALLOW)


def revoke(brokers: Brokers, right: AclBinding) -> None:
    """Take a right away."""
    resource = right.restype, right.name, right.resource_pattern_type
    found = AclBindingFilter(*resource, right.principal, right.host, right.operation, right.permission_type)
    brokers.wait(brokers.admin.delete_acls([found]))


@protocols
def test_rights_that_are_taken_and_given_back(tmp_path: Path, brokers: Brokers, taken: Taken, protocol: str) -> None:
    """The topics that may be read are; what is wrong is said."""
    kept, revoked = f"kept-{protocol}", f"revoked-{protocol}"
    create(brokers, kept, revoked)
    right = allow(ResourceType.TOPIC, revoked, AclOperation.READ)
    others = [allow(ResourceType.TOPIC, kept, AclOperation.READ), allow(ResourceType.GROUP, kept, AclOperation.READ)]
    brokers.wait(brokers.admin.create_acls([right, *others]))
    flags = [f"--topic={kept}", f"--topic={revoked}", f"--group={kept}"]
    flags.append(properties(tmp_path, READER + PROTOCOLS[protocol]))
    other, traffic = Traffic(brokers, kept, taken), Traffic(brokers, revoked, taken)
    with consuming(tmp_path, brokers.users, taken.url, *flags) as consumer:
        traffic.arrive()
        revoke(brokers, right)
        for _ in range(10):
            other.arrive(10)
            time.sleep(1)
        assert "Topic authorization failed" in ready(consumer)
        brokers.wait(brokers.admin.create_acls([right]))
        traffic.arrive()
        assert traffic.end() + other.end() <= TWICE
        assert consumer.stop() == 0


def test_brokers_that_are_killed(tmp_path: Path, brokers: Brokers, taken: Taken) -> None:
    """Messages flow while a broker is away, and once all are back; a consumer without brokers stops."""
    create(brokers, "killed")
    traffic = Traffic(brokers, "killed", taken)
    with consuming(tmp_path, brokers, taken.url, "--topic=killed", "--group=killed") as consumer:
        traffic.arrive()
        for node in range(3):
            brokers.kill(node)
            traffic.arrive()
            brokers.start(node)
            brokers.wait_until_ready()
        brokers.kill(0, 1, 2)
        eventually(lambda: "no broker is connected" in ready(consumer))
        for node in range(3):
            brokers.start(node)
        brokers.wait_until_ready()
        traffic.arrive()
        assert traffic.end() <= TWICE
        brokers.kill(0, 1, 2)
        started = time.monotonic()
        assert consumer.stop() == 0
        assert time.monotonic() - started < 20
    for node in range(3):
        brokers.start(node)
    brokers.wait_until_ready()


def test_dead_letters_that_cannot_be_written(tmp_path: Path, brokers: Brokers) -> None:
    """They are once the right is given, and once enough brokers are there."""
    create(brokers, "letters")
    create(brokers, "letters.dead", **{"min.insync.replicas": "3"})
    write = allow(ResourceType.TOPIC, "letters.dead", AclOperation.WRITE)
    read = [allow(kind, "letters", AclOperation.READ) for kind in (ResourceType.TOPIC, ResourceType.GROUP)]
    brokers.wait(brokers.admin.create_acls(read))
    flags = ["--topic=letters", "--group=letters", "--dead-letter-topic=letters.dead"]
    flags.append(properties(tmp_path, READER + _SESSION))
    messages = [prediction(number, **({} if number % 10 else {"confidence": 7})) for number in range(300)]
    brokers.produce("letters", messages)
    write_config(tmp_path)
    with serving(tmp_path) as exporter, consuming(tmp_path, brokers.users, exporter.url, *flags) as consumer:
        eventually(lambda: "letters.dead: " in ready(consumer) and "the right to write to it" in ready(consumer))
        brokers.wait(brokers.admin.create_acls([write]))
        eventually(lambda: consumer.count("letters", "dead_letter") == 30, 60)
        eventually(lambda: brokers.committed("letters", "letters") == 300)
        brokers.kill(2)
        brokers.produce("letters", messages)
        eventually(lambda: "no broker takes messages, or too few do" in ready(consumer))
        brokers.start(2)
        brokers.wait_until_ready()
        eventually(lambda: consumer.count("letters", "dead_letter") >= 60, 60)
        revoke(brokers, write)
        brokers.produce("letters", [b"junk"])
        eventually(lambda: "the right to write to it" in ready(consumer))
        assert consumer.stop() == 0
        counted = exporter.samples("model_requests_total")
        assert 540 <= counted['model_requests_total{model="credit",version="kafka",code="200"}'] <= 540 + TWICE
    assert 60 <= brokers.ends("letters.dead") <= 90  # the broker that is killed may coordinate the group


def test_transactions(tmp_path: Path, brokers: Brokers, taken: Taken) -> None:
    """Only what is committed is read, and the lag counts nothing else."""
    create(brokers, "transactions")
    producer = Producer({"bootstrap.servers": brokers.servers, "transactional.id": "x", "log_level": 0})
    producer.init_transactions(60)

    def write(name: str) -> None:
        producer.begin_transaction()
        for number in range(500):
            producer.produce("transactions", json.dumps(prediction(number, id=f"{name}-{number}")))
        producer.flush(20)

    for name in ("aborted", "taken"):
        write(name)
        (producer.abort_transaction if name == "aborted" else producer.commit_transaction)(60)
    write("open")
    with consuming(tmp_path, brokers, taken.url, "--topic=transactions", "--group=transactions") as consumer:
        eventually(lambda: consumer.lags() == [0, 0])
        assert sum(taken.ids.values()) == 500
        producer.commit_transaction(60)
        eventually(lambda: sum(taken.ids.values()) == 1000)
        eventually(lambda: consumer.lags() == [0, 0])
    assert {name.partition("-")[0] for name in taken.ids} == {"taken", "open"}


def test_all_that_holds_for_the_brokers_inside_librdkafka(brokers: Brokers) -> None:
    """The tests of the command pass; the one that closes its brokers has a broker inside librdkafka."""
    environment = {**os.environ, "KAFKA_SERVERS": brokers.servers}
    command = [sys.executable, "-m", "pytest", "-q", "tests/commands/test_consume.py", "-k", "not brokers_are_away"]
    assert subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0
