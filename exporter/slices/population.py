"""Record the bins of predictions in the store, and read them as the population of which slices are parts."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from exporter.errors import StoreError
from exporter.features.base import decode_label, numeric_column
from exporter.features.json_inputs import decode_inputs
from exporter.monitoring.binner import Binner, Codes
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.profiles.bins import feature_bins
from exporter.profiles.profile import NumericFeature
from exporter.slices.search import Bins
from exporter.stats.divergence import Floats, Ints
from exporter.storage import BinBlock, BlockFilter, Filter, RecordedBins, Store, hash_ids
from exporter.validation import preview, suggestion
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
        self._open: dict[tuple[str, str, str], list[_Part]] = {}  # the oldest first
        self._rows = Counter[tuple[str, str, str]]()
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
            self._rows[key] += len(part.ids)
            self._bytes += part.codes.nbytes
            if self._rows[key] >= BLOCK_ROWS:
                self._submit(key)
            while self._bytes > MAX_BYTES:
                self._submit(next(iter(self._open)))

    def flush(self, seconds: float = 0.0) -> Future[None] | None:
        """Store the blocks that are so old; return what is done once the last one is on disk, None without any."""
        now = time.time()
        with self._lock:
            while self._open:  # a clock that went back may have left a later time
                key, parts = next(iter(self._open.items()))
                if now - seconds < parts[0].received <= now + BLOCK_SECONDS:
                    break
                self._submit(key)
            return self._waiting[-1] if self._waiting else None

    def _submit(self, key: tuple[str, str, str]) -> None:
        """Pass a block to the store, unless too many wait for the disk. The caller holds the lock."""
        parts, rows = self._open.pop(key), self._rows.pop(key)
        self._bytes -= sum(part.codes.nbytes for part in parts)
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft()
        if len(self._waiting) >= MAX_WAITING:
            log.warning("the store is slow: predictions whose bins are not recorded: %d", rows)
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


READ_ROWS, READ_BYTES = 2_000_000, 64 * 2**20
"""Predictions, and bytes of their bins, that are read at most, the newest first."""


class Population(NamedTuple):
    """Stored predictions of one model in the bins of one profile.

    Attributes
    ----------
    codes
        Index of the bin of each target, shape ``(T, n)``.
    ids
        See `exporter.storage._predictions.hash_ids`, shape ``(n,)``.
    confident
        Shape ``(n,)``.
    times
        When each one was received, within a minute, Unix time in seconds, shape ``(n,)``.
    truncated
        Whether there are older ones that were not read.
    remarks
        What a reader should know, in sentences.
    """

    codes: Codes
    ids: npt.NDArray[np.uint32]
    confident: npt.NDArray[np.bool_]
    times: Floats
    truncated: bool
    remarks: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """The number ``n`` of predictions."""
        return len(self.ids)

    def select(self, chosen: npt.NDArray[np.bool_]) -> Population:
        """Return some of the predictions."""
        if chosen.all():
            return self
        return self._replace(
            codes=self.codes[:, chosen],
            ids=self.ids[chosen],
            confident=self.confident[chosen],
            times=self.times[chosen],
        )

    def find(self, ids: Sequence[str]) -> Ints:
        """Return the position of each prediction's identifier in a list, -1 where it is not there, shape ``(n,)``."""
        hashes = hash_ids(ids)
        if not len(hashes):
            return np.full(len(self.ids), -1)
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        positions = np.minimum(np.searchsorted(ordered, self.ids), len(ordered) - 1)
        found: Ints = np.where(ordered[positions] == self.ids, order[positions], -1)
        return found


