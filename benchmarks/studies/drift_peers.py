"""Scores of other drift monitors for the study: Evidently, NannyML, boxkite.

Each score uses the monitor's own code if the package can be imported, and otherwise its published
formula, which this module implements. `ORIGIN` records which.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def _imported(module: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # their warnings do not matter here
            return importlib.import_module(module)
    except ImportError:
        return None


_kl = _imported("evidently.legacy.calculations.stattests.kl_div")
_psi = _imported("evidently.legacy.calculations.stattests.psi")
_nannyml = _imported("nannyml.drift.univariate.methods")
_boxkite = _imported("boxkite.utils.histogram")
ORIGIN = {
    "Evidently": "its own code" if _kl and _psi else "its formula",
    "NannyML": "its own code" if _nannyml else "its formula",
    "boxkite": "its own bins and its PromQL" if _boxkite else "its formula",
}


class Peer(NamedTuple):
    """A score of a window against training, and the default threshold of its alarm.

    ``scorer`` takes training values of shape ``(N,)`` and whether they are categories or a few
    integers, and returns a function from the values of a window to its score. ``threshold`` is
    None if it is the mean plus three standard deviations over chunks of the training data.
    """

    name: str
    scorer: Callable[[Floats, bool], Callable[[Floats], float]]
    threshold: float | None


def evidently_scorer(which: str) -> Callable[[Floats, bool], Callable[[Floats], float]]:
    """Return KL(reference ‖ live) or PSI over bins of both samples together (Sturges), zeros filled.

    Formula after Evidently 0.7.23, ``stattests/utils.py`` (``get_binned_data``), ``kl_div.py`` and
    ``psi.py``; its pipeline drops missing values first.
    """

    def scorer(training: Floats, discrete: bool) -> Callable[[Floats], float]:
        if _kl and _psi:
            pandas = importlib.import_module("pandas")
            column = importlib.import_module("evidently.legacy.core").ColumnType
            kind = column.Categorical if discrete else column.Numerical
            call = _kl._kl_div if which == "kl" else _psi._psi
            reference = pandas.Series(training)
            return lambda live: float(call(reference, pandas.Series(live[~np.isnan(live)]), kind, 0.1)[0])
        return lambda live: evidently_formula(which, training, live[~np.isnan(live)], discrete)

    return scorer


def evidently_formula(which: str, training: Floats, live: Floats, discrete: bool) -> float:
    """Return a scorer with Evidently's formula."""
    if discrete:
        bins = np.unique(np.concatenate([training, live]))
        p, q = (np.bincount(bins.searchsorted(x), minlength=len(bins)) / len(x) for x in (training, live))
    else:
        edges = np.histogram_bin_edges(np.concatenate([training, live]), bins="sturges")
        p, q = (np.histogram(x, edges)[0] / len(x) for x in (training, live))
    for share in (p, q):
        least = share[share > 0].min()
        share[share == 0] = least / 1e6 if least <= 1e-4 else 1e-4
    if which == "kl":
        p, q = p / p.sum(), q / q.sum()
        return float((p * np.log(p / q)).sum())
    return float(((p - q) * np.log(p / q)).sum())


def nannyml_scorer(training: Floats, discrete: bool) -> Callable[[Floats], float]:
    """Return the Jensen-Shannon distance, base 2, over bins fixed on training (Doane).

    Formula after NannyML 0.13.1, ``drift/univariate/methods.py``; it drops missing values.
    """
    if _nannyml:
        pandas = importlib.import_module("pandas")
        name = "CategoricalJensenShannonDistance" if discrete else "ContinuousJensenShannonDistance"
        method = getattr(_nannyml, name)(chunker=None, threshold=None)
        method._fit(pandas.Series(training))
        return lambda live: float(method._calculate(pandas.Series(live)))
    return nannyml_formula(training, discrete)


