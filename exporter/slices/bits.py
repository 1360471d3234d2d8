"""Sets of rows as bit arrays: the rows of a bin, and the size of intersections."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.unsignedinteger]
Bits = npt.NDArray[np.uint64]

MAX_BYTES = 64 * 2**20
"""Bytes of the sets that are remembered, at most."""


def pack(rows: npt.NDArray[np.bool_]) -> Bits:
    """Return a set of rows as bits, the last word padded with zeros.

    >>> count(pack(np.array([True, False, True])))
    2
    """
    packed = np.zeros(-(-len(rows) // 64) * 8, dtype=np.uint8)
    packed[: -(-len(rows) // 8)] = np.packbits(rows)
    bits: Bits = packed.view(np.uint64)
    return bits


def unpack(bits: Bits, rows: int) -> npt.NDArray[np.bool_]:
    """Return the inverse of `pack`, given the number of rows."""
    return np.unpackbits(bits.view(np.uint8), count=rows).view(np.bool_)


def count(bits: Bits) -> int:
    """Return the number of rows in a set."""
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


class BinRows:
    """The rows of each bin, and of combinations of bins; the sets used last are remembered.

    Parameters
    ----------
    codes
        Bin of each feature in each row, shape ``(F, n)``.
    """

    def __init__(self, codes: Codes) -> None:
        self._codes = codes
        size = max(codes.shape[1] // 8, 1)
        self._of_bin = lru_cache(maxsize=max(MAX_BYTES // size, 2))(self._pack)

    def _pack(self, feature: int, bin_index: int) -> Bits:
        return pack(self._codes[feature] == bin_index)

    def of(self, bins: tuple[tuple[int, int], ...]) -> Bits:
        """Return the rows that are in all of these bins, each a feature and the index of its bin."""
        rows: Bits = self._of_bin(*bins[0])
        for feature, bin_index in bins[1:]:
            rows = rows & self._of_bin(feature, bin_index)
        return rows
