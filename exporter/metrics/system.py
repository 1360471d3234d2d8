"""The machine's gauges, or those of the control group (cgroup) that the process runs in.

In a container the machine's processor and memory say little: the limits that throttle or kill the
process are its cgroup's. They count wherever there are any.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import psutil
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

_PREFIX = "model_system_"
_SHORTEST = 1.0  # seconds: over less, processor time is too coarse to divide
_FIRST = 0.05  # seconds: a coarse first value is better than none


class Collector(Protocol):
    """Reads one part of the machine; ``name`` is its ``collector`` label."""

    name: str

    def collect(self) -> Iterable[Metric]:
        """The gauges now; may raise."""


class Quota(NamedTuple):
    """A control group whose processor time is limited."""

    group: Path
    processors: float
    """How many the quota grants; a part of one is a number below 1."""
    used: float
    """Processor time that the group has used, in seconds."""


class Cgroup:
    """The control groups that this process is in, version 1 or 2.

    Parameters
    ----------
    root
        Where ``/proc`` and ``/sys`` are found.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._unified = _groups(root, "")
        self._memory = _groups(root, "memory")
        self._cpu = _groups(root, "cpu")
        self._cpuacct = _groups(root, "cpuacct")

    def memory(self) -> tuple[int, int] | None:
        """Bytes used, without what the kernel can drop at once, and the tightest limit; None without one."""
        found = [*map(_v2_memory, self._unified.values()), *map(_v1_memory, self._memory.values())]
        return min((one for one in found if one), key=lambda one: one[1], default=None)

    def quota(self) -> Quota | None:
        """The tightest quota; None without one."""
        found = [
            *map(_v2_quota, self._unified.values()),
            *(_v1_quota(group, self._cpuacct[at]) for at, group in self._cpu.items() if at in self._cpuacct),
        ]
        return min((one for one in found if one), key=lambda one: one.processors, default=None)


def _groups(root: Path, controller: str) -> dict[str, Path]:
    """The folders of a controller, "" for version 2, from the process's own group up to the mount.

    Their keys are their places below the mount: by them a group is found among another controller's.
    """
    lines = (line.split(":", 2) for line in _lines(root / "proc/self/cgroup"))
    path = next((path for _, controllers, path in lines if controller in controllers.split(",")), None)
    mounts = list(_mounts(root, controller))
    if path is None or not mounts:
        return {}
    # Seen from a container the path may begin at the host's root, at the container's, or outside ("/..").
    inside, mount = next((one for one in mounts if f"{path}/".startswith(f"{one[0].rstrip('/')}/")), mounts[0])
    at = Path(os.path.relpath(path, inside) if path.startswith(inside) else path.lstrip("/"))
    if ".." in at.parts or not (mount / at).is_dir():
        at = Path()
    return {str(place): mount / place for place in (at, *at.parents)}


def _mounts(root: Path, controller: str) -> Iterator[tuple[str, Path]]:
    """Which group each mount of a controller shows, and where."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ")
        if (kind == "cgroup2") if controller == "" else (kind == "cgroup" and controller in options.split(",")):
            inside, mount = before.split(" ")[3:5]
            yield inside, root / mount.lstrip("/")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []


def _numbers(path: Path) -> list[int]:
    """The whole numbers of a file's first line; "max", and what is not there, is none."""
    words = [word for line in _lines(path)[:1] for word in line.split()]
    return [int(word) for word in words if word.lstrip("-").isdigit()]


def _field(path: Path, name: str) -> int | None:
    return next((int(line.split()[1]) for line in _lines(path) if line.startswith(f"{name} ")), None)


def _v2_memory(folder: Path) -> tuple[int, int] | None:
    used, limit = _numbers(folder / "memory.current"), _numbers(folder / "memory.max")
    if not used or not limit:
        return None
    return max(used[0] - (_field(folder / "memory.stat", "inactive_file") or 0), 0), limit[0]


def _v1_memory(folder: Path) -> tuple[int, int] | None:
    used, limit = _numbers(folder / "memory.usage_in_bytes"), _numbers(folder / "memory.limit_in_bytes")
    if not used or not limit:
        return None
    return max(used[0] - (_field(folder / "memory.stat", "total_inactive_file") or 0), 0), limit[0]


def _v2_quota(group: Path) -> Quota | None:
    return _quota(group, _numbers(group / "cpu.max"), _field(group / "cpu.stat", "usage_usec"), 1e6)


def _v1_quota(group: Path, accounts: Path) -> Quota | None:
    quota = _numbers(group / "cpu.cfs_quota_us") + _numbers(group / "cpu.cfs_period_us")
    return _quota(group, quota, next(iter(_numbers(accounts / "cpuacct.usage")), None), 1e9)


def _quota(group: Path, quota: list[int], used: int | None, unit: float) -> Quota | None:
    if len(quota) != 2 or min(quota) <= 0 or used is None:
        return None
    return Quota(group, quota[0] / quota[1], used / unit)


class _Reading(NamedTuple):
    """Processor time so far, in seconds."""

    clock: float
    quota: Quota | None
    used: float
    counted: float
    """The machine's, used or not."""


