"""Convert image inputs to PNG files for the review page."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from exporter.features.image import FILE_PREFIXES, IMAGE_ERRORS, are_numbers, decode_image, number_array, open_image
from exporter.profiles.profile import NumericFeature, Profile
from exporter.stats.divergence import Floats

MAX_SIDE = 1024
"""Pixels of the longer side; larger images are scaled down."""
SCALES = (1.0, 16.0, 255.0, 65535.0)
"""The value of white on the usual scales of pixels."""


def is_image(value: Any) -> bool:
    """Return whether a value looks like an image: rows of numbers, or an encoded image file. Used without a profile.

    >>> is_image([[0, 1], [1, 0]]), is_image([0, 1]), is_image("data:image/png;base64,"), is_image("iVBORw0KGgo")
    (True, False, True, True)
    """
    if isinstance(value, str):
        return value.startswith(FILE_PREFIXES)
    rows = isinstance(value, list) and len(value) > 1 and isinstance(value[0], list) and len(value[0]) > 1
    return rows and are_numbers(value)


def white(pixels: Floats, trained: NumericFeature | None) -> float:
    """Return the value of white: the smallest usual scale that fits these pixels and the brightest training image.

    So a dark image stays dark if training images were bright.

    >>> white(np.array([[0.0, 3]]), None), white(np.array([[0.0, 0.5]]), None)
    (16.0, 1.0)
    """
    top = max(float(abs(pixels).max()), trained.max if trained and trained.max is not None else 0.0)
    return next((scale for scale in SCALES if top <= scale), top)


def png(value: Any, name: str, profile: Profile | None) -> bytes | None:
    """Convert an image input to a PNG of at most `MAX_SIDE` pixels per side; None if it is not an image.

    Parameters
    ----------
    value
        Rows of pixels, or base64 of a PNG, JPEG or WebP file.
    name
        The name of the input.
    profile
        The profile of the model, which has the brightness of training images.
    """
    from PIL import Image

    image = _decode_file(value) if isinstance(value, str) else _decode_channels(value)
    if image is None:
        pixels = decode_image(value)
        if pixels is None:
            return None
        trained = profile.features.get(f"{name}.intensity_mean") if profile else None
        image = Image.fromarray(
            _to_bytes(pixels, white(pixels, trained if isinstance(trained, NumericFeature) else None))
        )
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _to_bytes(pixels: Floats, top: float) -> Any:
    low = -top if pixels.min() < 0 else 0.0  # normalized around zero
    return ((pixels - low) * (255 / ((top - low) or 1.0))).round().clip(0, 255).astype(np.uint8)


def _decode_channels(value: Any) -> Any:
    """Return an image of rows of pixels with three or four channels; None for other values."""
    from PIL import Image

    pixels = number_array(value)
    if (
        pixels is None
        or pixels.ndim != 3
        or pixels.shape[2] not in {3, 4}
        or not pixels.size
        or not np.isfinite(pixels).all()
    ):
        return None
    return Image.fromarray(_to_bytes(pixels, white(pixels, None)))


def _decode_file(value: str) -> Any:
    """Decode a colour image; it is encoded again, so that the client's bytes are not served."""
    try:
        with open_image(value) as image:
            if image.mode in {"I", "I;16", "F"}:
                return None
            return image.convert("RGBA" if "A" in image.mode or "transparency" in image.info else "RGB")
    except IMAGE_ERRORS:
        return None
