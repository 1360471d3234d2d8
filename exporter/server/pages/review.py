"""The review page: its filters, charts and cards of users' corrections, and the forms that decide them."""

from __future__ import annotations

import io
import itertools
import math
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

import msgspec
import numpy as np
from flask import Response, abort, g, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as WerkzeugResponse

from exporter import storage
from exporter.config import ModelConfig
from exporter.errors import EventError, StoreError
from exporter.features import image as pictures
from exporter.features import shown_as
from exporter.features.base import label_json, scalar_text
from exporter.features.json_inputs import decode_inputs
from exporter.monitoring.binner import Binner
from exporter.monitoring.counters import Segments
from exporter.monitoring.quality import Scorer
from exporter.monitoring.registry import MonitorRegistry
from exporter.profiles.profile import CategoricalFeature, NumericFeature, Profile
from exporter.server import text as formats
from exporter.server.api.corrections import FoundSlice, encode_cursor, is_new, parse_query
from exporter.server.api.schemas import MAX_ID, MAX_LIMIT, parse_whole_number
from exporter.server.application import Exporter
from exporter.server.problem import store_problem
from exporter.stats.divergence import Floats
from exporter.stats.quality import IntervalEstimate
from exporter.validation import any_of, preview

VIEWS = ("cards", "table")
DEFAULTS = {"status": "pending", "source": "user", "order": "uncertain", "view": "cards"}
NAMES = (*storage.PARAMETERS, "order", "view", "target", "cursor")
"""Parameters of the page, in their order in an address."""
MAX_TARGET = 10_000
"""Decisions that a reviewer may aim for in a day."""
PAGE_SIZE = 50
"""Cards on a page."""
GRAFANA = {"from": "since", "to": "until"}
"""Grafana's names of the parameters of a period."""


class ReviewQuery(NamedTuple):
    """The filter, order and view of the page, and the parameters of its address.

    Attributes
    ----------
    target
        How many corrections the reviewer wants to decide today; None without a target.
    args
        The parameters, without those with default values.
    slice
        The slice of the filter.
    """

    filter: storage.Filter
    order: str
    view: str
    after: storage.Position | None
    target: int | None
    args: dict[str, str]
    slice: FoundSlice | None = None

    def with_changes(self, **changes: str | None) -> dict[str, str]:
        """Return the parameters of the first page after some changes; None removes a parameter."""
        args = {name: value for name, value in self.args.items() if name != "cursor"}
        for name, value in changes.items():
            args.pop(name, None)
            if value is not None and value != DEFAULTS.get(name):
                args[name] = value
        return {name: args[name] for name in NAMES if name in args}


def parse_review_query(exporter: Exporter, arguments: Mapping[str, str], now: float) -> ReviewQuery:
    """Parse the parameters of the page; empty ones are ignored.

    In addition to those of ``GET /v1/corrections``: ``status=all``, ``view``, ``target``, and Grafana's periods.

    Raises
    ------
    EventError
        When a parameter is not valid.
    """
    args = {name: value.strip() for name, value in arguments.items() if value.strip()}
    for grafana, name in GRAFANA.items():
        if (time := args.pop(grafana, None)) is not None:
            args.setdefault(name, time)
    for name in GRAFANA.values():
        if name in args:
            args[name] = formats.parse_moment(name, args[name], now)
    query = DEFAULTS | args | {"limit": str(PAGE_SIZE)}
    view = query.pop("view")
    if view not in VIEWS:
        raise EventError("", f"view: expected {any_of(VIEWS)}, got {preview(view)}", "malformed")
    target = parse_whole_number("target", query.pop("target", None), MAX_TARGET)
    if query["status"] == "all":
        del query["status"]
    page = parse_query(exporter, query)
    non_default = {name: args[name] for name in NAMES if name in args and args[name] != DEFAULTS.get(name)}
    return ReviewQuery(page.filter, page.order, view, page.after, target, non_default, page.slice)


