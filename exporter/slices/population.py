"""Read the bins of stored predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from exporter.monitoring.binner import Binner
from exporter.stats.divergence import Floats, Ints
from exporter.storage.bin_codes import BlockFilter, Codes, hash_ids, list_blocks, read_blocks

MAX_ROWS, MAX_BYTES = 2_000_000, 64 * 2**20
"""Predictions, and bytes of their bins, that are read at most, the newest first."""


class Population(NamedTuple):
    """Stored predictions of one model in the bins of one profile.

    Attributes
    ----------
    codes
        Index of the bin of each target, shape ``(T, n)``.
    ids
        See `exporter.storage.bin_codes.hash_ids`, shape ``(n,)``.
    confident
        Shape ``(n,)``.
    times
        When each one was received, within a minute, Unix time in seconds, shape ``(n,)``.
    truncated
        Whether there are older ones that were not read.
    share
        Of the older ones, only a random share may be here, and others that were chosen; see `is_sampled`.
    remarks
        What a reader should know, in sentences.
    losses
        Of archived predictions with a label, see `exporter.storage.labels.Loss`; NaN for others, shape ``(n,)``. None
        if no prediction is archived.
    """

    codes: Codes
    ids: npt.NDArray[np.uint32]
    confident: npt.NDArray[np.bool_]
    times: Floats
    truncated: bool
    share: float = 1.0
    remarks: tuple[str, ...] = ()
    losses: Floats | None = None

    @property
    def rows(self) -> int:
        """The number ``n`` of predictions."""
        return len(self.ids)

    @property
    def is_sampled(self) -> npt.NDArray[np.bool_]:
        """Whether each prediction is in the random share, by `exporter.storage.prediction_rows.is_sampled`."""
        return np.asarray(self.ids < self.share * 2**32)

    def select(self, chosen: npt.NDArray[np.bool_]) -> Population:
        """Return some of the predictions."""
        if chosen.all():
            return self
        return self._replace(
            codes=self.codes[:, chosen],
            ids=self.ids[chosen],
            confident=self.confident[chosen],
            times=self.times[chosen],
            losses=None if self.losses is None else self.losses[chosen],
        )

    def find(self, ids: Sequence[str]) -> Ints:
        """Return the position of each prediction's identifier in a list, -1 where it is not there, shape ``(n,)``."""
        return self.find_hashes(hash_ids(ids))

    def find_hashes(self, hashes: npt.NDArray[np.uint32]) -> Ints:
        """Return the same of the hashes of identifiers."""
        if not len(hashes):
            return np.full(len(self.ids), -1)
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        positions = np.minimum(np.searchsorted(ordered, self.ids), len(ordered) - 1)
        found: Ints = np.where(ordered[positions] == self.ids, order[positions], -1)
        return found


def read_population(connection: sa.Connection, binner: Binner, chosen: BlockFilter) -> Population:
    """Read the predictions that a filter selects, the newest ones.

    Parameters
    ----------
    connection
        To read with.
    binner
        Whose bins are wanted.
    chosen
        Selects blocks of its layout: predictions in the bins of another profile are not read.
    """
    targets = len(binner.targets)
    blocks, truncated = list_blocks(connection, chosen, most_rows(binner))
    rows = sum(block.rows for block in blocks)
    codes: Any = np.empty((targets, rows), binner.code_type)
    ids, confident, times = np.empty(rows, np.uint32), np.empty(rows, np.bool_), np.empty(rows)
    stop = 0
    for block, block_ids, block_confident, block_codes in read_blocks(connection, blocks, targets, binner.code_type):
        start, stop = stop, stop + block.rows
        ids[start:stop], confident[start:stop], times[start:stop] = block_ids, block_confident, block.last
        codes[:, start:stop] = block_codes
    return Population(codes[:, :stop], ids[:stop], confident[:stop], times[:stop], truncated)


def most_rows(binner: Binner) -> int:
    """Return how many predictions are read at most."""
    return min(MAX_ROWS, MAX_BYTES // max(len(binner.targets) * binner.code_type.itemsize, 1))
