"""Programs of other projects, each in the environment that benchmarks/peers/run.sh has made for it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.paths import ROOT
from support.servers import ask, eventually, free_port

PEERS = Path(os.environ.get("PEERS", ROOT / ".venv" / ".peers"))


@contextmanager
def serving_peer(peer: str, command: list[str], ready: str, folder: Path, **environment: str) -> Iterator[str]:
    """Run a program until the block ends; yield its URL once it answers.

    The test is skipped where the peer is not installed. ``{port}`` in the command is a free port.
    """
    if not (PEERS / peer / ".installed").exists():
        pytest.skip(f"{peer} is not installed")
    port = free_port()
    program, *arguments = [argument.format(port=port) for argument in command]
    log = (folder / "peer.log").open("wb")
    process = subprocess.Popen(
        [PEERS / peer / "bin" / program, *arguments],
        cwd=folder,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, **{name: value.format(port=port) for name, value in environment.items()}},
    )

    def is_ready() -> bool:
        assert process.poll() is None, (folder / "peer.log").read_text()[-3000:]
        try:
            return ask(f"http://127.0.0.1:{port}{ready}").status == 200
        except OSError:
            return False

    try:
        assert eventually(is_ready, 180)
        yield f"http://127.0.0.1:{port}"
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):  # with its children, which LitServe leaves
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
        log.close()
