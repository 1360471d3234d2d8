"""The command that sends the messages of Kafka topics to an exporter."""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import logging
import os
import re
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast
from wsgiref.simple_server import WSGIServer, make_server

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import Message as KafkaMessage
from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import ThreadingWSGIServer, _SilentHandler, make_wsgi_app

from exporter.commands import common
from exporter.commands.common import stopping
from exporter.errors import BatchError, ExporterError, UsageError
from exporter.http_client import NO_RETRY, TRANSIENT, Client, RequestError, Response
from exporter.validation import preview
from exporter.wire.events import MAX_REJECTED


class Kind(NamedTuple):
    """A kind of message that a topic may hold.

    Attributes
    ----------
    route
        Where they are posted.
    batched
        Whether many messages, each one JSON object, are posted as one array. Otherwise each message is a request of
        its own, with its content type and the attributes of its CloudEvent.
    content_type
        Of the request, unless a message that is a request of its own has a header ``content-type``.
    """

    route: str
    batched: bool = True
    content_type: str = "application/json"


KINDS = {
    "predictions": Kind("/v1/predictions"),
    "feedback": Kind("/v1/feedback"),
    "labels": Kind("/v1/labels"),
    "events": Kind("/v1/events"),
    "kserve": Kind("/v1/kserve", batched=False),
    "logs": Kind("/v1/logs", batched=False, content_type="application/x-protobuf"),
    "traces": Kind("/v1/traces", batched=False, content_type="application/x-protobuf"),
}
"""The kinds of messages by name; logs and traces are those of OpenTelemetry."""

MAX_BYTES = 8 << 20
"""Bytes of a request, unless one message alone has more."""
TIMEOUT_SECONDS = 8.0
"""Time in which the exporter must answer."""
GIVE_UP_SECONDS = 4.0
"""How long a request is tried again before the consumer looks whether it should stop."""


