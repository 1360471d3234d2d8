"""A correction as its card shows it: inputs as a person sees them, and what is unusual in them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from exporter.features.lenient_json import decode_inputs
from exporter.monitoring.registry import MonitorRegistry
from exporter.server.api.correction_query import is_new
from exporter.server.pages.image_png import is_image
from exporter.server.pages.outliers import unusual

LONGEST = 20_000
"""Characters of a text that a card shows."""
BRIEF = 200
"""Characters of a value in a row, of a label and of a comment in the table."""
ROWS = 40
"""Inputs that a card shows, the unusual ones first."""
LONG_TEXT = 60


@dataclass(frozen=True)
class Input:
    """One input: its name, its text (cut), what is unusual in it, and how long the text is."""

    name: str
    text: str
    notes: tuple[str, ...] = ()
    length: int = 0


@dataclass(frozen=True)
class Card:
    """A correction and its inputs.

    Attributes
    ----------
    known
        The correction's JSON document.
    images, texts, values
        Its inputs.
    hidden
        How many further inputs there are.
    redacted
        Names of inputs that are never stored.
    label, prediction
        As a person reads them, cut.
    new
        Whether training never saw the label.
    like
        The JSON type of the model's labels.
    """

    known: Mapping[str, Any]
    label: str
    prediction: str
    like: str
    new: bool
    images: list[Input]
    texts: list[Input]
    values: list[Input]
    hidden: int
    redacted: list[str]

    @property
    def unusual(self) -> list[Input]:
        """The inputs that training hardly saw."""
        return [one for one in (*self.images, *self.texts, *self.values) if one.notes]


def cards(documents: Sequence[Mapping[str, Any]], monitors: MonitorRegistry) -> list[Card]:
    """The cards of a page of corrections, each beside the training of its version."""
    inputs = [decoded(document["inputs"]) for document in documents]
    binners = [monitors.binner(document["model"], document["version"]) for document in documents]
    marks: list[dict[str, list[str]]] = [{} for _ in documents]
    for binner in dict.fromkeys(filter(None, binners)):
        mine = [place for place, own in enumerate(binners) if own is binner and inputs[place]]
        times = np.array([seconds(documents[place]["predicted"]) for place in mine])
        for place, said in zip(mine, unusual(binner, [inputs[place] for place in mine], times), strict=True):
            marks[place] = said
    return [
        _card(document, values, said, monitors) for document, values, said in zip(documents, inputs, marks, strict=True)
    ]


def _card(
    document: Mapping[str, Any], inputs: Mapping[str, Any], marks: Mapping[str, list[str]], monitors: MonitorRegistry
) -> Card:
    of = document["model"], document["version"]
    model, binner = monitors.models.get(of[0]), monitors.nearest_binner(*of)
    redact = model.redact if model else frozenset()
    types: dict[str, str] = (
        {name: settings.type for name, settings in model.features.items() if settings.type} if model else {}
    )
    if binner:
        types |= binner.profile.inputs
    absent = [name for name in marks if name not in inputs]
    images, texts, values = [], [], []
    for name in sorted([name for name in inputs if name not in redact] + absent, key=lambda name: name not in marks):
        value, notes = inputs.get(name), tuple(marks.get(name, ()))
        kind = types.get(name)
        if (kind == "image" and value is not None and "not an image" not in notes) or (
            kind is None and is_image(value)
        ):
            images.append(Input(name, "", notes))
        elif isinstance(value, str) and (kind == "text" or len(value) > LONG_TEXT):
            texts.append(Input(name, value[:LONGEST], notes, len(value)))
        else:
            values.append(Input(name, _plain(value), notes))
    return Card(
        known=document,
        label=brief(document["label"]),
        prediction=brief(document["prediction"]),
        like=like(document["label"] if document["prediction"] is None else document["prediction"]),
        new=is_new(monitors.binner(*of), document["label"]),
        images=images,
        texts=texts,
        values=values[:ROWS],
        hidden=max(len(values) - ROWS, 0),
        redacted=sorted(redact & binner.profile.inputs.keys() if binner else redact),
    )


def brief(value: Any, limit: int = BRIEF) -> str:
    """A value as a person reads it, cut: a text as it stands, all else as JSON.

    >>> brief("7"), brief(7), brief(True), brief(None), brief("x" * 300, 4)
    ('7', '7', 'true', 'none', 'xxxx… (300 characters)')
    """
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


def _plain(value: Any) -> str:
    """An input's value in a row; more digits than six tell a person nothing."""
    if isinstance(value, float):
        return f"{value:.6g}" if len(repr(value)) > 10 else repr(value).removesuffix(".0")
    return "–" if value is None else brief(value)


def like(value: Any) -> str:
    """The JSON type of a label: ``boolean``, ``number`` or ``string``."""
    return "boolean" if isinstance(value, bool) else "number" if isinstance(value, int | float) else "string"


def typed(text: str, kind: str) -> str | int | float | bool:
    """A label that somebody typed, of the type that the model's labels have if it can be read as one.

    >>> typed("7", "string"), typed("7", "number"), typed("true", "boolean"), typed("seven", "number")
    ('7', 7, True, 'seven')
    """
    if kind == "boolean" and text in {"true", "false"}:
        return text == "true"
    if kind == "number":
        try:
            number = json.loads(text)
        except ValueError:
            return text
        if isinstance(number, int | float) and not isinstance(number, bool):
            return number
    return text


def decoded(inputs: Any) -> dict[str, Any]:
    """The inputs of a correction's document."""
    return decode_inputs([bytes(memoryview(inputs))]).get(0, {}) if inputs else {}


def seconds(moment: str | None) -> float:
    """Unix time of a document's moment; the present for none."""
    return (datetime.fromisoformat(moment) if moment else datetime.now(UTC)).timestamp()
