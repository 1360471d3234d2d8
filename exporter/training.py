"""Training data to a profile: CSV, Parquet, NPZ or JSON lines."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from exporter.copula import correlations
from exporter.drift import Floats
from exporter.errors import ProfileError
from exporter.extract import image_columns, numeric_column, spelt
from exporter.profile import INPUT_TYPES, Feature, Profile, categorical_feature, numeric_feature, scalar_names
from exporter.validation import listed, shown, suggestion

Column = Sequence[Any] | npt.NDArray[Any]

# What pyarrow (its own derive from these), numpy, zipfile and msgspec raise for a file that is not what it is called.
_MALFORMED = (
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    NotImplementedError,
    RecursionError,
    zipfile.BadZipFile,
    msgspec.MsgspecError,
)
SUFFIXES = (".csv", ".parquet", ".npz", ".jsonl", ".ndjson")


def build_file(
    path: Path,
    *,
    name: str | None = None,
    prediction_column: str | None = None,
    ignore: Sequence[str] = (),
    types: Mapping[str, str] | None = None,
    bins: int = 20,
    categories: int = 50,
) -> Profile:
    """Profile the training data in a file.

    Parameters
    ----------
    path
        CSV, Parquet, NPZ (one array a column, images of shape ``(n, height, width[, channels])``)
        or JSON lines (one object a row; nested arrays are images).
    name
        The profile's name; the file's without its suffix when None.
    prediction_column
        The column with what the model predicts for each row: it becomes the training side of
        the prediction drift, and no feature.
    ignore
        Columns that are no features: labels, confidences, identifiers.
    types
        Type of an input where the inferred one is wrong.
    bins, categories
        Bins of a number, categories of their own of a categorical input.

    Raises
    ------
    ProfileError
        When the file cannot be read, or has no rows, or lacks a column that was named.
    """
    columns = _read(path)
    types = types or {}
    for column in [*([prediction_column] if prediction_column else []), *ignore, *types]:
        if column not in columns:
            raise ProfileError(f"{path}: has no column {shown(column)}; {suggestion(column, columns)}")
    rows = len(next(iter(columns.values()), ()))
    if not rows:
        raise ProfileError(f"{path}: has no rows to profile")
    numbers: dict[str, Floats] = {}
    sizes: dict[str, Any] = {"bins": bins, "categories": categories, "path": path, "numbers": numbers}
    inputs: dict[str, str] = {}
    features: dict[str, Feature] = {}
    for column, values in columns.items():
        if column == prediction_column or column in ignore:
            continue
        inputs[column] = types.get(column) or _inferred(values)
        features |= _features(column, values, inputs[column], **sizes)
    correlation = correlations(numbers, features) or msgspec.UNSET
    prediction = None
    if prediction_column:
        values = columns[prediction_column]
        kind = "numeric" if _inferred(values) == "numeric" and _is_continuous(values) else "categorical"
        prediction = _features("prediction", values, kind, **sizes)["prediction"]
    return Profile(
        name=name or path.stem,
        rows=rows,
        inputs=inputs,
        features=features,
        prediction=prediction,
        correlation=correlation,
    )


def _is_continuous(values: Column) -> bool:
    """Whether numbers are a regression's: class labels are few whole numbers."""
    numbers = numeric_column(_listed(values))
    finite = numbers[np.isfinite(numbers)]
    return bool((finite != np.round(finite)).any()) or len(np.unique(finite)) > 50


def _listed(values: Column) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _inferred(values: Column) -> str:
    if isinstance(values, np.ndarray):
        if values.ndim >= 3:
            return "image"
        if values.dtype.kind in "iuf":
            return "numeric"
    kinds = {type(value) for value in _listed(values)} - {type(None)}
    if kinds <= {int, float}:
        return "numeric"
    return "image" if kinds <= {list, bytes} else "categorical"


def _features(
    name: str, values: Column, kind: str, *, bins: int, categories: int, path: Path, numbers: dict[str, Floats]
) -> dict[str, Feature]:
    """Freeze the features of an input; its columns of numbers are left in ``numbers``."""
    if kind == "image":
        columns = image_columns(_listed(values))
        if not np.isfinite(columns[0]).any():
            raise ProfileError(f"{path}: no value of the column {shown(name)} is an image")
        own = dict(zip(scalar_names(name, kind), columns, strict=True))
        numbers |= own
        return {scalar: numeric_feature(column, bins) for scalar, column in own.items()}
    if kind == "numeric":
        ready = isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iuf"
        numbers[name] = np.asarray(values, np.float64) if ready else numeric_column(_listed(values))
        return {name: numeric_feature(numbers[name], bins)}
    if kind == "categorical":
        listed_values = [None if isinstance(v, float) and v != v else v for v in _listed(values)]  # noqa: PLR0124
        tally = Counter(spelt(value) for value in listed_values if isinstance(value, str | bool | int | float))
        missing = sum(value is None for value in listed_values)
        return {name: categorical_feature(tally, missing, len(listed_values) - missing - tally.total(), categories)}
    raise ProfileError(f"{path}: {shown(kind)} is no type of an input; {suggestion(kind, INPUT_TYPES)}")


def _read(path: Path) -> dict[str, Column]:
    readers = {".csv": _csv, ".parquet": _parquet, ".npz": _npz, ".jsonl": _jsonl, ".ndjson": _jsonl}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ProfileError(f"{path}: expected a file that ends in {listed(SUFFIXES)}")
    if not path.is_file():
        raise ProfileError(f"{path}: cannot be read: there is no such file")
    try:
        return reader(path)
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror or error}") from None
    except _MALFORMED as error:
        raise ProfileError(f"{path}: is not {path.suffix[1:].upper()}: {error}") from None


def _arrow(table: Any) -> dict[str, Column]:
    import pyarrow as pa

    columns: dict[str, Column] = {}
    names = table.column_names
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"the column {shown(twice[0])} stands twice")
    for name in names:
        column = table.column(name)
        kind = column.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            columns[name] = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        elif pa.types.is_decimal(kind):
            columns[name] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        elif pa.types.is_temporal(kind):
            columns[name] = column.cast(pa.string()).to_pylist()
        else:
            columns[name] = column.to_pylist()
    return columns


def _csv(path: Path) -> dict[str, Column]:
    from pyarrow import csv

    options = csv.ConvertOptions(strings_can_be_null=True)
    columns = _arrow(csv.read_csv(path, convert_options=options))
    for name, values in columns.items():
        if any(isinstance(value, bytes) for value in values):
            raise ValueError(f"the column {shown(name)} is not UTF-8")
    return columns


def _parquet(path: Path) -> dict[str, Column]:
    from pyarrow import parquet

    return _arrow(parquet.read_table(path))


def _npz(path: Path) -> dict[str, Column]:
    if not zipfile.is_zipfile(path):
        raise ValueError("expected what numpy.savez writes")
    with np.load(path, allow_pickle=False) as archive:
        columns: dict[str, Column] = {name: archive[name] for name in archive.files}
    lengths = {name: len(np.atleast_1d(values)) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"its arrays have different lengths: {lengths}")
    for name, values in columns.items():
        if np.ndim(values) in {0, 2}:
            raise ValueError(
                f"the array {name!r} has {np.ndim(values)} dimensions; save each column under its own name"
            )
    return columns


def _jsonl(path: Path) -> dict[str, Column]:
    lines = msgspec.json.Decoder(dict[str, Any]).decode_lines(path.read_bytes())
    names = dict.fromkeys(name for row in lines for name in row)
    return {name: [row.get(name) for row in lines] for name in names}