class Message(NamedTuple):
    """A message of a topic, as it is sent on."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class Refusal(NamedTuple):
    """A message that cannot be used, and why."""

    message: Message
    detail: str


class UnavailableError(ExporterError):
    """The exporter did not take a request, and may take it later."""


@dataclass(frozen=True)
class Poster:
    """Posts messages to the exporter.

    Parameters
    ----------
    client
        Of the exporter.
    group
        The consumer group, which is part of the requests' idempotency keys.
    on_retry
        Called with the reason before a request is tried again.
    on_warning
        Called with each warning of the exporter.
    """

    client: Client
    group: str
    on_retry: Callable[[str], None]
    on_warning: Callable[[str], None]

    def post(self, kind: Kind, messages: Sequence[Message]) -> list[Refusal]:
        """Post messages that fit into one request; return those that cannot be used.

        The same messages have the same idempotency key, so that they can be posted again until they are taken.

        Raises
        ------
        UnavailableError
            When the exporter does not answer, or not in time: some of the messages may have been taken.
        BatchError
            When it refuses all messages, for a reason that is not in them.
        """
        refusals = [Refusal(message, detail) for message in messages if (detail := _malformed(kind, message))]
        malformed = {id(refusal.message) for refusal in refusals}
        good = [message for message in messages if message.value is not None and id(message) not in malformed]
        return refusals + (self._post(kind, good) if good else [])

    def _post(self, kind: Kind, messages: Sequence[Message]) -> list[Refusal]:
        values = [message.value or b"" for message in messages]
        body = b"[%b]" % b",".join(values) if kind.batched else values[0]
        headers = {"Content-Type": kind.content_type, **({} if kind.batched else _http_headers(messages[0]))}
        response = self._request(kind.route, body, headers | {"Idempotency-Key": self._key(messages, body)})
        if response.status in {200, 201, 202}:
            rejected = self._rejected(response)
            if not kind.batched:  # a message of several events
                return [Refusal(messages[0], detail) for detail in [*rejected.values()][:1]]
            return [Refusal(messages[index], detail) for index, detail in rejected.items()]
        if response.status not in {400, 413, 415, 422}:
            raise BatchError(f"{self.client.url}: {response.error_message()}: the messages are not committed")
        if len(messages) == 1:
            return [Refusal(messages[0], response.error_message())]
        try:
            details = _by_index(json.loads(response.body))
        except (ValueError, TypeError, KeyError, AttributeError):
            details = {}
        if details.keys() == set(range(len(messages))):
            return [Refusal(message, details[index]) for index, message in enumerate(messages)]
        # Some messages may be good: the response need not tell which.
        middle = len(messages) // 2
        return self._post(kind, messages[:middle]) + self._post(kind, messages[middle:])

    def _request(self, route: str, body: bytes, headers: Mapping[str, str]) -> Response:
        try:
            response = self.client.repeat(GIVE_UP_SECONDS, self.on_retry, "POST", route, body, headers=headers)
        except RequestError as error:
            raise UnavailableError(str(error)) from None
        if response.status in TRANSIENT:
            raise UnavailableError(f"{self.client.url}: {response.error_message()}")
        return response

    def _rejected(self, response: Response) -> dict[int, str]:
        """Return what is wrong with messages by index, in a successful response; pass its warnings on."""
        try:
            document: Any = json.loads(response.body or b"{}")
            for warning in document.get("warnings", ()):
                self.on_warning(_detail(warning.get("pointer", ""), warning["detail"]))
            return _by_index(document)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise BatchError(f"--exporter: the response ({response.status}) is not an exporter's") from None

    def _key(self, messages: Sequence[Message], body: bytes) -> str:
        """Return the idempotency key of a request: the same messages of the same partitions count once."""
        digest = hashlib.sha256(body)
        for message in messages:
            digest.update(f"\n{self.group} {message.topic} {message.partition} {message.offset}".encode())
        return f"kafka-{digest.hexdigest()}"


def requests(kind: Kind, messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Split messages of a topic into those of one request each.

    >>> messages = [Message("t", 0, offset, None, b"{}", ()) for offset in range(3)]
    >>> [len(part) for part in requests(KINDS["labels"], messages)], len(list(requests(KINDS["kserve"], messages)))
    ([3], 3)
    """
    part: list[Message] = []
    size = 0
    for message in messages:
        length = len(message.value or b"") + 1
        if part and (not kind.batched or size + length > MAX_BYTES):
            yield part
            part, size = [], 0
        part.append(message)
        size += length
    if part:
        yield part


def _malformed(kind: Kind, message: Message) -> str | None:
    """Return why a message cannot be part of a request; None if it can."""
    if not kind.batched or message.value is None:
        return None
    try:
        msgspec.json.decode(message.value, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError) as error:
        return f"expected one JSON object: {error}"
    return None


def _http_headers(message: Message) -> dict[str, str]:
    """Return the headers of a request: CloudEvents have their attributes in ``ce_type`` in Kafka, ``ce-type`` in HTTP.

    >>> headers = [("ce_type", b"a"), ("content-type", b"text/json"), ("x", b"1")]
    >>> _http_headers(Message("requests", 0, 0, None, b"", headers))
    {'ce-type': 'a', 'Content-Type': 'text/json'}
    """
    headers = {}
    for name, value in message.headers:
        text = (value or b"").decode("latin-1")
        if not (text.isprintable() and name.isascii() and name.replace("_", "").replace("-", "").isalnum()):
            continue
        if name.startswith("ce_"):
            headers[f"ce-{name[3:]}"] = text
        elif name.lower() == "content-type":
            headers["Content-Type"] = text
    return headers


def _detail(pointer: str, detail: str) -> str:
    return f"{pointer}: {detail}" if pointer else detail


def _by_index(document: Any) -> dict[int, str]:
    """Return the first thing that is wrong with each event of a request, as far as the response says."""
    details: dict[int, str] = {}
    for index, pointer, detail in common.refused_events(document):
        details.setdefault(index, _detail(pointer, detail))
    return details


