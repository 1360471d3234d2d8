from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batches import count, observe

from exporter.config import DURATION_BUCKETS, ModelConfig
from exporter.monitoring.binner import Binner
from exporter.monitoring.counters import Histogram, bucket_quantile, only_bucket
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import IDLE_SECONDS, MAX_OTHERS, MonitorRegistry
from exporter.monitoring.windows import WindowStats
from exporter.profiles.bins import categorical_feature, numeric_feature
from exporter.profiles.profile import Profile
from exporter.stats.divergence import Reference
from exporter.wire.events import LabelledPrediction, Prediction

FINITE = st.floats(-1e12, 1e12)


def binner_of(**columns: object) -> Binner:
    """Numeric features with the given training values; a dict is a categorical one's counts."""
    inputs = {name: "categorical" if isinstance(values, dict) else "numeric" for name, values in columns.items()}
    features = {
        name: categorical_feature(values, 0, 0)
        if isinstance(values, dict)
        else numeric_feature(np.array(values, float))
        for name, values in columns.items()
    }
    return Binner(Profile("p", 1, inputs, features))


def monitor_of(windows: tuple[str, ...] = ("5m", "1h"), threshold: float = 0.8, **columns: object) -> ModelMonitor:
    config = ModelConfig("m", windows=windows, confidence_threshold=threshold)
    return ModelMonitor(config, "1", binner_of(**columns) if columns else None)


def feed(monitor: ModelMonitor, inputs: list[dict], now: float) -> int:
    return observe(monitor, [Prediction("m")] * len(inputs), inputs, now)


def first(reading: WindowStats) -> dict[str, float]:
    """What a window says of the first feature."""
    return {name: float(values[0]) for name, values in vars(reading).items() if name not in {"counts", "recent"}}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(FINITE, min_size=2, max_size=50),
    st.lists(st.tuples(st.floats(0, 500), st.lists(FINITE, min_size=1, max_size=20)), min_size=1, max_size=10),
)
def test_moments_are_those_of_the_values_in_the_window(training, batches):
    """Mean, deviation, minimum and maximum agree with numpy on the raw values of the last 300 s."""
    monitor = monitor_of(("5m",), x=training)
    now = 1000.0
    for age, values in sorted(batches, reverse=True):
        feed(monitor, [{"x": value} for value in values], now - age)
    young = [value for age, values in batches for value in values if age <= 295]
    border = any(295 < age <= 300 for age, _ in batches)
    stats = first(monitor.read(now)["5m"])
    if border:
        return
    if not young:
        assert np.isnan([stats["mean"], stats["stddev"], stats["min"], stats["max"], stats["kl"]]).all()
        return
    spread = max(np.std(training), *(abs(value - np.mean(training)) for value in young), 1e-9)
    assert stats["observations"] == len(young)
    assert (stats["min"], stats["max"]) == (min(young), max(young))
    if 0 < np.ptp(training) * 1e144 < spread:  # cut at 1e145 deviations, so that sums of squares stay finite
        return
    assert stats["mean"] == pytest.approx(np.mean(young), rel=1e-9, abs=1e-9 * spread)
    assert stats["stddev"] == pytest.approx(np.std(young), rel=1e-5, abs=1e-6 * spread)


@pytest.mark.parametrize(
    ("mean", "stddev"), [(1e9, 1), (0, 1), (-1e9, 1e-3), (1e-300, 1e-301), (1e300, 1e299), (5, 1e-9)]
)
def test_moments_keep_their_digits_on_any_scale(mean, stddev):
    """Far from zero, tiny or huge: the moments of live values agree with numpy's to six digits."""
    rng = np.random.default_rng(8)
    monitor = monitor_of(x=rng.normal(mean, stddev, 1000))
    live = rng.normal(mean + stddev, 2 * stddev, 1000)
    for part in np.split(live, 10):
        feed(monitor, [{"x": value} for value in part.tolist()], 5000.0)
    stats = first(monitor.read(5000.0)["1h"])
    scale = abs(live).max()
    assert stats["mean"] == pytest.approx((live / scale).mean() * scale, rel=1e-12, abs=1e-9 * stddev)
    assert stats["stddev"] == pytest.approx((live / scale).std() * scale, rel=1e-5)
    training = monitor.binner.targets[0]
    limit = 1e-15 * abs(mean) / stddev  # of the floats themselves
    assert stats["shift"] == pytest.approx((stats["mean"] - training.mean) / training.stddev, rel=1e-6, abs=limit)


