"""Write messages that the exporter refused to the dead-letter topic, with the reason."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException, Producer

from exporter.commands.consume.sending import Refusal, UnavailableError

MAX_DETAIL = 1000
"""Bytes of the reason, at most."""
FLUSH_SECONDS = 30.0
"""Time in which the brokers must have the messages."""


class DeadLetters:
    """Writes refused messages to a topic, unchanged, with the reason and their origin in headers.

    Of a message that is larger than the topic takes, only these headers are written.

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
        self._too_large: list[Refusal] = []

    def write(self, refusals: Sequence[Refusal]) -> None:
        """Write messages, and wait until the brokers have them.

        Raises
        ------
        UnavailableError
            When they do not have them in time.
        """
        self._failure, self._too_large = None, []
        for refusal in refusals:
            message = refusal.message
            self._produce(refusal, message.value, message.key, message.headers)
        self._flush()
        too_large, self._too_large = self._too_large, []
        for message, detail in too_large:
            self._produce(Refusal(message, f"too large for this topic, only its origin is kept: {detail}"))
        self._flush()
        if self._too_large:
            raise UnavailableError(f"{self._topic}: the topic does not accept messages of {MAX_DETAIL} bytes")

    def _produce(
        self,
        refusal: Refusal,
        value: bytes | None = None,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
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
        try:
            self._producer.produce(self._topic, value, key, headers=all_headers, on_delivery=on_delivery)
            self._producer.poll(0)
        except KafkaException as error:
            self._on_delivery(refusal, error.args[0], None)
        except BufferError as error:
            self._failure = str(error)

    def _flush(self) -> None:
        left = self._producer.flush(FLUSH_SECONDS)
        if left or self._failure:
            raise UnavailableError(f"{self._topic}: {self._failure or 'the brokers do not answer'}")

    def _on_delivery(self, refusal: Refusal, error: KafkaError | None, _: object) -> None:
        if error is None:
            return
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            self._too_large.append(refusal)
        else:
            self._failure = str(error)