RESULTS = ("accepted", "dead_letter", "dropped", "empty")
STATISTICS_SECONDS = 5
"""Time between two statistics of librdkafka."""

log = logging.getLogger("exporter.commands.consume")


class ConsumerMetrics:
    """The counters of a consumer, and whether it is ready.

    Parameters
    ----------
    topics
        The topics, so that their series are there from the start.

    Attributes
    ----------
    registry
        The metrics.
    """

    def __init__(self, topics: list[str]) -> None:
        self.registry = CollectorRegistry()
        for kind in (ProcessCollector, PlatformCollector, GCCollector):
            kind(registry=self.registry)
        text = (
            "Messages by what became of them: accepted by the exporter, refused and in the dead-letter topic, refused"
        )
        self._messages = self._counter("messages", f"{text} and dropped, or without a value.", ("topic", "result"))
        self.retries = self._counter("request_retries", "Requests to the exporter that were tried again.")
        self._commit_failures = self._counter("commit_failures", "Commits that failed; the next one repeats them.")
        self._lag = self._gauge("lag", "Messages of a partition that were not read yet.", ("topic", "partition"))
        self._is_connected = False
        connected = self._gauge("connected", "Whether a broker of the cluster is connected.")
        connected.set_function(lambda: self._is_connected)
        self._rebalances = self._gauge("rebalances", "Rebalances of the group since the start of this consumer.")
        self._success = self._gauge(
            "last_success_timestamp_seconds", "Unix time at which the exporter last took messages; 0 before the first."
        )
        for topic in topics:
            for result in RESULTS:
                self._messages.labels(topic, result)
        self._failure: str | None = None
        self._moderation = common.Moderation()

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"model_consumer_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"model_consumer_{name}", text, labels, registry=self.registry)

    def count(self, topic: str, result: str, number: int) -> None:
        """Count messages."""
        if number:
            self._messages.labels(topic, result).inc(number)

    def succeeded(self) -> None:
        """Note that the exporter took messages."""
        self._failure = None
        self._success.set_to_current_time()

    def failed(self, reason: str) -> None:
        """Note, and log now and then, why messages are sent again."""
        self._failure = reason
        self.log_now_and_then("failed", "%s", reason)

    def on_statistics(self, text: str) -> None:
        """Read the lag of each partition, and the state of the connections, from librdkafka's statistics.

        The lag is the distance from the next message to fetch to the end that the consumer may read, which is before
        open transactions; it is absent while the partition's leader is away.
        """
        document: dict[str, Any] = json.loads(text)
        up = {broker["nodeid"] for broker in document["brokers"].values() if broker["state"] == "UP"}
        self._is_connected = bool(up)
        self._rebalances.set(document.get("cgrp", {}).get("rebalance_cnt", 0))
        self._lag.clear()
        for topic in document["topics"].values():
            for number, partition in topic["partitions"].items():
                end = max(partition["ls_offset"], partition["hi_offset"] if partition["ls_offset"] < 0 else -1)
                if partition["fetch_state"] == "active" and partition["leader"] in up and end >= 0:
                    lag = max(end - max(partition["next_offset"], 0), 0) + partition["fetchq_cnt"]
                    self._lag.labels(topic["topic"], number).set(lag)

    def on_commit(self, error: KafkaError | None, _: object) -> None:
        """Count and log a commit that failed."""
        if error is not None:
            self._commit_failures.inc()
            self.log_now_and_then("commit", "offsets are not committed yet: %s", error.str())

    def on_retry(self, reason: str) -> None:
        """Count and log a request that is tried again."""
        self.retries.inc()
        self.log_now_and_then("retry", "%s: trying again", reason)

    def on_warning(self, detail: str) -> None:
        """Log a warning in a response of the exporter."""
        self.log_now_and_then("warning", "the exporter warns: %s", detail)

    def log_now_and_then(self, key: str, text: str, *values: object) -> None:
        """Log a warning, unless one of the same key was logged a moment ago."""
        if self._moderation.is_due(key):
            log.warning(text, *values)

    def on_kafka_error(self, error: KafkaError) -> None:
        """Log an error of librdkafka now and then: while no broker answers, it reports 20 of them a second."""
        self.log_now_and_then(error.name(), "%s: %s", "Kafka", error.str())

    def limit(self, record: logging.LogRecord) -> bool:
        """Return whether to log a line of librdkafka: one of each kind, which it begins with, now and then."""
        return self._moderation.is_due(f"librdkafka {record.getMessage().partition(' ')[0]}")

    def readiness(self) -> tuple[bool, str]:
        """Return whether messages flow, and a sentence about it."""
        if self._failure is not None:
            return False, self._failure
        if not self._is_connected:
            return False, "no broker is connected"
        return True, "ready"

    def serve(self, host: str, port: int) -> WSGIServer:
        """Serve metrics and probes from a thread of their own.

        Raises
        ------
        OSError
            When the address cannot be used.
        """
        metrics = make_wsgi_app(self.registry)

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            path = environ["PATH_INFO"]
            if path == "/metrics":
                return cast(Iterable[bytes], metrics(environ, start_response))
            ready, text = (True, "healthy") if path == "/-/healthy" else self.readiness()
            if path not in {"/-/healthy", "/-/ready"}:
                ready, text = False, "see /metrics, /-/healthy and /-/ready"
            status = "200 OK" if ready else "503 Service Unavailable" if path == "/-/ready" else "404 Not Found"
            start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
            return [f"{text}\n".encode()]

        server = make_server(host, port, app, ThreadingWSGIServer, handler_class=_SilentHandler)
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
        return server


