"""Images among stored inputs, kept as PNG: nested arrays of pixels take several times the room.

Only what comes back number for number is written so; all else stays as it came.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import struct
import zlib
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from exporter.features.image import MAX_PIXELS, are_numbers

PREFIX = "data:image/png;of=numbers;base64,"
"""What a stored image begins with; no picture that a client sent as a file does."""
DENSEST = 8
"""Numbers that a character may stand for: what is stored must not grow without bounds when it is read."""
_STORED = re.compile(f'"({PREFIX}[A-Za-z0-9+/=]*)"')
_TOGETHER = 64
_COLOURS = {1: 0, 3: 2, 4: 6}  # channels to PNG's colour type: grey, RGB, RGB with alpha
Pixels = NDArray[np.uint8]


def pack_image(value: Any) -> str | None:
    """Nested arrays of whole numbers from 0 to 255 as the ``data:`` URL of a PNG; None for anything else, and
    for arrays that say next to nothing: see `DENSEST`.

    Parameters
    ----------
    value
        Rows of grey values, or rows of pixels of three (RGB) or four (RGBA) values. The numbers are kept as
        they are: an image on a scale of 0 to 16 makes a PNG that looks dark.

    Examples
    --------
    >>> unpack_image(pack_image([[0, 12], [3, 16]]))
    [[0, 12], [3, 16]]
    """
    return _packed_all([value])[0]


def pack_inputs(inputs: Sequence[dict[str, Any]], names: Collection[str]) -> list[dict[str, Any]]:
    """Inputs of several events with the images among them as PNG; those of ``names`` are images."""
    found = [dict(each) for each in inputs]
    for name in names:
        places = [place for place, each in enumerate(found) if isinstance(each.get(name), list)]
        for place, text in zip(places, _packed_all([found[place][name] for place in places]), strict=True):
            if text is not None:
                found[place][name] = text
    return found


def unpack_image(value: Any) -> Any:
    """The nested arrays of a PNG that `pack_image` wrote; anything else as it is."""
    from PIL import Image  # only where images are in use

    if not isinstance(value, str) or not value.startswith(PREFIX):
        return value
    try:
        with Image.open(io.BytesIO(base64.b64decode(value[len(PREFIX) :])), formats=("PNG",)) as image:
            numbers = image.width * image.height * len(image.getbands())
            if image.mode not in {"L", "RGB", "RGBA"} or numbers > DENSEST * len(value):
                return value
            return np.asarray(image).tolist()
    except (OSError, ValueError, SyntaxError, binascii.Error):
        return value


def unpack_json(inputs: str) -> str:
    """The JSON of inputs as they came: the images in it as arrays again, nothing else touched.

    >>> unpack_json('{"a": 1.50, "image": "' + (pack_image([[0, 12], [3, 16]]) or "") + '"}')
    '{"a": 1.50, "image": [[0,12],[3,16]]}'
    """
    if PREFIX not in inputs:
        return inputs
    return _STORED.sub(lambda found: msgspec.json.encode(unpack_image(found[1])).decode(), inputs)


def _packed_all(values: Sequence[Any]) -> list[str | None]:
    """Usually all are of one size, and are looked at together, so many at a time that it takes little memory."""
    found: list[str | None] = []
    for start in range(0, len(values), _TOGETHER):
        some = list(values[start : start + _TOGETHER])
        pixels = _pixels(some)
        if pixels is not None:
            found += _png_of_each(pixels)
        else:
            found += [None if (alone := _pixels([value])) is None else _png_of_each(alone)[0] for value in some]
    return found


def _pixels(values: list[Any]) -> Pixels | None:
    """Images of one size as an array of shape ``(n, height, width[, channels])``, or None."""
    if not are_numbers(values):
        return None
    try:
        array = np.array(values)
    except (ValueError, OverflowError):
        return None
    if array.dtype.kind not in "iuf" or array.ndim not in {3, 4} or not array.size or array[0].size > MAX_PIXELS:
        return None
    if array.ndim == 4 and array.shape[3] not in {3, 4}:
        return None
    with np.errstate(invalid="ignore"):
        pixels = array.astype(np.uint8)
    return pixels if np.array_equal(pixels, array) else None


def _png_of_each(images: Pixels) -> list[str | None]:
    _, height, width, *channels = images.shape
    head = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels[0] if channels else 1], 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head)
    end = _chunk(b"IEND", b"")
    rows = images.reshape(len(images), height, -1)
    step = channels[0] if channels else 1
    # Each row begins with its filter: 1, a pixel is written as its difference to the one on its left.
    written = np.concatenate((np.ones((len(images), height, 1), np.uint8), rows), axis=2)
    written[:, :, 1 + step :] -= rows[:, :, :-step]
    texts = (
        PREFIX + base64.b64encode(start + _chunk(b"IDAT", zlib.compress(image.tobytes(), 1)) + end).decode()
        for image in written
    )
    return [text if images[0].size <= DENSEST * len(text) else None for text in texts]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
