"""What every source of training data can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from exporter.profiles.type_inference import Column

ROWS = 50_000
"""Rows that make a batch at most."""


class Batch(NamedTuple):
    """Some rows: columns by name (one that is absent is missing), their number, and the share of the source read."""

    columns: Mapping[str, Column]
    rows: int
    done: float


class Source:
    """Training data.

    Attributes
    ----------
    where
        What messages call it.
    name
        What a profile of it is called.
    remarks
        What might surprise in how a column was read, by its name; complete after the first pass.
    rows
        Its rows, where `columns` found them out.
    alone
        Whether it has `whole`.
    """

    where: str
    name: str
    remarks: Mapping[str, str] = MappingProxyType({})
    rows: int | None = None
    alone = False

    def batches(self, names: Collection[str] | None = None) -> Iterator[Batch]:
        """All of it, from the start.

        Parameters
        ----------
        names
            Columns that are looked at: others may be left out. All are when None.
        """
        raise NotImplementedError

    def columns(self) -> Mapping[str, bool]:
        """All columns in order, and whether each holds nothing but numbers; nothing where only a pass can tell."""
        return {}

    def whole(self, names: Collection[str]) -> Iterator[tuple[str, Column]]:
        """Columns of numbers, one at a time and all of it, each behind its name.

        An array is the caller's until the next one comes, which may lie in the same place.
        """
        raise NotImplementedError


class ColumnarFile(ABC):
    """A file that knows its columns and how many rows it has.

    Parameters
    ----------
    path
        The file.
    types
        Types of input that somebody chose, by column.
    block
        Bytes that make a batch.
    """

    def __init__(self, path: Path, types: Mapping[str, str], block: int) -> None:
        self._path, self._types, self._block = path, types, block

    @abstractmethod
    def columns(self) -> tuple[dict[str, bool], int]:
        """See `Source.columns`; and how many rows there are."""

    @abstractmethod
    def whole(self, names: Collection[str]) -> Iterator[tuple[str, Column]]:
        """See `Source.whole`."""

    @abstractmethod
    def batches(self, names: Collection[str] | None) -> Iterator[Batch]:
        """See `Source.batches`."""


def to_columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns; what a row does not have is None."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
