"""The command ``dataset check``: examples of a release that are nearly equal to each other, or to training rows."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import math
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import msgspec
import numpy as np

from exporter.commands.common import (
    Progress,
    add_csv_options,
    add_exporter_options,
    checked,
    column_type,
    exporter_client,
    set_help,
)
from exporter.commands.dataset.requests import TIMEOUT, download_content, read_release, write_document
from exporter.commands.ingest.table import Roles, cell_types
from exporter.datasets.examples import Example
from exporter.errors import ExporterError, UsageError
from exporter.features.extract import as_list, numeric_columns, scalar_text
from exporter.features.timestamp import unix_seconds
from exporter.features.types import INPUT_TYPES
from exporter.monitoring.binner import Binner
from exporter.profiles.describe import truncate
from exporter.profiles.profile import load
from exporter.profiles.sources.base import Batch, is_gzip
from exporter.profiles.sources.files import FileSource
from exporter.stats.divergence import Ints
from exporter.stats.near_duplicates import NearRows, Rows
from exporter.validation import preview

FOUND = 3
"""Exit status of ``--fail-on-leak``."""
TOLERANCE = 0.01
"""How far apart numbers of near-duplicates may be, in training standard deviations."""
MAX_SHOWN, MAX_LISTED = 20, 1000
"""Examples that are named on standard output, and in the file."""


def add_check(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dataset check``."""
    set_help(
        parser,
        "Find the examples of a release that are equal, or nearly so, to another example or to a row of the training "
        "data.",
        "model-exporter dataset check 2026-11 --profile=profiles/loans.json --training=training.parquet",
        "docs/dataset.md#near-duplicates-and-leaks",
    )
    add = parser.add_argument
    add("release", metavar="RELEASE", help="identifier or name of a release, or a file that dataset export wrote")
    add("--profile", type=Path, required=True, metavar="FILE", help="profile of the model, made from the training data")
    add("--training", type=Path, metavar="FILE", help="training data: CSV, Parquet, NPZ or JSON lines, also as .gz")
    add_csv_options(parser, INPUT_TYPES)
    help_ = "how far apart numbers of near-duplicates may be, in training standard deviations (%(default)s)"
    add("--tolerance", type=checked(_tolerance), default=TOLERANCE, metavar="NUMBER", help=help_)
    help_ = f"exit with status {FOUND} if an example is, or nearly is, a training row"
    add("--fail-on-leak", action="store_true", help=help_)
    add("-o", "--output", type=Path, metavar="FILE", help="write what was found to a file, as JSON")
    parser.set_defaults(step=_check)
    add_exporter_options(parser)


def _tolerance(text: str) -> float:
    number = float(text)
    if not 0 < number <= 1:
        raise ValueError(f"expected a number above 0 and up to 1, got {text!r}")
    return number


class _Training(NamedTuple):
    """The training data: the first batch, all batches, and the name of the file."""

    first: Batch
    batches: Iterator[Batch]
    where: str


def _check(options: argparse.Namespace) -> int:
    if options.fail_on_leak and not options.training:
        raise UsageError("--fail-on-leak: set --training, the file with the training data")
    binner = Binner(load(options.profile))
    training = _open_training(options, binner) if options.training else None
    with open_release(options.release, options) as release, Progress() as progress:
        names, left_out = _inputs(release, binner, training)
        compared = ComparedInputs(binner, names)
        examples = _Examples(release, compared)
        near = NearRows(examples.rows, options.tolerance)
        document = {
            "release": release.where,
            "tolerance": options.tolerance,
            "inputs": names,
            "inputs_left_out": left_out,
            "examples": examples.count,
            "without_inputs": examples.count - examples.rows.size,
            "duplicates": examples.duplicates(near),
            "training": _leaks(training, examples, near, compared, progress) if training else None,
            "truncated": near.truncated,
        }
    print("\n".join(_text(document)))
    if options.output:
        write_document(options.output, document)
    return FOUND if options.fail_on_leak and document["training"]["examples"] else 0


def _open_training(options: argparse.Namespace, binner: Binner) -> _Training:
    types = cell_types(binner.profile, Roles()) | dict(map(column_type, options.type))
    delimiter, decimal = options.delimiter, options.decimal
    source = FileSource(options.training, types, others="text", delimiter=delimiter, decimal=decimal)
    batches = source.batches(list(binner.inputs))
    first = next(batches, None)
    if first is None:
        raise ExporterError(f"{source.where}: has no rows")
    return _Training(first, batches, source.where)