def test_a_stuck_value_has_a_deviation_of_exactly_zero():
    """A constant live value far from training has a deviation of 0 without rounding errors."""
    monitor = monitor_of(x=np.random.default_rng(9).normal(0, 1, 100))
    for step in range(20):
        value, now = 1000.1 + step / 7, step * 1000.0
        feed(monitor, [{"x": value}] * 77, now)
        stats = first(monitor.read(now)["5m"])
        assert stats["stddev"] == 0
        assert stats["mean"] == pytest.approx(value)


def test_the_largest_floats_do_not_affect_others():
    """The largest floats are counted; statistics that exist are reported, without a warning."""
    huge = 1.7976931348623157e308
    monitor = monitor_of(x=[1.0, 2, 3], y=[1.0, 2, 3], z=[huge, -huge, 0])
    feed(monitor, [{"x": huge, "y": 2, "z": -huge}, {"x": -huge, "y": 2, "z": huge}], 0.0)
    reading = monitor.read(0.0)["5m"]
    assert reading.max[0] == huge
    assert reading.min[2] == -huge
    assert reading.mean[1] == 2
    assert reading.unseen[0] == 1


def test_a_constant_training_feature_has_no_shift():
    """Without a training deviation the shift in deviations is NaN; the mean is reported."""
    monitor = monitor_of(x=[5.0] * 9)
    feed(monitor, [{"x": 5}, {"x": 7}], 0.0)
    stats = first(monitor.read(0.0)["5m"])
    assert stats["mean"] == 6
    assert stats["stddev"] == 1
    assert np.isnan(stats["shift"])


def test_shares_are_of_all_observations():
    """Missing, invalid and unseen are shares of all observations, including absent features."""
    monitor = monitor_of(x=np.arange(100.0), country={"NL": 3, "DE": 1})
    inputs = [
        {"x": 1, "country": "NL"},
        {"x": None, "country": "XX"},
        {},
        {"x": "one", "country": 7},
        {"x": 500, "country": None},
    ]
    feed(monitor, inputs, 0.0)
    reading = monitor.read(0.0)["5m"]
    assert reading.observations.tolist() == [5, 5]
    assert reading.missing.tolist() == [0.4, 0.4]
    assert reading.invalid.tolist() == [0.2, 0.2]
    assert reading.unseen.tolist() == [0.2, 0.2]
    assert reading.mean[0] == 250.5
    assert np.isnan(reading.mean[1])
    assert np.isnan(reading.stddev[1])


def test_an_empty_window_is_nan():
    """An empty window is all NaN, beside what training has, and so are moments if every value is missing."""
    monitor = monitor_of(x=np.arange(100.0))
    empty = first(monitor.read(0.0)["5m"])
    assert 0 < empty.pop("reference_missing") < 0.02
    assert all(np.isnan(value) for value in empty.values())
    feed(monitor, [{"x": None}], 0.0)
    stats = first(monitor.read(0.0)["5m"])
    assert (stats["observations"], stats["missing"]) == (1, 1)
    assert np.isnan([stats["mean"], stats["stddev"], stats["min"], stats["max"], stats["shift"]]).all()
    assert stats["kl"] > 0


def test_windows_expire_and_totals_do_not():
    """The short window expires, the long one still has the values, and the totals never decrease."""
    monitor = monitor_of(x=np.arange(100.0))
    feed(monitor, [{"x": 1}] * 4, 0.0)
    feed(monitor, [{"x": 2}], 400.0)
    windows = monitor.read(400.0)
    assert (first(windows["5m"])["observations"], first(windows["1h"])["observations"]) == (1, 5)
    assert all(np.isnan(first(reading)["observations"]) for reading in monitor.read(90_000.0).values())
    assert monitor.observed.sum() == 5