WAIT_SECONDS = 0.2
"""Time in which a request fills up with messages."""
PAUSE_SECONDS = 0.5
"""Time before messages are sent again that the exporter, or the dead-letter topic, did not take."""
CLOSE_SECONDS = 5.0
"""Time in which the brokers get to take the last offsets."""
FLUSH_SECONDS = 5.0
"""Time in which the brokers must have the dead letters."""
MAX_DETAIL = 1000
"""Bytes of a dead letter's reason, at most."""


class DeadLetters:
    """Writes refused messages to a topic, unchanged, with the reason and their origin in headers.

    Of a message that is larger than the topic takes, only these headers are written.

    Parameters
    ----------
    producer
        Of the cluster; idempotent.
    topic
        The dead-letter topic.
    """

    def __init__(self, producer: Producer, topic: str) -> None:
        self._producer = producer
        self._topic = topic
        self._failure: KafkaError | None = None
        self._written: dict[Message, bool] = {}  # whether the brokers have it; the producer repeats the others

    def write(self, refusals: Sequence[Refusal]) -> None:
        """Write messages, and wait until the brokers have them; one that is still on its way is not written again.

        Raises
        ------
        UnavailableError
            When the brokers do not have them in time.
        ExporterError
            When they never will.
        """
        self._failure = None
        for refusal in refusals:
            if refusal.message not in self._written:
                message = refusal.message
                self._produce(refusal, message.value, message.key, message.headers)
        self._producer.flush(FLUSH_SECONDS)
        if self._failure is not None:
            if self._failure.fatal():
                raise ExporterError(f"--dead-letter-topic: {self._topic}: {self._failure.str()}")
            right = ": the consumer needs the right to write to it" if "AUTHORIZATION" in self._failure.name() else ""
            raise UnavailableError(f"the dead-letter topic {self._topic}: {self._failure.str()}{right}")
        if not all(self._written.values()):
            raise UnavailableError(f"the dead-letter topic {self._topic}: the brokers do not take messages")
        self._written = {}

    def _produce(
        self,
        refusal: Refusal,
        value: bytes | None,
        key: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
    ) -> None:
        message, detail = refusal
        origin = {
            "model-exporter-error": detail.encode()[:MAX_DETAIL],
            "model-exporter-topic": message.topic.encode(),
            "model-exporter-partition": str(message.partition).encode(),
            "model-exporter-offset": str(message.offset).encode(),
        }
        all_headers: list[tuple[str, str | bytes | None]] = [*headers, *origin.items()]
        on_delivery = functools.partial(self._on_delivery, refusal)
        self._written[message] = False
        try:
            self._producer.produce(self._topic, value, key, headers=all_headers, on_delivery=on_delivery)
            self._producer.poll(0)
        except KafkaException as error:
            self._on_delivery(refusal, error.args[0], None)
        except BufferError:
            self._on_delivery(refusal, KafkaError(KafkaError._QUEUE_FULL), None)

    def _on_delivery(self, refusal: Refusal, error: KafkaError | None, _: object) -> None:
        message, detail = refusal
        if error is None:
            self._written[message] = True
        elif error.code() == KafkaError.MSG_SIZE_TOO_LARGE and (message.value or message.key or message.headers):
            small = message._replace(value=None, key=None, headers=())
            note = f"too large for this topic, only its origin is kept: {detail}"
            self._written[message] = True
            self._produce(Refusal(small, note), None, None, ())
        else:
            self._written.pop(message, None)
            self._failure = error


