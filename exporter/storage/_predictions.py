"""Predictions as rows, and their insertion with the fastest statement of each database."""

from __future__ import annotations

import functools
import itertools
import logging
import sys
import time
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from operator import itemgetter
from typing import Any, cast
from weakref import WeakKeyDictionary

import msgspec
import sqlalchemy as sa

from exporter.config import sampled_share
from exporter.storage._engine import CompiledStatement, Values, driver_connection, is_shared
from exporter.storage._schema import input_dictionaries, label_json, predictions, storable
from exporter.wire.batch import Batch
from exporter.wire.events import Label

SHARED = ("day", "model", "received")
"""Columns that have the same value in all rows of a request."""
PER_ROW = tuple(column.name for column in predictions.columns if column.name not in {"seq", *SHARED})
"""Columns with a value for each row, the identifier first."""
COLUMNS = SHARED + PER_ROW
"""All columns that are inserted, in order."""
ROWS_PER_STATEMENT = 32
"""For each statement SQLite releases the interpreter lock and waits to get it back, which costs more than a row."""

_NAMES = ", ".join(COLUMNS)
_COPY = f"COPY predictions ({_NAMES}) FROM STDIN"
_WIDTH, _INPUTS, _PACKED = len(PER_ROW), PER_ROW.index("inputs"), PER_ROW.index("packed")


class Rows(msgspec.Struct, frozen=True, gc=False):
    """Predictions of one model that arrived together, ordered by identifier.

    Attributes
    ----------
    shared
        The values of `SHARED`.
    values
        The values of `PER_ROW`, one row after the other: a list for each row would take more memory than its values.
    """

    shared: tuple[Any, ...]
    values: list[Any]

    def __len__(self) -> int:
        return len(self.values) // _WIDTH

    @property
    def ids(self) -> list[str]:
        """The identifiers of the predictions."""
        return self.values[::_WIDTH]

    @property
    def size(self) -> int:
        """Bytes of memory that the inputs take."""
        return sum(map(sys.getsizeof, filter(None, self.values[_INPUTS::_WIDTH])))

    def row(self, index: int) -> tuple[Any, ...]:
        """Return one row, as values of `COLUMNS`."""
        return (*self.shared, *self.values[index * _WIDTH : (index + 1) * _WIDTH])

    def parts(self, rows: int) -> Iterator[Rows]:
        """Split into parts of at most this number of rows."""
        for start in range(0, len(self.values), rows * _WIDTH):
            yield Rows(self.shared, self.values[start : start + rows * _WIDTH])


def pack_rows(connection: sa.Connection, group: Sequence[Rows], packer: InputsPacker) -> list[Rows]:
    """Return rows with their inputs compressed, in the transaction that inserts them; see `InputsPacker.pack`."""
    model = SHARED.index("model")
    packer.begin(connection, {rows.shared[model] for rows in group})
    packed = []
    for rows in group:
        texts, values = rows.values[_INPUTS::_WIDTH], rows.values.copy()
        frames = packer.pack(connection, rows.shared[model], texts)
        values[_INPUTS::_WIDTH] = [None if frame else text for text, frame in zip(texts, frames, strict=True)]
        values[_PACKED::_WIDTH] = frames
        packed.append(Rows(rows.shared, values))
    return packed


def insert_predictions(connection: sa.Connection, group: Sequence[Rows]) -> None:
    """Insert rows.

    Both databases get SQL of their own: with ``predictions.insert()`` a row takes 16 µs of processor time instead of 4
    on SQLite, and 34 µs (24 µs from arrays with ``unnest``) instead of 9 with COPY on PostgreSQL.
    """
    if connection.dialect.name == "sqlite":
        for rows in group:
            for part in rows.parts(ROWS_PER_STATEMENT):
                connection.exec_driver_sql(_insert_text(len(part)), (*part.shared, *part.values))
    else:
        _copy(connection, group)


@functools.cache
def _insert_text(rows: int) -> str:
    """Return the INSERT of this number of rows; its parameters are the shared values, then those of each row."""
    shared = ", ".join(f"?{number}" for number in range(1, len(SHARED) + 1))
    values = ", ".join([f"({shared}, {', '.join('?' * _WIDTH)})"] * rows)
    # If it fails, its whole transaction is rolled back: SQLite need not prepare to undo this statement alone.
    return f"INSERT OR FAIL INTO predictions ({_NAMES}) VALUES {values}"  # noqa: S608 (constant names)


