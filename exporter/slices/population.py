"""Read the bins of stored predictions, and find the hours in which they had drifted."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from exporter.features.base import decode_label
from exporter.features.json_inputs import decode_inputs
from exporter.monitoring.binner import Binner
from exporter.profiles.bins import feature_bins
from exporter.slices.recorder import output_bins
from exporter.slices.search import Bins
from exporter.stats.divergence import Floats, Ints
from exporter.storage import BlockFilter, Codes, Filter, RecordedBins, Store, hash_ids
from exporter.validation import preview, suggestion

MAX_ROWS, MAX_BYTES = 2_000_000, 64 * 2**20
"""Predictions, and bytes of their bins, that are read at most, the newest first."""


class Population(NamedTuple):
    """Stored predictions of one model in the bins of one profile.

    Attributes
    ----------
    codes
        Index of the bin of each target, shape ``(T, n)``.
    ids
        See `exporter.storage._bins.hash_ids`, shape ``(n,)``.
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
    return min(MAX_ROWS, MAX_BYTES // max(len(binner.targets) * binner.code_type.itemsize, 1))


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
