"""Study whether the weights that a profile learns from predictions are those that the models themselves show.

Real models are fitted to half of each data set, and a profile is made of their predictions for the other half. The
truth is permutation importance of the model itself: how often its answer changes, or by how much, where the values of a
feature are exchanged between rows. ``--packages FOLDER`` adds data that packages ship, see `quality_real`. Prints
tables for the documentation; takes about 10 minutes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import quality_real
from scipy.stats import spearmanr
from study_tables import table
from weights_cases import Data, models, real, shipped, simulated

from exporter.profiles.bins import feature_bins
from exporter.profiles.builder import build_file
from exporter.profiles.profile import HARDLY_USED, NumericFeature, Profile

Rng = np.random.Generator
ROWS, TESTED, REPEATS = 40_000, 4_000, 3
DRIFTS, WINDOW = 40, 2_000
UNUSED, USED = 0.02, 0.05
"""Features with at most the first weight are truly hardly used; those with more than the second one are used."""


class Result(NamedTuple):
    """What was learned of one model, and the truth."""

    group: str
    name: str
    weights: np.ndarray
    upper: np.ndarray
    fidelity: float
    truth: np.ndarray
    ranking: dict[str, float]


class Tested:
    """A fitted model, and rows on which its answers are known."""

    def __init__(self, model: Any, rows: pd.DataFrame, is_classifier: bool) -> None:
        self._model, self.rows, self._is_classifier = model, rows, is_classifier
        self.answers = model.predict(rows)
        shares = np.unique(self.answers, return_counts=True)[1] / len(rows)
        self._scale = 1 - (shares**2).sum() if is_classifier else 2 * self.answers.var()

    def change(self, changed: pd.DataFrame, start: int = 0) -> float:
        """Return how much the answers of some rows change, relative to those of other rows."""
        answers, before = self._model.predict(changed), self.answers[start : start + len(changed)]
        difference = answers != before if self._is_classifier else (answers - before) ** 2
        return float(difference.mean() / self._scale)


def true_weights(rng: Rng, tested: Tested) -> np.ndarray:
    """Return permutation importance by the model itself, shape ``(T,)``."""
    rows = tested.rows[:TESTED]
    changes = [
        [tested.change(rows.assign(**{name: rng.permutation(rows[name])})) for name in rows] for _ in range(REPEATS)
    ]
    return np.mean(changes, axis=0)


def profiled(folder: Path, rows: pd.DataFrame, answers: np.ndarray, is_classifier: bool) -> Profile:
    """Return the profile of rows with predictions."""
    texts = np.array([f"class {answer}" for answer in answers]) if is_classifier else answers
    rows.assign(predicted=texts).to_parquet(folder / "rows.parquet")
    types = dict.fromkeys(rows, "numeric") | {"predicted": "categorical" if is_classifier else "numeric"}
    return build_file(folder / "rows.parquet", prediction_column="predicted", shuffled=True, types=types)


def drifts(rng: Rng, rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield rows in which one feature has drifted: shifted, stretched, stuck, or drawn from one side."""
    for _ in range(DRIFTS):
        name = str(rng.choice([*rows]))
        values = rows[name].to_numpy()
        spread = np.nanstd(values)
        kind = rng.integers(4)
        if kind == 0:
            changed = values + rng.choice([-1, 1]) * rng.uniform(0.5, 3) * spread
        elif kind == 1:
            changed = np.nanmean(values) + (values - np.nanmean(values)) * rng.choice([0.3, 2, 4])
        elif kind == 2:
            changed = np.where(rng.random(len(values)) < rng.uniform(0.2, 1), rng.choice(values), values)
        else:
            changed = np.sort(values)[(len(values) * rng.beta(1, rng.uniform(2, 8), len(values))).astype(int)]
        yield name, rows.assign(**{name: changed})


def drift_ranking(rng: Rng, tested: Tested, profile: Profile, trained: pd.DataFrame) -> dict[str, float]:
    """Return the rank correlation of several orders of drifts with what they do to the answers."""
    assert profile.weights
    assert profile.prediction
    answers = profile_bins(profile.prediction, tested, trained)
    rows = tested.rows[TESTED : TESTED + WINDOW]
    orders, truth = defaultdict(list), []
    for name, changed in drifts(rng, rows):
        feature = profile.features[name]
        assert isinstance(feature, NumericFeature)
        counts = np.array(feature.counts, dtype=float)
        live = np.bincount(feature_bins(feature, changed[name].to_numpy(dtype=float)), minlength=len(counts))
        q = (counts + 0.5) / (counts + 0.5).sum()
        p = (live + len(q) / 2 * q) / (live.sum() + len(q) / 2)
        divergence = float((p * np.log(p / q)).sum())
        if divergence < 0.3:
            continue
        joint = np.zeros((len(q), answers.max() + 1))
        np.add.at(joint, (feature_bins(feature, trained[name].to_numpy(dtype=float)), answers), 1)
        mean = joint.sum(axis=0) / joint.sum()
        given = np.where(joint.sum(axis=1, keepdims=True) > 0, joint / np.maximum(joint.sum(axis=1), 1)[:, None], mean)
        weight, moved = profile.weights.features[name].weight, abs(p - q).sum() / 2
        orders["divergence"].append(divergence)
        orders["weight"].append(weight)
        orders["weight × divergence"].append(weight * divergence)
        orders["weight × share of moved values"].append(weight * moved)
        orders["change of the predictions that the bins imply"].append(abs(p @ given - mean).sum())
        truth.append(tested.change(changed, TESTED))
    if len(truth) < 10 or np.ptp(truth) == 0:
        return {}
    return {name: float(np.nan_to_num(spearmanr(order, truth)[0])) for name, order in orders.items()}


