"""Predictions as rows, their insertion with the fastest statement of each database, and their recorded bins."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import sys
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from exporter.config import sampled_share
from exporter.features.base import label_json
from exporter.storage import _database as db
from exporter.storage._database import inputs
from exporter.wire.batch import Batch
from exporter.wire.events import Feedback, Label, LabelEvent

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

log = logging.getLogger(__name__)

_Key = TypeVar("_Key")

LEVEL = 1
"""Of compression: blocks are as small with 3."""

SHARED = ("day", "model", "received")
"""Columns that have the same value in all rows of a request."""
PER_ROW = tuple(column.name for column in db.predictions.columns if column.name not in {"seq", *SHARED})
"""Columns with a value for each row, the identifier first."""
COLUMNS = SHARED + PER_ROW
"""All columns that are inserted, in order."""

_WIDTH, _BLOCK, _POSITION, _ALIAS = len(PER_ROW), *map(PER_ROW.index, ("block", "position", "alias"))


class Rows(msgspec.Struct, frozen=True, gc=False):
    """Predictions of one model that arrived together, ordered by identifier.

    Attributes
    ----------
    shared
        The values of `SHARED`.
    values
        The values of `PER_ROW`, one row after the other: a list for each row would take more memory than its values.
    inputs
        The JSON of each row's inputs, empty for none; the columns ``block`` and ``position`` are set when it is stored.
    """

    shared: tuple[Any, ...]
    values: list[Any]
    inputs: list[bytes]

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def ids(self) -> list[str]:
        """The identifiers of the predictions."""
        return self.values[::_WIDTH]

    @property
    def size(self) -> int:
        """Bytes of memory that the inputs take."""
        return sum(map(sys.getsizeof, self.inputs))

    def row(self, index: int) -> tuple[Any, ...]:
        """Return one row, as values of `COLUMNS`."""
        return (*self.shared, *self.values[index * _WIDTH : (index + 1) * _WIDTH])

    def prediction(self, index: int) -> dict[str, Any]:
        """Return one row by column, with its ``inputs``."""
        text = self.inputs[index].decode("utf-8", "replace") or None
        return {**dict(zip(COLUMNS, self.row(index), strict=True)), "inputs": text}

    def parts(self, rows: int) -> Iterator[Rows]:
        """Split into parts of at most this number of rows."""
        for start in range(0, len(self.inputs), rows):
            end = start + rows
            yield Rows(self.shared, self.values[start * _WIDTH : end * _WIDTH], self.inputs[start:end])


BLOCK_ROWS, BLOCK_BYTES = 64, 64 * 2**10
"""Predictions whose inputs are compressed together, and bytes of these, at most, unless those of one have more.

Blocks of 256 are 2% smaller, and the inputs of one prediction are read four times as slowly.
"""


def store_inputs(connection: sa.Connection, group: Sequence[Rows]) -> None:
    """Store the inputs of predictions in blocks, compressed with Zstandard (RFC 8878), and tell their rows where.

    The inputs of one prediction are too short to be compressed alone: in a block, names of inputs and frequent values
    are written once. It is called in the transaction that inserts the rows.
    """
    model, compressor = SHARED.index("model"), zstd.ZstdCompressor(level=LEVEL)
    blocks: list[db.Values] = []
    members: list[list[tuple[Rows, int]]] = []
    for rows in group:
        rows.values[_BLOCK::_WIDTH] = rows.values[_POSITION::_WIDTH] = [None] * len(rows)
    for name in sorted({rows.shared[model] for rows in group}):
        found = [
            (rows, index, text)
            for rows in group
            if rows.shared[model] == name
            for index, text in enumerate(rows.inputs)
            if text
        ]
        for chosen in _cut(found):
            data = compressor.compress(pack_block([text for _, _, text in chosen]), zstd.ZstdCompressor.FLUSH_FRAME)
            blocks.append({"model": name, "rows": len(chosen), "data": data})
            members.append([(rows, index) for rows, index, _ in chosen])
    for id_, chosen_rows in zip(_insert_block.keys(connection, blocks), members, strict=True):
        for position, (rows, index) in enumerate(chosen_rows):
            rows.values[index * _WIDTH + _BLOCK], rows.values[index * _WIDTH + _POSITION] = id_, position


def _cut(found: Sequence[tuple[Rows, int, bytes]]) -> Iterator[Sequence[tuple[Rows, int, bytes]]]:
    """Cut inputs into blocks."""
    start = size = 0
    for end, (_, _, text) in enumerate(found):
        if end > start and (end - start == BLOCK_ROWS or size + len(text) > BLOCK_BYTES):
            yield found[start:end]
            start, size = end, 0
        size += len(text)
    if start < len(found):
        yield found[start:]


def pack_block(texts: Sequence[bytes]) -> bytes:
    """Return the JSON of inputs as one text; it is compressed then."""
    return msgspec.msgpack.encode(texts)


def unpack_block(data: bytes) -> list[bytes]:
    """Return the JSON of the inputs of a stored block; none if it cannot be read."""
    try:
        return msgspec.msgpack.decode(zstd.decompress(data), type=list[bytes])
    except (zstd.ZstdError, msgspec.MsgspecError, ValueError) as error:
        log.error("the inputs of predictions cannot be decompressed: %s", error)
        return []


def compress_block(texts: Sequence[bytes]) -> bytes:
    """Return a block as it is stored."""
    return zstd.compress(pack_block(texts), LEVEL)


class InputsReader:
    """Reads the inputs of predictions; those that were stored together are decompressed once if they are read in order.

    Parameters
    ----------
    connection
        To read with.
    """

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._block, self._texts = -1, list[bytes]()

    def text(self, row: Mapping[Any, Any]) -> str | None:
        """Return the JSON of a prediction's inputs, given its ``block`` and ``position``; None for none."""
        if row["block"] is None:
            return None
        if row["block"] != self._block:
            with contextlib.closing(_find_block.execute(self._connection, {"block": row["block"]})) as cursor:
                found = cursor.fetchone()
            self._block, self._texts = row["block"], unpack_block(found[0]) if found else []
        if row["position"] >= len(self._texts):
            return None
        return self._texts[row["position"]].decode("utf-8", "replace") or None


