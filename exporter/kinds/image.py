"""Images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from exporter.drift import Floats
from exporter.extract import IMAGE_STATISTICS, image_columns
from exporter.kinds.base import Kind


class Image(Kind):
    """Nested arrays of pixels, or a PNG, JPEG or WebP file; of any size."""

    type = "image"
    noun = "an image"
    statistics = IMAGE_STATISTICS

    def columns(self, values: Sequence[Any], now: float | Floats) -> Floats:  # noqa: ARG002
        """See `Kind.columns`."""
        return image_columns(values)
