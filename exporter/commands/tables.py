"""Rows of a table in columns: features, outputs of the model, and what is wrong with a row."""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import math
import os
import secrets
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from exporter.client.encoding import rfc3339
from exporter.commands.common import (
    add_credentials,
    checked,
    column_type,
    exporter_client,
    refused_events,
    whole_number,
)
from exporter.errors import BatchError, UsageError
from exporter.features import INPUT_TYPES
from exporter.features.base import as_list, confidence_column, numeric_column, scalar_text
from exporter.features.json_inputs import sanitize
from exporter.features.scalars import unix_seconds
from exporter.http_client import NO_RETRY, TRANSIENT, Client, InterruptedWait, RequestError, Response
from exporter.profiles.profile import CategoricalFeature, Feature, Profile
from exporter.profiles.sources import Source, is_gzip, path_of, plain_copy, without_gz
from exporter.profiles.sources.files import FileSource
from exporter.stats.divergence import Floats
from exporter.validation import any_of, closest, parse_duration, preview, similar_file
from exporter.wire.events import FIRST_YEAR, LAST_YEAR, MAX_ID, MAX_LABEL, MAX_REJECTED

MAX_REPORTED = 10
"""Refused rows whose reasons are kept."""
MAX_LISTED = 20
"""Columns in the message about one that is not there."""
_FIRST_SECOND, _END = (datetime(year, 1, 1, tzinfo=UTC).timestamp() for year in (FIRST_YEAR, LAST_YEAR + 1))


class Roles(NamedTuple):
    """Names of the columns that are not features; see the command's options."""

    prediction: str | None = None
    confidence: str | None = None
    id: str | None = None
    time: str | None = None
    label: str | None = None
    ignored: tuple[str, ...] = ()
    confidence_percent: bool = False

    def named(self) -> dict[str, str]:
        """Return the option that names each column."""
        named = {getattr(self, role): f"--{role}-column" for role in self._fields[:5]}
        named |= dict.fromkeys(self.ignored, "--ignore")
        return {name: option for name, option in named.items() if name is not None}


class Rows(NamedTuple):
    """Some valid rows.

    Attributes
    ----------
    numbers
        Number of each row in the file, the first is 1; shape ``(n,)``.
    inputs
        Columns by name.
    predictions
        None, or NaN in an array, where a row has none; empty without such a column.
    confidences
        NaN where a row has none; empty without such a column.
    ids
        Strings, None where a row has none; empty without such a column.
    moments
        When a row arrived in Unix seconds, NaN where it does not say; None without such a column.
    labels
        True labels; None, or NaN in an array, where a row has none; empty without such a column.
    done
        Share of the file that was read.
    """

    numbers: npt.NDArray[np.int64]
    inputs: Mapping[str, Any]
    predictions: Any
    confidences: Floats
    ids: Sequence[str | None]
    moments: Floats | None
    labels: Any
    done: float


@dataclass
class Refused:
    """Counts refused rows, and keeps the reasons for the first of them.

    Parameters
    ----------
    after
        Number of the last row that an earlier run reported; rows up to it are not counted.
    """

    after: int = 0
    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, row: int, column: str, detail: str) -> None:
        """Count a row and what is wrong with one of its columns."""
        if row <= self.after:
            return
        self.count += 1
        if len(self.first) < MAX_REPORTED:
            self.first.append(f"row {row}{f', {column}' if column else ''}: {detail}")

    def reasons(self) -> Iterator[str]:
        """Yield what was wrong with the first rows, and how many more there were."""
        yield from (f"  {reason}" for reason in self.first)
        if self.count > len(self.first):
            yield f"  and {self.count - len(self.first):,} more"


