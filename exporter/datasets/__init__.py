"""Examples of a dataset, and its formats: JSON lines, CSV, Parquet, and Label Studio's tasks and annotations."""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import json
import logging
import math
import operator
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from xml.sax.saxutils import quoteattr

import msgspec
import numpy as np

from exporter.errors import ExporterError, StoreError
from exporter.features import shown_as
from exporter.features.base import decode_label, scalar_text
from exporter.features.image import decode_image
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


class Scorer(Protocol):
    """Knows what a model predicts; see `exporter.monitoring.quality.Scorer`."""

    classes: Sequence[str]

    def is_number(self, prediction: Any) -> bool:
        """Return whether a prediction is a number, and not a class; of a regression, whatever it is."""


class Format(NamedTuple):
    """A format in which a dataset is written.

    Attributes
    ----------
    name
        The value of ``format=``.
    suffix
        The suffix of a file's name.
    write
        Takes the examples, the known types of the model's inputs, and what compares its predictions with labels;
        yields the file in pieces.
    """

    name: str
    suffix: str
    content_type: str
    write: Callable[[Pages, Mapping[str, str], Scorer], Iterator[bytes]]


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
    return msgspec.json.encode(value).decode() if isinstance(value, bool | list | dict) else value


def _write_csv(pages: Pages, types: Mapping[str, str], _: Scorer) -> Iterator[bytes]:
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


_Column = tuple[str, Callable[[Example], Any]]


def _columns(inputs: Columns, input_types: _Types, label_type: str) -> dict[str, _Column]:
    """Return the type of each column of the file, and the function that returns its value of an example."""
    field_types = dict.fromkeys(FIELDS, "str") | {"confidence": "float", "revision": "int", "weight": "float"}
    field_types |= dict.fromkeys(_LABELS, label_type) | dict.fromkeys(_TIMES, "time")
    columns: dict[str, _Column] = {name: (type_, operator.attrgetter(name)) for name, type_ in field_types.items()}
    columns |= {f"inputs.{name}": (input_types.infer(name), partial(_input, name)) for name in inputs.names}
    if inputs.more:
        columns[OTHER] = ("json", lambda example: inputs.rest(example.inputs or {}))
    return columns


def _input(name: str, example: Example) -> Any:
    return (example.inputs or {}).get(name)


