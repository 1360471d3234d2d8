"""NPZ files: an array for each column."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Callable, Collection, Iterator
from typing import IO, Any

import numpy as np

from exporter.features import is_vector
from exporter.profiles.sources.base import ROWS, Batch, Column, ColumnarFile


class Npz(ColumnarFile):
    """An NPZ file."""

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[dict[str, _Array], int]]:
        """Open the file; yield its arrays, each at its first row, and their number of rows."""
        if not zipfile.is_zipfile(self._path):
            raise ValueError("expected what numpy.savez writes")
        with contextlib.ExitStack() as opened:
            archive = opened.enter_context(zipfile.ZipFile(self._path))
            members = {name.removesuffix(".npy"): archive.open(name) for name in archive.namelist()}
            for member in members.values():
                opened.enter_context(member)
            arrays = {name: _Array(name, member) for name, member in members.items()}
            for name, array in arrays.items():
                if not array.shape or (len(array.shape) == 2 and not is_vector(self._types.get(name))):
                    hint = f", or use --type {name}=embedding" if array.shape else ""
                    wanted = f"save each column under its own name{hint}"
                    raise ValueError(f"the array {name!r} has {len(array.shape)} dimensions; {wanted}")
            lengths = {name: array.shape[0] for name, array in arrays.items()}
            if len(set(lengths.values())) > 1:
                raise ValueError(f"its arrays have different lengths: {lengths}")
            yield arrays, next(iter(lengths.values()), 0)

    def columns(self) -> tuple[dict[str, bool], int]:
        """Return `Source.columns`, and the number of rows."""
        with self._opened() as (arrays, length):
            return {name: len(array.shape) == 1 and array.kind in "iuf" for name, array in arrays.items()}, length

    def read_columns(self, names: Collection[str]) -> Iterator[tuple[str, Column]]:
        """See `Source.read_columns`."""
        with self._opened() as (arrays, length):
            for name in names:
                yield name, np.array(arrays[name].read(length))

    def batches(self, names: Collection[str] | None) -> Iterator[Batch]:
        """See `Source.batches`."""
        with self._opened() as (arrays, length):
            widest = max((array.row_bytes for array in arrays.values()), default=1)
            rows = min(max(self._block // max(widest, 1), 1), ROWS)
            for start in range(0, length, rows):
                count = min(rows, length - start)
                columns = {name: array.read(count) for name, array in arrays.items() if names is None or name in names}
                yield Batch(columns, count, (start + count) / length)


class _Array:
    """An array in an NPZ file, read by rows."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        lib = np.lib.format
        readers: dict[tuple[int, int], Callable[[IO[bytes]], Any]] = {
            (1, 0): lib.read_array_header_1_0,
            (2, 0): lib.read_array_header_2_0,
        }
        version = lib.read_magic(file)
        if version not in readers:
            raise ValueError(f"the array {name!r} is of version {version} of the format")
        self.shape, fortran, self._dtype = readers[version](file)
        if self._dtype.hasobject:
            raise ValueError("Object arrays cannot be loaded when allow_pickle=False")
        self.kind = self._dtype.kind
        self._file = file
        self.row_bytes = int(np.prod(self.shape[1:])) * self._dtype.itemsize
        self._by_columns = fortran and len(self.shape) > 1  # rows are not contiguous
        self._whole: Any = None
        self._row = 0

    def read(self, rows: int) -> Column:
        """Return the next rows."""
        if self._by_columns and self._whole is None:
            size = int(np.prod(self.shape))
            self._whole = np.frombuffer(self._file.read(), self._dtype)[:size].reshape(self.shape, order="F")
        self._row += rows
        if self._whole is not None:
            part = self._whole[self._row - rows : self._row]
        else:
            part = np.frombuffer(self._file.read(rows * self.row_bytes), self._dtype).reshape(rows, *self.shape[1:])
        if part.dtype.kind == "M":
            return [None if text == "NaT" else text for text in np.datetime_as_string(part).tolist()]
        return part if part.dtype.kind in "iuf" else part.tolist()