def test_the_score_is_that_of_the_windows_counts():
    """KL and noise are computed from the counts in the window."""
    monitor = monitor_of(x=np.arange(100.0))
    feed(monitor, [{"x": value} for value in range(50)], 0.0)
    stats = first(monitor.read(0.0)["5m"])
    reference = monitor.binner.reference
    assert stats["kl"] == reference.kl_divergence(monitor.observed)[0]
    assert stats["noise"] == reference.noise(np.array([50.0]))[0]


def test_the_recent_divergence_needs_an_earlier_window():
    """Recent KL is absent until values are older than the window, and then compares with those only."""
    monitor = monitor_of(x=np.arange(100.0))
    feed(monitor, [{"x": value % 10} for value in range(200)], 0.0)
    assert np.isnan(first(monitor.read(0.0)["5m"])["recent_kl"])
    feed(monitor, [{"x": 50 + value % 10} for value in range(200)], 500.0)
    stats_by_window = monitor.read(500.0)
    assert first(stats_by_window["5m"])["recent_kl"] > 2
    assert first(stats_by_window["5m"])["recent_kl"] > first(stats_by_window["5m"])["recent_noise"] > 0
    assert np.isnan(first(stats_by_window["1h"])["recent_kl"])
    feed(monitor, [{"x": 50 + value % 10} for value in range(200)], 1000.0)
    later = first(monitor.read(1000.0)["5m"])
    old, new = (count(monitor.binner, [{"x": at + v % 10} for v in range(200)], [])[0][:24] for at in (0, 50))
    assert later["recent_kl"] == pytest.approx(Reference.from_counts(old + new, [24]).kl_divergence(new)[0], rel=1e-12)


def test_the_longest_window_is_compared_with_the_one_before_it():
    """Values that left the longest window are its reference for one more length of it."""
    monitor = monitor_of(("5m", "1h"), x=np.arange(100.0))
    feed(monitor, [{"x": 1}] * 50, 0.0)
    feed(monitor, [{"x": 99}] * 50, 4000.0)
    assert first(monitor.read(4000.0)["1h"])["recent_kl"] > 1
    feed(monitor, [{"x": 99}] * 50, 7300.0)
    assert np.isnan(first(monitor.read(7300.0)["1h"])["recent_kl"])


def test_requests_are_counted_by_code_and_confidence():
    """An event without a code is a 200; confident means at or above the threshold, and no error."""
    monitor = monitor_of(threshold=0.8)
    events = [
        Prediction("m", confidence=0.8), Prediction("m", confidence=0.79), Prediction("m", confidence=0.9, code=503),
        Prediction("m", confidence=0.9, code=404), Prediction("m", confidence=1.0, code=302), Prediction("m", code=200),
        Prediction("m", confidence=0.0, duration_seconds=0.3),
    ]  # fmt: skip
    assert observe(monitor, events, [], 0.0) == 0
    assert monitor.counters.attempts == 7
    assert monitor.counters.requests == {200: 4, 503: 1, 404: 1, 302: 1}
    assert monitor.counters.confident == 2
    assert monitor.confidences.cumulative()[-1] == 6
    assert monitor.durations.cumulative().tolist() == [float(bound >= 0.3) for bound in (*DURATION_BUCKETS, np.inf)]
    assert monitor.read(0.0) == {}


def test_a_threshold_of_zero_requires_a_confidence():
    """At a threshold of zero every confidence counts as confident, but an event without one does not."""
    monitor = monitor_of(threshold=0.0)
    observe(monitor, [Prediction("m"), Prediction("m", confidence=0.0)], [], 0.0)
    assert monitor.counters.confident == 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.floats(0, 20), max_size=10), max_size=5))
