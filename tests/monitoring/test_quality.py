"""The measured quality: labels that arrive late, change, or cannot be compared."""

from __future__ import annotations

import math
import time
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families as parse_text
from pyarrow import parquet
from support.batches import observe, observe_columns
from support.labelled_rows import classes, numbers
from support.servers import write_config

from exporter.config import ModelConfig
from exporter.errors import ConfigError
from exporter.metrics.exposition import render_families
from exporter.metrics.models import ModelsCollector
from exporter.monitoring.binner import Binner
from exporter.monitoring.leading_quality import ENOUGH, MOST_ERROR, Leading, leading_quality
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.quality import MAX_LABELS, LabelNames, Scorer, miss_variance
from exporter.monitoring.registry import MonitorRegistry
from exporter.monitoring.snapshots import decode, encode, restore_version
from exporter.profiles.bins import categorical_feature, numeric_feature
from exporter.profiles.builder import build_file
from exporter.profiles.profile import Feature, Profile
from exporter.server.model_files import load_monitors
from exporter.stats.quality import IntervalEstimate, wilson
from exporter.wire.events import LabelledPrediction, Prediction

NOW, UNIX = 5000.0, 1_764_028_790.0
DAY = 86400.0
CLASSES = categorical_feature({"yes": 60, "no": 40}, 0, 0)
NUMBERS = numeric_feature(np.linspace(0, 10, 200))


def monitor_of(prediction: Feature | None = None, **chosen: Any) -> ModelMonitor:
    """A monitor with a profile of such predictions, or without a profile."""
    countries = categorical_feature({"NL": 5, "DE": 4}, 0, 0)
    profile = Profile("p", 200, {"c": "categorical"}, {"c": countries}, prediction=prediction)
    return ModelMonitor(ModelConfig("m", **chosen), "1", Binner(profile) if prediction else None)


def labelled(prediction: Any, label: Any, age: float = 0.0, **more: Any) -> LabelledPrediction:
    fields = {"confidence": None, "segment": None, "replaced": None, "delay": 5.0, "first_received": math.inf} | more
    return LabelledPrediction("m", "1", UNIX - age, prediction, label=label, **fields)


def count(monitor: ModelMonitor, *labels: LabelledPrediction) -> None:
    monitor.count_labels(labels, NOW, UNIX)


# --- comparing -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "prediction", "label", "loss"),
    [
        ("classification", "7", 7.0, 0),
        ("classification", 1.0, 1, 0),
        ("classification", True, "true", 0),
        ("classification", "7", "8", 1),
        ("classification", "yes", "never seen", 1),
        ("classification", "yes", {"a": 1}, None),
        ("classification", ["yes"], "yes", None),
        ("classification", None, "yes", None),
        ("classification", 1, math.nan, None),
        ("regression", 1, 3, 2),
        ("regression", 2.5, "3", 0.5),
        ("regression", 1.5, "abc", None),
        ("regression", 1.5, True, None),
        ("regression", None, 1.5, None),
        ("regression", 1.5, math.nan, None),
        ("regression", 1.5, 10**400, None),
        ("regression", 1e300, -1e300, None),
        (None, 2.5, 3, 0.5),
        (None, 2, 3.0, 1),
        (None, "2.5", 2.5, 0),
    ],
)
def test_a_prediction_is_compared_with_its_label(task: Any, prediction: Any, label: Any, loss: float | None) -> None:
    """A class is right or wrong, a number more or less far away; what cannot be compared has no loss."""
    assert Scorer(task).loss(prediction, label) == loss


@pytest.mark.parametrize(
    ("task", "prediction", "expected"),
    [
        (None, CLASSES, "classification"),
        (None, NUMBERS, "regression"),
        (None, None, None),
        ("classification", NUMBERS, "classification"),
        ("regression", None, "regression"),
    ],
)
def test_the_profile_says_what_the_model_does(task: Any, prediction: Feature | None, expected: str | None) -> None:
    """Without a task in the configuration, the type of the profile's predictions decides."""
    assert Scorer.of_model(ModelConfig("m", task=task), monitor_profile(prediction)).task == expected


def monitor_profile(prediction: Feature | None) -> Profile:
    return Profile("p", 1, {}, {}, prediction=prediction)


def test_a_task_that_contradicts_the_profile_is_refused(tmp_path: Path) -> None:
    """The predictions of the profile are categories: they have no error."""
    path = write_config(tmp_path, {"models": [{"name": "credit", "profile": "credit.json", "task": "regression"}]})
    with pytest.raises(
        ConfigError, match=r"models\[0\].task: the predictions in the profile .* belong to a classification"
    ):
        load_monitors(path)


