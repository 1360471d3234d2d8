"""The inputs of a prediction as the store keeps them: redacted, and with images as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from exporter.features.png_codec import pack_inputs


def as_stored(
    kept: Sequence[bytes],
    decoded: Mapping[int, dict[str, Any]],
    redacted: frozenset[str],
    images: frozenset[str],
    least: int = 0,
) -> list[bytes]:
    """The JSON of events' inputs without what is redacted, and with images as PNG.

    Parameters
    ----------
    kept
        The JSON of each one's inputs as it came; empty for none.
    decoded
        Inputs by their place.
    redacted, images
        Names of inputs.
    least
        Bytes of JSON from which on images become PNG.
    """
    found = [b"" if redacted else text for text in kept]
    there = [place for place, text in enumerate(kept) if text and place in decoded]
    inputs = {place: without(decoded[place], redacted) if redacted else decoded[place] for place in there}
    large = [place for place in there if len(kept[place]) >= least and not images.isdisjoint(inputs[place])]
    packed = dict(zip(large, pack_inputs([inputs[place] for place in large], images), strict=True))
    for place, each in (inputs | packed if redacted else packed).items():
        found[place] = msgspec.json.encode(each)
    return found


def without(inputs: Mapping[str, Any], redacted: frozenset[str]) -> dict[str, Any]:
    """Inputs less those that must leave no trace."""
    return {name: value for name, value in inputs.items() if name not in redacted}