def active_filters(query: ReviewQuery) -> list[tuple[str, dict[str, str]]]:
    """Return the active filters: a description, and the parameters without the filter."""
    descriptions: dict[str, Callable[[], str]] = {
        "since": lambda: f"since {formats.format_time(query.filter.since or 0)} UTC",
        "until": lambda: f"until {formats.format_time(query.filter.until or 0)} UTC",
        "confidence_from": lambda: f"confidence from {query.args['confidence_from']}",
        "confidence_to": lambda: f"confidence up to {query.args['confidence_to']}",
        "error_from": lambda: f"error from {query.args['error_from']}",
        "error_to": lambda: f"error below {query.args['error_to']}",
        "q": lambda: f"with “{query.args['q'][:40]}”",
        "source": lambda: {"sample": "samples", "all": "corrections and samples"}[query.filter.source],
        "suspect": lambda: "with a suspect label" if query.filter.suspect else "without a suspect label",
        "alike": lambda: f"equal to correction {query.filter.alike}",
        "where": lambda: query.slice.description if query.slice else "",
        "joined": lambda: "with a logged prediction" if query.filter.joined else "without a logged prediction",
    }
    return [
        (
            descriptions[name]() if name in descriptions else f"{name} {query.args[name][:40]}",
            query.with_changes(**{name: None}),
        )
        for name in storage.PARAMETERS
        if name in query.args and name != "status"
    ]


MAX_SIDE = 1024
"""Pixels of the longer side; larger images are scaled down."""
SCALES = (1.0, 16.0, 255.0, 65535.0)
"""The value of white on the usual scales of pixels."""


def is_image(value: Any) -> bool:
    """Return whether a value looks like an image: rows of numbers, or an encoded image file. Used without a profile.

    >>> is_image([[0, 1], [1, 0]]), is_image([0, 1]), is_image("data:image/png;base64,"), is_image("iVBORw0KGgo")
    (True, False, True, True)
    """
    if isinstance(value, str):
        return value.startswith(pictures.FILE_PREFIXES)
    rows = isinstance(value, list) and len(value) > 1 and isinstance(value[0], list) and len(value[0]) > 1
    return rows and pictures.number_array(value) is not None


def white(pixels: Floats, trained: NumericFeature | None) -> float:
    """Return the value of white: the smallest usual scale that fits these pixels and the brightest training image.

    So a dark image stays dark if training images were bright.

    >>> white(np.array([[0.0, 3]]), None), white(np.array([[0.0, 0.5]]), None)
    (16.0, 1.0)
    """
    top = max(float(abs(pixels).max()), trained.max if trained and trained.max is not None else 0.0)
    return next((scale for scale in SCALES if top <= scale), top)


def png(value: Any, name: str, profile: Profile | None) -> bytes | None:
    """Convert an image input to a PNG of at most `MAX_SIDE` pixels per side; None if it is not an image.

    Parameters
    ----------
    value
        Rows of pixels, or base64 of a PNG, JPEG or WebP file.
    name
        The name of the input.
    profile
        The profile of the model, which has the brightness of training images.
    """
    from PIL import Image

    image = _decode_file(value) if isinstance(value, str) else _decode_channels(value)
    if image is None:
        pixels = pictures.decode_image(value)
        if pixels is None:
            return None
        trained = profile.features.get(f"{name}.intensity_mean") if profile else None
        image = Image.fromarray(
            _to_bytes(pixels, white(pixels, trained if isinstance(trained, NumericFeature) else None))
        )
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _to_bytes(pixels: Floats, top: float) -> Any:
    low = -top if pixels.min() < 0 else 0.0  # normalized around zero
    return ((pixels - low) * (255 / ((top - low) or 1.0))).round().clip(0, 255).astype(np.uint8)


def _decode_channels(value: Any) -> Any:
    """Return an image of rows of pixels with three or four channels; None for other values."""
    from PIL import Image

    pixels = pictures.number_array(value)
    if (
        pixels is None
        or pixels.ndim != 3
        or pixels.shape[2] not in {3, 4}
        or not pixels.size
        or not np.isfinite(pixels).all()
    ):
        return None
    return Image.fromarray(_to_bytes(pixels, white(pixels, None)))


def _decode_file(value: str) -> Any:
    """Decode a colour image; it is encoded again, so that the client's bytes are not served."""
    try:
        with pictures.open_image(value) as image:
            if image.mode in {"I", "I;16", "F"}:
                return None
            return image.convert("RGBA" if "A" in image.mode or "transparency" in image.info else "RGB")
    except pictures.IMAGE_ERRORS:
        return None


RARE = 0.01
"""A value is rare if its bin has a smaller share of the training values."""


