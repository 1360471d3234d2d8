"""The JSON of inputs: read it to columns or mappings whatever it holds, pack its images, and remove inputs from it.

This works for inputs that are as the profile expects them. If anything else is in a batch, all of it is decoded to
mappings instead, where bad data are counted.
"""

from __future__ import annotations

import base64
import json
import math
import re
import struct
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from exporter.features.base import InputType
from exporter.features.image import IMAGE_ERRORS, MAX_PIXELS, number_array, open_image
from exporter.stats.divergence import Floats

BLOCK = 500
"""Number of events that are converted to columns at a time, so that they stay in the processor's cache."""
MAX_ORDERS = 8
"""Most orders of members that have a decoder; inputs in other orders are decoded to mappings."""


class JsonColumnReader:
    """Decode JSON objects of inputs as the profile expects them, with types built for the profile.

    Parameters
    ----------
    kinds
        Type of each input that is counted.
    """

    def __init__(self, kinds: Mapping[str, InputType]) -> None:
        self._types: dict[str, Any] = {n: float | None if kind.is_number else Any for n, kind in kinds.items()}
        self._numbers = [name for name, kind in kinds.items() if kind.is_number]
        self._decoders: list[tuple[list[str], Callable[[bytes], Any]]] = []

    def read(self, texts: Sequence[bytes]) -> tuple[dict[str, Any], int] | None:
        """Return the columns of those events that have inputs; None if any of these are not as expected.

        Parameters
        ----------
        texts
            The JSON of each event's inputs; empty or ``null`` for none.
        """
        given = [text for text in texts if text and text != b"null"]
        if not given:
            return {}, 0
        try:
            decoder = self._decoder(msgspec.json.decode(given[0], type=dict[str, msgspec.Raw]))
            if decoder is None:
                return None
            order, decode = decoder
            columns: dict[str, Any] = {name: [] for name in order if name not in self._numbers}
            numbers: list[Floats] = []
            for start in range(0, len(given), BLOCK):
                rows = list(map(msgspec.structs.astuple, map(decode, given[start : start + BLOCK])))
                block: dict[str, Any] = dict(zip(order, zip(*rows, strict=True), strict=True))
                part = np.array([block.pop(name) for name in self._numbers], dtype=np.float64)
                numbers.append(part.reshape(len(self._numbers), len(rows)))
                for name, values in block.items():
                    columns[name] += values
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return columns | dict(zip(self._numbers, np.concatenate(numbers, axis=1), strict=True)), len(given)

    def _decoder(self, first: Mapping[str, Any]) -> tuple[list[str], Callable[[bytes], Any]] | None:
        """Return a decoder of objects with members in the order of the first one; it searches each after the last."""
        for decoder in self._decoders:
            rest = iter(decoder[0])
            if all(name in rest for name in first):
                return decoder
        if len(self._decoders) >= MAX_ORDERS or not first.keys() <= self._types.keys():
            return None
        order = [*first, *(name for name in self._types if name not in first)]
        fields = [(f"f{index}", self._types[name], None) for index, name in enumerate(order)]
        renamed = {f"f{index}": name for index, name in enumerate(order)}
        try:
            kind = msgspec.defstruct("Inputs", fields, rename=renamed, forbid_unknown_fields=True, gc=False)
        except ValueError:  # a name that cannot be that of a member
            return None
        self._decoders.append((order, msgspec.json.Decoder(kind).decode))
        return self._decoders[-1]


_decoder = msgspec.json.Decoder(dict[str, Any])
_FLOAT_LIMIT = 10**308
_list_decoder = msgspec.json.Decoder(list[dict[str, Any]])


def decode_inputs(raw: Sequence[bytes]) -> dict[int, dict[str, Any]]:
    """Return the inputs of those events that have any, by the events' indices.

    Parameters
    ----------
    raw
        The JSON of each event's inputs; empty or ``null`` for none.
    """
    indices = [index for index, text in enumerate(raw) if text not in (b"", b"null")]
    try:
        values = _list_decoder.decode(b"[" + b",".join([raw[index] for index in indices]) + b"]")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        values = [_decode_one(raw[index]) for index in indices]
    return dict(zip(indices, values, strict=True))


def _decode_one(text: bytes) -> dict[str, Any]:
    try:
        return _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return lenient_inputs(text)


