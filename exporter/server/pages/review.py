"""The review page: users' corrections, and the forms that decide them."""

from __future__ import annotations

import itertools
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec
import numpy as np
from flask import Response, abort, g, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as WerkzeugResponse

from exporter.config import sampled_share
from exporter.errors import EventError, StoreError
from exporter.features import shown_as
from exporter.features.base import label_json, scalar_text
from exporter.features.image import MAX_PIXELS, encoded_pixels
from exporter.features.json_inputs import decode_inputs
from exporter.monitoring.counters import Segments
from exporter.monitoring.registry import MonitorRegistry
from exporter.profiles.profile import CategoricalFeature
from exporter.server.api.corrections import encode_cursor, is_new
from exporter.server.api.parameters import MAX_ID, MAX_LIMIT
from exporter.server.application import Exporter
from exporter.server.pages import review_charts
from exporter.server.pages.review_filters import (
    PAGE_SIZE,
    ReviewQuery,
    active_filters,
    format_time,
    parameters,
    parse_review_query,
)
from exporter.server.pages.slices import slices_parameters
from exporter.server.pages.values import difference, find_outliers, is_image, is_regression, png
from exporter.server.problem import store_problem
from exporter.server.text import abbreviate, ago
from exporter.stats.quality import IntervalEstimate
from exporter.storage import STATUSES, WAITING_SECONDS, AccuracyCounts, Decision, Draw

MAX_SUGGESTIONS = 1000
"""Labels that the page suggests in a field."""
MAX_LABEL = 200
"""Characters of a suggested label."""
_YEAR = 365 * 86400
_Page = tuple[str, int]


def page(exporter: Exporter) -> _Page | WerkzeugResponse:
    """``GET /review``: the review page."""
    args = parameters(request.args)
    if any(not value.strip() for value in args.values()):  # forms also send empty fields
        return redirect(_address({name: value for name, value in args.items() if value.strip()}))
    return _render(exporter, args)


def decide(exporter: Exporter) -> _Page | WerkzeugResponse:
    """``POST /review/decide``: decide a correction from the review page's form, and return to it."""
    form = request.form
    back = dict(parse_qsl(form.get("back", "")))
    correction_id, revision, status = form.get("id", ""), form.get("revision", ""), form.get("status", "")
    if not (_is_number(correction_id) and _is_number(revision) and status in STATUSES):
        abort(400, "expected id and revision as numbers, and status as one of accepted, pending and rejected")
    text, label_type = form.get("label", "").strip(), form.get("label_type", "string")
    label = label_json(parse_label(text, label_type)) if text and status == "accepted" else None
    decision = Decision(status, label, int(revision), g.user)
    batch = [(int(correction_id), decision)]
    (outcome,) = exporter.store.review.decide(batch, exporter.redacted, len(text))
    stored, document = outcome
    if stored:
        return redirect(_address(back), 303)
    if outcome.lacks_label(decision):
        return _render(exporter, back, ["Give the correct label to accept a correction without one."], 400)
    if not document:
        return _render(exporter, back, [f"There is no correction {correction_id}."], 404)
    if document["status"] == "pending":
        return _render(exporter, back, ["The correction has changed, and is pending again."], 409)
    reviewer = document["reviewer"] or "Another reviewer"
    return _render(exporter, back, [f"{reviewer} decided first: it is {document['status']} now."], 409)


def draw_sample(exporter: Exporter) -> _Page | WerkzeugResponse:
    """``POST /review/samples``: draw a sample from the review page's form, and show it."""
    model, version, count = (request.form.get(name, "").strip() for name in ("model", "version", "count"))
    if model not in exporter.pipeline.monitors.models or not (_is_number(count) and 1 <= int(count) <= MAX_LIMIT):
        abort(400, f"expected model as one that is configured, and count as a number from 1 to {MAX_LIMIT}")
    draw = Draw(model, version or None, sampled_share(exporter.config.store.inputs) is not None)
    drawn = exporter.store.review.draw(draw, int(count), g.user, exporter.feedback_inputs)
    back = {"model": model, "source": "sample"} | ({"version": version} if version else {})
    if not drawn:
        return _render(exporter, back, ["No sample was drawn: there are no confident predictions without feedback."])
    return redirect(_address(back), 303)


