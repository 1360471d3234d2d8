"""The command ``model-exporter consume``: send the messages of Kafka topics to an exporter."""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIServer

from confluent_kafka import Consumer, KafkaException, Producer

from exporter.commands import logs
from exporter.commands.common import (
    DEFAULT_URL,
    Address,
    add_credentials,
    add_log_options,
    address,
    exporter_client,
    stopping,
    whole_number,
)
from exporter.commands.consume.metrics import STATISTICS_SECONDS, ConsumerMetrics
from exporter.commands.consume.relay import DeadLetters, Relay
from exporter.commands.consume.sending import KINDS, TIMEOUT_SECONDS, Poster
from exporter.errors import ExporterError, UsageError
from exporter.http_client.client import NO_RETRY
from exporter.validation import preview
from exporter.wire.events import MAX_REJECTED

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

log = logging.getLogger("exporter.commands.consume")
_LIBRARY_LOG = logging.getLogger("exporter.commands.consume.librdkafka")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    text = f"topic, and what its messages hold: {', '.join(KINDS)}; repeatable; without KIND, predictions"
    add("--topic", action="append", required=True, type=_topic, metavar="NAME[=KIND]", help=text)
    add("--bootstrap-servers", metavar="HOST:PORT,…", help="brokers of the cluster")
    add("--group", default="model-exporter", metavar="NAME", help="consumer group (%(default)s)")
    text = "properties of librdkafka, one key=value a line: security, timeouts, group.instance.id"
    add("--kafka.config.file", type=Path, metavar="FILE", help=text)
    text = "topic for messages that the exporter refuses; without one, they are logged and dropped"
    add("--dead-letter-topic", type=_topic_name, metavar="NAME", help=text)
    text = "maximum number of messages in a request to the exporter (%(default)s)"
    add("--batch-size", type=whole_number(1, MAX_REJECTED), default=MAX_REJECTED, metavar="N", help=text)
    add("--exporter", default=DEFAULT_URL, metavar="URL", help="URL of the exporter (%(default)s)")
    add_credentials(parser, "MODEL_EXPORTER")
    text = "address of the consumer's own metrics (%(default)s)"
    add("--web.listen-address", type=address, default="127.0.0.1:9882", metavar="HOST:PORT", help=text)
    add_log_options(parser)


def run(options: argparse.Namespace) -> int:
    """Take messages to the exporter until a signal says to stop."""
    logs.configure(options.log_level, options.log_format)
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
        exporter_client(options, TIMEOUT_SECONDS, retries=NO_RETRY) as client,
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


def _listen(where: Address, metrics: ConsumerMetrics) -> WSGIServer:
    try:
        server = metrics.serve(where.host or "0.0.0.0", where.port)  # noqa: S104
    except OSError as error:
        raise ExporterError(f"cannot listen on {where}: {error.strerror or error}") from None
    log.info("metrics on http://%s/metrics", Address(where.host, server.server_port))
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
