"""Collectors of processor, memory, disk and GPU use, of the machine or of the process' control group (cgroup).

In a container it is the limits of the cgroup that throttle or kill the process. Where there are any, use is measured
against them instead of the machine.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import NamedTuple

import psutil

from exporter.metrics.lines import FamilyLines, Metrics, Reading

_SECTION = "System"
_SHORTEST = 1.0  # seconds: over less, processor time is too coarse to divide
_FIRST = 0.05  # seconds: a coarse first value is better than none


class Quota(NamedTuple):
    """The processor quota of a control group."""

    group: Path
    processors: float
    """Number of processors that the quota grants; may be a fraction."""
    used: float
    """Processor time that the group has used, in seconds."""


class Cgroup:
    """The control groups (version 2) that this process is in: its own, and those above it up to the mount.

    Parameters
    ----------
    root
        Directory that contains ``proc`` and ``sys``.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._groups = _groups(root)

    def memory(self) -> tuple[int, int] | None:
        """Return the bytes in use, without reclaimable cache, and the tightest limit; None without a limit."""
        return min(filter(None, map(_memory, self._groups)), key=itemgetter(1), default=None)

    def quota(self) -> Quota | None:
        """Return the tightest quota; None without one."""
        return min(filter(None, map(_quota, self._groups)), key=attrgetter("processors"), default=None)


def _groups(root: Path) -> list[Path]:
    """Return the directories from the process' group up to the mount."""
    path = next((line[3:] for line in _lines(root / "proc/self/cgroup") if line.startswith("0::")), None)
    mounts = list(_mounts(root))
    if path is None or not mounts:
        return []
    # In a container the path may start at the host's root, at the container's, or outside ("/..").
    containing = ((root, mount) for root, mount in mounts if f"{path}/".startswith(f"{root.rstrip('/')}/"))
    inside, mount = next(containing, mounts[0])
    at = Path(os.path.relpath(path, inside) if path.startswith(inside) else path.lstrip("/"))
    if ".." in at.parts or not (mount / at).is_dir():
        at = Path()
    return [mount / below for below in (at, *at.parents)]


