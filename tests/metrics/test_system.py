"""The machine's gauges and the control group's, read from files as the kernel writes them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from exporter.metrics.exposition import render_families
from exporter.metrics.lines import FamilyLines
from exporter.metrics.system import collectors

MIB = 2**20
Lines = Callable[[], Iterable[FamilyLines]]
V2 = "30 23 0:26 {inside} /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate"


def write(root: Path, files: dict[str, object]) -> Path:
    """A tree of files; what is a dict becomes lines of ``key value``."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (f"{key} {value}" for key, value in content.items()) if isinstance(content, dict) else [str(content)]
        path.write_text("\n".join(lines) + "\n")
    return root


def v2(root: Path, group: str, groups: dict[str, dict[str, object]], inside: str = "/") -> Path:
    """A machine with version 2 alone, this process in ``group``, the files of each group by its folder."""
    mounts = f"22 27 0:21 / /proc rw - proc proc rw\n{V2.format(inside=inside)}\n28 27 0:40 / /empty rw - tmpfs  rw"
    write(root, {"proc/self/cgroup": f"0::{group}", "proc/self/mountinfo": mounts})
    (root / "sys/fs/cgroup").mkdir(parents=True)
    for folder, files in groups.items():
        write(root / "sys/fs/cgroup" / folder, files)
    return root


def v2_memory(used: int, limit: int | str, inactive: int = 0) -> dict[str, object]:
    stat = {"anon": used, "inactive_file": inactive, "workingset_refault_file": 0}
    return {"memory.current": used, "memory.max": limit, "memory.stat": stat}


def v2_cpu(quota: str, usage_usec: int) -> dict[str, object]:
    return {"cpu.max": quota, "cpu.stat": {"usage_usec": usage_usec, "user_usec": 1}}


def samples(collector: Lines) -> list[Sample]:
    text = b"".join(render_families(collector())).decode()
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def memory(root: Path) -> dict[str, float]:
    values = {
        sample.name.removeprefix("model_system_memory_"): sample.value
        for sample in samples(collectors([], root)["memory"])
    }
    assert values["utilization_ratio"] == pytest.approx(values["used_bytes"] / values["limit_bytes"])
    return values


def is_the_machines(values: dict[str, float]) -> bool:
    return values["limit_bytes"] == psutil.virtual_memory().total


def test_memory_v2(tmp_path: Path) -> None:
    """The memory of a control group excludes file pages that the kernel can drop at once."""
    values = memory(v2(tmp_path, "/app.scope", {"app.scope": v2_memory(200 * MIB, 256 * MIB, 72 * MIB)}))
    assert values == {"used_bytes": 128 * MIB, "limit_bytes": 256 * MIB, "utilization_ratio": 0.5}


def test_memory_v2_tightest_limit_counts(tmp_path: Path) -> None:
    """Of nested limits the tightest counts, with the memory of its group."""
    groups = {
        "pod/app": v2_memory(50 * MIB, "max"),
        "pod": v2_memory(90 * MIB, 100 * MIB),
        "": v2_memory(95 * MIB, 300 * MIB),
        "other": v2_memory(1 * MIB, 2 * MIB),
    }
    values = memory(v2(tmp_path, "/pod/app", groups))
    assert values == {"used_bytes": 90 * MIB, "limit_bytes": 100 * MIB, "utilization_ratio": 0.9}


@pytest.mark.parametrize("group", ["/", "/..", "/../other", "/not/mounted/here"])
def test_memory_v2_in_a_namespace(tmp_path: Path, group: str) -> None:
    """If the path is not in the mount, the mount's root is the group."""
    values = memory(v2(tmp_path, group, {"": v2_memory(3 * MIB, 4 * MIB)}))
    assert values["limit_bytes"] == 4 * MIB


@pytest.mark.parametrize("limit", ["max", 2**50])
def test_memory_without_limit(tmp_path: Path, limit: object) -> None:
    """Without a limit, or with one above the machine's memory, the machine's memory counts."""
    assert is_the_machines(memory(v2(tmp_path, "/app", {"app": v2_memory(5 * MIB, limit)})))


def test_memory_without_cgroups(tmp_path: Path) -> None:
    """Without control groups the machine's memory counts."""
    values = memory(tmp_path)
    assert is_the_machines(values)
    assert 0 < values["utilization_ratio"] < 1


def test_memory_follows_the_limit(tmp_path: Path) -> None:
    """A limit that changes while the process runs applies to the next collection."""
    root = v2(tmp_path, "/app", {"app": v2_memory(5 * MIB, 8 * MIB)})
    collector = collectors([], root)["memory"]
    before = samples(collector)[1].value
    (root / "sys/fs/cgroup/app/memory.max").write_text(f"{16 * MIB}\n")
    assert [before, samples(collector)[1].value] == [8 * MIB, 16 * MIB]


def cpu(collector: Lines) -> float | None:
    return next((sample.value for sample in samples(collector)), None)


