"""Features that go together differently: seen, and only that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from support.batches import observe

from exporter.config import ModelConfig
from exporter.errors import ProfileError
from exporter.monitoring.binner import Binner
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.profiles.bins import numeric_feature
from exporter.profiles.correlation import MAX_FEATURES, measure_correlation
from exporter.profiles.profile import Correlation, Profile, load, save
from exporter.wire.events import Prediction

Columns = dict[str, npt.NDArray[np.float64]]
NAMES = ("a", "b", "c", "d")
MIX = np.linalg.cholesky(np.array([[1, 0.8, 0.3, 0], [0.8, 1, 0.4, 0], [0.3, 0.4, 1, 0], [0, 0, 0, 1.0]]))
SHAPES = {
    "normal": lambda x: x,
    "log-normal": np.exp,
    "whole numbers": lambda x: np.floor(3 * x),
    "zero-heavy": lambda x: np.maximum(x - 0.3, 0),
}


def draw(rng: np.random.Generator, rows: int, shape: str = "normal") -> Columns:
    return dict(zip(NAMES, SHAPES[shape](MIX @ rng.normal(size=(4, rows))), strict=True))


def profile_of(columns: Columns) -> Profile:
    features: dict[str, Any] = {name: numeric_feature(values) for name, values in columns.items()}
    together = measure_correlation(columns, features)
    inputs = dict.fromkeys(columns, "numeric")
    return Profile("p", len(columns["a"]), inputs, features, correlation=together)


def drift(binner: Binner, columns: Columns) -> tuple[float, float]:
    assert binner.copula is not None
    assert isinstance(binner.profile.correlation, Correlation)
    compared = [name for name in binner.profile.correlation.features if name in binner.names]
    return binner.copula.drift(binner.copula.sums(np.array([columns[name] for name in compared])))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [30, 300])
def test_without_drift_about_one_window_in_a_hundred_passes_its_floor(shape: str, rows: int) -> None:
    """Of 600 windows without drift at most 18 exceed the noise floor: 3%, for a target of 1%."""
    rng = np.random.default_rng(10)
    passed = 0
    for _ in range(6):
        binner = Binner(profile_of(draw(rng, 2000, shape)))
        scores = [drift(binner, draw(rng, rows, shape)) for _ in range(100)]
        passed += sum(score > noise for score, noise in scores)
    assert passed <= 18


@pytest.mark.parametrize("shape", SHAPES)
def test_shuffled_rows_are_detected(shape: str) -> None:
    """With one column in another order every window of 200 exceeds the floor, in the gauges of a monitor too."""
    rng = np.random.default_rng(11)
    binner = Binner(profile_of(draw(rng, 3000, shape)))
    for _ in range(20):
        columns = draw(rng, 200, shape)
        columns["a"] = rng.permutation(columns["a"])
        monitor = ModelMonitor(ModelConfig("m"), "1", binner)
        rows = [dict(zip(NAMES, row, strict=True)) for row in np.array(list(columns.values())).T.tolist()]
        observe(monitor, [Prediction("m")] * 200, rows, 0.0)
        reading = monitor.read(0.0)["1h"]
        assert reading.multivariate[0] > 2 * reading.multivariate[1]
        assert (reading.kl < 0.3).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda x, _: x + x.std(),
        lambda x, _: x - 3 * x.std(),
        lambda x, _: 3.28 * x,
        lambda x, index: np.full(len(x), 0.5) if index == 0 else x,
        lambda x, _: np.where(np.arange(len(x)) % 3, x, np.nan),
    ],
    ids=["shifted", "far down", "feet", "one stuck", "a third missing"],
)
def test_drift_of_single_features_is_not_correlation_drift(change: Any) -> None:
    """A shift, another unit, a stuck sensor, missing values: at most 2 of 40 windows of 300 exceed the floor."""
    rng = np.random.default_rng(12)
    binner = Binner(profile_of(draw(rng, 3000)))
    passed = 0
    for _ in range(40):
        columns = {name: change(values, index) for index, (name, values) in enumerate(draw(rng, 300).items())}
        score, noise = drift(binner, columns)
        passed += score > noise
    assert passed <= 2


def test_unsuitable_columns_are_left_out() -> None:
    """Constant, empty, often missing and nearly constant columns are left out; two to 32 columns are compared."""
    rng = np.random.default_rng(14)
    columns = draw(rng, 1000)
    extra = {
        "constant": np.full(1000, 3.0),
        "empty": np.full(1000, np.nan),
        "gaps": np.where(rng.random(1000) < 0.1, np.nan, rng.normal(size=1000)),
        "rare": np.where(rng.random(1000) < 0.03, 1.0, 0.0),
    }
    correlation = profile_of(columns | extra).correlation
    assert isinstance(correlation, Correlation)
    assert correlation.features == NAMES
    wide = {f"f{number}": rng.normal(size=500) for number in range(40)} | {"a": columns["a"][:500]}
    correlation = profile_of(wide).correlation
    assert isinstance(correlation, Correlation)
    assert len(correlation.features) == MAX_FEATURES
    assert profile_of({"a": columns["a"]}).correlation is None
    assert profile_of({"a": columns["a"][:3], "b": columns["b"][:3]}).correlation is None
    binner = Binner(profile_of({"a": columns["a"]}))
    assert binner.copula is None


def test_a_redacted_feature_is_not_compared() -> None:
    """Without a redacted feature the others are compared as before."""
    rng = np.random.default_rng(15)
    profile = profile_of(draw(rng, 2000))
    binner = Binner(profile, ["b"])
    score, noise = drift(binner, draw(rng, 300))
    assert score < 2 * noise
    columns = draw(rng, 300)
    assert drift(binner, {**columns, "d": columns["a"]})[0] > 5 * noise
    assert Binner(profile, ["a", "b", "c"]).copula is None


def test_a_profile_keeps_its_correlation(tmp_path: Path) -> None:
    """A saved correlation is read back unchanged; a profile without one is as before, including its hash."""
    profile = profile_of(draw(np.random.default_rng(17), 300))
    save(profile, tmp_path / "p.json")
    assert load(tmp_path / "p.json").correlation == profile.correlation
    bare = msgspec.structs.replace(profile, correlation=None)
    assert b"correlation" not in msgspec.json.encode(bare)
    save(bare, tmp_path / "p.json")
    assert load(tmp_path / "p.json").correlation is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": ("a", "z", "c", "d")}, 'correlation.features: "z" is not a numeric feature of the profile'),
        ({"features": ("a", "a", "c", "d")}, "expected 6 numbers for 4 different features, got 6"),
        ({"values": (0.1,)}, "correlation.values: expected 6 numbers for 4 different features, got 1"),
        ({"values": (1.5,) * 6}, "correlation.values[0]: expected a number of at most 1, got 1.5"),
        ({"features": ("a",), "values": ()}, "correlation: expected at least two features"),
    ],
)
def test_an_inconsistent_correlation_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    """An inconsistent profile is refused with the reason."""
    profile = profile_of(draw(np.random.default_rng(18), 300))
    assert isinstance(profile.correlation, Correlation)
    wrong = msgspec.structs.replace(profile.correlation, **change)
    save(msgspec.structs.replace(profile, correlation=wrong), tmp_path / "p.json")
    with pytest.raises(ProfileError) as error:
        load(tmp_path / "p.json")
    assert message in str(error.value)