@dataclass
class Table:
    """The valid rows of a source.

    Parameters
    ----------
    source
        Reader of the file.
    roles
        The columns that are not features.
    refused
        Collects invalid rows.

    Attributes
    ----------
    seen
        Columns that may be features.
    rows
        Rows read so far.
    """

    source: Source
    roles: Roles
    refused: Refused
    seen: dict[str, None] = field(default_factory=dict)
    rows: int = 0

    def __iter__(self) -> Iterator[Rows]:
        for batch in self.source.batches():
            if not self.rows:
                self._check(batch.columns)
            numbers = np.arange(self.rows + 1, self.rows + 1 + batch.rows)
            self.rows += batch.rows
            inputs = {name: values for name, values in batch.columns.items() if name not in self.roles.named()}
            self.seen |= dict.fromkeys(inputs)
            yield self._valid(numbers, inputs, batch.columns, batch.done)

    def _check(self, columns: Collection[str]) -> None:
        for name, option in self.roles.named().items():
            if name not in columns:
                close = closest(name, columns)
                hint = f"; did you mean {preview(close)}?" if close else ";"
                listed = [preview(column) for column in itertools.islice(columns, MAX_LISTED)]
                listed += [f"{len(columns) - MAX_LISTED} more"] if len(columns) > MAX_LISTED else []
                detail = f"has no column {preview(name)}{hint} {option} may be {', '.join(listed)}"
                raise BatchError(f"{self.source.where}: {detail}")

    def _valid(
        self, numbers: npt.NDArray[np.int64], inputs: dict[str, Any], columns: Mapping[str, Any], done: float
    ) -> Rows:
        """Return the rows without those that are invalid."""
        size = len(numbers)
        bad: dict[int, tuple[str, str]] = {}  # by index: the first column that is wrong, and why
        outputs: dict[str, Any] = {}
        for role, check in _CHECKS.items():
            name = getattr(self.roles, role)
            if name is not None:
                values = columns.get(name, [None] * size)
                if role == "confidence" and self.roles.confidence_percent:
                    values = confidence_column(as_list(values), percent=True)
                outputs[role], wrong = check(values)
                for index, detail in wrong.items():
                    bad.setdefault(index, (name, detail))
        for index in sorted(bad):
            self.refused.add(int(numbers[index]), *bad[index])
        if bad:
            good = np.ones(size, dtype=np.bool_)
            good[list(bad)] = False
            numbers = numbers[good]
            inputs = {name: _selected(values, good) for name, values in inputs.items()}
            outputs = {role: _selected(values, good) for role, values in outputs.items()}
        prediction, label = outputs.get("prediction", ()), outputs.get("label", ())
        confidence = outputs.get("confidence", np.empty(0))
        return Rows(numbers, inputs, prediction, confidence, outputs.get("id", ()), outputs.get("time"), label, done)


def read_table(
    options: argparse.Namespace, source: Input, roles: Roles, refused: Refused, profile: Profile | None = None
) -> Table:
    """Return the rows of a file.

    Parameters
    ----------
    options
        Of `exporter.commands.common.add_csv_options`.
    source
        The file.
    roles, refused
        See `Table`.
    profile
        With a profile, cells of CSV are read so that they compare with its values.
    """
    reader = FileSource(
        source.path,
        (cell_types(profile, roles) if profile else output_types(roles)) | dict(map(column_type, options.type)),
        kind=source.kind,
        where=source.where,
        others="text" if profile else None,
        delimiter=options.delimiter,
        decimal=options.decimal,
    )
    return Table(reader, roles, refused)


def _predictions(values: Any) -> tuple[Any, dict[int, str]]:
    if isinstance(values, np.ndarray) and values.ndim == 1:
        wrong = np.flatnonzero(np.isinf(values)) if values.dtype.kind == "f" else ()
        return values, {int(index): "expected a finite number" for index in wrong}
    items = as_list(values)
    types = set(map(type, items)) - {type(None)}
    if types <= {bool, int} or (types == {str} and max(map(len, filter(None, items)), default=0) <= MAX_LABEL):
        return items, {}
    items = [None if isinstance(value, float) and math.isnan(value) else value for value in items]
    bad = {}
    for index, value in enumerate(items):
        if isinstance(value, float) and math.isinf(value):
            bad[index] = "expected a finite number"
        elif isinstance(value, str) and len(value) > MAX_LABEL:
            bad[index] = f"expected at most {MAX_LABEL} characters, got {len(value)}"
        elif not isinstance(value, str | int | float | None):
            bad[index] = f"expected a string, a number or a boolean, got {preview(value)}"
    return items, bad


