"""Brokers of a Kafka distribution, each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient
from support.kafka import Cluster
from support.servers import eventually, free_port

HOME = Path(os.environ.get("KAFKA_HOME", "/nonexistent"))
"""Where the distribution is."""

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
"""
"""Clients of the listener PLAINTEXT may do everything; ``reader`` at USERS what access control lists say."""

READER = "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.username=reader\nsasl.password=secret\n"
"""Properties of a client at the listener USERS."""


class Brokers(Cluster):
    """A cluster with as many copies of each partition as it has brokers."""

    def __init__(self, folder: Path, number: int = 1) -> None:
        self._folders = [folder / f"broker-{node}" for node in range(number)]
        ports = [[free_port() for _ in range(3)] for _ in range(number)]
        voters = ",".join(f"{node}@127.0.0.1:{port}" for node, (*_, port) in enumerate(ports))
        for node, (plain, users, controller) in enumerate(ports):
            self._folders[node].mkdir()
            text = CONFIGURATION.format(
                node=node,
                voters=voters,
                plain=plain,
                users=users,
                controller=controller,
                folder=self._folders[node],
                number=number,
            )
            (self._folders[node] / "server.properties").write_text(text)
            arguments = ["format", "--cluster-id=bW9kZWwtZXhwb3J0ZXItMQ", "--config=server.properties"]
            self._run("kafka-storage.sh", node, *arguments).wait()
        self.processes = [self.start(node) for node in range(number)]
        self.users = ",".join(f"127.0.0.1:{users}" for _, users, _ in ports)
        super().__init__(servers=",".join(f"127.0.0.1:{plain}" for plain, *_ in ports))
        self.admin = AdminClient({"bootstrap.servers": self.servers, "log_level": 0})
        assert eventually(lambda: len(self.admin.list_topics(timeout=60).brokers) == number, 60)

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

    def start(self, node: int) -> subprocess.Popen[bytes]:
        """Start a broker."""
        return self._run("kafka-server-start.sh", node, "server.properties")

    def restart(self, node: int) -> None:
        """Start a broker that was ended."""
        self.processes[node] = self.start(node)

    def kill(self, *nodes: int) -> None:
        """Kill brokers."""
        for node in nodes:
            self.processes[node].send_signal(signal.SIGKILL)
            self.processes[node].wait()

    def close(self) -> None:
        """End all brokers."""
        self.kill(*range(len(self.processes)))

    @staticmethod
    def wait(futures: dict[Any, Any]) -> None:
        """Wait for the results of an `AdminClient`."""
        for future in futures.values():
            future.result()
