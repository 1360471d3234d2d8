"""Settings for the processor that must be made before numpy is imported."""

from __future__ import annotations

import os
from pathlib import Path


def disable_slow_avx512(cpu_info: Path = Path("/proc/cpuinfo")) -> None:
    """Keep numpy from sorting with AVX-512 on AMD's Zen 4, unless the environment sets what numpy uses.

    There numpy's AVX2 sort is five times as fast, because its AVX-512 sort stores compressed vectors, which Zen 4 does
    in microcode. Logarithms take four times as long without AVX-512, so this is for a process that sorts.

    Parameters
    ----------
    cpu_info
        Linux' description of the processor; without such a file nothing is done.
    """
    try:
        lines = cpu_info.read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return
    info = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    zen4 = info.get("vendor_id") == "AuthenticAMD" and info.get("cpu family") == "25"
    if zen4 and "avx512f" in info.get("flags", "").split():
        os.environ.setdefault("NPY_DISABLE_CPU_FEATURES", "X86_V4")
