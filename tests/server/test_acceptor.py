"""TLS handshakes are bounded, and a flood of them keeps no other client waiting."""

from __future__ import annotations

import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from support.certificates import certificate, serve_tls
from support.paths import ROOT
from support.servers import Served, eventually, unverified, write_config

sys.path.append(str(ROOT / "benchmarks" / "studies"))
from survival_clients import client_hello

UNFINISHED = 3000


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Served]:
    """An exporter with TLS."""
    write_config(tmp_path)
    certificate(tmp_path, "server")
    server = serve_tls(tmp_path, tmp_path)
    server.url = server.url.replace("http:", "https:")
    yield server
    server.stop()


@pytest.fixture
def many_files() -> Iterator[None]:
    """A limit of open files that is high enough for the clients."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[1], UNFINISHED + 1000), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("sent", [b"", client_hello()], ids=["not begun", "half-way"])
def test_unfinished_handshakes_are_bounded(secured: Served, sent: bytes) -> None:
    """Thousands of unfinished TLS handshakes take little memory, and others get an answer meanwhile."""
    assert secured.get("/metrics").status == 200
    process = psutil.Process(secured.process.pid)
    before = process.memory_info().rss
    with ExitStack() as stack:
        for _ in range(UNFINISHED):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", secured.port), 30))
            client.sendall(sent)
        eventually(lambda: process.num_fds() > UNFINISHED)
        for _ in range(3):
            start = time.monotonic()
            assert secured.get("/-/healthy").status == secured.get("/metrics").status == 200
            assert time.monotonic() - start < 10
            time.sleep(0.3)
        grown = (process.memory_info().rss - before) / 2**20
    assert grown < 110  # 170 MiB when their number had no limit
    assert "Traceback" not in secured.log.read_text()


def test_clients_that_do_not_confirm_the_end_hold_no_stop(secured: Served) -> None:
    """A TLS client that does not answer the server's close_notify delays a stop by a second, not by five."""
    with ExitStack() as stack:
        for _ in range(3):
            raw = socket.create_connection(("127.0.0.1", secured.port), 30)
            client = stack.enter_context(unverified().wrap_socket(raw))
            client.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert secured.stop(signal.SIGTERM) == 0
    assert "still open" not in secured.log.read_text()
