"""The interval of an estimated accuracy is widened by how far earlier estimates were off, as late labels show it."""

from __future__ import annotations

import time

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.batches import observe_columns

from exporter.config import ModelConfig
from exporter.metrics.exposition import render_families
from exporter.metrics.models import ModelsCollector
from exporter.monitoring.binner import Binner
from exporter.monitoring.quality import miss_variance
from exporter.monitoring.registry import MonitorRegistry
from exporter.profiles.builder import build_file
from exporter.profiles.profile import Profile
from exporter.stats.quality import IntervalEstimate
from exporter.storage._labels import LabelledPrediction

DAY = 86400.0
ACTUAL = 0.63  # with 0.3 of the labels turned, of 0.74
Columns = dict[str, np.ndarray]


def classified(rng: np.random.Generator, rows: int, turned: float = 0.0) -> Columns:
    """Predictions of a class; so large a share of the labels is turned, whatever the confidence."""
    x = rng.normal(size=rows)
    yes = 1 / (1 + np.exp(-1.5 * x))
    truth = (rng.random(rows) < yes) ^ (rng.random(rows) < turned)
    names = np.array(["no", "yes"])
    predicted, label = names[(yes > 0.5).astype(int)], names[truth.astype(int)]
    return {"x": x, "predicted": predicted, "sure": np.maximum(yes, 1 - yes), "label": label}


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    path = tmp_path_factory.mktemp("rows") / "rows.npz"
    np.savez(path, **classified(np.random.default_rng(1), 5000))
    return build_file(path, prediction_column="predicted", label_column="label", confidence_column="sure")


def observed(profile: Profile, days: list[float], labels: int = 500, age: float = 0.0) -> MonitorRegistry:
    """A monitor of the predictions of an hour, with labels of days before it, of which so large a share is turned."""
    monitors = MonitorRegistry({"m": ModelConfig("m")}, {"m": Binner(profile)})
    rng, now, unix = np.random.default_rng(2), time.monotonic(), time.time()
    monitor = monitors.get("m", "1", now)
    rows = classified(rng, 1000)
    predicted = rows["predicted"].tolist()
    observe_columns(monitor, 1000, {"x": rows["x"]}, now, predictions=predicted, confidences=rows["sure"])
    for day, turned in enumerate(days, 1):
        rows = classified(rng, labels, turned)
        triples = zip(rows["predicted"].tolist(), rows["sure"].tolist(), rows["label"].tolist(), strict=True)
        then = unix - (day + age) * DAY + 3600
        late = [LabelledPrediction("m", "1", then, *triple[:2], None, triple[2], None, DAY) for triple in triples]
        monitor.count_labels(late, now, unix)
    return monitors


def estimated(monitors: MonitorRegistry) -> IntervalEstimate:
    """What is estimated for the last hour, from the metrics."""
    text = b"".join(render_families(ModelsCollector().collect(monitors))).decode()
    found = {
        sample.name: sample.value
        for family in parse_text(text)
        for sample in family.samples
        if sample.labels.get("window") == "1h"
    }
    return IntervalEstimate(*(found[f"model_estimated_accuracy{end}"] for end in ("", "_lower", "_upper")))


def width(estimate: IntervalEstimate) -> float:
    return estimate.upper - estimate.lower


def test_labels_that_differ_from_the_estimates_widen_the_interval(profile):
    """After days on which the concept had changed, the interval of the last hour reaches what their labels showed."""
    plain, changed = estimated(observed(profile, [])), estimated(observed(profile, [0.3] * 5))
    assert changed.value == plain.value
    assert changed.lower < ACTUAL < plain.lower
    assert changed.upper > plain.upper


def test_labels_that_equal_the_estimates_change_little(profile):
    """What chance explains hardly widens the interval, and nothing narrows it."""
    plain, same = estimated(observed(profile, [])), estimated(observed(profile, [0.0] * 5))
    assert width(plain) <= width(same) < 1.1 * width(plain)


def test_misses_in_both_directions_do_not_cancel(profile):
    """An estimate that is right on the mean, but was too high and too low by turns, is as uncertain."""
    known = miss_variance(np.array([0.1, -0.1] * 3), np.full(6, 0.0005))
    assert known == pytest.approx(miss_variance(np.full(6, 0.1), np.full(6, 0.0005)))
    varied = estimated(observed(profile, [0.4, 0.0, 0.4, 0.0]))
    assert width(varied) > 2 * width(estimated(observed(profile, [0.0] * 4)))


@pytest.mark.parametrize(("labels", "age"), [(13, 0.0), (500, 8.0)])
def test_few_labels_and_old_ones_change_nothing(profile, labels, age):
    """A tenth of the longest window counts from 20 labels, and nothing of before the longest window."""
    assert estimated(observed(profile, [0.5], labels, age)) == estimated(observed(profile, []))


def test_chance_alone_mostly_adds_nothing():
    """Misses that chance explains seldom add a variance; those twice as large nearly always do."""
    rng = np.random.default_rng(0)
    by_chance, beyond = (
        [miss_variance(rng.normal(0, spread, 10), np.full(10, 0.01)) > 0 for _ in range(400)] for spread in (0.1, 0.2)
    )
    assert np.mean(by_chance) < 0.2
    assert np.mean(beyond) > 0.9
    assert miss_variance(np.empty(0), np.empty(0)) == 0