def test_each_version_is_compared_as_its_profile_says() -> None:
    """A version with another profile may predict numbers; a model that is not configured has no task."""
    config = ModelConfig("m")
    classes, numbers = Binner(monitor_profile(CLASSES)), Binner(monitor_profile(NUMBERS))
    monitors = MonitorRegistry({"m": config}, {"m": classes}, {("m", "2"): numbers})
    tasks = [monitors.scorer(*version).task for version in (("m", "1"), ("m", "2"), ("gone", "1"))]
    assert tasks == ["classification", "regression", None]


def test_names_of_classes_are_limited() -> None:
    """The profile's classes come first, then the first to occur; all others are other, and none is long."""
    names = LabelNames(["yes", "no"])
    given_names = [names.name(f"{number} {'x' * 100}") for number in range(30)]
    assert len(set(given_names)) == MAX_LABELS - 2 + 1
    assert given_names[-1] == "other"
    assert max(map(len, given_names)) == 64
    assert names.name("no") == "no"


def test_long_classes_are_not_kept_in_memory() -> None:
    """Only their names and hashes: those with the same beginning are still several classes."""
    tracemalloc.start()
    try:
        names = LabelNames("x" * 100_000 + str(number) for number in range(MAX_LABELS))
        assert tracemalloc.get_traced_memory()[0] < 250_000  # one text may be held by the generator
    finally:
        tracemalloc.stop()
    assert names.name("x" * 100_000 + "0") == f"{'x' * 63}…"
    assert names.name("y") == "other"


# --- counters --------------------------------------------------------------------------------


def test_counters_of_a_classifier() -> None:
    """Outcomes by class exist from the start at zero; each label counts once, with its delay."""
    monitor = monitor_of(CLASSES)
    pairs = [("yes", "yes"), ("yes", "no"), ("no", "yes"), ("no", "no")]
    assert dict(monitor.quality.outcomes) == dict.fromkeys(pairs, 0)
    count(monitor, labelled("yes", "yes"), labelled("yes", "no", delay=100.0), labelled("no", "no", age=90 * DAY))
    count(monitor, labelled("yes", ["yes"]))
    quality = monitor.quality
    assert (quality.labelled, quality.correct) == (3, 2)
    assert +quality.outcomes == {("yes", "yes"): 1, ("yes", "no"): 1, ("no", "no"): 1}
    assert (quality.delays.counts.sum(), quality.delays.sum) == (3, 110)
    assert quality.absolute_error == quality.squared_error == 0


def test_counters_of_a_regression() -> None:
    """Errors and their squares are summed; there are no outcomes."""
    monitor = monitor_of(NUMBERS)
    count(monitor, labelled(1.5, 2.5), labelled(4, 1), labelled(4.0, "four"))
    quality = monitor.quality
    assert (quality.labelled, quality.correct, quality.absolute_error, quality.squared_error) == (2, 0, 4, 10)
    assert not quality.outcomes


def test_counters_by_segment_add_up() -> None:
    """A label counts in the segment of its prediction, or in other."""
    monitor = monitor_of(CLASSES, segment_by="c")
    labels = [("NL", "yes"), ("NL", "no"), ("DE", "yes"), ("FR", "yes"), (None, "no")]
    count(monitor, *(labelled("yes", label, segment=segment) for segment, label in labels))
    assert monitor.quality.by_segment[:2].tolist() == [[2, 1, 2], [1, 1, 1]]
    monitor = monitor_of(NUMBERS, segment_by="c")
    count(monitor, labelled(1.0, 3, segment="DE"))
    assert monitor.quality.by_segment.tolist() == [[0, 1, 0], [0, 0, 0], [0, 2, 0]]


# --- windows ---------------------------------------------------------------------------------


def test_windows_are_by_the_time_of_the_prediction() -> None:
    """A label that comes days later counts in the windows that hold its prediction; one from before them in none."""
    monitor = monitor_of(CLASSES, windows=("5m", "1h"))
    for age in (10.0, 1800.0, 7200.0, 3 * DAY, 8 * DAY, -60.0):
        count(monitor, labelled("yes", "yes", age=age))
    counted = {name: window.labelled for name, window in monitor.read_quality(NOW).items()}
    assert counted == {"5m": 2, "1h": 3, "1d": 4, "7d": 5}
    assert (monitor.quality.labelled, monitor.quality.older) == (6, 1)
    later = {name: window.labelled for name, window in monitor.read_quality(NOW + 7200).items()}
    assert later == {"1d": 4, "7d": 5}


