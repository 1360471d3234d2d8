"""What the review page says of values: inputs that are rare in the training data, images, and errors of numbers."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from exporter.config import ModelConfig
from exporter.features.base import scalar_text
from exporter.features.image import FILE_PREFIXES, IMAGE_ERRORS, are_numbers, decode_image, number_array, open_image
from exporter.monitoring.binner import Binner
from exporter.monitoring.quality import Scorer
from exporter.profiles.profile import CategoricalFeature, NumericFeature, Profile
from exporter.server.text import number, share
from exporter.stats.divergence import Floats

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
        return value.startswith(FILE_PREFIXES)
    rows = isinstance(value, list) and len(value) > 1 and isinstance(value[0], list) and len(value[0]) > 1
    return rows and are_numbers(value)


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
        pixels = decode_image(value)
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

    pixels = number_array(value)
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
        with open_image(value) as image:
            if image.mode in {"I", "I;16", "F"}:
                return None
            return image.convert("RGBA" if "A" in image.mode or "transparency" in image.info else "RGB")
    except IMAGE_ERRORS:
        return None


RARE = 0.01
"""A value is rare if its bin has a smaller share of the training values."""
_Notes = list[dict[str, list[str]]]


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
    notes: _Notes = [{} for _ in inputs]
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
                described = [describe_number(target, value, input_type.noun) for value in column.tolist()]
                _add_notes(notes, name, statistic, column.tolist(), described)
    return notes


def _add_notes(
    notes: _Notes, name: str, statistic: str, column: Sequence[float], described: Sequence[str | None]
) -> None:
    """Add the outliers in a column; ``statistic`` is its name if the input has several columns, else empty."""
    for index, (value, note) in enumerate(zip(column, described, strict=True)):
        if not note or (statistic and notes[index].get(name) and not math.isfinite(value)):
            continue  # an input that is missing or invalid as a whole has one note
        prefix = f"{statistic} {number(value)}: " if statistic and math.isfinite(value) else ""
        notes[index].setdefault(name, []).append(f"{prefix}{note}")


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
        trained = f"{number(target.edges[0])} to {number(target.edges[-1])}"
        return f"{'above' if index else 'below'} all training values ({trained})"
    part = target.counts[index] / max(sum(target.counts), 1)
    if part >= RARE:
        return None
    low, high = target.edges[index - 1], target.edges[index]
    around = number(low) if high == math.nextafter(low, math.inf) else f"from {number(low)} to {number(high)}"
    return f"only {share(part)} of the training values were {around}"


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
    return share(part) if part else "few"


def _missing(count: int, total: int) -> str | None:
    if count >= RARE * max(total, 1):
        return None
    return (
        f"missing; only {share(count / total)} were missing in training"
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
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{number(abs(value))}"