def profile_bins(prediction: Any, tested: Tested, trained: pd.DataFrame) -> np.ndarray:
    """Return the bin of the prediction of each training row."""
    answers = tested.answers[: len(trained)]
    is_numeric = isinstance(prediction, NumericFeature)
    return feature_bins(prediction, answers if is_numeric else [f"class {answer}" for answer in answers]).astype(int)


def study(data: Data, group: str, folder: Path) -> Iterator[Result]:
    """Yield a result for each kind of model."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(data.features))[:ROWS]
    fitted, other = order[: len(order) // 2], order[len(order) // 2 :]
    for kind, model in models(data.is_classifier):
        model.fit(data.features.iloc[fitted], data.label[fitted])
        rows = data.features.iloc[other].reset_index(drop=True)
        tested = Tested(model, rows, data.is_classifier)
        profile = profiled(folder, rows, tested.answers, data.is_classifier)
        name = f"{data.name}, {kind}"
        if not profile.weights:
            print(f"no weights: {name}, {len(rows)} rows, {rows.shape[1]} features", flush=True)
            continue
        found = [profile.weights.features[feature] for feature in rows]
        result = Result(
            f"{group}, {'classes' if data.is_classifier else 'numbers'}",
            name,
            np.array([feature.weight for feature in found]),
            np.array([feature.upper for feature in found]),
            profile.weights.fidelity,
            true_weights(rng, tested),
            drift_ranking(rng, tested, profile, rows) if len(rows) >= TESTED + WINDOW else {},
        )
        print(
            f"{name}: fidelity {result.fidelity:.2f}, rank correlation "
            f"{spearmanr(result.weights, result.truth)[0]:.2f}, truth {result.truth.round(2).tolist()}, "
            f"weights {result.weights.round(2).tolist()}, upper {result.upper.round(2).tolist()}",
            flush=True,
        )
        yield result


def report(results: list[Result]) -> None:
    """Print the tables."""
    groups = defaultdict(list)
    for result in results:
        groups[result.group].append(result)
    rows = []
    for name, part in [*groups.items(), ("all", results)]:
        truth, upper = (np.concatenate([getattr(r, field) for r in part]) for field in ("truth", "upper"))
        top = np.concatenate([r.truth >= np.median(r.truth) for r in part]) & (truth > UNUSED)
        said = upper <= HARDLY_USED
        error = np.concatenate([abs(r.weights - r.truth) for r in part])
        rows.append(
            (
                name,
                f"{len(part)}",
                f"{np.median([r.fidelity for r in part]):.2f}",
                f"{np.nanmean([spearmanr(r.weights, r.truth)[0] for r in part]):.2f}",
                f"{np.median(error):.3f}",
                f"{np.quantile(error, 0.9):.2f}",
                f"{(said & (truth <= UNUSED)).sum()} of {(truth <= UNUSED).sum()}",
                f"{(said & top).sum()} of {said.sum()}",
                f"{(said & (truth > USED)).sum()} of {said.sum()}",
            )
        )
    heads = ("models", "number", "fidelity", "rank correlation", "error: median", "90 %")
    print(table((*heads, "found", "said of the upper half", "said of used ones"), rows))
    for result in results:
        for index in np.flatnonzero((result.upper <= HARDLY_USED) & (result.truth > USED)):
            print(f"wrong: {result.name}, feature {index}: {result.truth[index]:.3f}, said {result.upper[index]:.3f}")
    ranked = [result.ranking for result in results if result.ranking]
    print(f"orders of drifts, {len(ranked)} models:")
    print(
        table(
            ("order", "mean rank correlation", "lowest quarter"),
            [
                (
                    name,
                    f"{np.mean([each[name] for each in ranked]):.2f}",
                    f"{np.quantile([each[name] for each in ranked], 0.25):.2f}",
                )
                for name in ranked[0]
            ],
        )
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, help="folder with the packages that bring real data")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        sources = [("simulated", simulated(np.random.default_rng(0), ROWS)), ("shipped", shipped())]
        if options.packages:
            quality_real.use_packages(options.packages)
            sources.append(("real", real()))
        for group, source in sources:
            for data in source:
                results += study(data, group, Path(folder))
    report(results)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