def image(exporter: Exporter, correction_id: int, name: str) -> WerkzeugResponse:
    """``GET /v1/corrections/<id>/inputs/<name>.png``: return an image input as PNG."""
    review, redacted = exporter.store.review, exporter.redacted
    document = review.find(correction_id, redacted) if correction_id <= MAX_ID else None
    if document is None:
        abort(404, f"there is no correction {correction_id}")
    monitors = exporter.pipeline.monitors
    inputs = decode_document_inputs(document["inputs"])
    binner = monitors.nearest_binner(document["model"], document["version"])
    value = inputs.get(name)
    file = None if value is None else png(value, name, binner.profile if binner else None)
    if file is None:
        abort(404, f"correction {correction_id} has no image {name}")
    response = Response(file, content_type="image/png")
    response.cache_control.private = True
    response.cache_control.max_age = _YEAR if "v" in request.args else 0
    response.add_etag()
    return response.make_conditional(request)


def _render(exporter: Exporter, args: dict[str, str], messages: list[str] | None = None, status: int = 200) -> _Page:
    """Render the page of a query; only its first page has charts and filters."""
    monitors = exporter.pipeline.monitors
    now = time.time()
    context: dict[str, Any] = {"models": list(monitors.models), "messages": list(messages or []), "now": now}
    try:
        query = parse_review_query(exporter, args, now)
    except EventError as error:
        return render_template("review.html", **context, errors=[error.detail]), 400
    if query.slice and query.slice.truncated:
        context["messages"].append("Only the newest corrections were looked at for the slice.")
    documents, end = exporter.store.review.page(query.filter, PAGE_SIZE, query.after, query.order)
    if query.after is None:
        context |= _overview(exporter, query, now)
    model = query.filter.model
    context.setdefault("regression", _is_regression(exporter, query, [row["prediction"] for row in documents]))
    versions = {monitor.version for monitor in monitors if model in {None, monitor.config.name}}
    page = render_template(
        "review.html",
        **context,
        query=query,
        active_filters=active_filters(query),
        slices=_slices_question(exporter, query, now),
        cards=cards(documents, monitors),
        suggestions=_suggestions(exporter, query, documents, context.get("known", ())),
        next=query.with_changes() | {"cursor": encode_cursor(query.order, end)} if end else None,
        versions=sorted(versions),
        segments=_segments(exporter, model),
    )
    return page, status


def _overview(exporter: Exporter, query: ReviewQuery, now: float) -> dict[str, Any]:
    """Return the values of charts and filters."""
    review, model = exporter.store.review, _only_model(exporter, query)
    found = review.statistics(query.filter, now // 86400 * 86400, g.user)
    stats = found.overview
    regression = _is_regression(exporter, query, [pair[0] for pair in stats.pairs])
    unjoined = review.state().unjoined
    pairs = [] if regression else stats.pairs  # of numbers there are as many as corrections
    return {
        "regression": regression,
        "decided_today": found.decided,
        "histogram": review_charts.error_chart(review.errors(query.filter), query) if regression else None,
        "tolerance": exporter.pipeline.monitors.models[model].correction_tolerance if model else 0,
        "counts": stats.counts,
        "suspect_count": found.suspects,
        "unjoined": sum(count for name, count in unjoined.items() if query.filter.model in {None, name}),
        "confusion": review_charts.confusion_table(pairs, query) if model else None,
        "time_chart": review_charts.time_chart(stats.rates, stats.step, query, now),
        "predicted": _options([pair[0] for pair in pairs], query.filter.predicted),
        "labels": _options([pair[1] for pair in pairs], query.filter.label),
        "known": [pair[1] for pair in pairs],
        "accuracy": _accuracy(found.accuracy, query),
    }


def _suggestions(
    exporter: Exporter, query: ReviewQuery, documents: Sequence[Mapping[str, Any]], known: Sequence[Any]
) -> dict[str, tuple[list[str], bool]]:
    """Return the labels to suggest for the cards of each model, and whether they are all that training had.

    They are the labels of training, of the cards, and of the other corrections if all are of one model.
    """
    monitors, only = exporter.pipeline.monitors, _only_model(exporter, query)
    result = {}
    for name in {document["model"]: None for document in documents if document["model"] in monitors.models}:
        shown = [document for document in documents if document["model"] == name]
        predicted = [document["prediction"] for document in shown]
        is_number = is_regression(monitors.models[name], monitors.nearest_binner(name), predicted)
        labels = [] if is_number else [document["label"] for document in shown]
        targets = [binner.profile.prediction for binner in monitors.binners_of(name)]
        classes = [target for target in targets if isinstance(target, CategoricalFeature)]
        is_complete = 0 < len(targets) == sum(not target.rare for target in classes)
        result[name] = _suggested(classes, [*(known if name == only else ()), *labels]), is_complete
    return result


def _only_model(exporter: Exporter, query: ReviewQuery) -> str | None:
    """Return the model of all corrections of a page; None if there may be several."""
    models = exporter.pipeline.monitors.models
    return query.filter.model or (next(iter(models)) if len(models) == 1 else None)


def _is_regression(exporter: Exporter, query: ReviewQuery, predictions: list[Any]) -> bool:
    """Return whether the page shows corrections of one model, and that predicts numbers."""
    monitors, model = exporter.pipeline.monitors, _only_model(exporter, query)
    if model is None:
        return False
    return is_regression(monitors.models[model], monitors.nearest_binner(model, query.filter.version), predictions)


def _slices_question(exporter: Exporter, query: ReviewQuery, now: float) -> dict[str, str] | None:
    """Return the parameters of the slices of the corrections that the page shows; None where there are none."""
    model = _only_model(exporter, query)
    if model is None or query.filter.source == "sample" or exporter.pipeline.monitors.nearest_binner(model) is None:
        return None
    since = query.args.get("since") if (query.filter.since or 0) < now else None
    return slices_parameters(model, query.filter.version, "corrections", since)


def _segments(exporter: Exporter, model: str | None) -> tuple[str, ...]:
    monitors = exporter.pipeline.monitors
    binner = monitors.nearest_binner(model) if model else None
    segments = Segments.from_config(monitors.models[model], binner.profile) if model and binner else None
    return tuple(segments.names) if segments else ()


def _address(args: Mapping[str, str]) -> str:
    """Return the address of the page with parameters from a client, some of whose names `url_for` reserves."""
    return f"{url_for('review.page')}?{urlencode(args)}" if args else url_for("review.page")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text[:11]) <= MAX_ID


