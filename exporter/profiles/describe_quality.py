"""Describe with text and bars how good a model was on labelled rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from exporter.profiles.profile import NumericFeature, Profile
from exporter.profiles.quality_record import Quality
from exporter.profiles.quality_warnings import without_confidence
from exporter.stats.accuracy import wilson
from exporter.stats.quality import calibrated

_LINES = 10
_BAR = 30


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
