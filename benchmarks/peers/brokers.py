"""Brokers of a Kafka distribution, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from support.kafka import Cluster
from support.servers import eventually, free_port

HOME = Path(os.environ.get("KAFKA_HOME") or "/nonexistent")
"""The folder of the distribution."""

CONFIGURATION = """
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listeners=PLAINTEXT://127.0.0.1:{plain},USERS://127.0.0.1:{users},CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,USERS:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
listener.name.users.sasl.enabled.mechanisms=PLAIN
listener.name.users.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
 user_reader="secret";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
log.dirs={folder}/data
num.partitions=4
default.replication.factor={number}
offsets.topic.num.partitions=1
offsets.topic.replication.factor={number}
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor={number}
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.consumer.min.session.timeout.ms=6000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=1000
group.consumer.heartbeat.interval.ms=1000
"""
"""Clients of the listener PLAINTEXT may do everything; ``reader`` at USERS what access control lists say."""

READER = "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.username=reader\nsasl.password=secret\n"
"""Properties of a client of the listener USERS."""


class Listeners(NamedTuple):
    """The addresses of brokers."""

    servers: str


class Brokers(Cluster):
    """A cluster with as many copies of each partition as it has brokers.

    Attributes
    ----------
    users
        The listeners USERS.
    admin
        A client that may do everything.
    """

    def __init__(self, folder: Path, number: int = 1) -> None:
        self._folders = [folder / f"broker-{node}" for node in range(number)]
        ports = [[free_port() for _ in range(3)] for _ in range(number)]
        voters = ",".join(f"{node}@127.0.0.1:{port}" for node, (*_, port) in enumerate(ports))
        for node, (plain, users, controller) in enumerate(ports):
            where = {"plain": plain, "users": users, "controller": controller, "folder": self._folders[node]}
            self._folders[node].mkdir()
            text = CONFIGURATION.format(node=node, voters=voters, number=number, **where)
            (self._folders[node] / "server.properties").write_text(text)
            arguments = ["format", "--cluster-id=bW9kZWwtZXhwb3J0ZXItMQ", "--config=server.properties"]
            assert self._run("kafka-storage.sh", node, *arguments).wait() == 0, self._output(node)
        self.processes = [self._run("kafka-server-start.sh", node, "server.properties") for node in range(number)]
        self.users = Listeners(",".join(f"127.0.0.1:{users}" for _, users, _ in ports))
        servers = ",".join(f"127.0.0.1:{plain}" for plain, *_ in ports)
        self.admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
        self.wait_until_ready()
        super().__init__(servers=servers)

    def _output(self, node: int) -> str:
        return (self._folders[node] / "output.txt").read_text()[-3000:]

    def _run(self, program: str, node: int, *arguments: str) -> subprocess.Popen[bytes]:
        folder = self._folders[node]
        variables = {"LOG_DIR": str(folder / "logs"), "KAFKA_HEAP_OPTS": "-Xmx512m"}
        with (folder / "output.txt").open("ab") as output:
            return subprocess.Popen(
                [HOME / "bin" / program, *arguments],
                cwd=folder,
                env=os.environ | variables,
                stdout=output,
                stderr=output,
            )

    def start(self, node: int) -> None:
        """Start a broker that was killed."""
        self.processes[node] = self._run("kafka-server-start.sh", node, "server.properties")

    def wait_until_ready(self) -> None:
        """Wait until all brokers are there, and each has its copies."""
        eventually(self._is_ready, 120, 0.5)

    def _is_ready(self) -> bool:
        for node, process in enumerate(self.processes):
            assert process.poll() is None, self._output(node)
        try:
            found = self.admin.list_topics(timeout=10)
        except KafkaException:
            return False
        partitions = [partition for topic in found.topics.values() for partition in topic.partitions.values()]
        return len(found.brokers) == len(self.processes) and all(
            len(partition.isrs) == len(partition.replicas) for partition in partitions
        )

    def kill(self, *nodes: int) -> None:
        """Kill brokers."""
        for node in nodes:
            self.processes[node].kill()
            self.processes[node].wait()

    def close(self) -> None:
        """End all brokers."""
        self.kill(*range(len(self.processes)))

    def ends(self, topic: str) -> int:
        """Return how many messages were written to a topic."""
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": "ends", "log_level": 0})
        partitions = consumer.list_topics(topic, timeout=60).topics[topic].partitions
        offsets = [consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=60) for number in partitions]
        consumer.close()
        return sum(high for _, high in offsets)

    @staticmethod
    def wait(futures: dict[Any, Any]) -> None:
        """Wait for the results of an `AdminClient`."""
        for future in futures.values():
            future.result()
