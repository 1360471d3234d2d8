"""Which predictions count as confident."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from exporter.stats.divergence import Floats

_FIRST_ERROR = 400


def are_confident(
    confidences: Sequence[float | None] | Floats, threshold: float, codes: Sequence[int | None] = ()
) -> npt.NDArray[np.bool_]:
    """Return whether each prediction is confident: its confidence is at or above the threshold, and it is no error.

    Parameters
    ----------
    confidences
        Confidence of each of ``n`` predictions; None or NaN where it has none.
    threshold
        The model's ``confidence_threshold``.
    codes
        HTTP code of each prediction; None, or an empty sequence, where nothing failed.

    Returns
    -------
    ndarray
        Shape ``(n,)``.

    Examples
    --------
    >>> are_confident([0.9, 0.5, None, 0.9], 0.8, [200, None, None, 500]).tolist()
    [True, False, False, False]
    """
    confident: npt.NDArray[np.bool_] = np.asarray(confidences, dtype=np.float64) >= threshold
    if len(codes):
        confident &= np.array([code is None or code < _FIRST_ERROR for code in codes], dtype=np.bool_)
    return confident