@dataclass(frozen=True)
class Relay:
    """Takes messages from topics to the exporter.

    Parameters
    ----------
    consumer
        A member of the consumer group, which commits the offsets that are stored.
    kinds
        What the messages of each topic hold.
    poster
        Posts them.
    dead_letters
        Takes the messages that the exporter refuses; None to log and drop them.
    metrics
        Counts.
    batch_size
        Messages of a request, at most.
    """

    consumer: Consumer
    kinds: Mapping[str, Kind]
    poster: Poster
    dead_letters: DeadLetters | None
    metrics: ConsumerMetrics
    batch_size: int

    def run(self, stopping: threading.Event) -> None:
        """Take messages until the event is set.

        Raises
        ------
        ExporterError
            When the exporter refuses requests, another consumer has this one's ``group.instance.id``, or librdkafka has
            another fatal error.
        """
        self.consumer.subscribe(list(self.kinds))
        while not stopping.is_set():
            by_topic: defaultdict[str, list[Message]] = defaultdict(list)
            for message in self.consumer.consume(self.batch_size, WAIT_SECONDS):
                if error := message.error():
                    self._on_error(error)
                else:
                    converted = _convert(message)
                    by_topic[converted.topic].append(converted)
            for topic, messages in by_topic.items():
                for request in requests(self.kinds[topic], messages):
                    self._deliver(topic, request, stopping)

    def close(self) -> bool:
        """Commit what is stored and leave the group; return whether the brokers answered in time."""
        thread = threading.Thread(target=self.consumer.close, name="close", daemon=True)
        thread.start()
        thread.join(CLOSE_SECONDS)
        return not thread.is_alive()

    def _deliver(self, topic: str, messages: Sequence[Message], stopping: threading.Event) -> None:
        """Send the messages of one request until the exporter has taken them, or the consumer is to stop."""
        while not stopping.is_set():
            try:
                refusals = self.poster.post(self.kinds[topic], messages)
                self._dispose(refusals)
            except UnavailableError as error:
                self.metrics.failed(f"{error}: the messages are sent again")
                self.consumer.consume(0, 0)  # else the group would take the partitions away after max.poll.interval.ms
                stopping.wait(PAUSE_SECONDS)
                continue
            empty = sum(message.value is None for message in messages)
            self.metrics.count(topic, "accepted", len(messages) - empty - len(refusals))
            self.metrics.count(topic, "dead_letter" if self.dead_letters else "dropped", len(refusals))
            self.metrics.count(topic, "empty", empty)
            self.metrics.succeeded()
            self._store_offsets(messages)
            return

    def _store_offsets(self, messages: Sequence[Message]) -> None:
        ends = {(message.topic, message.partition): message.offset + 1 for message in messages}
        for key, offset in ends.items():
            try:
                self.consumer.store_offsets(offsets=[TopicPartition(*key, offset)])
            except KafkaException as error:  # the partition has another consumer now, which reads these messages again
                log.debug("%s[%d]: %s", *key, error.args[0].str())

    def _dispose(self, refusals: Sequence[Refusal]) -> None:
        """Write refused messages to the dead-letter topic, and log them now and then."""
        if self.dead_letters and refusals:
            self.dead_letters.write(refusals)
        for message, detail in refusals[:1]:
            others = f", and {len(refusals) - 1} others" if len(refusals) > 1 else ""
            where = f"{message.topic}[{message.partition}] at offset {message.offset}{others}"
            self.metrics.log_now_and_then("refused", "%s: the exporter refused %s", where, detail)

    def _on_error(self, error: KafkaError) -> None:
        """Log an error, such as a topic that does not exist; raise one after which there would be no messages."""
        is_fatal = error.fatal() or error.code() == KafkaError._FATAL
        fenced = error.code() in {KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED}
        if fenced or (is_fatal and "group.instance.id" in error.str()):
            raise ExporterError("another consumer has the same group.instance.id: give each one its own")
        if is_fatal:
            raise ExporterError(f"Kafka: {error.str()}")
        self.metrics.on_kafka_error(error)


