"""Settings of the tests' processes and of the thousands that they start, which would otherwise take twice as long.

Bytecode is kept in one folder, so that whoever set PYTHONDONTWRITEBYTECODE still finds none beside the sources. Threads
of OpenBLAS and OpenMP wait for each other in busy loops. Programs in Go collect garbage less often, on one processor.
"""

from __future__ import annotations

import os
import sys

from support.paths import ROOT

sys.dont_write_bytecode = False
sys.pycache_prefix = str(ROOT / ".venv" / ".bytecode")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ |= {
    "PYTHONPYCACHEPREFIX": sys.pycache_prefix,
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "GOGC": "400",
    "GOMAXPROCS": "1",
}