def test_a_histogram_counts_at_or_below_its_bounds(batches):
    """Cumulative counts equal a direct count; a value on a bound is included."""
    histogram = Histogram((0.5, 1.0, 10.0))
    for batch in batches:
        histogram.observe(batch)
    values = [value for batch in batches for value in batch]
    expected = [sum(value <= bound for value in values) for bound in (0.5, 1.0, 10.0, np.inf)]
    assert histogram.cumulative().tolist() == expected
    assert histogram.sum == pytest.approx(sum(values))


def test_feedback_and_business_events_are_counted():
    """Verdicts start at zero; a correction is counted separately; a business event adds its value."""
    monitor = monitor_of()
    monitor.count_feedback("corrected", True, 0.0)
    monitor.count_feedback("corrected", False, 0.0)
    monitor.count_event("orders", 2.5)
    monitor.count_event("orders", 1)
    assert monitor.counters.feedback == {"accepted": 0, "corrected": 2, "rejected": 0}
    assert monitor.counters.corrections == 1
    assert monitor.counters.events == {"orders": 3.5}


def monitors_of(max_versions: int, **binners: Binner) -> MonitorRegistry:
    return MonitorRegistry({"m": ModelConfig("m", max_versions=max_versions)}, binners)


def test_versions_past_the_cap_are_other():
    """Beyond the limit a new version is counted as other, a known one under its name, and a missing one as unknown."""
    monitors = monitors_of(3)
    assert [monitors.get("m", version, 0.0).version for version in ("1", None, "", "3", "4", "5", "1", "other")] == [
        "1", "unknown", "unknown", "3", "other", "other", "1", "other",
    ]  # fmt: skip
    assert len(list(monitors)) == 4


def test_a_version_unused_for_a_day_makes_room():
    """After a day the least recently used version is removed; one that was used is kept."""
    monitors = monitors_of(2)
    monitors.get("m", "1", 0.0)
    monitors.get("m", "2", 0.0)
    monitors.get("m", "1", 50_000.0)
    assert monitors.get("m", "3", IDLE_SECONDS).version == "other"
    assert monitors.get("m", "3", IDLE_SECONDS + 1).version == "3"
    assert sorted(monitor.version for monitor in monitors) == ["1", "3", "other"]


def test_the_version_with_the_least_traffic_makes_room():
    """Versions that somebody makes up do not hide a release for a day, and replace nothing that is used."""
    monitors = monitors_of(2)
    monitors.get("m", "1", 0.0, 100)
    for number in range(MAX_OTHERS + 100):
        monitors.get("m", f"junk {number}", 1.0)
    assert [monitors.get("m", "2", 1.0, 2).version for _ in range(2)] == ["other", "2"]
    assert [monitors.get("m", "3", 1.0, events).version for events in (4, 1)] == ["other", "3"]
    assert sorted(monitor.version for monitor in monitors) == ["1", "3", "other"]


def test_feedback_keeps_a_version_in_use():
    """Feedback and business events keep a version in use as requests do."""
    monitors = monitors_of(1)
    for hour in range(48):
        monitors.get("m", "1", hour * 3600.0).count_event("orders", 1)
    assert monitors.get("m", "2", 48 * 3600.0).version == "other"
    assert monitors.get("m", "1", 48 * 3600.0).counters.events == {"orders": 48}


def test_a_reload_keeps_what_did_not_change():
    """State survives a reload of the same model and profile, and is reset when either changed."""
    binner, other = binner_of(x=[1.0, 2]), binner_of(x=[1.0, 3])
    older = monitors_of(5, m=binner)
    older.get("m", "1", 0.0).count_event("orders", 1)
    older.unknown_features["m"] += 7
    same, changed, moved = monitors_of(5, m=binner), monitors_of(6, m=binner), monitors_of(5, m=other)
    for newer in (same, changed, moved):
        newer.adopt(older)
        assert newer.unknown_features["m"] == 7
    assert same.get("m", "1", 1.0).counters.events == {"orders": 1}
    assert changed.get("m", "1", 1.0).counters.events == {"orders": 1}  # only the cap of versions changed