def _confidences(values: Any) -> tuple[Floats, dict[int, str]]:
    numbers = np.asarray(values, np.float64) if isinstance(values, np.ndarray) else numeric_column(values)
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero((numbers < 0) | (numbers > 1))
    detail = "expected a number from 0 to 1, got "
    return numbers, {int(index): detail + preview(as_list(values[index : index + 1])[0]) for index in wrong}


def _ids(values: Any) -> tuple[Sequence[str | None], dict[int, str]]:
    items = as_list(values)
    types = set(map(type, items))
    if types == {str} and min(map(len, items)) > 0 and max(map(len, items)) <= MAX_ID:
        return items, {}
    if types == {int}:
        return list(map(str, items)), {}
    texts: list[str | None] = []
    bad = {}
    for index, value in enumerate(items):
        empty = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
        texts.append(None if empty else scalar_text(value))
        if not empty and not 0 < len(scalar_text(value)) <= MAX_ID:
            bad[index] = f"expected a string of at most {MAX_ID} characters, got {preview(value)}"
    return texts, bad


def _times(values: Any) -> tuple[Floats, dict[int, str]]:
    items = as_list(values)
    moments = np.array([unix_seconds(value) for value in items], dtype=np.float64)
    bad = dict.fromkeys(np.flatnonzero(np.isinf(moments)).tolist(), 'an RFC 3339 time such as "2026-11-24T10:00:00Z"')
    for index in np.flatnonzero(np.isfinite(moments) & ((moments < _FIRST_SECOND) | (moments >= _END))).tolist():
        bad[index] = f"a year from {FIRST_YEAR} to {LAST_YEAR}"
    return moments, {index: f"expected {expected}, got {preview(items[index])}" for index, expected in bad.items()}


_CHECKS: dict[str, Callable[[Any], tuple[Any, dict[int, str]]]] = {
    "prediction": _predictions,
    "confidence": _confidences,
    "id": _ids,
    "time": _times,
    "label": _predictions,
}
"""For each role: returns a column's values, and what is wrong with some of them, by their index."""


def cell_types(profile: Profile, roles: Roles) -> dict[str, str]:
    """Return the types by which cells of CSV are read so that they compare with the training values."""
    types = {name: _cell_type(kind, profile.features.get(name)) for name, kind in profile.inputs.items()}
    if roles.prediction:
        numeric = profile.prediction is not None and not isinstance(profile.prediction, CategoricalFeature)
        kind = _cell_type("numeric" if numeric else "categorical", profile.prediction)
        types |= dict.fromkeys(filter(None, (roles.prediction, roles.label)), kind)
    return types | output_types(roles)


def output_types(roles: Roles) -> dict[str, str]:
    """Return the types of the columns that are not features."""
    outputs = {roles.confidence: "numeric", roles.id: "categorical", roles.time: "timestamp"}
    types = {name: kind for name, kind in outputs.items() if name is not None}
    return types | {name: "text" for name in roles.ignored if name not in types}


def _cell_type(kind: str, feature: Feature | None) -> str:
    """Return the type of an input's cells; numbers and booleans stay what they are as categories: 1.0 is 1."""
    categories = feature.categories if isinstance(feature, CategoricalFeature) else ()
    if kind == "categorical" and categories:
        if all(_is_number(name) for name in categories):
            return "numeric"
        if set(categories) <= {"true", "false"}:
            return "boolean"
    return kind if INPUT_TYPES[kind].cells in {"number", "truth", "moment"} else "text"


def _is_number(name: str) -> bool:
    try:
        return scalar_text(float(name)) == name
    except (ValueError, OverflowError):
        return False


def _selected(column: Any, chosen: npt.NDArray[np.bool_]) -> Any:
    """Return the chosen values of a column; ``chosen`` has shape ``(n,)``."""
    if isinstance(column, np.ndarray):
        return column[chosen]
    return list(itertools.compress(column, chosen.tolist()))


