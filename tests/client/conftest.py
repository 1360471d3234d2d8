"""Fixture: a client that sends to a server which keeps what it receives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.fake_exporter import Exporter

from exporter import Monitor


@pytest.fixture
def monitor(exporter: Exporter) -> Iterator[Monitor]:
    monitor = Monitor(exporter.url, "loans", "3", interval=0.01)
    yield monitor
    monitor.close(0)
