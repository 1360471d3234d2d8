"""Image inputs as PNG files, for people."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

import numpy as np

from exporter.features.image import MAX_PIXELS, are_numbers, decode_image
from exporter.profiles.profile import NumericFeature, Profile
from exporter.stats.divergence import Floats

MAX_SIDE = 1024
"""Pixels of a picture's longer side; what is larger is made smaller."""
SCALES = (1.0, 16.0, 255.0, 65535.0)
"""White, on the scales that pixels come in."""


def is_image(value: Any) -> bool:
    """Whether a value looks like an image, where no profile says it: rows of numbers, or an encoded picture.

    >>> is_image([[0, 1], [1, 0]]), is_image([0, 1]), is_image("data:image/png;base64,"), is_image("iVBORw0KGgo")
    (True, False, True, True)
    """
    if isinstance(value, str):
        return value.startswith(("data:image/", "iVBORw0KGgo", "/9j/", "UklGR"))
    rows = isinstance(value, list) and len(value) > 1 and isinstance(value[0], list) and len(value[0]) > 1
    return rows and are_numbers(value)


def white(pixels: Floats, trained: NumericFeature | None) -> float:
    """The value of white: the smallest usual scale that holds these pixels and the brightest training image.

    A dark image among bright ones stays dark.

    >>> white(np.array([[0.0, 3]]), None), white(np.array([[0.0, 0.5]]), None)
    (16.0, 1.0)
    """
    top = max(float(abs(pixels).max()), trained.max if trained and trained.max is not None else 0.0)
    return next((scale for scale in SCALES if top <= scale), top)


def png(value: Any, name: str, profile: Profile | None) -> bytes | None:
    """An image input as a PNG of at most `MAX_SIDE` pixels a side; None when it is no image.

    Parameters
    ----------
    value
        Rows of pixels, or base64 of a PNG, JPEG or WebP file.
    name
        The input.
    profile
        The model's, which knows how bright images were in training.
    """
    from PIL import Image

    picture = _encoded(value) if isinstance(value, str) else _colours(value)
    if picture is None:
        pixels = decode_image(value)
        if pixels is None:
            return None
        trained = profile.features.get(f"{name}.intensity_mean") if profile else None
        picture = Image.fromarray(
            _bytes(pixels, white(pixels, trained if isinstance(trained, NumericFeature) else None))
        )
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _bytes(pixels: Floats, top: float) -> Any:
    low = -top if pixels.min() < 0 else 0.0  # as networks like them, around zero
    return ((pixels - low) * (255 / ((top - low) or 1.0))).round().clip(0, 255).astype(np.uint8)


def _colours(value: Any) -> Any:
    """Rows of pixels of three or four channels; None for all else."""
    from PIL import Image

    if not are_numbers(value):
        return None
    try:
        pixels = np.array(value, dtype=np.float64)
    except (ValueError, OverflowError):
        return None
    if pixels.ndim != 3 or pixels.shape[2] not in {3, 4} or not pixels.size or not np.isfinite(pixels).all():
        return None
    return Image.fromarray(_bytes(pixels, white(pixels, None)))


def _encoded(value: str) -> Any:
    """An encoded colour picture, drawn anew: nothing of the client's own bytes is handed on."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # the limit below is the stricter one
    try:
        raw = base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value)
        with Image.open(io.BytesIO(raw), formats=("PNG", "JPEG", "WEBP")) as picture:
            if picture.width * picture.height > MAX_PIXELS or picture.mode in {"I", "I;16", "F"}:
                return None
            return picture.convert("RGBA" if "A" in picture.mode or "transparency" in picture.info else "RGB")
    except (OSError, ValueError, SyntaxError, binascii.Error):
        return None
