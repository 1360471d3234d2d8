"""Measure how many labels a stratified sample for review needs, compared with a plain random sample.

``python benchmarks/sampling_study.py`` takes about six minutes and writes the table between the marks of
``docs/review.md``. ``--quick`` prints it from few repetitions. Confidences come from simulations and data sets that
scikit-learn ships. Strata, allocation and interval are the exporter's; a review is a random draw from each stratum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import study_tables
from sklearn.datasets import load_breast_cancer, load_digits, load_wine, make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_predict
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from study_tables import table

from exporter.stats.accuracy import IntervalEstimate, estimate_accuracy, wilson
from exporter.stats.divergence import Floats
from exporter.stats.strata import add_edges, allocate, shares, stratum_of

PAGE = Path(__file__).parents[1] / "docs" / "review.md"
THRESHOLD = 0.8
POPULATION, SEEN = 1_000_000, 10_000
"""Predictions in the store, and those that a draw reads."""
TOTALS = (50, 100, 200, 400, 800)
"""Labels after each draw."""
GRID = np.unique(np.geomspace(20, 4000, 120).astype(int))


class Case(NamedTuple):
    """Confidences of predictions, and the probability that each is wrong."""

    name: str
    confidence: Floats
    wrong: Floats


def simulated() -> Iterator[Case]:
    """Yield confident predictions with known probabilities of a mistake."""
    rng = np.random.default_rng(1)
    confidence = 0.5 + 0.5 * rng.beta(1.2, 0.25, 60_000)
    confidence = confidence[confidence >= THRESHOLD]
    doubt, upper = 1 - confidence, confidence >= np.median(confidence)
    yield Case("calibrated", confidence, doubt)
    yield Case("three times too confident", confidence, np.minimum(3 * doubt, 0.6))
    yield Case("too confident, many mistakes", confidence, 0.05 + 2 * doubt)
    for ratio in (0.01, 0.05, 0.2):
        yield Case(f"confidence says nothing, {ratio:.0%} wrong", confidence, np.full(len(doubt), ratio))
    yield Case("all mistakes among the surest half", confidence, 0.04 * upper)
    yield Case("reversed", confidence, np.where(upper, 0.2, 0.02))
    half = np.where(rng.random(len(doubt)) < 0.5, confidence, np.nan)
    yield Case("half without a confidence, calibrated", half, doubt)
    yield Case("one confidence for all", np.full(len(doubt), 0.9), np.full(len(doubt), 0.1))


def real() -> Iterator[Case]:
    """Yield out-of-fold predictions of models on data sets that scikit-learn ships; their confident ones only."""
    noisy = make_classification(4000, 20, n_informative=5, flip_y=0.0, class_sep=2.0, random_state=3)
    flipped = np.where(np.random.default_rng(4).random(4000) < 0.1, 1 - noisy[1], noisy[1])
    digits, cancer, wine = (load(return_X_y=True) for load in (load_digits, load_breast_cancer, load_wine))
    forest = RandomForestClassifier(100, min_samples_leaf=3, random_state=0)
    dark = (digits[0] * np.random.default_rng(5).uniform(0.05, 1, (len(digits[0]), 1)), digits[1])
    for name, (inputs, labels), model in (
        ("digits, naive Bayes", digits, GaussianNB(var_smoothing=1e-3)),
        ("digits in bad light, nearest neighbours", dark, KNeighborsClassifier(10)),
        ("breast cancer, naive Bayes", cancer, GaussianNB()),
        ("wine in three inputs, naive Bayes", (wine[0][:, :3], wine[1]), GaussianNB()),
        ("classes, 10 % of labels at random, forest", (noisy[0], flipped), forest),
    ):
        scores = cross_val_predict(model, inputs, labels, cv=5, method="predict_proba")
        confidence = scores.max(1)
        wrong = (scores.argmax(1) != labels).astype(float)
        chosen = confidence >= THRESHOLD
        yield Case(name, confidence[chosen], wrong[chosen])


def review(case: Case, rng: np.random.Generator, goal: Callable[..., Floats]) -> Iterator[IntervalEstimate]:
    """Yield the estimate after each draw, when all of its samples are decided."""
    edges: list[float] = []
    confidence, wrong = np.empty(0), np.empty(0)
    for total in TOTALS:
        seen = case.confidence[rng.integers(len(case.confidence), size=SEEN)]
        edges = add_edges(edges, seen, total)
        width = len(edges) + 2
        strata = stratum_of(seen, edges)
        rows = np.bincount(strata, minlength=width)
        with np.errstate(invalid="ignore"):
            claimed = np.bincount(strata, weights=1 - seen, minlength=width) / rows
        decided, mistakes = _counts(confidence, wrong, edges)
        sizes = rows * (POPULATION / SEEN)
        have = decided.astype(int).tolist()
        drawn = allocate(total - len(wrong), goal(sizes, claimed, decided, mistakes), have, sizes.astype(int).tolist())
        members = stratum_of(case.confidence, edges)
        for stratum, count in enumerate(drawn):
            if count:
                chosen = rng.choice(np.flatnonzero(members == stratum), count)
                confidence = np.concatenate([confidence, case.confidence[chosen]])
                wrong = np.concatenate([wrong, rng.random(count) < case.wrong[chosen]])
        decided, mistakes = _counts(confidence, wrong, edges)
        yield estimate_accuracy(sizes, np.zeros(width), 0, decided, decided - mistakes, seen=SEEN)


def _counts(confidence: Floats, wrong: Floats, edges: list[float]) -> tuple[Floats, Floats]:
    """Return labels and mistakes by stratum."""
    strata, width = stratum_of(confidence, edges), len(edges) + 2
    return np.bincount(strata, minlength=width).astype(float), np.bincount(strata, weights=wrong, minlength=width)


def by_confidence(sizes: Floats, claimed: Floats, *_: Floats) -> Floats:
    """Allocate as if the confidences were right, which the exporter does not do: for comparison."""
    claimed = np.where(np.isnan(claimed), np.nanmean(claimed), claimed)
    result: Floats = sizes * np.sqrt(np.maximum(claimed * (1 - claimed), 1e-6))
    return result / result.sum()


def plain(truth: float, rng: np.random.Generator, runs: int) -> tuple[Floats, list[float]]:
    """Return the mean width of a plain sample's interval at each size of `GRID`, and its coverage at `TOTALS`."""
    widths = []
    for size in GRID:
        bounds = [wilson(right, int(size)) for right in rng.binomial(size, truth, 400)]
        widths.append(np.mean([bound.upper - bound.lower for bound in bounds]))
    covered = []
    for size in TOTALS:
        bounds = [wilson(right, size) for right in rng.binomial(size, truth, runs)]
        covered.append(float(np.mean([bound.lower <= truth <= bound.upper for bound in bounds])))
    return np.minimum.accumulate(np.array(widths)), covered