def test_confidences_are_scored_against_those_of_training():
    """The confidence is the last target: its score is that of the live confidences, whatever the inputs."""
    rng = np.random.default_rng(3)
    trained = numeric_feature(rng.beta(8, 2, 2000))
    sides = {"x": numeric_feature(np.arange(100.0))}
    predicted = categorical_feature({"a": 50, "b": 50}, 0, 0)
    for prediction in (predicted, None):
        binner = Binner(Profile("p", 1, {"x": "numeric"}, sides, prediction, confidence=trained))
        assert binner.confidence == len(binner.targets) - 1
        assert (binner.prediction is None) == (prediction is None)
        monitor = ModelMonitor(ModelConfig("m", windows=("5m",)), "1", binner)
        live = rng.beta(2, 2, 300)
        events = [Prediction("m", prediction="a", confidence=float(sure)) for sure in live]
        observe(monitor, [*events, Prediction("m", prediction="b"), Prediction("m")], [{"x": 5}] * 7, 100.0)
        stats = monitor.read(101.0)["5m"]
        assert stats.observations.tolist() == [7.0, *([301.0] if prediction else []), 300.0]
        counts = np.histogram(live, [-np.inf, *trained.edges, np.inf])[0]
        alone = Reference.from_counts(np.array(trained.counts, float), [len(trained.counts)], binner.quantiles)
        assert stats.kl[-1] == pytest.approx(alone.kl_divergence(np.array([*counts, 0.0, 0.0]))[0], rel=1e-12)
        assert stats.kl[-1] > 0.3 > stats.noise[-1] == alone.noise(np.array([300.0]))[0]


def test_outputs_that_are_missing_are_left_out_on_both_sides():
    """Live events as training rows, half of them without prediction and confidence, are no drift of either."""
    classes = categorical_feature({"a": 60, "b": 40}, 100, 0)
    values = [0.6, 0.7, 0.8, 0.9] * 25
    trained = numeric_feature(np.array([*values, *[np.nan] * 100]))
    events = [Prediction("m", prediction="a" if n < 60 else "b", confidence=sure) for n, sure in enumerate(values)]
    events += [Prediction("m")] * 100
    profile = Profile("p", 200, {"x": "numeric"}, {"x": numeric_feature(np.arange(9.0))}, classes, confidence=trained)
    monitor = ModelMonitor(ModelConfig("m", windows=("5m",)), "1", Binner(profile))
    observe(monitor, events, [{"x": 5}], 100.0)
    stats = monitor.read(101.0)["5m"]
    assert (stats.kl[1:] < stats.noise[1:]).all()
    empty = categorical_feature({}, 100, 0)
    assert Binner(Profile("p", 100, {"x": "numeric"}, {"x": numeric_feature(np.arange(9.0))}, empty)).prediction is None


def test_a_profile_without_confidence_has_no_confidence_target():
    """Without training confidences live ones are counted in the histogram only."""
    monitor = monitor_of(x=[1.0, 2.0, 3.0])
    observe(monitor, [Prediction("m", confidence=0.5)], [{"x": 1}], 0.0)
    assert monitor.binner.confidence is None
    assert len(monitor.read(0.0)["5m"].kl) == 1


def test_a_version_may_have_its_own_profile():
    """A version's own profile replaces the model's; a changed one resets that version only, but not what labels say."""
    binner, version_binner, newer = (binner_of(x=[1.0, last]) for last in (2, 3, 4))
    models = {"m": ModelConfig("m")}
    older = MonitorRegistry(models, {"m": binner}, {("m", "2"): version_binner})
    for version in ("1", "2", "3"):
        older.get("m", version, 0.0).count_event("orders", 1)
    assert [older.get("m", version, 0.0).binner for version in ("1", "2", "3")] == [binner, version_binner, binner]
    reloaded = MonitorRegistry(models, {"m": binner}, {("m", "2"): newer, ("m", "4"): version_binner})
    now, unix_time = time.monotonic(), time.time()
    label = LabelledPrediction("m", "2", unix_time - 60, "a", None, None, "a", None, 60.0)
    older.get("m", "2", now).count_labels([label], now, unix_time)
    reloaded.adopt(older)
    assert reloaded.of_model("m")["2"].read_quality(now)["1h"].accuracy.value == 1
    counted = {version: reloaded.get("m", version, 1.0) for version in ("1", "2", "3", "4")}
    assert {v: m.counters.events.get("orders", 0) for v, m in counted.items()} == {"1": 1, "2": 0, "3": 1, "4": 0}
    assert (counted["2"].binner, counted["4"].binner) == (newer, version_binner)
    assert MonitorRegistry(models, {}, {("m", "2"): version_binner}).get("m", "1", 0.0).binner is None