def read_population(bins: RecordedBins, binner: Binner, chosen: BlockFilter) -> Population:
    """Read the predictions that a filter selects, the newest ones.

    Parameters
    ----------
    bins
        The recorded bins.
    binner
        Whose bins are wanted.
    chosen
        Selects blocks of its layout: predictions in the bins of another profile are not read.
    """
    targets = len(binner.targets)
    blocks, truncated = bins.newest(chosen, most_rows(binner))
    rows = sum(block.rows for block in blocks)
    codes: Any = np.empty((targets, rows), binner.code_type)
    ids, confident, times = np.empty(rows, np.uint32), np.empty(rows, np.bool_), np.empty(rows)
    stop = 0
    for block, block_ids, block_confident, block_codes in bins.read(blocks, targets, binner.code_type):
        start, stop = stop, stop + block.rows
        ids[start:stop], confident[start:stop], times[start:stop] = block_ids, block_confident, block.last
        codes[:, start:stop] = block_codes
    return Population(codes[:, :stop], ids[:stop], confident[:stop], times[:stop], truncated)


def most_rows(binner: Binner) -> int:
    """Return how many predictions are read at most."""
    return min(READ_ROWS, READ_BYTES // max(len(binner.targets) * binner.code_type.itemsize, 1))


MOST_LOOKED_AT, LOOK_SECONDS = 100_000, 5.0
"""Corrections whose inputs are looked at, the newest ones that the rest of a filter selects, and time for it."""


def parse_bins(binner: Binner, text: str) -> Bins:
    """Return the bins that a JSON object names by feature, as ``where`` of ``GET /v1/slices`` does.

    Raises
    ------
    ValueError
        When it names none, or one that the profile does not have.
    """
    try:
        names = msgspec.json.decode(text, type=dict[str, str])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        names = {}
    if not names:
        example = '{"carrier": "03 MQ"}'
        raise ValueError(f"expected a JSON object of features and bins such as {example}, got {preview(text)}")
    bins: list[tuple[int, int]] = []
    for name, label in names.items():
        if name not in binner.target_names:
            raise ValueError(f"the profile has no feature {preview(name)}; {suggestion(name, binner.target_names)}")
        index = binner.target_names.index(name)
        labels = binner.targets[index].labels()
        if label not in labels:
            raise ValueError(f"{preview(name)} has no bin {preview(label)}; {suggestion(label, labels)}")
        bins.append((index, labels.index(label)))
    return tuple(bins)


def find_corrections(store: Store, binner: Binner, bins: Bins, chosen: Filter) -> tuple[list[int], bool]:
    """Return the identifiers of those corrections that are in a slice.

    Parameters
    ----------
    store
        The corrections.
    binner
        Whose bins are meant, whatever the version of a correction's prediction.
    bins
        The slice.
    chosen
        The corrections that are looked at; those without stored inputs are in no slice.

    Returns
    -------
    tuple
        The identifiers, and whether there are older corrections that were not looked at: more than `MOST_LOOKED_AT`,
        or than can be looked at in `LOOK_SECONDS`, such as large images.
    """
    end = time.monotonic() + LOOK_SECONDS
    found: list[int] = []
    has_older = False
    with contextlib.closing(store.review.predictions(chosen, MOST_LOOKED_AT)) as parts:
        for rows, is_truncated in parts:
            has_older = is_truncated
            found += [row.id for row, inside in zip(rows, _are_inside(binner, bins, rows), strict=True) if inside]
            if time.monotonic() > end:
                break
    return found, has_older


def _are_inside(binner: Binner, bins: Bins, rows: Any) -> Any:
    decoded = decode_inputs([row.inputs.encode("utf-8", "replace") for row in rows])
    times = np.array([row.time for row in rows])
    inside = np.ones(len(rows), np.bool_)
    for target, bin_index in bins:
        if target == binner.prediction:
            codes = output_bins(binner, target, [decode_label(row.prediction) for row in rows])
        elif target == binner.confidence:
            codes = output_bins(binner, target, [row.confidence for row in rows])
        else:
            name = binner.target_names[target]
            source, kind = next((s, k) for s, k in binner.inputs.items() if name in k.features(s))
            values = [decoded.get(index, {}).get(source) for index in range(len(rows))]
            columns = kind.feature_values(values, times)
            codes = feature_bins(binner.targets[target], columns[kind.features(source).index(name)])
        inside &= codes == bin_index
    return inside
