"""What is said about a profile: its lines, and warnings of training data that live data can never resemble."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

import numpy as np

from exporter.config import ModelConfig
from exporter.features import INPUT_TYPES
from exporter.features.base import as_list, confidence_column, scalar_text
from exporter.features.scalars import unix_seconds
from exporter.profiles.builder import Options
from exporter.profiles.profile import (
    CONFIDENCE,
    FILE,
    GROUPED,
    PREDICTION,
    SHUFFLED,
    UNSORTED,
    Blocks,
    CategoricalFeature,
    Feature,
    NumericFeature,
    Profile,
    Quality,
    Times,
)
from exporter.profiles.quality import LEAST_ROWS, confidence_of_class
from exporter.profiles.sources import Column
from exporter.profiles.sources.files import MOMENT, delimiter_in
from exporter.stats.dependence import block_sizes
from exporter.stats.divergence import Floats, Reference, chi2_quantiles
from exporter.stats.quality import calibrated, wilson
from exporter.validation import preview


def notes(feature: Feature) -> list[str]:
    """Return remarks on a feature: constant, without values, with missing or invalid values."""
    rows = sum(feature.counts)
    missing, invalid = feature.counts[-2:]
    remarks = []
    if missing + invalid == rows:
        remarks.append("no value at all")
    elif isinstance(feature, NumericFeature):
        remarks += [f"always {feature.min:.6g}"] if feature.min == feature.max else []
    elif len(feature.categories) == 1 and not feature.counts[1]:
        remarks.append(f"always {truncate(feature.categories[0], 20)}")
    remarks += [f"{_share(missing, rows)} missing"] if missing else []
    remarks += [f"{_share(invalid, rows)} invalid"] if invalid else []
    return remarks


def profile_lines(profile: Profile, remarks: Mapping[str, str] = MappingProxyType({})) -> Iterator[str]:
    """Yield a line for each feature, with the remark on its input; the order of the rows; how good the model was."""
    for name, kind in profile.input_types().items():
        for scalar in kind.features(name):
            feature = profile.features[scalar]
            size = len(feature.counts)
            bins = f"{size - 3} categories" if isinstance(feature, CategoricalFeature) else f"{size} bins"
            found = dependence_note(profile.blocks or None, scalar, feature), remarks.get(name)
            yield "; ".join((f"{scalar}: {kind.type}, {bins}", *notes(feature), *filter(None, found)))
    if profile.blocks and (profile.blocks.sizes or not profile.blocks.is_ordered):
        yield order_line(profile.blocks)
    yield from quality_lines(profile)


def _share(part: int, whole: int) -> str:
    percent = 100 * part / max(whole, 1)
    return f"{percent:.1f}%" if percent >= 0.05 else f"{part:,} of {whole:,}"


def _columns(character: str) -> int:
    return 0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "FW")


def truncate(text: str, width: int) -> str:
    """Cut a text to a number of columns of a terminal, and replace control characters."""
    longest = 4 * width  # combining marks take no column
    printable = "".join(character if character.isprintable() else "�" for character in text[:longest])
    if sum(map(_columns, printable)) <= width and len(text) <= longest:
        return printable
    while sum(map(_columns, printable)) > width - 1:
        printable = printable[:-1]
    return f"{printable}…"


_VALUES = 100
_LINES = 10
_MOST_WITHOUT_CONFIDENCE = 0.05
_INDEPENDENT = "values are taken as independent"


def order_line(blocks: Blocks | None) -> str:
    """Return in which order the rows are, and what follows from it."""
    if not blocks:
        return f"(order)  not known; {_INDEPENDENT}"
    column = preview(blocks.column)
    if not blocks.is_ordered:
        order = {SHUFFLED: "shuffled", GROUPED: f"grouped by {column}"}.get(blocks.order, f"not by {column}")
        return f"(order)  {order}; {_INDEPENDENT}"
    where = "as in the file" if blocks.order == FILE else f"by {column}"
    if blocks.times and blocks.times.unreadable:
        where += f" without {blocks.times.unreadable:,} rows"
    if not blocks.sizes:
        rows = "rows" if blocks.order == FILE else "rows with a time"
        return f"(order)  {where}; too few {rows} to estimate autocorrelation"
    dependent = sum(scores.dependent for scores in blocks.targets.values())
    found = f"are autocorrelated in {dependent} of {len(blocks.targets)} targets" if dependent else "are independent"
    return f"(order)  {where}; values {found}"


def dependence_note(blocks: Blocks | None, name: str, feature: Feature) -> str | None:
    """Return by how much dependence raises the noise floor of a target; None if its values are independent."""
    if not blocks or name not in blocks.targets or not blocks.targets[name].dependent:
        return None
    counts = np.array(feature.counts, dtype=np.float64)
    quantiles = chi2_quantiles(int(np.count_nonzero(counts)) - 1)
    reference = Reference.from_counts(counts, [len(counts)], quantiles)
    values = min(_VALUES, blocks.sizes[-1])
    ratio = float(blocks.noise_ratio([name], reference).at(np.array([float(values)]))[0])
    times = f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}"
    higher = "not higher" if times == "1.0" else f"{times} times as high"
    return f"autocorrelated: the noise floor of {values} values is {higher}"


def without_confidence(quality: Quality) -> str:
    """Say which part of the labelled rows is left out because it has no confidence; nothing where that is 5% or less.

    Parameters
    ----------
    quality
        A classifier's.
    """
    rows, right = quality.calibrated_rows, quality.calibrated_right
    if quality.without_confidence <= _MOST_WITHOUT_CONFIDENCE or not rows:
        return ""
    return (
        f"{100 * quality.without_confidence:.1f}% of the labelled rows have no valid confidence, and are left out of "
        f"estimates and of what these are compared with: {100 * right / rows:.1f}% of the others are right, "
        f"{100 * quality.overall:.1f}% of all"
    )


def quality_line(quality: Quality) -> str:
    """Return the overall quality in a line."""
    rows = f"{quality.rows:,} labelled rows"
    if quality.kind == "absolute_error":
        return f"(quality)  mean absolute error {quality.overall:.4g} over {rows}"
    _, lower, upper = wilson(round(quality.overall * quality.rows), quality.rows)
    interval = f"{100 * lower:.1f} to {100 * upper:.1f}%"
    return f"(quality)  accuracy {100 * quality.overall:.1f}% ({interval}) over {rows}"


def quality_lines(profile: Profile) -> Iterator[str]:
    """Yield how good the model was: overall, by confidence, and what explains the rest."""
    quality = profile.quality
    if not quality:
        return
    yield quality_line(quality)
    if left_out := without_confidence(quality):
        yield f"  {left_out}"
    if quality.calibrated_rows and isinstance(profile.confidence, NumericFeature):
        yield from _calibration(profile.confidence, quality)
    if quality.kind == "absolute_error":
        names = ", ".join(quality.components) or "nothing"
        yield f"  error expected by: {names}"
    if quality.residuals:
        others = "other " if quality.components or quality.calibration_rows else ""
        yield f"  {others}features that explain the quality: {', '.join(quality.residuals)}"


def _calibration(confidence: NumericFeature, quality: Quality) -> Iterator[str]:
    """Yield the accuracy for each bin of the confidence, several bins in a line where there are many."""
    rows, right = np.array(quality.calibration_rows[:-2]), np.array(quality.calibration_right[:-2])
    accuracy = calibrated(rows.astype(np.float64), right.astype(np.float64))
    known = np.flatnonzero(rows)
    for group in np.array_split(known, min(_LINES, len(known))):
        total = rows[group].sum()
        low = confidence.edges[max(group[0] - 1, 0)]
        high = confidence.edges[min(group[-1], len(confidence.edges) - 1)]
        expected = float(accuracy[group] @ rows[group] / total)
        yield f"  confidence {low:.3f} to {high:.3f}: {100 * expected:.1f}% right of {total:,}"


ROWS_PER_BIN = 10
"""With fewer training rows a bin's share is hardly known: 200 rows for 20 bins."""
SAMPLE = 10_000
"""Rows of the beginning of the file that are inspected."""
_FEW, _FEW_UNNAMED = 10, 50
"""With fewer values in the sample, or with fewer where the name is no hint, chance explains what they look like."""
_SPREAD = 3
"""The whole numbers of an identifier cover at most so many times the number of rows."""
_THRESHOLD = ModelConfig("").threshold("ModelFeatureDrift")
_MAX_UNREADABLE = 0.01  # share of rows
_FIRST_YEAR, _LAST_YEAR = 1990, 2100
_YEAR = 31_556_952.0  # seconds of the mean year of the calendar
_UNITS_OF_SECONDS = (1.0, 1e3, 1e6, 1e9)
_OUTPUTS = {
    "confidence": "--confidence-column",
    "label": "--label-column",
    "prediction": "--prediction-column",
    "predicted": "--prediction-column",
    "target": "--label-column",
    "y_pred": "--prediction-column",
    "y_true": "--label-column",
}
"""Names of columns that are seldom inputs, and the option that says what they are."""
_UNNAMED = re.compile(r"|Unnamed: \d+|__index_level_\d+__")
_ID_NAME = re.compile(r"(?:.*[^a-z])?(?:id|uuid|guid|pk|idx|index)|.*[a-z](?:Id|ID|Uuid|UUID)", re.DOTALL)
_TIME_NAME = re.compile(r"(?:.*[^a-z])?(?:at|date|datetime|epoch|time|timestamp|ts)|.*[a-z](?:At|Date|Time)", re.DOTALL)
_ID = re.compile(r"[A-Za-z_]{0,12}[-_#:]?\d+|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-f]{16,}")
_DECIMAL_COMMA = re.compile(r"\s*[+-]?(\d+|\d*,\d+)([eE][+-]?\d+)?\s*")
_THOUSANDS = re.compile(r"\s*[+-]?[1-9]\d{0,2}(,\d{3})*\s*")
_PERCENT = "set --confidence-percent"
_RFC_3339 = re.compile(MOMENT)
_DATE = re.compile(r"(\d{1,2}[./-]\d{1,2}[./-]\d{4}|\d{4}[./]\d{1,2}[./]\d{1,2})([ T]\d{1,2}:\d\d.*)?")