def _inputs(release: ReleaseFile, binner: Binner, training: _Training | None) -> tuple[list[str], list[str]]:
    """Return the inputs that are compared, and those that are not because one side lacks them."""
    seen: set[str] = set()
    for page in release.pages():
        for example in page:
            seen.update(example.inputs or ())
    names = [name for name in binner.inputs if name in seen and (not training or name in training.first.columns)]
    if not names:
        both = f" that {training.where} has, too" if training else ""
        raise ExporterError(f"{release.where}: no example has an input of the profile{both}")
    return names, [name for name in binner.inputs if name not in names]


class _Examples:
    """The examples with inputs.

    Attributes
    ----------
    count
        All examples.
    ids, labels
        Of those with inputs, ``n``.
    rows
        Their inputs.
    """

    def __init__(self, release: ReleaseFile, compared: ComparedInputs) -> None:
        self.count = 0
        self.ids: list[str] = []
        self.labels: list[str] = []
        numbers, keys = [], []
        for page in release.pages():
            self.count += len(page)
            known = [example for example in page if example.inputs]
            columns: dict[str, list[Any]] = {
                name: [(example.inputs or {}).get(name) for example in known] for name in compared.names
            }
            rows = compared.rows(columns, len(known), learn=True)
            numbers.append(rows.numbers)
            keys.append(rows.keys)
            self.ids += [example.id for example in known]
            self.labels += [scalar_text(example.label) for example in known]
        self.rows = Rows(np.concatenate(numbers, axis=1), np.concatenate(keys, axis=1))

    def duplicates(self, near: NearRows) -> dict[str, Any]:
        """Return the examples that are nearly equal to an earlier one."""
        first: dict[int, int] = {}
        for here, there in near.pairs(self.rows):
            for later, earlier in zip(here[there < here].tolist(), there[there < here].tolist(), strict=True):
                first[later] = min(first.get(later, earlier), earlier)
        listed = sorted(first.items())[:MAX_LISTED]
        return {
            "examples": len(first),
            "other_label": sum(self.labels[later] != self.labels[earlier] for later, earlier in first.items()),
            "found": [{"id": self.ids[later], "of": self.ids[earlier]} for later, earlier in listed],
        }


def _leaks(
    training: _Training, examples: _Examples, near: NearRows, compared: ComparedInputs, progress: Progress
) -> dict[str, Any]:
    """Return the examples that are nearly equal to a training row."""
    row, number, first = 0, Counter[int](), dict[int, int]()
    batch: Batch | None = training.first
    while batch is not None:
        for here, there in near.pairs(compared.rows(batch.columns, batch.rows, learn=False)):
            number.update(there.tolist())
            for index, example in zip(here.tolist(), there.tolist(), strict=True):
                first.setdefault(example, row + index + 1)
        row += batch.rows
        progress("training rows", batch.done, row)
        batch = next(training.batches, None)
    found = [
        {"id": examples.ids[example], "row": first[example], "rows": number[example]}
        for example in sorted(first)[:MAX_LISTED]
    ]
    return {"file": training.where, "rows": row, "examples": len(first), "found": found}


def _text(document: dict[str, Any]) -> Iterator[str]:
    names = document["inputs"]
    yield (
        f"release {document['release']}: {document['examples']:,} examples, compared by {len(names)} inputs, "
        f"numbers within {document['tolerance']:g} training standard deviations"
    )
    if left_out := document["inputs_left_out"]:
        yield f"not compared, as one side has none of them: {', '.join(map(preview, left_out[:MAX_SHOWN]))}"
    if missing := document["without_inputs"]:
        yield f"not compared, as their inputs were not stored: {missing:,} examples"
    found = document["duplicates"]
    other = f"{found['other_label']:,} with another label"
    yield f"{found['examples']:,} examples are near-duplicates of an earlier one, {other}"
    yield from _list(found, lambda one: f"{one['id']} (of {one['of']})")
    if training := document["training"]:
        rows = f"{training['file']}, {training['rows']:,} rows"
        yield f"{training['examples']:,} examples are, or nearly are, rows of the training data ({rows})"
        yield from _list(training, lambda one: f"{one['id']} (row {one['row']:,})")
    if document["truncated"]:
        yield f"{document['truncated']:,} rows have so many near examples that they were not compared with all of them"


def _list(found: dict[str, Any], name: Any) -> Iterator[str]:
    if shown := found["found"][:MAX_SHOWN]:
        more = f", and {found['examples'] - len(shown):,} more" if found["examples"] > len(shown) else ""
        yield f"  {', '.join(truncate(name(one), 80) for one in shown)}{more}"


_MISSING, _UNKNOWN = 0, -1