_insert_block = db.CompiledInsert(inputs, ("model", "rows", "data"))
_find_block = db.CompiledStatement(sa.select(inputs.c.data).where(inputs.c.id == sa.bindparam("block")))


def insert_predictions(connection: sa.Connection, group: Sequence[Rows]) -> None:
    """Insert rows whose inputs are stored."""
    for rows in group:
        names, values = PER_ROW, rows.values
        if not any(values[_ALIAS::_WIDTH]):  # usually: one column less to bind
            names, values = PER_ROW[:_ALIAS], values.copy()
            del values[_ALIAS::_WIDTH]
        db.backend(connection).insert_rows(connection, db.FlatRows("predictions", SHARED, rows.shared, names, values))


def prediction_rows(batch: Batch) -> Rows:
    """Return a batch, which arrived at one time, as rows."""
    received = cast("float", batch.received)
    shared = (int(received // 86400), batch.model, received)
    versions = {version: db.storable(version) for version in set(batch.versions)}
    ids = batch.ids
    if "\0" in "".join(ids):
        ids = [db.storable(id_) for id_ in ids]
    names = [*map(db.storable, batch.segment_names)]
    rows: Any = zip(
        ids,
        map(versions.__getitem__, batch.versions),
        batch.times,
        _label_texts([*batch.predictions]),
        batch.confidences,
        batch.codes,
        batch.durations,
        batch.confident.tolist(),
        itertools.repeat(None, batch.rows),
        itertools.repeat(None, batch.rows),
        [names[index] for index in batch.segments.tolist()] if names else itertools.repeat(None, batch.rows),
        batch.aliases or itertools.repeat(None, batch.rows),
        strict=True,
    )
    kept = [*batch.kept]
    if ids != sorted(ids):  # random identifiers are inserted faster in the order of the index
        order = sorted(range(len(ids)), key=ids.__getitem__)
        rows, kept = map([*rows].__getitem__, order), [kept[index] for index in order]
    return Rows(shared, list(itertools.chain.from_iterable(rows)), kept)


def _label_texts(labels: Sequence[Label]) -> list[str | None]:
    """Return the JSON of each label; each distinct label is encoded once."""
    if len(set(map(type, labels))) > 1:  # 1, 1.0 and true are the same key of a dict
        return [label_json(label) for label in labels]
    texts = {label: label_json(label) for label in set(labels)}
    return [texts[label] for label in labels]


def is_sampled(prediction_id: str, share: float) -> bool:
    """Return whether a prediction is in the sample of a share, by a hash of its identifier: every exporter agrees."""
    return zlib.crc32(prediction_id.encode("utf-8", "replace")) < share * 2**32


class InputsPolicy:
    """Decides which predictions' inputs are stored: ``store.inputs`` of the configuration."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._share = sampled_share(text)

    def select(self, batch: Batch) -> Sequence[bytes]:
        """Return the inputs to store of each prediction as they were sent, empty for none."""
        if self._share is not None:
            selected: Sequence[bool] = [is_sampled(id_, self._share) for id_ in batch.ids]
        elif self._text == "confident":
            selected = batch.confident.tolist()
        else:
            return batch.raw if self._text == "all" else [b""] * batch.rows
        return [text if store else b"" for text, store in zip(batch.raw, selected, strict=True)]


def parts(sizes: Iterable[tuple[_Key, int]], most: int) -> Iterator[list[_Key]]:
    """Yield the keys of rows in parts that are not larger than ``most``, unless a single row is.

    Parameters
    ----------
    sizes
        The key and the size of each row.
    most
        The size of a part.

    >>> list(parts([(1, 3), (2, 2), (3, 1), (4, 9), (5, 0)], 5))
    [[1, 2], [3], [4], [5]]
    """
    part: list[_Key] = []
    total = 0
    for key, size in sizes:
        if part and total + size > most:
            yield part
            part, total = [], 0
        part.append(key)
        total += size
    if part:
        yield part


READ = (
    "day", "id", "model", "version", "time", "prediction", "confidence", "code", "duration_seconds", "confident",
    "block", "position", "segment", "alias",
)  # fmt: skip
"""What is read of a prediction; its inputs are returned as text."""
Named = tuple[str | None, str | None]
"""What a prediction is called, and its model; None for any model."""

_first, _last = sa.func.min(db.predictions.c.day), sa.func.max(db.predictions.c.day)
# Each in a subquery of its own: both in one query would read the whole index.
_day_range = db.CompiledStatement(sa.select(sa.select(_first).scalar_subquery(), sa.select(_last).scalar_subquery()))


def stored_days(connection: sa.Connection) -> Sequence[int]:
    """Return the days from which there may be predictions, the last one first."""
    first, last = _day_range.execute(connection, {}).fetchone()
    return () if first is None else range(last, first - 1, -1)


def find_predictions(
    connection: sa.Connection, wanted: Sequence[Named], days: Sequence[int]
) -> Sequence[db.Values | None]:
    """Return `READ` of the first prediction of each identifier.

    Parameters
    ----------
    connection
        To read with.
    wanted
        Identifiers, each with its model; None for any model.
    days
        See `stored_days`: the index is ordered by day.
    """
    found, reader = _firsts(connection, wanted, days), InputsReader(connection)
    return [row and {**row, "inputs": reader.text(row)} for row in found]


def _firsts(connection: sa.Connection, wanted: Sequence[Named], days: Sequence[int]) -> Sequence[db.Values | None]:
    if not days:
        return [None] * len(wanted)
    count = 1 << (len(days) - 1).bit_length()  # a power of two, so that there are few different statements
    parameters = dict(zip(_day_names(count), itertools.chain(days, itertools.repeat(days[-1]))))  # noqa: B905 (endless)
    values = [parameters | {"id": id_, "given_model": model} for id_, model in wanted]
    return _first_prediction(count).first_rows(connection, values)


def is_given_model(column: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Return whether a column is the parameter ``given_model``, or that is NULL."""
    model = sa.bindparam("given_model", type_=sa.Text)
    return model.is_(None) | (column == model)


@functools.cache
def _day_names(days: int) -> list[str]:
    return [f"day{number}" for number in range(days)]


@functools.cache
def _first_prediction(days: int) -> db.CompiledStatement:
    is_stored_day = db.predictions.c.day.in_([sa.bindparam(name, type_=sa.Integer) for name in _day_names(days)])
    is_wanted = (db.predictions.c.id == sa.bindparam("id")) & is_given_model(db.predictions.c.model)
    query = sa.select(*(db.predictions.c[name] for name in READ)).where(is_stored_day, is_wanted)
    # Ordered by day, too: by seq alone, PostgreSQL might read the whole table in that order.
    return db.CompiledStatement(query.order_by(db.predictions.c.day, db.predictions.c.seq).limit(1))


@functools.cache
def _aliased(*, of_model: bool) -> db.CompiledStatement:
    wanted = db.JsonTexts(sa.bindparam("ids", type_=sa.Text)).table_valued("value")
    first, last, one = (db.predictions.alias(name) for name in ("first_one", "last_one", "one"))
    query = sa.select(one.c.seq).where(one.c.alias == wanted.c.value).limit(1)
    query = query.where(one.c.model == sa.bindparam("given_model")) if of_model else query
    order = one.c.alias, one.c.model, one.c.id  # of the index: its ends tell whether all rows are of one prediction
    is_first = first.c.seq == query.order_by(*order).scalar_subquery()
    is_last = last.c.seq == query.order_by(*map(sa.desc, order)).scalar_subquery()
    is_same = (first.c.id == last.c.id) & (first.c.model == last.c.model)
    found = sa.select(wanted.c.value, first.c.id, first.c.model).join_from(wanted, first, is_first)
    return db.CompiledStatement(found.join(last, is_last & is_same))


def find_aliased(connection: sa.Connection, wanted: Collection[Named]) -> Mapping[Named, Named]:
    """Return the identifiers of predictions, with their models, by the aliases among some names.

    An identifier is no alias, and neither is what several predictions share. Of predictions that share their
    identifier, only the first counts, as everywhere.
    """
    found: dict[Named, Named] = {}
    for model in {model for _, model in wanted}:
        values = {"ids": db.json_text([name for name, other in wanted if other == model]), "given_model": model}
        with contextlib.closing(_aliased(of_model=model is not None).execute(connection, values)) as cursor:
            found |= {(alias, model): (name, of) for alias, name, of in cursor.fetchall()}
    days = stored_days(connection) if found else ()
    pairs = zip(found, _firsts(connection, [*found], days), _firsts(connection, [*found.values()], days), strict=True)
    return {key: found[key] for key, other, row in pairs if other is None and row and row["alias"] == key[0]}


def resolve_aliases(connection: sa.Connection, items: Sequence[Feedback] | Sequence[LabelEvent]) -> None:
    """Let items that name their prediction by its alias name it by its identifier."""
    found = find_aliased(connection, {(item.prediction_id, item.model) for item in items if item.prediction_id})
    for item in items if found else ():
        item.prediction_id, item.model = found.get(key := (item.prediction_id, item.model), key)


SCANNED = 500
"""Up to this number of waiting rows, all of them are read; with more, a group's own identifiers are looked up."""
Awaited = Mapping[Named, Mapping[str, Any]]
"""The first prediction that each name is of."""


def waiting_ids(ids: sa.Column[Any], is_waiting: sa.ColumnElement[bool]) -> db.CompiledStatement:
    """Return the query of the identifiers of all predictions for which rows of a table wait."""
    return db.CompiledStatement(sa.select(ids).where(is_waiting).limit(sa.bindparam("most", type_=sa.Integer)))


def awaited_ids(connection: sa.Connection, group: Sequence[Rows], waiting: db.CompiledStatement) -> set[str]:
    """Return the identifiers and aliases of a group's predictions for which rows may wait.

    Parameters
    ----------
    connection
        In the transaction that writes the group.
    group
        The predictions.
    waiting
        Of `waiting_ids`.
    """
    with contextlib.closing(waiting.execute(connection, {"most": SCANNED + 1})) as cursor:
        found = [row[0] for row in cursor.fetchall()]  # usually few, or none
    ids = {name for rows in group if found for name in (*rows.ids, *rows.values[_ALIAS::_WIDTH])} - {None}
    return ids if len(found) > SCANNED else ids.intersection(found)


def find_awaited(connection: sa.Connection, group: Sequence[Rows], wanted: Collection[Named]) -> Awaited:
    """Return those of a group's predictions, which are stored, that rows wait for by their identifier or alias."""
    aliased = find_aliased(connection, wanted)
    names = {key: aliased.get(key, key) for key in wanted}
    ids, found = {name for name, _ in names.values()}, dict[Named, dict[str, Any]]()
    for rows in group if ids else ():
        for index, prediction_id in enumerate(rows.ids):
            if prediction_id in ids:
                row = rows.prediction(index)
                for model in (None, row["model"]):
                    found.setdefault((prediction_id, model), row)
    return {key: found[name] for key, name in names.items() if name in found}


Codes = npt.NDArray[np.unsignedinteger]
READ_BLOCKS = 50
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
    parts = (
        block.ids.astype("<u4"),
        block.confident.astype(np.uint8),
        block.codes.astype(block.codes.dtype.newbyteorder("<"), copy=False),
    )
    connection.execute(
        db.bin_codes.insert().values(
            model=block.model,
            version=db.storable(block.version),
            layout=block.layout,
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
        table = db.bin_codes.c
        # The condition on the last one is of an indexed column.
        is_chosen = (table.model == chosen.model) & (table.layout == chosen.layout)
        is_chosen &= (table.first >= chosen.since) & (table.last >= chosen.since)
        if chosen.version is not None:
            is_chosen &= table.version == chosen.version
        query = sa.select(table.seq, table.version, table.first, table.last, table.rows).where(is_chosen)
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
        table = db.bin_codes.c
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
        for start in range(0, len(blocks), READ_BLOCKS):
            chosen = {block.seq: block for block in blocks[start : start + READ_BLOCKS]}
            query = sa.select(db.bin_codes.c.seq, db.bin_codes.c.data).where(db.bin_codes.c.seq.in_([*chosen]))
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


def delete_old_blocks(connection: sa.Connection, limit: int) -> None:
    """Delete blocks all of whose predictions were deleted: they are as old as predictions may be, or the store is full.

    Only whole blocks are deleted, the oldest first, at most ``limit``.
    """
    oldest = sa.select(db.predictions.c.received).order_by(db.predictions.c.seq).limit(1).scalar_subquery()
    numbers = sa.select(db.bin_codes.c.seq).order_by(db.bin_codes.c.seq).limit(limit)
    is_old = (db.bin_codes.c.last < oldest) | ~sa.exists(sa.select(db.predictions.c.seq))
    connection.execute(db.bin_codes.delete().where(db.bin_codes.c.seq.in_(numbers), is_old))
