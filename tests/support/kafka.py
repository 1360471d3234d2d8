"""A Kafka cluster for the tests, the brokers that librdkafka has in it, and a consumer."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition, cimpl

from support.processes import ForkedCommand
from support.servers import ask, free_port


class Cluster:
    """Brokers on free ports, which live as long as this object, or others. They create a topic with its first message.

    Parameters
    ----------
    brokers
        How many.
    servers
        Addresses of others.
    """

    def __init__(self, brokers: int = 1, servers: str | None = os.environ.get("KAFKA_SERVERS")) -> None:
        options = {"bootstrap.servers": servers} if servers else {"test.mock.num.brokers": brokers}
        self._brokers = Producer(options | {"log_level": 0})
        found = self._brokers.list_topics(timeout=60).brokers.values()
        self.servers = ",".join(f"{broker.host}:{broker.port}" for broker in found)
        self._producer = Producer({"bootstrap.servers": self.servers, "linger.ms": 5, "log_level": 0})

    def close(self) -> None:
        """Stop the brokers."""
        del self._brokers

    def produce(self, topic: str, values: Iterable[Any], **options: Any) -> None:
        """Append messages to a topic; what is neither bytes nor None is written as JSON."""
        for number, value in enumerate(values):
            encoded = value if isinstance(value, bytes | None) else json.dumps(value).encode()
            self._producer.produce(topic, encoded, key=str(number), **options)
            self._producer.poll(0)
        assert self._producer.flush(20) == 0

    def read(self, topic: str, number: int) -> list[Message]:
        """Return the first messages of a topic, once there are as many."""
        options = {"bootstrap.servers": self.servers, "group.id": f"reader-{topic}", "auto.offset.reset": "earliest"}
        consumer = Consumer(options | {"log_level": 0, "enable.auto.commit": False})
        consumer.subscribe([topic])
        messages: list[Message] = []
        deadline = time.monotonic() + 60
        while len(messages) < number:
            assert time.monotonic() < deadline, f"{len(messages)} of {number} messages"
            messages += [message for message in consumer.consume(number, 0.2) if not message.error()]
        consumer.close()
        return messages

    def committed(self, topic: str, group: str = "model-exporter") -> int:
        """Return how many messages of a topic the consumer group has committed, over all partitions."""
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": group, "log_level": 0})
        partitions = consumer.list_topics(topic, timeout=60).topics[topic].partitions
        offsets = consumer.committed([TopicPartition(topic, number) for number in partitions], timeout=60)
        consumer.close()
        return sum(max(item.offset, 0) for item in offsets)


HEARTBEAT = 12
"""A kind of request, by its number in Kafka's protocol."""


class FailingBroker:
    """A broker with a topic that answers requests of one kind with an error; it lives as long as the process."""

    def __init__(self, topic: str, kind: int, error: int) -> None:
        library = ctypes.CDLL(cimpl.__file__)  # finds the functions of librdkafka, with which it is linked
        pointer = ctypes.c_void_p
        library.rd_kafka_conf_new.restype = library.rd_kafka_new.restype = pointer
        library.rd_kafka_mock_cluster_new.restype = pointer
        library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        configuration = pointer(library.rd_kafka_conf_new())
        library.rd_kafka_conf_set(configuration, b"log_level", b"0", None, ctypes.c_size_t(0))
        client = library.rd_kafka_new(0, configuration, None, ctypes.c_size_t(0))
        cluster = pointer(library.rd_kafka_mock_cluster_new(pointer(client), 1))
        library.rd_kafka_mock_topic_create(cluster, topic.encode(), 1, 1)
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, ctypes.c_int32(0))
        errors = (ctypes.c_int * 100)(*[error] * 100)
        library.rd_kafka_mock_push_request_errors_array(cluster, ctypes.c_int16(kind), ctypes.c_size_t(100), errors)
        self.servers = library.rd_kafka_mock_cluster_bootstraps(cluster).decode()


class Consuming:
    """A consumer in its own process."""

    def __init__(self, folder: Path, cluster: Any, exporter: str, *flags: str, name: str = "consumer") -> None:
        self.web = free_port()
        self.log = folder / f"{name}.log"
        command = ["consume", f"--bootstrap-servers={cluster.servers}", f"--exporter={exporter}"]
        self.process = ForkedCommand([*command, f"--web.listen-address=127.0.0.1:{self.web}", *flags], self.log)

    def samples(self) -> dict[str, float]:
        """Values of the consumer's own metrics by series."""
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError):
            lines = ask(f"http://127.0.0.1:{self.web}/metrics").text.splitlines()
            return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] != "#")}
        return {}

    def count(self, topic: str, result: str) -> float:
        """Messages of a topic with a result."""
        return self.samples().get(f'model_consumer_messages_total{{result="{result}",topic="{topic}"}}', 0)

    def lags(self) -> list[float]:
        """The lag of each partition."""
        return [lag for name, lag in self.samples().items() if name.startswith("model_consumer_lag{")]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop the process."""
        self.process.send_signal(number)
        return self.process.wait(30)


@contextlib.contextmanager
def consuming(folder: Path, cluster: Any, exporter: str, *flags: str, name: str = "consumer") -> Iterator[Consuming]:
    """A consumer that is ended with the test."""
    consumer = Consuming(folder, cluster, exporter, *flags, name=name)
    try:
        yield consumer
    finally:
        consumer.process.kill()
        consumer.process.wait()


def properties(folder: Path, *lines: str) -> str:
    """The option with a file of properties."""
    path = folder / "kafka.properties"
    path.write_text("\n".join(lines))
    return f"--kafka.config.file={path}"


def prediction(number: int, **changed: object) -> dict[str, object]:
    """A prediction."""
    inputs = {"age": 18 + number % 70, "country": "NL"}
    return {"id": f"k-{number}", "model": "credit", "version": "kafka", "inputs": inputs, "prediction": "yes"} | changed
