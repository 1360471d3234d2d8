"""Slow and hostile clients: memory stays bounded, and the others are served meanwhile.

``benchmarks/studies/survival_clients.py`` does the same for longer, with thousands of connections.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.paths import ROOT
from support.servers import Served, eventually, write_config

sys.path.append(str(ROOT / "benchmarks" / "studies"))
from fuzzed_files import Files
from hostile import WORDS, text, value
from survival_clients import GROWTH, SCENARIOS, Scenario, run, start
from survival_fuzz import Connection, Faults, ask_one, check_end, operations

BODY = json.dumps({"model": "credit", "version": "cut"}).encode()
POST = b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def servers(shared: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Served]]:
    """Exporters by what their web configuration has."""
    secured = {web: start(tmp_path_factory.mktemp(web), web) for web in ("tls", "users")}
    yield {"": shared, **secured}
    for server in secured.values():
        server.stop()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_others_are_served(servers: dict[str, Served], scenario: Scenario) -> None:
    """Probes, scrapes, predictions and feedback are answered correctly whatever other clients do."""
    server = servers[scenario.web]
    outcome = run(server, scenario._replace(clients=min(scenario.clients, 300)), 1.0)
    assert not outcome.bad
    assert max(outcome.longest.values()) < 20  # one second on a machine that does nothing else
    assert outcome.most - outcome.before < GROWTH
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    "sent",
    [
        b"Content-Length: 1000\r\n\r\n" + BODY,
        b"Content-Length: 1000000\r\n\r\n" + BODY,
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(BODY), BODY),
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\nzz\r\n" % (len(BODY), BODY),
    ],
    ids=["announced", "announced and large", "chunked", "chunked and wrong"],
)
def test_an_incomplete_body_is_refused(shared: Served, sent: bytes) -> None:
    """An incomplete body is refused, even if the received part is a complete event: its sender will repeat it."""
    with socket.create_connection(("127.0.0.1", shared.port), 10) as client:
        client.sendall(POST + sent)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1000).startswith(b"HTTP/1.1 400 ")
    assert 'version="cut"' not in shared.get("/metrics").text


@pytest.mark.parametrize("target", ["/drift?model=\u05ae", "/\u05ae", "/runbooks/\u05ae?\u05ae"])
def test_an_address_in_plain_utf8_is_read(shared: Served, target: str) -> None:
    """Characters that should have been percent-encoded are accepted as if they were."""
    with socket.create_connection(("127.0.0.1", shared.port), 10) as client:
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert "/drift" not in target or "\u05ae" in answer.decode()


def test_announced_bodies_reserve_no_memory(shared: Served) -> None:
    """A hundred clients announce 16 MiB each and send nothing, which does not limit the bodies of others."""
    idle = [socket.create_connection(("127.0.0.1", shared.port)) for _ in range(100)]
    try:
        for client in idle:
            client.sendall(POST + b"Content-Length: 16777216\r\n\r\n{")
        large = json.dumps({"model": "credit", "inputs": {"text": "x" * 10_000_000}}).encode()
        assert shared.post("/v1/predictions", large).status == 202
    finally:
        for client in idle:
            client.close()


def test_incomplete_bodies_have_a_memory_limit(shared: Served) -> None:
    """Large incomplete bodies of a client take up to 16 MiB; beyond that, its others get a 503."""
    idle = [socket.create_connection(("127.0.0.1", shared.port)) for _ in range(300)]
    large = json.dumps({"model": "credit", "inputs": {"text": "x" * 3_000_000}}).encode()
    try:
        for client in idle:
            client.sendall(POST + b"Content-Length: 1000001\r\n\r\n" + b" " * 1_000_000)
        answer = eventually(lambda: (a := shared.post("/v1/predictions", large)).status == 503 and a)
        assert answer.headers["Retry-After"] == "1"
        assert shared.post("/v1/predictions", {"model": "credit"}).status == 202
    finally:
        for client in idle:
            client.close()
    eventually(lambda: shared.post("/v1/predictions", large).status == 202)


def test_a_disconnect_is_not_logged(shared: Served) -> None:
    """A disconnect is no error of the exporter, and hostile clients must not fill the disk with logs."""
    before = shared.log.stat().st_size
    for number in range(100):
        with socket.create_connection(("127.0.0.1", shared.port)) as client:
            client.sendall(POST + b"Content-Length: %d\r\n\r\n{" % (1000 if number % 2 else 1_000_000))
    time.sleep(0.2)
    assert shared.get("/-/healthy").status == 200
    assert shared.log.stat().st_size == before


SEEDS = st.integers(0, 2**63)
FREE = settings(deadline=None, suppress_health_check=list(HealthCheck))


class Target:
    """A server with its OpenAPI document, and a connection to it."""

    def __init__(self, server: Served) -> None:
        self.server = server
        self.document = json.loads(server.get("/openapi.json").body)
        self.routes = operations(self.document)
        self.connection = Connection(server.port)

    def check(self) -> None:
        """The log has no traceback; metrics and lists can be read."""
        assert "Traceback" not in self.server.log.read_text()
        faults = Faults()
        check_end(self.server, faults, 0)
        assert not faults.counts


@pytest.fixture(scope="module")
def target(shared: Served) -> Iterator[Target]:
    target = Target(shared)
    yield target
    target.connection.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    write_config(folder)
    return Files(folder)


def test_no_request_is_a_fault(target: Target) -> None:
    """Requests of every route, and histories of predictions, get a documented response within seconds."""
    faults = Faults()
    for seed in range(2000):
        ask_one(target.connection, seed, target.document, target.routes, faults)
    assert not faults.counts
    target.check()
    never = {f"{method.upper()} {path}" for path, method in target.routes} - {route for route, _ in faults.routes}
    assert not never


def test_no_event_is_a_fault(target: Target) -> None:
    """Any JSON, or nearly JSON, in place of an event or of its inputs is accepted or refused."""

    @settings(FREE, max_examples=1000)
    @given(SEEDS)
    def check(seed: int) -> None:
        rng = Random(seed)
        event: Any = {"model": "credit", "version": rng.choice(WORDS), "inputs": value(rng), "prediction": value(rng)}
        body = text(rng, rng.choice((event, [event, value(rng)], value(rng))))
        for path in ("/v1/predictions", "/v1/feedback"):
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            status, _, answer = target.connection.ask(head + body, False)
            assert 200 <= status < 500
            json.loads(answer)

    check()
    target.check()


def test_no_file_is_a_fault(files: Files) -> None:
    """A randomly changed configuration, profile, user or token file is accepted, or refused with a message."""

    @settings(FREE, max_examples=250)
    @given(SEEDS)
    def check(seed: int) -> None:
        assert files.read(*files.one(Random(seed)))[1] < 10

    check()
