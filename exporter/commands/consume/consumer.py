"""The consumer's loop: poll messages, post them to the exporter, then commit their offsets."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from exporter.commands.consume.dead_letters import DeadLetters
from exporter.commands.consume.kinds import Kind
from exporter.commands.consume.metrics import ConsumerMetrics
from exporter.commands.consume.sending import Message, Poster, Refusal, UnavailableError
from exporter.errors import ExporterError

WAIT_SECONDS = 0.2
"""Time in which a request fills up with messages."""

log = logging.getLogger("exporter.commands.consume")


class Relay:
    """Takes messages from topics to the exporter.

    Parameters
    ----------
    consumer
        A member of the consumer group, which commits nothing by itself.
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
        self._early: list[KafkaMessage] = []
        self._done: dict[tuple[str, int], int] = {}  # the offset after what was taken of each partition, uncommitted

    def run(self, stopping: threading.Event) -> None:
        """Take messages until the event is set.

        Raises
        ------
        ExporterError
            When the exporter refuses requests, another consumer has this one's ``group.instance.id``, or librdkafka has
            another fatal error.
        """
        self._consumer.subscribe(
            list(self._kinds), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )
        while not stopping.is_set():
            self._metrics.measure_lag(self._consumer)
            by_topic: defaultdict[str, list[Message]] = defaultdict(list)
            for message in self._early + self._consumer.consume(self._batch_size, WAIT_SECONDS):
                if error := message.error():
                    self._on_error(error)
                else:
                    converted = _convert(message)
                    by_topic[converted.topic].append(converted)
            self._early = []
            for topic, messages in by_topic.items():
                if not stopping.is_set():
                    self._relay(topic, messages)
                    self._settle(stopping)

    def _relay(self, topic: str, messages: Sequence[Message]) -> None:
        """Take messages of a topic to the exporter; consume them again later where that fails."""
        present = [message for message in messages if message.value is not None]
        try:
            refusals = self._poster.post(self._kinds[topic], present)
            self._dispose(refusals)
        except UnavailableError as error:
            log.error("%s: the messages are consumed again", error)
            self._rewind(messages)
            return
        self._metrics.count(topic, "accepted", len(present) - len(refusals))
        self._metrics.count(topic, "dead_letter" if self._dead_letters else "dropped", len(refusals))
        self._metrics.count(topic, "empty", len(messages) - len(present))
        for message in messages:
            self._done[topic, message.partition] = message.offset + 1

    def _settle(self, stopping: threading.Event) -> None:
        """Commit the offsets of handled messages, and wait until that succeeds, so that few messages come twice."""
        while self._done and not self._commit() and not stopping.is_set():
            self._consumer.pause(self._consumer.assignment())
            if (message := self._consumer.poll(0.1)) is not None:
                self._early.append(message)  # of a partition that was just assigned
            self._consumer.resume(self._consumer.assignment())

    def _commit(self) -> bool:
        offsets = [TopicPartition(*key, offset) for key, offset in self._done.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            self._metrics.commit_failures.inc()
            self._metrics.log_now_and_then("commit", "offsets are not committed yet: %s", error.args[0].str())
            self._raise_if_fatal(error.args[0])
            return False
        self._done = {}
        return True

    def _dispose(self, refusals: Sequence[Refusal]) -> None:
        """Write refused messages to the dead-letter topic, and log them where there is none."""
        if self._dead_letters and refusals:
            self._dead_letters.write(refusals)
        for message, detail in refusals[:1]:
            others = f", and {len(refusals) - 1} others" if len(refusals) > 1 else ""
            where = f"{message.topic}[{message.partition}] at offset {message.offset}{others}"
            self._metrics.log_now_and_then("refused", "%s: the exporter refused %s", where, detail)

    def _rewind(self, messages: Sequence[Message]) -> None:
        first = {(message.topic, message.partition): message.offset for message in reversed(messages)}
        for key, offset in first.items():
            try:
                self._consumer.seek(TopicPartition(*key, offset))
            except KafkaException as error:  # the partition has another consumer now, which begins there
                log.debug("cannot seek: %s", error.args[0].str())

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Begin after what is done, also where the brokers refused to commit it while the group was rebalanced."""
        self._metrics.rebalances.inc()
        log.info("assigned: %s", _names(partitions))
        self._done = {
            key: self._done[key] for item in partitions if (key := (item.topic, item.partition)) in self._done
        }
        for item in partitions:
            item.offset = self._done.get((item.topic, item.partition), item.offset)
        consumer.assign(partitions)

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        log.info("revoked: %s", _names(partitions))

    def _on_lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        log.warning("lost, because the brokers did not hear from this consumer: %s", _names(partitions))
        self._done = {}

    def _on_error(self, error: KafkaError) -> None:
        self._raise_if_fatal(error)
        self._metrics.on_kafka_error(error)

    def _raise_if_fatal(self, error: KafkaError) -> None:
        """Raise an error after which the consumer would get no messages any more."""
        is_fatal = error.fatal() or error.code() == KafkaError._FATAL
        fenced = error.code() in {KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED}
        if fenced or (is_fatal and "group.instance.id" in error.str()):
            raise ExporterError("another consumer has the same group.instance.id: give each one its own")
        if is_fatal:
            raise ExporterError(f"Kafka: {error.str()}")


def _convert(message: KafkaMessage) -> Message:
    headers: Any = message.headers() or ()
    key: Any = message.key()
    return Message(
        message.topic() or "", message.partition() or 0, message.offset() or 0, key, message.value(), headers
    )


def _names(partitions: Iterable[TopicPartition]) -> str:
    return ", ".join(f"{item.topic}[{item.partition}]" for item in partitions) or "none"
