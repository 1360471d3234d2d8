"""Learn the quality from binned labelled rows, in the same way for files and for tables of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from exporter.profiles.quality_record import CONFIDENCE, MAX_COMPONENTS, MAX_RESIDUALS, BinEffects, Quality
from exporter.stats.divergence import Floats
from exporter.stats.labelled_bins import Effects, LabelledBins
from exporter.stats.quality import calibrated

LARGE = 0.95
"""Share of the rows that do not exceed `Quality.large`."""
LARGEST_ERROR = 1e75
"""A larger error is not used, so that sums of its fourth power stay finite."""
_CELLS = 20_000_000
_ROWS = 200_000
_Values = TypeVar("_Values")


def most_rows(targets: int) -> int:
    """Return from how many rows at most is learned what goes with the quality, by the number of targets."""
    return max(min(_ROWS, _CELLS // max(targets, 1)), 1)


def learn_accuracy(
    quality: Quality,
    names: Sequence[str],
    labelled: LabelledBins[_Values],
    right: _Values,
    in_bin: Floats,
) -> Quality:
    """Return the quality with the calibration, and with the features that go with what it leaves unexplained.

    Parameters
    ----------
    quality
        The quality.
    names
        The targets.
    labelled
        Labelled rows with a valid confidence.
    right
        Whether each of these rows is right, 1 or 0.
    in_bin
        Number of all labelled rows in each bin of the confidence, and of those that are right, shape ``(2, K)``.
    """
    accuracy = np.zeros(in_bin.shape[1])
    accuracy[:-2] = calibrated(*in_bin[:, :-2])
    return _with_residuals(
        quality,
        names,
        labelled,
        labelled.less(right, 0.0, {names.index(CONFIDENCE): accuracy}),
        calibration_rows=tuple(map(int, in_bin[0])),
        calibration_right=tuple(map(int, in_bin[1])),
    )


def learn_error(
    quality: Quality, names: Sequence[str], labelled: LabelledBins[_Values], losses: _Values, large: float
) -> Quality:
    """Return the quality with the components of the error, and with the features that go with what they leave.

    Parameters
    ----------
    quality
        The quality.
    names
        The targets.
    labelled
        Labelled rows.
    losses
        The absolute error of each of them.
    large
        An error that `LARGE` of the rows do not exceed.
    """
    chosen = labelled.explaining(losses, MAX_COMPONENTS)
    effects = labelled.fit(losses, chosen)
    residuals = labelled.remaining(losses, chosen, effects)
    squares = labelled.squares(residuals)
    spread = labelled.fit(squares, chosen)
    components = {
        names[target]: _bin_effects(effect, of_square)
        for target, effect, of_square in zip(chosen, effects, spread, strict=True)
    }
    return _with_residuals(
        quality,
        names,
        labelled,
        residuals,
        components=components,
        variance=rounded(labelled.moments(squares).mean),
        large=rounded(large),
    )


def _with_residuals(
    quality: Quality, names: Sequence[str], labelled: LabelledBins[_Values], residuals: _Values, **fields: Any
) -> Quality:
    associated = labelled.associated(residuals, MAX_RESIDUALS)
    return msgspec.structs.replace(
        quality,
        residuals={names[target]: _bin_effects(effect) for target, effect in associated.items()},
        between_periods=rounded(labelled.variance_between(residuals)),
        **fields,
    )


def _bin_effects(effect: Effects, of_square: Effects | None = None) -> BinEffects:
    variances = of_square.values.tolist() if of_square else []
    return BinEffects(
        tuple(map(int, effect.rows)), tuple(map(rounded, effect.values.tolist())), tuple(map(rounded, variances))
    )


def rounded(number: float) -> float:
    """Return a number with six digits: enough for an estimate, and short in the file."""
    return float(f"{number:.6g}")
