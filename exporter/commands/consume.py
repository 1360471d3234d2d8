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
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from prometheus_client import CollectorRegistry, Counter, Gauge

from exporter.commands import common
from exporter.config import load_yaml
from exporter.errors import BatchError, EventError, ExporterError, UsageError
from exporter.http_client import NO_RETRY, TRANSIENT, Client, RequestError, Response
from exporter.validation import convert, json_pointer, preview, rfc3339, suggestion
from exporter.wire import events as wire
from exporter.wire.cloudevents import BATCH

MAX_BYTES = 8 << 20
"""Bytes of a request, unless one message alone has more."""
TIMEOUT_SECONDS = 8.0
"""Time in which the exporter must answer."""
GIVE_UP_SECONDS = 2.0
"""How long a request is tried again before its topic is paused."""


_rfc3339 = functools.lru_cache(rfc3339)


class Message(NamedTuple):
    """A message of a topic; ``time`` is Kafka's, Unix time in seconds."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    time: float | None = None

    @property
    def stamp(self) -> str | None:
        """The time as text; None if the clock that it is from is ahead."""
        return None if self.time is None or self.time > time.time() else _rfc3339(self.time)


Encode = Callable[[Message], list[bytes]]
"""Returns the events of a message with a value as JSON, or raises an `EventError`."""


class _Event(msgspec.Struct, gc=False):
    """An event of the exporter's own, as far as it is looked at here."""

    time: msgspec.Raw = msgspec.Raw()


_event_decoder = msgspec.json.Decoder(_Event)
_message_decoder = msgspec.json.Decoder(_Event | list[msgspec.Raw])