def measure(case: Case, runs: int) -> list[str]:
    """Return the case's row of the table."""
    rng = np.random.default_rng(7)
    truth = 1 - float(case.wrong.mean())
    widths, plain_covered = plain(truth, rng, 4 * runs)

    def ratio(width: float, total: int) -> float:
        """Return the labels per label of a plain sample whose interval is as wide."""
        return total / float(np.interp(-width, -widths, GRID))

    estimates = np.array([list(review(case, rng, shares)) for _ in range(runs)])  # (runs, draws, 3)
    mean = (estimates[:, :, 2] - estimates[:, :, 1]).mean(0)
    covered = ((estimates[:, :, 1] <= truth) & (truth <= estimates[:, :, 2])).mean(0)
    bias = 100 * (estimates[:, :, 0].mean(0) - truth)
    naive = np.array([list(review(case, rng, by_confidence)) for _ in range(max(runs // 4, 10))])
    naive_ratio = ratio(float((naive[:, -1, 2] - naive[:, -1, 1]).mean()), TOTALS[-1])
    naive_covered = ((naive[:, -1, 1] <= truth) & (truth <= naive[:, -1, 2])).mean()
    cells = [case.name, f"{truth:.1%}", f"{best(case):.2f}"]
    cells += [f"{ratio(float(width), total):.2f}" for width, total in zip(mean, TOTALS, strict=True)]
    cells += [f"{covered.min():.1%} ({min(plain_covered):.1%})", f"{bias[np.abs(bias).argmax()]:+.2f}"]
    cells += [f"{naive_ratio:.2f} ({naive_covered:.0%})"]
    return cells


def best(case: Case) -> float:
    """Return the ratio of labels with many labels if the ratio of mistakes in each stratum were known before."""
    strata = stratum_of(case.confidence, add_edges([], case.confidence, TOTALS[-1]))
    sizes = np.bincount(strata)
    mistakes = np.bincount(strata, weights=case.wrong) / np.maximum(sizes, 1)
    mean = float(case.wrong.mean())
    return float(sizes @ np.sqrt(mistakes * (1 - mistakes)) / sizes.sum()) ** 2 / (mean * (1 - mean))


HEAD = ("predictions", "right", "best", *map(str, TOTALS), "coverage (plain)", "bias", "by confidence alone")


def tables(quick: bool) -> Iterator[tuple[str, str]]:
    """Return the name and the text of the table."""
    rows = []
    for case in (*simulated(), *real()):
        rows.append(measure(case, 100 if quick else 1000))
        print(" | ".join(rows[-1]), flush=True)
    yield "sampling", table(HEAD, rows)


if __name__ == "__main__":
    study_tables.run(__doc__, PAGE, tables)
