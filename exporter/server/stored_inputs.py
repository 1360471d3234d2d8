"""Prepare inputs for the store: remove redacted inputs and convert images to PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from exporter.features.json_inputs import escape_prefix, escape_prefixes, pack_inputs, remove_inputs
from exporter.monitoring.registry import MonitorRegistry
from exporter.profiles.profile import image_inputs


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
        The decoded inputs by the index of their event; may be empty where nothing is redacted and no input is an image.
    redacted, images
        Names of inputs.
    min_image_bytes
        Images become PNG where the JSON has at least so many bytes.
    """
    prepared = [b""] * len(raw) if redacted else escape_prefixes(raw)
    indices = [index for index in decoded if raw[index]]
    inputs = {index: without(decoded[index], redacted) if redacted else decoded[index] for index in indices}
    large = [i for i in indices if len(raw[i]) >= min_image_bytes and not images.isdisjoint(inputs[i])]
    packed = dict(zip(large, pack_inputs([inputs[index] for index in large], images), strict=True))
    for index in indices if redacted else [index for index in large if packed[index]]:
        prepared[index] = _encode(inputs[index], packed.get(index, {}))
    return prepared


def _encode(inputs: Mapping[str, Any], packed: Mapping[str, str]) -> bytes:
    """Encode a client's inputs, some of which are packed images."""
    rest = {name: value for name, value in inputs.items() if name not in packed}
    parts = [escape_prefix(msgspec.json.encode(rest))[1:-1], msgspec.json.encode(packed)[1:-1]]
    return b"{%s}" % b",".join(filter(None, parts))


def without_redacted(monitors: MonitorRegistry, name: str, inputs: str | None) -> str | None:
    """Return the inputs of a model's prediction as feedback and the archive store them; see `feedback_inputs`."""
    model, binner = monitors.models.get(name), monitors.nearest_binner(name)
    if not inputs or model is None:
        return inputs
    return feedback_inputs(inputs, model.redact, image_inputs(model, binner.profile if binner else None)) or None


def feedback_inputs(text: str, redacted: frozenset[str], images: frozenset[str]) -> str:
    """Return stored inputs as feedback stores them: without redacted inputs, and with all images as PNG."""
    text = remove_inputs(text, redacted)
    try:
        members = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        arrays = {name: msgspec.json.decode(raw) for name, raw in members.items() if name in images}
    except (msgspec.MsgspecError, RecursionError):
        return text
    (packed,) = pack_inputs([arrays], images)
    return msgspec.json.encode({**members, **packed}).decode() if packed else text


def without(inputs: Mapping[str, Any], redacted: frozenset[str]) -> dict[str, Any]:
    """Return the inputs that are not redacted."""
    return {name: value for name, value in inputs.items() if name not in redacted}