def test_a_window_knows_what_it_waits_for() -> None:
    """Predictions count as they arrive; those without a prediction, such as errors, have no label to wait for."""
    monitor = monitor_of(CLASSES)
    events = [Prediction("m", prediction="yes")] * 5 + [Prediction("m", code=500)]
    for age in (1000.0, 10.0, 9.0):
        observe(monitor, events, [], NOW - age)
    observe_columns(monitor, 3, {}, NOW, predictions=["yes", "no", None])
    assert monitor.read_quality(NOW) == {}
    count(monitor, labelled("yes", "yes"), labelled("yes", "no", age=500.0))
    windows = monitor.read_quality(NOW)
    counts = [(name, window.labelled, window.unlabelled) for name, window in windows.items()]
    assert counts == [("5m", 1, 11), ("1h", 2, 15), ("1d", 2, 15), ("7d", 2, 15)]
    late = [Prediction("m", prediction="yes", time=datetime.fromtimestamp(UNIX - age, UTC)) for age in (10, 4000, 1e6)]
    observe(monitor, late, [], NOW, UNIX)
    assert [window.unlabelled for window in monitor.read_quality(NOW).values()] == [12, 16, 17, 17]
    count(monitor, *[labelled("yes", "yes")] * 40)  # labels of predictions that were counted elsewhere
    assert monitor.read_quality(NOW)["5m"].unlabelled == 0


def test_accuracy_has_an_interval() -> None:
    """Twelve labels prove little: the interval is Wilson's."""
    monitor = monitor_of(CLASSES)
    count(monitor, *[labelled("yes", "yes")] * 9, *[labelled("yes", "no")] * 3)
    window = monitor.read_quality(NOW)["1h"]
    assert window.accuracy == wilson(9, 12)
    assert window.absolute_error is None
    assert math.isnan(window.squared_error)


