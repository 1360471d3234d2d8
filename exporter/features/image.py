"""Images."""

from __future__ import annotations

import base64
import binascii
import io
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from exporter.features.base import InputType
from exporter.stats.divergence import Floats

IMAGE_STATISTICS = ("intensity_mean", "intensity_stddev", "contrast", "sharpness")
"""Scalar features of an image, in the order of `image_columns`."""
MAX_PIXELS = 16_000_000
"""A larger encoded image is invalid: decoding it would cost more memory than one value may."""
_WAITING_PIXELS = 4_000_000  # a small file can hold many pixels, and a batch many files
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


class Image(InputType):
    """Nested arrays of pixels, or a PNG, JPEG or WebP file; of any size."""

    type = "image"
    noun = "an image"
    statistics = IMAGE_STATISTICS

    def columns(self, values: Sequence[Any], now: float | Floats) -> Floats:  # noqa: ARG002
        """See `InputType.columns`."""
        return image_columns(values)


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
