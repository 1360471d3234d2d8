"""Which of the figures of quality leads, and when it is beyond the threshold of its alert."""

from __future__ import annotations

import pytest
from pyarrow import parquet
from support.batches import observe
from support.labelled_rows import classes, numbers

from exporter.config import ModelConfig
from exporter.monitoring.binner import Binner
from exporter.monitoring.leading_quality import ENOUGH, MOST_ERROR, Leading, leading_quality
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.profiles.builder import build_file
from exporter.storage._labels import LabelledPrediction
from exporter.wire.events import Prediction

NOW, UNIX = 5000.0, 1_764_028_790.0
HOUR = 3600.0


@pytest.fixture(scope="module")
def binners(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Binner]:
    """Of profiles with labels: a classifier that is right in 82% of its rows, and a regression."""
    folder = tmp_path_factory.mktemp("profiles")
    parquet.write_table(classes(3000, 1), folder / "classes.parquet")
    parquet.write_table(numbers(3000, 1), folder / "numbers.parquet")
    columns = {"prediction_column": "prediction", "label_column": "outcome"}
    classifier = build_file(folder / "classes.parquet", confidence_column="confidence", **columns)
    return {"classes": Binner(classifier), "numbers": Binner(build_file(folder / "numbers.parquet", **columns))}


def monitor_of(binner: Binner | None, **chosen: object) -> ModelMonitor:
    return ModelMonitor(ModelConfig("m", **chosen), "1", binner)  # type: ignore[arg-type]


def predict(monitor: ModelMonitor, count: int) -> None:
    """Count predictions of now, as confident as those of the profile."""
    rows = classes(count, 7).to_pylist()
    events = [Prediction("m", prediction=row["prediction"], confidence=row["confidence"]) for row in rows]
    observe(monitor, events, [{"country": row["country"]} for row in rows], NOW)


def label(monitor: ModelMonitor, count: int, age: float, prediction: object = "yes", actual: object = "yes") -> None:
    """Count labels of predictions that are so many seconds old."""
    one = LabelledPrediction("m", "1", UNIX - age, prediction, 0.8, None, actual, None, 5.0)
    monitor.count_labels([one] * count, NOW, UNIX)


def leading(monitor: ModelMonitor) -> Leading:
    found = leading_quality(monitor, NOW)
    assert found
    return found


def test_the_shortest_window_with_enough_leads(binners: dict[str, Binner]) -> None:
    """Measured with enough labels, else estimated; a few labels lead only where nothing is estimated."""
    monitor = monitor_of(binners["classes"])
    assert leading_quality(monitor, NOW) is None
    predict(monitor, ENOUGH - 1)
    assert leading(monitor)[:2] == ("estimated", "1h"), "too few in any window: the longest"
    label(monitor, ENOUGH - 1, 60)
    assert leading(monitor)[:2] == ("measured", "7d"), "the same of labels"
    predict(monitor, 1)
    assert leading(monitor)[:2] == ("estimated", "5m")
    label(monitor, 1, 0.5 * HOUR)
    assert leading(monitor)[:2] == ("measured", "1h")
    label(monitor, 1, 60)
    assert leading(monitor)[:2] == ("measured", "5m")
    assert (leading(monitor).number, leading(monitor).excess) == (ENOUGH, 0)


def test_a_figure_beyond_the_threshold_leads(binners: dict[str, Binner]) -> None:
    """The estimate may be fine, and few labels of a shorter window; without predictions the alert is silent."""
    monitor = monitor_of(binners["classes"])
    label(monitor, 300, 12 * HOUR, actual="no")
    label(monitor, 10, 60, actual="no")
    label(monitor, 50, 60)
    assert leading(monitor)[:2] == ("measured", "5m")
    predict(monitor, 60)
    found = leading(monitor)
    assert found[:2] == ("measured", "1d")
    assert found.estimate.upper < found.limit == pytest.approx(0.82 - 0.05, abs=0.02)
    assert found.excess == pytest.approx(1 - found.estimate.upper / found.limit)
    monitor.reconfigure(ModelConfig("m", alerts={"ModelAccuracyLow": 0.9}))
    assert leading(monitor)[:2] == ("measured", "5m")


def test_a_shorter_window_ends_what_is_beyond(binners: dict[str, Binner]) -> None:
    """If its whole interval is within the threshold, and labels of its predictions are not much rarer."""
    monitor = monitor_of(binners["classes"])
    predict(monitor, 250)
    label(monitor, 300, 12 * HOUR, actual="no")
    label(monitor, 100, 60)  # of 250 predictions; the day has 400 labels of as many
    assert leading(monitor)[:2] == ("measured", "1d"), "early labels alone end nothing"
    label(monitor, 100, 60)
    assert (leading(monitor)[:2], leading(monitor).excess) == (("measured", "5m"), 0)
    label(monitor, 400, 60, actual="no")
    assert leading(monitor).excess > 0


def test_an_error_is_beyond_a_multiple_of_that_of_the_profile(binners: dict[str, Binner]) -> None:
    """The lower end of the interval counts, which needs 20 labels."""
    binner = binners["numbers"]
    monitor = monitor_of(binner)
    assert binner.quality
    limit = MOST_ERROR * binner.quality.overall
    observe(monitor, [Prediction("m", prediction=500.0)], [{"age": 50.0}], NOW)
    label(monitor, ENOUGH - 1, 60, 500.0, 500.0 + 2 * limit)
    assert leading(monitor).excess == 0
    label(monitor, 1, 60, 500.0, 500.0 + 2 * limit)
    found = leading(monitor)
    assert (found.limit, found.excess) == (pytest.approx(limit), pytest.approx(1, abs=0.1))


def test_without_a_profile_nothing_is_beyond() -> None:
    """There is nothing to compare with."""
    monitor = monitor_of(None, task="regression")
    label(monitor, 50, 60, 1.5, 100)
    assert leading(monitor)[:2] == ("measured", "5m")
    assert leading(monitor).excess == 0