def between(collector: Lines, started: tuple[float, float], seconds: float, processors: float) -> None:
    """Asserts the share that ``seconds`` of processor time are since the collector was started."""
    first = time.monotonic()
    value = cpu(collector)
    last = time.monotonic()
    assert value is not None
    assert seconds / (last - started[0]) <= value * processors * 1.000001
    assert value * processors <= seconds / (first - started[1]) * 1.000001


def start(root: Path) -> tuple[Lines, tuple[float, float]]:
    before = time.monotonic()
    collector = collectors([], root)["cpu"]
    return collector, (before, time.monotonic())


def test_cpu_v2(tmp_path: Path) -> None:
    """Processor time is a share of the quota."""
    root = v2(tmp_path, "/app", {"app": v2_cpu("25000 100000", 7_000_000)})
    collector, started = start(root)
    time.sleep(0.1)
    write(root / "sys/fs/cgroup/app", v2_cpu("25000 100000", 7_010_000))
    between(collector, started, 0.01, 0.25)


@pytest.mark.parametrize(("usage", "share"), [(60_000_000, 1.0), (1_000, 0.0)], ids=["ahead", "back"])
def test_cpu_stays_a_share(tmp_path: Path, usage: int, share: float) -> None:
    """Usage above the quota is 1, and a counter that went back is 0."""
    root = v2(tmp_path, "/app", {"app": v2_cpu("50000 100000", 7_000_000)})
    collector, _ = start(root)
    time.sleep(0.06)
    write(root / "sys/fs/cgroup/app", v2_cpu("50000 100000", usage))
    assert cpu(collector) == share


def test_cpu_scrapers_close_together(tmp_path: Path) -> None:
    """A second scraper within a second gets the value of the first, and does not shorten the next interval."""
    root = v2(tmp_path, "/app", {"app": v2_cpu("50000 100000", 0)})
    collector, (begun, _) = start(root)
    assert cpu(collector) is None or time.monotonic() - begun >= 0.05  # too early for a first value
    time.sleep(0.06)
    write(root / "sys/fs/cgroup/app", v2_cpu("50000 100000", 10_000))
    first, started = cpu(collector), time.monotonic()
    write(root / "sys/fs/cgroup/app", v2_cpu("50000 100000", 60_010_000))
    assert first is not None
    assert 0 < first < 1
    assert cpu(collector) == first
    time.sleep(max(1.01 - (time.monotonic() - started), 0))
    assert cpu(collector) == 1.0


@pytest.mark.parametrize("quota", ["max 100000", "99900000 100000"], ids=["none", "more than there is"])
def test_cpu_without_quota(tmp_path: Path, quota: str) -> None:
    """Without a quota, or with one above the machine's processors, the machine counts."""
    root = v2(tmp_path, "/app", {"app": v2_cpu(quota, 0)})
    collector, _ = start(root)
    before, deadline = psutil.cpu_times(), time.monotonic() + 0.3
    while time.monotonic() < deadline:
        pass
    value, after = cpu(collector), psutil.cpu_times()
    assert value is not None
    assert value == pytest.approx(1 - (after.idle - before.idle) / (sum(after) - sum(before)), abs=0.25)
    assert value > 0.2 / (psutil.cpu_count() or 1)


def test_disk_as_df(tmp_path: Path) -> None:
    """The share is used space over the space available to ordinary users, as in df."""
    (sample,) = samples(collectors([tmp_path])["disk"])
    disk = os.statvfs(tmp_path)
    used = disk.f_blocks - disk.f_bfree
    assert sample.labels == {"path": str(tmp_path)}
    assert sample.value == pytest.approx(used / (used + disk.f_bavail), abs=0.01)


def test_disk_once_a_device(tmp_path: Path) -> None:
    """Two paths on one file system are one series; a missing path is replaced by its nearest parent."""
    shared_memory = Path("/dev/shm")
    missing = tmp_path / "not" / "yet"
    paths = [sample.labels["path"] for sample in samples(collectors([missing, tmp_path, shared_memory])["disk"])]
    distinct = shared_memory.exists() and shared_memory.stat().st_dev != tmp_path.stat().st_dev
    assert paths == [str(missing), str(shared_memory)] if distinct else [str(missing)]


def test_collectors_of_this_machine() -> None:
    """On the machine of the test each collector reads the actual values, without registration."""
    all_collectors = collectors([Path("/")])
    time.sleep(0.06)
    assert list(all_collectors)[:3] == ["cpu", "memory", "disk"]
    for name in ("cpu", "memory"):
        values = {sample.name: sample.value for sample in samples(all_collectors[name])}
        value = values.get(f"model_system_{name}_utilization_ratio")
        assert value is not None
        assert 0 <= value <= 1


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has the driver")
def test_gpu_without_the_library(tmp_path: Path) -> None:
    """A device without the driver's library, as in some containers, is no GPU and no error."""
    write(tmp_path, {"dev/nvidiactl": ""})
    assert list(collectors([], tmp_path)) == ["cpu", "memory", "disk"]
