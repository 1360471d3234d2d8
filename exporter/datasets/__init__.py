"""Examples of a dataset, and its formats: JSON lines, CSV, Parquet and the tasks of Label Studio."""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import json
import logging
import operator
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec
import numpy as np

from exporter.errors import ExporterError, StoreError
from exporter.features import shown_as
from exporter.features.base import decode_label, scalar_text
from exporter.features.image import are_numbers, decode_image
from exporter.features.json_inputs import lenient_inputs
from exporter.validation import rfc3339
from exporter.wire.events import Label

if TYPE_CHECKING:
    from exporter.storage import Selection, Store


class Example(msgspec.Struct, gc=False):
    """A row of a dataset.

    Attributes
    ----------
    label
        The effective label.
    source
        ``"correction"``, ``"sampled"``, ``"confirmed"`` or ``"labelled"``.
    weight
        How many predictions of the traffic the row stands for.
    """

    id: str
    prediction_id: str | None
    model: str
    version: str
    inputs: dict[str, Any] | None
    label: Any
    prediction: Any
    confidence: float | None
    user_label: Any
    user: str | None
    reviewer: str | None
    reviewed: str | None
    predicted: str | None
    source: str
    weight: float
    revision: int


Page = list[Example]
Pages = Callable[[], Iterator[Page]]
"""Returns the same pages at each call."""

_Type = TypeVar("_Type")
_encoder = msgspec.json.Encoder(order="deterministic")


def encode_lines(page: Sequence[Example]) -> bytes:
    """Encode examples as JSON lines in canonical form: members in a fixed order, inputs sorted by name."""
    return _encoder.encode_lines(page)


class ExampleId(msgspec.Struct, gc=False):
    """The identifier of an example, and its source."""

    id: str
    source: str


def decode_lines(chunks: Iterator[bytes], type_: type[_Type]) -> Iterator[list[_Type]]:
    """Decode JSON lines that were cut into chunks anywhere; yield a list for each chunk."""
    decoder, rest = msgspec.json.Decoder(type_), b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            yield [decoder.decode(line) for line in lines]


log = logging.getLogger(__name__)

PAGE = 500
"""Examples that are read at a time, at most."""
PAGE_CHARACTERS = 4 * 2**20
"""Characters of inputs after which a page ends, as images are large."""

_inputs = msgspec.json.Decoder(dict[str, Any])


def stored_pages(store: Store, selection: Selection, redacted: frozenset[str]) -> Pages:
    """Return the pages of accepted corrections, and of what is added to them.

    Each page is read in a transaction of its own, so that a slow client does not hold an old state of the database.
    Corrections that are decided after this call are left out.

    Parameters
    ----------
    store
        The store.
    selection
        Which corrections; those whose label cannot be read are left out.
    redacted
        Inputs that are left out: they may have been stored when less was redacted.
    """
    selection = selection._replace(reviewed_until=time.time())
    mix = store.review.mix(selection)

    def pages() -> Iterator[Page]:
        for source in ("", *selection.include):
            after: int | None = 0
            while after is not None:
                with contextlib.closing(store.review.examples(selection, mix, source, after)) as rows:
                    page, after = _page(rows, redacted)
                if page:
                    yield page

    return pages


def _page(rows: Iterator[Mapping[Any, Any]], redacted: frozenset[str]) -> tuple[Page, int | None]:
    page: Page = []
    size = 0
    for row in rows:
        if (example := to_example(row, redacted)) is not None:
            page.append(example)
        size += len(row["inputs"] or "")
        if len(page) == PAGE or size > PAGE_CHARACTERS:
            return page, row["key"]
    return page, None


def to_example(row: Mapping[Any, Any], redacted: frozenset[str]) -> Example | None:
    """Convert a row of `Review.examples`; return None if its label cannot be read."""
    inputs = decode_inputs(row["inputs"])
    if inputs and redacted:
        inputs = {name: value for name, value in inputs.items() if name not in redacted}
    stored_label = row["label"] if row["reviewed_label"] is None else row["reviewed_label"]
    label = decode_label(stored_label)
    if label is None and stored_label not in {None, "null"}:
        log.warning("%s %s is left out of the dataset: its label cannot be read", row["source"], row["id"])
        return None
    is_users = row["source"] in {"correction", "confirmed"}  # the label of a sample is the model's prediction
    return Example(
        id=str(row["id"]),
        prediction_id=row["prediction_id"],
        model=row["model"],
        version=row["version"],
        inputs=inputs,
        label=label,
        prediction=decode_label(row["prediction"]),
        confidence=row["confidence"],
        user_label=decode_label(row["label"]) if is_users else None,
        user=row["user"],
        reviewer=row["reviewer"],
        reviewed=rfc3339(row["reviewed"]),
        predicted=rfc3339(row["predicted"]),
        source=row["source"],
        weight=row["weight"],
        revision=row["revision"],
    )


