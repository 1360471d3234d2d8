"""From what a client sends to columns of scalar features.

A column of numbers is a float64 array in which NaN means missing and an infinity means invalid
(a value of the wrong type, or one that no number can hold): bad data is counted, never refused.
"""

from __future__ import annotations

import base64
import binascii
import io
import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.drift import Floats

IMAGE_STATISTICS = ("intensity_mean", "intensity_stddev", "contrast", "sharpness")
"""Scalar features of an image, in the order of `image_columns`."""
MAX_PIXELS = 16_000_000
"""A larger encoded image is invalid: decoding it would cost more memory than one value may."""
_WAITING_PIXELS = 4_000_000  # a small file can hold many pixels, and a batch many files
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601

Missing = type(None)
_NUMBERS = frozenset({float, int, Missing})
_SCALARS = frozenset({str, bool, int, float})


def as_list(values: Sequence[Any] | npt.NDArray[Any]) -> Sequence[Any]:
    """A column as Python values, whatever it came as."""
    listed: Sequence[Any] = values.tolist() if isinstance(values, np.ndarray) else values
    return listed


def numeric_column(values: Sequence[Any]) -> Floats:
    """Numbers as float64, shape ``(n,)``.

    >>> numeric_column([1, None, 2.5, "3", True, 10**400])
    array([1. , nan, 2.5, inf, inf, inf])
    """
    if set(map(type, values)) <= _NUMBERS:
        try:
            return np.array(values, dtype=np.float64)  # None becomes NaN
        except OverflowError:
            pass
    return np.array([_number(value) for value in values], dtype=np.float64)


def numeric_columns(columns: Sequence[Sequence[Any] | npt.NDArray[Any]]) -> Floats:
    """Numbers of several columns of one length as float64, shape ``(columns, n)``; see `numeric_column`."""
    kinds = {values.dtype.kind if isinstance(values, np.ndarray) and values.ndim == 1 else "" for values in columns}
    if kinds <= {"i", "u", "f"}:
        return np.array(columns, dtype=np.float64)
    if kinds == {""} and set(map(type, itertools.chain.from_iterable(columns))) <= _NUMBERS:
        try:
            return np.array(columns, dtype=np.float64)
        except OverflowError:
            pass
    return np.array([numeric_column(as_list(values)) for values in columns])


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if type(value) is float or type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return math.inf
    return math.inf


def category_counts(
    values: Sequence[Any] | Floats, known: Mapping[str, int], rare: frozenset[str]
) -> tuple[Floats, float]:
    """Bin counts of a column of categories.

    A number or a truth value counts as the category that is spelt like it in JSON, if training
    saw that category; otherwise it is a value of the wrong type.

    Parameters
    ----------
    values
        What came, None where nothing did.
    known
        Place of each category that has a bin of its own, ``C`` of them.
    rare
        Further categories that training saw.

    Returns
    -------
    tuple
        Counts of shape ``(C + 3,)``: the categories, other, missing, invalid; and how many
        values were of a category that training never saw.
    """
    size = len(known)
    counts = np.zeros(size + 3)
    unseen = 0.0
    for (kind, value), times in _tally(values).items():
        place = known.get(value) if kind in _SCALARS else None
        if kind is Missing:
            place = size + 1
        elif place is None and (kind is str or (kind in _SCALARS and value in rare)):
            place = size
            unseen += 0.0 if value in rare else times
        elif place is None:
            place = size + 2
        counts[place] += times
    return counts, unseen


def _tally(values: Sequence[Any] | Floats) -> Counter[tuple[type, str]]:
    if isinstance(values, np.ndarray):
        found, times = np.unique(values, return_counts=True)  # one NaN for all
        return Counter(
            {(float, spelt(value)) if value == value else (Missing, ""): n  # noqa: PLR0124 (NaN is missing)
             for value, n in zip(found.tolist(), times.tolist(), strict=True)}
        )  # fmt: skip
    if set(map(type, values)) == {str}:
        return Counter({(str, value): times for value, times in Counter(values).items()})
    return Counter((type(value), value if isinstance(value, str) else spelt(value)) for value in values)


