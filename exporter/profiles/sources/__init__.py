"""The interface of a source of training data."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple, Protocol, TypeVar

import msgspec
import numpy as np

from exporter.features.json_inputs import lenient_inputs, remove_inputs
from exporter.stats.divergence import Ints

Column = Any
"""``n`` values of one column: a list, or an array whose first axis has that length."""
ROWS = 50_000
"""Most rows of a batch."""


class Batch(NamedTuple):
    """Some rows: columns by name (an absent one is missing), the number of rows, and the share of the source read."""

    columns: Mapping[str, Column]
    rows: int
    done: float


class Pass(Protocol):
    """What a pass over the rows collects. The states of successive parts of the rows can be merged.

    The result is the same in whatever batches and parts the rows come.
    """

    def add(self, batch: Batch, first: int) -> None:
        """Add the next rows, given the number of the first."""

    def merge(self, later: Any) -> None:
        """Add the state of the rows that follow."""


AnyPass = TypeVar("AnyPass", bound=Pass)
Progress = Callable[[str, float, int], None]
"""Called with the name of the pass, the share of it that is done, and its number of rows so far."""


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
    skipped
        Why a column is left out, by column.
    cells_are_texts
        Whether it is CSV, whose content decides how cells are read.
    keeps_order
        Whether its columns are in the order of the training data.
    """

    where: str
    name: str
    remarks: Mapping[str, str] = MappingProxyType({})
    skipped: Mapping[str, str] = MappingProxyType({})
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

    def run(self, state: AnyPass, title: str, names: Collection[str] | None, progress: Progress) -> AnyPass:
        """Return a state with all rows added; a source that is read in parts merges their states.

        Parameters
        ----------
        state
            The state without rows.
        title
            Name of the pass.
        names
            See `batches`.
        progress
            Called after each batch.
        """
        rows = 0
        for batch in self.batches(names):
            state.add(batch, rows)
            rows += batch.rows
            progress(title, batch.done, rows)
        return state

    def columns(self) -> Mapping[str, bool]:
        """Return all columns in order, and whether each holds only numbers; empty if only a pass can tell."""
        return {}

    def read_columns(self, names: Collection[str]) -> Iterator[tuple[str, Column]]:
        """Yield whole columns of numbers with their names, one at a time.

        An array is valid until the next one is requested, which may reuse its memory.
        """
        raise NotImplementedError


class ColumnarFile:
    """A file that has its columns and number of rows in a header: it has the methods of `Source` that read columns.

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


def take(values: Column, rows: Ints) -> Column:
    """Return some rows of a column."""
    return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows]


def to_columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return rows as columns; what a row does not have is None."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


GZIP = b"\x1f\x8b"
"""The first bytes of a gzip file."""
_INCOMPLETE = (EOFError, gzip.BadGzipFile, zlib.error)


def without_gz(path: Path) -> Path:
    """Return a path without the suffix of gzip.

    >>> str(without_gz(Path("data/training.csv.GZ"))), str(without_gz(Path("training.csv")))
    ('data/training.csv', 'training.csv')
    """
    return path.with_suffix("") if path.suffix.lower() == ".gz" else path


def is_gzip(stream: BufferedReader) -> bool:
    """Return whether a stream is compressed, without reading it."""
    return stream.peek(2)[:2] == GZIP


def plain_copy(stream: BufferedReader) -> IO[bytes]:
    """Copy a stream, decompressed if it is gzip, to a temporary file; a megabyte of it is in memory at a time.

    Raises
    ------
    ValueError
        When it is not complete gzip.
    OSError
        When it cannot be copied; the text names the folder.
    """
    try:
        with ExitStack() as stack:
            copy: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
            source: BufferedReader | gzip.GzipFile = stream
            if is_gzip(stream):
                source = stack.enter_context(gzip.GzipFile(fileobj=stream))
            shutil.copyfileobj(source, copy, 2**20)
            copy.flush()
            stack.pop_all()
            return copy
    except _INCOMPLETE as error:
        raise ValueError(f"is not complete gzip: {error}") from None
    except OSError as error:
        folder = f"{tempfile.gettempdir()} (TMPDIR sets another folder)"
        raise OSError(f"cannot be copied to {folder}: {error.strerror or error}") from None


def path_of(file: IO[bytes]) -> Path:
    """Return a path that opens a temporary file again."""
    return Path(f"/proc/self/fd/{file.fileno()}")


PREDICTION, CONFIDENCE, TIME, LABEL = "(prediction)", "(confidence)", "(time)", "(label)"
"""Columns of a `StoreSource` beside the inputs."""


class StoredRows(Protocol):
    """What the store reads; see `exporter.storage.StoredPredictions`."""

    where: str
    has_labels: bool

    def read(self) -> Iterator[tuple[list[Mapping[str, Any]], float]]:
        """Yield predictions, and how much of all was read."""


class StoreSource(Source):
    """Stored predictions of one model that have their inputs.

    Parameters
    ----------
    stored
        The predictions.
    name
        Of the model.
    redacted
        Inputs that are left out: they may have been stored when less was redacted.
    """

    keeps_order = False  # members of JSON objects have none

    def __init__(self, stored: StoredRows, name: str, redacted: Collection[str] = ()) -> None:
        self.name, self.where = name, stored.where
        self._stored, self._redacted = stored, redacted

    def batches(self, names: Collection[str] | None = None) -> Iterator[Batch]:  # noqa: ARG002
        """See `Source.batches`."""
        for rows, done in self._stored.read():
            columns: dict[str, Column] = dict(to_columns([self._inputs(row["inputs"]) for row in rows]))
            columns[PREDICTION] = [row["prediction"] for row in rows]
            columns[CONFIDENCE] = [row["confidence"] for row in rows]
            columns[TIME] = [row["received"] for row in rows]
            if self._stored.has_labels:
                columns[LABEL] = [row["label"] for row in rows]
            yield Batch(columns, len(rows), done)

    def _inputs(self, stored: str | None) -> dict[str, Any]:
        text = remove_inputs(stored or "", self._redacted)
        try:
            return msgspec.json.decode(text, type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError):
            return lenient_inputs(text.encode("utf-8", "replace"))