def find_outliers(binner: Binner, inputs: Sequence[Mapping[str, Any]], times: Floats) -> list[dict[str, list[str]]]:
    """Find the values in the inputs of predictions that are rare in the training data.

    Parameters
    ----------
    binner
        The training data of the model version.
    inputs
        Decoded inputs of ``n`` predictions.
    times
        Unix time in seconds of each, shape ``(n,)``.

    Returns
    -------
    list
        For each prediction, descriptions by the name of the input; only inputs with outliers are present.
    """
    notes: list[dict[str, list[str]]] = [{} for _ in inputs]
    for name, input_type in binner.inputs.items():
        values = [row.get(name) for row in inputs]
        if input_type.categorical:
            target = binner.profile.features[name]
            if isinstance(target, CategoricalFeature):
                for index, label in enumerate(input_type.labels(values)):
                    if note := describe_category(target, label, input_type.noun):
                        notes[index][name] = [note]
            continue
        columns = input_type.columns(values, times) if values else ()
        for feature, column in zip(input_type.features(name), columns, strict=False):
            target = binner.profile.features[feature]
            if isinstance(target, NumericFeature):
                statistic = feature.removeprefix(f"{name}.") if feature != name else ""
                for index, value in enumerate(column.tolist()):
                    note = describe_number(target, value, input_type.noun)
                    # An input that is missing or invalid as a whole has one note.
                    if note and not (statistic and name in notes[index] and not math.isfinite(value)):
                        prefix = f"{statistic} {formats.number(value)}: " if statistic and math.isfinite(value) else ""
                        notes[index].setdefault(name, []).append(f"{prefix}{note}")
    return notes


def describe_number(target: NumericFeature, value: float, noun: str = "a number") -> str | None:
    """Describe why a number is an outlier; NaN is missing, an infinity invalid. None for any other number.

    >>> target = NumericFeature(edges=(18.0, 90.0), counts=(0, 100, 0, 0, 0))
    >>> describe_number(target, 17.0), describe_number(target, 30.0)
    ('below all training values (18 to 90)', None)
    """
    if math.isnan(value):
        return _missing(target.counts[-2], sum(target.counts))
    if math.isinf(value):
        return f"not {noun}"
    return _describe_finite(target, value) if target.edges else None


def _describe_finite(target: NumericFeature, value: float) -> str | None:
    if target.precision == "single" and abs(value) < 3e38:
        value = float(np.float32(value))
    index = int(np.searchsorted(target.edges, value, side="right"))
    if index in {0, len(target.edges)}:
        trained = f"{formats.number(target.edges[0])} to {formats.number(target.edges[-1])}"
        return f"{'above' if index else 'below'} all training values ({trained})"
    part = target.counts[index] / max(sum(target.counts), 1)
    if part >= RARE:
        return None
    low, high = target.edges[index - 1], target.edges[index]
    around = (
        formats.number(low)
        if high == math.nextafter(low, math.inf)
        else f"from {formats.number(low)} to {formats.number(high)}"
    )
    return f"only {formats.share(part)} of the training values were {around}"


def describe_category(target: CategoricalFeature, value: Any, noun: str = "a category") -> str | None:
    """Describe why a category is an outlier; None if it is not.

    >>> target = CategoricalFeature(categories=("NL", "BE"), counts=(995, 5, 0, 0, 0))
    >>> describe_category(target, "NL"), describe_category(target, "XX"), describe_category(target, None)
    (None, 'not in the training data', 'missing; never missing in training')
    """
    total = max(sum(target.counts), 1)
    if value is None:
        return _missing(target.counts[-2], total)
    name = scalar_text(value)
    if name in target.categories:
        part = target.counts[target.categories.index(name)] / total
        return f"only {_share_or_few(part)} of the training values" if part < RARE else None
    if name in target.rare:
        least = min(target.counts[: len(target.categories)], default=0) / total
        return f"at most {_share_or_few(least)} of the training values" if least < RARE else None
    return "not in the training data" if isinstance(value, str | bool | int | float) else f"not {noun}"


def _share_or_few(part: float) -> str:
    return formats.share(part) if part else "few"


def _missing(count: int, total: int) -> str | None:
    if count >= RARE * max(total, 1):
        return None
    return (
        f"missing; only {formats.share(count / total)} were missing in training"
        if count
        else "missing; never missing in training"
    )


