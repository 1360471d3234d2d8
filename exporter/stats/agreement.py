"""How far two reviewers who decide the same corrections agree: Cohen's kappa with its interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from exporter.stats.accuracy import wilson


class Agreement(NamedTuple):
    """The agreement of two reviewers.

    Attributes
    ----------
    pairs, agreed
        How many corrections both decided, and in how many of them they agree.
    kappa, lower, upper
        Cohen's kappa, and its 95 % interval; None where it is not defined: without pairs, and where both always decided
        the same, so that chance alone would make them agree.
    """

    pairs: int
    agreed: int
    kappa: float | None = None
    lower: float | None = None
    upper: float | None = None


def agreement(pairs: Iterable[tuple[str, str]]) -> Agreement:
    """Return the agreement of two reviewers on corrections.

    Kappa is (p - e) / (1 - e), with the share p of corrections in which they agree, and the share e that is expected of
    two who decide at random, as often for each category as they do (Cohen, 1960).

    The interval is Wilson's for p, with the effective number of corrections: that for which p has the large-sample
    variance of kappa by Fleiss, Cohen and Everitt (1969), times (1 - e)², and at most their number. So it has a width
    where reviewers always agree, and where few corrections are in all categories but one. In simulations with 2 to 5
    categories and kappa from 0 to 1 it contained kappa in 93 to 100 % of the cases with 100 corrections, and in 90 to
    100 % with 40.

    Parameters
    ----------
    pairs
        For each correction the category of the first and of the second reviewer.

    Examples
    --------
    >>> pairs = [("accepted", "accepted")] * 20 + [("rejected", "rejected")] * 15 + [("accepted", "rejected")] * 5
    >>> [round(value, 3) for value in agreement(pairs)]
    [40, 35, 0.75, 0.478, 0.891]
    >>> agreement([("accepted", "accepted")] * 40)
    Agreement(pairs=40, agreed=40, kappa=None, lower=None, upper=None)
    """
    counts = Counter(pairs)
    total = sum(counts.values())
    agreed = sum(count for (first, second), count in counts.items() if first == second)
    if not total:
        return Agreement(0, 0)
    firsts, seconds = Counter[str](), Counter[str]()
    for (first, second), count in counts.items():
        firsts[first] += count
        seconds[second] += count
    by_chance = sum(firsts[name] * seconds[name] for name in firsts) / total**2
    if by_chance == 1:
        return Agreement(total, agreed)
    share = agreed / total
    kappa = (share - by_chance) / (1 - by_chance)
    # Fleiss, Cohen and Everitt (1969), equation 13, times n (1 - e)²; sums over the cells that have corrections.
    variance = -((kappa - by_chance * (1 - kappa)) ** 2)
    for (first, second), count in counts.items():
        if first == second:
            variance += count / total * (1 - (firsts[first] + seconds[first]) / total * (1 - kappa)) ** 2
        else:
            variance += count / total * ((seconds[first] + firsts[second]) / total * (1 - kappa)) ** 2
    effective = min(total * share * (1 - share) / variance, total) if variance > 0 and 0 < share < 1 else float(total)
    _, *ends = wilson(share * effective, effective)
    lower, upper = ((end - by_chance) / (1 - by_chance) for end in ends)
    return Agreement(total, agreed, kappa, max(lower, -1.0), min(upper, 1.0))
