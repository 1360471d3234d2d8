"""The distances on request, held against scipy on the very values that were binned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp, wasserstein_distance

from exporter.config import ModelConfig
from exporter.monitoring.binner import Binner
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.window_stats import WindowStats
from exporter.profiles.bin_edges import categorical_feature, numeric_feature
from exporter.profiles.profile import Profile
from exporter.wire.events import Prediction

ALL = ("js", "ks", "psi", "wasserstein")


def read(training: dict[str, object], live: list[dict[str, object]], bins: int = 20) -> WindowStats:
    """What a window of live events says, against numeric training values, or a category's counts."""
    inputs = {name: "categorical" if isinstance(values, dict) else "numeric" for name, values in training.items()}
    features = {
        name: categorical_feature(values, 0, 0)
        if isinstance(values, dict)
        else numeric_feature(np.array(values, float), bins)
        for name, values in training.items()
    }
    monitor = ModelMonitor(ModelConfig("m", windows=("1h",), drift=ALL), "1", Binner(Profile("p", 1, inputs, features)))
    monitor.observe([Prediction("m")] * len(live), live, 0.0)
    return monitor.read(0.0)["1h"]


def columns(**values: np.ndarray) -> list[dict[str, object]]:
    return [dict(zip(values, row, strict=True)) for row in zip(*(v.tolist() for v in values.values()), strict=True)]


SHAPES = {
    "the same": lambda rng, n: rng.normal(50, 10, n),
    "shifted": lambda rng, n: rng.normal(60, 10, n),
    "wider": lambda rng, n: rng.normal(50, 25, n),
    "far above": lambda rng, n: rng.lognormal(6, 0.5, n),
    "far below": lambda rng, n: -rng.lognormal(6, 0.5, n),
    "stuck within": lambda rng, n: np.full(n, 51.7),
    "stuck above": lambda rng, n: np.full(n, 1000.0),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_distances_of_bins_approximate_those_of_values(shape: str) -> None:
    """With 20 bins KS is at most a bin's share below scipy's; Wasserstein is within 1 % one way, 20 % both ways."""
    rng = np.random.default_rng(4)
    training, live = rng.normal(50, 10, 5000), SHAPES[shape](rng, 3000)
    stats = read({"x": training}, columns(x=live))
    exact = wasserstein_distance(training, live) / training.std()
    one_way = shape in {"shifted", "far above", "far below", "stuck above"}
    assert stats.wasserstein[0] == pytest.approx(exact, rel=0.01 if one_way else 0.2, abs=0.001)
    statistic = ks_2samp(training, live, method="asymp").statistic
    assert statistic - 1 / 20 - 0.01 <= stats.ks[0] <= statistic + 1e-9


def test_outliers_on_both_sides_count_halfway_to_the_extremes() -> None:
    """With a few values far below and far above, the distance has the right size, though it is not exact."""
    rng = np.random.default_rng(5)
    training = rng.normal(0, 1, 2000)
    live = np.concatenate([rng.normal(0, 1, 1000), rng.uniform(-80, -40, 50), rng.uniform(30, 90, 50)])
    exact = wasserstein_distance(training, live) / training.std()
    assert read({"x": training}, columns(x=live)).wasserstein[0] == pytest.approx(exact, rel=0.3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=10, max_size=200), st.lists(st.integers(0, 9), min_size=1, max_size=200))
def test_with_a_bin_per_value_the_distances_are_exact(training: list[int], live: list[int]) -> None:
    """With a bin for every value, and live values from training, KS and Wasserstein equal scipy's."""
    live = [value for value in live if value in training] or training[:1]
    stats = read({"x": training}, columns(x=np.array(live, float)), bins=500)
    assert stats.ks[0] == pytest.approx(ks_2samp(training, live, method="asymp").statistic, abs=1e-12)
    if deviation := np.std(training):
        exact = wasserstein_distance(training, live) / deviation
        assert stats.wasserstein[0] == pytest.approx(exact, rel=1e-6, abs=1e-9)
    else:
        assert np.isnan(stats.wasserstein[0])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from("abcdxy"), min_size=1, max_size=100))
def test_distances_of_categories_are_those_of_the_smoothed_shares(live: list[str]) -> None:
    """JS and PSI of categories agree with scipy and with the formula; distances that need an order are absent."""
    training = {"a": 50, "b": 30, "c": 15, "d": 5}
    stats = read({"x": training}, [{"x": value} for value in live])
    r = np.array([50, 30, 15, 5, 0, 0, 0])
    c = np.array([*(live.count(name) for name in "abcd"), live.count("x") + live.count("y"), 0, 0])
    q = (r + 0.5) / (r.sum() + 3.5)
    p = (c + 3.5 * q) / (c.sum() + 3.5)
    assert stats.js[0] == pytest.approx(jensenshannon(p, q) ** 2, rel=1e-9, abs=1e-12)
    assert 0 <= stats.js[0] <= np.log(2)
    assert stats.psi[0] == pytest.approx(((p - q) * np.log(p / q)).sum(), rel=1e-9, abs=1e-12)
    assert np.isnan([stats.ks[0], stats.wasserstein[0]]).all()


def test_a_feature_has_the_same_distances_alone_and_among_others() -> None:
    """Other features of any type, even empty or constant ones, change nothing in a feature's distances."""
    rng = np.random.default_rng(6)
    training = {
        "none": np.full(900, np.nan),
        "a": rng.normal(0, 1, 900),
        "c": {"NL": 5, "DE": 4},
        "k": np.full(900, 3.0),
        "b": rng.exponential(5, 900),
    }
    live = columns(a=rng.normal(1, 1, 300), b=rng.exponential(9, 300), k=np.full(300, 4.0))
    together = read(training, live)
    for index, (name, values) in enumerate(training.items()):
        alone = read({name: values}, live)
        for field in ALL:
            assert getattr(together, field)[index] == pytest.approx(getattr(alone, field)[0], rel=1e-9, nan_ok=True)


def test_distances_of_extreme_numbers_are_finite() -> None:
    """The largest floats do not overflow; without numbers the distances are absent."""
    huge = 1.7e308
    stats = read({"x": [-huge, 0.0, huge], "y": [1.0, 2, 3]}, [{"x": huge, "y": "bad"}, {"x": -huge, "y": None}])
    assert np.isfinite([getattr(stats, field)[0] for field in ALL]).all()
    assert np.isfinite([stats.js[1], stats.psi[1]]).all()
    assert np.isnan([stats.ks[1], stats.wasserstein[1]]).all()


def test_distances_are_computed_on_request_only() -> None:
    """Unless configured, every distance is absent."""
    binner = Binner(Profile("p", 1, {"x": "numeric"}, {"x": numeric_feature(np.arange(9.0))}))
    monitor = ModelMonitor(ModelConfig("m"), "1", binner)
    monitor.observe([Prediction("m")], [{"x": 3}], 0.0)
    reading = monitor.read(0.0)["5m"]
    assert all(np.isnan(getattr(reading, field)).all() for field in ALL)
