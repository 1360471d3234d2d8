"""Scripts of the documents, run in bash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.paths import ROOT

ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
    "NO_PROXY": "127.0.0.1",
}


def run(script: str, folder: Path, seconds: float = 120, **environment: str) -> str:
    """Run a script, which must succeed, and return what it prints; its commands are those of this checkout."""
    result = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=os.environ | ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert result.returncode == 0, f"{script}\n{result.stdout}{result.stderr}"
    return result.stdout
