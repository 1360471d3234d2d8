"""Fixtures: a server that stores the events it receives, and a client that sends to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.fake_exporter import Exporter

from exporter import Monitor


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    server = Exporter()
    yield server
    server.close()


@pytest.fixture
def monitor(exporter: Exporter) -> Iterator[Monitor]:
    monitor = Monitor(exporter.url, "loans", "3", interval=0.01)
    yield monitor
    monitor.close(0)