def _copy(connection: sa.Connection, group: Sequence[Rows]) -> None:
    """Insert rows with COPY, which SQLAlchemy does not have."""
    with driver_connection(connection, _COPY) as driver, driver.cursor() as cursor, cursor.copy(_COPY) as copy:
        for rows in group:
            for index in range(len(rows)):
                copy.write_row(rows.row(index))


def prediction_rows(batch: Batch) -> Rows:
    """Return a batch, which arrived at one time, as rows."""
    received = cast("float", batch.received)
    shared = (int(received // 86400), batch.model, received)
    versions = {version: storable(version) for version in set(batch.versions)}
    ids = batch.ids
    if "\0" in "".join(ids):
        ids = [storable(id_) for id_ in ids]
    names = batch.segment_names
    rows: Any = zip(
        ids,
        map(versions.__getitem__, batch.versions),
        batch.times,
        _label_texts([*batch.predictions]),
        batch.confidences,
        batch.codes,
        batch.durations,
        batch.confident.tolist(),
        [text.decode("utf-8", "replace") or None for text in batch.kept],
        itertools.repeat(None, batch.rows),
        [names[index] for index in batch.segments.tolist()] if names else itertools.repeat(None, batch.rows),
        strict=True,
    )
    if ids != sorted(ids):  # random identifiers are inserted faster in the order of the index
        rows = sorted(rows, key=itemgetter(0))
    return Rows(shared, list(itertools.chain.from_iterable(rows)))


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


if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

log = logging.getLogger(__name__)

LEVEL = 3
DICTIONARY_BYTES = 4096
"""Size of a dictionary: with 16 KiB, frames of 30 inputs are 1 % smaller."""
SAMPLES, MIN_SAMPLES, SAMPLE_BYTES = 500, 50, 256 * 2**10
"""A dictionary is trained on the first number of inputs; on the second, where they have so many bytes together."""
ALONE_BYTES = 16 * 2**10
"""Inputs from this size are compressed without a dictionary."""
MAX_SAMPLE_BYTES = 32 * 2**20
"""Bytes of inputs that all models together keep until their dictionary is trained."""
CHECKED_BYTES, WORSE = 2**20, 1.25
"""After each so many bytes, the compressed share is compared with that of the samples: above so many times it, the
inputs have changed, and another dictionary is trained."""
PAUSE_SECONDS = 86400.0
"""Time between two dictionaries of a model, and after samples that could not be compressed."""

_dictionaries: WeakKeyDictionary[sa.Engine, dict[int, zstd.ZstdDict]] = WeakKeyDictionary()
_names = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Compressor:
    """Compresses with one dictionary, and compares the result with the share of its samples."""

    def __init__(self, id_: int, dictionary: zstd.ZstdDict, share: float, created: float) -> None:
        self.id, self.share, self.created = id_, share, created
        self._compressor = zstd.ZstdCompressor(level=LEVEL, zstd_dict=dictionary)
        self._raw = self._packed = 0

    def compress(self, data: bytes) -> bytes:
        packed = self._compressor.compress(data, self._compressor.FLUSH_FRAME)
        self._raw += len(data)
        self._packed += len(packed)
        return packed

    def is_outdated(self, now: float) -> bool:
        if self._raw < CHECKED_BYTES:
            return False
        worse = self._packed > WORSE * self.share * self._raw
        self._raw = self._packed = 0
        return worse and now > self.created + PAUSE_SECONDS


class InputsPacker:
    """Compresses the inputs of predictions, and trains the dictionaries; used by one thread alone."""

    def __init__(self) -> None:
        self._compressors: dict[str, _Compressor] = {}
        self._samples: dict[str, list[bytes]] = {}
        self._sample_bytes = 0
        self._not_before: dict[str, float] = {}

    def begin(self, connection: sa.Connection, models: Collection[str]) -> None:
        """Begin a transaction that stores predictions of some models: read which dictionary each of them uses."""
        table = input_dictionaries.c
        query = sa.select(table.id, table.model).where(table.model.in_(models), ~table.retired)
        usable = connection.execute(query.order_by(table.created)).all()
        ids = {row.id for row in usable}
        for model in models:
            if model in self._compressors and self._compressors[model].id not in ids:
                del self._compressors[model]  # its transaction was rolled back, or it was retired
                self._not_before.pop(model, None)
        for model, id_ in {row.model: row.id for row in usable}.items():
            if model not in self._compressors:
                row = connection.execute(sa.select(input_dictionaries).where(table.id == id_)).one()
                self._compressors[model] = _Compressor(id_, zstd.ZstdDict(row.data), row.share, row.created)

    def pack(self, connection: sa.Connection, model: str, texts: Sequence[str | None]) -> list[bytes | None]:
        """Compress the JSON of inputs, after `begin`.

        Parameters
        ----------
        connection
            In the transaction that stores them, and perhaps a new dictionary.
        model
            The model of the predictions.
        texts
            The JSON of each prediction's inputs, None for none.

        Returns
        -------
        list
            The frame of each; None where there is none, or it would not be smaller.
        """
        encoded = [text.encode() if text else b"" for text in texts]
        compressor = self._compressors.get(model)
        packed = [_smaller(data, compressor) for data in encoded]
        now = time.time()
        if compressor is None or compressor.is_outdated(now) or model in self._samples:
            self._learn(connection, model, [data for data in encoded if 0 < len(data) < ALONE_BYTES], now)
        return packed

    def _learn(self, connection: sa.Connection, model: str, found: Sequence[bytes], now: float) -> None:
        """Keep inputs as samples; once there are enough, store a dictionary for the predictions that follow."""
        if now < self._not_before.get(model, 0.0):
            return
        samples = self._samples.setdefault(model, [])
        for data in found:
            if len(samples) == SAMPLES or self._sample_bytes + len(data) > MAX_SAMPLE_BYTES:
                break
            samples.append(data)
            self._sample_bytes += len(data)
        size = sum(map(len, samples))
        if len(samples) < SAMPLES and (len(samples) < MIN_SAMPLES or size < SAMPLE_BYTES):
            return
        self._samples.pop(model)
        self._sample_bytes -= size
        self._not_before[model] = now + PAUSE_SECONDS
        try:
            dictionary = zstd.train_dict(samples, DICTIONARY_BYTES)
        except (zstd.ZstdError, ValueError):  # they have nothing in common
            return
        compressor = _Compressor(dictionary.dict_id, dictionary, 1.0, now)
        compressor.share = sum(len(compressor.compress(data)) for data in samples) / size
        values = {"id": dictionary.dict_id, "model": model, "created": now, "share": compressor.share}
        names = msgspec.json.encode(sorted(_names_in(samples))).decode()
        is_new = input_dictionaries.c.id == dictionary.dict_id
        if connection.execute(sa.select(input_dictionaries.c.id).where(is_new)).first() is None:
            connection.execute(
                input_dictionaries.insert().values(**values, names=names, retired=False, data=dictionary.dict_content)
            )
            self._compressors[model] = compressor


def _smaller(data: bytes, compressor: _Compressor | None) -> bytes | None:
    """Return the frame of inputs, if it is smaller than they are."""
    if len(data) >= ALONE_BYTES:
        packed = zstd.compress(data, LEVEL)
    elif data and compressor:
        packed = compressor.compress(data)
    else:
        return None
    return packed if len(packed) < len(data) else None


def _names_in(samples: Sequence[bytes]) -> set[str]:
    names: set[str] = set()
    for data in samples:
        try:
            names.update(_names.decode(data))
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            continue
    return names


def unpack(connection: sa.Connection, row: Mapping[Any, Any]) -> str | None:
    """Return the JSON of a prediction's inputs; None for none, or if they cannot be read.

    Parameters
    ----------
    connection
        To read the dictionary with.
    row
        The column ``inputs``, and ``packed`` where the table has it.
    """
    packed = row.get("packed")
    if packed is None:
        text: str | None = row["inputs"]
        return text
    try:
        id_ = dictionary_of(packed)
        return zstd.decompress(packed, _dictionary(connection, id_) if id_ else None).decode("utf-8", "replace")
    except (zstd.ZstdError, LookupError, ValueError) as error:
        log.error("the inputs of a prediction cannot be decompressed: %s", error)
        return None


def dictionary_of(packed: bytes | None) -> int:
    """Return the dictionary of a frame; 0 for none."""
    return zstd.get_frame_info(packed).dictionary_id if packed else 0


def _dictionary(connection: sa.Connection, id_: int) -> zstd.ZstdDict:
    known = _dictionaries.setdefault(connection.engine, {})
    if id_ not in known:
        query = sa.select(input_dictionaries.c.data).where(input_dictionaries.c.id == id_)
        data = connection.execute(query).scalar()
        if data is None:
            raise LookupError(f"the database has no dictionary {id_}")
        known[id_] = zstd.ZstdDict(data)
    return known[id_]


def retire_dictionaries(connection: sa.Connection, redacted: Mapping[str, Collection[str]]) -> None:
    """Let nothing more be compressed with dictionaries that were trained on redacted inputs, which they may hold.

    Parameters
    ----------
    connection
        In a transaction that excludes all other writers.
    redacted
        Names of inputs by model.
    """
    table = input_dictionaries.c
    for row in connection.execute(sa.select(table.id, table.model, table.names)).all():
        if not set(redacted.get(row.model, ())).isdisjoint(msgspec.json.decode(row.names)):
            connection.execute(input_dictionaries.update().where(table.id == row.id).values(retired=True))


def retired_dictionaries(connection: sa.Connection) -> Collection[int]:
    """Return the dictionaries with which nothing more is compressed."""
    query = sa.select(input_dictionaries.c.id).where(input_dictionaries.c.retired)
    return set(connection.execute(query).scalars())


def delete_retired_dictionaries(connection: sa.Connection, models: Collection[str]) -> None:
    """Delete the retired dictionaries of some models, once no prediction is compressed with them."""
    is_unused = input_dictionaries.c.retired & input_dictionaries.c.model.in_(models)
    connection.execute(input_dictionaries.delete().where(is_unused))


def parts(sizes: Iterable[tuple[int, int]], most: int) -> Iterator[list[int]]:
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
    part: list[int] = []
    total = 0
    for key, size in sizes:
        if part and total + size > most:
            yield part
            part, total = [], 0
        part.append(key)
        total += size
    if part:
        yield part


COPIED = ("model", "version", "time", "prediction", "confidence", "confident", "inputs", "packed", "segment")
"""What is read of a prediction for its feedback; its inputs are returned as text."""

_first, _last = sa.func.min(predictions.c.day), sa.func.max(predictions.c.day)
# Each in a subquery of its own: both in one query would read the whole index.
_day_range = CompiledStatement(sa.select(sa.select(_first).scalar_subquery(), sa.select(_last).scalar_subquery()))


def stored_days(connection: sa.Connection) -> Sequence[int]:
    """Return the days from which there may be predictions, the last one first."""
    first, last = _day_range.execute(connection, {}).fetchone()
    return () if first is None else range(last, first - 1, -1)


def find_predictions(
    connection: sa.Connection, wanted: Sequence[tuple[str, str | None]], days: Sequence[int]
) -> Sequence[Values | None]:
    """Return `COPIED` of the first prediction of each identifier.

    Parameters
    ----------
    connection
        To read with.
    wanted
        Identifiers, each with its model; None for any model.
    days
        See `stored_days`: the index is ordered by day.
    """
    if not days:
        return [None] * len(wanted)
    count = 1 << (len(days) - 1).bit_length()  # a power of two, so that there are few different statements
    parameters = dict(zip(_day_names(count), itertools.chain(days, itertools.repeat(days[-1]))))  # noqa: B905 (endless)
    values = [parameters | {"id": id_, "given_model": model} for id_, model in wanted]
    found = _first_prediction(count).first_rows(connection, values)
    return [row and {**row, "inputs": unpack(connection, row)} for row in found]


def is_given_model(column: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Return whether a column is the parameter ``given_model``, or that is NULL."""
    model = sa.bindparam("given_model", type_=sa.Text)
    return model.is_(None) | (column == model)


@functools.cache
def _day_names(days: int) -> list[str]:
    return [f"day{number}" for number in range(days)]


@functools.cache
def _first_prediction(days: int) -> CompiledStatement:
    is_stored_day = predictions.c.day.in_([sa.bindparam(name, type_=sa.Integer) for name in _day_names(days)])
    is_wanted = (predictions.c.id == sa.bindparam("id")) & is_given_model(predictions.c.model)
    query = sa.select(*(predictions.c[name] for name in COPIED)).where(is_stored_day, is_wanted)
    # Ordered by day, too: by seq alone, PostgreSQL might read the whole table in that order.
    return CompiledStatement(query.order_by(predictions.c.day, predictions.c.seq).limit(1))


MAX_WAITING = 100_000
"""Identifiers that are kept in memory; with more, the database is queried for each group of predictions."""
SCANNED = 500
"""Up to this number of waiting rows, all of them are read; with more, a group's own identifiers are looked up."""


class WaitingIds:
    """Identifiers for which rows of a table wait; used by the writer's thread alone.

    Parameters
    ----------
    connection
        To read them.
    ids
        A column with the identifiers of predictions.
    is_waiting
        Which rows wait.
    """

    def __init__(
        self, connection: sa.Connection, ids: sa.ColumnElement[str | None], is_waiting: sa.ColumnElement[bool]
    ) -> None:
        self._query = sa.select(ids).where(is_waiting)
        # In a shared database other exporters add rows, too: it is queried for each group.
        self._shared = is_shared(connection)
        query = self._query.limit(MAX_WAITING + 1)
        self._ids = set() if self._shared else set(connection.execute(query).scalars())
        self._complete = not self._shared and len(self._ids) <= MAX_WAITING

    def add(self, prediction_id: str) -> None:
        """Remember an identifier for which a row waits now."""
        if self._shared:
            return
        if len(self._ids) < MAX_WAITING:
            self._ids.add(prediction_id)
        else:
            self._complete = False

    def forget(self, ids: set[str]) -> None:
        """Forget identifiers for which no row waits any more."""
        self._ids -= ids

    @property
    def is_empty(self) -> bool:
        """Whether it is known, without a query, that no row waits."""
        return self._complete and not self._ids

    def among(self, connection: sa.Connection, ids: set[str]) -> set[str]:
        """Return those of the identifiers for which rows may wait."""
        if self._complete:
            return ids & self._ids
        # Usually few rows wait, and one query finds all of them; else the caller looks up the identifiers.
        waiting = connection.execute(self._query.limit(SCANNED + 1)).scalars().all()
        return ids if len(waiting) > SCANNED else ids.intersection(waiting)


class AwaitedPredictions:
    """Those of a group's predictions for which rows may wait.

    Parameters
    ----------
    connection
        In the transaction that writes the group.
    group
        The predictions.
    waiting
        The identifiers for which rows wait.
    """

    def __init__(self, connection: sa.Connection, group: Sequence[Rows], waiting: WaitingIds) -> None:
        self._predictions: dict[str, list[dict[str, Any]]] = {}
        self._unmatched: set[str] = set()
        if waiting.is_empty:
            return
        awaited = waiting.among(connection, {prediction_id for rows in group for prediction_id in rows.ids})
        for rows in group if awaited else ():
            for index, prediction_id in enumerate(rows.ids):
                if prediction_id in awaited:
                    row = dict(zip(COLUMNS, rows.row(index), strict=True))
                    self._predictions.setdefault(prediction_id, []).append(row)

    @property
    def ids(self) -> Set[str]:
        """Their identifiers."""
        return self._predictions.keys()

    def find(self, prediction_id: str, model: str | None) -> dict[str, Any] | None:
        """Return the first prediction with an identifier, of a model if one is named, for a row that waits for it."""
        candidates = self._predictions[prediction_id]
        prediction = next((row for row in candidates if model in {None, row["model"]}), None)
        if prediction is None:
            self._unmatched.add(prediction_id)
        return prediction

    @property
    def finished(self) -> set[str]:
        """Identifiers for which no row waits any more, once each row that waits has looked for its prediction."""
        return set(self.ids - self._unmatched)