def is_regression(model: ModelConfig, binner: Binner | None, predictions: Iterable[Any]) -> bool:
    """Return whether a model predicts numbers and not classes; some of its predictions may decide, see `Scorer`.

    >>> is_regression(ModelConfig("price"), None, [3.5]), is_regression(ModelConfig("digits"), None, [3])
    (True, False)
    """
    scorer = Scorer.of_model(model, binner.profile if binner else None)
    return scorer.task == "regression" or any(map(scorer.is_number, predictions))


def difference(prediction: Any, label: Any) -> str:
    """Format how far a label is from the prediction; empty unless both are numbers.

    >>> difference(12.5, 14), difference(14, 12.5), difference(7, 7.0), difference("7", 8)
    ('+1.5', '−1.5', '0', '')
    """
    if not {type(prediction), type(label)} <= {int, float}:
        return ""
    try:
        return signed(float(label) - float(prediction))
    except OverflowError:
        return ""


def signed(value: float) -> str:
    """Format a number with its sign."""
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{formats.number(abs(value))}"


MAX_LABELS = 10
"""Labels on each side of the confusion table."""
MAX_HORIZONTAL = 3
"""Characters of a horizontal label above its column; longer labels are vertical."""
STEPS = (60, 300, 900, 3600, 3 * 3600, 6 * 3600, 86400, 7 * 86400, 28 * 86400, 364 * 86400)
"""Seconds per bar: whole multiples of the steps that `PageStatistics` may have."""


class Confusion(NamedTuple):
    """How many corrections there are from each predicted to each corrected label, as stored.

    Attributes
    ----------
    rows, columns
        Predicted and corrected labels, each with its form for display: at most `MAX_LABELS`.
    omitted
        The number of labels beyond these.
    vertical
        Whether the labels of the columns are vertical.
    """

    counts: Counter[tuple[str | None, str | None]]
    rows: dict[str | None, str]
    columns: dict[str | None, str]
    omitted: int
    vertical: bool


def confusion_table(pairs: Sequence[tuple[Any, Any, int]]) -> Confusion | None:
    """Return the confusion table of ``(predicted, label, count)``; None without corrections."""
    counts = Counter({(label_json(predicted), label_json(label)): count for predicted, label, count in pairs})
    if not counts:
        return None
    names = {label_json(value): formats.abbreviate(value, 24) for pair in pairs for value in pair[:2]}
    rows, columns = (_most_frequent(counts, side, names) for side in (0, 1))
    vertical = any(len(name) > MAX_HORIZONTAL for name in columns.values())
    return Confusion(counts, rows, columns, len(names) - len(rows | columns), vertical)


def _most_frequent(
    counts: Counter[tuple[str | None, str | None]], side: int, names: dict[str | None, str]
) -> dict[str | None, str]:
    """Return the most frequent labels: short ones, such as digits, in alphabetical order, others by frequency."""
    totals = Counter[str | None]()
    for pair, count in counts.items():
        totals[pair[side]] += count
    labels = [label for label, _ in totals.most_common(MAX_LABELS)]
    if all(len(names[label]) <= MAX_HORIZONTAL for label in labels):
        labels.sort(key=lambda label: (len(names[label]), names[label]))
    return {label: names[label] for label in labels}


class Bar(NamedTuple):
    """A bar: its position from the left, the number of corrections, which these are, and the address of their cards."""

    position: int
    size: int
    which: str
    args: dict[str, str]


class Chart(NamedTuple):
    """Bars that link to their cards.

    Attributes
    ----------
    positions
        How many bars have room.
    begin, end
        What is at both ends; with "below" or "from" where a bar counts all that is further away.
    zero
        The position that begins with 0; None if it is outside.
    facts
        Of errors: their number, the mean, the mean absolute and the largest error.
    """

    bars: list[Bar]
    positions: int
    begin: str
    end: str
    zero: int | None = None
    facts: Mapping[str, Any] = MappingProxyType({})


