"""Inputs of predictions, compressed with a Zstandard dictionary of their model (RFC 8878).

The inputs of one prediction are too short to be compressed alone. A dictionary, trained on the inputs of some hundred
predictions, holds what they have in common: names of inputs and frequent values. Each frame names its dictionary.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
import sqlalchemy as sa

from exporter.storage.schema import input_dictionaries

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