def _convert(message: KafkaMessage) -> Message:
    headers: Any = message.headers() or ()
    key: Any = message.key()
    return Message(
        message.topic() or "", message.partition() or 0, message.offset() or 0, key, message.value(), tuple(headers)
    )


_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_OWN = {
    "enable.auto.commit": True,
    "enable.auto.offset.store": False,
    "enable.partition.eof": False,
    "statistics.interval.ms": STATISTICS_SECONDS * 1000,
}
"""Settings of the consumer on which it depends that no message is lost, and its metrics."""

_CONSUMERS = ("group.", "auto.", "session.", "heartbeat.", "partition.", "isolation.", "max.poll")
"""How properties begin that a producer does not have."""

_LIBRARY_LOG = logging.getLogger("exporter.commands.consume.librdkafka")


def consume_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    text = f"topic, and what its messages contain: {', '.join(KINDS)}; repeatable; without KIND, predictions"
    add("--topic", action="append", required=True, type=_topic, metavar="NAME[=KIND]", help=text)
    add("--bootstrap-servers", metavar="HOST:PORT,…", help="brokers of the cluster")
    add("--group", default="model-exporter", metavar="NAME", help="consumer group")
    text = "properties of librdkafka, one key=value a line: security, timeouts, group.instance.id"
    add("--kafka.config.file", metavar="FILE", help=text)
    text = "topic for messages that the exporter refuses; without one, they are logged and dropped"
    add("--dead-letter-topic", type=_topic_name, metavar="NAME", help=text)
    text = "maximum number of messages in a request to the exporter"
    add("--batch-size", type=common.whole_number(1, MAX_REJECTED), default=MAX_REJECTED, metavar="N", help=text)
    common.add_exporter_options(parser)
    text = "address of the consumer's own metrics"
    add("--web.listen-address", type=common.address, default="127.0.0.1:9882", metavar="HOST:PORT", help=text)
    common.add_log_options(parser)


