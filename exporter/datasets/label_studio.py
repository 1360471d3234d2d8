"""Label Studio: examples as tasks to import there, and annotations as they come back."""

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
from exporter.events import Label
from exporter.features.extract import scalar_text
from exporter.features.image import are_numbers, decode_image

CHOICES = "label"
"""The ``name`` of the labelling configuration's ``Choices``."""
SHOWN_PIXELS = 128
"""A smaller image is enlarged, its pixels crisp: people look at it."""
_SCALES = (1.0, 16.0, 255.0, 65535.0)
"""What white may be in an array of pixels; the least that fits."""
_SHAPES = {"iVBORw0KGgo": "png", "/9j/": "jpeg", "UklGR": "webp"}
"""How base64 of image files begins."""


# --- there -----------------------------------------------------------------------------------


def _write(pages: Pages, types: Mapping[str, str]) -> Iterator[bytes]:
    before = b"["
    for page in pages():
        yield before + b",\n".join(msgspec.json.encode(task(one, types)) for one in page)
        before = b",\n"
    yield b"[]\n" if before == b"[" else b"]\n"


FORMAT = Format("label-studio", "json", "application/json", _write)


def task(one: Example, types: Mapping[str, str]) -> dict[str, Any]:
    """An example as a task.

    Its ``data`` has each input by its name, images as ``data:`` URLs, and under ``correction_…`` what
    `read_decisions` needs to know when it comes back.
    """
    inputs = one.inputs or {}
    images = [name for name in inputs if types.get(name) == "image"]
    texts = [name for name in inputs if types.get(name) == "text"]
    shown = next(iter([*images, *texts, *sorted(inputs)]), "text")
    data = {name: data_url(value) if name in images else value for name, value in inputs.items()}
    data |= {f"correction_{name}": getattr(one, name) for name in ("id", "revision", "label", "prediction", "reviewer")}
    data |= {f"correction_{name}": getattr(one, name) for name in ("model", "version", "prediction_id")}
    found: dict[str, Any] = {"data": data, "predictions": [], "annotations": []}
    if one.prediction is not None:
        guess = {"model_version": one.version, "result": [_choice(f"prediction-{one.id}", shown, one.prediction)]}
        found["predictions"].append(guess | ({} if one.confidence is None else {"score": one.confidence}))
    if one.label is not None:
        # Whose it is stands in the data: Label Studio refuses names that are not its users'.
        found["annotations"].append(
            {"result": [_choice(f"correction-{one.id}", shown, one.label)], "ground_truth": True}
        )
    return found


def _choice(name: str, shown: str, label: Any) -> dict[str, Any]:
    value = {"choices": [scalar_text(label)]}
    return {"id": name, "type": "choices", "from_name": CHOICES, "to_name": shown, "value": value}


def data_url(value: Any) -> Any:
    """An image as a ``data:`` URL; what is none stays as it is."""
    if isinstance(value, str):
        kind = next((kind for start, kind in _SHAPES.items() if value.startswith(start)), None)
        return f"data:image/{kind};base64,{value}" if kind else value
    pixels = _pixels(value)
    if pixels is None:
        return value
    from PIL import Image

    top = float(pixels.max(initial=0))
    white = next((scale for scale in _SCALES if top <= scale), top)
    image = Image.fromarray(np.round(np.clip(pixels, 0, None) * (255 / white)).astype(np.uint8))
    times = max(SHOWN_PIXELS // max(image.size), 1)
    image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _pixels(value: Any) -> np.ndarray[Any, Any] | None:
    """Grey values, or red, green and blue, of nested lists."""
    if not isinstance(value, list) or not are_numbers(value):
        return None
    grey = decode_image(value)  # refuses what is ragged, or no number
    if grey is None:
        return None
    whole = np.array(value, dtype=np.float64)
    return whole[..., :3] if whole.ndim == 3 and whole.shape[2] in {3, 4} else grey


# --- and back --------------------------------------------------------------------------------


class ImportedDecision(NamedTuple):
    """What annotators say of a correction, on the revision that they saw."""

    correction: str
    revision: int
    label: Any
    known: bool
    reviewer: str


class SkippedTask(NamedTuple):
    """A task from which nothing is taken; ``why`` is ``"foreign"``, ``"unlabelled"`` or ``"disagreed"``."""

    why: str
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
        """The one answer of this annotation."""
        for raw in self.result:
            try:
                found = msgspec.json.decode(raw, type=_Result)
            except msgspec.ValidationError:
                continue  # of a rectangle, or another tag
            if found.type == "choices" and found.from_name == CHOICES:
                return found.value.choices[0] if len(found.value.choices) == 1 else None
        return None

    @property
    def by(self) -> str:
        """Who made it: the e-mail address where it is there, else the number."""
        who = self.completed_by
        if isinstance(who, dict):
            who = who.get("email") or who.get("id")
        return f"label-studio:{scalar_text(who) or 'unknown'}"[:200]


class _Data(msgspec.Struct):
    correction_id: str
    correction_revision: int
    correction_label: Label = None
    correction_prediction: Label = None


class _Task(msgspec.Struct):
    data: _Data
    annotations: list[_Annotation] = []


def read_decisions(export: bytes) -> Iterator[ImportedDecision | SkippedTask]:
    """What Label Studio's JSON export says.

    Skipped tasks and cancelled annotations say nothing. The annotation that was exported from here
    says nothing beside another one.

    Parameters
    ----------
    export
        The file.

    Raises
    ------
    ExporterError
        When it is no such export.
    """
    try:
        tasks = msgspec.json.decode(export, type=list[msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeError):
        raise ExporterError("is no export of Label Studio: expected a JSON array of tasks (its format JSON)") from None
    for number, raw in enumerate(tasks, 1):
        try:
            yield _decision(msgspec.json.decode(raw, type=_Task))
        except (msgspec.ValidationError, RecursionError) as error:
            yield SkippedTask("foreign", f"task {number}: is not from a dataset of this exporter: {error}")


def _decision(found: _Task) -> ImportedDecision | SkippedTask:
    data, where = found.data, f"correction {found.data.correction_id}"
    said = [one for one in found.annotations if not one.was_cancelled and one.choice is not None]
    own = "null" if data.correction_label is None else scalar_text(data.correction_label)
    said = [one for one in said if not (one.ground_truth and one.choice == own)] or said
    choices = sorted({str(one.choice) for one in said})
    if not choices:
        return SkippedTask("unlabelled", where)
    if len(choices) > 1:
        told = ", ".join(f"{one.by.partition(':')[2]} says {json.dumps(one.choice)}" for one in said)
        return SkippedTask("disagreed", f"{where}: {told}")
    label = _typed(choices[0], data)
    same = choices[0] == own
    return ImportedDecision(data.correction_id, data.correction_revision, label, same, said[-1].by)


def _typed(choice: str, data: _Data) -> Any:
    """A choice, which is always text, as the label that it was: of the type of the model's answers."""
    known = [value for value in (data.correction_label, data.correction_prediction) if value is not None]
    for value in known:
        if scalar_text(value) == choice:
            return value
    if known and not any(isinstance(value, str) for value in known):
        try:
            value = msgspec.json.decode(choice)
        except msgspec.DecodeError:
            return choice
        return value if isinstance(value, bool | int | float) else choice
    return choice
