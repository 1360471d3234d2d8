"""The consumer's own metrics."""

from __future__ import annotations

import logging
import time

from confluent_kafka import Consumer, KafkaError, KafkaException
from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, PlatformCollector, ProcessCollector

RESULTS = ("accepted", "dead_letter", "dropped", "empty")
LAG_SECONDS = 10.0
"""Time between two looks at the lag."""
PATIENCE_SECONDS = 1.0
"""Time in which the brokers say what is committed."""
_QUIET_SECONDS = 10.0

log = logging.getLogger("exporter.commands.consume")


class ConsumerMetrics:
    """The counters of a consumer.

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
        self.commit_failures = self._counter("commit_failures", "Commits that failed: their messages come again.")
        self.rebalances = self._counter("rebalances", "Assignments of partitions to this consumer.")
        text = "Messages of a partition that are not committed yet."
        self._lag = Gauge("model_consumer_lag", text, ("topic", "partition"), registry=self.registry)
        self._lag_due = 0.0
        for topic in topics:
            for result in RESULTS:
                self._messages.labels(topic, result)
        self._logged: dict[str, float] = {}

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"model_consumer_{name}", text, labels, registry=self.registry)

    def count(self, topic: str, result: str, number: int) -> None:
        """Count messages."""
        if number:
            self._messages.labels(topic, result).inc(number)

    def measure_lag(self, consumer: Consumer) -> None:
        """Measure the lag of the consumer's partitions, unless that was done a moment ago."""
        now = time.monotonic()
        if now < self._lag_due:
            return
        self._lag_due = now + LAG_SECONDS
        lags = {}
        try:
            for item in consumer.committed(consumer.assignment(), timeout=PATIENCE_SECONDS):
                ends = consumer.get_watermark_offsets(item, cached=True)  # of the last fetch
                if ends is not None and ends[1] >= 0:
                    lags[item.topic, str(item.partition)] = ends[1] - max(item.offset, ends[0])
        except KafkaException as error:
            log.debug("the lag is not known: %s", error)
            return
        self._lag.clear()
        for labels, lag in lags.items():
            self._lag.labels(*labels).set(lag)

    def on_retry(self, reason: str) -> None:
        """Count and log a request that is tried again."""
        self.retries.inc()
        self.log_now_and_then("retry", "%s: trying again%s", reason, "")

    def log_now_and_then(self, key: str, text: str, *values: object) -> None:
        """Log a warning, unless one of the same key was logged a moment ago."""
        if self._is_due(key):
            log.warning(text, *values)

    def on_kafka_error(self, error: KafkaError) -> None:
        """Log an error of librdkafka now and then: while no broker answers, it reports 20 of them a second."""
        self.log_now_and_then(error.name(), "%s: %s", "Kafka", error.str())

    def limit(self, record: logging.LogRecord) -> bool:
        """Return whether to log a line of librdkafka: one of each kind, which it begins with, now and then."""
        return self._is_due(f"librdkafka {record.getMessage().partition(' ')[0]}")

    def _is_due(self, key: str) -> bool:
        now = time.monotonic()
        if now - self._logged.get(key, -_QUIET_SECONDS) < _QUIET_SECONDS:
            return False
        self._logged[key] = now
        return True
