"""χ² quantiles of the noise floors.

``model-exporter profile`` computes them with scipy and writes them into the profile. The server reads them from there,
because scipy would cost it 24 MiB and a quarter of a second. It imports scipy only for profiles that have none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from exporter.stats.divergence import NOISE_CONFIDENCE, Floats


def chi2_quantiles(degrees: Iterable[int]) -> dict[int, float]:
    """Return the χ² quantile at `NOISE_CONFIDENCE` for each number of degrees of freedom, at least 1; imports scipy.

    >>> {degrees: round(quantile, 4) for degrees, quantile in chi2_quantiles([1, 23]).items()}
    {1: 6.6349, 23: 41.6384}
    """
    from scipy.special import chdtri

    return {number: float(chdtri(number, 1 - NOISE_CONFIDENCE)) for number in sorted(degrees)}


def quantile_array(quantiles: Mapping[int, float]) -> Floats:
    """Return the quantiles as an array indexed by degrees of freedom: 0 for none, NaN for those not given.

    >>> quantile_array({1: 6.6, 3: 11.3}).tolist()
    [0.0, 6.6, nan, 11.3]
    """
    array = np.full(max(quantiles, default=0) + 1, np.nan)
    array[0] = 0.0
    array[list(quantiles)] = list(quantiles.values())
    return array