def test_recent_figures_are_of_the_windows_of_their_alerts():
    """Errors are of the last minute, the latency of five, shares of an hour; without anything they are unknown."""
    monitor = monitor_of(threshold=0.8)
    nothing = monitor.recent(0.0)
    assert (nothing.requests, nothing.attempts, nothing.corrections) == (0, 0, 0)
    ratios = (nothing.error_ratio, nothing.latency, nothing.confident_ratio, nothing.correction_ratio)
    assert np.isnan(ratios).all()
    slow = [Prediction("m", confidence=0.9, duration_seconds=0.2, code=503)] * 10
    observe(monitor, slow, [], 10_000.0)
    monitor.count_feedback("corrected", True, 10_000.0)
    observe(monitor, [Prediction("m", confidence=confidence) for confidence in (0.9, 0.1)] * 10, [], 10_030.0)
    now = monitor.recent(10_040.0)
    assert (now.requests, now.error_ratio, now.attempts) == (30, 1 / 3, 30)
    assert 0.1 < now.latency <= 0.25
    assert (now.confident_ratio, now.corrections, now.correction_ratio) == (1 / 3, 1, 0.1)
    minutes = monitor.recent(10_100.0)
    assert minutes.requests == 0
    assert np.isnan(minutes.error_ratio)
    assert minutes.latency == now.latency
    assert np.isnan(monitor.recent(10_400.0).latency)
    assert monitor.recent(13_000.0).correction_ratio == 0.1
    assert np.isnan(monitor.recent(14_000.0).correction_ratio)


@given(st.lists(st.integers(0, 20), min_size=4, max_size=4), st.floats(0.01, 0.99))
def test_quantiles_of_buckets_are_in_the_bucket_that_holds_them(counts, share):
    """A quantile is at least the lower and at most the upper bound of its bucket, as in Prometheus."""
    bounds = (0.1, 0.5, 2.0)
    value = bucket_quantile(bounds, np.array(counts), share)
    total = sum(counts)
    if not total:
        assert np.isnan(value)
        return
    reached = np.cumsum(counts) >= share * total
    bucket = int(reached.argmax())
    edges = (0.0, *bounds, bounds[-1])
    assert edges[bucket] - 1e-9 <= value <= edges[bucket + 1] + 1e-9
    is_only = not any(counts[:bucket]) and bucket < len(bounds)
    assert only_bucket(bounds, np.array(counts), share) == (edges[bucket : bucket + 2] if is_only else None)


@pytest.mark.parametrize("spread", [0.2, 0.5, 1.0])
def test_percentiles_of_latencies_are_close_to_the_true_ones(spread: float) -> None:
    """From 50 ms to 2.5 s, the interpolated percentiles of log-normal latencies are within 10% of the true ones."""
    rng = np.random.default_rng(0)
    for median in np.geomspace(0.03, 2.4, 20):
        values = median * rng.lognormal(0, spread, 20_000)
        counts = np.bincount(np.searchsorted(DURATION_BUCKETS, values), minlength=len(DURATION_BUCKETS) + 1)
        for share in (0.5, 0.95, 0.99):
            true = np.quantile(values, share)
            if 0.05 <= true <= 2.5:
                assert bucket_quantile(DURATION_BUCKETS, counts, share) == pytest.approx(true, rel=0.1)
