"""Hostile inputs: whatever comes over HTTP or stands in a file, the answer says what is wrong, and nothing breaks.

``benchmarks/studies/survival_fuzz.py`` does the same with as many inputs as there is time for.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.paths import ROOT
from support.servers import Served, write_config

sys.path.append(str(ROOT / "benchmarks" / "studies"))
from fuzzed_files import Files
from hostile import WORDS, text, value
from survival_fuzz import Connection, Faults, ask_one, check_end, operations

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
