"""Measure how many messages a second ``model-exporter consume`` takes from Kafka to an exporter.

They are predictions, the same as a service may write them, the two events that KServe's logger sends for each, or spans
of OpenTelemetry, one in a message.
The floor is a consumer in Python that reads the same messages from the same brokers, commits each batch and does
nothing else. Brokers, consumer and exporter share the machine. The brokers are librdkafka's own, or one of the Kafka
distribution in the folder that KAFKA_HOME names. Elapsed times are those from the first to the last commit; processor
time is that of the consumer and of the exporter.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
from confluent_kafka import Consumer, Producer
from offered import FEATURES
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from timing import exporter, free_port, report

SERVERS = os.environ.get("KAFKA_SERVERS")
MESSAGES = {"predictions": 50_000, "shape": 30_000, "kserve": 20_000, "traces": 12_000}
"""Of each kind; librdkafka's brokers keep 5 MiB of a partition, others get four times as many."""
if SERVERS:
    MESSAGES = {kind: 4 * number for kind, number in MESSAGES.items()}
BATCH, ROUNDS = 1000, 3
_INPUTS = {f"f{number}": (number - 4.5) / 5 for number in range(FEATURES)}
_SHAPE = "{model: m, version: /release, id: /key, inputs: /features, prediction: /score, confidence: /p}"
_KSERVE = [("ce_inferenceservicename", b"m"), ("content-type", b"application/json")]


def cluster() -> tuple[Producer, str]:
    """Start brokers; return what keeps them alive, and their addresses."""
    settings = {"bootstrap.servers": SERVERS} if SERVERS else {"test.mock.num.brokers": 1}
    brokers = Producer(settings | {"log_level": 0})
    found = brokers.list_topics(timeout=10).brokers.values()
    return brokers, ",".join(f"{broker.host}:{broker.port}" for broker in found)


def messages(kind: str) -> Iterator[tuple[bytes, list[tuple[str, bytes]]]]:
    """Yield the values and headers of messages."""
    for number in range(MESSAGES[kind]):
        if kind == "predictions":
            event = {"id": f"r-{number}", "model": "m", "version": "1", "inputs": _INPUTS, "prediction": "7"}
            yield json.dumps(event | {"confidence": 0.9, "code": 200}).encode(), []
        elif kind == "shape":
            event = {"release": "1", "key": f"r-{number}", "features": _INPUTS, "score": "7", "p": 0.9}
            yield json.dumps(event).encode(), []
        elif kind == "kserve":
            side = "response" if number % 2 else "request"
            body = {"predictions": ["7"]} if number % 2 else {"instances": [_INPUTS]}
            type_ = f"org.kubeflow.serving.inference.{side}".encode()
            yield json.dumps(body).encode(), [("ce_id", b"%d" % (number // 2)), ("ce_type", type_), *_KSERVE]
        else:
            request = ExportTraceServiceRequest()
            span = request.resource_spans.add().scope_spans.add().spans.add()
            span.trace_id, span.span_id = number.to_bytes(16), number.to_bytes(8)
            span.start_time_unix_nano = span.end_time_unix_nano = time.time_ns()
            for name, text in {"model.name": "m", "model.version": "1", "model.prediction": "7"}.items():
                span.attributes.add(key=name).value.string_value = text
            for name, value in _INPUTS.items():
                span.attributes.add(key=f"model.input.{name}").value.double_value = value
            yield request.SerializeToString(), []


def fill(servers: str, kind: str, topic: str) -> None:
    """Write messages to a topic."""
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 20, "log_level": 0})
    for number, (value, headers) in enumerate(messages(kind)):
        while True:
            try:
                producer.produce(topic, value, key=str(number // 2), headers=headers)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    producer.flush(60)


def floor(servers: str, topic: str, number: int, group: str) -> tuple[float, float]:
    """Read and commit all messages; return messages a second, and processor seconds of this process a message."""
    settings = {"bootstrap.servers": servers, "group.id": group, "enable.auto.commit": False, "log_level": 0}
    consumer = Consumer(settings | {"auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    read, first, start, cpu = 0, 0, 0.0, 0.0
    while read < number:
        if messages := consumer.consume(BATCH, 0.2):
            consumer.commit(asynchronous=False)
            read += len(messages)
            if not start:
                first, start, cpu = read, time.monotonic(), time.process_time()
    rate = (number - first) / (time.monotonic() - start)
    spent = (time.process_time() - cpu) / (number - first)
    consumer.close()
    return rate, spent


def relayed(
    servers: str, topic: str, kind: str, group: str, url: str, served: psutil.Process
) -> tuple[float, float, float]:
    """Consume all messages with the command; return messages a second, and the seconds of both processes a message."""
    web = free_port()
    shape = Path(tempfile.gettempdir(), "bench_consume.yml")
    shape.write_text(_SHAPE)
    flag = f"predictions:{shape}" if kind == "shape" else kind
    command = [sys.executable, "-m", "exporter.cli", "consume", f"--bootstrap-servers={servers}"]
    command += [
        f"--topic={topic}={flag}",
        f"--group={group}",
        f"--exporter={url}",
        f"--web.listen-address=127.0.0.1:{web}",
    ]
    before = sum(served.cpu_times()[:2])
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=log, stderr=log) as child:
        process = psutil.Process(child.pid)
        start, first, done, cpu = 0.0, 0.0, 0.0, 0.0
        while done < MESSAGES[kind]:
            time.sleep(0.05)
            if child.poll() is not None:
                raise SystemExit(f"the consumer ended with status {child.returncode}")
            done = _accepted(web)
            if done and not start:
                start, first, cpu = time.monotonic(), done, sum(process.cpu_times()[:2])
        elapsed = time.monotonic() - start
        spent = sum(process.cpu_times()[:2]) - cpu
        child.terminate()
    number = MESSAGES[kind] - first
    return number / elapsed, spent / number, (sum(served.cpu_times()[:2]) - before) / MESSAGES[kind]


def _accepted(web: int) -> float:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{web}/metrics", timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith('model_consumer_messages_total{result="accepted"'):
                return float(line.rpartition(" ")[2])
    return 0.0


def main() -> None:
    """Print the figures."""
    _brokers, servers = cluster()
    with exporter(FEATURES) as (port, child):
        served = psutil.Process(child.pid)
        for kind in sys.argv[1:] or MESSAGES:
            topic = f"{kind}-{time.time_ns()}"
            fill(servers, kind, topic)
            rounds = []
            for number in range(ROUNDS):
                bare = floor(servers, topic, MESSAGES[kind], f"floor-{topic}-{number}")
                url = f"http://127.0.0.1:{port}"
                rounds.append((*bare, *relayed(servers, topic, kind, f"{topic}-{number}", url, served)))
            rate, cpu, relay_rate, relay_cpu, served_cpu = map(statistics.median, zip(*rounds, strict=True))
            report(f"{kind}: messages a second", relay_rate, "/s", "bare consumer", rate)
            report(f"{kind}: processor time of the consumer", relay_cpu * 1e6, "µs", "bare consumer", cpu * 1e6)
            report(f"{kind}: processor time of the exporter", served_cpu * 1e6, "µs", "bare consumer", cpu * 1e6)


if __name__ == "__main__":
    main()
