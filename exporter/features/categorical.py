"""Categories and truth values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from exporter.features.base import CellKind, ColumnSample, InputType, as_list
from exporter.stats.divergence import Floats

_INVALID = ()  # not a scalar


class Categorical(InputType):
    """A category, which is its own feature; see `exporter.features.base.category_counts`."""

    type = "categorical"
    noun = "a category"
    categorical = True
    cells: ClassVar[CellKind | None] = "text"
    compared_as = "category"

    @classmethod
    def recognizes(cls, sample: ColumnSample) -> bool:  # noqa: ARG003
        """See `InputType.recognizes`; any column can be one of categories."""
        return True


class Boolean(Categorical):
    """``true`` or ``false``; anything else is invalid."""

    type = "boolean"
    noun = "true or false"
    cells = "truth"

    @classmethod
    def recognizes(cls, sample: ColumnSample) -> bool:
        """See `InputType.recognizes`."""
        return sample.types == {bool}

    def labels(self, values: Sequence[Any] | Floats) -> Sequence[Any] | Floats:
        """See `Categorical.labels`."""
        values = as_list(values)
        if set(map(type, values)) <= {bool, type(None)}:
            return values
        return [value if value is None or isinstance(value, bool) else _INVALID for value in values]