def warnings(profile: Profile, sample: Mapping[str, Column], options: Options, is_csv: bool) -> Iterator[str]:
    """Yield a line for each thing that would alarm for ever, with the flag that corrects it.

    Parameters
    ----------
    profile
        The profile of all rows.
    sample
        Some rows from the beginning of the file, in its order.
    options
        Of the profile. There are no warnings about columns whose type was chosen.
    is_csv
        Whether cells are texts, and the way they are read can be chosen.
    """
    if is_csv and (delimiter := delimiter_in(profile.inputs)):
        yield f"all columns are read as one: set --delimiter={delimiter}"
        return
    warned = {*options.types}
    outputs = {options.prediction_column: PREDICTION, options.confidence_column: CONFIDENCE}
    for name, values in sample.items():
        if name in {options.prediction_column, options.confidence_column, options.label_column}:
            text = _decimal_comma(name, _strings(values), is_csv)
            if name == options.prediction_column and name not in options.types:
                text = text or _inexact_classes(name, values, profile)
        elif name in profile.inputs and name not in options.types:
            text = _column(name, values, profile, options, is_csv)
        else:
            continue
        if text:
            warned.add(outputs.get(name, name))
            yield f"{truncate(name, 40) or 'a column without a name'}: {text}"
        elif name == options.confidence_column and (text := _confidence(name, values, profile, sample, options)):
            yield f"{truncate(name, 40)}: {text}"
    yield from _row_warnings(profile, sample, options)
    yield from order_warnings(profile, warned)
    if options.label_column:
        yield from (f"{truncate(options.label_column, 40)}: {text}" for text in label_warnings(profile))


