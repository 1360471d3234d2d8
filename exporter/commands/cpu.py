"""What numpy must know of the processor before it is imported."""

from __future__ import annotations

import os
from pathlib import Path


def sort_fast(described: Path = Path("/proc/cpuinfo")) -> None:
    """Keep numpy from sorting with AVX-512 where AVX2 is five times as fast, unless the environment speaks of it.

    Its AVX-512 sort stores compressed vectors, which AMD's Zen 4 does in microcode. Logarithms take four times as long
    without AVX-512: this is for a process that sorts.

    Parameters
    ----------
    described
        What Linux says of the processor; nothing is done where there is no such file.
    """
    try:
        lines = described.read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return
    said = {name.strip(): words.strip() for name, _, words in (line.partition(":") for line in lines)}
    zen4 = said.get("vendor_id") == "AuthenticAMD" and said.get("cpu family") == "25"
    if zen4 and "avx512f" in said.get("flags", "").split():
        os.environ.setdefault("NPY_DISABLE_CPU_FEATURES", "X86_V4")
