"""Snapshots of the counts of pairs of versions, so that they survive a restart."""

from __future__ import annotations

import logging
import math

import msgspec
import numpy as np

from exporter.monitoring.registry import MonitorRegistry
from exporter.monitoring.shared_counts import Pair, SharedCounts, Side, bins_of, totals_size
from exporter.monitoring.snapshot_encoding import pack, unpack
from exporter.storage import Store

log = logging.getLogger(__name__)

SEPARATOR = "\n"
"""Separates the two versions in the key of a pair's row; no version holds it."""
MAX_BYTES = 64 * 2**20
"""Largest pair, uncompressed: that of a profile with four million bins."""


class _Side(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A version: ``bins`` as from `bins_of`, ``counts`` float64 as bytes."""

    version: str
    appeared: float
    bins: str
    counts: bytes


class _Pair(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    before: _Side
    after: _Side
    start: float
    end: float
    seconds: float


def encode(pair: Pair) -> bytes:
    """Return a pair as bytes."""
    saved = _Pair(_saved(pair.before), _saved(pair.after), pair.start, pair.end, pair.seconds)
    return pack(saved)


def _saved(side: Side) -> _Side:
    return _Side(side.version, side.appeared, bins_of(side.binner), side.counts.tobytes())


def decode(data: bytes, model: str, monitors: MonitorRegistry) -> Pair | None:
    """Return the pair in the data; None if a version has another profile now.

    Raises
    ------
    ValueError
        When the data are not a pair.
    """
    saved = unpack(data, _Pair, MAX_BYTES)
    sides = []
    for side in (saved.before, saved.after):
        binner = monitors.binner(model, side.version)
        if bins_of(binner) != side.bins:
            return None
        counts = np.frombuffer(side.counts).copy()  # the array of the bytes cannot be written to
        if len(counts) != totals_size(binner) or not np.isfinite(counts).all() or not math.isfinite(side.appeared):
            raise ValueError("its counts are not those of the profile")
        sides.append(Side(side.version, side.appeared, binner, counts))
    if not all(map(math.isfinite, (saved.start, saved.end, saved.seconds))):
        raise ValueError("its times are not numbers")
    return Pair(sides[0], sides[1], saved.start, saved.end, saved.seconds)


def restore(rows: list[tuple[str, str, bytes]], monitors: MonitorRegistry, shared: SharedCounts) -> None:
    """Restore the pairs among the rows of a store's snapshots; a snapshot that does not fit is ignored."""
    for model, key, data in rows:
        if SEPARATOR not in key or model not in monitors.models:
            continue
        versions = " and ".join(map(repr, key.split(SEPARATOR)))
        try:
            pair = decode(data, model, monitors)
        except ValueError as error:
            log.warning("the comparison of %r versions %s starts anew: it is damaged: %s", model, versions, error)
            continue
        if pair is None:
            log.info("the comparison of %r versions %s starts anew: a profile changed", model, versions)
        else:
            shared.put(model, pair)


class PairSaver:
    """Saves the pairs that have changed.

    Parameters
    ----------
    store
        The store.
    shared
        The pairs.
    """

    def __init__(self, store: Store, shared: SharedCounts) -> None:
        self._store = store
        self._shared = shared
        self._saved: dict[tuple[str, str], int] = {}

    def save(self) -> set[tuple[str, str]]:
        """Save what has changed, and return the keys of all pairs."""
        pairs = {(m, f"{b}{SEPARATOR}{a}"): data for (m, b, a), data in self._shared.read(encode).items()}
        for (model, key), data in pairs.items():
            if self._saved.get((model, key)) != hash(data):
                self._store.snapshots.save(model, key, data)
        self._saved = {key: hash(data) for key, data in pairs.items()}
        return set(pairs)