def _row_warnings(profile: Profile, sample: Mapping[str, Column], options: Options) -> Iterator[str]:
    if {"prediction_id", "user_label"} <= sample.keys():
        yield "the rows are corrections, which are selected mistakes: profile the predictions of all traffic instead"
    if profile.rows < ROWS_PER_BIN * options.bins:
        fewer = profile.rows // ROWS_PER_BIN
        advice = f", or set --bins={fewer}" if fewer >= 2 else ""
        least = ROWS_PER_BIN * options.bins
        yield f"{profile.rows} rows are few for {options.bins} bins: profile at least {least}{advice}"


def _column(name: str, values: Column, profile: Profile, options: Options, is_csv: bool) -> str | None:
    if option := _OUTPUTS.get(name.lower()):
        return f"is read as an input: set {_flag(option, name)} if it is an output, or {_ignore(name)}"
    if _UNNAMED.fullmatch(name):
        return f"is probably the index of a table: set {_ignore(name)}"
    kind = INPUT_TYPES[profile.inputs[name]]
    if kind.is_number:
        feature = profile.features[name]
        return _numbers(name, values, feature, profile.rows) if isinstance(feature, NumericFeature) else None
    texts = _strings(values)
    if kind.follows_time:
        return None if options.time_column else _growing_time(name, texts)
    if kind.cells == "text":
        return _decimal_comma(name, texts, is_csv) or _texts(name, texts)
    return None