def lenient_inputs(raw: bytes) -> dict[str, Any]:
    """Return what can be decoded of ``inputs`` that the strict decoder refuses.

    Python's ``NaN`` becomes null. An infinity, or a number that a float cannot hold, becomes its text, and so an
    invalid value. Invalid UTF-8 is replaced.
    """
    try:
        document = json.loads(raw.decode("utf-8", "replace"), parse_int=parse_integer)
    except (ValueError, RecursionError):
        return {}
    cleaned = sanitize(document)
    return cleaned if isinstance(cleaned, dict) else {}


def parse_integer(text: str) -> int | str:
    """Return a JSON integer; one that a float cannot hold stays text."""
    return int(text) if len(text) < 300 else text


def sanitize(value: Any, depth: int = 64) -> Any:
    """Return a decoded document as strict JSON allows it, see `lenient_inputs`; empty below ``depth`` levels."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int) and abs(value) >= 2**63:
        return float(value) if abs(value) < _FLOAT_LIMIT else str(value)
    if isinstance(value, list):
        return [sanitize(item, depth - 1) for item in value] if depth else []
    if isinstance(value, dict):
        return {sanitize(key): sanitize(item, depth - 1) for key, item in value.items()} if depth else {}
    return value


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_values = msgspec.json.Decoder(dict[str, Any])
_ERRORS = (msgspec.MsgspecError, UnicodeError, RecursionError)


def readable(text: str) -> str:
    """Return stored inputs as JSON that every program can read, unchanged if they are; empty for no JSON object.

    >>> readable('{"a": 1.50}'), readable('{"a": 1e999}'), readable("{")
    ('{"a": 1.50}', '{"a":"inf"}', '')
    """
    if not text:
        return ""
    try:
        _values.decode(text)
    except _ERRORS:
        decoded = lenient_inputs(text.encode("utf-8", "replace"))
        return msgspec.json.encode(decoded).decode() if decoded else ""
    return text


def remove_inputs(text: str, names: Collection[str]) -> str:
    """Return stored inputs without the named ones, in canonical JSON; unchanged if they hold none of them.

    >>> remove_inputs('{"n\\\\u0061me": "Ada", "age": 41}', {"name"}), remove_inputs('{"name"', {"name"})
    ('{"age":41}', '')
    """
    # Without an escape sequence, a name in the JSON is written as it is.
    if not names or ("\\" not in text and not any(name in text for name in names)):
        return text
    try:
        members = {name: raw for name, raw in _members.decode(text).items() if name not in names}
        parts = [f"{_canonical_json(name)}:{_canonical(bytes(raw).decode())}" for name, raw in members.items()]
        return f"{{{','.join(parts)}}}"
    except _ERRORS:
        decoded = lenient_inputs(text.encode("utf-8", "replace"))
    return _canonical_json({name: value for name, value in decoded.items() if name not in names}) if decoded else ""


def _canonical(value: str) -> str:
    """Return JSON without needless escape sequences; a packed image, which has none, stays as it is."""
    return _canonical_json(msgspec.json.decode(value)) if "\\" in value else value


def _canonical_json(value: Any) -> str:
    return escape_prefix(msgspec.json.encode(value)).decode()


PREFIX = "data:image/png;of=numbers;base64,"
"""Prefix of a stored image; clients' own strings never have it in the stored JSON, see `escape_prefix`."""
DENSEST = 8
"""Most numbers for each stored character: it bounds how much a stored image grows when it is decoded."""
_PREFIX = PREFIX.encode()
_ESCAPED = PREFIX.replace("d", r"\u0064", 1).encode()
_STORED = re.compile(f'(:\\s*)"({PREFIX}[A-Za-z0-9+/=]*)"')  # the value of a member, never its name
_BATCH = 64
_COLOURS = {1: 0, 3: 2, 4: 6}  # channels to PNG's colour type: grey, RGB, RGB with alpha
Pixels = NDArray[np.uint8]


def pack_image(value: Any) -> str | None:
    """Return nested arrays of whole numbers from 0 to 255 as the ``data:`` URL of a PNG.

    None for anything else, and for arrays that compress too well: see `DENSEST`.

    Parameters
    ----------
    value
        Rows of grey values, or rows of pixels of three (RGB) or four (RGBA) values. The numbers are not scaled: an
        image on a scale of 0 to 16 makes a dark PNG.

    Examples
    --------
    >>> unpack_image(pack_image([[0, 12], [3, 16]]))
    [[0, 12], [3, 16]]
    """
    return _pack_all([value])[0]


