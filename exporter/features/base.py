"""What every type of input can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from exporter.stats.divergence import Floats


class InputType:
    """A type of input.

    Attributes
    ----------
    type
        Its name in profiles and in the configuration.
    noun
        What a value of it is called in a message.
    statistics
        Names of the scalar features made of an input, each behind the input's name and a dot;
        none where the input is a feature itself.
    categorical
        Whether its values are categories: then it has labels and no columns of numbers.
    """

    type: ClassVar[str]
    noun: ClassVar[str]
    statistics: tuple[str, ...] = ()
    categorical: ClassVar[bool] = False

    def features(self, name: str) -> list[str]:
        """Names of the scalar features of an input."""
        return [f"{name}.{statistic}" for statistic in self.statistics] or [name]

    def columns(self, values: Sequence[Any], now: float | Floats) -> Floats:
        """Columns of scalar features.

        Parameters
        ----------
        values
            ``n`` decoded values, None where nothing came.
        now
            Unix time in seconds at which they arrived: one for all, or one each.

        Returns
        -------
        ndarray
            Shape ``(features, n)``; NaN is missing, an infinity is invalid. Nothing raises.
        """
        raise NotImplementedError
