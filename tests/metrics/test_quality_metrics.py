"""The metrics of the quality: measured with labels, and estimated without them, of one replica or of several."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.batches import observe_columns
from support.servers import CONFIG, Served, eventually, write_config

from exporter.config import ModelConfig
from exporter.metrics.exposition import render_families
from exporter.metrics.lines import FamilyLines, escape_label
from exporter.metrics.models import ModelsCollector, window_lines
from exporter.monitoring.binner import Binner
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import MonitorRegistry
from exporter.profiles.builder import build_file
from exporter.wire.events import LabelledPrediction

Columns = dict[str, np.ndarray]


def classified(rng: np.random.Generator, rows: int, shift: float = 0.0) -> Columns:
    x = rng.normal(shift, 1, rows)
    yes = 1 / (1 + np.exp(-1.5 * x))
    names = np.array(["no", "yes"])
    truth = rng.random(rows) < yes
    predicted = names[(yes > 0.5).astype(int)]
    return {"x": x, "predicted": predicted, "sure": np.maximum(yes, 1 - yes), "label": names[truth.astype(int)]}


def regressed(rng: np.random.Generator, rows: int) -> Columns:
    x = rng.normal(size=rows)
    return {"x": x, "predicted": x, "label": x + rng.normal(size=rows)}


def monitors_of(folder: Path, columns: Columns, **options: str) -> MonitorRegistry:
    np.savez(folder / "rows.npz", **columns)
    profile = build_file(folder / "rows.npz", prediction_column="predicted", label_column="label", **options)
    return MonitorRegistry({"m": ModelConfig("m")}, {"m": Binner(profile)})


def feed(monitors: MonitorRegistry, columns: Columns) -> ModelMonitor:
    now = time.monotonic()
    monitor = monitors.get("m", "1", now)
    predicted, sure = columns["predicted"].tolist(), columns.get("sure", ())
    observe_columns(monitor, len(columns["x"]), {"x": columns["x"]}, now, predictions=predicted, confidences=sure)
    return monitor


def label(monitor: ModelMonitor, columns: Columns) -> None:
    unix = time.time()
    scores = columns["sure"].tolist() if "sure" in columns else [None] * len(columns["x"])
    rows = zip(columns["predicted"].tolist(), scores, columns["label"].tolist(), strict=True)
    labels = [LabelledPrediction("m", "1", unix, p, c, None, actual, None, 60.0) for p, c, actual in rows]
    monitor.count_labels(labels, time.monotonic(), unix)


def samples(lines: Iterable[FamilyLines]) -> dict[str, dict[tuple[str, ...], float]]:
    """The samples of each family, by the values of their labels after model and version."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in parse_text(b"".join(render_families(lines)).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())[2:]] = sample.value
    return found


@pytest.fixture
def classifier(tmp_path: Path) -> MonitorRegistry:
    return monitors_of(tmp_path, classified(np.random.default_rng(1), 6000), confidence_column="sure")


@pytest.fixture
def regression(tmp_path: Path) -> MonitorRegistry:
    return monitors_of(tmp_path, regressed(np.random.default_rng(1), 6000))


def test_estimated_accuracy_is_the_dot_product_of_its_parts(classifier: MonitorRegistry) -> None:
    """What Prometheus computes from the counters and the table of all replicas equals the gauge of one."""
    rows = classified(np.random.default_rng(2), 5000, shift=0.7)
    feed(classifier, rows)
    found = samples(ModelsCollector().collect(classifier))
    table = found["model_reference_accuracy"]
    counted = found["model_confidence_observations_total"]
    assert len(counted) == len(table) + 2  # missing and invalid ones have no accuracy
    total = sum(count for bin_, count in counted.items() if bin_ in table)
    dot = sum(counted[bin_] * accuracy for bin_, accuracy in table.items()) / total
    truth = (rows["predicted"] == rows["label"]).mean()
    for window in ("5m", "1h"):
        assert found["model_estimated_accuracy"][window,] == pytest.approx(dot, abs=1e-12)
        lower, upper = (found[f"model_estimated_accuracy_{end}"][window,] for end in ("lower", "upper"))
        assert lower < truth < upper
    assert truth > found["model_reference_accuracy_overall"][()] + 0.02
    assert "model_estimated_mean_absolute_error" not in found
    assert "model_accuracy" not in found  # no label is known