def spelt(value: Any) -> str:
    """A scalar as JSON spells it, the text of a string, and nothing for what is no scalar."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int | float) else ""


def image_columns(values: Sequence[Any]) -> Floats:
    """Statistics of images, shape ``(4, n)`` in the order of `IMAGE_STATISTICS`.

    An image is a nested array (rows of pixels, or rows of pixels of channels, of any scale) or
    base64 of a PNG, JPEG or WebP file, its ``data:`` prefix allowed, then on a scale of 0 to 255
    (65,535 for a grey PNG of 16 bits).
    Colour is reduced to luma (ITU-R BT.601). What is no image is invalid, ``null`` is missing.
    """
    batch = _pixels(values) if values and isinstance(values[0], list) else None
    if batch is not None and batch.ndim == 3 and batch.size:
        return image_statistics(batch)
    columns = np.full((len(IMAGE_STATISTICS), len(values)), np.inf)
    shapes: dict[tuple[int, ...], tuple[list[int], list[Floats]]] = {}
    waiting = 0
    for place, value in enumerate(values):
        if value is None:
            columns[:, place] = np.nan
        elif (image := decode_image(value)) is not None:
            places, images = shapes.setdefault(image.shape, ([], []))
            places.append(place)
            images.append(image)
            waiting += image.size
        if waiting > _WAITING_PIXELS or place == len(values) - 1:
            for places, images in shapes.values():
                columns[:, places] = image_statistics(np.stack(images))
            shapes.clear()
            waiting = 0
    return columns


def decode_image(value: Any) -> Floats | None:
    """One image as grey values of shape ``(height, width)``, or None when it is no image."""
    pixels = _encoded(value) if isinstance(value, str | bytes) else _pixels(value)
    if pixels is not None and pixels.ndim == 3:
        channels = pixels.shape[2]
        pixels = pixels[..., 0] if channels in {1, 2} else pixels[..., :3] @ _LUMA if channels in {3, 4} else None
    return pixels if pixels is not None and pixels.ndim == 2 and pixels.size else None


def _pixels(value: Any) -> Floats | None:
    """A nested list of numbers as an array, or None: ragged, not numbers, or not finite."""
    if not are_numbers(value):
        return None
    try:
        array = np.array(value, dtype=np.float64)
    except (ValueError, OverflowError):
        return None
    return array if np.isfinite(array).all() and abs(array).max(initial=0) < 1e100 else None


def are_numbers(value: Any) -> bool:
    """Whether the leaves of nested lists, or of an array, are numbers alone.

    Asked before numpy sees them: it would make room for the longest string at every place.
    """
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "iuf"
    level = value
    while isinstance(level, list) and level and isinstance(level[0], list):
        if set(map(type, level)) != {list}:
            return False
        level = list(itertools.chain.from_iterable(level))
    return isinstance(level, list) and set(map(type, level)) <= {int, float}


def _encoded(value: str | bytes) -> Floats | None:
    from PIL import Image  # only where encoded images are in use

    Image.MAX_IMAGE_PIXELS = None  # the limit below is the stricter one
    try:
        raw = (
            base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value)
            if isinstance(value, str)
            else value
        )
        with Image.open(io.BytesIO(raw), formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            if image.mode in {"1", "L", "LA", "I", "I;16", "F"}:
                return np.asarray(image if image.mode in {"I", "I;16", "F"} else image.convert("L"), dtype=np.float64)
            # As nested arrays are: Pillow's own luma is rounded to whole numbers.
            colour: Floats = np.asarray(image.convert("RGB"), dtype=np.float64) @ _LUMA
            return colour
    except (OSError, ValueError, SyntaxError, binascii.Error):
        return None


def image_statistics(images: Floats) -> Floats:
    """Mean, standard deviation, contrast and sharpness of grey images.

    Contrast is Michelson's, ``(max − min)/(max + min)``; sharpness is the variance of the
    Laplacian (Pech-Pacheco et al. 2000), 0 for images under three pixels wide or high.

    Parameters
    ----------
    images
        Shape ``(n, height, width)``.

    Returns
    -------
    ndarray
        Shape ``(4, n)``, in the unit of the pixels, contrast without one.

    Examples
    --------
    >>> image_statistics(np.array([[[0.0, 0, 0], [0, 9, 0], [0, 0, 0]]])).round(2).tolist()
    [[1.0], [2.83], [1.0], [0.0]]
    """
    flat = images.reshape(len(images), -1)
    low, high = flat.min(axis=1), flat.max(axis=1)
    span = np.abs(low) + np.abs(high)
    contrast = np.divide(high - low, span, out=np.zeros(len(images)), where=span > 0)
    sharpness = np.zeros(len(images))
    if min(images.shape[1:]) >= 3:
        centre = images[:, 1:-1, 1:-1]
        around = images[:, :-2, 1:-1] + images[:, 2:, 1:-1] + images[:, 1:-1, :-2] + images[:, 1:-1, 2:]
        sharpness = (around - 4 * centre).reshape(len(images), -1).var(axis=1)
    return np.stack([flat.mean(axis=1), flat.std(axis=1), contrast, sharpness])


def lenient_inputs(raw: bytes) -> dict[str, Any]:
    """An event's ``inputs`` that the strict decoder would not take: what can be read of them.

    Python's ``NaN`` becomes null; an infinity, or a number that no float holds, becomes its own
    text, and so an invalid value; broken UTF-8 is replaced.
    """
    try:
        document = json.loads(raw.decode("utf-8", "replace"), parse_int=integer)
    except (ValueError, RecursionError):
        return {}
    cleaned = clean(document)
    return cleaned if isinstance(cleaned, dict) else {}


def integer(text: str) -> int | str:
    """A JSON integer; one that no float holds stays text."""
    return int(text) if len(text) < 300 else text


def clean(value: Any, depth: int = 64) -> Any:
    """A decoded document as plain JSON can carry it, see `lenient_inputs`; empty below ``depth`` levels."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int) and abs(value) >= 2**63:
        return float(value)
    if isinstance(value, list):
        return [clean(item, depth - 1) for item in value] if depth else []
    if isinstance(value, dict):
        return {clean(key): clean(item, depth - 1) for key, item in value.items()} if depth else {}
    return value