def consume(options: argparse.Namespace) -> int:
    """Consume predictions, feedback and labels from the topics of a Kafka cluster, and send them to an exporter.

    Example::

        model-exporter consume --bootstrap-servers=kafka:9092 --topic=loans --topic=repaid=labels

    See docs/kafka.md.
    """
    common.configure_logging(options.log_level, options.log_format)
    kinds = dict(options.topic)
    if len(kinds) < len(options.topic):
        names = [name for name, _ in options.topic]
        raise UsageError(f"--topic: {next(name for name in names if names.count(name) > 1)} is named twice")
    if options.dead_letter_topic in kinds:
        topic = options.dead_letter_topic
        raise UsageError(f"--dead-letter-topic: {topic} is also a --topic, so refused messages would come back")
    metrics = ConsumerMetrics(list(kinds))
    settings = _settings(options) | {"error_cb": metrics.on_kafka_error}
    _LIBRARY_LOG.addFilter(metrics.limit)
    with (
        stopping(signal.SIGINT, signal.SIGTERM) as stop,
        common.exporter_client(options, TIMEOUT_SECONDS, retries=NO_RETRY) as client,
    ):
        callbacks = {"on_commit": metrics.on_commit, "stats_cb": metrics.on_statistics}
        defaults = {"auto.offset.reset": "earliest", "auto.commit.interval.ms": 200}
        consumer = _create(Consumer, options, defaults | settings | _OWN | callbacks)
        dead_letters = None
        if options.dead_letter_topic:
            shared = {key: value for key, value in settings.items() if not key.startswith(_CONSUMERS)}
            producer = _create(Producer, options, shared | {"enable.idempotence": True})
            dead_letters = DeadLetters(producer, options.dead_letter_topic)
        relay = Relay(
            consumer,
            {topic: KINDS[kind] for topic, kind in kinds.items()},
            Poster(client, options.group, metrics.on_retry, metrics.on_warning),
            dead_letters=dead_letters,
            metrics=metrics,
            batch_size=options.batch_size,
        )
        server = _listen(options.web_listen_address, metrics)
        try:
            relay.run(stop)
        finally:
            closed = relay.close()
            server.shutdown()
        if closed:
            log.info("stopped")
            return 0
    log.warning("stopped; the brokers did not take the last offsets in time: some messages come again")
    logging.shutdown()
    os._exit(0)  # librdkafka would wait for the brokers


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the properties of the consumer and of the producer of dead letters."""
    path = options.kafka_config_file
    settings: dict[str, Any] = _properties(path) if path else {}
    for key in _OWN.keys() | {"group.id"}:
        if key in settings:
            why = "set it with --group" if key == "group.id" else "it must not be set: the consumer sets it"
            raise ExporterError(f"--kafka.config.file: {path}: {key}: {why}")
    if options.bootstrap_servers:
        settings["bootstrap.servers"] = options.bootstrap_servers
    if "bootstrap.servers" not in settings:
        raise UsageError("--bootstrap-servers: name the brokers of the cluster, such as kafka:9092")
    return {"client.id": "model-exporter"} | settings | {"group.id": options.group}


def _properties(path: Path) -> dict[str, str]:
    """Read a file of properties.

    Raises
    ------
    ExporterError
        When it cannot be read, or a line is not ``key=value``.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ExporterError(f"--kafka.config.file: {path} cannot be read: {reason}") from None
    properties = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not equals or not key.strip():
            raise ExporterError(f"--kafka.config.file: {path}: line {number}: expected key=value")
        properties[key.strip()] = value.strip()
    return properties


def _create(kind: Any, options: argparse.Namespace, settings: dict[str, Any]) -> Any:
    try:
        return kind(settings, logger=_LIBRARY_LOG)
    except KafkaException as error:
        where = f"--kafka.config.file: {options.kafka_config_file}: " if options.kafka_config_file else ""
        raise ExporterError(f"{where}{error.args[0].str()}") from None


def _listen(where: common.Address, metrics: ConsumerMetrics) -> WSGIServer:
    try:
        server = metrics.serve(where.host or "0.0.0.0", where.port)  # noqa: S104
    except OSError as error:
        raise ExporterError(f"cannot listen on {where}: {error.strerror or error}") from None
    log.info("metrics on http://%s/metrics", common.Address(where.host, server.server_port))
    return server


def _topic(text: str) -> tuple[str, str]:
    """Parse ``NAME[=KIND]``; a type for argparse.

    >>> _topic("loans=labels")
    ('loans', 'labels')
    """
    name, _, kind = text.partition("=")
    if kind and kind not in KINDS:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(KINDS)} after =, got {preview(kind)}")
    return _topic_name(name), kind or "predictions"


def _topic_name(text: str) -> str:
    if not _TOPIC.fullmatch(text):
        expected = "expected up to 249 letters, digits, dots, hyphens and underscores"
        raise argparse.ArgumentTypeError(f"{expected}, got {preview(text)}")
    return text
