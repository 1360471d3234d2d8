"""Cohen's kappa: equal to scikit-learn's, with an interval that has its width."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from exporter.stats.agreement import Agreement, agreement


def draw(rng: np.random.Generator, table: np.ndarray, count: int) -> list[tuple[str, str]]:
    """Pairs of categories at random, by the probabilities in a table."""
    cells = rng.choice(table.size, count, p=table.ravel())
    return [(str(cell // len(table)), str(cell % len(table))) for cell in cells]


def test_kappa_is_that_of_scikit_learn() -> None:
    """For any number of categories, agreement and corrections, the categories of one reviewer only included."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        size = int(rng.integers(2, 8))
        pairs = draw(rng, rng.dirichlet(np.full(size**2, 0.3)).reshape(size, size), int(rng.integers(2, 200)))
        found = agreement(pairs)
        firsts, seconds = zip(*pairs, strict=True)
        if len({*firsts, *seconds}) == 1:
            assert found.kappa is None
            continue
        assert found.kappa == pytest.approx(cohen_kappa_score(firsts, seconds), abs=1e-12)
        assert found.lower is not None
        assert found.upper is not None
        assert -1 <= found.lower <= found.kappa + 1e-12
        assert found.kappa <= found.upper <= 1
        assert found.agreed == sum(first == second for first, second in pairs)


def test_the_interval_contains_kappa_in_95_percent_of_cases() -> None:
    """Of 100 corrections in three categories, within the error of 2,000 repetitions."""
    rng = np.random.default_rng(2)
    share = np.array([0.6, 0.3, 0.1])
    table = 0.8 * np.diag(share) + 0.2 * np.outer(share, share)  # kappa is 0.8
    found = [agreement(draw(rng, table, 100)) for _ in range(2000)]
    covered = np.mean([one.lower <= 0.8 <= one.upper for one in found])  # type: ignore[operator]
    assert 0.935 < covered < 0.97
    spread = np.std([one.kappa for one in found])
    assert np.mean([one.upper - one.lower for one in found]) / (2 * 1.96) == pytest.approx(spread, rel=0.1)  # type: ignore[operator]


def test_reviewers_who_always_decide_the_same() -> None:
    """Kappa is not defined when both always accept, and 0 when only one does."""
    same = ("accepted", "accepted")
    assert agreement([]) == Agreement(0, 0)
    assert agreement([same] * 40) == Agreement(40, 40)
    one = agreement([same] * 30 + [("accepted", "rejected")] * 10)
    assert one.kappa == pytest.approx(0, abs=1e-12)
    assert agreement([same] * 9 + [("accepted", "rejected")]).lower == -1  # no kappa is lower
    never = agreement([("accepted", "rejected")])
    assert never.kappa == 0
    assert never.lower == 0
    always = agreement([same] * 20 + [("rejected", "rejected")] * 20)
    assert (always.kappa, always.upper) == (1, 1)
    assert always.lower is not None
    assert 0.7 < always.lower < 0.9
    assert all(math.isfinite(value) for value in (*one[2:], *never[2:], *always[2:]))  # type: ignore[arg-type]
