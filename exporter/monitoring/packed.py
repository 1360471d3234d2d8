"""The format of what is saved over a restart: a struct as compressed MessagePack."""

from __future__ import annotations

import zlib
from typing import TypeVar

import msgspec

_T = TypeVar("_T", bound=msgspec.Struct)


def pack(value: msgspec.Struct) -> bytes:
    """Return a struct as bytes."""
    return zlib.compress(msgspec.msgpack.encode(value), 1)


def unpack(data: bytes, kind: type[_T]) -> _T:
    """Return the struct in the data.

    Raises
    ------
    ValueError
        When the data do not hold one.
    """
    try:
        return msgspec.msgpack.decode(zlib.decompress(data), type=kind)
    except (zlib.error, msgspec.MsgspecError) as error:
        raise ValueError(str(error)) from None