def decode_inputs(text: str | None) -> dict[str, Any] | None:
    """Decode stored inputs; of inputs that are not valid JSON, what can be read."""
    if not text:
        return None
    try:
        return _inputs.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return lenient_inputs(text.encode("utf-8", "replace"))


MAX_COLUMNS = 1000
"""Inputs with a column of their own, at most: clients choose the names of inputs."""
OTHER = "other_inputs"
"""The column of all other inputs, as JSON text."""
FIELDS = tuple(name for name in Example.__struct_fields__ if name != "inputs")
"""The columns before those of the inputs."""


class Format(NamedTuple):
    """A format in which a dataset is written.

    Attributes
    ----------
    name
        The value of ``format=``.
    suffix
        The suffix of a file's name.
    write
        Takes the examples and the known types of the model's inputs; yields the file in pieces.
    """

    name: str
    suffix: str
    content_type: str
    write: Callable[[Pages, Mapping[str, str]], Iterator[bytes]]


class Columns:
    """The inputs that have a column: those of the profile, then others in the order of a first pass.

    Parameters
    ----------
    pages
        The examples.
    types
        Types of the profile's inputs.
    observe
        Called with the name and value of each input that has a column.
    """

    def __init__(
        self, pages: Pages, types: Mapping[str, str], observe: Callable[[str, Any], None] = lambda *_: None
    ) -> None:
        names = dict.fromkeys(list(types)[:MAX_COLUMNS])
        self.more = False
        inputs = (entry for page in pages() for example in page for entry in (example.inputs or {}).items())
        for name, value in inputs:
            if name in names or len(names) < MAX_COLUMNS:
                names[name] = None
                observe(name, value)
            else:
                self.more = True
        self.names = list(names)
        self._with_column = frozenset(names)

    def rest(self, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the inputs without a column; None if there are none.

        Raises
        ------
        StoreError
            When there are some, although the first pass found none.
        """
        if inputs.keys() <= self._with_column:
            return None
        if not self.more:
            raise StoreError("a correction was decided while the dataset was read: repeat the request")
        return {name: value for name, value in inputs.items() if name not in self._with_column}


_field_values = operator.attrgetter(*FIELDS)
# Excel reads the full-width ones, too, and where commas are decimal separators, it takes semicolons to end a cell.
_FORMULA = re.compile(r"(^|;)('*[=+\-@＝＋－＠\t\r\n])")


def csv_cell(value: Any) -> Any:
    """Return a value as it is written to a cell.

    Text that a spreadsheet would read as a formula gets an apostrophe before it, also after a semicolon, and so does
    text that starts with apostrophes and then looks like a formula. To restore it, remove one apostrophe where one or
    more of them begin the text or follow a semicolon, before ``=``, ``+``, ``-``, ``@`` or one of their full-width
    forms, a tab or a line end. Numbers stay numbers; nested values become JSON text.

    >>> [csv_cell(value) for value in ("=1+1", "'=1", "＝1", "-", "a;=1", -1, True, None, [1, 2], "it's")]
    ["'=1+1", "''=1", "'＝1", "'-", "a;'=1", -1, 'true', None, '[1,2]', "it's"]
    """
    if isinstance(value, str):
        return _FORMULA.sub(r"\1'\2", value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return msgspec.json.encode(value).decode() if isinstance(value, list | dict) else value


def _write_csv(pages: Pages, types: Mapping[str, str]) -> Iterator[bytes]:
    columns = Columns(pages, types)
    header = [*FIELDS, *(f"inputs.{name}" for name in columns.names), *([OTHER] if columns.more else [])]
    yield _rows([header])
    for page in pages():
        rows = []
        for example in page:
            inputs = example.inputs or {}
            rest = columns.rest(inputs)
            values = (*_field_values(example), *map(inputs.get, columns.names), *([rest] if columns.more else []))
            rows.append([*map(csv_cell, values)])
        yield _rows(rows)


def _rows(rows: list[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _write_lines(pages: Pages, _: Mapping[str, str]) -> Iterator[bytes]:
    return (encode_lines(page) for page in pages())


ROWS = 10_000
"""Rows in a row group, at most."""
GROUP_BYTES = 8 * 2**20
"""Bytes of columns after which a row group ends."""
_LABELS = ("label", "prediction", "user_label")  # of one type, so that they can be compared
_TIMES = ("reviewed", "predicted")
_INT64 = 2**63


class _Buffer(io.RawIOBase):
    """A file that is only written, and whose content is removed as it is sent."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        self._chunks.append(bytes(data))
        self._position += len(self._chunks[-1])
        return len(self._chunks[-1])

    def pop(self) -> bytes:
        """Return what was written since the last call."""
        data = b"".join(self._chunks)
        self._chunks.clear()
        return data


class _Types:
    """Infers the type of each column from all of its values."""

    def __init__(self) -> None:
        self._observed: dict[str, set[str]] = {}

    def observe(self, name: str, value: Any) -> None:
        """Take a value of a column into account."""
        if value is not None:
            type_name = type(value).__name__
            is_too_large = type_name == "int" and not -_INT64 <= value < _INT64
            self._observed.setdefault(name, set()).add("large int" if is_too_large else type_name)

    def infer(self, name: str) -> str:
        """Return ``str``, ``bool``, ``int`` or ``float``; ``json`` for mixed and nested values."""
        types = self._observed.get(name, {"str"})
        if len(types) == 1 and types <= {"str", "bool", "int", "float"}:
            return next(iter(types))
        return "float" if types == {"int", "float"} else "json"


class _Column(NamedTuple):
    """A column: its type, and the function that returns its value of an example."""

    name: str
    type: str
    value: Callable[[Example], Any]

    def field(self) -> Any:
        """Return the column's field in the Arrow schema."""
        import pyarrow as pa  # only here: it is large

        arrow = {
            "str": pa.string(),
            "json": pa.string(),
            "bool": pa.bool_(),
            "int": pa.int64(),
            "float": pa.float64(),
            "time": pa.timestamp("us", "UTC"),
        }
        metadata = {"content": "application/json"} if self.type == "json" else None
        return pa.field(self.name, arrow[self.type], metadata=metadata)


def _columns(inputs: Columns, input_types: _Types, label_type: str) -> list[_Column]:
    """Return the columns of the file."""
    field_types = dict.fromkeys(FIELDS, "str") | {"confidence": "float", "revision": "int", "weight": "float"}
    field_types |= dict.fromkeys(_LABELS, label_type) | dict.fromkeys(_TIMES, "time")
    columns = [_Column(name, type_, operator.attrgetter(name)) for name, type_ in field_types.items()]
    columns += [_Column(f"inputs.{name}", input_types.infer(name), _input_getter(name)) for name in inputs.names]
    if inputs.more:
        columns.append(_Column(OTHER, "json", lambda example: inputs.rest(example.inputs or {})))
    return columns


def _input_getter(name: str) -> Callable[[Example], Any]:
    return lambda example: (example.inputs or {}).get(name)


def _write_parquet(pages: Pages, types: Mapping[str, str]) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    input_types, label_types = _Types(), _Types()

    def observed_pages() -> Iterator[Page]:
        for page in pages():
            for example in page:
                for name in _LABELS:
                    label_types.observe("", getattr(example, name))
            yield page

    inputs = Columns(observed_pages, types, input_types.observe)
    columns = _columns(inputs, input_types, label_types.infer(""))
    schema = pa.schema([column.field() for column in columns])

    def table(page: Page) -> Any:
        for example in page if not inputs.more else ():
            inputs.rest(example.inputs or {})  # fails if there are inputs that the first pass did not find
        arrays = [
            pa.array([_convert(column.value(example), column.type) for example in page], field.type)
            for column, field in zip(columns, schema, strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=schema)

    buffer = _Buffer()
    with pq.ParquetWriter(buffer, schema) as writer:
        group: list[Any] = []
        for page in pages():
            group.append(table(page))  # at once: Python's values take many times as much memory
            if sum(part.num_rows for part in group) >= ROWS or sum(part.nbytes for part in group) >= GROUP_BYTES:
                writer.write_table(pa.concat_tables(group))
                group = []
                yield buffer.pop()
        if group:
            writer.write_table(pa.concat_tables(group))
    yield buffer.pop()


def _convert(value: Any, type_: str) -> Any:
    if value is None:
        return None
    if type_ == "json":
        return msgspec.json.encode(value).decode()
    if type_ == "float":
        return float(value)
    return datetime.fromisoformat(value) if type_ == "time" else value


CHOICES = "label"
"""The ``name`` of the labelling configuration's ``Choices``."""
SHOWN_PIXELS = 128
"""Smaller images are enlarged without smoothing, so that people can see them."""
_WHITE_LEVELS = (1.0, 16.0, 255.0, 65535.0)
"""Possible values of white in an array of pixels; the lowest that is not exceeded is used."""
_IMAGE_PREFIXES = {"iVBORw0KGgo": "png", "/9j/": "jpeg", "UklGR": "webp"}
"""The first characters of image files in base64."""


_DATA_FIELDS = (
    "id", "revision", "label", "prediction", "reviewer", "model", "version", "prediction_id", "source", "weight"
)  # fmt: skip
"""Fields of an example that a task has under ``correction_…``."""


# --- export -----------------------------------------------------------------------------------


def _write_tasks(pages: Pages, types: Mapping[str, str]) -> Iterator[bytes]:
    separator = b"["
    for page in pages():
        yield separator + b",\n".join(msgspec.json.encode(task(example, types)) for example in page)
        separator = b",\n"
    yield b"[]\n" if separator == b"[" else b"]\n"


def task(example: Example, types: Mapping[str, str]) -> dict[str, Any]:
    """Return an example as a task.

    Its ``data`` has each input by name, with images as ``data:`` URLs, and under ``correction_…`` what `read_decisions`
    needs.
    """
    inputs = example.inputs or {}
    images = [name for name in inputs if shown_as(types.get(name)) == "picture"]
    texts = [name for name in inputs if shown_as(types.get(name)) == "text"]
    shown = next(iter([*images, *texts, *sorted(inputs)]), "text")
    data = {name: data_url(value) if name in images else value for name, value in inputs.items()}
    data |= {f"correction_{name}": getattr(example, name) for name in _DATA_FIELDS}
    predictions: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    if example.prediction is not None:
        result = [_choice(f"prediction-{example.id}", shown, example.prediction)]
        score = {} if example.confidence is None else {"score": example.confidence}
        predictions.append({"model_version": example.version, "result": result, **score})
    if example.label is not None:
        # Without its reviewer, who is in the data: Label Studio refuses names that are not its users'.
        result = [_choice(f"correction-{example.id}", shown, example.label)]
        annotations.append({"result": result, "ground_truth": True})
    return {"data": data, "predictions": predictions, "annotations": annotations}


def _choice(name: str, shown: str, label: Any) -> dict[str, Any]:
    value = {"choices": [scalar_text(label)]}
    return {"id": name, "type": "choices", "from_name": CHOICES, "to_name": shown, "value": value}


def data_url(value: Any) -> Any:
    """Return an image as a ``data:`` URL, and any other value as it is."""
    if isinstance(value, str):
        subtype = next((name for prefix, name in _IMAGE_PREFIXES.items() if value.startswith(prefix)), None)
        return f"data:image/{subtype};base64,{value}" if subtype else value
    pixels = _pixels(value)
    if pixels is None:
        return value
    from PIL import Image

    top = float(pixels.max(initial=0))
    white = next((level for level in _WHITE_LEVELS if top <= level), top)
    image = Image.fromarray(np.round(np.clip(pixels, 0, None) * (255 / white)).astype(np.uint8))
    factor = max(SHOWN_PIXELS // max(image.size), 1)
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _pixels(value: Any) -> np.ndarray[Any, Any] | None:
    """Return nested lists as an array of grey values, or of red, green and blue; None if they are not an image."""
    if not isinstance(value, list) or not are_numbers(value):
        return None
    grey = decode_image(value)  # None for ragged lists, and for values that are not numbers
    if grey is None:
        return None
    pixels = np.array(value, dtype=np.float64)
    return pixels[..., :3] if pixels.ndim == 3 and pixels.shape[2] in {3, 4} else grey


# --- import --------------------------------------------------------------------------------


class ImportedDecision(NamedTuple):
    """The annotators' decision on a correction, and the revision that they saw.

    ``keeps_label`` is set if their label is that of the correction.
    """

    correction_id: str
    revision: int
    label: Any
    keeps_label: bool
    reviewer: str


class SkippedTask(NamedTuple):
    """A task without a decision; ``reason`` is ``"foreign"``, ``"unlabelled"`` or ``"disagreed"``."""

    reason: str
    detail: str


class _Value(msgspec.Struct):
    choices: list[str] = []


class _Result(msgspec.Struct):
    type: str = ""
    from_name: str = ""
    value: _Value = msgspec.field(default_factory=_Value)


class _Annotation(msgspec.Struct):
    result: list[msgspec.Raw] = []
    completed_by: Any = None
    was_cancelled: bool = False
    ground_truth: bool = False

    @property
    def choice(self) -> str | None:
        """The annotation's label; None if it has none, or several."""
        for raw in self.result:
            try:
                result = msgspec.json.decode(raw, type=_Result)
            except msgspec.ValidationError:
                continue  # of a rectangle, or another tag
            if result.type == "choices" and result.from_name == CHOICES:
                return result.value.choices[0] if len(result.value.choices) == 1 else None
        return None

    @property
    def annotator(self) -> str:
        """The annotator's e-mail address, else the number."""
        user = self.completed_by
        if isinstance(user, dict):
            user = user.get("email") or user.get("id")
        return f"label-studio:{scalar_text(user) or 'unknown'}"[:200]


class _Data(msgspec.Struct):
    correction_id: str
    correction_revision: int
    correction_label: Label = None
    correction_prediction: Label = None


class _Task(msgspec.Struct):
    data: _Data
    annotations: list[_Annotation] = []


def read_decisions(export: bytes) -> Iterator[ImportedDecision | SkippedTask]:
    """Read the decisions from Label Studio's JSON export.

    Skipped tasks and cancelled annotations are ignored, and so is the annotation that was exported from here if there
    is another one.

    Parameters
    ----------
    export
        The file's content.

    Raises
    ------
    ExporterError
        When it is not such an export.
    """
    try:
        tasks = msgspec.json.decode(export, type=list[msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeError):
        raise ExporterError(
            "is not an export of Label Studio: expected a JSON array of tasks (its format JSON)"
        ) from None
    for number, raw in enumerate(tasks, 1):
        try:
            yield _decision(msgspec.json.decode(raw, type=_Task))
        except (msgspec.ValidationError, RecursionError) as error:
            yield SkippedTask("foreign", f"task {number}: is not from a dataset of this exporter: {error}")


def _decision(task: _Task) -> ImportedDecision | SkippedTask:
    data, name = task.data, f"correction {task.data.correction_id}"
    exported = "null" if data.correction_label is None else scalar_text(data.correction_label)
    annotations = [entry for entry in task.annotations if not entry.was_cancelled and entry.choice is not None]
    new = [entry for entry in annotations if not (entry.ground_truth and entry.choice == exported)]
    annotations = new or annotations
    choices = sorted({str(entry.choice) for entry in annotations})
    if not choices:
        return SkippedTask("unlabelled", name)
    if len(choices) > 1:
        opinions = [f"{entry.annotator.partition(':')[2]} says {json.dumps(entry.choice)}" for entry in annotations]
        return SkippedTask("disagreed", f"{name}: {', '.join(opinions)}")
    label, keeps_label = _typed(choices[0], data), choices[0] == exported
    return ImportedDecision(data.correction_id, data.correction_revision, label, keeps_label, annotations[-1].annotator)


def _typed(choice: str, data: _Data) -> Any:
    """Convert a choice, which is always text, to a label of the type of the model's predictions."""
    examples = [value for value in (data.correction_label, data.correction_prediction) if value is not None]
    for value in examples:
        if scalar_text(value) == choice:
            return value
    if examples and not any(isinstance(value, str) for value in examples):
        try:
            value = msgspec.json.decode(choice)
        except msgspec.DecodeError:
            return choice
        return value if isinstance(value, bool | int | float) else choice
    return choice


FORMATS: Mapping[str, Format] = {
    format_.name: format_
    for format_ in (
        Format("jsonl", "jsonl", "application/x-ndjson", _write_lines),
        Format("csv", "csv", "text/csv; charset=utf-8; header=present", _write_csv),
        Format("parquet", "parquet", "application/vnd.apache.parquet", _write_parquet),
        Format("label-studio", "json", "application/json", _write_tasks),
    )
}
"""By name."""