TABLES = ("csv", "parquet", "npz", "jsonl")
FORMATS = (*TABLES, "predictions")
"""The last is JSON lines of predictions as ``POST /v1/predictions`` accepts them."""
_SUFFIXES = {".csv": "csv", ".parquet": "parquet", ".npz": "npz", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def add_input_options(parser: argparse.ArgumentParser, formats: Sequence[str]) -> None:
    """Add the file of `open_input`, and its format."""
    text = "CSV, Parquet, NPZ or JSON lines, also as .gz; - is standard input"
    parser.add_argument("file", type=str, metavar="FILE", help=text)
    parser.add_argument("--format", choices=formats, help="format of the file; default: by its name")


class Input(NamedTuple):
    """The input of the command.

    Attributes
    ----------
    path
        A plain file: the one that was named, or a temporary one with what was compressed or on standard input.
    where
        Its name in messages.
    kind
        One of `FORMATS`.
    file
        The file that was named; None for standard input and pipes.
    """

    path: Path
    where: str
    kind: str
    file: Path | None


@contextlib.contextmanager
def open_input(name: str, kind: str | None, formats: Sequence[str] = FORMATS) -> Iterator[Input]:
    """Open a file or standard input until the block ends.

    Compressed input and standard input are copied to a temporary file: some formats are read from their end,
    some twice.

    Parameters
    ----------
    name
        Of the file, ``-`` for standard input.
    kind
        One of the formats; None to tell it by the file's name.
    formats
        `FORMATS`, or `TABLES` where JSON lines are always a table.

    Raises
    ------
    BatchError
        When it cannot be read, or changed before the block ended.
    """
    if name == "-":
        if kind is None:
            raise UsageError(f"--format: is required for standard input: {any_of(formats)}")
        buffer: Any = sys.stdin.buffer
        stream = buffer if isinstance(buffer, BufferedReader) else BufferedReader(buffer)
        with _plain_file(stream, "standard input") as path:
            yield Input(path, "standard input", _detected(path, kind, formats), None)
        return
    file = Path(name)
    kind = kind or _kind_of_name(file)
    stream = _open(file)
    before = os.fstat(stream.fileno())
    if not stat.S_ISREG(before.st_mode):  # a pipe, such as a shell's <(…)
        with stream, _plain_file(stream, name) as path:
            yield Input(path, name, _detected(path, kind, formats), None)
        return
    with stream:
        with contextlib.suppress(OSError):  # not every file system has locks
            _lock(stream, name)
        with _plain_file(stream, name) if is_gzip(stream) else contextlib.nullcontext(file) as path:
            yield Input(path, name, _detected(path, kind, formats), file)
        after = file.stat()
    if (before.st_ino, before.st_size, before.st_mtime_ns) != (after.st_ino, after.st_size, after.st_mtime_ns):
        sizes = f"from {before.st_size:,} to {after.st_size:,} bytes"
        raise BatchError(f"{file}: changed while it was read, {sizes}: ingest it again once it is complete")


def _kind_of_name(file: Path) -> str:
    kind = _SUFFIXES.get(without_gz(file).suffix.lower())
    if kind is None:
        raise BatchError(f"{file}: expected a file that ends in {any_of(_SUFFIXES)}, or --format to say what it is")
    return kind


def _open(file: Path) -> BufferedReader:
    try:
        stream = file.open("rb")
        stream.peek(1)  # some file systems open what they cannot read
    except FileNotFoundError:
        raise BatchError(f"{file}: cannot be read: there is no such file{similar_file(file)}") from None
    except OSError as error:
        raise BatchError(f"{file}: cannot be read: {error.strerror or error}") from None
    return stream


def _lock(stream: BufferedReader, name: str) -> None:
    """Lock the file, so that no second command sends it."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BatchError(f"{name}: is being read by another model-exporter") from None


@contextlib.contextmanager
def _plain_file(stream: BufferedReader, where: str) -> Iterator[Path]:
    """Copy a stream, decompressed if it is gzip, to a temporary file that never outlives the process."""
    try:
        copy = plain_copy(stream)
    except (ValueError, OSError) as error:
        raise BatchError(f"{where}: {error}") from None
    with copy:
        yield path_of(copy)


def _detected(path: Path, kind: str, formats: Sequence[str]) -> str:
    """Return the format: JSON lines may be predictions, and are if the first of them has an object of inputs."""
    if kind != "jsonl" or "predictions" not in formats:
        return kind
    with path.open("rb") as file:
        first = next((line for line in iter(lambda: file.readline(2**24), b"") if line.strip()), b"")
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(first.removeprefix(b"\xef\xbb\xbf"))  # NaN is allowed, as where predictions are decoded
        if isinstance(document, dict) and isinstance(document.get("inputs"), dict):
            return "predictions"
    return kind


BODY = 4 * 2**20
"""Bytes of a chunk."""
MAX_LINE = 16 * 2**20
"""Bytes of a line: an exporter accepts no larger body."""


class Chunk(NamedTuple):
    """Some lines, their numbers among the lines that are not blank (the first is 1), and the share of the file read."""

    lines: list[bytes]
    numbers: list[int]
    done: float


def split(rows: Iterable[tuple[int, bytes, float]], max_lines: int, end: int) -> Iterator[Chunk]:
    """Yield rows in chunks of at most ``max_lines`` lines and `BODY` bytes; a single line may be longer.

    Parameters
    ----------
    rows
        The number and the line of each, and the share of the file read.
    max_lines
        Lines of a chunk.
    end
        Number of a line that ends its chunk, whatever its size.
    """
    lines: list[bytes] = []
    numbers: list[int] = []
    size = 0
    for number, line, done in rows:
        if lines and (len(lines) >= max_lines or size + len(line) > BODY or numbers[-1] == end):
            yield Chunk(lines, numbers, done)
            lines, numbers, size = [], [], 0
        lines.append(line)
        numbers.append(number)
        size += len(line) + 1
    if lines:
        yield Chunk(lines, numbers, 1.0)


@dataclass
class Lines:
    """The lines of a file.

    Parameters
    ----------
    path
        The file.
    where
        Its name in messages.
    refused
        Collects lines that are too long.
    max_lines, end
        See `split`.
    after
        Number of the last line to skip.

    Attributes
    ----------
    rows
        Lines read so far that are not blank, skipped ones included.
    """

    path: Path
    where: str
    refused: Refused
    max_lines: int
    after: int = 0
    end: int = 0
    rows: int = 0

    def __iter__(self) -> Iterator[Chunk]:
        return split(self._rows(), self.max_lines, self.end)

    def _rows(self) -> Iterator[tuple[int, bytes, float]]:
        """Yield the number of each line that is to be sent, the line, and the share of the file read."""
        total, position = max(self.path.stat().st_size, 1), 0
        with self.path.open("rb") as file:
            for line in _bounded(file):
                text = (line if position else line.removeprefix(b"\xef\xbb\xbf")).strip()
                position += len(line)
                self.rows += bool(text)
                if self.rows <= self.after or not text:
                    continue
                if len(line) > MAX_LINE:
                    self.refused.add(self.rows, "", f"expected at most {MAX_LINE >> 20} MiB")
                    continue
                if not line.endswith(b"\n") and not _is_json(text):
                    raise BatchError(f"{self.where}: ends in the middle of row {self.rows}: is it still being written?")
                yield self.rows, text, min(position / total, 1.0)


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _bounded(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines, each truncated just above the longest that is allowed."""
    while line := file.readline(MAX_LINE + 1):
        yield line
        if len(line) > MAX_LINE and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass


_PIECE = 2**20


class State(msgspec.Struct, forbid_unknown_fields=True):
    """The state file.

    Attributes
    ----------
    run
        Prefix of the idempotency keys of its batches.
    to
        Exporter, model and version.
    size, sha256
        Of the file when it was opened.
    batch_size
        Rows of a batch: a batch that is sent again must have the same rows.
    rows, accepted
        Rows of the file up to the last acknowledged batch, and how many of them the exporter accepted.
    labels
        How many labels of these rows the exporter accepted.
    sending
        Last row of a batch that is being sent and is shorter than the others, because the file ended there; else 0.
    done
        Whether all of the file was sent.
    time
        When this was written, RFC 3339.
    """

    run: str
    to: str
    size: int
    sha256: str
    batch_size: int
    rows: int = 0
    accepted: int = 0
    labels: int = 0
    sending: int = 0
    done: bool = False
    time: str = ""


def save(path: Path | None, state: State) -> None:
    """Write the state atomically, and wait until it is on disk.

    Raises
    ------
    BatchError
        When that fails.
    """
    if path is None:
        return
    state.time = rfc3339(int(time.time()))
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(state), indent=1) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        advice = "set another one with --state"
        raise BatchError(f"the state file {path} cannot be written: {error.strerror}; {advice}") from None


