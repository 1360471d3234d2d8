"""The interface of a source of training data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from exporter.profiles.type_inference import Column
from exporter.stats.divergence import Ints

ROWS = 50_000
"""Most rows of a batch."""


class Batch(NamedTuple):
    """Some rows: columns by name (an absent one is missing), the number of rows, and the share of the source read."""

    columns: Mapping[str, Column]
    rows: int
    done: float


class Source:
    """Training data.

    Attributes
    ----------
    where
        Name of the source in messages.
    name
        Default name of a profile of the source.
    remarks
        Remarks on how columns were read that may surprise, by column; complete after the first pass.
    rows
        Number of rows, where `columns` could tell.
    reads_columns
        Whether it has `read_columns`.
    cells_are_texts
        Whether it is CSV, whose content decides how cells are read.
    keeps_order
        Whether its columns are in the order of the training data.
    """

    where: str
    name: str
    remarks: Mapping[str, str] = MappingProxyType({})
    rows: int | None = None
    reads_columns = False
    cells_are_texts = False
    keeps_order = True

    def batches(self, names: Collection[str] | None = None) -> Iterator[Batch]:
        """Yield all rows, from the start.

        Parameters
        ----------
        names
            Columns that are needed; others may be left out. All columns when None.
        """
        raise NotImplementedError

    def columns(self) -> Mapping[str, bool]:
        """Return all columns in order, and whether each holds only numbers; empty if only a pass can tell."""
        return {}

    def read_columns(self, names: Collection[str]) -> Iterator[tuple[str, Column]]:
        """Yield whole columns of numbers with their names, one at a time.

        An array is valid until the next one is requested, which may reuse its memory.
        """
        raise NotImplementedError


class ColumnarFile(ABC):
    """A file that has its columns and number of rows in a header.

    Parameters
    ----------
    path
        The file.
    types
        Input types that were chosen, by column.
    block
        Bytes of a batch.
    """

    def __init__(self, path: Path, types: Mapping[str, str], block: int) -> None:
        self._path, self._types, self._block = path, types, block

    @abstractmethod
    def columns(self) -> tuple[dict[str, bool], int]:
        """Return `Source.columns`, and the number of rows."""

    @abstractmethod
    def read_columns(self, names: Collection[str]) -> Iterator[tuple[str, Column]]:
        """See `Source.read_columns`."""

    @abstractmethod
    def batches(self, names: Collection[str] | None) -> Iterator[Batch]:
        """See `Source.batches`."""


def take(values: Column, rows: Ints) -> Column:
    """Return some rows of a column."""
    return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows]


def to_columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return rows as columns; what a row does not have is None."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