def test_nothing_is_estimated_of_nothing(classifier: MonitorRegistry) -> None:
    """Without observations the estimate is absent; the reference and the counters are there."""
    classifier.get("m", "1", time.monotonic())
    found = samples(ModelsCollector().collect(classifier))
    assert "model_estimated_accuracy" not in found
    assert found["model_reference_accuracy_overall"][()] == pytest.approx(0.74, abs=0.02)
    assert set(found["model_confidence_observations_total"].values()) == {0.0}


def test_measured_quality_stands_beside_what_was_expected(classifier: MonitorRegistry) -> None:
    """The calibration's expectation of exactly the labelled predictions is near what is measured."""
    rows = classified(np.random.default_rng(3), 4000)
    monitor = feed(classifier, rows)
    label(monitor, {name: values[:3000] for name, values in rows.items()})
    found = samples(ModelsCollector().collect(classifier))
    right = (rows["predicted"] == rows["label"])[:3000]
    for window in ("5m", "1h", "1d", "7d"):
        assert found["model_accuracy"][window,] == pytest.approx(right.mean())
        assert found["model_labelled_estimated_accuracy"][window,] == pytest.approx(right.mean(), abs=0.03)
        assert found["model_calibration_error"][window,] < 0.05
        assert found["model_window_labelled_predictions"][window,] == 3000
        assert found["model_window_unlabelled_predictions"][window,] == 1000
    assert found["model_accuracy_lower"]["1d",] < right.mean() < found["model_accuracy_upper"]["1d",]
    assert found["model_labelled_predictions_total"][()] == 3000
    assert found["model_correct_predictions_total"][()] == right.sum()
    assert sum(found["model_outcomes_total"].values()) == 3000
    assert found["model_label_delay_seconds_sum"][()] == 3000 * 60
    assert not {"model_absolute_error_total", "model_mean_absolute_error"} & found.keys()


def test_a_regression_has_errors_instead(regression: MonitorRegistry) -> None:
    """Errors are estimated and measured; there is no accuracy, no outcome and no bin of the confidence."""
    rows = regressed(np.random.default_rng(4), 2000)
    label(feed(regression, rows), rows)
    found = samples(ModelsCollector().collect(regression))
    signed = rows["predicted"] - rows["label"]
    errors = abs(signed)
    for window in ("5m", "1h"):
        assert found["model_estimated_mean_absolute_error"][window,] == pytest.approx(errors.mean(), rel=0.1)
        low, high = (found[f"model_estimated_mean_absolute_error_{end}"][window,] for end in ("lower", "upper"))
        assert low < errors.mean() < high
    assert found["model_reference_mean_absolute_error_overall"][()] == pytest.approx(errors.mean(), rel=0.1)
    squares = np.sqrt((errors**2).mean())
    means = {"mean_error": signed.mean(), "mean_absolute_error": errors.mean(), "root_mean_squared_error": squares}
    sums = {"absolute": errors.sum(), "positive": errors[signed > 0].sum(), "squared": (errors**2).sum()}
    assert {name: found[f"model_{name}"]["7d",] for name in means} == pytest.approx(means)
    assert {name: found[f"model_{name}_error_total"][()] for name in sums} == pytest.approx(sums)
    names = ("model_outcomes_total", "model_correct_predictions_total", "model_accuracy", "model_estimated_accuracy")
    assert not {*names, "model_confidence_observations_total", "model_reference_accuracy"} & found.keys()


def test_a_few_labelled_rows_of_a_profile_estimate_nothing(tmp_path: Path) -> None:
    """With fewer than 20 the parts are absent, too, so that Prometheus estimates nothing either."""
    monitors = monitors_of(tmp_path, classified(np.random.default_rng(1), 19), confidence_column="sure")
    feed(monitors, classified(np.random.default_rng(2), 500))
    found = samples(ModelsCollector().collect(monitors))
    names = ("model_estimated_accuracy", "model_reference_accuracy", "model_confidence_observations_total")
    assert not {*names, "model_reference_estimated_accuracy"} & found.keys()
    assert "model_reference_accuracy_overall" in found


