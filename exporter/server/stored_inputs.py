"""Prepare inputs for the store: remove redacted inputs and convert images to PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from exporter.features.png_codec import pack_inputs


def prepare_inputs(
    raw: Sequence[bytes],
    decoded: Mapping[int, dict[str, Any]],
    redacted: frozenset[str],
    images: frozenset[str],
    min_image_bytes: int = 0,
) -> list[bytes]:
    """Return the JSON of events' inputs without redacted inputs, and with images as PNG.

    Parameters
    ----------
    raw
        The JSON of each event's inputs as it was received; empty for an event whose inputs are not stored.
    decoded
        The decoded inputs by the index of their event.
    redacted, images
        Names of inputs.
    min_image_bytes
        Images become PNG where the JSON has at least so many bytes.
    """
    prepared = [b"" if redacted else text for text in raw]
    indices = [index for index, text in enumerate(raw) if text and index in decoded]
    inputs = {index: without(decoded[index], redacted) if redacted else decoded[index] for index in indices}
    large = [i for i in indices if len(raw[i]) >= min_image_bytes and not images.isdisjoint(inputs[i])]
    packed = dict(zip(large, pack_inputs([inputs[index] for index in large], images), strict=True))
    for index, values in (inputs | packed if redacted else packed).items():
        prepared[index] = msgspec.json.encode(values)
    return prepared


def without(inputs: Mapping[str, Any], redacted: frozenset[str]) -> dict[str, Any]:
    """Return the inputs that are not redacted."""
    return {name: value for name, value in inputs.items() if name not in redacted}
