"""The dead-letter topic: messages that the exporter refused, with the reason."""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import KafkaException, Producer

from exporter.commands.consume.sending import Refusal, UnavailableError

MAX_DETAIL = 1000
"""Bytes of the reason, at most."""
FLUSH_SECONDS = 30.0
"""Time in which the brokers must have the messages."""


class DeadLetters:
    """Writes refused messages to a topic, unchanged, with the reason and their origin in headers.

    Parameters
    ----------
    producer
        Of the cluster.
    topic
        The dead-letter topic.
    """

    def __init__(self, producer: Producer, topic: str) -> None:
        self._producer = producer
        self._topic = topic
        self._failure: str | None = None

    def write(self, refusals: Sequence[Refusal]) -> None:
        """Write messages, and wait until the brokers have them.

        Raises
        ------
        UnavailableError
            When they do not have them in time.
        """
        self._failure = None
        try:
            for message, detail in refusals:
                origin = {
                    "model-exporter-error": detail.encode()[:MAX_DETAIL],
                    "model-exporter-topic": message.topic.encode(),
                    "model-exporter-partition": str(message.partition).encode(),
                    "model-exporter-offset": str(message.offset).encode(),
                }
                headers: list[tuple[str, str | bytes | None]] = [*message.headers, *origin.items()]
                self._producer.produce(
                    self._topic, message.value, message.key, headers=headers, on_delivery=self._on_delivery
                )
                self._producer.poll(0)
            left = self._producer.flush(FLUSH_SECONDS)
        except (KafkaException, BufferError) as error:
            raise UnavailableError(f"{self._topic}: {error}") from None
        if left or self._failure:
            raise UnavailableError(f"{self._topic}: {self._failure or 'the brokers do not answer'}")

    def _on_delivery(self, error: object, _: object) -> None:
        if error is not None:
            self._failure = str(error)