def _numbers(name: str, values: Column, feature: NumericFeature, rows: int) -> str | None:
    numbers = np.array([value for value in as_list(values[:SAMPLE]) if isinstance(value, int | float)], dtype=float)
    numbers = numbers[np.isfinite(numbers)]
    if len(numbers) < _FEW:
        return None
    if _is_time(name, numbers):
        return f"is a time, which only grows: set {_ignore(name)}"
    if (numbers == np.round(numbers)).all() and len(np.unique(numbers)) == len(numbers):
        dense = feature.max is not None and feature.min is not None and feature.max - feature.min < _SPREAD * rows
        counts = (np.diff(numbers) == 1).all() or (dense and len(numbers) >= _FEW_UNNAMED)
        if counts or _ID_NAME.fullmatch(name):
            return f"is an identifier, different in every row: set {_ignore(name)}"
    return None


def _is_time(name: str, numbers: Floats) -> bool:
    """Return whether numbers are times of recent years in any unit, or dates such as 20261124."""
    if not (_is_sorted(numbers) or _TIME_NAME.fullmatch(name)) or numbers.min() == numbers.max():
        return False
    now = time.time()
    for unit in _UNITS_OF_SECONDS:
        if now - 20 * _YEAR < numbers.min() / unit and numbers.max() / unit < now + _YEAR:
            return True
    months, days = numbers // 100 % 100, numbers % 100
    dates = (numbers == np.round(numbers)) & (months >= 1) & (months <= 12) & (days >= 1) & (days <= 31)
    return bool(dates.all()) and numbers.min() > 1990_00_00 and numbers.max() < 2100_00_00


def _growing_time(name: str, texts: list[str]) -> str | None:
    times = np.array([unix_seconds(text) for text in texts])
    times = times[np.isfinite(times)]
    if len(times) >= _FEW and _is_sorted(times) and times[0] != times[-1]:
        time_column = _flag("--time-column", name)
        return f"only grows, so live values are younger: set {time_column} if rows arrived then, else {_ignore(name)}"
    return None


def _is_sorted(numbers: Floats) -> bool:
    steps = np.diff(numbers)
    return bool((steps >= 0).all() or (steps <= 0).all())


def _texts(name: str, texts: list[str]) -> str | None:
    if len(texts) < _FEW:
        return None
    if all(_DATE.fullmatch(text) or _RFC_3339.match(text) for text in texts):
        return f"contains dates that are not RFC 3339, and are read as text: set {_ignore(name)}"
    if len(set(texts)) == len(texts):
        named = _ID_NAME.fullmatch(name) and not any(re.search(r"\s", text) for text in texts)
        if named or (len(texts) >= _FEW_UNNAMED and all(map(_ID.fullmatch, texts))):
            return f"is an identifier, different in every row: set {_ignore(name)}"
    return None


