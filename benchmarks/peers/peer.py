"""Programs of other projects, each in the environment that benchmarks/peers/run.sh has made for it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
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
        process.terminate()
        process.wait(30)
        log.close()