def pack_inputs(inputs: Sequence[Mapping[str, Any]], names: Collection[str]) -> list[dict[str, str]]:
    """Return those images of several events that can be packed, as PNG, by name; ``names`` are the image inputs."""
    result: list[dict[str, str]] = [{} for _ in inputs]
    for name in names:
        indices = [index for index, event in enumerate(inputs) if isinstance(event.get(name), list)]
        for index, text in zip(indices, _pack_all([inputs[index][name] for index in indices]), strict=True):
            if text is not None:
                result[index][name] = text
    return result


def escape_prefix(text: bytes) -> bytes:
    """Escape `PREFIX` in the JSON of a client's inputs: it stays the same string, and is not taken for a stored image.

    >>> msgspec.json.decode(escape_prefix(msgspec.json.encode(PREFIX))) == PREFIX
    True
    """
    return text.replace(_PREFIX, _ESCAPED) if _PREFIX in text else text


def escape_prefixes(texts: Sequence[bytes]) -> list[bytes]:
    """Return texts as from `escape_prefix`; one search in all of them is faster."""
    return [*texts] if _PREFIX not in b" ".join(texts) else list(map(escape_prefix, texts))


def unpack_image(value: Any, limit: int = MAX_PIXELS) -> Any:
    """Return the nested arrays of a PNG from `pack_image`; anything else, or more numbers than ``limit``, unchanged."""
    if not isinstance(value, str) or not value.startswith(PREFIX):
        return value
    try:
        with open_image(base64.b64decode(value[len(PREFIX) :])) as image:
            numbers = image.width * image.height * len(image.getbands())
            if image.format != "PNG" or image.mode not in {"L", "RGB", "RGBA"}:
                return value
            return value if numbers > min(DENSEST * len(value), limit) else np.asarray(image).tolist()
    except IMAGE_ERRORS:
        return value


def unpack_json(inputs: str) -> str:
    """Return the JSON of inputs with its stored images as arrays again, otherwise unchanged.

    Images beyond `MAX_PIXELS` numbers together stay as they are: no request can have brought more.

    >>> unpack_json('{"a": 1.50, "image": "' + (pack_image([[0, 12], [3, 16]]) or "") + '"}')
    '{"a": 1.50, "image": [[0,12],[3,16]]}'
    """
    if PREFIX not in inputs:
        return inputs
    left = MAX_PIXELS

    def unpacked(match: re.Match[str]) -> str:
        nonlocal left
        value = unpack_image(match[2], left)
        if value is match[2]:
            return match[0]
        text = msgspec.json.encode(value).decode()
        left -= text.count(",") + 1
        return match[1] + text

    return _STORED.sub(unpacked, inputs)


def _pack_all(values: Sequence[Any]) -> list[str | None]:
    """Encode images in batches of bounded memory; usually all are of one size, and are converted together."""
    result: list[str | None] = []
    for start in range(0, len(values), _BATCH):
        batch = list(values[start : start + _BATCH])
        pixels = _pixels(batch)
        if pixels is not None:
            result += _encode_all(pixels)
        else:
            result += [None if (single := _pixels([value])) is None else _encode_all(single)[0] for value in batch]
    return result


def _pixels(values: list[Any]) -> Pixels | None:
    """Return images of one size as an array of shape ``(n, height, width[, channels])``, or None."""
    array = number_array(values, None)
    if (
        array is None
        or array.dtype.kind not in "iuf"
        or array.ndim not in {3, 4}
        or not array.size
        or array[0].size > MAX_PIXELS
    ):
        return None
    if array.ndim == 4 and array.shape[3] not in {3, 4}:
        return None
    with np.errstate(invalid="ignore"):
        pixels = array.astype(np.uint8)
    return pixels if np.array_equal(pixels, array) else None


def _encode_all(images: Pixels) -> list[str | None]:
    _, height, width, *channels = images.shape
    head = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels[0] if channels else 1], 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head)
    end = _chunk(b"IEND", b"")
    rows = images.reshape(len(images), height, -1)
    step = channels[0] if channels else 1
    # Each row starts with its filter: 1, each pixel is the difference to the pixel on its left.
    written = np.concatenate((np.ones((len(images), height, 1), np.uint8), rows), axis=2)
    written[:, :, 1 + step :] -= rows[:, :, :-step]
    texts = (
        PREFIX + base64.b64encode(start + _chunk(b"IDAT", zlib.compress(image.tobytes(), 1)) + end).decode()
        for image in written
    )
    return [text if images[0].size <= DENSEST * len(text) else None for text in texts]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
