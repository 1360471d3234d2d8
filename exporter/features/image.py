"""Images."""

from __future__ import annotations

import base64
import io
import itertools
import struct
import zlib
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from exporter.features.base import ColumnSample, InputType
from exporter.stats.divergence import Floats

if TYPE_CHECKING:
    from PIL import Image as PillowImage

IMAGE_STATISTICS = ("intensity_mean", "intensity_stddev", "contrast", "sharpness")
"""Scalar features of an image, in the order of `image_columns`."""
MAX_PIXELS = 16_000_000
"""Most pixels of an encoded image. A larger one is invalid, since decoding it would take too much memory."""
FILE_PREFIXES = ("data:image/", "iVBORw0KGgo", "/9j/", "UklGR")
"""First characters of an image file in base64, with a ``data:`` prefix or without."""
IMAGE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, IndexError, OverflowError, struct.error, zlib.error)
"""What Pillow raises for a file that is not a valid image."""
admit: ContextVar[Callable[[int], bool]] = ContextVar("admit", default=lambda pixels: True)  # noqa: ARG005
"""Returns whether so many pixels of an image file may be decoded in this context now; the image is invalid if not."""
_PENDING_PIXELS = 4_000_000  # bounds memory: a small file can hold many pixels, and a batch many files
_ROWS = 64
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


class Image(InputType):
    """Nested arrays of pixels, or a PNG, JPEG or WebP file, of any size."""

    type = "image"
    noun = "an image"
    statistics = IMAGE_STATISTICS
    shown_as = "picture"
    compared_as = "array"

    @classmethod
    def recognizes(cls, sample: ColumnSample) -> bool:
        """See `InputType.recognizes`."""
        if sample.types <= {list, bytes}:
            return True
        encoded = all(text.startswith("data:image/") for text in sample.strings)
        return sample.types <= {list, str} and bool(sample.strings) and encoded

    def columns(self, values: Sequence[Any], now: float | Floats) -> Floats:  # noqa: ARG002
        """See `InputType.columns`."""
        return image_columns(values)


def image_columns(values: Sequence[Any]) -> Floats:
    """Return the statistics of images, shape ``(4, n)`` in the order of `IMAGE_STATISTICS`.

    An image is a nested array (rows of pixels, or rows of pixels of channels, on any scale), or a PNG, JPEG or WebP
    file in base64, with or without a ``data:`` prefix. The scale of a file is 0 to 255, or to 65,535 for a grey PNG of
    16 bits. Colour is reduced to luma (ITU-R BT.601). A value that is not an image is invalid; None is missing.
    """
    batch = _pixels(values) if values and isinstance(values[0], list) else None
    if batch is not None and batch.ndim == 3 and batch.size:
        return image_statistics(batch)
    columns = np.full((len(IMAGE_STATISTICS), len(values)), np.inf)
    shapes: dict[tuple[int, ...], tuple[list[int], list[Floats]]] = {}
    pending = 0
    for index, value in enumerate(values):
        if value is None:
            columns[:, index] = np.nan
        elif (image := decode_image(value)) is not None:
            indices, images = shapes.setdefault(image.shape, ([], []))
            indices.append(index)
            images.append(image)
            pending += image.size
        if pending > _PENDING_PIXELS or index == len(values) - 1:
            for indices, images in shapes.values():
                columns[:, indices] = image_statistics(np.stack(images) if len(images) > 1 else images[0][np.newaxis])
            shapes.clear()
            pending = 0
    return columns


def decode_image(value: Any) -> Floats | None:
    """Return an image as grey values of shape ``(height, width)``; None for a value that is not an image."""
    pixels = _decode_file(value) if isinstance(value, str | bytes) else _pixels(value)
    if pixels is not None and pixels.ndim == 3:
        pixels = _to_grey(pixels)
    return pixels if pixels is not None and pixels.ndim == 2 and pixels.size else None


