"""Bytecode for the hundreds of Python processes that the tests start.

Without it each process compiles all that it imports, which takes longer than most tests. It is kept in one folder, so
that whoever set PYTHONDONTWRITEBYTECODE still finds none beside the sources.
"""

from __future__ import annotations

import os
import sys

from support.paths import ROOT

sys.dont_write_bytecode = False
sys.pycache_prefix = str(ROOT / ".venv" / ".bytecode")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
