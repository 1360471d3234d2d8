"""Which predictions count as confident."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from exporter.config import ModelConfig
from exporter.stats.divergence import Floats

_FIRST_ERROR = 400


def are_confident(
    config: ModelConfig, confidences: Sequence[float | None] | Floats, codes: Sequence[int | None] = ()
) -> npt.NDArray[np.bool_]:
    """Return whether each prediction is confident: its confidence is at or above the threshold, and it is no error.

    A prediction without a confidence is confident, unless the model's configuration sets ``confidence_threshold``: so a
    regression has shares of corrected predictions, too.

    Parameters
    ----------
    config
        The model's configuration.
    confidences
        Confidence of each of ``n`` predictions; None or NaN where it has none.
    codes
        HTTP code of each prediction; None, or an empty sequence, where nothing failed.

    Returns
    -------
    ndarray
        Shape ``(n,)``.

    Examples
    --------
    >>> are_confident(ModelConfig("digits"), [0.9, 0.5, None, 0.9], [200, None, None, 500]).tolist()
    [True, False, True, False]
    >>> are_confident(ModelConfig("digits", confidence_threshold=0.8), [0.9, 0.5, None]).tolist()
    [True, False, False]
    """
    column = np.asarray(confidences, dtype=np.float64)
    confident: npt.NDArray[np.bool_] = column >= config.confident_from()
    if config.confidence_threshold is None:
        confident |= np.isnan(column)
    if len(codes):
        confident &= np.array([code is None or code < _FIRST_ERROR for code in codes], dtype=np.bool_)
    return confident
