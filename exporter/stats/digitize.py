"""Which frozen bin each of many numbers falls into."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from exporter.stats.divergence import Floats

BinIndices = npt.NDArray[np.int8] | npt.NDArray[np.int16]

_BLOCK = 32_768  # numbers that stay in the processor's cache while each edge is compared with them
_BUFFER = 512  # numbers in numpy's buffer: longer rows are compared where they lie, shorter ones are copied first
_SMALL = np.iinfo(np.int8).max


def pad_edges(edges: Sequence[Sequence[float] | Floats]) -> Floats:
    """Edges of ``P`` features as one array of shape ``(E, P)``: infinite where a feature has fewer."""
    found = np.full((max(map(len, edges), default=0), len(edges)), np.inf)
    for place, own in enumerate(edges):
        found[: len(own), place] = own
    return found


def bin_indices(edges: Floats, matrix: Floats) -> BinIndices:
    """How many edges are at or below each number.

    Comparing every number with every edge beats any search: no branch depends on the data. Measured for 30 features of
    24 edges each, 5 ns a number against 25 ns for `numpy.searchsorted`.

    Parameters
    ----------
    edges
        Ascending for each of ``P`` features, shape ``(E, P)``; see `pad_edges`.
    matrix
        Shape ``(P, n)``.

    Returns
    -------
    ndarray
        Shape ``(P, n)``; 0 for NaN.

    Examples
    --------
    >>> bin_indices(pad_edges([[0.0, 1.0], [5.0]]), np.array([[-1.0, 0.0, 7.0], [4.0, np.nan, 5.0]])).tolist()
    [[0, 1, 2], [0, 0, 1]]
    """
    found: BinIndices = np.zeros(matrix.shape, dtype=np.int8 if len(edges) <= _SMALL else np.int16)
    step = max(_BLOCK // max(matrix.shape[1], 1), 1)
    before = np.setbufsize(_BUFFER) if matrix.shape[1] >= _BUFFER else 0
    for start in range(0, len(matrix), step):
        block, own = matrix[start : start + step], found[start : start + step]
        above = np.empty(block.shape, dtype=np.bool_)
        one = above.view(np.int8)
        for edge in edges[:, start : start + step, None]:
            np.greater_equal(block, edge, out=above)
            own += one
    if before:
        np.setbufsize(before)
    return found