def _decode(read: Callable[[bytes], Any], value: bytes | None) -> Any:
    try:
        return read(value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EventError("", f"expected a JSON object, or an array of them: {error}", "malformed") from None


def _objects(message: Message, timed: bool = False) -> list[bytes]:
    """Return the objects in a message; where they are ``timed``, one without a time gets the message's.

    >>> _objects(Message("t", 0, 0, None, b'[{"a": 1}, {"time": null}]', (), 0.5), timed=True)
    [b'{"time":"1970-01-01T00:00:00.500000Z","a": 1}', b'{"time": null}']
    """
    value = message.value or b""
    found = _decode(_message_decoder.decode, value)
    is_one = isinstance(found, _Event)
    events = [value] if is_one else [bytes(part) for part in found]
    if not events:
        raise EventError("", wire.NO_EVENTS, "malformed")
    if not timed or not (stamp := message.stamp):
        return events
    begin = b'{"time":"%b",' % stamp.encode()
    read = [found] if is_one else [_decode(_event_decoder.decode, event) for event in events]
    return [
        event if one.time or b":" not in event else begin + event.lstrip()[1:]
        for event, one in zip(events, read, strict=True)
    ]


def _cloud_event(message: Message) -> list[bytes]:
    """Return a CloudEvent in the structured mode; in Kafka's binary mode its attributes are headers ``ce_…``.

    >>> _cloud_event(Message("t", 0, 0, None, b"[1]", [("ce_id", b"7"), ("content-type", b"text/json")]))
    [b'{"id":"7","data_base64":"WzFd"}']
    """
    attributes = {
        name[3:]: (value or b"").decode("utf-8", "replace") for name, value in message.headers if name[:3] == "ce_"
    }
    if not attributes:
        return _objects(message)
    return [msgspec.json.encode({**attributes, "data_base64": message.value})]


def _export_request(message: Message) -> list[bytes]:
    """Return an export request of OpenTelemetry: protobuf in base64, unless the content type says JSON."""
    types = [value or b"" for name, value in message.headers if name.lower() == "content-type"]
    return _objects(message) if types and b"json" in types[0] else [msgspec.json.encode(message.value)]


class Kind(NamedTuple):
    """A kind of message that a topic may hold.

    Attributes
    ----------
    route
        Where its events are posted, those of several messages as one array.
    event
        The type of an event, if it is the exporter's own.
    encode
        Reads the events of a message.
    content_type
        Of the request.
    """

    route: str
    event: type[msgspec.Struct] | None
    encode: Encode = functools.partial(_objects, timed=True)
    content_type: str = "application/json"


KINDS = {
    "predictions": Kind("/v1/predictions", wire.Prediction),
    "feedback": Kind("/v1/feedback", wire.Feedback),
    "labels": Kind("/v1/labels", wire.LabelEvent),
    "events": Kind("/v1/events", wire.BusinessEvent, _objects),
    "kserve": Kind("/v1/kserve", None, _cloud_event, BATCH),
    "logs": Kind("/v1/logs", None, _export_request),
    "traces": Kind("/v1/traces", None, _export_request),
}
"""The kinds of messages by name; logs and traces are those of OpenTelemetry."""

_CONSTANT = ("event", "model", "version")


class Shape:
    """Reads events from messages with another structure, by the JSON pointer (RFC 6901) of each member.

    Parameters
    ----------
    path
        A YAML file with the pointers by member: ``inputs`` may be a mapping of such pointers, and `_CONSTANT` members
        texts. ``items`` is where the array of events is; the others are looked for in an event, then in the message.
    kind
        The type of the events.

    Raises
    ------
    ExporterError
        When the file cannot be used.
    """

    def __init__(self, path: Path, kind: type[msgspec.Struct]) -> None:
        self._path = path
        members = convert(load_yaml(path), dict[str, Any], str(path))
        self._items = members.pop("items", "")
        fields = {field.name: field.required for field in msgspec.structs.fields(kind)}
        required = dict.fromkeys(name for name, is_required in fields.items() if is_required)
        for name, where in {"items": self._items, **required, **members}.items():
            if name not in fields.keys() | {"items"}:
                raise ExporterError(f"{path}: {name}: is not known; {suggestion(name, fields)}")
            for part in where.values() if name == "inputs" and isinstance(where, dict) else [where]:
                if not (isinstance(part, str) and (part[:1] in ("", "/") or name in _CONSTANT)):
                    raise ExporterError(f"{path}: {name}: expected a JSON pointer such as /{name}, got {preview(part)}")
        self._constants = {name: text for name, text in members.items() if name in _CONSTANT and text[:1] != "/"}
        self._members = {name: where for name, where in members.items() if name not in self._constants}
        self._timed, self._warned = "time" in fields, False

    def __call__(self, message: Message) -> list[bytes]:
        """Return the events of a message."""
        document = _decode(msgspec.json.decode, message.value)
        items = _find(self._items, document)
        if items is None:
            raise EventError("", self._lost({"items": self._items}, document), "malformed")
        items = items if isinstance(items, list) else [items]
        return [msgspec.json.encode(self._event(message, item, document)) for item in items]

    def _event(self, message: Message, item: Any, document: Any) -> dict[str, Any]:
        found = {name: _read(where, item, document) for name, where in self._members.items()}
        event = {name: value for name, value in found.items() if value is not None}
        if len(event) < len(found) and not (event and self._warned):
            detail = self._lost({name: where for name, where in self._members.items() if name not in event}, item)
            if not event:
                raise EventError("", detail, "malformed")
            self._warned = True
            log.warning("%s[%d] at offset %d: %s", *message[:3], detail)
        if isinstance(event.get("time"), int | float):
            event["time"] = _time(event["time"])
        elif self._timed and message.stamp:
            event.setdefault("time", message.stamp)
        return self._constants | event

    def _lost(self, members: Mapping[str, Any], there: Any) -> str:
        wanted = ", ".join(
            f"{name} at {where if isinstance(where, str) else preview(where)}" for name, where in members.items()
        )
        return f"{self._path}: found no {wanted}; the message has {', '.join(islice(_pointers(there), 20))[:1000]}"


def _find(pointer: str, document: Any) -> Any:
    """Return the value at a JSON pointer; None where there is none.

    >>> _find("/a~1b/1", {"a/b": [1, 2]}), _find("/c", {}), _find("", 3)
    (2, None, 3)
    """
    for step in pointer.split("/")[1:]:
        try:
            document = document[int(step) if isinstance(document, list) else step.replace("~1", "/").replace("~0", "~")]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return document


def _read(where: Any, item: Any, document: Any) -> Any:
    if isinstance(where, dict):
        found = {name: _read(part, item, document) for name, part in where.items()}
        return found if any(value is not None for value in found.values()) else None
    value = _find(where, item)
    return _find(where, document) if value is None else value


def _pointers(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[str]:
    """Yield the pointers of what is in a document, without its values, which may be personal data."""
    parts = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    if not parts or len(path) == 4:
        yield json_pointer(path)
        return
    for name, part in parts:
        yield from _pointers(part, (*path, name))


def _time(number: float) -> str | float:
    """Return a time in seconds, milliseconds, microseconds or nanoseconds as text.

    >>> _time(1795514400), _time(1795514400000)
    ('2026-11-24T10:00:00Z', '2026-11-24T10:00:00Z')
    """
    seconds = number
    while seconds > 1e11:
        seconds /= 1000
    return rfc3339(seconds) or number


class Item(NamedTuple):
    """A message with its events, or with why it has none."""

    message: Message
    events: list[bytes]
    refusal: str | None = None


def requests(encode: Encode, messages: Iterable[Message], batch_size: int) -> list[list[Item]]:
    """Split messages of a topic into those of one request each, of at most ``batch_size`` events.

    >>> messages = [Message("t", 0, offset, None, b"[{}, {}]", ()) for offset in range(3)]
    >>> [len(part) for part in requests(_objects, messages, 5)]
    [2, 1]
    """
    parts: list[list[Item]] = []
    size = count = 0
    for message in messages:
        try:
            item = Item(message, encode(message) if message.value is not None else [])
        except (EventError, OverflowError, RecursionError) as error:  # the last two of what no format can hold
            item = Item(message, [], getattr(error, "detail", str(error)))
        length = sum(map(len, item.events))
        if not parts or size + length > MAX_BYTES or count + len(item.events) > batch_size:
            parts.append([])
            size = count = 0
        parts[-1].append(item)
        size += length
        count += len(item.events)
    return parts


Refusals = dict[Message, str]
"""Messages that cannot be used, and why."""


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
    moderation
        Logs.
    failures
        Why messages of a topic are sent again, by topic.
    """

    def __init__(self, topics: list[str]) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"namespace": "model_consumer", "registry": self.registry}
        text = "Messages by result: accepted by the exporter; refused, and in the dead-letter topic or dropped; empty."
        self._messages = Counter("messages", text, ("topic", "result"), **own)
        self._retries = Counter("request_retries", "Requests to the exporter that were tried again.", **own)
        self._commit_failures = Counter("commit_failures", "Commits that failed; the next one repeats them.", **own)
        self._lag = Gauge("lag", "Messages of a partition that were not read yet.", ("topic", "partition"), **own)
        Gauge("connected", "Whether a broker is connected.", **own).set_function(lambda: self._is_connected)
        self._rebalances = Gauge("rebalances", "Rebalances of the group since the start of this consumer.", **own)
        text = "Unix time at which the exporter last took messages; 0 before the first."
        Gauge("last_success_timestamp_seconds", text, **own).set_function(lambda: self._taken)
        for topic in topics:
            for result in ("accepted", "dead_letter", "dropped", "empty"):
                self._messages.labels(topic, result)
        self._is_connected, self._taken, self._trouble = False, 0.0, ""
        self.moderation, self.failures = common.Moderation(log), dict[str, str]()

    def took(self, topic: str, items: Sequence[Item], refused: str, refusals: Refusals) -> None:
        """Note that the exporter took messages; count those of each result, and log refused ones now and then."""
        self._taken = time.time()
        empty = sum(item.message.value is None for item in items)
        numbers = {"accepted": len(items) - empty - len(refusals), "empty": empty, refused: len(refusals)}
        for result, number in numbers.items():
            self._messages.labels(topic, result).inc(number)
        for message, why in islice(refusals.items(), 1):
            others = f", and {len(refusals) - 1} others" if len(refusals) > 1 else ""
            self.moderation.warn("refused", "%s[%d] at offset %d%s: the exporter refused %s", *message[:3], others, why)

    def failed(self, topic: str, reason: object) -> None:
        """Note, count, and log now and then, why messages of a topic are sent again."""
        self._retries.inc()
        self.failures[topic] = f"{topic}: {reason}: the messages are sent again"
        self.moderation.warn(f"failed {topic}", "%s", self.failures[topic])

    def on_statistics(self, text: str) -> None:
        """Read the lag of each partition, and the state of the connections, from librdkafka's statistics.

        The lag is the distance from the next message to the end that the consumer may read, which is before open
        transactions; it is absent while the partition's leader is away. Once the queue of all partitions is empty, the
        next message is the next to fetch, which is behind the marks of transactions.
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
                    fetched = -1 if partition["fetchq_cnt"] else partition["next_offset"]
                    position = max(0, fetched, *map(partition.get, ("app_offset", "committed_offset", "lo_offset")))
                    self._lag.labels(topic["topic"], number).set(max(end - position, 0))

    def on_commit(self, error: KafkaError | None, _: object) -> None:
        """Count and log a commit that failed; after another one, a broker is connected."""
        self._is_connected |= error is None
        if error is not None:
            self._commit_failures.inc()
            self.moderation.warn("commit", "offsets are not committed yet: %s", error.str())

    def on_kafka_error(self, error: KafkaError) -> None:
        """Log an error of librdkafka now and then: while no broker answers, it reports 20 of them a second."""
        self._trouble = f"; the last error of Kafka, at {rfc3339(time.time())}: {error.str()}"
        self.moderation.warn(error.name(), "Kafka: %s", error.str())

    def limit(self, record: logging.LogRecord) -> bool:
        """Return whether to log a line of librdkafka: one of each kind, which it begins with, now and then."""
        return self.moderation.is_due(f"librdkafka {record.getMessage().partition(' ')[0]}")

    def readiness(self) -> tuple[bool, str]:
        """Return whether messages flow, and a sentence about it."""
        why = "; ".join(self.failures.values()) or ("" if self._is_connected else "no broker is connected")
        last = f"it last took messages at {rfc3339(self._taken)}" if self._taken else "it took no messages yet"
        return not why, f"{why or 'ready'}; {last}{self._trouble}"


WAIT_SECONDS = 0.2
"""Time in which a request fills up with messages."""
PAUSE_SECONDS = 0.5
"""Time, at least, before messages are sent again that the exporter, or the dead-letter topic, did not take."""
CLOSE_SECONDS = 4.0
"""Time in which the brokers get to take the last offsets."""
FLUSH_SECONDS = 1.0
"""Time in which the brokers must have the dead letters, before the other topics go on."""
MAX_DETAIL = 1000
"""Bytes of a dead letter's reason, at most."""


class DeadLetters:
    """Writes refused messages to a topic, unchanged, with the reason and their origin in headers.

    Of a message that is larger than the topic takes, only these headers are written.

    Parameters
    ----------
    create
        Returns an idempotent producer; a fatal error, such as a missing right, ends it.
    topic
        The dead-letter topic.
    """

    def __init__(self, create: Callable[[], Producer], topic: str) -> None:
        self._create, self._producer, self._topic = create, create(), topic
        self._failure: KafkaError | None = None
        # By topic, whether the brokers have a message; the producer repeats the others.
        self._written: defaultdict[str, dict[Message, bool]] = defaultdict(dict)

    def write(self, topic: str, refusals: Refusals) -> None:
        """Write messages of a topic, and wait until the brokers have them; one on its way is not written again.

        Raises
        ------
        RequestError
            When the brokers do not have them in time.
        """
        self._failure, where = None, f"the dead-letter topic {self._topic}"
        for message, detail in refusals.items():
            if message not in self._written[topic]:
                self._produce(message, detail)
        try:
            self._producer.flush(FLUSH_SECONDS)
        except KafkaException as error:
            self._failure = error.args[0]
        if self._failure is not None:
            if self._failure.fatal() or self._failure.code() == KafkaError._FATAL:
                self._producer, self._written = self._create(), defaultdict(dict)
            right = ": the consumer needs the right to write to it" if "AUTHORIZATION" in self._failure.name() else ""
            raise RequestError(where, f"{self._failure.str()}{right}")
        if not all(self._written[topic].values()):
            raise RequestError(where, "no broker takes messages, or too few do")
        del self._written[topic]

    def _produce(self, message: Message, detail: str, only_origin: bool = False) -> None:
        origin = {
            "model-exporter-error": detail.encode()[:MAX_DETAIL],
            "model-exporter-topic": message.topic.encode(),
            "model-exporter-partition": str(message.partition).encode(),
            "model-exporter-offset": str(message.offset).encode(),
        }
        value, key, given = (None, None, ()) if only_origin else (message.value, message.key, message.headers)
        headers: list[tuple[str, str | bytes | None]] = [*given, *origin.items()]

        def on_delivery(error: KafkaError | None, _: object = None) -> None:
            if error is None:
                self._written[message.topic][message] = True
            elif error.code() == KafkaError.MSG_SIZE_TOO_LARGE and not only_origin:
                self._produce(message, f"too large for this topic, only its origin is kept: {detail}", only_origin=True)
            else:
                self._written[message.topic].pop(message, None)
                self._failure = error

        self._written[message.topic][message] = False
        try:
            self._producer.produce(self._topic, value, key, headers=headers, on_delivery=on_delivery)
            self._producer.poll(0)
        except KafkaException as error:
            on_delivery(error.args[0])
        except BufferError:
            on_delivery(KafkaError(KafkaError._QUEUE_FULL))


@dataclass(frozen=True)
class Relay:
    """Takes messages from topics to the exporter.

    Parameters
    ----------
    consumer
        A member of the consumer group, which commits the offsets that are stored.
    kinds
        What the messages of each topic hold.
    client, group
        Of the exporter; the consumer group, which is part of the requests' idempotency keys.
    dead_letters
        Takes the messages that the exporter refuses; None to log and drop them.
    metrics
        Counts.
    batch_size
        Messages that are read at a time, and events of a request, at most.
    waiting
        Requests that the exporter has not taken yet, by topic.
    due
        Topics that are paused, and when their requests are sent again, on the monotonic clock.
    """

    consumer: Consumer
    kinds: Mapping[str, Kind]
    client: Client
    group: str
    dead_letters: DeadLetters | None
    metrics: ConsumerMetrics
    batch_size: int
    waiting: defaultdict[str, list[list[Item]]] = field(default_factory=lambda: defaultdict(list))
    due: dict[str, float] = field(default_factory=dict)

    def run(self, stopping: threading.Event) -> None:
        """Take messages until the event is set.

        Raises
        ------
        ExporterError
            When the exporter refuses requests, another consumer has this one's ``group.instance.id``, or librdkafka has
            another fatal error.
        """
        self.consumer.subscribe(list(self.kinds), on_revoke=self._on_revoke)
        while not stopping.is_set():
            by_topic: defaultdict[str, list[Message]] = defaultdict(list)
            for message in self.consumer.consume(self.batch_size, WAIT_SECONDS):
                if error := message.error():
                    self._on_error(error)
                else:
                    by_topic[message.topic() or ""].append(_convert(message))
            for topic, messages in by_topic.items():
                self.waiting[topic] += requests(self.kinds[topic].encode, messages, self.batch_size)
                if topic in self.due:  # these partitions are new; their lag is known from their first messages on
                    self.consumer.pause([TopicPartition(*one) for one in {message[:2] for message in messages}])
            for topic in [topic for topic in self.waiting if self.due.get(topic, 0) < time.monotonic()]:
                if not self._deliver(topic, stopping):
                    break  # callbacks are served before another topic may fail

    def _assigned(self, topic: str) -> list[TopicPartition]:
        return [partition for partition in self.consumer.assignment() if partition.topic == topic]

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """Drop the messages of partitions that another consumer reads now; librdkafka would keep them paused."""
        lost = {(partition.topic, partition.partition) for partition in partitions}
        for waiting in self.waiting.values():
            waiting[:] = filter(None, ([item for item in items if item.message[:2] not in lost] for items in waiting))
        self.consumer.resume(partitions)

    def close(self) -> bool:
        """Commit what is stored and leave the group; return whether the brokers answered in time."""
        thread = threading.Thread(target=self.consumer.close, name="close", daemon=True)
        thread.start()
        thread.join(CLOSE_SECONDS)
        return not thread.is_alive()

    def _deliver(self, topic: str, stopping: threading.Event) -> bool:
        """Send the requests of a topic that are due; return whether the exporter took them.

        A topic that it did not take is paused: its messages stay in Kafka, the other topics flow for half of the time
        at least, and callbacks are served.
        """
        start, waiting = time.monotonic(), self.waiting[topic]
        while waiting and not stopping.is_set():
            items = waiting[0]
            events = [(item.message, event) for item in items for event in item.events]
            refusals = {item.message: item.refusal for item in items if item.refusal is not None}
            try:
                self._post(topic, events, refusals)
                if self.dead_letters and refusals:
                    self.dead_letters.write(topic, refusals)
            except RequestError as error:
                self.metrics.failed(topic, error)
                if topic not in self.due:
                    self.consumer.pause(self._assigned(topic))
                self.due[topic] = time.monotonic() + max(time.monotonic() - start, PAUSE_SECONDS)
                self.waiting[topic] = self.waiting.pop(topic)  # the others come first
                return False
            del waiting[0]
            self.metrics.took(topic, items, "dead_letter" if self.dead_letters else "dropped", refusals)
            self._store_offsets(items)
        self.metrics.failures.pop(topic, None)
        if self.due.pop(topic, None):
            self.consumer.resume(self._assigned(topic))
        return True

    def _post(self, topic: str, events: Sequence[tuple[Message, bytes]], refusals: Refusals) -> None:
        """Post events that fit into one request; add the messages of those that cannot be used to ``refusals``.

        The same messages have the same idempotency key, so that they can be posted again until they are taken.

        Raises
        ------
        RequestError
            When the exporter does not take them, or not in time: some of the messages may have been taken.
        BatchError
            When it refuses all messages, for a reason that is not in them.
        """
        if not events:
            return
        body = b"[%b]" % b",".join([event for _, event in events])
        positions = [message[:3] for message, _ in events]  # the same messages of the same partitions count once
        digest = hashlib.sha256(body + f"{self.group} {positions}".encode())
        kind, on_retry = self.kinds[topic], functools.partial(self.metrics.failed, topic)
        headers = {"Content-Type": kind.content_type, "Idempotency-Key": f"kafka-{digest.hexdigest()}"}
        seconds = 0 if topic in self.due else GIVE_UP_SECONDS
        response = self.client.repeat(seconds, on_retry, "POST", kind.route, body, headers=headers)
        if response.status in TRANSIENT:
            raise RequestError(self.client.url, response.error_message())
        is_taken = response.status in {200, 201, 202}
        if not is_taken and response.status not in {400, 413, 415, 422}:
            raise BatchError(f"{self.client.url}: {response.error_message()}: the messages are not committed")
        details, end = self._details(response, is_taken, len(events))
        if is_taken or details:
            for index, detail in details.items():
                refusals.setdefault(events[index][0], detail)
            self._post(topic, events[end:], refusals)
        elif len(events) == 1:
            refusals[events[0][0]] = response.error_message()
        else:  # some may be good: the response need not tell which
            middle = len(events) // 2
            self._post(topic, events[:middle], refusals)
            self._post(topic, events[middle:], refusals)

    def _details(self, response: Response, is_taken: bool, number: int) -> tuple[dict[int, str], int]:
        """Return what is wrong with events by index, and the index up to which a response says it; log its warnings."""
        details, count = dict[int, str](), 0
        try:
            document: Any = json.loads(response.body or b"{}")
            for warning in document.get("warnings", ()):
                detail = ": ".join(filter(None, (warning.get("pointer"), warning["detail"])))
                self.metrics.moderation.warn("warning", "the exporter warns: %s", detail)
            for index, pointer, detail in common.refused_events(document):
                if detail.startswith(wire.NOT_CHECKED):
                    return details, index
                details.setdefault(index, ": ".join(filter(None, (pointer, detail))))
                count += 1
        except (ValueError, TypeError, KeyError, AttributeError):
            if is_taken:
                raise BatchError(f"--exporter: the response ({response.status}) is not an exporter's") from None
        return details, number if is_taken or count < wire.MAX_REJECTED else max(details) + 1

    def _store_offsets(self, items: Iterable[Item]) -> None:
        ends = {item.message[:2]: item.message.offset + 1 for item in items}
        try:
            self.consumer.store_offsets(offsets=[TopicPartition(*key, offset) for key, offset in ends.items()])
        except KafkaException as error:  # the partitions have another consumer now, which reads these messages again
            log.debug("offsets of %s are not stored: %s", [*ends], error.args[0].str())

    def _on_error(self, error: KafkaError) -> None:
        """Log an error, such as a topic that does not exist; raise one after which there would be no messages."""
        is_fenced = error.code() in {KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED}
        if is_fenced or error.fatal() or error.code() == KafkaError._FATAL:
            same = "another consumer has the same group.instance.id: give each one its own"
            raise ExporterError(same if is_fenced or "group.instance.id" in error.str() else f"Kafka: {error.str()}")
        self.metrics.on_kafka_error(error)


def _convert(message: Any) -> Message:
    has_time, milliseconds = message.timestamp()
    content = message.key(), message.value(), tuple(message.headers() or ()), milliseconds / 1000 if has_time else None
    return Message(message.topic(), message.partition(), message.offset(), *content)


_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_DEFAULTS = {
    "auto.offset.reset": "earliest",
    "auto.commit.interval.ms": 200,
    "topic.metadata.refresh.interval.ms": 10_000,  # in which a new topic is found
}
_OWN = {
    "enable.auto.commit": True,
    "enable.auto.offset.store": False,
    "enable.partition.eof": False,
    "statistics.interval.ms": 5000,
}
"""Settings of the consumer on which it depends that no message is lost, and its metrics."""

_CONSUMERS = ("group.", "auto.", "session.", "heartbeat.", "partition.", "isolation.", "max.poll")
"""How properties begin that a producer does not have."""

_LIBRARY_LOG = logging.getLogger("exporter.commands.consume.librdkafka")


def consume_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    text = f"topic, kind of messages ({', '.join(KINDS)}; default: predictions), file that maps fields; repeatable"
    add("--topic", action="append", required=True, type=_topic, metavar="NAME[=KIND[:FILE]]", help=text)
    add("--bootstrap-servers", metavar="HOST:PORT,…", help="brokers of the cluster")
    add("--group", default="model-exporter", metavar="NAME", help="consumer group")
    text = "properties of librdkafka, one key=value a line: security, timeouts, group.instance.id"
    add("--kafka.config.file", metavar="FILE", help=text)
    text = "topic for messages that the exporter refuses; without one, they are logged and dropped"
    add("--dead-letter-topic", type=_topic_name, metavar="NAME", help=text)
    text = "maximum number of events in a request to the exporter"
    number = common.whole_number(1, wire.MAX_REJECTED)
    add("--batch-size", type=number, default=wire.MAX_REJECTED, metavar="N", help=text)
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
        common.stopping(signal.SIGINT, signal.SIGTERM) as stop,
        common.exporter_client(options, TIMEOUT_SECONDS, retries=NO_RETRY) as client,
    ):
        callbacks = {"on_commit": metrics.on_commit, "stats_cb": metrics.on_statistics}
        consumer = _create(Consumer, options, _DEFAULTS | settings | _OWN | callbacks)
        dead_letters = None
        if options.dead_letter_topic:
            shared = {key: value for key, value in settings.items() if not key.startswith(_CONSUMERS)}
            create = functools.partial(_create, Producer, options, shared | {"enable.idempotence": True})
            dead_letters = DeadLetters(create, options.dead_letter_topic)
        relay = Relay(consumer, kinds, client, options.group, dead_letters, metrics, options.batch_size)
        server = common.serve_metrics(options.web_listen_address, metrics.registry, metrics.readiness)
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
    settings: dict[str, Any] = _properties(options.kafka_config_file) if options.kafka_config_file else {}
    for key in settings.keys() & {*_OWN, "group.id"}:
        why = "set it with --group" if key == "group.id" else "it must not be set: the consumer sets it"
        raise ExporterError(f"--kafka.config.file: {options.kafka_config_file}: {key}: {why}")
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
        reason = getattr(error, "strerror", "it is not text")
        raise ExporterError(f"--kafka.config.file: {path} cannot be read: {reason}") from None
    properties = {}
    for number, line in enumerate(lines, 1):
        if (text := line.strip()) and text[0] != "#":
            key, equals, value = map(str.strip, text.partition("="))
            if not key or not equals:
                raise ExporterError(f"--kafka.config.file: {path}: line {number}: expected key=value")
            properties[key] = value
    return properties


def _create(kind: Any, options: argparse.Namespace, settings: dict[str, Any]) -> Any:
    try:
        return kind(settings, logger=_LIBRARY_LOG)
    except KafkaException as error:
        where = f"--kafka.config.file: {options.kafka_config_file}: " if options.kafka_config_file else ""
        raise ExporterError(f"{where}{error.args[0].str()}") from None


def _topic(text: str) -> tuple[str, Kind]:
    """Parse ``NAME[=KIND[:FILE]]``; a type for argparse.

    >>> _topic("loans=labels")[1].route
    '/v1/labels'
    """
    name, _, kind = text.partition("=")
    word, colon, path = kind.partition(":")
    if word and word not in KINDS:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(KINDS)} after =, got {preview(word)}")
    found = KINDS[word or "predictions"]
    if not colon:
        return _topic_name(name), found
    if found.event is None:
        raise argparse.ArgumentTypeError(f"messages of the kind {word} have a fixed structure, so there is no file")
    try:
        return _topic_name(name), found._replace(encode=Shape(Path(path), found.event))
    except ExporterError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _topic_name(text: str) -> str:
    if not _TOPIC.fullmatch(text):
        expected = "expected up to 249 letters, digits, dots, hyphens and underscores"
        raise argparse.ArgumentTypeError(f"{expected}, got {preview(text)}")
    return text
