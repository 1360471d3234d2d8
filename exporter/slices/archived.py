"""Read the bins of archived predictions, computed from their inputs."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from exporter.config import StoreConfig
from exporter.features.lenient_json import decode_inputs
from exporter.monitoring.binner import Binner
from exporter.slices.population import Population, most_rows
from exporter.slices.recorder import BLOCK_SECONDS, output_bins
from exporter.storage.archive import Archive, ArchiveFilter, archived_up_to
from exporter.storage.bin_codes import BlockFilter, hash_ids, oldest_block
from exporter.storage.schema import predictions
from exporter.storage.stored_text import decode_label, rfc3339
from exporter.validation import parse_duration

MAX_ROWS = 300_000
"""Archived predictions that are read at most, the newest first: their bins are computed."""
_COLUMNS = ["id", "inputs", "prediction", "confidence", "confident", "received", "loss"]


class ArchivedPredictions:
    """The predictions that have left the database.

    Parameters
    ----------
    config
        The configuration of the store; its ``archive`` is set.
    """

    def __init__(self, config: StoreConfig) -> None:
        self._archive = Archive(config.archive or "", config.archive_share)
        self._retention = parse_duration(config.retention)

    def before(
        self, connection: sa.Connection, population: Population, binner: Binner, blocks: BlockFilter
    ) -> Population:
        """Return a population with the archived predictions before it.

        Parameters
        ----------
        connection
            To read with.
        population
            The predictions whose bins are stored.
        binner
            Whose bins are wanted, whatever the profile that a version had.
        blocks
            Which predictions are wanted.

        Returns
        -------
        Population
            The same, if there are none; else its ``share`` is that of the archive.

        Raises
        ------
        StoreError
            When the archive cannot be read.
        """
        last = archived_up_to(connection)
        until = oldest_block(connection, blocks)
        connection.rollback()
        room = min(MAX_ROWS, most_rows(binner) - population.rows)
        if population.truncated or not last or blocks.since >= min(until, time.time() - self._retention):
            return population
        chosen = ArchiveFilter(blocks.model, blocks.version, blocks.since, last, until)
        parts = read_bins(self._archive, binner, chosen, room)
        archived = sum(part.rows for part in parts)
        if not archived:
            return population
        remarks = _left_out(connection, last, until)
        joined = _join([*parts, population])._replace(share=self._archive.share, remarks=remarks)
        if archived <= room:
            return joined
        newest = np.arange(joined.rows) >= archived - room
        return joined.select(newest)._replace(truncated=True)

    def with_late_losses(self, population: Population, blocks: BlockFilter) -> Population:
        """Return a population of `before` with the losses of labels that came too late to be in its archived rows.

        Raises
        ------
        StoreError
            When the archive cannot be read.
        """
        if population.losses is None:
            return population
        losses = population.losses.copy()
        for ids, late in self._archive.late_losses(ArchiveFilter(blocks.model, None, blocks.since, 0)):
            positions = population.find(ids[::-1])  # the newest of several labels of a prediction
            losses[positions >= 0] = np.array(late[::-1])[positions[positions >= 0]]
        return population._replace(losses=losses)


def _left_out(connection: sa.Connection, last: int, until: float) -> tuple[str, ...]:
    """Return a remark if predictions that are not archived are older than the bins, whose profile or redaction is new.

    Parameters
    ----------
    connection
        To read with.
    last
        The number of the last archived prediction.
    until
        When the oldest block of bins began, Unix time in seconds.
    """
    query = sa.select(predictions.c.received).where(predictions.c.seq > last).order_by(predictions.c.seq).limit(1)
    oldest = connection.execute(query).scalar()
    connection.rollback()
    if oldest is None or oldest > until - BLOCK_SECONDS:
        return ()
    if until == math.inf:
        return ("Bins of the present profile are not recorded yet: only archived predictions are looked at.",)
    since = rfc3339(float(math.ceil(until)))
    return (f"Bins of the present profile are recorded since {since}: earlier predictions only if they are archived.",)


def read_bins(archive: Archive, binner: Binner, chosen: ArchiveFilter, rows: int) -> list[Population]:
    """Return archived predictions in parts, the newest ones, until there are more than so many."""
    parts: deque[Population] = deque()
    for batches in archive.newest_files(_COLUMNS, chosen):
        room = rows - sum(part.rows for part in parts)
        file: deque[Population] = deque()
        for batch in batches:
            file.append(_binned(binner, batch))
            while sum(part.rows for part in file) - file[0].rows > room:  # the bins of a whole file may be too many
                file.popleft()
        parts.extendleft(reversed(file))
        if sum(part.rows for part in parts) > rows:
            break
    return list(parts)


def _binned(binner: Binner, rows: Sequence[Mapping[str, Any]]) -> Population:
    decoded = decode_inputs([(row["inputs"] or "").encode("utf-8", "replace") for row in rows])
    times = np.array([row["received"].timestamp() for row in rows])
    codes = binner.empty_codes(len(rows))
    binner.count([decoded.get(index, {}) for index in range(len(rows))], [], times, codes=codes)
    for target, values in (
        (binner.prediction, [decode_label(row["prediction"]) for row in rows]),
        (binner.confidence, [row["confidence"] for row in rows]),
    ):
        if target is not None:
            codes[target] = output_bins(binner, target, values)
    ids = hash_ids([row["id"] for row in rows])
    confident = np.array([row["confident"] for row in rows], np.bool_)
    losses = np.array([row["loss"] for row in rows], np.float64)
    return Population(codes, ids, confident, times, truncated=False, losses=losses)


def _join(parts: Sequence[Population]) -> Population:
    """Return populations as one; the last one has the newest predictions."""
    codes, ids, confident, times = (
        np.concatenate(arrays, axis=-1) for arrays in zip(*(itertools.islice(part, 4) for part in parts), strict=True)
    )
    losses = np.concatenate([np.full(part.rows, np.nan) if part.losses is None else part.losses for part in parts])
    return parts[-1]._replace(codes=codes, ids=ids, confident=confident, times=times, losses=losses)