def _to_grey(pixels: Floats) -> Floats | None:
    """Reduce channels to one: grey, grey with alpha, RGB, or RGB with alpha."""
    channels = pixels.shape[2]
    if channels in {1, 2}:
        return pixels[..., 0]
    if channels in {3, 4}:
        grey: Floats = pixels[..., :3] @ _LUMA
        return grey
    return None


def _pixels(value: Any) -> Floats | None:
    """Return a nested list of numbers as an array; None where it is ragged, or not of finite numbers."""
    array: Floats | None = number_array(value)
    return array if array is not None and np.isfinite(array).all() and abs(array).max(initial=0) < 1e100 else None


def number_array(value: Any, dtype: type | None = np.float64) -> npt.NDArray[Any] | None:
    """Return nested lists of numbers as an array; None when they hold something else, or have no common shape."""
    if not are_numbers(value):
        return None
    try:
        return np.array(value, dtype=dtype)
    except (ValueError, OverflowError):
        return None


def are_numbers(value: Any) -> bool:
    """Return whether all leaves of nested lists, or of an array, are numbers.

    Check it before numpy converts a list: for strings numpy would allocate the longest string's size for every item.
    """
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "iuf"
    level = value
    while isinstance(level, list) and level and isinstance(level[0], list):
        if set(map(type, level)) != {list}:
            return False
        level = list(itertools.chain.from_iterable(level))
    return isinstance(level, list) and set(map(type, level)) <= {int, float}


def open_image(value: str | bytes) -> PillowImage.Image:
    """Open an image file, or its base64 with or without a ``data:`` prefix; only its head is decoded.

    Raises
    ------
    ValueError, OSError
        When it is not a PNG, JPEG or WebP file, or has more than `MAX_PIXELS`; see `IMAGE_ERRORS`.
    """
    from PIL import Image  # only where encoded images are in use

    Image.MAX_IMAGE_PIXELS = None  # the limit below is the stricter one
    if isinstance(value, str):
        value = base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value)
    image = Image.open(io.BytesIO(value), formats=("PNG", "JPEG", "WEBP"))
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"more than {MAX_PIXELS:,} pixels")
    return image


def encoded_pixels(value: Any) -> int:
    """Return the number of pixels of an image file in base64; 0 for anything else."""
    if not isinstance(value, str) or not value.startswith(FILE_PREFIXES):
        return 0
    try:
        with open_image(value) as image:
            return image.width * image.height
    except IMAGE_ERRORS:
        return 0


def _decode_file(value: str | bytes) -> Floats | None:
    try:
        with open_image(value) as image:
            if not admit.get()(image.width * image.height):
                return None
            dtype = np.float64 if image.width * image.height <= _PENDING_PIXELS else np.float32  # half the memory
            if image.mode in {"1", "L", "LA", "I", "I;16", "F"}:
                return np.asarray(image if image.mode in {"I", "I;16", "F"} else image.convert("L"), dtype=dtype)
            colour = np.asarray(image.convert("RGB"))
    except IMAGE_ERRORS:
        return None
    # As nested arrays are: Pillow's own luma is rounded to whole numbers.
    grey = np.empty(colour.shape[:2], dtype)
    for start in range(0, len(grey), _ROWS):  # all at once, the product would take three times the memory of the result
        grey[start : start + _ROWS] = colour[start : start + _ROWS].astype(np.float64) @ _LUMA
    return grey


def image_statistics(images: Floats) -> Floats:
    """Return mean, standard deviation, contrast and sharpness of grey images.

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
        laplacian = images[:, :-2, 1:-1] + images[:, 2:, 1:-1]
        laplacian += images[:, 1:-1, :-2]
        laplacian += images[:, 1:-1, 2:]
        laplacian -= 4 * images[:, 1:-1, 1:-1]
        sharpness = laplacian.reshape(len(images), -1).var(axis=1)
    return np.stack([flat.mean(axis=1), flat.std(axis=1), contrast, sharpness])