def _decimal_comma(name: str, texts: list[str], is_csv: bool) -> str | None:
    with_comma = [text for text in texts if "," in text]
    if not with_comma or not all(map(_DECIMAL_COMMA.fullmatch, texts)) or all(map(_THOUSANDS.fullmatch, with_comma)):
        return None
    advice = 'set --decimal=","' if is_csv else f"write them with a point, or set {_ignore(name)}"
    return f"contains numbers with decimal commas, which are read as text: {advice}"


def _confidence(
    name: str, values: Column, profile: Profile, sample: Mapping[str, Column], options: Options
) -> str | None:
    """Return what is wrong with the confidence."""
    feature, texts = profile.confidence, _strings(values)
    if not isinstance(feature, NumericFeature):
        return None
    without = f"set {_ignore(name)} instead of --confidence-column"
    if feature.counts[-1]:
        percent = any(text.rstrip().endswith("%") for text in texts)
        return f"is text such as {preview(next(iter(texts), ''), 20)}: {_PERCENT if percent else without}"
    if feature.min is None or feature.max is None or 0 <= feature.min <= feature.max <= 1:
        classes = map(scalar_text, as_list(sample.get(options.prediction_column or "", ())[:SAMPLE]))
        numbers = confidence_column(as_list(values[:SAMPLE]), options.confidence_percent).tolist()
        return confidence_of_class([(c, n) for c, n in zip(classes, numbers, strict=False) if c and 0 <= n <= 1])
    if feature.min >= 0 and feature.max <= 100:
        return f"is in percent: {_PERCENT}"
    return f"is not a confidence from 0 to 1, but {feature.min:g} to {feature.max:g}: {without}"


def _inexact_classes(name: str, values: Column, profile: Profile) -> str | None:
    """Return what is wrong with predictions that are whole numbers, if floats do not tell all of them apart."""
    if not (isinstance(values, np.ndarray) and values.dtype.kind == "f"):
        return None
    if not isinstance(classes := profile.prediction, CategoricalFeature):
        return None
    if all(abs(float(text)) < 2**53 for text in classes.categories):
        return None
    return f"has whole numbers from 2^53, where neighbours count as one: set {_flag('--type', f'{name}=categorical')}"


def _strings(values: Column) -> list[str]:
    if isinstance(values, np.ndarray):
        return []
    return [value for value in values[:SAMPLE] if isinstance(value, str) and value.strip()]


def _ignore(name: str) -> str:
    return _flag("--ignore", name)


def _flag(flag: str, name: str) -> str:
    """Return a flag with a name as a shell reads it."""
    return f"{flag}={name}" if re.fullmatch(r"[\w.-]+", name) else f'{flag}="{name}"'


def order_warnings(profile: Profile, warned: Collection[str]) -> Iterator[str]:
    """Yield what is wrong with the order of the rows, with the flag that corrects it.

    Inputs in ``warned`` have a warning already.
    """
    blocks = profile.blocks
    if not blocks:
        return
    column = preview(blocks.column)
    if blocks.order == GROUPED:
        is_input = blocks.column in profile.inputs
        calendar = f"{_ignore(blocks.column or '')} if it follows the calendar, else " if is_input else ""
        yield f"rows are grouped by {column}: set {calendar}--time-column, or --shuffled if there is no time"
    elif blocks.order == UNSORTED:
        advice = "sort the file by it, or set --shuffled"
        yield f"rows are not in the order of {column}, and too many to sort in memory: {advice}"
    elif blocks.column and not blocks.sizes and block_sizes(profile.rows):
        yield f"{column}: too few rows have a time: expected an RFC 3339 time or Unix seconds in each row"
    if blocks.times and blocks.sizes:
        yield from _time_warnings(blocks.times, column, profile.rows)
    for name, scores in blocks.targets.items():
        if name.partition(".")[0] in warned or name in warned:
            continue
        if name in blocks.calendar:
            found = "follows the calendar: each value is one stretch of the time, so those to come forbid estimates"
            yield f"{name}: {found}: set {_ignore(name)}"
            continue
        if scores.dependent and scores.quantiles[-1] > _THRESHOLD and scores.effective[-1] < blocks.sizes[-1] / 3:
            found = f"even {blocks.sizes[-1]:,} successive rows can be {scores.quantiles[-1]:.2g} nats from all rows"
            advice = "profile a longer time, or set --shuffled if the order of the rows has no meaning"
            yield f"{name}: {found}, so less drift is not seen: {advice}"


