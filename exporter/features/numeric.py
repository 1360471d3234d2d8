"""Numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from exporter.features.base import ColumnSample, InputType, as_list, numeric_column
from exporter.stats.divergence import Floats


class Numeric(InputType):
    """A number, which is its own feature."""

    type = "numeric"
    noun = "a number"
    cells = "number"
    is_number = True
    compared_as = "number"

    @classmethod
    def recognizes(cls, sample: ColumnSample) -> bool:
        """See `InputType.recognizes`."""
        return sample.types <= {int, float}

    def feature_values(self, values: Sequence[Any] | Floats, now: float | Floats) -> list[Any]:
        """See `InputType.feature_values`; an array of numbers stays one."""
        return list(self.columns(values, now))

    def columns(self, values: Sequence[Any] | Floats, now: float | Floats) -> Floats:  # noqa: ARG002
        """See `InputType.columns`."""
        if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iuf":
            return values.astype(np.float64)[None, :]
        return numeric_column(as_list(values))[None, :]
