"""Correct for rows that depend on each other: corrections of one user, and predictions of one block of time."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from exporter.slices.bits import Bits, count, unpack
from exporter.stats.concentration import block_design_effect, clustered_upper_tail, upper_tail
from exporter.stats.divergence import Ints


class Dependence(Protocol):
    """Corrects the p-value of a slice."""

    def upper_tail(self, inside: Bits, rest: Bits, marked_rows: Ints) -> float:
        """Return the p-value, given the rows of a slice and of the population, and the indices of all marked rows."""


class Independent:
    """Rows that do not depend on each other."""

    def upper_tail(self, inside: Bits, rest: Bits, marked_rows: Ints) -> float:  # noqa: ARG002
        """See `Dependence`: nothing is corrected."""
        return 0.0


class ByUser:
    """The marks of one user depend on each other; see `exporter.stats.concentration.clustered_upper_tail`.

    Parameters
    ----------
    users
        Number of the user of each marked row, shape ``(marked,)``.
    rows
        Number of all rows.
    """

    def __init__(self, users: Ints, rows: int) -> None:
        self._users, self._rows = users, rows

    def upper_tail(self, inside: Bits, rest: Bits, marked_rows: Ints) -> float:
        """See `Dependence`."""
        chosen = unpack(rest, self._rows)[marked_rows]
        of_slice = unpack(inside, self._rows)[marked_rows][chosen]
        return clustered_upper_tail(self._users[chosen], of_slice, count(inside), count(rest))


class ByTime:
    """Predictions of the same time are alike; the marked ones are those of the later of two periods.

    Parameters
    ----------
    blocks
        Number of the block of time of each row, shape ``(n,)``.
    later
        Whether each row is of the later period, shape ``(n,)``.
    """

    def __init__(self, blocks: Ints, later: npt.NDArray[np.bool_]) -> None:
        self._blocks, self._later = blocks, later
        self._is_later = np.zeros(int(blocks.max()) + 1, np.bool_)
        self._is_later[blocks[later]] = True

    def upper_tail(self, inside: Bits, rest: Bits, marked_rows: Ints) -> float:  # noqa: ARG002
        """See `Dependence`: all counts are divided by the design effect of the blocks."""
        of_rest, of_slice = unpack(rest, len(self._blocks)), unpack(inside, len(self._blocks))
        size = len(self._is_later)
        effect = block_design_effect(
            np.bincount(self._blocks[of_slice], minlength=size).astype(np.float64),
            np.bincount(self._blocks[of_rest], minlength=size).astype(np.float64),
            self._is_later,
        )
        held, marked = (int(np.count_nonzero(self._later & chosen)) for chosen in (of_slice, of_rest))
        fewer_held, fewer_marked = math.floor(held / effect), math.ceil(marked / effect)
        others, all_others = (math.ceil(number / effect) for number in (count(inside) - held, count(rest) - marked))
        return upper_tail(fewer_held, fewer_held + others, fewer_marked, fewer_marked + all_others)
