"""Divide rows with long inputs into parts, to bound the memory of a query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def parts(sizes: Iterable[tuple[int, int]], most: int) -> Iterator[list[int]]:
    """Yield the keys of rows in parts that are not larger than ``most``, unless a single row is.

    Parameters
    ----------
    sizes
        The key and the size of each row.
    most
        The size of a part.

    >>> list(parts([(1, 3), (2, 2), (3, 1), (4, 9), (5, 0)], 5))
    [[1, 2], [3], [4], [5]]
    """
    part: list[int] = []
    total = 0
    for key, size in sizes:
        if part and total + size > most:
            yield part
            part, total = [], 0
        part.append(key)
        total += size
    if part:
        yield part