class ComparedInputs:
    """Converts inputs.

    Numbers are centred and scaled by the training values. Categories, texts, images and all other inputs get a number
    for each different value; those of a release are learned.

    Parameters
    ----------
    binner
        Of the profile.
    names
        Inputs of the profile that are compared; kept as an attribute.
    """

    def __init__(self, binner: Binner, names: Sequence[str]) -> None:
        self.names = names
        kinds = {name: kind.type for name, kind in binner.inputs.items() if name in names}
        self._numeric = [name for name, kind in kinds.items() if kind == "numeric"]
        self._others = {name: kind for name, kind in kinds.items() if kind != "numeric"}
        targets = [binner.target_names.index(name) for name in self._numeric]
        self._centre, self._scale = binner.centre[targets, None], binner.scale[targets, None]
        self._known: dict[str, dict[Any, int]] = {name: {} for name in self._others}

    def rows(self, columns: Mapping[str, Any], count: int, *, learn: bool) -> Rows:
        """Return what is compared of rows.

        Parameters
        ----------
        columns
            Their inputs; one that is absent is missing.
        count
            Their number ``n``.
        learn
            Whether the values are those of a release; values that are not learned are equal to none.
        """
        missing: list[None] = [None] * count
        with np.errstate(over="ignore", invalid="ignore"):
            numbers = numeric_columns([columns.get(name, missing) for name in self._numeric]).reshape(-1, count)
            numbers = (numbers - self._centre) / self._scale
        keys: Ints = np.empty((len(self._others), count), np.intp)
        for row, (name, kind) in zip(keys, self._others.items(), strict=True):
            known = self._known[name]
            values = [_key(value, kind) for value in _items(columns.get(name, missing))]
            if learn:
                row[:] = [_MISSING if value is None else known.setdefault(value, len(known) + 1) for value in values]
            else:
                row[:] = [_MISSING if value is None else known.get(value, _UNKNOWN) for value in values]
        return Rows(numbers, keys)


def _items(values: Any) -> Sequence[Any]:
    """Return a column as single values; rows of an array with several dimensions stay arrays."""
    return list(values) if isinstance(values, np.ndarray) and values.ndim > 1 else as_list(values)


def _key(value: Any, kind: str) -> Any:
    """Return what two equal values share; None for a missing one.

    >>> _key(7.0, "categorical"), _key([[1, 2]], "image") == _key(np.array([[1, 2]], np.uint8), "image")
    ('7', True)
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if kind == "timestamp":
        return unix_seconds(value)
    if isinstance(value, str):
        return value if len(value) <= 64 else _digest(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, bool | int | float):
        return scalar_text(value)
    try:
        array = np.asarray(value, np.float64)
        return _digest(repr(array.shape).encode() + array.tobytes())
    except (ValueError, TypeError, OverflowError):
        return _digest(repr(value).encode("utf-8", "surrogatepass"))


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


PAGE = 1000
"""Examples that are read at a time."""


class ReleaseFile(NamedTuple):
    """The content of a release in a file.

    Attributes
    ----------
    path
        JSON lines, plain or compressed with gzip.
    where
        The release's name in messages.
    document
        What the exporter says about it; None if the release was named by a file.
    """

    path: Path
    where: str
    document: dict[str, Any] | None

    def pages(self) -> Iterator[list[Example]]:
        """Yield the examples.

        Raises
        ------
        ExporterError
            When a line is not an example, with its number.
        """
        decoder = msgspec.json.Decoder(Example)
        page: list[Example] = []
        try:
            with _open(self.path) as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        page.append(_example(decoder, line, f"{self.where}: line {number}"))
                    if len(page) == PAGE:
                        yield page
                        page = []
        except (OSError, EOFError, zlib.error) as error:
            raise ExporterError(f"{self.where}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
        if page:
            yield page


@contextlib.contextmanager
def open_release(name: str, options: argparse.Namespace) -> Iterator[ReleaseFile]:
    """Open a release until the block ends: the file of this name, else the release of an exporter.

    Raises
    ------
    ExporterError
        When there is neither, or the exporter cannot be asked.
    """
    if Path(name).is_file():
        yield ReleaseFile(Path(name), name, None)
        return
    with tempfile.TemporaryDirectory() as folder, exporter_client(options, TIMEOUT, downloads=True) as client:
        try:
            path, document = read_release(client, name)
        except ExporterError as error:
            raise ExporterError(f"{name}: is neither a file here nor a release of the exporter: {error}") from None
        file = Path(folder) / "release.jsonl"
        download_content(client, f"{path}?format=jsonl", file, document["sha256"])
        yield ReleaseFile(file, name, document)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        yield cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if is_gzip(file) else file


def _example(decoder: msgspec.json.Decoder[Example], line: bytes, where: str) -> Example:
    try:
        return decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        detail = f"expected an example as dataset export writes it with --format=jsonl: {error}"
        raise ExporterError(f"{where}: {detail}") from None
