"""Store the bins of predictions in blocks, so that a million can be read quickly."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from exporter.storage._schema import bin_codes, predictions, storable

Codes = npt.NDArray[np.unsignedinteger]
READ = 50
"""Rows of the table that one query reads."""


class BinBlock(NamedTuple):
    """The bins of predictions of one version that arrived one after another.

    Attributes
    ----------
    model, version
        Of the predictions.
    layout
        Identifies the targets and their bins, see `exporter.monitoring.binner.Binner`.
    first, last
        When the first and the last one were received, Unix time in seconds.
    ids
        `hash_ids` of each one's identifier, shape ``(n,)``.
    confident
        Whether each one counts as confident, shape ``(n,)``.
    codes
        Index of the bin of each of ``T`` targets, shape ``(T, n)``.
    """

    model: str
    version: str
    layout: str
    first: float
    last: float
    ids: npt.NDArray[np.uint32]
    confident: npt.NDArray[np.bool_]
    codes: Codes


class StoredBlock(NamedTuple):
    """A row of the table without its data."""

    seq: int
    version: str
    first: float
    last: float
    rows: int


def hash_ids(ids: Iterable[str]) -> npt.NDArray[np.uint32]:
    """Return a number of 32 bits for each identifier, by which corrections and labels find their predictions.

    Of a million predictions, one in 4,000 shares its number with another one.
    """
    return np.array([zlib.crc32(id_.encode("utf-8", "surrogatepass")) for id_ in ids], dtype=np.uint32)


def insert_block(connection: sa.Connection, block: BinBlock) -> None:
    """Store the bins of predictions."""
    parts = (block.ids.astype("<u4"), block.confident.astype(np.uint8), _little_endian(block.codes))
    connection.execute(
        bin_codes.insert().values(
            model=storable(block.model),
            version=storable(block.version),
            layout=storable(block.layout),
            first=block.first,
            last=block.last,
            rows=len(block.ids),
            data=b"".join(part.tobytes() for part in parts),
        )
    )


class BlockFilter(NamedTuple):
    """Selects blocks.

    Attributes
    ----------
    model, layout, version
        Of the predictions; all versions when None.
    since
        Unix time in seconds; a block that is partly older is not selected.
    """

    model: str
    layout: str
    version: str | None
    since: float


Reading = Callable[[], AbstractContextManager[sa.Connection]]
"""Opens a connection to read with."""


class RecordedBins:
    """The recorded bins of predictions.

    Parameters
    ----------
    reading
        Opens a connection to read with.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def newest(self, chosen: BlockFilter, rows: int) -> tuple[list[StoredBlock], bool]:
        """Return the newest blocks, with at most so many predictions.

        Returns
        -------
        tuple
            The blocks, the oldest first, and whether older ones were left out for their number.
        """
        table = bin_codes.c
        # The condition on the last one is of an indexed column.
        query = sa.select(table.seq, table.version, table.first, table.last, table.rows).where(
            *_of(chosen), table.first >= chosen.since, table.last >= chosen.since
        )
        blocks: list[StoredBlock] = []
        total = 0
        query = query.order_by(table.last.desc(), table.seq.desc())
        with self._reading() as connection, connection.execute(query, execution_options={"yield_per": 1000}) as result:
            for row in result:
                total += row.rows
                if total > rows:
                    return blocks[::-1], True
                blocks.append(StoredBlock(*row))
        return blocks[::-1], False

    def versions(self, model: str, since: float, other_layout: str | None = None) -> list[str]:
        """Return the versions of a model with bins of predictions since a Unix time in seconds, at most 20.

        With ``other_layout``, only those without any in this layout.
        """
        table = bin_codes.c
        query = sa.select(table.version).where(table.model == model, table.last >= since)
        query = query.group_by(table.version).order_by(table.version).limit(20)
        if other_layout is not None:
            query = query.having(sa.func.max(sa.case((table.layout == other_layout, 1), else_=0)) == 0)
        with self._reading() as connection:
            return [*connection.execute(query).scalars()]

    def read(
        self, blocks: Sequence[StoredBlock], targets: int, dtype: npt.DTypeLike
    ) -> Iterator[tuple[StoredBlock, npt.NDArray[np.uint32], npt.NDArray[np.bool_], Codes]]:
        """Yield the data of blocks: hashes of identifiers, whether they are confident, and codes; see `BinBlock`.

        Blocks that were deleted meanwhile, or whose data are not as expected, are left out.
        """
        width = np.dtype(dtype).itemsize
        for start in range(0, len(blocks), READ):
            chosen = {block.seq: block for block in blocks[start : start + READ]}
            query = sa.select(bin_codes.c.seq, bin_codes.c.data).where(bin_codes.c.seq.in_([*chosen]))
            with self._reading() as connection:
                found = connection.execute(query).all()
            for seq, data in found:
                block, rows = chosen[seq], chosen[seq].rows
                if len(data) != rows * (5 + targets * width):
                    continue
                ids = np.frombuffer(data, "<u4", rows)
                confident = np.frombuffer(data, np.uint8, rows, 4 * rows).view(np.bool_)
                codes = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"), rows * targets, 5 * rows)
                yield block, ids, confident, codes.reshape(targets, rows)


def _of(chosen: BlockFilter) -> Iterator[sa.ColumnElement[bool]]:
    yield bin_codes.c.model == chosen.model
    yield bin_codes.c.layout == chosen.layout
    if chosen.version is not None:
        yield bin_codes.c.version == chosen.version


def delete_old_blocks(connection: sa.Connection, limit: int) -> None:
    """Delete blocks all of whose predictions were deleted: they are as old as predictions may be, or the store is full.

    Only whole blocks are deleted, the oldest first, at most ``limit``.
    """
    oldest = sa.select(predictions.c.received).order_by(predictions.c.seq).limit(1).scalar_subquery()
    numbers = sa.select(bin_codes.c.seq).order_by(bin_codes.c.seq).limit(limit)
    is_old = (bin_codes.c.last < oldest) | ~sa.exists(sa.select(predictions.c.seq))
    connection.execute(bin_codes.delete().where(bin_codes.c.seq.in_(numbers), is_old))


def _little_endian(codes: Codes) -> Codes:
    return codes.astype(codes.dtype.newbyteorder("<"), copy=False)
