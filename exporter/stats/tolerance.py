"""The tolerance of corrections: by how much a corrected number may differ and still accept the prediction."""

from __future__ import annotations

import sys
from typing import NamedTuple

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