def _load(path: Path) -> State | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=State)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BatchError(f"the state file {path} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        advice = "remove it to send the file from its start"
        raise BatchError(f"{path}: is not a state file: {error}; {advice}") from None


def _sha256(path: Path, size: int | None = None) -> str:
    """Return the hash of a file, or of its first ``size`` bytes."""
    digest, left = hashlib.sha256(), path.stat().st_size if size is None else size
    with path.open("rb") as file:
        while piece := file.read(min(_PIECE, left)):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


_SLICE = 500
_REFUSED = os.strerror(errno.ECONNREFUSED)

_encoder = msgspec.json.Encoder()


@dataclass
class RowLabels:
    """The labels of rows that are sent.

    Parameters
    ----------
    column
        Name of their column.
    refused
        Collects labels that are refused.
    """

    column: str | None
    refused: Refused
    lines: dict[int, bytes] = field(default_factory=dict)

    def add(self, number: int, prediction_id: str | None, label: Any) -> None:
        """Add the label of a row; None is none."""
        if label is None:
            return
        if prediction_id is None:
            self.refused.add(number, self.column or "", "the row has no identifier by which its label could be joined")
        else:
            self.lines[number] = _encoder.encode({"prediction_id": prediction_id, "label": label})

    def of(self, chunk: Chunk, refused: Collection[int]) -> Chunk:
        """Take the labels of a chunk's rows; those of refused rows are dropped."""
        found = {number: self.lines.pop(number) for number in chunk.numbers if number in self.lines}
        kept = {number: line for number, line in found.items() if number not in refused}
        return Chunk(list(kept.values()), list(kept), chunk.done)


@dataclass
class Sender:
    """Sends batches in order, each acknowledged before the next.

    Parameters
    ----------
    client
        Of the exporter.
    state
        What the exporter has acknowledged; sending continues from there.
    path
        File of the state; None for none.
    refused
        Collects the rows that the exporter refuses.
    labels
        The labels of the rows; each batch is sent before its labels.
    give_up
        Seconds for which a batch is tried again.
    route
        Where they are sent.

    Attributes
    ----------
    totals
        Sums of the numbers in the responses of this run.
    """

    client: Client
    state: State
    path: Path | None
    refused: Refused
    labels: RowLabels
    give_up: float
    route: str = "/v1/predictions"
    totals: Counter[str] = field(default_factory=Counter)
    warned: bool = False
    reached: bool = False  # an attempt failed after it may have reached the exporter

    def __post_init__(self) -> None:
        self.is_new = not self.state.time  # it was never saved

    def send(self, chunks: Iterable[Chunk], on_chunk: Callable[[Chunk], None]) -> None:
        """Send batches and save in the state what was acknowledged.

        Raises
        ------
        BatchError
            When the exporter does not accept them; the state says how many it did.
        """
        is_saved = False
        for chunk in chunks:
            if len(chunk.lines) < self.state.batch_size and self.path is not None:
                self.state.sending = chunk.numbers[-1]  # if the file grows, this batch must end here all the same
                is_saved = False
            if not is_saved:  # before anything is sent: a file that cannot be read leaves no state
                save(self.path, self.state)
            is_saved = True
            key = f"{self.state.run}-{chunk.numbers[0]}"
            accepted, refused = self._send(chunk, self.route, self.refused, key)
            labels = self.labels.of(chunk, refused)
            accepted_labels, _ = self._send(labels, "/v1/labels", self.labels.refused) if labels.lines else (0, ())
            self.state.rows, self.state.sending = chunk.numbers[-1], 0
            self.state.accepted += accepted
            self.state.labels += accepted_labels
            save(self.path, self.state)
            on_chunk(chunk)

    def finish(self, rows: int) -> None:
        """Save that all rows of the file were sent."""
        self.state.rows, self.state.done = max(rows, self.state.rows), True
        save(self.path, self.state)

    def _send(self, chunk: Chunk, path: str, refused: Refused, key: str | None = None) -> tuple[int, set[int]]:
        """Send lines; return how many were accepted, and the numbers of the rows that were refused."""
        response = self._post(path, b"\n".join(chunk.lines), key)
        accepted = response.status in {200, 201, 202}
        if not accepted and response.status != 400:
            if path == self.route and response.status not in TRANSIENT:
                self._forget_unsent()
            tried = f", for {self.give_up:g} s" if response.status in TRANSIENT else ""
            raise self._stopped(response.error_message() + tried)
        try:
            document = json.loads(response.body)
            count = int(document["accepted"]) if accepted else 0
            rejected = [*refused_events(document)]
            numbers = {chunk.numbers[index] for index, _, _ in rejected}
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            raise self._stopped(f"the response ({response.status}) is not an exporter's") from None
        if accepted:
            self.totals.update({name: value for name, value in document.items() if isinstance(value, int)})
        elif not rejected:
            raise self._stopped(response.error_message())
        if (known := count + len(numbers)) < len(chunk.lines):
            raise self._stopped(f"the response accounts for {known:,} of {len(chunk.lines):,} rows in the request")
        for index, pointer, detail in rejected:
            refused.add(chunk.numbers[index], pointer.removeprefix("/"), detail)
        return count, numbers

    def _post(self, path: str, body: bytes, key: str | None) -> Response:
        headers = {"Content-Type": "application/x-ndjson", **({} if key is None else {"Idempotency-Key": key})}
        try:
            return self.client.repeat(self.give_up, self._warn, "POST", path, body, headers=headers)
        except RequestError as error:
            self.reached = self.reached or error.reason != _REFUSED
            self._forget_unsent()
            raise self._stopped(f"{error.reason}, for {self.give_up:g} s") from None
        except InterruptedWait:
            self._forget_unsent()
            raise

    def _warn(self, reason: str) -> None:
        self.reached = self.reached or reason != _REFUSED
        if not self.warned:
            print(f"{self.client.url}: {reason}: trying again", file=sys.stderr)
        self.warned = True

    def _forget_unsent(self) -> None:
        """Remove the state of a run of which nothing was taken: with the right URL or token, it is a new run."""
        if self.path is not None and self.is_new and not self.state.rows and not self.reached:
            self.path.unlink(missing_ok=True)

    def _stopped(self, reason: str) -> BatchError:
        sent = f"{self.state.rows:,} rows are sent"
        again = "; the same command continues after them" if self.path is not None and self.state.rows else ""
        return BatchError(f"{self.client.url}: {reason}; {sent}{again}")


def table_chunks(table: Table, state: State, model: str, version: str | None, labels: RowLabels) -> Iterator[Chunk]:
    """Yield a table's rows as lines of JSON, in the same batches however the file is read, and add their labels."""
    lines = ((*row, rows.done) for rows in table for row in _encode(rows, state.rows, model, version, labels))
    return split(lines, state.batch_size, state.sending)


def _encode(rows: Rows, after: int, model: str, version: str | None, labels: RowLabels) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the JSON of each row after one that was sent before, and add its label."""
    first = int(np.searchsorted(rows.numbers, after, side="right"))
    common = {"model": model, **({} if version is None else {"version": version})}
    for start in range(first, len(rows.numbers), _SLICE):
        part = slice(start, start + _SLICE)
        numbers = rows.numbers[part].tolist()
        inputs = [json_values(values[part]) for values in rows.inputs.values()]
        columns = {
            "prediction": json_values(rows.predictions[part]),
            "confidence": json_values(rows.confidences[part]),
            "id": rows.ids[part],
            "time": []
            if rows.moments is None
            else [None if math.isnan(moment) else rfc3339(moment) for moment in rows.moments[part].tolist()],
        }
        actual = json_values(rows.labels[part])
        columns = {name: values for name, values in columns.items() if len(values)}
        for index, (number, *values) in enumerate(zip(numbers, *inputs, strict=True)):
            event = common | {"inputs": dict(zip(rows.inputs, values, strict=True))}
            event |= {name: column[index] for name, column in columns.items() if column[index] is not None}
            if len(actual):
                labels.add(number, rows.ids[start + index] if rows.ids else None, actual[index])
            yield number, _encoder.encode(event)


def json_values(values: Any) -> Any:
    """Return a column as JSON can hold it: NaN as null, an infinity as its text, which is an invalid value."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.ndim == 1:
        if np.isfinite(values).all():
            return values.tolist()
    elif float not in set(map(type, values)):
        return as_list(values)
    return sanitize(as_list(values))


TIMEOUT = 60.0
"""Seconds that one request to an exporter may take."""
BATCH = MAX_REJECTED
"""Rows of a request, at most and by default: an exporter does not look at the rest after as many wrong ones."""


def add_sending_options(parser: argparse.ArgumentParser, command: str) -> None:
    """Add the options of a command that sends a file."""
    add = parser.add_argument
    add_credentials(parser, "MODEL_EXPORTER")
    text = "rows in a request to the exporter"
    add("--batch-size", type=whole_number(1, MAX_REJECTED), default=BATCH, metavar="N", help=text)
    text = "how long to retry when the exporter does not respond or is full"
    add("--give-up", type=checked(parse_duration), default="5m", metavar="DURATION", help=text)
    add("--state", metavar="FILE", help=f"file that records what was sent; default: FILE.{command}.json")
    parser.set_defaults(state_suffix=f".{command}.json")


def sending_client(options: argparse.Namespace) -> Client:
    """Return a client of the exporter in ``--exporter``."""
    return exporter_client(options, TIMEOUT, retries=NO_RETRY, user_in_url=True)


def begin_sending(options: argparse.Namespace, source: Input, to: str) -> tuple[State, Path | None]:
    """Return the state of sending a file and its path, None for none; say what was sent before.

    Parameters
    ----------
    options
        Of `add_sending_options`.
    source
        The file.
    to
        Exporter, and what the rows are to it.

    Raises
    ------
    BatchError
        When the state file is not valid, or belongs to an unfinished run to another target.
    """
    path = options.state or (source.file and source.file.with_name(source.file.name + options.state_suffix))
    file = source.file or source.path
    size, digest = file.stat().st_size, _sha256(file)
    new = State(secrets.token_hex(12), to, size, digest, options.batch_size)
    state = _load(path) if path else None
    if state is None:
        return new, path
    same = state.size == size and state.sha256 == digest
    appendable = source.kind in {"csv", "jsonl", "predictions"}  # it still begins with what was sent after it has grown
    if not (same or (appendable and state.size < size and state.sha256 == _sha256(file, state.size))):
        if not state.done:
            unsent = f"rows from {state.rows + 1:,} on of the file of {state.time} were never sent"
            text = f"{file} is another file than before and is sent from its start; {unsent}"
            print(f"model-exporter: {text}", file=sys.stderr)
        return new, path
    if state.to != to and state.done:
        return new, path
    if state.to != to:
        advice = f"finish it there, or remove {path} to send it from its start"
        sent = f"its first {state.rows:,} rows were sent" if state.rows else "its first rows may have been sent"
        raise BatchError(f"{file}: {sent} to {state.to}: {advice}")
    state.done = state.done and same
    state.size, state.sha256 = size, digest
    remark = f"the first {state.rows:,} rows were sent before ({path})"
    if state.done:
        print(f"{source.where}: nothing to send: {remark}")
    else:
        print(f"model-exporter: {remark}", file=sys.stderr)
    return state, path