def test_measured_and_estimated_accuracies_have_references_of_their_own(tmp_path: Path) -> None:
    """Where rows without a confidence are mostly wrong, unchanged live data are at neither reference's expense."""

    def rows(seed: int) -> Columns:
        columns = classified(np.random.default_rng(seed), 6000)
        lacking = np.arange(6000) % 3 == 0
        wrong = np.where(columns["predicted"] == "yes", "no", "yes")
        label = np.where(lacking, wrong, columns["label"])
        return {**columns, "sure": np.where(lacking, np.nan, columns["sure"]), "label": label}

    monitors = monitors_of(tmp_path, rows(1), confidence_column="sure")
    live = rows(2)
    label(feed(monitors, live), live)
    found = samples(ModelsCollector().collect(monitors))
    reference, estimated = (found[f"model_reference_{name}"][()] for name in ("accuracy_overall", "estimated_accuracy"))
    assert (reference, estimated) == (pytest.approx(0.5, abs=0.02), pytest.approx(0.74, abs=0.02))
    for window in ("5m", "1h"):
        assert found["model_accuracy_lower"][window,] < reference < found["model_accuracy_upper"][window,]
        low, high = (found[f"model_estimated_accuracy_{end}"][window,] for end in ("lower", "upper"))
        assert low < estimated < high


def test_a_batch_has_estimates_and_no_counters(classifier: MonitorRegistry) -> None:
    """What ``ingest`` writes for its window is what a running exporter shows."""
    run = MonitorRegistry(classifier.models, classifier.binners, {}, {"run": 1.0})
    monitor = run.get("m", "1", 0.0)
    rows = classified(np.random.default_rng(5), 3000)
    predicted = rows["predicted"].tolist()
    observe_columns(monitor, 3000, {"x": rows["x"]}, 0.0, predictions=predicted, confidences=rows["sure"])
    found = samples(window_lines(monitor, 0.0))
    assert found["model_estimated_accuracy"]["run",] == pytest.approx(
        (rows["predicted"] == rows["label"]).mean(), abs=0.03
    )
    assert "model_reference_accuracy" in found
    assert not {name for name in found if name.endswith("_total")}


def test_labels_become_metrics_that_survive_a_restart(tmp_path: Path) -> None:
    """Labels of predictions of two days ago count in the longest window, before a restart and after it."""
    write_config(tmp_path)
    server = Served(tmp_path).start()
    gauges = ("model_accuracy", "model_accuracy_lower", "model_calibration_error", "model_window_labelled_predictions")
    errors = ("model_mean_absolute_error", "model_root_mean_squared_error")
    bare = CONFIG["models"][1]["name"]
    moment = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    with server:
        events = [
            {"id": f"c{number}", "model": "credit", "version": "3", "prediction": "yes", "confidence": 0.85}
            | ({"time": moment} if number < 6 else {})
            for number in range(8)
        ]
        events += [{"id": f"n{number}", "model": bare, "prediction": 1.5} for number in range(2)]
        server.post("/v1/predictions", events)
        labels = [{"prediction_id": event["id"], "label": "yes"} for event in events[:7]]
        labels += [{"prediction_id": "c0", "label": "no"}, {"prediction_id": "n0", "label": 3.5}]
        assert server.post("/v1/labels", labels).status == 201
        eventually(lambda: server.samples("model_exporter_labels_unjoined") == {"model_exporter_labels_unjoined": 0})
        eventually(lambda: len(server.samples(*errors)) == 2 * 3)
        before = server.samples(*gauges, *errors)
        credit = {name: value for name, value in before.items() if "credit" in name}
        series = 'model_accuracy{model="credit",version="3",window='
        assert credit[f'{series}"7d"}}'] == pytest.approx(6 / 7)
        assert credit[f'{series}"5m"}}'] == 1.0
        assert before[f'model_mean_absolute_error{{model="{escape_label(bare)}",version="unknown",window="7d"}}'] == 2.0
        server.stop()
        server.start()
        assert server.samples(*gauges, *errors) == pytest.approx(before)
        assert set(server.samples("model_labelled_predictions_total").values()) == {0.0}
