"""Measure how many predictions a second ``model-exporter consume`` takes from Kafka to an exporter.

The floor is a consumer in Python that reads the same messages from the same brokers, commits each batch and does
nothing else. Brokers (librdkafka's own), consumer and exporter share the machine. Elapsed times are those from the
first to the last commit; processor time is that of the consumer and of the exporter.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import psutil
from confluent_kafka import Consumer, Producer
from offered import FEATURES
from timing import exporter, free_port, report

MESSAGES, BATCH, ROUNDS = 50_000, 1000, 3  # the brokers keep 5 MiB of a partition, and delete what is older


def cluster() -> tuple[Producer, str]:
    """Start brokers; return what keeps them alive, and their addresses."""
    brokers = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    found = brokers.list_topics(timeout=10).brokers.values()
    return brokers, ",".join(f"{broker.host}:{broker.port}" for broker in found)


def fill(servers: str, topic: str) -> None:
    """Write predictions to a topic."""
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 20, "log_level": 0})
    inputs = {f"f{number}": (number - 4.5) / 5 for number in range(FEATURES)}
    for number in range(MESSAGES):
        event = {"id": f"r-{number}", "model": "m", "version": "1", "inputs": inputs, "prediction": "7"}
        value = json.dumps(event | {"confidence": 0.9, "code": 200})
        while True:
            try:
                producer.produce(topic, value, key=str(number))
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    producer.flush(60)


def floor(servers: str, topic: str, group: str) -> tuple[float, float]:
    """Read and commit all messages; return messages a second, and processor seconds of this process a message."""
    settings = {"bootstrap.servers": servers, "group.id": group, "enable.auto.commit": False, "log_level": 0}
    consumer = Consumer(settings | {"auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    read, first, start, cpu = 0, 0, 0.0, 0.0
    while read < MESSAGES:
        if messages := consumer.consume(BATCH, 0.2):
            consumer.commit(asynchronous=False)
            read += len(messages)
            if not start:
                first, start, cpu = read, time.monotonic(), time.process_time()
    rate = (MESSAGES - first) / (time.monotonic() - start)
    spent = (time.process_time() - cpu) / (MESSAGES - first)
    consumer.close()
    return rate, spent


def relayed(servers: str, topic: str, group: str, url: str, served: psutil.Process) -> tuple[float, float, float]:
    """Consume all messages with the command; return messages a second, and the seconds of both processes a message."""
    web = free_port()
    command = [sys.executable, "-m", "exporter.cli", "consume", f"--bootstrap-servers={servers}", f"--topic={topic}"]
    command += [f"--group={group}", f"--exporter={url}", f"--web.listen-address=127.0.0.1:{web}"]
    before = sum(served.cpu_times()[:2])
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=log, stderr=log) as child:
        process = psutil.Process(child.pid)
        start, first, done, cpu = 0.0, 0.0, 0.0, 0.0
        while done < MESSAGES:
            time.sleep(0.05)
            if child.poll() is not None:
                raise SystemExit(f"the consumer ended with status {child.returncode}")
            done = _accepted(web)
            if done and not start:
                start, first, cpu = time.monotonic(), done, sum(process.cpu_times()[:2])
        elapsed = time.monotonic() - start
        spent = sum(process.cpu_times()[:2]) - cpu
        child.terminate()
    return (MESSAGES - first) / elapsed, spent / (MESSAGES - first), (sum(served.cpu_times()[:2]) - before) / MESSAGES


def _accepted(web: int) -> float:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{web}/metrics", timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith('model_consumer_messages_total{result="accepted"'):
                return float(line.rpartition(" ")[2])
    return 0.0


def main() -> None:
    """Print the figures."""
    _brokers, servers = cluster()
    fill(servers, "predictions")
    with exporter(FEATURES) as (port, child):
        served = psutil.Process(child.pid)
        rounds = []
        for number in range(ROUNDS):
            bare = floor(servers, "predictions", f"floor-{number}")
            rounds.append((*bare, *relayed(servers, "predictions", f"g-{number}", f"http://127.0.0.1:{port}", served)))
    rate, cpu, relay_rate, relay_cpu, served_cpu = map(statistics.median, zip(*rounds, strict=True))
    report("predictions a second", relay_rate, "/s", "bare consumer", rate)
    report("processor time of the consumer, a prediction", relay_cpu * 1e6, "µs", "bare consumer", cpu * 1e6)
    report("processor time of the exporter, a prediction", served_cpu * 1e6, "µs", "bare consumer", cpu * 1e6)


if __name__ == "__main__":
    main()