def test_errors_have_an_interval_from_twenty_labels_on() -> None:
    """Mean and root of the mean square agree with numpy; equal errors of few labels prove nothing."""
    errors = np.random.default_rng(5).normal(2, 1, 200)
    monitor = monitor_of(NUMBERS)
    count(monitor, *(labelled(0.0, error) for error in errors[:19].tolist()))
    few = monitor.read_quality(NOW)["1h"].absolute_error
    assert few is not None
    assert few.value == pytest.approx(abs(errors[:19]).mean())
    assert math.isnan(few.lower)
    assert math.isnan(few.upper)
    count(monitor, *(labelled(0.0, error) for error in errors[19:].tolist()))
    window = monitor.read_quality(NOW)["1h"]
    half = 1.959964 * abs(errors).std(ddof=1) / math.sqrt(200)
    assert window.absolute_error is not None
    mean = abs(errors).mean()
    assert window.absolute_error == pytest.approx((mean, mean - half, mean + half))
    assert window.squared_error == pytest.approx(math.sqrt((errors**2).mean()))
    assert (window.bias, window.relative_error) == pytest.approx((-errors.mean(), 1.0))
    assert window.accuracy is None
    days = [labelled(10.0, 8.0 + 2 * (hour // 24 % 2), age=3600.0 * hour) for hour in range(166)]
    count(alike := monitor_of(NUMBERS), *days)  # errors of a day are alike: the days are few
    window = alike.read_quality(NOW)["7d"]
    assert window.absolute_error.value - window.absolute_error.lower > 2 * 1.96 / math.sqrt(166)
    assert window.relative_error == pytest.approx(window.bias / (10 - window.bias))


def test_calibration_error_is_that_of_ten_bins() -> None:
    """The gap of each bin of the confidence counts with the number of its predictions."""
    monitor = monitor_of(CLASSES)
    sure = [labelled("yes", "yes" if number < 8 else "no", confidence=0.95) for number in range(10)]
    unsure = [labelled("yes", "yes" if number < 5 else "no", confidence=0.55) for number in range(10)]
    count(monitor, *sure, *unsure, labelled("yes", "yes"), labelled("yes", "no", confidence=1.0))
    window = monitor.read_quality(NOW)["1h"]
    assert window.calibration_error == pytest.approx((abs(8 - 10.5) + abs(5 - 5.5)) / 21)
    count(silent := monitor_of(CLASSES), labelled("yes", "yes"))
    assert math.isnan(silent.read_quality(NOW)["1h"].calibration_error)


def test_a_changed_label_changes_the_windows_and_no_counter() -> None:
    """Windows count the new label in place of the old one; a label that could not be compared counts anew."""
    monitor = monitor_of(CLASSES)
    count(monitor, labelled("yes", "yes", confidence=0.9), labelled("yes", "yes", confidence=0.9))
    count(monitor, labelled("yes", "no", confidence=0.9, replaced="yes"))
    window = monitor.read_quality(NOW)["1h"]
    assert window.accuracy == wilson(1, 2)
    assert window.calibration_error == pytest.approx(0.4)
    assert (monitor.quality.labelled, monitor.quality.correct) == (2, 2)
    count(monitor, labelled("yes", "yes", replaced=["?"]))
    assert monitor.quality.labelled == 3
    regression = monitor_of(NUMBERS)
    count(regression, labelled(1.0, 2.0), labelled(1.0, 4.0, replaced=2.0))
    assert regression.read_quality(NOW)["1h"].squared_error == 3
    assert regression.quality.absolute_error == 1


def test_a_changed_label_that_the_windows_do_not_hold_changes_nothing() -> None:
    """After a kill, in another replica or after a new profile the first label counted elsewhere, or is lost."""
    monitor = monitor_of(CLASSES)
    started = monitor.quality.since
    count(monitor, *[labelled("yes", "yes")] * 20)
    elsewhere = [labelled("yes", "no", replaced="yes", first_received=at) for at in (started - 5, -math.inf)]
    count(monitor, *elsewhere)
    assert monitor.read_quality(NOW)["1h"].accuracy == wilson(20, 20)
    monitor.quality.until = started - 1  # the snapshot's time
    count(monitor, elsewhere[0], labelled("yes", "no", replaced="yes", first_received=started))
    assert monitor.read_quality(NOW)["1h"].accuracy == wilson(18, 20)


def test_a_huge_error_that_was_corrected_leaves_no_false_interval() -> None:
    """Its square hides the other ones: where rounding makes the sum impossible, there is no interval and no root."""
    monitor = monitor_of(NUMBERS)
    count(monitor, *(labelled(1.0, 1.0 + number % 5) for number in range(25)))
    sound = monitor.read_quality(NOW)["1h"]
    assert sound.absolute_error
    assert sound.absolute_error.lower < sound.absolute_error.value < sound.absolute_error.upper
    count(monitor, labelled(1.0, 1e14))
    count(monitor, labelled(1.0, 3.0, replaced=1e14))
    window = monitor.read_quality(NOW)["1h"]
    assert window.absolute_error
    assert math.isnan(window.absolute_error.lower)
    assert math.isnan(window.squared_error)


def test_a_model_without_a_profile_has_windows() -> None:
    """Classes and numbers are told apart by the type of the prediction."""
    monitor = monitor_of(None)
    observe(monitor, [Prediction("m", prediction="a")] * 4, [], NOW)
    count(monitor, labelled("a", "a"), labelled("a", "b"), labelled(1.5, 2))
    window = monitor.read_quality(NOW)["7d"]
    assert (window.predictions, window.labelled) == (4, 3)
    assert window.accuracy == wilson(1, 2)
    assert window.squared_error == 0.5


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["yes", "no"]), st.sampled_from(["yes", "no"]), st.floats(0, 1)), max_size=60)
)
def test_many_labels_at_once_are_as_good_as_one_by_one(labels: list[tuple[str, str, float]]) -> None:
    """The size of a batch does not matter."""
    at_once, one_by_one = monitor_of(CLASSES), monitor_of(CLASSES)
    events = [labelled(predicted, actual, confidence=score) for predicted, actual, score in labels]
    count(at_once, *events)
    for event in events:
        count(one_by_one, event)
    assert at_once.quality.outcomes == one_by_one.quality.outcomes
    left, right = at_once.read_quality(NOW), one_by_one.read_quality(NOW)
    assert left.keys() == right.keys()
    for name, window in left.items():
        assert window.accuracy == right[name].accuracy
        assert window.calibration_error == pytest.approx(right[name].calibration_error)


# --- snapshots -------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", [CLASSES, None], ids=["profile", "no profile"])
def test_windows_survive_a_restart(prediction: Feature | None) -> None:
    """A restart keeps what was measured, at its time, and what is waited for; counters start at zero."""
    before = monitor_of(prediction)
    observe(before, [Prediction("m", prediction="yes")] * 3, [], NOW - 60)
    count(before, labelled("yes", "yes", age=60.0, confidence=0.7), labelled("yes", "no", age=2 * DAY))
    data = encode(before, NOW, UNIX)
    after = monitor_of(prediction)
    assert restore_version(after, decode(data, after), 7.0, UNIX + 600) is not None
    assert after.read_quality(7.0) == before.read_quality(NOW + 600)
    assert after.quality.labelled == 0
    after.count_labels([labelled("yes", "yes", age=60.0)], 7.0, UNIX + 600)
    assert after.read_quality(7.0)["1h"].labelled == 2


