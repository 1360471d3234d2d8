"""Strata by confidence for a sample of predictions that a reviewer decides, and how the sample is allocated to them.

A stratum where mistakes are rarer needs fewer labels for the same certainty: the variance of the estimated accuracy is
smallest when each stratum's share of the labels is proportional to its size times its standard deviation (Neyman, 1934;
Cochran, Sampling Techniques, 1977, section 5.5). Confidences alone do not tell the standard deviations, since a model's
confidences may say nothing about its mistakes. So they come from a model with one parameter, which reviewed samples
decide: see `shares`.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from exporter.stats.divergence import Floats

Integers = npt.NDArray[np.intp]

MAX_EDGES = 15
MIN_ROWS = 20
"""A stratum gets no fewer of the predictions from which the edges are taken."""
LABELS = 15
"""Labels that one more stratum takes at least."""
SMALLEST = 0.15
"""A stratum with a smaller part of the whole is not split further."""
PROPORTIONAL = 0.25
"""The part of the labels that is allocated by the size of the strata, whatever the confidences say."""
TRUST = np.linspace(0, 1, 5)
"""How far confidences are trusted: exponents of the ratio of mistakes that they claim."""
_PRIOR = np.array([0.5, 0.125, 0.125, 0.125, 0.125])


def stratum_of(confidences: Floats, edges: Sequence[float]) -> Integers:
    """Return each confidence's stratum: the number of edges that it reaches; NaN, for none, is the last stratum.

    >>> stratum_of(np.array([0.1, 0.5, 0.9, np.nan]), [0.5]).tolist()
    [0, 1, 1, 2]
    """
    strata = np.searchsorted(np.asarray(edges, float), confidences, side="right")
    return np.where(np.isnan(confidences), len(edges) + 1, strata)


def add_edges(edges: Sequence[float], confidences: Floats, labels: int) -> list[float]:
    """Split strata that are large for the number of labels.

    All given edges stay, so that a sample that was random within the given strata is random within the new ones.
    Strata should be equal in the cumulated root of the density (Dalenius and Hodges, 1959). Of the whole here, one half
    is the share of predictions and the other the share of the standard deviation that the confidences claim.

    Parameters
    ----------
    edges
        Ascending edges between strata.
    confidences
        Confidences of a random sample of the predictions, of shape (n,), NaN for none.
    labels
        How many predictions are or will be labelled.

    Returns
    -------
    list
        Ascending edges, at most `MAX_EDGES` unless more were given.
    """
    result = list(edges)
    values = np.sort(confidences[~np.isnan(confidences)])
    doubt = np.sqrt(1 - values)
    weights = np.ones(len(values)) / max(len(values), 1) + doubt / max(float(doubt.sum()), 1e-12)
    cumulated = np.concatenate([[0.0], np.cumsum(weights)])
    limit = max(SMALLEST, LABELS / max(labels, 1)) * cumulated[-1]
    bounds = [0, *np.searchsorted(values, result).tolist(), len(values)]
    todo = list(itertools.pairwise(bounds))
    while todo and len(result) < MAX_EDGES:
        start, end = max(todo, key=lambda part: cumulated[part[1]] - cumulated[part[0]])
        todo.remove((start, end))
        if cumulated[end] - cumulated[start] <= limit:
            break
        if middle := _middle(values, cumulated, start, end):
            result.append(float(values[middle]))
            todo += [(start, middle), (middle, end)]
    return sorted(result)


def _middle(values: Floats, cumulated: Floats, start: int, end: int) -> int | None:
    """Return where the upper half of a stratum begins; None if it has too few different values."""
    half = (cumulated[start] + cumulated[end]) / 2
    value = values[min(max(int(np.searchsorted(cumulated, half)), start), end - 1)]
    for side in ("left", "right"):  # equal values stay together
        middle = int(np.searchsorted(values, value, side))
        if start + MIN_ROWS <= middle <= end - MIN_ROWS:
            return middle
    return None


def shares(sizes: Floats, claimed: Floats, decided: Floats, wrong: Floats) -> Floats:
    """Return the share of all labels that each stratum should have, of shape (H,).

    The ratio of mistakes in a stratum is taken as proportional to c^t, where c is the ratio that the confidences claim.
    With t = 0 confidences say nothing; with t = 1 they are right up to a factor; in between, the model is too sure of
    itself, as with a wrong temperature. The variances are means over `TRUST`, weighted by a prior, half of which is on
    t = 0, and by the likelihood of the samples decided so far. The ratio of mistakes in all strata together has a prior
    of half a mistake at the claimed ratio.

    Parameters
    ----------
    sizes
        Predictions that can be labelled, by stratum; at least one in all.
    claimed
        Mean of 1 - confidence, by stratum; NaN where there is none.
    decided, wrong
        Decided samples of earlier draws, and those that were wrong, by stratum.
    """
    weights = sizes / sizes.sum()
    known = ~np.isnan(claimed) & (sizes > 0)
    mean = max(float(np.average(claimed[known], weights=sizes[known])) if known.any() else 0.0, 1e-4)
    relative = np.clip(np.where(np.isnan(claimed), mean, claimed) / mean, 1e-4, None)
    shapes = relative ** TRUST[:, None]
    shapes /= (shapes @ weights)[:, None]
    ratio = (wrong.sum() + 0.5) / (shapes @ decided + 0.5 / mean)
    mistakes = np.clip(ratio[:, None] * shapes, 1e-5, 0.99)
    likelihood = (wrong * np.log(mistakes) + (decided - wrong) * np.log1p(-mistakes)).sum(1)
    posterior = _PRIOR * np.exp(likelihood - likelihood.max())
    deviations = np.sqrt(posterior @ (mistakes * (1 - mistakes)) / posterior.sum())
    optimal = weights * deviations / (weights @ deviations)
    result: Floats = (1 - PROPORTIONAL) * optimal + PROPORTIONAL * weights
    return result


def allocate(count: int, goal: Floats, labelled: Sequence[int], available: Sequence[int]) -> list[int]:
    """Divide further labels among strata, so that all labels together come close to the goal (Webster's method).

    Parameters
    ----------
    count
        Number of further labels; fewer are allocated if fewer are available.
    goal
        The share of all labels that each stratum should have.
    labelled
        Labels that each stratum has.
    available
        How many more each stratum can get.

    >>> allocate(6, np.array([0.5, 0.25, 0.25]), [0, 0, 4], [9, 1, 9])
    [5, 1, 0]
    """
    result = [0] * len(labelled)
    queue = [
        (-share / (have + 0.5), h) for h, (share, have) in enumerate(zip(goal, labelled, strict=True)) if share > 0
    ]
    heapq.heapify(queue)
    while queue and sum(result) < count:
        _, h = heapq.heappop(queue)
        if result[h] < available[h]:
            result[h] += 1
            heapq.heappush(queue, (-goal[h] / (labelled[h] + result[h] + 0.5), h))
    return result
