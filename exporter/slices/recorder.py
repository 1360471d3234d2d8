"""Collect the bins of predictions as they are counted, and store them in blocks."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from exporter.errors import StoreError
from exporter.features.base import numeric_column
from exporter.monitoring.binner import Binner, Codes
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.profiles.bins import feature_bins
from exporter.profiles.profile import NumericFeature
from exporter.storage import BinBlock, Store, hash_ids
from exporter.wire.batch import Batch

log = logging.getLogger(__name__)

BLOCK_ROWS, BLOCK_SECONDS = 8192, 60.0
"""A block is stored once it has so many predictions, or its first one is as old as this."""
MAX_BYTES = 32 * 2**20
"""Bytes of bins that wait for their block; with more, all are stored."""
MAX_WAITING = 16
"""Blocks that may wait for the disk before others are stored, one of each version; with more, those are dropped, and
their predictions are missing from slices."""


class _Part(NamedTuple):
    """Predictions of one batch."""

    received: float
    ids: npt.NDArray[np.uint32]
    confident: npt.NDArray[np.bool_]
    codes: Codes


class BinRecorder:
    """Collects bins in memory, and stores them; safe between threads.

    Only predictions whose inputs are stored are recorded, and no bins of redacted inputs.

    Parameters
    ----------
    store
        Where the blocks are stored.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: dict[tuple[str, str, str], list[_Part]] = {}
        self._bytes = 0
        self._waiting: deque[Future[None]] = deque()
        self._lock = threading.Lock()

    def add(self, monitor: ModelMonitor, batch: Batch, bins: Codes, received: float) -> None:
        """Add those predictions of a batch whose inputs are stored.

        Parameters
        ----------
        monitor
            Which counted them: their number is limited, and that of the versions that clients send is not.
        batch
            The predictions.
        bins
            The bins of their inputs, from `ModelMonitor.observe`.
        received
            When they arrived, Unix time in seconds.
        """
        binner = monitor.binner
        if binner is None:
            return
        indices = range(batch.rows) if batch.inputs.indices is None else batch.inputs.indices
        rows = [row for row, index in enumerate(indices) if batch.kept[index]]
        chosen = [indices[row] for row in rows]
        if not chosen:
            return
        codes = bins if len(rows) == bins.shape[1] else bins[:, rows]
        is_whole = len(chosen) == batch.rows
        for target, values in ((binner.prediction, batch.predictions), (binner.confidence, batch.confidences)):
            if target is not None:
                codes[target] = output_bins(binner, target, values if is_whole else [values[i] for i in chosen])
        ids = batch.ids if is_whole else [batch.ids[i] for i in chosen]
        part = _Part(received, hash_ids(ids), batch.confident[chosen], codes)
        key = monitor.config.name, monitor.version, binner.layout
        with self._lock:
            self._open.setdefault(key, []).append(part)
            self._bytes += part.codes.nbytes
            self._store_full()

    def _store_full(self) -> None:
        has_room = self._has_room()
        for key, parts in list(self._open.items()):
            if self._bytes > MAX_BYTES or sum(len(part.ids) for part in parts) >= BLOCK_ROWS:
                self._submit(key, has_room)

    def flush(self, seconds: float = 0.0) -> Future[None] | None:
        """Store the blocks that are so old; return what is done once the last one is on disk, None without any."""
        oldest = time.time() - seconds
        with self._lock:
            has_room = self._has_room()
            for key, parts in list(self._open.items()):
                if parts[0].received <= oldest or parts[0].received > time.time() + BLOCK_SECONDS:
                    self._submit(key, has_room)
            return self._waiting[-1] if self._waiting else None

    def _has_room(self) -> bool:
        """Return whether further blocks may wait for the disk. The caller holds the lock."""
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft()
        return len(self._waiting) < MAX_WAITING

    def _submit(self, key: tuple[str, str, str], has_room: bool) -> None:
        """Pass a block to the store. The caller holds the lock."""
        parts = self._open.pop(key)
        self._bytes -= sum(part.codes.nbytes for part in parts)
        if not has_room:
            log.warning(
                "the store is slow: predictions whose bins are not recorded: %d", sum(len(p.ids) for p in parts)
            )
            return
        model, version, layout = key
        received = [part.received for part in parts]
        block = BinBlock(
            model,
            version,
            layout,
            min(received),
            max(received),
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.confident for part in parts]),
            np.concatenate([part.codes for part in parts], axis=1),
        )
        try:
            self._waiting.append(self._store.add_bins(block))
        except StoreError:
            log.warning("the store fails: predictions whose bins are not recorded: %d", len(block.ids))


def output_bins(binner: Binner, target: int, values: Any) -> Any:
    """Return the bins of ``n`` predictions or confidences, given the index of that target; shape ``(n,)``."""
    feature = binner.targets[target]
    return feature_bins(feature, numeric_column(values) if isinstance(feature, NumericFeature) else values)
