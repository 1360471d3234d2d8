"""Label Studio: export examples as tasks, and import their annotations as decisions."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np

from exporter.datasets.examples import Example, Pages
from exporter.datasets.formats import Format
from exporter.errors import ExporterError
from exporter.features import shown_as
from exporter.features.base import scalar_text
from exporter.features.image import are_numbers, decode_image
from exporter.wire.events import Label

CHOICES = "label"
"""The ``name`` of the labelling configuration's ``Choices``."""
SHOWN_PIXELS = 128
"""Smaller images are enlarged without smoothing, so that people can see them."""
_WHITE_LEVELS = (1.0, 16.0, 255.0, 65535.0)
"""Possible values of white in an array of pixels; the lowest that is not exceeded is used."""
_IMAGE_PREFIXES = {"iVBORw0KGgo": "png", "/9j/": "jpeg", "UklGR": "webp"}
"""The first characters of image files in base64."""


_DATA_FIELDS = ("id", "revision", "label", "prediction", "reviewer", "model", "version", "prediction_id")
"""Fields of an example that a task has under ``correction_…``."""


# --- export -----------------------------------------------------------------------------------


def _write(pages: Pages, types: Mapping[str, str]) -> Iterator[bytes]:
    separator = b"["
    for page in pages():
        yield separator + b",\n".join(msgspec.json.encode(task(example, types)) for example in page)
        separator = b",\n"
    yield b"[]\n" if separator == b"[" else b"]\n"


FORMAT = Format("label-studio", "json", "application/json", _write)


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