def _time_warnings(times: Times, column: str, rows: int) -> Iterator[str]:
    if times.unreadable > _MAX_UNREADABLE * rows:
        found = f"{times.unreadable:,} of {rows:,} rows have no readable time in {column}"
        yield f"{found} and are left out of the order: expected an RFC 3339 time or Unix seconds"
    first, last = (_year(seconds) for seconds in (times.earliest, times.latest))
    if last < _FIRST_YEAR:
        years = f"in {last}" if first == last else f"before {last + 1}"
        yield f"the times in {column} lie {years}: is this the column of times?"
    elif first > _LAST_YEAR:
        yield f"the times in {column} lie after {_LAST_YEAR}: expected Unix seconds, not milliseconds"


def _year(seconds: float) -> int:
    """Return the year of a time in Unix seconds, also of one that no date can hold."""
    return 1970 + int(seconds // _YEAR)


_FEW_ROWS = 500
_LEAST_RANGE = 0.02
_REVERSED = -3.0  # standard deviations of a correlation by chance


def label_warnings(profile: Profile) -> Iterator[str]:
    """Yield a line for each thing that makes the labels of a profile useless, with what to change."""
    quality = profile.quality
    if not quality:
        yield "no row has both a prediction and a label that can be compared with it, so no quality is known"
        return
    regression = quality.kind == "absolute_error"
    if quality.unusable:
        expected = "are not numbers, as the predictions are" if regression else "are neither text nor numbers"
        yield f"{quality.unusable} labels {expected}, and are left out"
    if quality.rows < LEAST_ROWS:
        yield f"only {quality.rows} rows have a label: with fewer than {LEAST_ROWS} nothing is estimated"
        return
    if quality.rows < _FEW_ROWS:
        yield f"{quality.rows} labelled rows are few: with at least {_FEW_ROWS} the intervals are narrower"
    if quality.overall == (0.0 if regression else 1.0):
        yield "every prediction is right: label rows that the model was not fitted on"
    elif quality.overall == 0.0:
        yield "no label equals its prediction: write both in the same way, such as 1 and 1, not 1 and yes"
    elif not regression:
        yield from _calibration_warnings(profile, quality)


def _calibration_warnings(profile: Profile, quality: Quality) -> Iterator[str]:
    """Yield what makes the calibration useless."""
    if not isinstance(profile.confidence, NumericFeature):
        yield "without a confidence, accuracy cannot be estimated for rows without labels: set --confidence-column"
        return
    rows = np.array(quality.calibration_rows[:-2], dtype=np.float64)
    right = np.array(quality.calibration_right[:-2], dtype=np.float64)
    if not rows.sum():
        yield "no labelled row has a confidence, so accuracy cannot be estimated for rows without labels"
        return
    if left_out := without_confidence(quality):
        yield f"{left_out}: give every prediction a confidence"
    if np.ptp(calibrated(rows, right)) < _LEAST_RANGE:
        if _correlation(rows, right) * np.sqrt(rows.sum()) < _REVERSED:
            yield "predictions with a higher confidence are wrong more often: check that the confidence is not reversed"
        else:
            yield "the confidence says nothing about which predictions are right: all estimates will be nearly equal"


def _correlation(rows: np.ndarray, right: np.ndarray) -> float:
    """Return the correlation of the confidence's rank and of being right."""
    total = rows.sum()
    rank = (np.cumsum(rows) - rows / 2) / total
    mean, accuracy = rank @ rows / total, right.sum() / total
    variance = (rank - mean) ** 2 @ rows / total
    covariance = (rank - mean) @ right / total
    spread = np.sqrt(variance * accuracy * (1 - accuracy))
    return float(covariance / spread) if spread > 0 else 0.0
