"""Categories and truth values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from exporter.features.base import InputType
from exporter.features.extract import as_list
from exporter.stats.divergence import Floats

_NOT_A_TRUTH = ()  # no scalar, and so invalid


class Categorical(InputType):
    """A category is its own feature; see `exporter.features.extract.category_counts`."""

    type = "categorical"
    noun = "a category"
    categorical = True

    def labels(self, values: Sequence[Any] | Floats) -> Sequence[Any] | Floats:
        """The values as categories; what is no scalar is invalid."""
        return values


class Boolean(Categorical):
    """``true`` or ``false``; anything else is invalid."""

    type = "boolean"
    noun = "true or false"

    def labels(self, values: Sequence[Any] | Floats) -> Sequence[Any] | Floats:
        """See `Categorical.labels`."""
        values = as_list(values)
        if set(map(type, values)) <= {bool, type(None)}:
            return values
        return [value if value is None or isinstance(value, bool) else _NOT_A_TRUTH for value in values]