def _accuracy(
    by_version: Mapping[tuple[str, str], AccuracyCounts], query: ReviewQuery
) -> list[tuple[str, str, IntervalEstimate, AccuracyCounts]]:
    """Return the accuracy that reviewed samples show, by the selected models and versions."""
    return [
        (model, version, counts.estimate(), counts)
        for (model, version), counts in by_version.items()
        if query.filter.model in {None, model} and query.filter.version in {None, version}
    ]


def _options(values: list[Any], selected: str | None) -> list[tuple[str, str]]:
    """Return the labels of a selection, each as in the address and for display."""
    options = {label_json(value) or "": abbreviate(value, 40) for value in values}
    if selected is not None and selected not in options:
        options[selected] = selected[:40]
    options.pop("", None)
    return sorted(options.items(), key=lambda option: (len(option[1]), option[1]))[:MAX_SUGGESTIONS]


def _suggested(classes: Iterable[CategoricalFeature], labels: Iterable[Any]) -> list[str]:
    names = dict.fromkeys(name for target in classes for name in target.categories)
    names |= dict.fromkeys(abbreviate(label, MAX_LABEL) for label in labels if label is not None)
    return [name for name in names if len(name) <= MAX_LABEL][:MAX_SUGGESTIONS]


def _image_url(card: Card, name: str) -> str:
    """Return the address of an image input; it changes with the image, so that browsers may cache it."""
    version = zlib.crc32(f"{card.document['prediction_id']} {card.document['predicted']}".encode())
    return url_for("review.image", correction_id=card.document["id"], name=name, v=f"{version:08x}")


MAX_TEXT = 20_000
"""Characters of a text that a card shows."""
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
    def remark(self) -> str:
        """What the user says without a label; empty if there is one."""
        if self.document["verdict"] == "accepted" and not self.document["joined"]:
            return "confirmed by the user"
        return "wrong, says the user" if self.lacks_label else ""

    @property
    def lacks_label(self) -> bool:
        """Whether the user rejected the prediction without a label, and no reviewer has given one."""
        return self.document["verdict"] == "rejected" and self.document["label"] is None


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
        elif isinstance(value, str) and (shown_as(input_type) == "text" or len(value) > LONG_TEXT):
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
    return document["verdict"] != "accepted" and document["version"] is not None and has_waited


def _shows_image(value: Any, input_type: str | None, notes: tuple[str, ...]) -> bool:
    if input_type is None:
        return is_image(value)
    return shown_as(input_type) == "picture" and value is not None and "not an image" not in notes


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


def store_error(exporter: Exporter, error: StoreError) -> tuple[str, int, dict[str, str]]:
    """Return the page with an error of the store."""
    models, reply = list(exporter.pipeline.monitors.models), store_problem(error)
    return render_template("review.html", models=models, errors=[str(error)]), reply.status, dict(reply.headers)


FILTERS = {f.__name__: f for f in (ago, abbreviate, unix_time, format_time, scalar_text)}
GLOBALS = {"image_url": _image_url}
"""Functions of the templates."""
