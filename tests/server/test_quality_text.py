"""What the quality page says of measured, estimated and reference quality: chance is that of all rows compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from pyarrow import parquet
from support.labelled_rows import classes, numbers

from exporter.monitoring.binner import Binner
from exporter.monitoring.leading_quality import Leading
from exporter.monitoring.quality import sums_of_labels, window_quality
from exporter.profiles.builder import build_file
from exporter.profiles.quality import QualityEstimator
from exporter.server.pages.quality import describe_estimates, describe_leading
from exporter.stats.quality import IntervalEstimate, wilson


def estimator(folder: Path, rows: int, kind: str) -> tuple[QualityEstimator, int]:
    """The estimator of a profile of so many rows, and the number of bins that it reads."""
    table = classes(rows, 1) if kind == "accuracy" else numbers(rows, 1)
    confidence = {"confidence_column": "confidence"} if kind == "accuracy" else {}
    parquet.write_table(table, folder / "rows.parquet")
    profile = build_file(folder / "rows.parquet", prediction_column="prediction", label_column="outcome", **confidence)
    binner = Binner(profile)
    made = QualityEstimator.from_profile(profile, binner.names)
    assert made
    return made, sum(len(target.counts) for target in profile.targets(binner.names).values())


def checked(made: QualityEstimator, bins: int, right: float, labels: int = 4000) -> str:
    """What is said of labels of which so many are right and 80% were expected to be."""
    losses: npt.NDArray[np.float64] = (np.arange(labels) >= right * labels).astype(np.float64)
    all_of = np.full(labels, 0.8)
    window = window_quality(sums_of_labels(losses, np.zeros(labels, dtype=np.bool_), all_of, all_of).sum(axis=0))
    return describe_estimates("accuracy", "1d", window, None, made.learned_variance(np.zeros(bins)))


def test_a_calibration_of_few_rows_may_be_off_by_its_own_chance(tmp_path: Path) -> None:
    """The calibration is a sample too: of 400 rows it does not tell 2 points, of 40,000 it does."""
    few, many = estimator(tmp_path, 400, "accuracy"), estimator(tmp_path, 40_000, "accuracy")
    assert "The estimate was good" in checked(*few, 0.82)
    assert "The estimate was too high" in checked(*few, 0.7)
    assert "so few labels tell little" in checked(*few, 0.5, labels=2)
    assert "The estimate was too low, by more than chance explains" in checked(*many, 0.82)


def test_the_reference_of_few_rows_may_be_off_by_its_own_chance(tmp_path: Path) -> None:
    """A measured quality outside of which the reference lies may still differ from it by chance."""
    for kind, rows in (("accuracy", 400), ("accuracy", 40_000), ("absolute_error", 400), ("absolute_error", 40_000)):
        made, _ = estimator(tmp_path, rows, kind)
        value = made.overall * 0.97
        measured = (
            wilson(round(value * 4000), 4000)
            if kind == "accuracy"
            else IntervalEstimate(value, value * 0.98, value * 1.02)
        )
        text = describe_leading(
            "accuracy" if kind == "accuracy" else "absolute_error",
            Leading("measured", "1d", measured, 4000, 0.0, 0.0),
            made,
        )
        better = "better" if kind == "absolute_error" else "worse"
        expected = "not more than chance explains" if rows == 400 else f"the model is {better} than there, by more"
        assert expected in text, (kind, rows)


def test_references_cover_the_truth(tmp_path: Path) -> None:
    """Of profiles of few rows, about 95% have the quality of many rows in the interval of their reference."""
    for kind in ("accuracy", "absolute_error"):
        truth = estimator(tmp_path, 200_000, kind)[0].overall
        hits = []
        for seed in range(2, 62):
            table = classes(300, seed) if kind == "accuracy" else numbers(300, seed)
            parquet.write_table(table, tmp_path / "few.parquet")
            profile = build_file(tmp_path / "few.parquet", prediction_column="prediction", label_column="outcome")
            made = QualityEstimator.from_profile(profile, Binner(profile).names)
            assert made
            hits.append(made.reference.lower <= truth <= made.reference.upper)
        assert np.mean(hits) >= 0.85, kind
