"""Describe a profile with text and small histograms."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import numpy as np

from exporter.profiles.profile import (
    FILE,
    GROUPED,
    SHUFFLED,
    Blocks,
    CategoricalFeature,
    Feature,
    NumericFeature,
    Profile,
    Quality,
)
from exporter.stats.divergence import Floats, Reference, chi2_quantiles
from exporter.stats.quality import calibrated, wilson
from exporter.validation import preview

_LEVELS = " ▁▂▃▄▅▆▇█"
_CELLS = 48
_SHOWN = 8
"""Number of categories with a bar."""


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


def describe_lines(profile: Profile, width: int = 80) -> Iterator[str]:
    """Yield the description line by line, each of at most ``width`` columns of a terminal, 80 or more."""
    made = f", made {profile.created:%Y-%m-%d %H:%M} UTC" if profile.created else ""
    yield truncate(f"{profile.name}: {profile.rows:,} rows{made}, hash {profile.hash[:12] or 'none'}", width)
    for name, kind in profile.input_types().items():
        if learned := kind.describe_state():
            yield from ("", truncate(f"{name}  {learned}", width))
        for feature in kind.features(name):
            yield from _feature(feature, kind.type, profile.features[feature], profile.blocks or None, width)
    if profile.prediction:
        yield from _feature("(prediction)", "", profile.prediction, profile.blocks or None, width)
    if profile.confidence:
        yield from _feature("(confidence)", "", profile.confidence, profile.blocks or None, width)
    yield from ("", truncate(order_line(profile.blocks or None), width))
    yield from (truncate(line, width) for line in quality_lines(profile))


def _feature(name: str, kind: str, feature: Feature, blocks: Blocks | None, width: int) -> Iterator[str]:
    parts = [kind] if kind else []
    if isinstance(feature, NumericFeature) and feature.edges and feature.min != feature.max:
        parts.append(f"mean {feature.mean:.4g}, stddev {feature.stddev:.4g}, {feature.min:.4g} to {feature.max:.4g}")
    yield ""
    yield truncate(f"{truncate(name, width - 48)}  {'; '.join(parts + notes(feature))}".rstrip(), width)
    if note := dependence_note(blocks, name, feature):
        yield truncate(f"  {note}", width)
    if isinstance(feature, CategoricalFeature):
        yield from _bars(feature)
    elif feature.edges and feature.min != feature.max:
        yield _histogram(feature)


def _histogram(feature: NumericFeature) -> str:
    """Return a line with the range in cells of equal width, and the mass in each."""
    edges = np.array(feature.edges)
    inner = np.array(feature.counts[1:-2], dtype=np.float64)[: len(edges) - 1]  # without values outside the range
    below = np.concatenate(([0.0], np.cumsum(inner)))
    # With a long tail all else would be in one cell: then only the middle 98 % are drawn.
    low, high = (float(np.interp(share * below[-1], below, edges)) for share in (0.01, 0.99))
    if edges[-1] / 4 - edges[0] / 4 <= high / 2 - low / 2:
        low, high = float(edges[0]), float(edges[-1])
    grid = np.interp(np.linspace(0, 1, _CELLS + 1), [0, 1], [low / 2, high / 2]) * 2
    grid[-1] = high
    index = np.clip(edges.searchsorted(grid, side="right") - 1, 0, len(edges) - 2)
    left, right = edges[index] / 2, edges[index + 1] / 2
    part = np.clip((grid / 2 - left) / np.maximum(right - left, 5e-324), 0, 1)
    masses: Floats = np.diff(below[index] + part * inner[index])
    heights = np.ceil(masses / max(masses.max(), 1e-300) * (len(_LEVELS) - 1)).astype(int)
    return f"  {low:>11.4g} {''.join(_LEVELS[height] for height in heights)} {high:.4g}"


def _bars(feature: CategoricalFeature) -> Iterator[str]:
    rows = max(sum(feature.counts), 1)
    size = len(feature.categories)
    shown = list(zip(feature.categories, feature.counts, strict=False))[:_SHOWN]
    rest = sum(feature.counts[_SHOWN : size + 1]) if size > _SHOWN else feature.counts[size]
    if rest:
        further = size - len(shown) + len(feature.rare)
        shown.append((f"{further:,} others" if further > 1 else "other", rest))
    most = max((count for _, count in shown), default=1)
    for name, count in shown:
        bar = "█" * round(30 * count / most) or "▏"
        yield f"  {_padded(truncate(name, 30), 30)} {bar} {_share(count, rows)}"


def _share(part: int, whole: int) -> str:
    percent = 100 * part / max(whole, 1)
    return f"{percent:.1f} %" if percent >= 0.05 else f"{part:,} of {whole:,}"


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


def _padded(text: str, width: int) -> str:
    return text + " " * (width - sum(map(_columns, text)))


_VALUES = 100
_LINES = 10
_MOST_WITHOUT_CONFIDENCE = 0.05
_BAR = 30
_INDEPENDENT = "values are taken as independent"


def order_line(blocks: Blocks | None) -> str:
    """Return in which order the rows are, and what follows from it."""
    if not blocks:
        return f"(order)  not known; {_INDEPENDENT}"
    column = preview(blocks.column)
    if not blocks.is_ordered:
        order = {SHUFFLED: "shuffled", GROUPED: f"grouped by {column}"}.get(blocks.order, f"not that of {column}")
        return f"(order)  {order}; {_INDEPENDENT}"
    where = "that of the file" if blocks.order == FILE else f"by {column}"
    if blocks.times and blocks.times.unreadable:
        where += f" without {blocks.times.unreadable:,} rows"
    if not blocks.sizes:
        rows = "rows" if blocks.order == FILE else "rows with a time"
        return f"(order)  {where}; too few {rows} to tell whether values depend on each other"
    dependent = sum(scores.dependent for scores in blocks.targets.values())
    found = f"depend on each other in {dependent} of {len(blocks.targets)} targets" if dependent else "are independent"
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
    higher = "" if times == "1.0" else f"{times} times "
    return f"the noise floor of {values} successive values is {higher}that of independent ones"


def without_confidence(quality: Quality) -> str:
    """Say which part of the labelled rows is left out because it has no confidence; nothing where that is 5 % or less.

    Parameters
    ----------
    quality
        A classifier's.
    """
    rows, right = quality.calibrated_rows, quality.calibrated_right
    if quality.without_confidence <= _MOST_WITHOUT_CONFIDENCE or not rows:
        return ""
    return (
        f"{100 * quality.without_confidence:.1f} % of the labelled rows have no valid confidence, and are left out of "
        f"estimates and of what these are compared with: {100 * right / rows:.1f} % of the others are right, "
        f"{100 * quality.overall:.1f} % of all"
    )


def quality_line(quality: Quality) -> str:
    """Return the overall quality in a line."""
    rows = f"{quality.rows:,} labelled rows"
    if quality.kind == "absolute_error":
        return f"(quality)  mean absolute error {quality.overall:.4g} over {rows}"
    _, lower, upper = wilson(round(quality.overall * quality.rows), quality.rows)
    interval = f"{100 * lower:.1f} to {100 * upper:.1f} %"
    return f"(quality)  accuracy {100 * quality.overall:.1f} % ({interval}) over {rows}"


def quality_lines(profile: Profile) -> Iterator[str]:
    """Yield how good the model was: overall, by confidence, and what explains the rest."""
    quality = profile.quality
    if not quality:
        return
    yield from ("", quality_line(quality))
    if left_out := without_confidence(quality):
        yield f"  {left_out}"
    if quality.calibration_rows and isinstance(profile.confidence, NumericFeature):
        yield from _calibration(profile.confidence, quality)
    if quality.kind == "absolute_error":
        names = ", ".join(quality.components) or "nothing"
        yield f"  error expected by: {names}"
    if quality.residuals:
        others = "other " if quality.components or quality.calibration_rows else ""
        yield f"  {others}features that go with the quality: {', '.join(quality.residuals)}"


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
        bar = "█" * round(_BAR * expected)
        yield f"  confidence {low:.3f} to {high:.3f}  {bar:{_BAR}} {100 * expected:5.1f} % right of {total:,}"
