"""The interface of an input type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from exporter.stats.divergence import Floats

CellKind = Literal["number", "truth", "moment", "text"]
"""What a cell of a CSV file is read as: a number, true or false, a time, or the text itself."""
FEW_VALUES = 50
"""Class labels are at most this many whole numbers, and categories at most this many strings."""


@dataclass
class ColumnSample:
    """A summary of a column of training data, from which its input type is inferred.

    Attributes
    ----------
    types
        Python types of the values; numbers of an array are ``float``, missing values are left out.
    strings
        The first strings, cut to 1,000 characters each.
    lengths
        Lengths of the first lists; -1 for a list that holds something else than numbers.
    """

    types: set[type] = field(default_factory=set)
    strings: list[str] = field(default_factory=list)
    lengths: set[int] = field(default_factory=set)


class InputType:
    """A type of input.

    Attributes
    ----------
    type
        Its name in profiles and in the configuration.
    noun
        What a message calls a value of this type.
    statistics
        Names of the scalar features of an input; a feature is called by the input's name, a dot and this name. Empty
        where the input itself is the feature.
    categorical
        Whether values are categories. Such a type has labels and no columns of numbers.
    cells
        How the cells of a CSV file are read; None where the column's content decides.
    """

    type: ClassVar[str]
    noun: ClassVar[str]
    statistics: tuple[str, ...] = ()
    categorical: ClassVar[bool] = False
    cells: ClassVar[CellKind | None] = None

    @classmethod
    def recognizes(cls, sample: ColumnSample) -> bool:
        """Return whether a column of training data is of this type, unless an earlier type recognizes it."""
        raise NotImplementedError

    @classmethod
    def accepts_state(cls, state: Any) -> bool:
        """Return whether the type can work with what it learned in training; most types learn nothing, None."""
        return state is None

    @classmethod
    def from_state(cls, state: Any) -> InputType:  # noqa: ARG003
        """Return the type with what it learned in training."""
        return cls()

    def features(self, name: str) -> list[str]:
        """Return the names of the scalar features of an input."""
        return [f"{name}.{statistic}" for statistic in self.statistics] or [name]

    def columns(self, values: Sequence[Any], now: float | Floats) -> Floats:
        """Return the columns of the scalar features. Bad values raise nothing.

        Parameters
        ----------
        values
            ``n`` decoded values, None where an event has none.
        now
            Unix time in seconds at which they arrived: one for all, or one each.

        Returns
        -------
        ndarray
            Shape ``(features, n)``; NaN is missing, an infinity is invalid.
        """
        raise NotImplementedError
