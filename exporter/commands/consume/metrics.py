"""The consumer's own metrics and probes."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, cast
from wsgiref.simple_server import WSGIServer, make_server

from confluent_kafka import KafkaError
from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import ThreadingWSGIServer, _SilentHandler, make_wsgi_app

from exporter.commands.logs import Moderation

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
        self._moderation = Moderation()

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
