"""The JSON of inputs as the store has it: read it whatever it holds, and remove inputs from it.

An older version, or another program, may have written it: nothing in it raises an error here.
"""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from exporter.features.image import IMAGE_ERRORS, MAX_PIXELS, number_array, open_image
from exporter.features.json_columns import lenient_inputs

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
