"""How far a corrected number may be from the prediction and still accept it."""

from __future__ import annotations

import re
import sys
from typing import NamedTuple

from exporter.validation import preview

ROUNDING = 4 * sys.float_info.epsilon
"""Part of the numbers that is added to a tolerance: 1.1 − 1.0 is a little more than 0.1."""


class Tolerance(NamedTuple):
    """The tolerance of a model's corrections: one of the two is 0.

    Attributes
    ----------
    amount
        In the unit of the prediction.
    share
        Of the size of the prediction.
    """

    amount: float = 0.0
    share: float = 0.0

    def accepts(self, predicted: float, actual: float) -> bool:
        """Return whether a number is within the tolerance of a prediction.

        >>> Tolerance(0.1).accepts(1.0, 1.1), Tolerance(share=0.05).accepts(-100.0, -106.0)
        (True, False)
        """
        limit = max(self.amount, self.share * abs(predicted)) + ROUNDING * abs(predicted)
        return abs(actual - predicted) <= limit


def parse_tolerance(value: float | str) -> Tolerance:
    """Parse a tolerance: an amount, or a share of the prediction such as ``5%``.

    >>> parse_tolerance(0.5), parse_tolerance("5%")
    (Tolerance(amount=0.5, share=0.0), Tolerance(amount=0.0, share=0.05))

    Raises
    ------
    ValueError
        When it is neither.
    """
    if isinstance(value, str) and (percent := re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?%", value, re.ASCII)):
        return Tolerance(share=float(percent[1]) / 100)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"expected a number of at least 0, or a share such as 5%, got {preview(value)}")
    return Tolerance(float(value))