def _write_parquet(pages: Pages, types: Mapping[str, str], _: Scorer) -> Iterator[bytes]:
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
    arrow = {"str": pa.string(), "json": pa.string(), "bool": pa.bool_(), "int": pa.int64(), "float": pa.float64()}
    arrow["time"] = pa.timestamp("us", "UTC")
    contents = {"json": {"content": "application/json"}}
    schema = pa.schema(
        [pa.field(name, arrow[type_], metadata=contents.get(type_)) for name, (type_, _) in columns.items()]
    )

    def table(page: Page) -> Any:
        for example in page if not inputs.more else ():
            inputs.rest(example.inputs or {})  # fails if there are inputs that the first pass did not find
        arrays = [
            pa.array([_convert(value(example), type_) for example in page], arrow[type_])
            for type_, value in columns.values()
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


ANSWER, TABLE = "label", "inputs"
"""Names in the labelling configuration: of what annotators answer, and of the table of inputs, which every task has."""
MAX_CHOICES = 1000
"""Labels to choose from, at most."""
CORRECTED = "correction"
"""The ``model_version`` of the current label, which Label Studio shows to annotators first."""
_TAGS = {"picture": "Image", "text": "Text"}
SHOWN_PIXELS = 128
"""Smaller images are enlarged without smoothing, so that people can see them."""
_WHITE_LEVELS = (1.0, 16.0, 255.0, 65535.0)
"""Possible values of white in an array of pixels; the lowest that is not exceeded is used."""
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_IMAGE_PREFIXES = {"iVBORw0KGgo": "png", "/9j/": "jpeg", "UklGR": "webp"}
"""The first characters of image files in base64."""


_DATA_FIELDS = (
    "id", "revision", "label", "prediction", "reviewer", "model", "version", "prediction_id", "source", "weight"
)  # fmt: skip
"""Fields of an example that a task has under ``correction_…``."""


# --- export -----------------------------------------------------------------------------------


def _write_tasks(pages: Pages, types: Mapping[str, str], scorer: Scorer) -> Iterator[bytes]:
    separator = b"["
    for page in pages():
        yield separator + b",\n".join(msgspec.json.encode(task(example, types, scorer)) for example in page)
        separator = b",\n"
    yield b"[]\n" if separator == b"[" else b"]\n"


def task(example: Example, types: Mapping[str, str], scorer: Scorer) -> dict[str, Any]:
    """Return an example as a task that waits for an annotator.

    Its ``data`` has all that the labelling configuration shows, also where an input is missing: Label Studio refuses
    a file with one task that has less. Members ``correction_…`` are what `read_decisions` needs.
    """
    inputs, shown = dict(example.inputs or {}), {}
    for key, name, tag in _shown(types):
        value = data_url(inputs.get(name)) if tag == "Image" else inputs.get(name)
        if isinstance(value, str) and (tag == "Text" or value.startswith("data:")):
            shown[key] = value
            del inputs[name]
        else:
            shown[key] = data_url([[1]]) if tag == "Image" else ""
    table = {
        name: value if isinstance(value, str) else _encoder.encode(value).decode() for name, value in inputs.items()
    }
    data = {**inputs, **shown, TABLE: table, **{f"correction_{name}": getattr(example, name) for name in _DATA_FIELDS}}
    opinions = (example.version, example.prediction, example.confidence), (CORRECTED, example.label, 1.0)  # a person's
    predictions: list[dict[str, Any]] = []
    for version, label, score in opinions:
        if value := _answer(label, scorer.is_number(example.prediction)):
            result = {"id": f"{example.id}-{len(predictions)}", "type": next(iter(value)), "value": value}
            result |= {"from_name": ANSWER, "to_name": TABLE}
            predictions.append({"model_version": version, "score": score, "result": [result]})
    return {"data": data, "predictions": predictions, "annotations": []}


def _shown(types: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield the pictures and texts of the profile: the key in a task's data, the input's name, and the tag."""
    for number, (name, type_name) in enumerate(types.items()):
        if tag := _TAGS.get(shown_as(type_name)):
            is_key = re.fullmatch("[A-Za-z]\\w*", name, re.ASCII) and name not in {ANSWER, TABLE}
            yield name if is_key else f"input_{number}", name, tag


def _answer(label: Any, is_number: bool) -> dict[str, Any] | None:
    """Return a label as Label Studio has it: a number, or one of the choices; None for what is neither."""
    if not is_number:
        return None if label is None else {"choices": [scalar_text(label)]}
    try:
        number = float("nan" if label is None else label)
    except ValueError:
        return None
    return {"number": number} if math.isfinite(number) else None


def _write_config(pages: Pages, types: Mapping[str, str], scorer: Scorer) -> Iterator[bytes]:
    """Write the labelling configuration: what is asked, with the labels of training and of the examples, and inputs."""
    labels, is_number = dict.fromkeys(scorer.classes), scorer.is_number(None)
    for page in pages():
        for example in page:
            is_number = is_number or scorer.is_number(example.prediction)
            known = (label for label in (example.prediction, example.label) if label is not None)
            labels |= dict.fromkeys(map(scalar_text, known)) if len(labels) < MAX_CHOICES else {}
    lines = [f'<Number name="{ANSWER}" toName="{TABLE}" required="true"/>']
    if not is_number:
        choices = (f"  <Choice value={quoteattr(text)}/>" for text in sorted(labels) if not _NOT_XML.search(text))
        start = f'<Choices name="{ANSWER}" toName="{TABLE}" choice="single" required="true" showInline="true">'
        lines = [start, *choices, "</Choices>"]
    lines.append(f'<Table name="{TABLE}" value="${TABLE}"/>')
    for key, name, tag in _shown(types):
        size = ' maxWidth="400px"' if tag == "Image" else ""
        lines += [f"<Header value={quoteattr(name)}/>", f'<{tag} name="{key}" value="${key}"{size}/>']
    yield "".join(f"{line}\n" for line in ("<View>", *(f"  {line}" for line in lines), "</View>")).encode()


def data_url(value: Any) -> Any:
    """Return an image as a ``data:`` URL, and any other value as it is."""
    if isinstance(value, str):
        subtype = next((name for prefix, name in _IMAGE_PREFIXES.items() if value.startswith(prefix)), None)
        return f"data:image/{subtype};base64,{value}" if subtype else value
    grey = decode_image(value) if isinstance(value, list) else None  # None for what is not an image
    if grey is None:
        return value
    pixels = np.array(value, dtype=np.float64)
    pixels = pixels[..., :3] if pixels.ndim == 3 and pixels.shape[2] in {3, 4} else grey
    from PIL import Image

    top = float(pixels.max(initial=0))
    white = next((level for level in _WHITE_LEVELS if top <= level), top)
    image = Image.fromarray(np.round(np.clip(pixels, 0, None) * (255 / white)).astype(np.uint8))
    factor = max(SHOWN_PIXELS // max(image.size), 1)
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


# --- import --------------------------------------------------------------------------------


class ImportedDecision(NamedTuple):
    """The annotators' decision on a correction, the revision that they saw, and the task for messages."""

    correction_id: str
    revision: int
    label: Any
    reviewer: str
    task: str


class SkippedTask(NamedTuple):
    """A task without a decision; ``reason`` is ``"foreign"``, ``"unlabelled"``, ``"unclear"`` or ``"disagreed"``."""

    reason: str
    detail: str


class _Result(msgspec.Struct):
    type: str = ""
    from_name: str = ""
    value: Any = None


class _Annotation(msgspec.Struct):
    result: list[_Result] = []
    completed_by: Any = None
    updated_by: Any = None
    was_cancelled: bool = False
    ground_truth: bool = False

    @property
    def answers(self) -> list[Any]:
        """What the annotator chose, wrote or entered as the label."""
        answers: list[Any] = []
        for result in self.result:
            if result.from_name == ANSWER and isinstance(result.value, dict):
                answer = result.value.get("text" if result.type == "textarea" else result.type)
                answers += answer if isinstance(answer, list) else [answer]
        return answers

    @property
    def annotator(self) -> str:
        """Who changed the annotation last: the e-mail address, else the number."""
        user = self.updated_by or self.completed_by
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
    id: int | str = ""
    annotations: list[_Annotation] = []


def read_decisions(export: bytes) -> Iterator[ImportedDecision | SkippedTask]:
    """Read the decisions from Label Studio's JSON export.

    Skipped tasks and cancelled annotations are ignored. If an annotation is marked as ground truth, it decides alone.

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
            decoded = msgspec.json.decode(raw, type=_Task)
        except (msgspec.ValidationError, RecursionError) as error:
            if b'"annotation_id"' in bytes(raw) and b'"data"' not in bytes(raw):
                raise ExporterError("is in Label Studio's format JSON_MIN: export the project as JSON") from None
            yield SkippedTask("foreign", f"task {number}: is not from a dataset of this exporter: {error}")
        else:
            yield _decision(decoded, f"task {decoded.id or number}, correction {decoded.data.correction_id}")


def _decision(task: _Task, name: str) -> ImportedDecision | SkippedTask:
    annotations = [entry for entry in task.annotations if not entry.was_cancelled and entry.result]
    annotations = [entry for entry in annotations if entry.ground_truth] or annotations
    labels: dict[str, Any] = {}
    opinions = []
    for entry in annotations:
        said = ", ".join(map(json.dumps, entry.answers)) or "nothing"
        opinions.append(f"{entry.annotator.partition(':')[2]} says {said}")
        try:
            label = _typed(entry.answers, task.data)
        except ValueError as error:
            return SkippedTask("unclear", f"{name}: {opinions[-1]}: {error}")
        labels[scalar_text(label)] = label
    if not labels:
        return SkippedTask("unlabelled", name)
    if len(labels) > 1:
        return SkippedTask("disagreed", f"{name}: {', '.join(opinions)}")
    (label,) = labels.values()
    data = task.data
    return ImportedDecision(data.correction_id, data.correction_revision, label, annotations[-1].annotator, name)


def _typed(answers: Sequence[Any], data: _Data) -> Any:
    """Convert the answer of an annotation, which may be text, to a label of the type of the model's predictions.

    Raises
    ------
    ValueError
        When there is not one, or it cannot be converted.
    """
    if len(answers) != 1:
        raise ValueError("expected one answer" if answers else f'expected an answer named "{ANSWER}"')
    examples = [value for value in (data.correction_label, data.correction_prediction) if value is not None]
    text = scalar_text(answers[0])
    for value in examples:
        if scalar_text(value) == text:
            return value
    if not examples or any(isinstance(value, str) for value in examples):
        return text
    is_bool = isinstance(examples[0], bool)
    with contextlib.suppress(msgspec.DecodeError):
        if type(value := msgspec.json.decode(text)) in ({bool} if is_bool else {int, float}):
            return value
    raise ValueError(f"expected {'true or false' if is_bool else 'a number such as 7'}, as the model predicts")


FORMATS: Mapping[str, Format] = {
    format_.name: format_
    for format_ in (
        Format("jsonl", "jsonl", "application/x-ndjson", lambda pages, *_: map(encode_lines, pages())),
        Format("csv", "csv", "text/csv; charset=utf-8; header=present", _write_csv),
        Format("parquet", "parquet", "application/vnd.apache.parquet", _write_parquet),
        Format("label-studio", "json", "application/json", _write_tasks),
        Format("label-studio-config", "xml", "application/xml", _write_config),
    )
}
"""By name."""
