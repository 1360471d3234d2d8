"""The consumer's loop: poll messages, post them to the exporter, and store the offsets of those that it took.

librdkafka commits the stored offsets: every 0.2 s, when partitions are revoked, and at the end.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import Message as KafkaMessage

from exporter.commands.consume.metrics import ConsumerMetrics
from exporter.commands.consume.sending import Kind, Message, Poster, Refusal, UnavailableError, requests
from exporter.errors import ExporterError

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

log = logging.getLogger("exporter.commands.consume")


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

    def __init__(
        self,
        consumer: Consumer,
        kinds: Mapping[str, Kind],
        poster: Poster,
        *,
        dead_letters: DeadLetters | None,
        metrics: ConsumerMetrics,
        batch_size: int,
    ) -> None:
        self._consumer = consumer
        self._kinds = kinds
        self._poster = poster
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._batch_size = batch_size

    def run(self, stopping: threading.Event) -> None:
        """Take messages until the event is set.

        Raises
        ------
        ExporterError
            When the exporter refuses requests, another consumer has this one's ``group.instance.id``, or librdkafka has
            another fatal error.
        """
        self._consumer.subscribe(list(self._kinds))
        while not stopping.is_set():
            by_topic: defaultdict[str, list[Message]] = defaultdict(list)
            for message in self._consumer.consume(self._batch_size, WAIT_SECONDS):
                if error := message.error():
                    self._on_error(error)
                else:
                    converted = _convert(message)
                    by_topic[converted.topic].append(converted)
            for topic, messages in by_topic.items():
                for request in requests(self._kinds[topic], messages):
                    self._deliver(topic, request, stopping)

    def close(self) -> bool:
        """Commit what is stored and leave the group; return whether the brokers answered in time."""
        thread = threading.Thread(target=self._consumer.close, name="close", daemon=True)
        thread.start()
        thread.join(CLOSE_SECONDS)
        return not thread.is_alive()

    def _deliver(self, topic: str, messages: Sequence[Message], stopping: threading.Event) -> None:
        """Send the messages of one request until the exporter has taken them, or the consumer is to stop."""
        while not stopping.is_set():
            try:
                refusals = self._poster.post(self._kinds[topic], messages)
                self._dispose(refusals)
            except UnavailableError as error:
                self._metrics.failed(f"{error}: the messages are sent again")
                self._consumer.consume(0, 0)  # else the group would take the partitions away after max.poll.interval.ms
                stopping.wait(PAUSE_SECONDS)
                continue
            empty = sum(message.value is None for message in messages)
            self._metrics.count(topic, "accepted", len(messages) - empty - len(refusals))
            self._metrics.count(topic, "dead_letter" if self._dead_letters else "dropped", len(refusals))
            self._metrics.count(topic, "empty", empty)
            self._metrics.succeeded()
            self._store_offsets(messages)
            return

    def _store_offsets(self, messages: Sequence[Message]) -> None:
        ends = {(message.topic, message.partition): message.offset + 1 for message in messages}
        for key, offset in ends.items():
            try:
                self._consumer.store_offsets(offsets=[TopicPartition(*key, offset)])
            except KafkaException as error:  # the partition has another consumer now, which reads these messages again
                log.debug("%s[%d]: %s", *key, error.args[0].str())

    def _dispose(self, refusals: Sequence[Refusal]) -> None:
        """Write refused messages to the dead-letter topic, and log them now and then."""
        if self._dead_letters and refusals:
            self._dead_letters.write(refusals)
        for message, detail in refusals[:1]:
            others = f", and {len(refusals) - 1} others" if len(refusals) > 1 else ""
            where = f"{message.topic}[{message.partition}] at offset {message.offset}{others}"
            self._metrics.log_now_and_then("refused", "%s: the exporter refused %s", where, detail)

    def _on_error(self, error: KafkaError) -> None:
        """Log an error, such as a topic that does not exist; raise one after which there would be no messages."""
        is_fatal = error.fatal() or error.code() == KafkaError._FATAL
        fenced = error.code() in {KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED}
        if fenced or (is_fatal and "group.instance.id" in error.str()):
            raise ExporterError("another consumer has the same group.instance.id: give each one its own")
        if is_fatal:
            raise ExporterError(f"Kafka: {error.str()}")
        self._metrics.on_kafka_error(error)


def _convert(message: KafkaMessage) -> Message:
    headers: Any = message.headers() or ()
    key: Any = message.key()
    return Message(
        message.topic() or "", message.partition() or 0, message.offset() or 0, key, message.value(), tuple(headers)
    )