def test_other_windows_of_the_quality_start_empty() -> None:
    """The windows of the inputs are kept when those of the quality have changed."""
    before = monitor_of(CLASSES)
    observe(before, [Prediction("m", prediction="yes")] * 3, [{"c": "NL"}], NOW)
    count(before, labelled("yes", "yes"))
    after = monitor_of(CLASSES, quality_windows=("14d",))
    assert restore_version(after, decode(encode(before, NOW, UNIX), after), NOW, UNIX) is not None
    assert after.read_quality(NOW) == {}
    assert after.read(NOW)["1h"].observations[0] == 1
    bare = monitor_of(None, quality_windows=("14d",))
    assert restore_version(bare, decode(encode(monitor_of(None), NOW, UNIX), bare), NOW, UNIX) is None


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


def predict(monitor: ModelMonitor, count: int) -> None:
    """Count predictions of now, as confident as those of the profile."""
    rows = classes(count, 7).to_pylist()
    events = [Prediction("m", prediction=row["prediction"], confidence=row["confidence"]) for row in rows]
    observe(monitor, events, [{"country": row["country"]} for row in rows], NOW)


def label(monitor: ModelMonitor, number: int, age: float, prediction: object = "yes", actual: object = "yes") -> None:
    """Count labels of predictions that are so many seconds old."""
    count(monitor, *[labelled(prediction, actual, age, confidence=0.8)] * number)


def leading(monitor: ModelMonitor) -> Leading:
    found = leading_quality([monitor], NOW)[monitor.version]
    assert found
    return found


def test_the_shortest_window_with_enough_leads(binners: dict[str, Binner]) -> None:
    """Measured with enough labels, else estimated; a few labels lead only where nothing is estimated."""
    monitor = ModelMonitor(ModelConfig("m"), "1", binners["classes"])
    assert leading_quality([monitor], NOW) == {"1": None}
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


def test_versions_that_serve_have_one_window() -> None:
    """The shortest in which each has enough, or the one that is beyond the threshold; alone, each has its own."""
    old, new, unused = (ModelMonitor(ModelConfig("m"), name, None) for name in ("1", "2", "3"))
    unused.last_used = -HOUR
    for monitor, age in ((old, 0.5 * HOUR), (new, 60), (new, 0.5 * HOUR), (unused, 60)):
        label(monitor, 20, age)
    found = leading_quality([old, new, unused], NOW)
    assert {version: one and one.window for version, one in found.items()} == {"1": "1h", "2": "1h", "3": "5m"}
    assert leading(new).window == "5m"
    label(old, 20, 60)
    assert {one and one.window for one in leading_quality([old, new], NOW).values()} == {"5m"}


def test_warnings_are_told_after_a_while() -> None:
    """Times that always lag by the same half hours, and the probability of one class; sound events end both."""
    monitor = monitor_of(None)
    for second in range(300):
        late, sure = (5400, (0.9, 0.1)[second % 2]) if second < 100 else (0.5, 0.9)
        made = datetime.fromtimestamp(UNIX + second - late, UTC)
        event = Prediction("m", time=made, prediction=("yes", "no")[second % 2], confidence=sure)
        observe(monitor, [event], [], NOW + 1.01 * second, UNIX + second)
        if second == 99:
            assert [text[:16] for text in monitor.warnings.found.values()] == ["is always 1.5 h ", "is at most 0.5 w"]
    assert monitor.warnings.found == {}


def test_a_figure_beyond_the_threshold_leads(binners: dict[str, Binner]) -> None:
    """The estimate may be fine, and few labels of a shorter window; without predictions the alert is silent."""
    monitor = ModelMonitor(ModelConfig("m"), "1", binners["classes"])
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
    monitor = ModelMonitor(ModelConfig("m"), "1", binners["classes"])
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
    monitor = ModelMonitor(ModelConfig("m"), "1", binner)
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
    monitor = monitor_of(task="regression")
    label(monitor, 50, 60, 1.5, 100)
    assert leading(monitor)[:2] == ("measured", "5m")
    assert leading(monitor).excess == 0
