"""The machine's gauges, or those of the control group (cgroup) that the process runs in.

In a container the machine's processor and memory say little: the limits that throttle or kill the
process are its cgroup's. They count wherever there are any.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import psutil
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

_PREFIX = "model_system_"
_UNLIMITED = 2**60  # cgroup v1 says "no limit" with a number near 2**63
_SHORTEST = 1.0  # seconds: over less, processor time is too coarse to divide


class Collector(Protocol):
    """Reads one part of the machine; ``name`` is its ``collector`` label."""

    name: str

    def collect(self) -> Iterable[Metric]:
        """The gauges now; may raise."""


class Cgroup:
    """The control group of this process, version 1 or 2.

    Parameters
    ----------
    root
        Where ``/proc`` and ``/sys`` are found.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._folders = {
            controller: list(_folders(root, controller)) for controller in ("", "memory", "cpu", "cpuacct")
        }

    def memory(self) -> tuple[int, int] | None:
        """Bytes used, without what the kernel can drop at once, and the tightest limit; None without one."""
        found = [
            *(_v2_memory(folder) for folder in self._folders[""]),
            *(_v1_memory(folder) for folder in self._folders["memory"]),
        ]
        return min((one for one in found if one), key=lambda one: one[1], default=None)

    def processors(self) -> float | None:
        """Processors that the tightest quota grants; None without one."""
        quotas = [_numbers(folder / "cpu.max") for folder in self._folders[""]]
        quotas += [
            _numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us")
            for folder in self._folders["cpu"]
        ]
        return min((quota[0] / quota[1] for quota in quotas if len(quota) == 2 and min(quota) > 0), default=None)

    def processor_seconds(self) -> float | None:
        """Processor time that the group has used."""
        for folder in self._folders[""]:
            if (used := _field(folder / "cpu.stat", "usage_usec")) is not None:
                return used / 1e6
        for folder in self._folders["cpuacct"]:
            if used_ns := _numbers(folder / "cpuacct.usage"):
                return used_ns[0] / 1e9
        return None


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """The folders of a controller, "" for version 2, from the process's own up to the mount."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        for mount, inside in _mounts(root, controller):
            # In a cgroup namespace the path begins at its root, and may even leave it ("/..").
            relative = os.path.relpath(path, inside) if path.startswith(inside) else path.lstrip("/")
            folder = mount if relative.startswith("..") else mount / relative
            if not folder.is_dir():
                folder = mount
            yield folder
            while folder != mount:
                folder = folder.parent
                yield folder


def _mounts(root: Path, controller: str) -> Iterator[tuple[Path, str]]:
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        inside, mount = before.split()[3:5]
        kind, _, options = after.split(maxsplit=2)
        if (kind == "cgroup2") if controller == "" else (kind == "cgroup" and controller in options.split(",")):
            yield root / mount.lstrip("/"), inside


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
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
    if not used or not limit or limit[0] > _UNLIMITED:
        return None
    return max(used[0] - (_field(folder / "memory.stat", "total_inactive_file") or 0), 0), limit[0]


class CpuCollector:
    """Processor time used between two collections, as a share of what there is."""

    name = "cpu"

    def __init__(self, cgroup: Cgroup) -> None:
        self._cgroup = cgroup
        self._lock = threading.Lock()
        self._before = self._read()
        self._value: float | None = None

    def _read(self) -> tuple[float, float]:
        """Seconds used, and seconds that there were."""
        quota, used = self._cgroup.processors(), self._cgroup.processor_seconds()
        if quota is not None and used is not None:
            return used, time.monotonic() * quota
        times = psutil.cpu_times()
        waited = times.idle + getattr(times, "iowait", 0.0)
        counted = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        return counted - waited, counted

    def collect(self) -> Iterator[Metric]:
        """The share since the last collection a second or more ago; nothing before that."""
        with self._lock:
            used, there = self._read()
            passed = there - self._before[1]
            if passed >= _SHORTEST or (self._value is None and passed > 0.05):
                self._value = min(max((used - self._before[0]) / passed, 0.0), 1.0)
                self._before = used, there
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
        if limit > machine.total:  # a limit that can never be reached limits nothing
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
                family.add_metric([str(path)], psutil.disk_usage(str(there)).percent / 100)
        yield family


class GpuCollector:
    """NVIDIA's accelerators, through the driver's own library."""

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
            memory = self._nvml.nvmlDeviceGetMemoryInfo(device)
            busy.add_metric([str(index)], self._nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100)
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
        Where ``/proc`` and ``/sys`` are found.
    """
    cgroup = Cgroup(root)
    found: list[Collector] = [CpuCollector(cgroup), MemoryCollector(cgroup), DiskCollector(paths)]
    if Path("/dev/nvidiactl").exists():  # the library alone costs memory, and says nothing without a driver
        found.append(GpuCollector())
    return found
