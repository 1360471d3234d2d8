"""Reviewed examples, and their JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec


class Example(msgspec.Struct, gc=False):
    """A reviewed example; ``label`` is the effective label."""

    id: str
    prediction_id: str | None
    model: str
    version: str
    inputs: dict[str, Any] | None
    label: Any
    prediction: Any
    confidence: float | None
    user_label: Any
    user: str | None
    reviewer: str | None
    reviewed: str | None
    predicted: str | None
    source: str
    revision: int


Page = list[Example]
Pages = Callable[[], Iterator[Page]]
"""Returns the same pages at each call."""

_Type = TypeVar("_Type")
_encoder = msgspec.json.Encoder(order="deterministic")


def encode_lines(page: Sequence[Example]) -> bytes:
    """Encode examples as JSON lines in canonical form: members in a fixed order, inputs sorted by name."""
    return _encoder.encode_lines(page)


class ExampleId(msgspec.Struct, gc=False):
    """The identifier of an example's correction."""

    id: str


def decode_lines(chunks: Iterator[bytes], type_: type[_Type]) -> Iterator[list[_Type]]:
    """Decode JSON lines that were cut into chunks anywhere; yield a list for each chunk."""
    decoder, rest = msgspec.json.Decoder(type_), b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            yield [decoder.decode(line) for line in lines]
