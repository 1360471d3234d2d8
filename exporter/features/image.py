"""Images."""

from __future__ import annotations

import base64
import io
import itertools
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
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
MAX_WIDTH = 65_535
"""Most pixels of a row of an encoded image: so many has a JPEG at most, and rows are read some at a time."""
FILE_PREFIXES = ("data:image/", "iVBORw0KGgo", "/9j/", "UklGR")
"""First characters of an image file in base64, with a ``data:`` prefix or without."""
IMAGE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, IndexError, OverflowError, struct.error, zlib.error)
"""What Pillow raises for a file that is not a valid image."""
admit: ContextVar[Callable[[float], bool]] = ContextVar("admit", default=lambda seconds: True)  # noqa: ARG005
"""Takes the seconds that an image file took; returns whether another may be decoded in this context, else invalid."""
_BAND_PIXELS = 2**17
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
    for index, value in enumerate(values):
        if value is None:
            columns[:, index] = np.nan
        elif isinstance(value, str | bytes):
            if (found := _read_file(value, _statistics_of_bands)) is not None:
                columns[:, index] = found[:, 0]
        elif (image := decode_image(value)) is not None:
            columns[:, index] = image_statistics(image[np.newaxis])[:, 0]
    return columns


def decode_image(value: Any) -> Floats | None:
    """Return an image as grey values of shape ``(height, width)``; None for a value that is not an image."""
    if isinstance(value, str | bytes):
        return _read_file(value, lambda bands: np.concatenate([band[0].astype(np.float32) for band in bands]))
    pixels = _pixels(value)
    if pixels is not None and pixels.ndim == 3:
        channels = pixels.shape[2]  # grey, grey with alpha, RGB, or RGB with alpha
        pixels = pixels[..., 0] if channels in {1, 2} else pixels[..., :3] @ _LUMA if channels in {3, 4} else None
    return pixels if pixels is not None and pixels.ndim == 2 and pixels.size else None


def _pixels(value: Any) -> Floats | None:
    """Return a nested list of numbers as an array; None where it is ragged, or not of finite numbers."""
    array: Floats | None = number_array(value)
    return array if array is not None and np.isfinite(array).all() and abs(array).max(initial=0) < 1e100 else None


def number_array(value: Any, dtype: type | None = np.float64) -> npt.NDArray[Any] | None:
    """Return nested lists of numbers as an array; None when they hold something else, or have no common shape.

    numpy gets all numbers in one list: no other thread runs while it looks through nested ones, and for strings it
    would allocate the longest string's size for every item.
    """
    if isinstance(value, np.ndarray):
        return np.array(value, dtype) if value.dtype.kind in "iuf" else None
    numbers, shape = value, []
    while isinstance(numbers, list) and numbers and isinstance(numbers[0], list):
        if set(map(type, numbers)) != {list} or len(set(map(len, numbers))) > 1:
            return None
        shape.append(len(numbers[0]))
        numbers = list(itertools.chain.from_iterable(numbers))
    are_numbers = isinstance(numbers, list) and set(map(type, numbers)) <= {int, float}
    try:
        return np.array(numbers, dtype).reshape(len(value), *shape) if are_numbers else None
    except (ValueError, OverflowError):
        return None


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
    if image.width * image.height > MAX_PIXELS or image.width > MAX_WIDTH:
        raise ValueError(f"more than {MAX_PIXELS:,} pixels, or {MAX_WIDTH:,} in a row")
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


def _read_file(value: str | bytes, read: Callable[[Iterator[Floats]], Floats]) -> Floats | None:
    """Return what ``read`` makes of the grey values of an image file, which come in bands of rows."""
    started = time.perf_counter()
    try:
        with open_image(value) as image:
            return read(_bands(image)) if admit.get()(0.0) else None
    except IMAGE_ERRORS:
        return None
    finally:
        admit.get()(time.perf_counter() - started)


def _bands(image: PillowImage.Image) -> Iterator[Floats]:
    """Yield some rows at a time, shape ``(1, rows, width)``: all at once would take many times the memory of a file."""
    mode = {"1": "L", "LA": "L"}.get(image.mode, image.mode if image.mode in {"L", "I", "I;16", "F"} else "RGB")
    step = max(_BAND_PIXELS // image.width, 1)
    for top in range(0, image.height, step):
        part = image.crop((0, top, image.width, min(top + step, image.height)))
        grey = np.asarray(part.convert(mode), dtype=np.float64)
        yield (grey @ _LUMA if mode == "RGB" else grey)[np.newaxis]  # as of nested arrays: Pillow's luma is rounded


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
    return _statistics_of_bands([images])


def _statistics_of_bands(bands: Iterable[Floats]) -> Floats:
    """Return `image_statistics` of images in bands of rows, each of shape ``(n, rows, width)``."""
    counts, totals, edges = np.zeros((2, 1)), np.zeros((2, 2, 1)), list[Floats]()
    above = first = np.empty((0, 0, 0))
    for band in bands:
        rows = np.concatenate([above, band], axis=1) if edges else band
        first = first if edges else band[:, :1, :1]  # all are shifted by it: else the variance would not be exact
        laplacian = rows[:, :-2, 1:-1] + rows[:, 2:, 1:-1]
        laplacian += rows[:, 1:-1, :-2]
        laplacian += rows[:, 1:-1, 2:]
        laplacian -= 4 * rows[:, 1:-1, 1:-1]
        flat = [values.reshape(len(band), -1) for values in (band - first, laplacian)]
        counts += [[values.shape[1]] for values in flat]
        totals = totals + [[values.sum(axis=1), np.einsum("ij,ij->i", values, values)] for values in flat]
        edges += [flat[0].min(axis=1), flat[0].max(axis=1)]
        above = rows[:, -2:]
    mean, square = totals.swapaxes(0, 1) / np.maximum(counts, 1)
    variance, start = np.maximum(square - mean**2, 0), first[:, 0, 0]
    low, high = np.min(edges, axis=0) + start, np.max(edges, axis=0) + start
    span = np.abs(low) + np.abs(high)
    contrast = np.divide(high - low, span, out=np.zeros(len(span)), where=span > 0)
    return np.stack([mean[0] + start, np.sqrt(variance[0]), contrast, variance[1]])
