"""The card of a correction: its inputs for display, and the outliers among them."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np

from exporter.features.image import MAX_PIXELS, encoded_pixels
from exporter.features.lenient_json import decode_inputs
from exporter.monitoring.registry import MonitorRegistry
from exporter.server.api.correction_query import is_new
from exporter.server.pages.image_png import is_image
from exporter.server.pages.outliers import find_outliers
from exporter.server.pages.regression import difference, is_regression
from exporter.storage.review.corrections import WAITING_SECONDS

MAX_TEXT = 20_000
"""Characters of a text that a card shows."""
MAX_VALUE = 200
"""Characters of a value in a row, of a label and of a comment in the table."""
MAX_ROWS = 40
"""Inputs that a card shows, those with outliers first."""
LONG_TEXT = 60
"""Characters from which a value is shown as a text."""
PAGE_PIXELS = 4 * MAX_PIXELS
"""Pixels of image files that are decoded for a page; the inputs of further cards are not compared with training."""


@dataclass(frozen=True)
class Input:
    """An input for display: its name, its text (cut), why it is an outlier, and the full length of the text."""

    name: str
    text: str
    notes: tuple[str, ...] = ()
    length: int = 0


@dataclass(frozen=True)
class Card:
    """A correction and its inputs.

    Attributes
    ----------
    document
        The JSON document of the correction.
    images, texts, values
        Its inputs.
    hidden
        The number of further inputs.
    redacted
        Names of inputs that are never stored.
    label, prediction
        For display, cut.
    difference
        How far the label of a regression is from the prediction; empty for classes.
    decidable
        Whether it can be decided: it can if its prediction is known, or it describes one and waited long enough.
    new
        Whether the label is not among the training predictions.
    label_type
        The JSON type of the model's labels.
    compared
        Whether its inputs were compared with the training data, if there are any.
    """

    document: Mapping[str, Any]
    label: str
    prediction: str
    difference: str
    label_type: str
    decidable: bool
    new: bool
    images: list[Input]
    texts: list[Input]
    values: list[Input]
    hidden: int
    redacted: list[str]
    compared: bool = True

    @property
    def confirmed(self) -> bool:
        """Whether it is not a correction: the user says that a prediction which is not known is right."""
        return bool(self.document["verdict"] == "accepted" and not self.document["joined"])

    @property
    def outliers(self) -> list[Input]:
        """The inputs that are rare in the training data."""
        return [item for item in (*self.images, *self.texts, *self.values) if item.notes]


def cards(documents: Sequence[Mapping[str, Any]], monitors: MonitorRegistry) -> list[Card]:
    """Return the cards of a page of corrections, each compared with the training data of its version."""
    inputs = [decode_document_inputs(document["inputs"]) for document in documents]
    binners = [monitors.binner(document["model"], document["version"]) for document in documents]
    pixels = itertools.accumulate(sum(map(encoded_pixels, row.values())) for row in inputs)
    compared = [total <= PAGE_PIXELS for total in pixels]
    outliers: list[dict[str, list[str]]] = [{} for _ in documents]
    for binner in dict.fromkeys(filter(None, binners)):
        indexes = [
            index for index, other in enumerate(binners) if other is binner and inputs[index] and compared[index]
        ]
        times = np.array([unix_time(documents[index]["predicted"]) for index in indexes])
        notes = find_outliers(binner, [inputs[index] for index in indexes], times)
        for index, item in zip(indexes, notes, strict=True):
            outliers[index] = item
    return [_card(*row, monitors) for row in zip(documents, inputs, outliers, compared, strict=True)]


def _card(
    document: Mapping[str, Any],
    inputs: Mapping[str, Any],
    outliers: Mapping[str, list[str]],
    compared: bool,
    monitors: MonitorRegistry,
) -> Card:
    model, version = document["model"], document["version"]
    settings, binner = monitors.models.get(model), monitors.nearest_binner(model, version)
    redact = settings.redact if settings else frozenset()
    types: dict[str, str] = (
        {name: feature.type for name, feature in settings.features.items() if feature.type} if settings else {}
    )
    if binner:
        types |= binner.profile.inputs
    names = [*inputs, *(name for name in outliers if name not in inputs)]
    images, texts, values = [], [], []
    for name in sorted(names, key=lambda name: name not in outliers):
        value, notes, input_type = inputs.get(name), tuple(outliers.get(name, ())), types.get(name)
        if _shows_image(value, input_type, notes):
            images.append(Input(name, "", notes))
        elif isinstance(value, str) and (input_type == "text" or len(value) > LONG_TEXT):
            texts.append(Input(name, value[:MAX_TEXT], notes, len(value)))
        else:
            values.append(Input(name, _format_value(value), notes))
    lacks_prediction = document["prediction"] is None
    label = document["label"] if lacks_prediction else document["prediction"]
    has_error = settings is not None and is_regression(settings, binner, [document["prediction"]])
    return Card(
        document=document,
        label=abbreviate(document["label"]),
        prediction="unknown" if lacks_prediction and not document["joined"] else abbreviate(document["prediction"]),
        difference=difference(document["prediction"], document["label"]) if has_error else "",
        label_type=json_type(label),
        decidable=document["joined"] or _is_ready(document),
        new=is_new(monitors.binner(model, version), document["label"]),
        images=images,
        texts=texts,
        values=values[:MAX_ROWS],
        hidden=max(len(values) - MAX_ROWS, 0),
        redacted=sorted(redact & binner.profile.inputs.keys() if binner else redact),
        compared=compared,
    )


def _is_ready(document: Mapping[str, Any]) -> bool:
    has_waited = time.time() - unix_time(document["created"]) > WAITING_SECONDS
    return document["verdict"] == "corrected" and document["version"] is not None and has_waited


def _shows_image(value: Any, input_type: str | None, notes: tuple[str, ...]) -> bool:
    if input_type is None:
        return is_image(value)
    return input_type == "image" and value is not None and "not an image" not in notes


def abbreviate(value: Any, limit: int = MAX_VALUE) -> str:
    """Format a value for display, cut to ``limit`` characters: a text unchanged, any other value as JSON.

    >>> abbreviate("7"), abbreviate(7), abbreviate(True), abbreviate(None), abbreviate("x" * 300, 4)
    ('7', '7', 'true', 'none', 'xxxx… (300 characters)')
    """
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


def _format_value(value: Any) -> str:
    """Format the value of an input, numbers with at most six digits."""
    if isinstance(value, float):
        return f"{value:.6g}" if len(repr(value)) > 10 else repr(value).removesuffix(".0")
    return "–" if value is None else abbreviate(value)


def json_type(value: Any) -> str:
    """Return the JSON type of a label: ``boolean``, ``number`` or ``string``."""
    return "boolean" if isinstance(value, bool) else "number" if isinstance(value, int | float) else "string"


def parse_label(text: str, label_type: str) -> str | int | float | bool:
    """Convert a typed label to the type of the model's labels; a text of another form stays a text.

    >>> parse_label("7", "string"), parse_label("7", "number"), parse_label("true", "boolean")
    ('7', 7, True)
    >>> parse_label("seven", "number"), parse_label("NaN", "number")
    ('seven', 'NaN')
    """
    if label_type == "boolean" and text in {"true", "false"}:
        return text == "true"
    if label_type == "number":
        try:
            number = msgspec.json.decode(text, type=int | float)
        except (msgspec.MsgspecError, UnicodeError):
            return text
        return number
    return text


def decode_document_inputs(inputs: Any) -> dict[str, Any]:
    """Decode the inputs in the document of a correction."""
    return decode_inputs([bytes(memoryview(inputs))]).get(0, {}) if inputs else {}


def unix_time(time: str | None) -> float:
    """Return the Unix time of a time in a document; without one, the current time."""
    return (datetime.fromisoformat(time) if time else datetime.now(UTC)).timestamp()
