"""A batch of inputs from JSON straight to a column an input, which takes half the time of a mapping an event.

So are read inputs that are as the profile expects them. Whatever else comes makes the whole batch take the long way,
over mappings, where bad data is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from exporter.features.base import InputType
from exporter.stats.divergence import Floats

BLOCK = 500
"""Events whose values are turned into columns at a time: they stay in the processor's cache meanwhile."""
MAX_ORDERS = 8
"""Orders of members that are read straight from JSON; clients that have no order of their own go the long way."""


class InputTable(NamedTuple):
    """Inputs of ``rows`` events by name: lists with None where nothing came, numbers as float64 with NaN."""

    columns: dict[str, Any]
    rows: int


class JsonColumnReader:
    """Reads JSON objects of inputs as the profile expects them, by types made for it.

    Parameters
    ----------
    kinds
        The inputs that are watched.
    """

    def __init__(self, kinds: Mapping[str, InputType]) -> None:
        self._types: dict[str, Any] = {n: float | None if kind.type == "numeric" else Any for n, kind in kinds.items()}
        self._numbers = [name for name, kind in kinds.items() if kind.type == "numeric"]
        self._decoders: list[tuple[list[str], Callable[[bytes], Any]]] = []

    def read(self, texts: Sequence[bytes]) -> InputTable | None:
        """The columns of those events that have inputs; None where any of these are not as expected.

        Parameters
        ----------
        texts
            The JSON of each event's inputs; empty or ``null`` for none.
        """
        there = [text for text in texts if text and text != b"null"]
        if not there:
            return InputTable({}, 0)
        try:
            found = self._decoder(msgspec.json.decode(there[0], type=dict[str, msgspec.Raw]))
            if found is None:
                return None
            order, decode = found
            columns: dict[str, Any] = {name: [] for name in order if name not in self._numbers}
            numbers: list[Floats] = []
            for start in range(0, len(there), BLOCK):
                rows = list(map(msgspec.structs.astuple, map(decode, there[start : start + BLOCK])))
                block: dict[str, Any] = dict(zip(order, zip(*rows, strict=True), strict=True))
                some = np.array([block.pop(name) for name in self._numbers], dtype=np.float64)
                numbers.append(some.reshape(len(self._numbers), len(rows)))
                for name, values in block.items():
                    columns[name] += values
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return InputTable(columns | dict(zip(self._numbers, np.concatenate(numbers, axis=1), strict=True)), len(there))

    def _decoder(self, first: Mapping[str, Any]) -> tuple[list[str], Callable[[bytes], Any]] | None:
        """What decodes objects with their members in the order of the first one; it looks for each behind the last."""
        for known in self._decoders:
            rest = iter(known[0])
            if all(name in rest for name in first):
                return known
        if len(self._decoders) >= MAX_ORDERS or not first.keys() <= self._types.keys():
            return None
        order = [*first, *(name for name in self._types if name not in first)]
        fields = [(f"f{place}", self._types[name], None) for place, name in enumerate(order)]
        renamed = {f"f{place}": name for place, name in enumerate(order)}
        try:
            kind = msgspec.defstruct("Inputs", fields, rename=renamed, forbid_unknown_fields=True, gc=False)
        except ValueError:  # a name that cannot be one of a member
            return None
        self._decoders.append((order, msgspec.json.Decoder(kind).decode))
        return self._decoders[-1]
