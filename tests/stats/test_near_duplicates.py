"""Near rows are found exactly: as by comparing all pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from exporter.stats.near_duplicates import MAX_CANDIDATES, NearRows, Rows

TOLERANCE = 0.01


def all_pairs(near: NearRows, rows: Rows) -> set[tuple[int, int]]:
    """Return the pairs that are found."""
    return {pair for here, there in near.pairs(rows) for pair in zip(here.tolist(), there.tolist(), strict=True)}


def compared(known: Rows, rows: Rows) -> set[tuple[int, int]]:
    """Compare all pairs of rows."""
    result = set()
    for there in range(known.size):
        for here in range(rows.size):
            a, b = known.numbers[:, there], rows.numbers[:, here]
            same = (np.isnan(a) & np.isnan(b)) | (np.isinf(a) & np.isinf(b)) | (np.abs(a - b) <= TOLERANCE)
            if same.all() and (known.keys[:, there] == rows.keys[:, here]).all():
                result.add((here, there))
    return result


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("features", [0, 1, 2, 5, 30])
def test_it_finds_what_comparing_all_pairs_finds(features: int) -> None:
    """Rows at the edges of cells, missing and infinite numbers, and other keys."""
    rng = np.random.default_rng(features)
    known = Rows(rng.normal(0, 1, (features, 150)), rng.integers(0, 3, (2, 150)))
    copied = rng.integers(0, 150, 200)
    moved = known.numbers[:, copied] + rng.uniform(-1.2, 1.2, (features, 200)) * TOLERANCE * (rng.random(200) < 0.9)
    if features:
        for rows in (known.numbers, moved):
            rows[0, ::9], rows[-1, ::14] = np.nan, np.inf
    keys = np.where(rng.random((2, 200)) < 0.9, known.keys[:, copied], -1)
    rows = Rows(moved, keys)
    expected = compared(known, rows)
    assert expected
    assert all_pairs(NearRows(known, TOLERANCE), rows) == expected


def test_numbers_that_lie_at_the_edges_of_cells_do_not_multiply() -> None:
    """Whole numbers, far numbers and many features: memory stays in proportion to the rows, and nothing is missed."""
    rng = np.random.default_rng(1)
    numbers: Any = np.concatenate((rng.integers(0, 2, (300, 500)).astype(float), rng.normal(0, 1e12, (1, 500))))
    known = Rows(numbers, np.zeros((0, 500), np.intp))
    near = NearRows(known, TOLERANCE)
    assert len(near._hashes) <= 16 * 500
    assert {(n, n) for n in range(500)} <= all_pairs(near, known)


def test_many_equal_rows_are_bounded() -> None:
    """Each row is compared with so many of its cell; the rows that are not compared with all are counted."""
    known = Rows(np.zeros((3, 3 * MAX_CANDIDATES)), np.zeros((1, 3 * MAX_CANDIDATES), np.intp))
    near = NearRows(known, TOLERANCE)
    pairs = list(near.pairs(Rows(np.zeros((3, 50)), np.zeros((1, 50), np.intp))))
    assert sum(len(here) for here, _ in pairs) == 50 * MAX_CANDIDATES
    assert near.truncated == 50


def test_no_rows() -> None:
    """Nothing is near to no rows, and no rows are near to anything."""
    none, one = Rows(np.empty((2, 0)), np.empty((1, 0), np.intp)), Rows(np.zeros((2, 1)), np.zeros((1, 1), np.intp))
    assert list(NearRows(none, TOLERANCE).pairs(one)) == list(NearRows(one, TOLERANCE).pairs(none)) == []