def nannyml_formula(training: Floats, discrete: bool) -> Callable[[Floats], float]:
    """Return a scorer with NannyML's formula."""
    if discrete:
        bins, counts = np.unique(training, return_counts=True)
    else:
        bins = np.histogram_bin_edges(training, bins="doane")
        counts = np.histogram(training, bins)[0]
    p = np.append(counts / len(training), 0.0)

    def score(live: Floats) -> float:
        live = live[~np.isnan(live)]
        if discrete:
            indices = bins.searchsorted(live).clip(max=len(bins) - 1)
            inside = np.bincount(indices[bins[indices] == live], minlength=len(bins)) / len(live)
        else:
            inside = np.histogram(live, bins)[0] / len(live)
        q = np.append(inside, 1 - inside.sum())
        middle = (p + q) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            halves = [np.where(x > 0, x * np.log2(x / middle), 0.0).sum() for x in (p, q)]
        return float(np.sqrt(max(sum(halves) / 2, 0.0)))

    return score


def boxkite_scorer(training: Floats, discrete: bool) -> Callable[[Floats], float]:
    """Return a scorer for KL(training ‖ live) + KL(live ‖ training), with one added to every bin.

    This is the PromQL of boxkite's dashboard (``examples/grafana-prometheus/metrics/dashboards/model.json``)
    over the bins of ``utils/histogram.py``. The dashboard uses it for discrete features only and
    a Kolmogorov-Smirnov statistic for others; this study uses it for both. A bin that training does
    not have matches nothing in PromQL and counts only in the live total.
    """
    if discrete:
        bins = np.unique(training)
        counts = np.bincount(bins.searchsorted(training), minlength=len(bins))
    else:
        bins = np.array(_boxkite.get_bins(training) if _boxkite else boxkite_bins(training))
        counts = np.bincount(bins.searchsorted(training), minlength=len(bins) + 1)
    p = (counts + 1) / (counts.sum() + len(counts))

    def score(live: Floats) -> float:
        if discrete:
            indices = bins.searchsorted(live).clip(max=len(bins) - 1)
            matches = bins[indices] == live
            seen = np.bincount(indices[matches], minlength=len(bins))
            size = len(bins) + len(np.unique(live[~matches]))
        else:
            seen = np.bincount(np.where(np.isnan(live), len(bins), bins.searchsorted(live)), minlength=len(bins) + 1)
            size = len(seen)
        q = (seen + 1) / (len(live) + size)
        return float((p * np.log(p / q)).sum() + (q * np.log(q / p)).sum())

    return score


def boxkite_bins(training: Floats) -> Floats:
    """Return boxkite's upper bounds: numpy's automatic bins, at most 50 of them around the quartiles."""
    edges = np.histogram_bin_edges(training, bins="auto")
    if len(edges) <= 50:
        return edges if len(edges) > 1 else np.array([training.min(), training.max()])
    low, high = training.min(), training.max()
    upper, lower = np.percentile(training, [75, 25])
    start = max((upper + lower) / 2 - (upper - lower), low)
    stop = min(start + 2 * (upper - lower), high)
    inner = np.linspace(start, stop, 50)
    return np.array([*([low] if start > low else []), *inner, *([high] if stop < high else [])])


PEERS = (
    Peer("Evidently KL", evidently_scorer("kl"), 0.1),
    Peer("Evidently PSI", evidently_scorer("psi"), 0.1),
    Peer("NannyML JS", nannyml_scorer, None),
    Peer("boxkite", boxkite_scorer, 1.0),
)


def peer_scores(peer: Peer, training: Floats, windows: Floats, discrete: bool) -> tuple[Floats, float]:
    """Return the scores of windows of shape ``(W, n)``, and the threshold to compare them with."""
    score = peer.scorer(training, discrete)
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = np.array([score(window) for window in windows])
        threshold = peer.threshold
        if threshold is None:
            size = windows.shape[1]
            chunks = training[: len(training) // size * size].reshape(-1, size)
            scalar_scores = np.array([score(chunk) for chunk in chunks[:300]])
            threshold = float(scalar_scores.mean() + 3 * scalar_scores.std())
    return scores, threshold