def _mounts(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the group at the root of each mount of control groups, and the mount point."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            inside, mount = before.split(" ")[3:5]
            yield inside, root / mount.lstrip("/")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []


def _numbers(path: Path) -> list[int]:
    """Return the whole numbers in a file's first line; "max" and a missing file give none."""
    fields = [field for line in _lines(path)[:1] for field in line.split()]
    return [int(field) for field in fields if field.lstrip("-").isdigit()]


def _field(path: Path, name: str) -> int | None:
    return next((int(line.split()[1]) for line in _lines(path) if line.startswith(f"{name} ")), None)


def _memory(group: Path) -> tuple[int, int] | None:
    used, limit = _numbers(group / "memory.current"), _numbers(group / "memory.max")
    if not used or not limit:
        return None
    return max(used[0] - (_field(group / "memory.stat", "inactive_file") or 0), 0), limit[0]


def _quota(group: Path) -> Quota | None:
    quota, used = _numbers(group / "cpu.max"), _field(group / "cpu.stat", "usage_usec")
    if len(quota) != 2 or min(quota) <= 0 or used is None:
        return None
    return Quota(group, quota[0] / quota[1], used / 1e6)


class _CpuTimes(NamedTuple):
    """Processor time so far, in seconds."""

    clock: float
    quota: Quota | None
    used: float
    total: float
    """Time of all processors of the machine, idle or not."""


CPU = Metrics[float | None](_SECTION)


@CPU.gauge()
def model_system_cpu_utilization_ratio(share: float | None) -> Reading:
    """Share of the available CPU time in use."""
    return share


class Processors:
    """The share of the available processor time that was used between two readings."""

    def __init__(self, cgroup: Cgroup) -> None:
        self._cgroup = cgroup
        self._lock = threading.Lock()
        self._before = self._read()
        self._value: float | None = None

    def _read(self) -> _CpuTimes:
        quota, clock, times = self._cgroup.quota(), time.monotonic(), psutil.cpu_times()
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        if quota and quota.processors < (psutil.cpu_count() or 1):  # a larger quota limits nothing
            return _CpuTimes(clock, quota, quota.used, total)
        return _CpuTimes(clock, None, total - times.idle - getattr(times, "iowait", 0.0), total)

    def share(self) -> float | None:
        """Return the share since the last reading at least a second ago; None if the first one is too early."""
        with self._lock:
            before, now = self._before, self._read()
            passed = now.clock - before.clock
            if (now.quota and now.quota.group) != (before.quota and before.quota.group):
                self._before = now
            elif passed >= _SHORTEST or (self._value is None and passed >= _FIRST):
                available = passed * now.quota.processors if now.quota else now.total - before.total
                if available > 0:  # some sandboxes report no time
                    self._value = min(max((now.used - before.used) / available, 0.0), 1.0)
                self._before = now
            return self._value


class Memory(NamedTuple):
    """Memory in use, and its limit, in bytes."""

    used: int
    limit: int

    @classmethod
    def read(cls, cgroup: Cgroup) -> Memory:
        """Return the use of the control group where that limits memory, otherwise of the machine."""
        machine = psutil.virtual_memory()
        used, limit = cgroup.memory() or (machine.total - machine.available, machine.total)
        if limit > machine.total:  # version 1 has a huge number for no limit
            return cls(machine.total - machine.available, machine.total)
        return cls(used, limit)


MEMORY = Metrics[Memory](_SECTION)


@MEMORY.gauge()
def model_system_memory_used_bytes(memory: Memory) -> Reading:
    """Memory in use."""
    return memory.used


@MEMORY.gauge()
def model_system_memory_limit_bytes(memory: Memory) -> Reading:
    """Memory limit."""
    return memory.limit


@MEMORY.gauge()
def model_system_memory_utilization_ratio(memory: Memory) -> Reading:
    """Share of the memory limit in use."""
    return memory.used / max(memory.limit, 1)


DISK = Metrics[Sequence[Path]](_SECTION)


@DISK.gauge("path")
def model_system_disk_utilization_ratio(paths: Sequence[Path]) -> Reading:
    """Share of a file system in use, as df computes it."""
    shares = {}
    devices: set[int] = set()
    for path in paths:
        existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if (device := existing.stat().st_dev) not in devices:
            devices.add(device)
            disk = psutil.disk_usage(str(existing))  # its percent is rounded
            shares[str(path)] = disk.used / max(disk.used + disk.free, 1)
    return shares


class Gpu(NamedTuple):
    """An NVIDIA GPU; None is what it does not report."""

    busy: float | None
    memory: tuple[int, int] | None
    """Bytes in use, and all of them."""


def _gpus() -> Callable[[], dict[str, Gpu]]:
    """Return a function that reads each GPU through the driver's library.

    Raises
    ------
    pynvml.NVMLError
        When the driver or its library is missing.
    """
    import pynvml

    pynvml.nvmlInit()

    def read() -> dict[str, Gpu]:
        found = {}
        for index in range(pynvml.nvmlDeviceGetCount()):
            device, busy, memory = pynvml.nvmlDeviceGetHandleByIndex(index), None, None
            with contextlib.suppress(pynvml.NVMLError_NotSupported):  # a GPU divided into instances
                busy = pynvml.nvmlDeviceGetUtilizationRates(device).gpu / 100
            with contextlib.suppress(pynvml.NVMLError_NotSupported):  # a GPU that shares the machine's memory
                bytes_of = pynvml.nvmlDeviceGetMemoryInfo(device)
                memory = bytes_of.used, bytes_of.total
            found[str(index)] = Gpu(busy, memory)
        return found

    return read


GPU = Metrics[Mapping[str, Gpu]](_SECTION)


@GPU.gauge("gpu")
def model_system_gpu_utilization_ratio(gpus: Mapping[str, Gpu]) -> Reading:
    """Share of time a GPU is busy."""
    return {index: gpu.busy for index, gpu in gpus.items() if gpu.busy is not None}


@GPU.gauge("gpu")
def model_system_gpu_memory_used_bytes(gpus: Mapping[str, Gpu]) -> Reading:
    """GPU memory in use."""
    return {index: gpu.memory[0] for index, gpu in gpus.items() if gpu.memory}


@GPU.gauge("gpu")
def model_system_gpu_memory_limit_bytes(gpus: Mapping[str, Gpu]) -> Reading:
    """Total GPU memory."""
    return {index: gpu.memory[1] for index, gpu in gpus.items() if gpu.memory}


def collectors(paths: Sequence[Path], root: Path = Path("/")) -> dict[str, Callable[[], Iterable[FamilyLines]]]:
    """Return functions that return the lines of the gauges of this machine, by the name of the collector.

    Parameters
    ----------
    paths
        Paths on the file systems to watch. For a path that does not exist yet, its nearest parent is used.
    root
        Directory that contains ``proc``, ``sys`` and ``dev``.
    """
    cgroup = Cgroup(root)
    processors = Processors(cgroup)
    result: dict[str, Callable[[], Iterable[FamilyLines]]] = {
        "cpu": lambda: CPU.lines(processors.share()),
        "memory": lambda: MEMORY.lines(Memory.read(cgroup)),
        "disk": lambda: DISK.lines(paths),
    }
    # Loading the library takes memory, so it is loaded only if the driver's device exists (the second for WSL).
    if any((root / device).exists() for device in ("dev/nvidiactl", "dev/dxg")):
        import pynvml

        with contextlib.suppress(pynvml.NVMLError):  # a container may have the device without the library
            read = _gpus()
            result["gpu"] = lambda: GPU.lines(read())
    return result
