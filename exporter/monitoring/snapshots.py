"""Snapshots of every version's windows in the store, so that they survive a restart.

Counters have no snapshot: they start at zero, as Prometheus expects of a new process.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.quality import EXPECTED, WIDTH
from exporter.monitoring.windows import Ring, RingRows
from exporter.stats.divergence import Floats

SPARE_BYTES = 64 * 2**20
"""What a snapshot may have beyond the rings: its evidence, or the larger rings of an earlier profile."""
MAX_SECONDS = 1e12
"""Largest time in a snapshot: the numbers of sub-windows then fit into 64 bits."""


_RingBytes = tuple[bytes, bytes, bytes]


class Snapshot(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The rings of a monitor as bytes.

    Attributes
    ----------
    fingerprint
        See `fingerprint`: rings with another one do not fit.
    unix_time
        Unix time of the snapshot in seconds.
    ring_time
        The rings' time at the snapshot, in seconds.
    idle
        Seconds since the version was last used.
    rings
        Ticks (int64), sums and minima (float64) of each ring.
    quality_fingerprint
        See `quality_fingerprint`; empty in a snapshot without rings of the quality.
    quality
        The rings of the quality, as in ``rings``.
    evidence
        The state of the evidence of slow change, and the counts that it does not have yet; empty in a snapshot without.
    """

    fingerprint: str
    unix_time: float
    ring_time: float
    idle: float
    rings: list[_RingBytes]
    quality_fingerprint: str = ""
    quality: list[_RingBytes] = []
    evidence: tuple[bytes, bytes] = (b"", b"")


def fingerprint(monitor: ModelMonitor) -> str:
    """Return the SHA-256 of what decides the meaning of a monitor's rings; empty without a profile."""
    binner, segments = monitor.binner, monitor.segments
    if binner is None:
        return ""
    segmentation = [segments.source, *segments.names] if segments else []
    return _sha256(
        [binner.profile.known_hash(), list(monitor.windows.items()), binner.names, binner.width, segmentation]
    )


def quality_fingerprint(monitor: ModelMonitor) -> str:
    """Return the SHA-256 of what decides the meaning of a monitor's rings of the quality."""
    lengths = {name: ring.step for name, ring in monitor.quality.rings.items()}
    return _sha256([monitor.quality.scorer.task, list(lengths.items()), WIDTH])


def _sha256(parts: list[Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def encode(monitor: ModelMonitor, now: float, unix_time: float) -> bytes:
    """Return a snapshot of a monitor's rings at the monotonic time ``now``."""
    ring_time, rings, quality = monitor.dump(now)
    state, counts = monitor.dump_evidence()
    snapshot = Snapshot(
        fingerprint(monitor),
        unix_time,
        ring_time,
        now - monitor.last_used,
        _as_bytes(rings),
        quality_fingerprint(monitor),
        _as_bytes(quality),
        (state.tobytes(), counts.tobytes()),
    )
    return pack(snapshot)


def _as_bytes(rings: Sequence[RingRows]) -> list[_RingBytes]:
    return [(ticks.tobytes(), sums.tobytes(), minima.tobytes()) for ticks, sums, minima in rings]


def decode(data: bytes, monitor: ModelMonitor) -> Snapshot:
    """Return the snapshot in the data.

    Raises
    ------
    ValueError
        When the data are not a snapshot, or one much larger than the monitor's rings, uncompressed.
    """
    rings = *monitor.all_rings(), *monitor.quality.rings.values()
    snapshot = unpack(data, Snapshot, SPARE_BYTES + 2 * sum(ring.nbytes for ring in rings))
    if not all(abs(time) < MAX_SECONDS for time in (snapshot.unix_time, snapshot.ring_time, snapshot.idle)):
        raise ValueError("its times are not possible")
    return snapshot


def restore_version(monitor: ModelMonitor, snapshot: Snapshot, now: float, unix_time: float) -> float | None:
    """Restore the rings of a version; return the seconds since it was last used, None for rings that do not fit.

    With another profile, what was measured with labels is kept, without what the earlier profile expected.
    """
    is_known = quality_fingerprint(monitor) == snapshot.quality_fingerprint
    is_same = fingerprint(monitor) == snapshot.fingerprint
    quality = _from_bytes(monitor.quality.rings.values(), snapshot.quality) if is_known else []
    rings = _from_bytes(monitor.all_rings(), snapshot.rings) if is_same else monitor.dump(now)[1]
    for _, sums, _ in quality if not is_same else ():
        sums[:, EXPECTED] = 0.0
    passed = max(unix_time - snapshot.unix_time, 0.0)
    monitor.restore(now, snapshot.ring_time + passed, rings, quality)
    if is_same and any(snapshot.evidence):
        monitor.restore_evidence(*map(np.frombuffer, snapshot.evidence))
    if quality:
        monitor.quality.until = snapshot.unix_time
    fits = (monitor.binner or is_known) if is_same else monitor.quality.is_labelled
    return snapshot.idle + passed if fits else None


def _from_bytes(rings: Iterable[Ring], saved: Sequence[_RingBytes]) -> list[RingRows]:
    """Return the rows of rings, none of which may be missing."""
    restored: list[RingRows] = []
    for ring, (ticks, sums, minima) in zip(rings, saved, strict=True):
        numbers = np.frombuffer(ticks, np.int64) if ticks else np.empty(0, np.int64)
        restored.append(
            (numbers, _floats(sums, len(numbers), ring.shape[0]), _floats(minima, len(numbers), ring.shape[1]))
        )
    return restored


def _floats(data: bytes, rows: int, width: int) -> Floats:
    return np.frombuffer(data).reshape(rows, width).copy() if data else np.empty((rows, width))


_T = TypeVar("_T", bound=msgspec.Struct)


def pack(value: msgspec.Struct) -> bytes:
    """Return a struct as bytes."""
    return zlib.compress(msgspec.msgpack.encode(value), 1)


def unpack(data: bytes, kind: type[_T], max_bytes: int) -> _T:
    """Return the struct in the data.

    Raises
    ------
    ValueError
        When the data do not hold one, or have more than ``max_bytes`` uncompressed.
    """
    try:
        decompressor = zlib.decompressobj()
        content = decompressor.decompress(data, max_bytes + 1)
        if len(content) > max_bytes:
            raise ValueError(f"it has more than {max_bytes:,} bytes uncompressed")
        if not decompressor.eof:
            raise ValueError("its end is missing")
        return msgspec.msgpack.decode(content, type=kind)
    except zlib.error:
        raise ValueError("its compression is damaged") from None
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None