def time_chart(counts: Sequence[tuple[float, int]], bucket: int, query: ReviewQuery, now: float) -> Chart | None:
    """Return the chart of ``(start, corrections)`` in buckets of seconds; None without corrections."""
    if not counts:
        return None
    first, last = counts[0][0], counts[-1][0] + bucket
    since = query.filter.since if query.filter.since is not None else first
    until = query.filter.until if query.filter.until is not None else max(last, min(now, last + (last - since) / 4))
    step = next((step for step in STEPS if (until - since) / step <= storage.BARS), STEPS[-1])
    begin = math.floor(since / step) * step
    bar_count = max(math.ceil((until - begin) / step), 1)
    total = Counter[int]()
    for start, count in counts:
        total[min(max(int((start - begin) // step), 0), bar_count - 1)] += count
    bars = []
    for index, count in sorted(total.items()):
        start = begin + index * step
        within = max(start, query.filter.since or start), min(start + step, query.filter.until or start + step)
        since_text, until_text = (formats.rfc3339(min(max(edge, formats.FIRST), formats.LAST)) for edge in within)
        which = f"from {formats.format_time(start)} to {formats.format_time(start + step)}"
        bars.append(Bar(index, count, which, query.with_changes(since=since_text, until=until_text)))
    return Chart(bars, bar_count, formats.format_time(begin), formats.format_time(begin + bar_count * step))


ERROR_BARS = 16
"""About how many bars the histogram has."""
TAIL = 0.02
"""Share of the errors at each end that may be far from all others."""


def error_chart(errors: Floats, query: ReviewQuery) -> Chart | None:
    """Return the histogram of errors (label minus prediction), shape ``(n,)``; None without any."""
    if not len(errors):
        return None
    edges = histogram_edges(*_range(errors))
    counts: list[int] = np.bincount(np.searchsorted(edges, errors, "right"), minlength=len(edges) + 1).tolist()
    bars: list[Bar] = []
    for low, high, count in zip([None, *edges], [*edges, None], counts, strict=True):
        if count or (low is not None and high is not None):
            which = f"below {signed(edges[0])}" if low is None else f"from {signed(low)}"
            which += f" to {signed(high)}" if low is not None and high is not None else ""
            args = query.with_changes(error_from=_text(low), error_to=_text(high))
            bars.append(Bar(len(bars), count, which, args))
    zero = next((bar.position for bar in bars if bar.args.get("error_from") == "0"), None)
    begin = f"{'below ' if counts[0] else ''}{signed(edges[0])}"
    end = f"{'from ' if counts[-1] else ''}{signed(edges[-1])}"
    mean, absolute, largest = errors.mean(), np.abs(errors).mean(), errors[np.abs(errors).argmax()]
    facts = {
        "count": len(errors),
        "mean": signed(float(mean)),
        "mean_absolute": formats.number(float(absolute)),
        "largest": signed(float(largest)),
    }
    return Chart(bars, len(bars), begin, end, zero, facts)


def histogram_edges(low: float, high: float) -> list[float]:
    """Return round edges between which a range lies: multiples of 1, 2 or 5 times a power of ten, so that 0 is one.

    >>> histogram_edges(-3.0, 12.5)
    [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0]
    >>> histogram_edges(0.4, 0.4)
    [0.4, 0.5]
    """
    step = max((high - low or abs(low) or 1.0) / (ERROR_BARS if high > low else 4), 1e-300)
    power = math.floor(math.log10(step))
    factor = next(f for f in (1, 2, 5, 10) if f * 10.0**power >= step * (1 - 1e-9))
    width = factor * 10.0**power
    first, last = math.floor(low / width + 1e-9), math.floor(high / width + 1e-9) + 1
    # Divided rather than multiplied by a negative power, so that 3 tenths are 0.3.
    steps = [float(factor * index) for index in range(first, last + 1)]
    return list(dict.fromkeys(step * 10.0**power if power >= 0 else step / 10.0**-power for step in steps))


def _range(errors: Floats) -> tuple[float, float]:
    """Return the range of the chart: all errors, without those at an end that are far from the others."""
    low, high = np.quantile(errors, (TAIL, 1 - TAIL)).tolist()
    reach = (high - low) / 2
    lowest, highest = float(errors.min()), float(errors.max())
    return lowest if lowest >= low - reach else low, highest if highest <= high + reach else high


def _text(edge: float | None) -> str | None:
    return None if edge is None else f"{edge!r}".removesuffix(".0")


MAX_SUGGESTIONS = 1000
"""Labels that the page suggests in a field."""
MAX_LABEL = 200
"""Characters of a suggested label."""
_YEAR = 365 * 86400
_Page = tuple[str, int]


def page(exporter: Exporter) -> _Page | WerkzeugResponse:
    """``GET /review``: the review page."""
    args = formats.parameters(request.args)
    if any(not value.strip() for value in args.values()):  # forms also send empty fields
        return redirect(_address({name: value for name, value in args.items() if value.strip()}))
    return _render(exporter, args)


def decide(exporter: Exporter) -> _Page | WerkzeugResponse:
    """``POST /review/decide``: decide a correction from the review page's form, and return to it."""
    form = request.form
    back = dict(parse_qsl(form.get("back", "")))
    correction_id, revision, status = form.get("id", ""), form.get("revision", ""), form.get("status", "")
    if not (_is_number(correction_id) and _is_number(revision) and status in storage.STATUSES):
        abort(400, "expected id and revision as numbers, and status as one of accepted, pending and rejected")
    text, label_type = form.get("label", "").strip(), form.get("label_type", "string")
    label = label_json(parse_label(text, label_type)) if text and status == "accepted" else None
    decision = storage.Decision(status, label, int(revision), g.user)
    batch = [(int(correction_id), decision)]
    (outcome,) = exporter.store.review.decide(batch, exporter.redacted, len(text))
    document = outcome.correction
    if outcome.stored:
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
    drawn = exporter.store.review.draw(model, version or None, int(count), g.user)
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
    regression = _is_regression(exporter, query, [pair[0] for pair in found.pairs])
    state = review.state()
    pairs = [] if regression else found.pairs  # of numbers there are as many as corrections
    return {
        "regression": regression,
        "decided_today": found.decided,
        "histogram": error_chart(review.errors(query.filter), query) if regression else None,
        "tolerance": exporter.pipeline.monitors.models[model].correction_tolerance if model else 0,
        "counts": found.counts,
        "charted": found.charted,
        "waiting": state.pending,
        "suspect_count": found.suspects,
        "unjoined": sum(count for name, count in state.unjoined.items() if query.filter.model in {None, name}),
        "confusion": confusion_table(pairs) if model else None,
        "time_chart": time_chart(found.rates, found.step, query, now),
        "predicted": _options([pair[0] for pair in pairs], query.filter.predicted),
        "labels": _options([pair[1] for pair in pairs], query.filter.label),
        "known": [pair[1] for pair in pairs],
        "accuracy": _accuracy(found.accuracy, query),
    }


def _suggestions(
    exporter: Exporter, query: ReviewQuery, documents: Sequence[Mapping[str, Any]], known: Sequence[Any]
) -> dict[str, tuple[list[str], int | None]]:
    """Return the labels to suggest for the cards of each model, and how many are all that training had, if they are.

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
        suggested = _suggested(classes, [*(known if name == only else ()), *labels])
        result[name] = suggested, len(_suggested(classes, ())) if is_complete else None
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
    return formats.slices_parameters(model, query.filter.version, "corrections", since)


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
    by_version: Mapping[tuple[str, str], storage.AccuracyCounts], query: ReviewQuery
) -> list[tuple[str, str, IntervalEstimate, storage.AccuracyCounts]]:
    """Return the accuracy that reviewed samples show, by the selected models and versions."""
    return [
        (model, version, counts.estimate(), counts)
        for (model, version), counts in by_version.items()
        if query.filter.model in {None, model} and query.filter.version in {None, version}
    ]


def _options(values: list[Any], selected: str | None) -> list[tuple[str, str]]:
    """Return the labels of a selection, each as in the address and for display."""
    options = {label_json(value) or "": formats.abbreviate(value, 40) for value in values}
    if selected is not None and selected not in options:
        options[selected] = selected[:40]
    options.pop("", None)
    return sorted(options.items(), key=lambda option: (len(option[1]), option[1]))[:MAX_SUGGESTIONS]


def _suggested(classes: Iterable[CategoricalFeature], labels: Iterable[Any]) -> list[str]:
    names = dict.fromkeys(name for target in classes for name in target.categories)
    names |= dict.fromkeys(formats.abbreviate(label, MAX_LABEL) for label in labels if label is not None)
    return [name for name in names if len(name) <= MAX_LABEL][:MAX_SUGGESTIONS]


def _image_url(document: Mapping[str, Any], name: str) -> str:
    """Return the address of an image input; it changes with the image, so that browsers may cache it."""
    version = zlib.crc32(f"{document['prediction_id']} {document['predicted']}".encode())
    return url_for("review.image", correction_id=document["id"], name=name, v=f"{version:08x}")


MAX_TEXT = 20_000
"""Characters of a text that a card shows."""
MAX_ROWS = 40
"""Inputs that a card shows, those with outliers first."""
LONG_TEXT = 60
"""Characters from which a value is shown as a text."""
PAGE_PIXELS = 4 * pictures.MAX_PIXELS
"""Pixels of image files that are decoded for a page; the inputs of further cards are not compared with training."""


@dataclass(frozen=True)
class Input:
    """An input for display: its name, its text (cut), why it is an outlier, and the full length of the text."""

    name: str
    text: str
    notes: tuple[str, ...] = ()
    length: int = 0


def cards(documents: Sequence[Mapping[str, Any]], monitors: MonitorRegistry) -> list[dict[str, Any]]:
    """Return the cards of a page of corrections, each compared with the training data of its version."""
    inputs = [decode_document_inputs(document["inputs"]) for document in documents]
    binners = [monitors.binner(document["model"], document["version"]) for document in documents]
    pixels = itertools.accumulate(sum(map(pictures.encoded_pixels, row.values())) for row in inputs)
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
) -> dict[str, Any]:
    """Return a correction and its inputs for the template."""
    model, version = document["model"], document["version"]
    settings, binner = monitors.models.get(model), monitors.nearest_binner(model, version)
    redact = settings.redact if settings else frozenset()
    types: dict[str, str] = (
        {name: feature.type for name, feature in settings.features.items() if feature.type} if settings else {}
    )
    if binner:
        types |= binner.profile.inputs
    names = [*inputs, *(name for name in outliers if name not in inputs)]
    images, texts, rows = [], [], []
    for name in sorted(names, key=lambda name: name not in outliers):
        value, notes, input_type = inputs.get(name), tuple(outliers.get(name, ())), types.get(name)
        if _shows_image(value, input_type, notes):
            images.append(Input(name, "", notes))
        elif isinstance(value, str) and (shown_as(input_type) == "text" or len(value) > LONG_TEXT):
            texts.append(Input(name, value[:MAX_TEXT], notes, len(value)))
        else:
            rows.append(Input(name, _format_value(value), notes))
    is_unknown = document["prediction"] is None and not document["joined"]
    lacks_label = document["verdict"] == "rejected" and document["label"] is None
    is_confirmed = document["verdict"] == "accepted" and not document["joined"]
    has_error = settings is not None and is_regression(settings, binner, [document["prediction"]])
    return {
        "document": document,
        "label": formats.abbreviate(document["label"]),
        "lacks_label": lacks_label,  # neither the user nor a reviewer has given one
        "remark": "confirmed by the user" if is_confirmed else "wrong, says the user" if lacks_label else "",
        "prediction": "unknown" if is_unknown else formats.abbreviate(document["prediction"]),
        "difference": difference(document["prediction"], document["label"]) if has_error else "",
        "label_type": json_type(document["label"] if document["prediction"] is None else document["prediction"]),
        "decidable": document["joined"] or _is_ready(document),
        "new": is_new(monitors.binner(model, version), document["label"]),
        "images": images,
        "texts": texts,
        "rows": rows[:MAX_ROWS],
        "hidden": max(len(rows) - MAX_ROWS, 0),
        "redacted": sorted(redact & binner.profile.inputs.keys() if binner else redact),
        "compared": compared,
    }


def _is_ready(document: Mapping[str, Any]) -> bool:
    has_waited = time.time() - unix_time(document["created"]) > storage.WAITING_SECONDS
    return document["verdict"] != "accepted" and document["version"] is not None and has_waited


def _shows_image(value: Any, input_type: str | None, notes: tuple[str, ...]) -> bool:
    if input_type is None:
        return is_image(value)
    return shown_as(input_type) == "picture" and value is not None and "not an image" not in notes


def _format_value(value: Any) -> str:
    """Format the value of an input, numbers with at most six digits."""
    if isinstance(value, float):
        return f"{value:.6g}" if len(repr(value)) > 10 else repr(value).removesuffix(".0")
    return "–" if value is None else formats.abbreviate(value)


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
            value = msgspec.json.decode(text, type=int | float)
        except (msgspec.MsgspecError, UnicodeError):
            return text
        return value
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


FILTERS = {f.__name__: f for f in (formats.ago, formats.abbreviate, unix_time, formats.format_time, scalar_text)}
GLOBALS = {"image_url": _image_url}
"""Functions of the templates."""
