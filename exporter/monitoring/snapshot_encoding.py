"""Encode saved state: a struct as compressed MessagePack."""

from __future__ import annotations

import zlib
from typing import TypeVar

import msgspec

_T = TypeVar("_T", bound=msgspec.Struct)


def pack(value: msgspec.Struct) -> bytes:
    """Return a struct as bytes."""
    return zlib.compress(msgspec.msgpack.encode(value), 1)


def unpack(data: bytes, kind: type[_T], max_bytes: int) -> _T:
    """Return the struct in the data.

    Raises
    ------
    ValueError
        When the data do not hold one, or have more than ``max_bytes`` uncompressed.
    """
    try:
        decompressor = zlib.decompressobj()
        content = decompressor.decompress(data, max_bytes + 1)
        if len(content) > max_bytes:
            raise ValueError(f"it has more than {max_bytes:,} bytes uncompressed")
        if not decompressor.eof:
            raise ValueError("its end is missing")
        return msgspec.msgpack.decode(content, type=kind)
    except zlib.error:
        raise ValueError("its compression is damaged") from None
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None
