"""Convert inputs for the search for near-duplicates: numbers to training standard deviations, all others to keys."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from exporter.features.extract import as_list, numeric_columns, scalar_text
from exporter.features.timestamp import unix_seconds
from exporter.monitoring.binner import Binner
from exporter.stats.divergence import Ints
from exporter.stats.near_duplicates import Rows

_MISSING, _UNKNOWN = 0, -1


class ComparedInputs:
    """Converts inputs.

    Numbers are centred and scaled by the training values. Categories, texts, images and all other inputs get a number
    for each different value; those of a release are learned.

    Parameters
    ----------
    binner
        Of the profile.
    names
        Inputs of the profile that are compared; kept as an attribute.
    """

    def __init__(self, binner: Binner, names: Sequence[str]) -> None:
        self.names = names
        kinds = {name: kind.type for name, kind in binner.inputs.items() if name in names}
        self._numeric = [name for name, kind in kinds.items() if kind == "numeric"]
        self._others = {name: kind for name, kind in kinds.items() if kind != "numeric"}
        targets = [binner.target_names.index(name) for name in self._numeric]
        self._centre, self._scale = binner.centre[targets, None], binner.scale[targets, None]
        self._known: dict[str, dict[Any, int]] = {name: {} for name in self._others}

    def rows(self, columns: Mapping[str, Any], count: int, *, learn: bool) -> Rows:
        """Return what is compared of rows.

        Parameters
        ----------
        columns
            Their inputs; one that is absent is missing.
        count
            Their number ``n``.
        learn
            Whether the values are those of a release; values that are not learned are equal to none.
        """
        missing: list[None] = [None] * count
        with np.errstate(over="ignore", invalid="ignore"):
            numbers = numeric_columns([columns.get(name, missing) for name in self._numeric]).reshape(-1, count)
            numbers = (numbers - self._centre) / self._scale
        keys: Ints = np.empty((len(self._others), count), np.intp)
        for row, (name, kind) in zip(keys, self._others.items(), strict=True):
            known = self._known[name]
            values = [_key(value, kind) for value in _items(columns.get(name, missing))]
            if learn:
                row[:] = [_MISSING if value is None else known.setdefault(value, len(known) + 1) for value in values]
            else:
                row[:] = [_MISSING if value is None else known.get(value, _UNKNOWN) for value in values]
        return Rows(numbers, keys)


def _items(values: Any) -> Sequence[Any]:
    """Return a column as single values; rows of an array with several dimensions stay arrays."""
    return list(values) if isinstance(values, np.ndarray) and values.ndim > 1 else as_list(values)


def _key(value: Any, kind: str) -> Any:
    """Return what two equal values share; None for a missing one.

    >>> _key(7.0, "categorical"), _key([[1, 2]], "image") == _key(np.array([[1, 2]], np.uint8), "image")
    ('7', True)
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if kind == "timestamp":
        return unix_seconds(value)
    if isinstance(value, str):
        return value if len(value) <= 64 else _digest(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, bool | int | float):
        return scalar_text(value)
    try:
        array = np.asarray(value, np.float64)
        return _digest(repr(array.shape).encode() + array.tobytes())
    except (ValueError, TypeError, OverflowError):
        return _digest(repr(value).encode("utf-8", "surrogatepass"))


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