class CpuCollector:
    """Processor time used between two collections, as a share of what there is."""

    name = "cpu"

    def __init__(self, cgroup: Cgroup) -> None:
        self._cgroup = cgroup
        self._lock = threading.Lock()
        self._before = self._read()
        self._value: float | None = None

    def _read(self) -> _Reading:
        quota, clock, times = self._cgroup.quota(), time.monotonic(), psutil.cpu_times()
        counted = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        if quota and quota.processors < (psutil.cpu_count() or 1):  # more than there are limits nothing
            return _Reading(clock, quota, quota.used, counted)
        return _Reading(clock, None, counted - times.idle - getattr(times, "iowait", 0.0), counted)

    def collect(self) -> Iterator[Metric]:
        """The share since the last collection a second or more ago; absent in a first, quick one."""
        with self._lock:
            before, now = self._before, self._read()
            passed = now.clock - before.clock
            if (now.quota and now.quota.group) != (before.quota and before.quota.group):
                self._before = now
            elif passed >= _SHORTEST or (self._value is None and passed >= _FIRST):
                there = passed * now.quota.processors if now.quota else now.counted - before.counted
                if there > 0:  # a sandbox may count nothing
                    self._value = min(max((now.used - before.used) / there, 0.0), 1.0)
                self._before = now
            value = self._value
        if value is not None:
            yield GaugeMetricFamily(f"{_PREFIX}cpu_utilization_ratio", "Share of the processors in use.", value)


class MemoryCollector:
    """Memory in use and its limit."""

    name = "memory"

    def __init__(self, cgroup: Cgroup) -> None:
        self._cgroup = cgroup

    def collect(self) -> Iterator[Metric]:
        """Used bytes, limit and their ratio."""
        machine = psutil.virtual_memory()
        used, limit = self._cgroup.memory() or (machine.total - machine.available, machine.total)
        if limit > machine.total:  # one that can never be reached, as version 1 writes for none
            used, limit = machine.total - machine.available, machine.total
        yield GaugeMetricFamily(f"{_PREFIX}memory_used_bytes", "Memory in use.", used)
        yield GaugeMetricFamily(f"{_PREFIX}memory_limit_bytes", "Memory that may be used.", limit)
        yield GaugeMetricFamily(f"{_PREFIX}memory_utilization_ratio", "Share of memory in use.", used / max(limit, 1))


class DiskCollector:
    """File systems that the exporter lives on."""

    name = "disk"

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def collect(self) -> Iterator[Metric]:
        """The share in use of each distinct file system, as df computes it."""
        family = GaugeMetricFamily(
            f"{_PREFIX}disk_utilization_ratio", "Share of a file system in use.", labels=["path"]
        )
        devices: set[int] = set()
        for path in self._paths:
            there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
            if (device := there.stat().st_dev) not in devices:
                devices.add(device)
                disk = psutil.disk_usage(str(there))  # its percent is rounded
                family.add_metric([str(path)], disk.used / max(disk.used + disk.free, 1))
        yield family


class GpuCollector:
    """NVIDIA's accelerators, through the driver's own library.

    Raises
    ------
    pynvml.NVMLError
        When the driver, or its library, is not there.
    """

    name = "gpu"

    def __init__(self) -> None:
        import pynvml

        pynvml.nvmlInit()
        self._nvml = pynvml

    def collect(self) -> Iterator[Metric]:
        """Utilization and memory of each."""
        busy = GaugeMetricFamily(f"{_PREFIX}gpu_utilization_ratio", "Share of time a GPU is busy.", labels=["gpu"])
        used = GaugeMetricFamily(f"{_PREFIX}gpu_memory_used_bytes", "GPU memory in use.", labels=["gpu"])
        limit = GaugeMetricFamily(f"{_PREFIX}gpu_memory_limit_bytes", "GPU memory.", labels=["gpu"])
        for index in range(self._nvml.nvmlDeviceGetCount()):
            device = self._nvml.nvmlDeviceGetHandleByIndex(index)
            with contextlib.suppress(self._nvml.NVMLError_NotSupported):  # one that is shared out in parts
                busy.add_metric([str(index)], self._nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100)
            with contextlib.suppress(self._nvml.NVMLError_NotSupported):  # one without memory of its own
                memory = self._nvml.nvmlDeviceGetMemoryInfo(device)
                used.add_metric([str(index)], memory.used)
                limit.add_metric([str(index)], memory.total)
        yield from (busy, used, limit)


def collectors(paths: Sequence[Path], root: Path = Path("/")) -> list[Collector]:
    """What reads this machine.

    Parameters
    ----------
    paths
        Whose file systems to watch; a path that does not exist yet stands for its nearest parent.
    root
        Where ``/proc``, ``/sys`` and ``/dev`` are found.
    """
    cgroup = Cgroup(root)
    found: list[Collector] = [CpuCollector(cgroup), MemoryCollector(cgroup), DiskCollector(paths)]
    # Loading the library costs memory, so only where a driver's device is (the second under Windows).
    if any((root / device).exists() for device in ("dev/nvidiactl", "dev/dxg")):
        import pynvml

        with contextlib.suppress(pynvml.NVMLError):  # a container may have the device without the library
            found.append(GpuCollector())
    return found
